"""Optional rewards by dotted path: TRL's signature in, checked tensors out, errors that name the report."""

import math

import numpy as np
import pytest
import torch

from mrg_grpo.errors import UserError
from mrg_grpo.rewards.external import ExternalReward, metric_from_path

MODULE = """
import math
import numpy as np
import torch

def length(completions, reference, **columns):
    return [None if not text else len(text) / len(truth) for text, truth in zip(completions, reference)]

def as_tensor(completions, **columns):
    return torch.arange(len(completions))

def as_numpy(completions, **columns):
    return np.ones(len(completions), dtype=np.float32)

def numpy_items(completions, **columns):
    return [np.float64(0.5)] * len(completions)

def nan(completions, **columns):
    return [math.nan if text == "bad" else 1.0 for text in completions]

def raises(completions, study_id, **columns):
    for text in completions:
        if text == "bad":
            raise KeyError("no such graph")
    return [1.0] * len(completions)

def short(completions, **columns):
    return [1.0]

def text(completions, **columns):
    return ["high"] * len(completions)

def single(completions, **columns):
    return 1.0

async def waits(completions, **columns):
    return [1.0] * len(completions)

class Made:
    def __call__(self, completions, **columns):
        return [2.0] * len(completions)

made = Made()
number = 3
"""
COMPLETIONS = ["one", "bad", "three"]
COLUMNS = {"reference": ["12", "1234", "12"], "study_id": ["a", "b", "c"]}


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    (tmp_path / "plugin_for_test.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)  # found beside the configuration, in the working directory
    monkeypatch.setattr("sys.path", ["/nowhere"])
    return "plugin_for_test"


def test_values_and_none(plugin):
    values, present = ExternalReward(f"{plugin}:length")(["1234", "", "12"], **COLUMNS)
    assert values.tolist() == [2.0, 0.0, 1.0] and present.tolist() == [True, False, True]
    assert values.dtype == torch.float32 and present.dtype == torch.bool


@pytest.mark.parametrize("name,expected", [("as_tensor", [0, 1, 2]), ("as_numpy", [1] * 3), ("numpy_items", [0.5] * 3)])
def test_tensors_and_arrays(plugin, name, expected):
    assert ExternalReward(f"{plugin}.{name}")(COMPLETIONS, **COLUMNS)[0].tolist() == expected


def test_objects_are_callables_too(plugin):
    assert ExternalReward(f"{plugin}:made")(COMPLETIONS)[0].tolist() == [2.0] * 3


@pytest.mark.parametrize(
    "name,message",
    [
        ("nan", r"plugin_for_test:nan returned nan for completion 1 \(study b\)"),
        ("raises", r"plugin_for_test:raises failed on completion 1 \(study b\): KeyError"),
        ("short", "returned 1 scores for 3 completions"),
        ("text", "returned 'high' for completion 0"),
        ("single", "returned float; it must be a list of 3"),
        ("waits", "asynchronous"),
    ],
)
def test_bad_output_names_reward_and_report(plugin, name, message):
    with pytest.raises(UserError, match=message):
        ExternalReward(f"{plugin}:{name}")(COMPLETIONS, **COLUMNS)


@pytest.mark.parametrize(
    "path,message",
    [
        ("no_such_module:f", "cannot import no_such_module"),
        ("{0}:missing", "has no missing"),
        ("{0}:number", "is int, not a function"),
        ("alone", "not a dotted path"),
    ],
)
def test_bad_paths(plugin, path, message):
    with pytest.raises(UserError, match=message):
        ExternalReward(path.format(plugin))


def test_standard_library_paths_resolve():
    assert metric_from_path("math.sqrt") is math.sqrt and metric_from_path("numpy:linalg.norm") is np.linalg.norm

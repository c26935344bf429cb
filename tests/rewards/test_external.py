"""Optional rewards by dotted path: TRL's signature in, checked tensors out, errors that name the report."""

import math
import os
import random

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

def fixed(completions, prompts, reports, reference, study_id, completion_ids):
    return [float(len(reference))] * len(completions)

def as_in_trl(prompts, completions, **kwargs):
    return [float(len(text)) for text in completions]

def reports_alone(reports):
    return [float(len(text)) for text in reports]

def texts_by_place(texts, /, study_id):
    return [float(len(text)) for text in texts]

def anything(*args, **kwargs):
    return [float(len(kwargs))] * len(args[0])

def only_named(*, reports, labels):
    return [float(sum(row)) for row in labels]

def fails_alone(reports):
    return [1.0 / (report != "b") for report in reports]

def pairs(completions, **columns):
    return [np.array([1.0, 2.0]) for _ in completions]

def ones(completions, **columns):
    return [torch.tensor([0.5]) for _ in completions]

def nothing(completions, **columns):
    return [np.array([]) for _ in completions]

def meta(completions, **columns):
    return torch.zeros(len(completions), device="meta")

def sparse(completions, **columns):
    return torch.eye(3)[0].to_sparse()

def huge(completions, **columns):
    return [10**5000] * len(completions)

def square(completions, **columns):
    return np.zeros((len(completions), 2))

def unruly(completions, labels, **columns):
    import os
    import random
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1 + torch.get_num_threads())
    torch.manual_seed(7); random.seed(7); np.random.seed(7)
    os.chdir("/")
    labels[0][0] = 99
    labels.pop(); completions.clear()
    return [1.0, 2.0, 3.0]

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
    monkeypatch.chdir(tmp_path)  # the folder that the command is started from
    monkeypatch.setattr("sys.path", ["/nowhere"])
    return "plugin_for_test"


def test_values_and_none(plugin):
    values, present = ExternalReward(f"{plugin}:length")(["1234", "", "12"], **COLUMNS)
    assert values.tolist() == [2.0, 0.0, 1.0] and present.tolist() == [True, False, True]
    assert values.dtype == torch.float32 and present.dtype == torch.bool


@pytest.mark.parametrize(
    "name,expected", [("as_tensor", [0, 1, 2]), ("as_numpy", [1] * 3), ("numpy_items", [0.5] * 3), ("ones", [0.5] * 3)]
)
def test_tensors_and_arrays(plugin, name, expected):
    assert ExternalReward(f"{plugin}.{name}")(COMPLETIONS, **COLUMNS)[0].tolist() == expected


def test_what_foreign_code_changes_for_the_whole_process_is_put_back(plugin, tmp_path):
    def state():
        drawn = (torch.rand(1).item(), random.random(), np.random.rand())
        return torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads(), os.getcwd(), drawn

    reward, completions, labels = ExternalReward(f"{plugin}:unruly"), list(COMPLETIONS), [[1], [2], [3]]
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    before = state()
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    assert reward(completions, labels=labels)[0].tolist() == [1.0, 2.0, 3.0]
    assert state() == before
    assert completions == COMPLETIONS and labels == [[1], [2], [3]]  # it had copies
    (tmp_path / "unruly_module_for_test.py").write_text("import torch\ntorch.set_grad_enabled(False)\ndef f(x): pass\n")
    metric_from_path("unruly_module_for_test:f")
    assert torch.is_grad_enabled()


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
        ("pairs", r"returned array\(\[1., 2.\]\) for completion 0 \(study a\); it must be a finite number"),
        ("nothing", r"returned array\(\[\]"),
        ("meta", "returned a Tensor that is no list"),
        ("sparse", "returned a Tensor that is no list"),
        ("huge", "returned int that cannot be written for completion 0"),
        ("square", r"returned \[0.0, 0.0\] for completion 0"),
    ],
)
def test_bad_output_names_reward_and_report(plugin, name, message):
    with pytest.raises(UserError, match=message):
        ExternalReward(f"{plugin}:{name}")(COMPLETIONS, **COLUMNS)


EVERY = {
    "prompts": ["q"] * 2, "reports": ["a", "bcd"], "reference": ["x", "y"], "study_id": ["s", "t"],
    "labels": [[1] * 14, [2] * 14], "reference_labels": [[0] * 14] * 2, "images": [["1.png"], []],
    "completion_ids": [[5], [6]],
}  # fmt: skip


@pytest.mark.parametrize(
    "name,expected",
    [
        ("fixed", [2, 2]),  # without **columns: those that it names, so that new columns break no old function
        ("as_in_trl", [5, 5]),  # by name, whatever comes first
        ("reports_alone", [1, 3]),
        ("texts_by_place", [5, 5]),  # a first parameter that is no column
        ("anything", [8, 8]),
        ("only_named", [14, 28]),
    ],
)
def test_columns_are_handed_over_by_name(plugin, name, expected):
    values, _ = ExternalReward(f"{plugin}:{name}")(["first", "other"], **EVERY)
    assert values.tolist() == expected


def test_the_report_on_which_a_function_with_few_columns_fails_is_named(plugin):
    columns = {"reports": ["a", "b"], "labels": [[1] * 14] * 2, "study_id": ["s", "t"]}
    with pytest.raises(UserError, match=r"failed on completion 1 \(study t\): ZeroDivisionError"):
        ExternalReward(f"{plugin}:fails_alone")(["first", "other"], **columns)


def test_a_module_that_is_not_there_names_the_folder_that_is_searched(plugin, tmp_path):
    with pytest.raises(UserError, match=rf"cannot import .*the folder the command is started from, {tmp_path}$"):
        ExternalReward("no_such_module:f")
    (tmp_path / "needs_another_for_test.py").write_text("import no_such_module\n")
    with pytest.raises(UserError) as error:  # that file was found
        ExternalReward("needs_another_for_test:f")
    assert "No module named 'no_such_module'" in str(error.value) and "started from" not in str(error.value)


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

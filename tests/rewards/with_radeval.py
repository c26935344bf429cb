"""The rewards of the field by the real RadEval, on tiny random checkpoints. test_radeval.py runs this file in an
environment that has RadEval: `make .venv-radeval/.done`."""

import math
import sys
import types
from pathlib import Path

import pytest
import torch

import mrg_grpo.rewards.field as field
from mrg_grpo.config import RewardConfig
from mrg_grpo.data.study import Study
from mrg_grpo.rewards import Rewards, require_terms

REFERENCE = "the heart is normal in size. no pleural effusion is seen."
OTHER = "there is mild edema of both lungs. a small nodule is in the left upper lobe."


class Labeler:
    device = torch.device("cpu")

    def label(self, texts):
        return torch.zeros(len(texts), 14, dtype=torch.long)


@pytest.fixture(scope="module", autouse=True)
def radgraph_is_its_own_archive():
    """The weights that RadGraph reads are those of the model that it has just made."""
    import radeval

    sys.modules.setdefault("RadEval", radeval)
    from radeval.metrics.radgraph._vendor import core

    make = core.dygie.DyGIE

    def made(**parts):
        torch.manual_seed(0)
        model = make(**parts)
        for name in ("radgraph", "radgraph-xl"):
            torch.save(model.state_dict(), Path(core.CACHE_DIR) / name / "weights.th")
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "dygie", types.SimpleNamespace(DyGIE=made))
        yield


def scored(name, reports):
    config = RewardConfig(weights={name: 1.0})
    require_terms(config)  # offline: all that it needs is here
    rewards = Rewards(config, Labeler(), think=False)
    studies = [Study("s", (), REFERENCE, "train")]
    texts = [f"<report>{text}</report>" for text in reports]
    return rewards.score(texts, studies, [[0]] * len(reports)).terms[name].tolist()


@pytest.mark.parametrize("name", field.FIELD)
def test_a_term_of_the_field(name):
    metric = field.FIELD[name]
    same, empty, other, again = scored(name, [REFERENCE, "", OTHER, REFERENCE])
    print(name, same, empty, other)
    assert empty == pytest.approx(metric.empty) and math.isfinite(other)
    assert same == pytest.approx(again, abs=1e-5)
    if name == "green":
        assert same == other == 0  # the tiny model finds nothing
    else:
        assert same > other
        assert same == pytest.approx(1.44 if name == "radcliq" else 1.0, abs=0.01)

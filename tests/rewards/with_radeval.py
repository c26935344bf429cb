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
from mrg_grpo.rewards.external import ExternalReward

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


def test_radcliq_knows_the_references_of_the_step():
    """Of two references each word is rarer than of one, and the same call twice gives the same."""
    config = RewardConfig(weights={"radcliq": 1.0})
    rewards = Rewards(config, Labeler(), think=False)
    studies = [Study("s", (), REFERENCE, "train"), Study("t", (), OTHER, "train")]
    texts = [f"<report>{text}</report>" for text in (OTHER, "the heart is small", REFERENCE, OTHER)]
    tables = [rewards.score(texts, studies, [[0]] * 4).terms["radcliq"] for _ in range(3)]
    assert all(torch.allclose(table, tables[0], atol=1e-4) for table in tables)
    assert tables[0][3] == pytest.approx(1.44, abs=0.01) and tables[0][3] > tables[0][2]


def test_the_adapter_in_the_docs():
    """BLEU, which needs no checkpoint, as docs/guides/own-reward.md prints it."""
    reference = ["no pleural effusion is seen today", "mild edema of both lungs is seen"]
    completions = [f"<think>t</think><report>{reference[0]}</report>", "<think>t</think><report>clear</report>"]
    values, present = ExternalReward("radeval_adapter_for_test:radeval_bleu")(
        completions, reports=[reference[0], "clear"], reference=reference, study_id=["a", "b"]
    )
    assert present.all() and values[0].item() == pytest.approx(1.0, abs=1e-3) and values[1].item() < 0.1

"""The RadEval adapter of docs/guides/own-reward.md, run as it is printed there."""

import re
import textwrap
from pathlib import Path

import pytest

from mrg_grpo.rewards.external import ExternalReward

DOCS = Path(__file__).resolve().parents[2] / "docs" / "guides" / "own-reward.md"


def test_the_adapter_in_the_docs(tmp_path, monkeypatch):
    pytest.importorskip("radeval", reason="RadEval is not installed (pip install radeval)")
    block = re.search(r"^    # my_rewards\.py\n((?:    .*\n|\n)+)", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert block is not None
    (tmp_path / "radeval_adapter_for_test.py").write_text(textwrap.dedent(block.group(1)), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    reference = ["no pleural effusion is seen today", "mild edema of both lungs is seen"]
    completions = [f"<think>t</think><report>{reference[0]}</report>", "<think>t</think><report>clear</report>"]
    values, present = ExternalReward("radeval_adapter_for_test:radeval_bleu")(
        completions, reports=[reference[0], "clear"], reference=reference, study_id=["a", "b"]
    )
    assert present.all() and values[0].item() == pytest.approx(1.0, abs=1e-3) and values[1].item() < 0.1

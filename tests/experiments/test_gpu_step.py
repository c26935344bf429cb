"""The steps that are timed on a GPU, on a CPU and a small model: every report runs to the limit, every group trains."""

import sys
from pathlib import Path

import pytest
from hub import flat_config, write_json

from experiments.benchmarks import gpu_step

ROOT = Path(__file__).resolve().parents[2]


def test_a_step_of_a_drawn_model_beside_its_plan(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    write_json(tmp_path / "model" / "config.json", flat_config())
    gpu_step.write_model(tmp_path / "drawn", str(tmp_path / "model"), "cpu")
    config = tmp_path / "small.toml"
    config.write_text(
        f'include = "{ROOT}/experiments/iu_xray.toml"\n[sampling]\nmax_tokens = 8\n'
        "[grpo]\ngroup_size = 2\nstudies_per_step = 2\nmicro_batch = 2\n"
    )
    monkeypatch.setitem(sys.modules, "gpu_step", gpu_step)  # the reward's own path
    row = gpu_step.measure(str(tmp_path / "drawn"), str(config), 2, "cpu")
    assert row["reports"] == 4 and row["report_tokens"] == 8
    assert row["prompt_tokens"] > 2 * 330  # two pictures and the question
    assert row["measured_seconds"]["train"] > 0 and row["planned_gb"] > 0
    assert row["sampling_gap_mean"] < 0.02  # bf16
    assert row["entropy"] == pytest.approx(11.9, abs=0.2)  # drawn weights prefer nothing: ln 151,936


def test_rewards_differ_within_a_group():
    first = gpu_step.luck(["a"] * 4, study_id=["x"] * 4)
    assert len(set(first)) == 4 and first == gpu_step.luck(["a"] * 4, study_id=["x"] * 4)

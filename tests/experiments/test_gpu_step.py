"""The steps that are timed on a GPU, on a CPU and a small model: every report runs to the limit, every group trains."""

from pathlib import Path

import pytest
from hub import flat_config, write_json

from experiments.benchmarks import gpu_step

ROOT = Path(__file__).resolve().parents[2]


def test_a_step_of_a_drawn_model_beside_its_plan(tmp_path):
    (tmp_path / "model").mkdir()
    write_json(tmp_path / "model" / "config.json", flat_config())
    gpu_step.write_model(tmp_path / "drawn", str(tmp_path / "model"), "cpu")
    config = tmp_path / "small.toml"
    config.write_text(
        f'include = "{ROOT}/experiments/iu_xray.toml"\n[sampling]\nmax_tokens = 8\n'
        "[grpo]\ngroup_size = 2\nstudies_per_step = 2\nmicro_batch = 2\n"
    )
    row = gpu_step.measure(str(tmp_path / "drawn"), str(config), ["grpo.beta=0.02"], 2, "cpu")
    assert row["reports"] == 4 and row["report_tokens"] == 8
    assert row["prompt_tokens"] > 2 * 330  # two pictures and the question
    assert row["measured_seconds"]["train"] > 0 and row["planned_gb"] > 0
    assert row["sampling_gap_mean"] < 0.02  # bf16
    assert row["entropy"] == pytest.approx(11.9, abs=0.2)  # drawn weights prefer nothing: ln 151,936


def test_a_row_in_words():
    ours = {"engine": "ours", "config": "x.toml", "changes": ["grpo.group_size=16"], "measured_gb": 50.0,
            "measured_seconds": {"sample": 2.0, "step": 4.0}, "token_ms": 8.0, "traffic_ms": 4.0}  # fmt: skip
    assert gpu_step.line(ours) == (
        "ours x.toml grpo.group_size=16: sample 2.00, step 4.00 s; 50.00 GB; a token 8.0 ms, "
        "of which weights and caches alone 50% (planned traffic)"
    )
    theirs = {**ours, "engine": "trl 1", "ratio": 3.0, "memory_ratio": 0.4}
    assert "our step is 3.00 times as fast, with 0.40 of the memory" in gpu_step.line(theirs)

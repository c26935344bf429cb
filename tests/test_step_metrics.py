"""docs/metrics.md and the run page explain a metric by the same words, and every logged metric has some."""

from mrg_grpo.step_metrics import METRICS, find, table


def test_the_documented_table_is_the_glossarys(request):
    text = (request.config.rootpath / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert table() in text, "docs/metrics.md: put the output of python -m mrg_grpo.step_metrics there"


def test_every_name_that_a_step_logs_is_explained(request):
    source = "".join(
        (request.config.rootpath / "mrg_grpo" / name).read_text() for name in ("step_metrics.py", "objective.py")
    )
    for name in ("reward", "sampling_gap", "groups_without_spread", "memory_gb", "clip_fraction_low", "ratio_mean"):
        assert f'"{name}"' in source and find(name), name
    assert find("reward/mccs") is find("reward/mccs_std") is find("reward/pkg.metric:f")
    assert find("seconds/sample").meaning.startswith("prefill") and find("reward").names == ("reward", "reward_std")
    assert find("nowhere") is None and find("rewards") is None
    assert all(metric.meaning for metric in METRICS)

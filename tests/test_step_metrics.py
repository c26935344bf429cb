"""Every metric that a step logs is explained."""

from mrg_grpo.step_metrics import METRICS, find


def test_every_name_that_a_step_logs_is_explained(request):
    source = "".join(
        (request.config.rootpath / "mrg_grpo" / name).read_text() for name in ("step_metrics.py", "objective.py")
    )
    for name in ("reward", "sampling_gap", "groups_without_spread", "memory_gb", "clip_fraction_low", "ratio_mean"):
        assert f'"{name}"' in source and find(name), name
    assert find("reward/mccs") is find("reward/mccs_std") is find("reward/pkg.metric:f")
    assert find("seconds/sample").meaning.startswith("wall time") and find("reward").names == ("reward", "reward_std")
    assert find("nowhere") is None and find("rewards") is None
    assert all(metric.meaning for metric in METRICS)

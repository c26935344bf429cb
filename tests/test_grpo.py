"""The step: micro-batches and inner passes against plain recomputation, resume to the last bit, and that it learns."""

import copy

import pytest
import torch
from small_grpo import build, parameters, run, setting, step_gradients

from mrg_grpo.model.families import FAMILIES
from mrg_grpo.model.rollout import Rollout, sample_groups
from mrg_grpo.run.checkpoint import find_fault, save_checkpoint, saved_steps
from mrg_grpo.run.checkpoint import resume as load_checkpoint
from mrg_grpo.run.stream import StudyStream


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    return tiny_checkpoint(scale=0.1)


@pytest.mark.parametrize("aggregate", ["sequence", "token", "constant"])
def test_micro_batches_do_not_change_the_step(checkpoint, studies, aggregate):
    ends, metrics = [], []
    for micro in (0, 1, 3):
        grpo = build(setting(checkpoint, micro_batch=micro, aggregate=aggregate, beta=0.1, inner_passes=2))
        metrics.append(run(grpo, studies, 2)[-1].metrics)
        ends.append(parameters(grpo))
    assert (ends[0] - ends[1]).abs().max() < 1e-8 and (ends[0] - ends[2]).abs().max() < 1e-8
    for name in ("loss", "kl", "entropy", "ratio_mean", "clip_fraction_high", "grad_norm"):
        assert abs(metrics[0][name] - metrics[1][name]) < 1e-6, name


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("options", [{"beta": 0.1, "inner_passes": 2, "micro_batch": 3}, {"beta": 0.0}])
def test_studies_in_parts_do_not_change_the_step(tiny_checkpoint, studies, family, options):
    """Prompts of several lengths, so that the parts are padded to other widths; the gradients themselves."""
    config = setting(tiny_checkpoint(scale=0.1, family=family), studies_per_step=5, **options)
    whole, *found = [gradients(config, studies[:5], size) for size in (0, 1, 2, 5)]
    assert whole.abs().max() > 1e-4
    for gradient in found:
        assert (gradient - whole).abs().max() < 1e-13 * max(1.0, whole.abs().max())


def test_studies_in_parts_with_a_tower_that_trains(tiny_checkpoint, studies):
    config = setting(tiny_checkpoint(scale=0.1), studies_per_step=5, beta=0.1)
    config.lora.vision = True
    whole, parts = (gradients(config, studies[:5], size) for size in (0, 2))
    assert (parts - whole).abs().max() < 1e-13 * max(1.0, whole.abs().max())


def gradients(config, studies, studies_per_pass):
    """What the last inner pass of a step leaves in the adapter before the optimiser moves it."""
    config.grpo.studies_per_pass, config.grpo.max_grad_norm = studies_per_pass, 1e9
    return step_gradients(build(config), studies)[0]


def test_what_is_logged_of_tokens_leaves_out_masked_reports(checkpoint, studies):
    """With mask_truncated a report that was cut has no log-probability of training: no gap, and no entropy of 0."""
    config = setting(checkpoint, beta=0.1, group_size=16)
    config.sampling.mask_truncated = True
    config.sampling.max_tokens = 40
    result = run(build(config), studies, 1)[0]
    assert 0 < result.metrics["truncated"] < 1
    assert result.metrics["sampling_gap"] < 1e-4
    config.sampling.mask_truncated = False
    whole = run(build(config), studies, 1)[0].metrics
    assert result.metrics["entropy"] > 0.5 * whole["entropy"]


def test_second_inner_pass_is_clipped_against_the_sampling_policy(checkpoint, studies):
    once = run(build(setting(checkpoint, beta=0.0, inner_passes=1)), studies, 1)[0].metrics
    twice = run(build(setting(checkpoint, beta=0.0, inner_passes=2, warmup=0, learning_rate=0.05)), studies, 1)[
        0
    ].metrics
    assert once["ratio_mean"] == 1.0 and once["clip_fraction_low"] == once["clip_fraction_high"] == 0
    assert twice["ratio_mean"] != 1.0 and twice["clip_fraction_low"] + twice["clip_fraction_high"] > 0


def test_beta_holds_the_policy_near_its_start(checkpoint, studies):
    kl = {}
    for beta in (1e-6, 20.0):
        kl[beta] = run(build(setting(checkpoint, beta=beta)), studies, 12)[-1].metrics["kl"]
    assert kl[20.0] < 0.5 * kl[1e-6]
    first = run(build(setting(checkpoint, beta=0.1)), studies, 1)[0].metrics
    assert abs(first["kl"]) < 1e-12  # the reference is the start policy


def test_it_learns(checkpoint, studies):
    grpo = build(setting(checkpoint, beta=0.0, group_size=16))
    half = set("abcdefghijklm")  # about one character in twenty at the start
    grpo.rewards.terms = {"ccs": lambda r: torch.tensor([sum(c in half for c in text) / 12 for text in r.completions])}
    rewards = [result.metrics["reward"] for result in run(grpo, studies, 30)]
    assert sum(rewards[-5:]) > 1.5 * sum(rewards[:5]), rewards


def test_groups_without_spread_leave_the_policy_where_it_is(checkpoint, studies):
    grpo = build(setting(checkpoint, beta=0.0))
    grpo.rewards.terms = {"ccs": lambda reports: torch.ones(len(reports.completions))}
    before = parameters(grpo)
    result = run(grpo, studies, 1)[0]
    assert result.metrics["groups_without_spread"] == 1.0 and result.metrics["grad_norm"] == 0.0
    assert torch.equal(parameters(grpo), before)


def test_leaving_out_groups_that_teach_nothing_changes_nothing(checkpoint, studies, monkeypatch):
    def flat_first_study(reports):
        first = reports.studies[0].id
        return torch.tensor(
            [0.5 if s.id == first else len(set(t)) / 12 for s, t in zip(reports.studies, reports.texts)]
        )

    ends, plain = [], Rollout.micro_batches
    for whole in (False, True):
        if whole:
            monkeypatch.setattr(
                Rollout, "micro_batches", lambda self, size, group, studies, _: plain(self, size, group, studies)
            )
        grpo = build(setting(checkpoint, beta=0.0, micro_batch=2))
        grpo.rewards.terms = {"ccs": flat_first_study}
        metrics = run(grpo, studies, 1)[0].metrics
        assert metrics["groups_without_spread"] == 0.5 and metrics["grad_norm"] > 0
        ends.append(parameters(grpo))
    assert (ends[0] - ends[1]).abs().max() < 1e-12


def test_a_step_without_spread_is_a_step_of_gradient_zero(checkpoint, studies, monkeypatch):
    """AdamW's moments fade in it as where every group is run again; what no report was run again for is not logged."""
    ends, plain = [], Rollout.micro_batches
    for whole in (False, True):
        if whole:
            monkeypatch.setattr(
                Rollout, "micro_batches", lambda self, size, group, studies, _: plain(self, size, group, studies)
            )
        grpo, asked = build(setting(checkpoint, beta=0.0, warmup=0)), []

        def second_flat(reports, asked=asked):
            asked.append(1)
            return torch.tensor([0.5 if len(asked) == 2 else len(set(text)) / 12 for text in reports.texts])

        grpo.rewards.terms = {"ccs": second_flat}
        results = run(grpo, studies, 3)
        ends.append(parameters(grpo))
        assert {float(state["step"]) for state in grpo.optimizer.state.values()} == {3.0}
        assert ("entropy" in results[1].metrics) == ("ratio_mean" in results[1].metrics) == whole
        assert results[1].metrics["groups_without_spread"] == 1.0 and results[2].metrics["entropy"] > 0
    assert (ends[0] - ends[1]).abs().max() < 1e-9


def test_ratios_of_reports_are_logged_alike_for_any_micro_batch(checkpoint, studies):
    logged = []
    for micro in (0, 1, 3):
        config = setting(checkpoint, micro_batch=micro, ratio="sequence", inner_passes=3, warmup=0, group_size=6,
                         clip_low=1e-3, clip_high=1e-3, beta=0.1)  # fmt: skip
        config.sampling.max_tokens = 40
        logged.append(run(build(config), studies, 1)[0].metrics)
        assert logged[-1]["length_max"] > logged[-1]["length"]  # or a mean over tokens would do
    assert 0 < logged[0]["clip_fraction_high"] < 1
    for name in ("ratio_mean", "clip_fraction_low", "clip_fraction_high", "kl"):
        assert logged[1][name] == pytest.approx(logged[0][name]) == pytest.approx(logged[2][name]), name


def test_sampling_in_parts_gives_the_same_rollout(checkpoint, studies):
    rollouts = []
    for size in (0, 1, 3, 4):
        grpo = build(setting(checkpoint))
        grpo.config.sampling.batch = size
        prompts = grpo.policy.encoder.encode(studies[:2])
        prefix = grpo.policy.prefill(prompts)
        rollouts.append(sample_groups(grpo.policy, prefix, prompts.study_ids, grpo.config, 1))
    for part in rollouts[1:]:
        assert part.texts == rollouts[0].texts and torch.equal(part.tokens, rollouts[0].tokens)
        assert torch.equal(part.finished, rollouts[0].finished) and (part.logps - rollouts[0].logps).abs().max() < 1e-9


def test_blocks_cover_every_report_once_and_know_its_study():
    lengths = torch.tensor([3, 9, 1, 4, 8, 8, 2, 7, 5, 6, 5, 5])
    mask = torch.arange(9) < lengths.unsqueeze(1)
    rollout = Rollout(torch.zeros(12, 9, dtype=torch.long), mask, mask.double(), mask[:, 0], [""] * 12)
    for size in (0, 1, 3, 4, 7, 8, 12):
        blocks = rollout.micro_batches(size, 4)
        assert sorted(torch.cat([block.rows for block in blocks]).tolist()) == list(range(12))
        for block in blocks:
            each = len(block.rows) // len(block.studies)
            assert block.rows.div(4, rounding_mode="floor").tolist() == block.studies.repeat_interleave(each).tolist()
            assert len(block.rows) <= (size or 12) and block.width == lengths[block.rows].max()
    some = rollout.micro_batches(3, 4, teaches=torch.tensor([True, False, True]))
    assert sorted(torch.cat([block.rows for block in some]).tolist()) == [0, 1, 2, 3, 8, 9, 10, 11]
    last = rollout.micro_batches(0, 4, range(1, 3))
    assert sorted(torch.cat([block.rows for block in last]).tolist()) == [4, 5, 6, 7, 8, 9, 10, 11]
    assert torch.cat([block.studies for block in last]).sort().values.tolist() == [0, 1]


def test_resume_is_exact(checkpoint, studies, tmp_path):
    config = setting(checkpoint, dtype="float32", beta=0.05)
    straight = build(config)
    metrics = [result.metrics for result in run(straight, studies, 5)]
    first = build(config)
    run(first, studies, 3)
    save_checkpoint(tmp_path, 3, first.policy, first.optimizer)
    second = build(config)
    state = load_checkpoint(tmp_path, second.policy, second.optimizer)
    assert state.step == 3 and not state.damaged
    resumed = [result.metrics for result in run(second, studies, 5, first=4)]
    assert torch.equal(parameters(straight), parameters(second))
    for a, b in zip(metrics[3:], resumed):
        timeless = [name for name in a if not name.startswith(("seconds", "memory"))]
        assert {n: a[n] for n in timeless} == {n: b[n] for n in timeless}
    one, two = straight.optimizer.state_dict()["state"], second.optimizer.state_dict()["state"]
    assert all(torch.equal(one[k][name], two[k][name]) for k in one for name in one[k])


def test_a_damaged_checkpoint_is_named_and_passed_over(checkpoint, studies, tmp_path):
    grpo = build(setting(checkpoint))
    for step in (1, 2, 3):
        run(grpo, studies, step, first=step)
        save_checkpoint(tmp_path, step, grpo.policy, grpo.optimizer)
    assert [folder.name for folder in saved_steps(tmp_path)] == ["step-000002", "step-000003"]
    good = tmp_path / "checkpoints" / "step-000002"
    bad = tmp_path / "checkpoints" / "step-000003" / "state.pt"
    bad.write_bytes(bad.read_bytes()[:-100])
    state = load_checkpoint(tmp_path, grpo.policy, grpo.optimizer)
    assert state.step == 2 and "state.pt is damaged" in state.damaged[0] and find_fault(good) is None


def test_stream_is_a_permutation_per_epoch_and_seekable(studies):
    stream = StudyStream(studies, 4, seed=3)
    seen = [study.id for step in range(1, 7) for study in stream.batch(step)]
    for epoch in range(4):
        assert sorted(seen[6 * epoch : 6 * epoch + 6]) == sorted(study.id for study in studies)
    assert seen[:6] != seen[6:12]
    assert [study.id for study in StudyStream(studies, 4, seed=3).batch(5)] == seen[16:20]
    assert copy.copy(seen) != [s.id for step in range(1, 7) for s in StudyStream(studies, 4, seed=4).batch(step)]

"""Groups without spread replaced: against a plain step on what is left, on ranks, and with lost pictures."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from many import on_ranks
from small_grpo import build, parameters, setting, step_gradients

from mrg_grpo import distributed
from mrg_grpo.objective import without_spread
from mrg_grpo.run.checkpoint import resume as load_checkpoint
from mrg_grpo.run.checkpoint import save_checkpoint
from mrg_grpo.run.faults import Guard
from mrg_grpo.run.stream import StudyStream

ROUNDS = 2


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    return tiny_checkpoint(scale=0.1)


@pytest.fixture(scope="module")
def many(studies):
    """Forty studies of the same pictures under other names."""
    return [replace(studies[n % len(studies)], id=f"study-{n:02}") for n in range(40)]


def graded(grpo, flat):
    """Rewards for letters, and the same for every report of a study of `flat`."""
    grpo.rewards.terms = {
        "ccs": lambda reports: torch.tensor(
            [0.5 if s.id in flat else len(set(t)) / 12 for s, t in zip(reports.studies, reports.completions)]
        )
    }
    return grpo


def resampled(grpo, studies, size, step=1):
    """A step with replacement -> gradient of its last pass, and its result."""
    stream, found, move = StudyStream(studies, size, seed=0), [], grpo.optimizer.step
    grpo.optimizer.step = lambda: (found.append([p.grad.flatten().clone() for p in grpo.policy.trainable()]), move())
    loaded = next(stream.prompts(grpo.policy.encoder, step, step))[1]
    result = grpo.step(loaded.prompts, step, partial(stream.spares, step, grpo.config.grpo.resample_flat))
    return torch.cat(found[-1]), result


def ids(result):
    own = [study.id for study in result.table.reports.studies[:: result.advantages.shape[1]]]
    return own[: len(own) - result.filler]


def test_other_studies_are_not_of_the_step_and_each_round_has_its_own(many):
    stream = StudyStream(many, 3, seed=5)
    for step in (1, 2, 9):
        rounds = [[study.id for study in stream.spares(step, ROUNDS, turn, 3)] for turn in range(ROUNDS)]
        main = {study.id for study in stream.batch(step)}
        both = [study for own in rounds for study in own]
        assert len(set(both)) == len(both) >= 3 and not main & set(both)
        again = StudyStream(many, 3, seed=5)
        assert [study.id for study in again.spares(step, ROUNDS, 0, 2)] == rounds[0][:2]
    assert StudyStream(many[:3], 3, seed=5).spares(1, ROUNDS, 0, 3) == []  # all are in the step


@pytest.mark.parametrize(
    "options", [{"beta": 0.0}, {"beta": 0.1, "inner_passes": 2, "micro_batch": 3, "studies_per_pass": 2}]
)
def test_the_step_is_that_of_the_studies_that_are_left(checkpoint, many, options):
    """By hand: sample each study alone, go through the rounds, and take a plain step on what is left."""
    size = 4
    config = setting(checkpoint, studies_per_step=size, resample_flat=ROUNDS, max_grad_norm=1e9, **options)
    stream = StudyStream(many, size, seed=0)
    main = [study.id for study in stream.batch(1)]
    first, second = ([study.id for study in stream.spares(1, ROUNDS, turn, 3)] for turn in range(ROUNDS))
    flat = {main[0], main[1], main[3], first[0], first[2], second[1]}
    # round 1 offers three: the second of them has spread and takes main[1]'s place; round 2 offers two for the others
    left = [second[0], first[1], main[2], main[3]]

    gradient, result = resampled(graded(build(config), flat), many, size)
    assert sorted(ids(result)) == sorted(left)
    assert result.metrics["replaced"] == 2 and result.metrics["sampled"] == (4 + 3 + 2) * 4
    assert result.metrics["groups_without_spread"] == 0.25
    by_id = {study.id: study for study in many}
    config.grpo.resample_flat = 0
    plain, whole = step_gradients(graded(build(config), flat), [by_id[study] for study in ids(result)])
    assert result.rollout.texts == whole.rollout.texts and torch.equal(result.advantages, whole.advantages)
    assert (gradient - plain).abs().max() < 1e-13 * max(1.0, plain.abs().max()) and plain.abs().max() > 1e-4


def test_a_step_whose_groups_all_have_spread_is_the_plain_one(checkpoint, many):
    config = setting(checkpoint, studies_per_step=3, resample_flat=ROUNDS)
    gradient, result = resampled(graded(build(config), set()), many, 3)
    plain, _ = step_gradients(graded(build(config), set()), StudyStream(many, 3, seed=0).batch(1))
    assert torch.equal(gradient, plain) and result.metrics["replaced"] == 0 and result.metrics["sampled"] == 12


def test_all_of_a_step_can_be_replaced(checkpoint, many):
    config = setting(checkpoint, studies_per_step=3, resample_flat=1)
    stream = StudyStream(many, 3, seed=0)
    _, result = resampled(graded(build(config), {study.id for study in stream.batch(1)}), many, 3)
    assert ids(result) == [study.id for study in stream.spares(1, 1, 0, 3)]
    assert result.metrics["groups_without_spread"] == 0 and result.metrics["replaced"] == 3


def test_a_spare_study_whose_picture_is_gone_is_left_out(checkpoint, many):
    config = setting(checkpoint, studies_per_step=3, resample_flat=1)
    stream = StudyStream(many, 3, seed=0)
    spare = [study.id for study in stream.spares(1, 1, 0, 3)]
    broken = [replace(study, images=("gone.png",)) if study.id == spare[1] else study for study in many]
    _, result = resampled(graded(build(config), {study.id for study in stream.batch(1)}), broken, 3)
    assert list(result.unread) == [spare[1]] and "gone.png" in str(result.unread[spare[1]])
    assert set(ids(result)) >= {spare[0], spare[2]} and result.metrics["replaced"] == 2
    assert result.metrics["sampled"] == (3 + 2) * 4


def on_this_rank(config, studies, flat):
    """A step with replacement -> parameters, metrics, and the studies of this rank that count."""
    grpo = graded(build(config), flat)
    _, result = resampled(grpo, studies, config.grpo.studies_per_step)
    timeless = {name: x for name, x in result.metrics.items() if not name.startswith(("seconds", "memory"))}
    return parameters(grpo), timeless, ids(result), distributed.rank()


@pytest.mark.parametrize("size", [4, 3])
def test_two_ranks_take_the_step_of_one(checkpoint, many, tmp_path, size):
    config = setting(checkpoint, studies_per_step=size, resample_flat=ROUNDS, beta=0.1, scale="batch")
    stream = StudyStream(many, size, seed=0)
    main = [study.id for study in stream.batch(1)]
    first = [study.id for study in stream.spares(1, ROUNDS, 0, size)]
    flat = {main[0], main[-1], first[0]}
    one = on_this_rank(config, many, flat)
    found = on_ranks(2, tmp_path, on_this_rank, config, many, flat)
    assert one[1]["replaced"] == 2
    for moved, metrics, _, _ in found:
        assert (moved - one[0]).abs().max() < 1e-9
        assert metrics == pytest.approx(one[1], rel=1e-5, abs=1e-5)
    assert sorted(study for _, _, own, _ in found for study in own) == sorted(one[2])


def test_without_spread_is_where_the_largest_is_the_smallest():
    rewards = torch.tensor([[0.1, 0.1, 0.1], [0.1, 0.1, 0.2], [-0.0, 0.0, 0.0]])
    assert without_spread(rewards).tolist() == [True, False, True]


def test_a_run_that_goes_on_takes_the_same_steps(checkpoint, many, tmp_path):
    """Of three steps the last after a checkpoint and in another process's place: to the last bit."""
    flat = {study.id for study in many[::3]}
    config = setting(checkpoint, studies_per_step=4, resample_flat=ROUNDS, beta=0.1)
    whole, first, second = (graded(build(config), flat) for _ in range(3))
    results = [resampled(whole, many, 4, step)[1] for step in (1, 2, 3)]
    for step in (1, 2):
        resampled(first, many, 4, step)
    save_checkpoint(tmp_path, 2, first.policy, first.optimizer)
    load_checkpoint(tmp_path, second.policy, second.optimizer)
    last = resampled(second, many, 4, 3)[1]
    assert sum(result.metrics["replaced"] for result in results) > 2
    assert torch.equal(parameters(second), parameters(whole)) and ids(last) == ids(results[-1])


def test_the_file_of_a_skipped_step_names_the_studies_that_were_trained_on(checkpoint, many, tmp_path):
    config = setting(checkpoint, studies_per_step=3, resample_flat=1)
    stream = StudyStream(many, 3, seed=0)
    flat = {stream.batch(1)[1].id}
    left = ids(resampled(graded(build(config), flat), many, 3)[1])
    grpo = graded(build(config), flat)
    plain = grpo.policy.logprobs
    grpo.policy.logprobs = lambda *given: tuple(x * torch.nan for x in plain(*given))
    guard = Guard(tmp_path, config, grpo.policy, grpo.optimizer)
    loaded = next(stream.prompts(grpo.policy.encoder, 1, 1))[1]

    def step(number, prompts):
        return grpo.step(prompts, number, partial(stream.spares, number, 1)).metrics, None

    assert guard.attempt(step, 1, loaded.prompts)[0] == {"skipped": 1.0}
    fault = torch.load(tmp_path / "faults" / "step-000001.pt", weights_only=True)
    assert fault["study_ids"] == left != [study.id for study in stream.batch(1)]
    assert len(fault["tokens"]) == 3 * 4


def test_terms_are_normalised_apart_over_all_ranks(checkpoint, many, tmp_path):
    """By the sum every group would have spread; by the terms those whose own terms do not differ have none."""
    config = setting(checkpoint, studies_per_step=4, resample_flat=1, beta=0.1, normalise="terms")
    config.reward.weights = {"ccs": 0.5, "format": 0.5}
    stream = StudyStream(many, 4, seed=0)
    flat = {stream.batch(1)[1].id}
    one = two_terms(config, many, flat)
    assert one[1]["replaced"] == 1 and one[1]["groups_without_spread"] == 0
    for moved, metrics, _, _ in on_ranks(2, tmp_path, two_terms, config, many, flat):
        assert (moved - one[0]).abs().max() < 1e-9 and metrics == pytest.approx(one[1], rel=1e-5, abs=1e-5)
    config.grpo.normalise = "sum"
    assert (two_terms(config, many, flat)[0] - one[0]).abs().max() > 1e-4


def two_terms(config, studies, flat):
    grpo = graded(build(config), flat)
    grpo.rewards.terms["format"] = lambda reports: torch.tensor(
        [0.0 if study.id in flat else float(len(text) % 3) for study, text in zip(reports.studies, reports.completions)]
    )
    _, result = resampled(grpo, studies, config.grpo.studies_per_step)
    timeless = {name: x for name, x in result.metrics.items() if not name.startswith(("seconds", "memory"))}
    return parameters(grpo), timeless, ids(result), distributed.rank()

"""Many ranks: the same steps as one process, evaluation in its order, and no rank that outlives another."""

import pytest
import test_grpo
import torch
from many import on_ranks
from test_grpo import build, parameters, setting
from tiny import write_checkpoint

from mrg_grpo import ranks, rollout
from mrg_grpo.evaluate import judge, predict
from mrg_grpo.shards import bytes_here
from mrg_grpo.stream import StudyStream

studies = test_grpo.studies  # the fixture


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("tiny"), scale=0.1)


def three_steps(config, studies, stops=()):
    """Three steps -> parameters, the gradient of each pass summed over ranks, metrics, bytes of parameters here.

    stops: token ids that end a report too, so that many are short and those of one rank end before another's.
    """
    grpo, gradients, plain = build(config), [], ranks.reduce_gradients
    grpo.policy.stop_ids += stops
    grpo.rewards.terms = {"ccs": lambda reports: torch.tensor([len(set(text)) / 12 for text in reports.completions])}

    def reduce_and_keep(own):
        plain(own)
        gradients.append(torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in own]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "reduce_gradients", reduce_and_keep)
        patch.setattr(rollout, "CHECK_EVERY", 2)
        stream = StudyStream(studies, config.grpo.studies_per_step, seed=0)
        steps = [grpo.step(prompts, number) for number, prompts in stream.prompts(grpo.policy.encoder, 1, 3)]
    return parameters(grpo), gradients, [step.metrics for step in steps], bytes_here(grpo.policy.model)


def timeless(metrics):
    return {name: value for name, value in metrics.items() if not name.startswith(("seconds", "memory"))}


def assert_same(one, many, grad=1e-9, moved=1e-9):
    for parameters_, gradients, metrics, _ in many:
        assert (parameters_ - one[0]).abs().max() < moved
        for ours, whole in zip(gradients, one[1], strict=True):
            assert (ours - whole).norm() <= grad * whole.norm() and whole.norm() > 0
        for ours, whole in zip(metrics, one[2], strict=True):
            assert timeless(ours) == pytest.approx(timeless(whole), rel=1e4 * moved, abs=1e4 * moved)
        assert torch.equal(parameters_, many[0][0])  # to the last bit: nothing but the gradient is ever sent


CASES = {
    "even": {"studies_per_step": 4, "beta": 0.1},
    "uneven, parts of groups, two passes, by tokens": {
        "studies_per_step": 3, "beta": 0.1, "inner_passes": 2, "aggregate": "token", "micro_batch": 3,
    },
    "a rank with none, spread of the batch": {"studies_per_step": 1, "beta": 0.0, "scale": "batch"},
    "uneven, spread of the batch": {"studies_per_step": 5, "beta": 0.0, "scale": "batch", "aggregate": "constant"},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_take_the_steps_of_one(checkpoint, studies, tmp_path, case):
    config = setting(checkpoint, **CASES[case])
    assert_same(three_steps(config, studies), on_ranks(2, tmp_path, three_steps, config, studies))


def test_in_fp32_the_gradients_agree(checkpoint, studies, tmp_path):
    """The same three steps from the same state: Adam's first steps would turn a last bit into a sign."""
    config = setting(checkpoint, "float32", studies_per_step=3, learning_rate=1e-12)
    one, two = three_steps(config, studies), on_ranks(2, tmp_path, three_steps, config, studies)
    assert_same(one, two, grad=1e-5, moved=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_four_ranks_take_the_steps_of_one(checkpoint, studies, tmp_path, case):
    config = setting(checkpoint, **CASES[case])
    assert_same(three_steps(config, studies), on_ranks(4, tmp_path, three_steps, config, studies))


# ---- a base in shards


def in_shards(config, yes=True):
    config.model.shard = yes
    return config


STOPS = range(0, 256, 3)


@pytest.mark.parametrize("case", list(CASES)[1:3])
def test_a_base_in_shards_takes_the_same_steps(checkpoint, studies, tmp_path, case):
    config = setting(checkpoint, **CASES[case])
    one = three_steps(config, studies, STOPS)
    two = on_ranks(2, tmp_path, three_steps, in_shards(config), studies, STOPS)
    assert_same(one, two)
    assert min(metrics["length"] for metrics in one[2]) < 6  # and the ranks' reports ended at different tokens
    whole = sum(one[3].values())
    for *_, sizes in two:
        layers = 2 * sizes["sharded"] + sizes["whole"] - whole  # what FSDP pads, and nothing else, is more
        assert 0 <= layers < 0.01 * whole and sizes["sharded"] > 0.3 * whole


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "gemma3"])
def test_every_family_runs_in_shards(studies, tmp_path, family):
    config = setting(write_checkpoint(tmp_path / "tiny", scale=0.1, family=family), **CASES["even"])
    one = three_steps(config, studies, STOPS)
    assert_same(one, on_ranks(2, tmp_path, three_steps, in_shards(config), studies, STOPS))


# ---- evaluation


def judged(config, studies):
    grpo = build(config)
    grpo.policy.stop_ids += STOPS
    result = judge(predict(grpo.policy, studies, config), test_grpo.LetterLabeler(), config)
    return result.predictions.generated, result.labels, result.statistics


@pytest.mark.parametrize("world, shard", [(2, True), pytest.param(4, False, marks=pytest.mark.slow)])
def test_evaluation_on_ranks_is_that_of_one_process(checkpoint, studies, tmp_path, world, shard):
    config = setting(checkpoint)
    config.run.decode_batch, config.sampling.max_tokens = 2, 24
    one = judged(config, studies[:5])
    assert len(set(one[0])) > 1
    for many in on_ranks(world, tmp_path, judged, in_shards(config, shard), studies[:5]):
        assert many[0] == one[0] and torch.equal(many[1], one[1]) and torch.equal(many[2], one[2])


# ---- shares


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_shares_put_together_are_the_list(monkeypatch, world, count):
    monkeypatch.setattr(ranks, "world", lambda: world)
    together, sizes = [], set()
    for rank in range(world):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        own = ranks.share(range(count))
        sizes.add(len(own.items))
        counted = own.items[: len(own.items) - own.spare]
        together += counted
        whole = torch.arange(count, dtype=torch.float64) + 1
        assert ranks.own_rows(whole, len(own.items)).tolist() == [i + 1 for i in counted] + [0] * own.spare
        assert ranks.share([]).items == []
    assert together == list(range(count)) and len(sizes) == 1

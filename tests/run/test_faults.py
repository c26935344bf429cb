"""Steps whose numbers are not finite: nothing moves, the file reproduces them, and too many in a row end the run."""

import json
import math

import pytest
import torch
from small_grpo import build, parameters, setting

from mrg_grpo import objective
from mrg_grpo.cli import main
from mrg_grpo.config import Config, load_config
from mrg_grpo.data.study import Study
from mrg_grpo.distributed import require_finite
from mrg_grpo.errors import NotFiniteError, UserError
from mrg_grpo.run.checkpoint import saved_steps
from mrg_grpo.run.faults import LIMIT, Guard, skipped_last
from mrg_grpo.run.replay import replay
from mrg_grpo.run.rewards_of import RARITY
from mrg_grpo.train import train

SMALL = [
    "run.test_studies=2", "grpo.studies_per_step=2", "grpo.group_size=4", "sampling.max_tokens=24", "run.eval_every=0",
    "run.follow_studies=0", "run.save_every=2", "run.rollouts_every=1", "grpo.decay=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint):
    return tiny_checkpoint(scale=0.1)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    from PIL import Image

    path = tmp_path_factory.mktemp("image") / "x.png"
    Image.effect_noise((56, 56), 60).convert("RGB").save(path)
    return Study("s0", (str(path),), "aei ou", "train")


def nan_weight(grpo, patch):
    next(iter(grpo.policy.trainable())).data[0, 0] = math.nan


def infinite_reward(grpo, patch):
    grpo.rewards.terms = {"ccs": lambda reports: torch.tensor([0.0, math.inf, 0.5, 1.0])}


def nan_of_our_own_term(grpo, patch):
    grpo.rewards.terms = {"ccs": lambda reports: torch.tensor([0.0, math.nan, 0.5, 1.0])}


def nan_loss(grpo, patch):
    def loss(*arguments, **more):
        value, metrics = objective.grpo_loss(*arguments, **more)
        return value * math.nan, metrics

    patch.setattr("mrg_grpo.grpo.grpo_loss", loss)


def infinite_gradient(grpo, patch):
    grpo.policy.trainable()[3].register_hook(lambda gradient: gradient * math.inf)


CAUSES = {
    nan_weight: "sampling logits",
    infinite_reward: "rewards",
    nan_of_our_own_term: "rewards",
    nan_loss: "loss",
    infinite_gradient: "gradient",
}


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.__name__)
@pytest.mark.parametrize("passes", [1, 2])
def test_a_step_that_is_not_finite_moves_nothing_and_names_the_first(checkpoint, study, tmp_path, cause, passes):
    grpo = build(setting(checkpoint, studies_per_step=1, inner_passes=passes, beta=0.05))
    prompts = grpo.policy.encoder.encode([study])
    guard = Guard(tmp_path, grpo.config, grpo.policy, grpo.optimizer)
    step = lambda number, prompts: (grpo.step(prompts, number).metrics, None)  # noqa: E731
    assert guard.attempt(step, 1, prompts)[0]["skipped"] == 0.0
    with pytest.MonkeyPatch.context() as patch:
        cause(grpo, patch)
        before, optimizer = parameters(grpo), grpo.optimizer.state_dict()["state"][0]["exp_avg"].clone()
        assert guard.attempt(step, 2, prompts) == ({"skipped": 1.0}, None)
    assert torch.equal(parameters(grpo).nan_to_num(), before.nan_to_num())
    assert torch.equal(grpo.optimizer.state_dict()["state"][0]["exp_avg"], optimizer)
    assert all(p.grad is None for p in grpo.policy.trainable())
    fault = torch.load(tmp_path / "faults" / "step-000002.pt", weights_only=True)
    assert fault["not_finite"][0] == CAUSES[cause] and fault["step"] == 2 and fault["study_ids"] == ["s0"]
    assert fault["tokens"].shape == fault["mask"].shape and len(fault["rewards"]["ccs"]) == 4


def test_a_fault_of_a_later_inner_pass_undoes_the_earlier_one(checkpoint, study, tmp_path, monkeypatch):
    grpo = build(setting(checkpoint, studies_per_step=1, inner_passes=3))
    prompts, calls = grpo.policy.encoder.encode([study]), []
    guard = Guard(tmp_path, grpo.config, grpo.policy, grpo.optimizer)
    plain = grpo.policy.backward

    def third_time_infinite(prefix):
        plain(prefix)
        calls.append(len(calls))
        if len(calls) == 3:
            grpo.policy.trainable()[0].grad[0, 0] = math.inf

    monkeypatch.setattr(grpo.policy, "backward", third_time_infinite)
    before = parameters(grpo)
    assert guard.attempt(lambda n, p: (grpo.step(p, n).metrics, None), 1, prompts)[0] == {"skipped": 1.0}
    assert calls == [0, 1, 2] and torch.equal(parameters(grpo), before) and not grpo.optimizer.state_dict()["state"]


def test_require_finite_names_in_the_order_of_the_step():
    require_finite({"a": torch.zeros(2), "b": torch.ones(3, 2)})
    with pytest.raises(NotFiniteError, match="b, c not finite") as caught:
        require_finite(
            {"a": torch.zeros(2), "b": torch.tensor([1.0, -math.inf]), "c": torch.tensor(math.nan)}, {"e": 1}
        )
    assert caught.value.names == ["b", "c"] and caught.value.evidence == {"e": 1}


def small(request, folder, steps, *more) -> Config:
    root = request.config.rootpath
    settings = [*SMALL, f"run.output_dir={folder}", f"run.steps={steps}", *more]
    return load_config(root / "experiments" / "phantom.toml", settings)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


OVERFLOW = ("grpo.scale='none'", "reward.weights={ rouge_l = 2e38 }", "grpo.beta=0")
"""Rewards that fp32 holds, and a gradient that it does not."""


def test_five_in_a_row_end_the_run_and_each_file_reproduces_its_step(request, tmp_path, capsys):
    config = small(request, tmp_path / "run", 9, *OVERFLOW)
    with pytest.raises(UserError, match=r"5 steps in a row up to step 5 were not finite .*step-000005.pt"):
        train(config)
    run = tmp_path / "run"
    assert lines(run / "metrics.jsonl") == [{"step": n, "skipped": 1.0} for n in range(1, LIMIT)]
    assert "step 1 skipped" in capsys.readouterr().out
    result = replay(run / "faults" / "step-000003.pt")
    assert result.step == 3 and result.now == result.then and result.now and result.same_tokens
    assert main(["replay", str(run / "faults" / "step-000003.pt")]) == 0
    assert "the sampled tokens are the same" in capsys.readouterr().out
    assert not (run / "checkpoints").exists() and skipped_last(run / "metrics.jsonl") == 4
    with pytest.raises(UserError, match="5 steps in a row up to step 5"):
        train(config, resume=True)
    assert main(["view", str(run), "--plain"]) == 0


def test_skipped_steps_write_no_checkpoint_over_those_before_them(request, tmp_path, monkeypatch):
    """The last step that could be taken may have done the harm: the checkpoint before it must still be there."""
    from mrg_grpo.grpo import Grpo

    plain = Grpo.update

    def infinite_from_three(self, number, *more):
        if number > 2:
            self.policy.trainable()[0].grad[0, 0] = math.inf
        return plain(self, number, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Grpo, "update", infinite_from_three)
        with pytest.raises(UserError, match=r"up to step 7 .*from the adapter of the older one"):
            train(small(request, tmp_path, 9, "run.save_every=1"))
    assert [path.name for path in saved_steps(tmp_path)] == ["step-000001", "step-000002"]
    assert train(small(request, tmp_path, 3, "run.save_every=1"), resume=True) == 0  # the machine was at fault
    assert saved_steps(tmp_path)[-1].name == "step-000003"


@pytest.mark.slow
def test_a_run_goes_on_after_a_skipped_step_and_resumes_exactly(request, tmp_path, monkeypatch):
    from mrg_grpo.grpo import Grpo

    plain = Grpo.update

    def infinite_at_two(self, number, *more):
        if number == 2:
            self.policy.trainable()[0].grad[0, 0] = math.inf
        return plain(self, number, *more)

    monkeypatch.setattr(Grpo, "update", infinite_at_two)
    assert train(small(request, tmp_path / "whole", 4)) == 0
    assert train(small(request, tmp_path / "cut", 2)) == 0
    assert train(small(request, tmp_path / "cut", 4), resume=True) == 0
    metrics = lines(tmp_path / "whole" / "metrics.jsonl")
    assert [record["skipped"] for record in metrics] == [0, 1, 0, 0] and set(metrics[1]) == {"step", "skipped"}
    names = ("adapter_model.safetensors", "adapter_config.json")
    for name in names:
        assert (tmp_path / "whole" / "adapter" / name).read_bytes() == (
            tmp_path / "cut" / "adapter" / name
        ).read_bytes()
    assert replay(tmp_path / "whole" / "faults" / "step-000002.pt").now == ["gradient"]
    monkeypatch.undo()
    assert replay(tmp_path / "whole" / "faults" / "step-000002.pt").now == []  # the cause lay outside of the state


def test_without_texts_the_file_has_no_tokens(request, tmp_path):
    config = small(request, tmp_path / "run", 9, *OVERFLOW, "run.keep_text=false")
    with pytest.raises(UserError, match="5 steps in a row"):
        train(config)
    path = tmp_path / "run" / "faults" / "step-000001.pt"
    assert "tokens" not in torch.load(path, weights_only=True)
    assert replay(path).now and replay(path).same_tokens is None


def test_a_replay_takes_the_rarity_weights_of_its_run(request, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "mrg_grpo.run.rewards_of.rarity", lambda config, studies, labeler, folder=None: asked.append(folder)
    )
    with pytest.raises(UserError, match="5 steps in a row"):
        train(small(request, tmp_path / "run", 9, *OVERFLOW))
    (tmp_path / "run" / RARITY).write_text("[[1]]")
    replay(tmp_path / "run" / "faults" / "step-000001.pt")
    (tmp_path / "run" / "faults" / "step-000001.pt").rename(tmp_path / "moved.pt")
    replay(tmp_path / "moved.pt")
    assert asked == [tmp_path / "run", (tmp_path / "run").resolve(), None]


@pytest.mark.parametrize("own", ["[reward.weights]\n'payload_for_test:f' = 1.0", "[model]\ntrust_remote_code = true"])
def test_a_fault_file_names_no_code_unless_it_is_trusted(tmp_path, monkeypatch, capsys, own):
    (tmp_path / "payload_for_test.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef f(reports): return []\n")
    fault = {"step": 1, "not_finite": ["loss"], "study_ids": ["no-such-study"], "grpo": True, "config": own}
    torch.save(fault | {"adapter": {}, "optimizer": {}}, tmp_path / "x.pt")
    monkeypatch.chdir(tmp_path)
    assert main(["replay", "x.pt"]) == 2 and "say --trust" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    assert main(["replay", "x.pt", "--trust"]) == 2 and "no-such-study" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_a_damaged_fault_file_is_one_line(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "x.pt").write_bytes(content)
    assert main(["replay", str(tmp_path / "x.pt")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit) as end:
        main(["replay"])
    assert end.value.code == 2


def test_a_term_left_out_of_every_report_is_no_nan_in_the_log(request, tmp_path, monkeypatch):
    (tmp_path / "nothing_for_test.py").write_text(
        "def f(completions, **columns):\n    return [None] * len(completions)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    weights = "reward.weights={ mccs = 1.0, 'nothing_for_test:f' = 0.5 }"
    assert train(small(request, tmp_path / "run", 1, weights)) == 0
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        assert "NaN" not in (tmp_path / "run" / name).read_text()
    record = lines(tmp_path / "run" / "rollouts.jsonl")[0]["samples"][0]
    assert record["rewards"]["nothing_for_test:f"] is None and math.isfinite(record["reward"])
    assert "reward/nothing_for_test:f" not in lines(tmp_path / "run" / "metrics.jsonl")[0]


def test_the_warm_start_skips_too(request, tmp_path, monkeypatch):
    from mrg_grpo import sft as module
    from mrg_grpo.train import sft

    plain = module.sft_loss
    monkeypatch.setattr(module, "sft_loss", lambda *arguments: plain(*arguments) * math.nan)
    with pytest.raises(UserError, match=r"5 steps in a row up to step 5 were not finite \(loss in the last"):
        sft(small(request, tmp_path / "run", 9, "sft.batch_size=2"))
    with pytest.raises(UserError, match="only steps of train"):
        replay(tmp_path / "run" / "faults" / "step-000001.pt")


@pytest.mark.parametrize("steps", [1, 3])
def test_a_run_that_took_no_step_is_no_success(request, tmp_path, steps):
    with pytest.raises(UserError, match=r"every step was skipped, so nothing was learned"):
        train(small(request, tmp_path / "run", steps, *OVERFLOW))
    assert not (tmp_path / "run" / "adapter").exists() and not (tmp_path / "run" / "evaluation.json").exists()

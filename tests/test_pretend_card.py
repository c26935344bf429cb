"""Where tensors lie on a GPU, followed on a card that is not there: nothing mixes two devices or waits needlessly."""

import pytest
import torch
from PIL import Image
from pretend_card import NAME, OnCard, Worker
from small_grpo import build, parameters, setting

from mrg_grpo import cli
from mrg_grpo.model.adapters import Reference
from mrg_grpo.model.families import FAMILIES
from mrg_grpo.model.policy import Policy
from mrg_grpo.model.rollout import CHECK_EVERY, decode
from mrg_grpo.model.sampler import Sampler
from mrg_grpo.run.stream import StudyStream
from mrg_grpo.sft import sft_loss

CONFIG = "experiments/phantom.toml"


@pytest.fixture(scope="module")
def card():
    worker = Worker()
    yield worker
    worker.shutdown()


# ---- the card itself refuses what CUDA refuses


def mixed(card):
    """Messages of operations between a tensor on the card and one in main memory; "" where there is none."""
    here, there, place = torch.ones(3, 3, device=NAME), torch.ones(3, 3), torch.tensor([0, 2])
    tried = {
        "add": lambda: here + there,
        "add in place": lambda: here.add_(there),
        "matmul": lambda: here @ there,
        "cat": lambda: torch.cat([here, there]),
        "where": lambda: torch.where(there > 0, here, 0.0),
        "index_select": lambda: here.index_select(0, place),
        "value put": lambda: here.index_put_((place,), there[:2]),
        "index": lambda: here[place],
        "copy": lambda: here.copy_(there),
        "a number": lambda: here + torch.tensor(2.0),
    }
    messages = {}
    for name, operation in tried.items():
        try:
            assert isinstance(operation(), OnCard)
            messages[name] = ""
        except RuntimeError as error:
            messages[name] = str(error)
    return messages


@pytest.mark.slow
def test_the_card_refuses_what_cuda_refuses(card):
    messages = card(mixed)
    allowed = [name for name, message in messages.items() if not message]
    assert allowed == ["index", "copy", "a number"]
    assert all("same device" in message for message in messages.values() if message)


def counted(card):
    x = torch.arange(6.0, device=NAME)
    x.sum().item()
    (x * 2).cpu()
    x[x > 2]
    x.nonzero()
    x.tolist()
    torch.zeros(6).copy_(x)
    x[torch.tensor([1, 2])] = x.sum()
    return dict(card.waits)


def test_what_waits_for_the_card_is_counted(card):
    waits = card(counted)
    assert waits == {
        "aten::_local_scalar_dense": 1,
        "aten::_to_copy": 2,
        "aten::index": 1,
        "aten::nonzero": 1,
        "aten::copy_": 1,
    }


# ---- a step


def steps(card, checkpoint, studies, options):
    """Two steps; the adapter after them, where the parameters lie, the losses."""
    config = setting(checkpoint, **options)
    config.model.device = NAME if card else "cpu"
    grpo = build(config)
    numbers = torch.Generator().manual_seed(1)  # PEFT's own A follows another random state in another process
    for parameter in grpo.policy.trainable():
        parameter.data = (torch.randn(parameter.shape, generator=numbers) * 0.1).to(parameter)
    grpo.policy.reference = Reference(grpo.policy.model)
    stream = StudyStream(studies, config.grpo.studies_per_step, seed=0).prompts(grpo.policy.encoder, 1, 2)
    losses = [grpo.step(one.prompts.to(grpo.policy.device), number).metrics["loss"] for number, one in stream]
    devices = {str(p.device) for p in grpo.policy.model.parameters()}
    return parameters(grpo).cpu(), devices, losses


ON_POLICY = {"beta": 0.0, "aggregate": "token"}
TWO_PASSES = {"beta": 0.1, "inner_passes": 2, "micro_batch": 3}


@pytest.mark.parametrize(
    ("family", "options"), [*((family, TWO_PASSES) for family in sorted(FAMILIES)), ("qwen2_5_vl", ON_POLICY)]
)
def test_a_step_on_the_card_equals_one_in_main_memory(card, family, options, studies, tiny_checkpoint):
    checkpoint = tiny_checkpoint(scale=0.1, family=family)
    there, devices, losses = card(steps, checkpoint, studies, options)
    here, _, expected = steps(None, checkpoint, studies, options)
    assert devices == {f"{NAME}:0"}
    assert (there - here).abs().max() < 1e-9 and losses == pytest.approx(expected, abs=1e-9)


def waits_of_a_step(card, checkpoint, studies, options):
    config = setting(checkpoint, **options)
    config.model.device = NAME
    config.sampling.max_tokens = CHECK_EVERY + 3
    grpo = build(config)
    grpo.policy.stop_ids = []
    prompts = grpo.policy.encoder.encode(studies).to(grpo.policy.device)
    card.waits.clear()
    grpo.step(prompts, 1)
    return card.waits.total()


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_step_waits_for_the_card_five_times_whatever_its_size(card, family, studies, tiny_checkpoint):
    """For the tokens, for what is logged of rewards and of the training, and before the optimiser moves, once for each
    inner pass. Rewards and their labeler are on the CPU here."""
    checkpoint = tiny_checkpoint(scale=0.1, family=family)
    for passes, count, options in ((1, 1, {}), (2, 5, {"micro_batch": 1}), (2, 5, {"studies_per_pass": 2})):
        options = {"beta": 0.1, "inner_passes": passes, "studies_per_step": count, **options}
        assert card(waits_of_a_step, checkpoint, studies[:count], options) == 3 + passes


def waits_of_a_warm_start(card, checkpoint, studies, size):
    config = setting(checkpoint)
    config.model.device = NAME
    policy = build(config).policy
    prompts = policy.encoder.encode(studies).to(policy.device)
    card.waits.clear()
    sft_loss(policy, prompts, ["no effusion", "clear", "x"], size)
    return card.waits.total()


def test_a_warm_start_does_not_wait_for_the_card(card, studies, tiny_checkpoint):
    checkpoint = tiny_checkpoint(scale=0.1)
    assert [card(waits_of_a_warm_start, checkpoint, studies[:3], size) for size in (0, 1)] == [0, 0]


def waits_of_decoding(card, checkpoint, studies, tokens):
    config = setting(checkpoint, "bfloat16")
    config.model.device = NAME
    policy = Policy.load(config)
    policy.stop_ids = []  # all reports take the whole length
    prefix = policy.prefill(policy.encoder.encode(studies[:2]).to(policy.device))
    uniform = torch.rand(8, tokens, dtype=torch.float64)
    card.waits.clear()
    decode(Sampler(policy), prefix, tokens, group=4, uniform=uniform)
    return card.waits.total()


def test_sampling_does_not_wait_for_the_card_at_every_token(card, studies, tiny_checkpoint):
    checkpoint = tiny_checkpoint(scale=0.1)
    few, many = (card(waits_of_decoding, checkpoint, studies, CHECK_EVERY * n) for n in (2, 6))
    assert few == many == 1, "one wait, for all tokens at the end; ended reports are looked at one check late"


# ---- whole commands


def command(card, words):
    return cli.main(words)


@pytest.mark.slow
def test_commands_from_start_to_report(card, tmp_path):
    folder, picture = tmp_path / "run", tmp_path / "x.png"
    Image.new("L", (64, 64), 90).save(picture)
    small = [
        f"model.device={NAME}", "model.dtype=bfloat16", f"run.output_dir={folder}", "run.save_every=1",
        "run.eval_every=1", "run.eval_studies=2", "run.test_studies=2", "run.follow_studies=1", "grpo.group_size=2",
        "grpo.studies_per_step=2", "grpo.inner_passes=2", "grpo.decay=false", "sampling.max_tokens=16",
        "sft.batch_size=2",
    ]  # fmt: skip

    def run(name, *more, settings=()):
        words = [name, CONFIG, *[w for s in (*small, *settings) for w in ("--set", s)], *more]
        assert card(command, words) == 0, words

    run("train", settings=["run.steps=1"])
    run("train", "--resume", settings=["run.steps=2"])
    assert (folder / "evaluation.json").exists() and (folder / "checkpoints").is_dir()
    run("sft", settings=["run.steps=1", f"run.output_dir={tmp_path / 'sft'}"])
    run("check", settings=["sampling.max_tokens=128", f"run.output_dir={tmp_path / 'checked'}"])
    words = ["report", str(picture), "--adapter", str(folder / "adapter"), "--set", f"model.device={NAME}"]
    assert card(command, words) == 0

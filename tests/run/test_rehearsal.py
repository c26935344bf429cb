"""The largest step before the first: it has the size of the largest, moves nothing, and says what does not fit."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from small_grpo import LetterLabeler, build, parameters, setting

from mrg_grpo.data.study import Context
from mrg_grpo.errors import UserError
from mrg_grpo.rewards import Rewards
from mrg_grpo.run import rehearsal


@pytest.fixture
def grpo(tiny_checkpoint):
    return build(setting(tiny_checkpoint(scale=0.1), beta=0.0, studies_per_step=3, inner_passes=2))


def test_a_step_of_full_length_that_moves_nothing(grpo, studies):
    grpo.config.sampling.mask_truncated = True
    before, stops = parameters(grpo), grpo.policy.stop_ids
    rewards = Rewards(grpo.config.reward, LetterLabeler())
    step = rehearsal.Rehearsal(grpo.config, grpo.policy, rewards)
    metrics = step.largest_step(grpo.policy.encoder.encode(studies[:3]))
    assert metrics["tokens"] == 3 * 4 * grpo.config.sampling.max_tokens and metrics["grad_norm"] > 0
    assert torch.equal(parameters(grpo), before) and grpo.policy.stop_ids == stops
    assert all(p.grad is None for p in grpo.policy.trainable()) and not step.optimizer.state
    assert grpo.config.grpo.beta == 0 and grpo.config.sampling.mask_truncated  # a run goes on with its own


def test_the_largest_studies_have_the_most_images_then_the_longest_reports(grpo, studies):
    encoder = grpo.policy.encoder
    more = [replace(studies[0], id="two", images=studies[0].images * 2), replace(studies[1], report="long " * 99)]
    found = rehearsal.largest([*studies[2:], *more], 2, encoder)
    assert [study.id for study in found] == ["two", studies[1].id]
    again = rehearsal.largest(found, 5, encoder)
    assert [study.id for study in again] == ["two", studies[1].id, "two", studies[1].id, "two"]


def test_what_is_known_of_a_study_makes_its_prompt_longer(grpo, studies, monkeypatch):
    known = Context(indication="cough and fever", prior_images=studies[0].images)
    told = [*studies[:3], replace(studies[3], id="told", context=known)]
    encoder = grpo.policy.encoder
    assert rehearsal.largest(told, 1, encoder)[0].id != "told"
    for asked in ("indication", "prior_images"):
        monkeypatch.setattr(encoder, "context", frozenset([asked]))
        assert rehearsal.largest(told, 1, encoder)[0].id == "told"


def as_on_a_gpu(grpo, monkeypatch):
    """Only a GPU is rehearsed on; the memory of a CPU is the machine's."""
    monkeypatch.setattr(rehearsal, "on_gpu", lambda policy: True)
    monkeypatch.setattr(rehearsal, "tell_peak", lambda device: None)


def test_what_does_not_fit_is_one_line_before_the_first_step(grpo, studies, monkeypatch):
    rewards = Rewards(grpo.config.reward, LetterLabeler())
    rehearsal.rehearse(grpo.config, SimpleNamespace(device=torch.device("cpu")), rewards, studies)  # nothing runs
    as_on_a_gpu(grpo, monkeypatch)
    seen = []
    monkeypatch.setattr(rehearsal.Rehearsal, "largest_step", lambda self, prompts: seen.append(prompts.study_ids))
    rehearsal.rehearse(grpo.config, grpo.policy, rewards, studies)
    assert [len(ids) for ids in seen] == [3]

    def out_of_memory(self, prompts):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(rehearsal.Rehearsal, "largest_step", out_of_memory)
    with pytest.raises(UserError, match=r"largest step does not fit .*studies_per_pass.*mrg-grpo plan"):
        rehearsal.rehearse(grpo.config, grpo.policy, rewards, studies)


def test_the_warm_start_is_rehearsed_on_its_longest_target(grpo, studies, monkeypatch):
    as_on_a_gpu(grpo, monkeypatch)
    before, seen = parameters(grpo), []
    plain = rehearsal.sft_loss
    monkeypatch.setattr(rehearsal, "sft_loss", lambda *words: (seen.append(words[2:]), plain(*words)))
    grpo.config.sft.batch_size, grpo.config.sft.micro_batch = 3, 1
    rehearsal.rehearse_warm_start(grpo.config, grpo.policy, studies, ["short", "the longest", "x"])
    assert seen == [(["the longest"] * 3, 1)]
    assert torch.equal(parameters(grpo), before) and all(p.grad is None for p in grpo.policy.trainable())

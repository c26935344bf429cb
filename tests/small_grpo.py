"""GRPO at the size of a test: a tiny checkpoint, four reports of each of two studies, rewards for letters."""

import torch

from mrg_grpo.config import Config
from mrg_grpo.grpo import Grpo
from mrg_grpo.model.adapters import Reference
from mrg_grpo.model.policy import Policy
from mrg_grpo.rewards import Rewards
from mrg_grpo.run.stream import StudyStream


class LetterLabeler:
    """A stand-in labeler: condition i is positive where the report contains the i-th letter."""

    def label(self, texts):
        return torch.tensor([[int(letter in text) for letter in "aeiouybcdfghjk"] for text in texts])


def setting(checkpoint, dtype="float64", **grpo) -> Config:
    config = Config()
    config.model.path, config.model.device, config.model.dtype = str(checkpoint), "cpu", dtype
    config.prompt.text, config.sampling.max_tokens = "?", 12
    config.reward.weights = {"ccs": 1.0}
    config.lora.rank = 4
    config.grpo.studies_per_step, config.grpo.group_size, config.grpo.learning_rate = 2, 4, 1e-2
    for name, value in grpo.items():
        setattr(config.grpo, name, value)
    return config


def build(config) -> Grpo:
    torch.manual_seed(0)
    policy = Policy.load(config)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:  # with B = 0 half of the gradients are 0
            parameter.data = (
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)).to(parameter) * 0.1
            )
    if config.model.dtype == "float64":
        policy.model.double()
    policy.reference = Reference(policy.model)
    return Grpo(config, policy, Rewards(config.reward, LetterLabeler()))


def run(grpo, studies, steps, first=1):
    stream = StudyStream(studies, grpo.config.grpo.studies_per_step, seed=0)
    return [grpo.step(loaded.prompts, number) for number, loaded in stream.prompts(grpo.policy.encoder, first, steps)]


def step_gradients(grpo, studies):
    """Of the last inner pass of a step, before the optimiser moves the adapter; and the result of the step."""
    found, move = [], grpo.optimizer.step
    grpo.optimizer.step = lambda: (found.append([p.grad.flatten().clone() for p in grpo.policy.trainable()]), move())
    result = grpo.step(grpo.policy.encoder.encode(studies), 1)
    return torch.cat(found[-1]), result


def parameters(grpo):
    return torch.cat([p.detach().flatten().double() for p in grpo.policy.trainable()])

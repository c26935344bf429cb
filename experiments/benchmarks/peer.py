"""TRL's GRPOTrainer: prints one JSON line with seconds per step and peak memory, for `step_against_trl` and `gpu_step`.

Its fastest settings without vLLM: no gradient checkpointing, all reports of a step in one batch unless told otherwise,
one iteration per generation, no completion logging. It needs torchvision for this model, so it has its own environment.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Features, Image, List, Value
from peft import LoraConfig
from transformers import AutoModelForImageTextToText, AutoTokenizer, Qwen2_5_VLProcessor, TrainerCallback
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from trl import GRPOConfig, GRPOTrainer
from trl import __version__ as trl_version

from experiments.benchmarks import cases


@dataclass
class Setting:
    """What a run of TRL is given. Our own run of the same benchmark has the same."""

    checkpoint: Path
    pictures: list[list[str]]  # of each study, in the order of the steps
    question: str
    group: int
    studies: int  # a step
    tokens: int  # of every report
    beta: float
    rate: float
    lora: dict[str, Any]
    micro_batch: int = 0  # reports in a forward pass; 0 is all
    max_pixels: int = 0  # 0 keeps the checkpoint's own limit
    device: str = "cpu"

    @property
    def reports(self) -> int:
        return self.group * self.studies


@dataclass
class StepClock(TrainerCallback):
    """Seconds of every step, from its beginning to its end, and of its phases."""

    device: str
    seconds: list[float] = field(default_factory=list)
    phases: list[dict[str, float]] = field(default_factory=list)

    def now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_step_begin(self, *_, **__) -> None:
        self.start = self.now()
        self.phases.append({"sample": 0.0, "score": 0.0})

    def on_step_end(self, *_, **__) -> None:
        self.seconds.append(self.now() - self.start)

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time added to a phase."""

        def wrapped(*words: Any, **named: Any) -> Any:
            start = self.now()
            result = function(*words, **named)
            self.phases[-1][phase] += self.now() - start
            return result

        return wrapped

    def medians(self) -> dict[str, float]:
        """Median seconds by phase, without the first step: vision, prompt and sampling; reference and rewards; training
        forward and backward."""
        rows = [
            {
                "sample": one["sample"], "reference": one["score"] - one["sample"], "train": whole - one["score"],
                "step": whole,
            }
            for one, whole in zip(self.phases[1:], self.seconds[1:])
        ]  # fmt: skip
        return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def dataset(setting: Setting) -> Dataset:
    views = len(setting.pictures[0])
    content = [{"type": "image", "text": ""}] * views + [{"type": "text", "text": setting.question}]
    rows = {"prompt": [[{"role": "user", "content": content}] for _ in setting.pictures], "images": setting.pictures}
    part = {"type": Value("string"), "text": Value("string")}
    features = Features({"prompt": List({"role": Value("string"), "content": List(part)}), "images": List(Image())})
    return Dataset.from_dict(rows, features=features)


def trainer(setting: Setting, steps: int, scratch: str) -> tuple[GRPOTrainer, StepClock]:
    """A trainer that takes `steps` steps, and its clock."""
    cpu = setting.device == "cpu"
    model = AutoModelForImageTextToText.from_pretrained(
        setting.checkpoint,
        dtype=torch.float32 if cpu else torch.bfloat16,
        attn_implementation="sdpa",
        device_map=None if cpu else {"": setting.device},
    )
    tokenizer = AutoTokenizer.from_pretrained(setting.checkpoint)
    pictures = Qwen2VLImageProcessorPil.from_pretrained(setting.checkpoint)
    if setting.max_pixels:
        low = pictures.size["shortest_edge"]
        pictures.size = {"shortest_edge": min(low, setting.max_pixels), "longest_edge": setting.max_pixels}
    processor = Qwen2_5_VLProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=tokenizer.chat_template,
    )
    micro = setting.micro_batch or setting.reports
    arguments = GRPOConfig(
        output_dir=scratch, use_cpu=cpu, bf16=not cpu, fp16=False, gradient_checkpointing=False, report_to=[],
        per_device_train_batch_size=micro, gradient_accumulation_steps=setting.reports // micro,
        num_generations=setting.group, max_completion_length=setting.tokens, max_steps=steps,
        learning_rate=setting.rate, beta=setting.beta, temperature=1.0, loss_type="grpo", num_iterations=1,
        generation_kwargs={"min_new_tokens": setting.tokens}, logging_strategy="no", save_strategy="no",
        shuffle_dataset=False, dataloader_pin_memory=False, disable_dropout=True, log_completions=False,
    )  # fmt: skip
    clock = StepClock(setting.device)

    def reward(completions: list, completion_ids: list[list[int]], **_) -> list[float]:
        assert all(len(ids) == setting.tokens for ids in completion_ids), "the forced length was not kept"
        return cases.spread_reward(completions)

    made = GRPOTrainer(
        model=model, reward_funcs=reward, args=arguments, train_dataset=dataset(setting),
        processing_class=processor, peft_config=LoraConfig(**setting.lora), callbacks=[clock],
    )  # fmt: skip
    made._generate = clock.timed("sample", made._generate)
    made._generate_and_score_completions = clock.timed("score", made._generate_and_score_completions)
    return made, clock


def measure(case: cases.Case, checkpoint: Path, images: Path, beta: float, steps: int, micro_batch: int) -> dict:
    setting = Setting(
        checkpoint, cases.pictures(case, images, (steps + 1) * case.studies), cases.prompt_text(), case.group,
        case.studies, case.tokens, beta, cases.LEARNING_RATE, cases.LORA, micro_batch,
    )  # fmt: skip
    made, clock = trainer(setting, steps + 1, str(images.parent / "trl"))
    before = cases.rss_mib()
    cases.reset_peak()
    made.train()
    return cases.result(f"trl {trl_version}", case, beta, clock.seconds[1:], before)


def measure_setting(setting: Setting, steps: int) -> dict[str, Any]:
    """Seconds by phase and peak memory of one setting, on its device."""
    with tempfile.TemporaryDirectory() as scratch:
        made, clock = trainer(setting, steps, scratch)
        made.train()
    cuda = setting.device == "cuda"
    peak = torch.cuda.max_memory_allocated() / 1e9 if cuda else cases.rss_mib("VmHWM") * 2**20 / 1e9
    return {"engine": f"trl {trl_version}", "measured_gb": peak, "measured_seconds": clock.medians()}


if __name__ == "__main__":
    cases.worker(measure, __doc__ or "")

"""TRL's GRPOTrainer on one case, for `step_against_trl.py`: prints one JSON line with seconds per step and peak memory.

Its fastest settings without vLLM on a CPU: fp32, no gradient checkpointing, all reports of a step in one batch, one
iteration per generation, no completion logging. It needs torchvision for this model, so it has its own environment.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from datasets import Dataset, Features, Image, List, Value
from peft import LoraConfig
from transformers import AutoModelForImageTextToText, AutoTokenizer, Qwen2_5_VLProcessor, TrainerCallback
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from trl import GRPOConfig, GRPOTrainer
from trl import __version__ as trl_version

from experiments.benchmarks import cases


class StepClock(TrainerCallback):
    """Seconds from the beginning of a step to its end; memory from the end of loading."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_, **__) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, *_, **__) -> None:
        self.seconds.append(time.perf_counter() - self.start)


def dataset(case: cases.Case, paths: list[list[str]]) -> Dataset:
    content = [{"type": "image", "text": ""}] * case.views + [{"type": "text", "text": cases.prompt_text()}]
    rows = {"prompt": [[{"role": "user", "content": content}] for _ in paths], "images": paths}
    part = {"type": Value("string"), "text": Value("string")}
    features = Features({"prompt": List({"role": Value("string"), "content": List(part)}), "images": List(Image())})
    return Dataset.from_dict(rows, features=features)


def measure(case: cases.Case, checkpoint: Path, images: Path, beta: float, steps: int, micro_batch: int) -> dict:
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="sdpa")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessorPil.from_pretrained(checkpoint),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=tokenizer.chat_template,
    )
    paths = cases.pictures(case, images, (steps + 1) * case.studies)
    reports = case.group * case.studies
    arguments = GRPOConfig(
        output_dir=str(images.parent / "trl"), use_cpu=True, bf16=False, fp16=False, gradient_checkpointing=False,
        report_to=[],
        per_device_train_batch_size=micro_batch or reports,
        gradient_accumulation_steps=reports // (micro_batch or reports),
        num_generations=case.group, max_completion_length=case.tokens, max_steps=steps + 1,
        learning_rate=cases.LEARNING_RATE, beta=beta, temperature=1.0, loss_type="grpo", num_iterations=1,
        generation_kwargs={"min_new_tokens": case.tokens}, logging_strategy="no", save_strategy="no",
        shuffle_dataset=False, dataloader_pin_memory=False, disable_dropout=True, log_completions=False,
    )  # fmt: skip
    clock = StepClock()

    def reward(completions: list, completion_ids: list[list[int]], **_) -> list[float]:
        assert all(len(ids) == case.tokens for ids in completion_ids), "the forced length was not kept"
        return cases.spread_reward(completions)

    trainer = GRPOTrainer(
        model=model, reward_funcs=reward, args=arguments, train_dataset=dataset(case, paths),
        processing_class=processor, peft_config=LoraConfig(**cases.LORA), callbacks=[clock],
    )  # fmt: skip
    before = cases.rss_mib()
    cases.reset_peak()
    trainer.train()
    return cases.result(f"trl {trl_version}", case, beta, clock.seconds[1:], before)


if __name__ == "__main__":
    cases.worker(measure, __doc__ or "")

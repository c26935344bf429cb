"""`mrg-grpo check`: the preflight of a run of days. Each check is a small function that returns a `Finding`.

N studies, G reports of one study, B = N * G reports, T report tokens.

    folder  disk  device  splits  labeler  tags  model  tokens  targets        what the run is given
    log-probabilities  KL  pixels  rewards                                     what the engine makes of eight studies
    longest step                                                               one whole step at its largest

Deliberate choices:
* The checks call the code that the run calls, never a copy of it: `decode`, `logprobs`, `reference`, `Grpo.step`.
* A fresh LoRA changes nothing (B = 0), so merging, scaling and the reference would look right whatever they did. The
  log-probabilities and the KL are therefore also looked at with a nudged adapter, which is put back.
* A check that cannot run because an earlier one failed is said to be skipped; nothing else is hidden.
* Only "fail" ends with exit code 2. A "warn" is a number that somebody should have looked at.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrg_grpo.batch import PromptBatch
from mrg_grpo.checkpoint import KEEP
from mrg_grpo.conditions import CONDITIONS, NEGATIVE, POSITIVE, UNCERTAIN
from mrg_grpo.config import Config
from mrg_grpo.data import Studies, describe_splits
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError
from mrg_grpo.evaluate import config_labeler, read_splits, require_images, studies_of
from mrg_grpo.grpo import Grpo
from mrg_grpo.objective import group_advantages
from mrg_grpo.policy import Policy
from mrg_grpo.prompt import parse_completion, question, target_text
from mrg_grpo.rewards import Rewards, RewardTable
from mrg_grpo.rewards.mccs import rarity_weights
from mrg_grpo.rollout import Rollout, sample_groups
from mrg_grpo.train import targets

STUDIES = 8
"""Studies that are sampled."""
SAMPLE = 32
"""Studies whose prompts are counted, and again as many of those with the most images."""
NUDGE = 0.02
"""Standard deviation of what is added to the adapter where a check needs one that does something."""
ANSWERS = (
    ("Large right pleural effusion.", "Pleural Effusion", POSITIVE),
    ("There is no pneumothorax.", "Pneumothorax", NEGATIVE),
    ("The heart is enlarged.", "Cardiomegaly", POSITIVE),
    ("There is moderate pulmonary edema.", "Edema", POSITIVE),
    ("Possible pneumonia in the right lower lobe.", "Pneumonia", UNCERTAIN),
)
"""Sentences that no CheXbert reads otherwise."""


@dataclass(frozen=True)
class Finding:
    """What one check found. status: pass, warn, fail or skip; remedy says what to do unless it passed."""

    name: str
    status: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{self.status:<4}  {self.name:<18}  {self.found}"
        return f"{line}\n{'':<26}-> {self.remedy}" if self.remedy else line


def judged(name: str, found: str, fails: bool, warns: bool, remedy: str) -> Finding:
    """A Finding whose remedy is only told where there is something to mend."""
    status = "fail" if fails else "warn" if warns else "pass"
    return Finding(name, status, found, remedy if status != "pass" else "")


# ---- what the run is given


def check_folder(config: Config) -> Finding:
    """The output folder can be written and does not hold another run."""
    folder = Path(config.run.output_dir)
    if (folder / "config.toml").exists():
        return Finding("folder", "fail", f"{folder} already holds a run", "train --resume, or name another folder")
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return Finding("folder", "pass", f"{folder} can be written")
    except OSError as error:
        found = f"{nearest} cannot be written ({error.strerror})"
        return Finding("folder", "fail", found, "set run.output_dir to a folder of yours")


def check_device(config: Config) -> Finding:
    """The named device exists."""
    try:
        device = config.model.resolved_device()
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        found = f"{config.model.device}: {first_line(error)}"
        return Finding("device", "fail", found, 'set model.device to "auto", "cpu" or a GPU of this machine')
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return Finding("device", "pass", f"{device} ({name}), base weights in {str(config.model.resolved_dtype())[6:]}")


def check_splits(config: Config) -> tuple[Studies | None, Finding]:
    """The data load, train and test have studies with images; sizes that differ from the published ones are told."""
    try:
        splits = read_splits(config)
        for name in ("train", "test"):
            require_images(studies_of(splits, name))
    except UserError as error:
        return None, Finding("splits", "fail", first_line(error), "mend [data] in the configuration, see docs/data.md")
    sizes, *others = describe_splits(splits, config.data.form)
    warnings = [line.removeprefix("warning: ") for line in others if line.startswith("warning:")]
    if not splits.get("val") and config.run.eval_every:
        warnings.append("there is no val split: no periodic evaluation")
    remedy = "results are not comparable with the published split unless you know why it differs"
    return splits, judged("splits", "; ".join([sizes, *warnings]), False, bool(warnings), remedy)


def check_labeler(config: Config) -> tuple[Any, Finding]:
    """CheXbert loads and reads five plain sentences right; one wrong is a warning, more are another model's labels."""
    try:
        labeler = config_labeler(config)
    except UserError as error:
        return None, Finding("labeler", "fail", first_line(error), "set labeler.path and labeler.tokenizer")
    labels = labeler.label([text for text, _, _ in ANSWERS]).tolist()
    wrong = [text for row, (text, name, label) in zip(labels, ANSWERS) if row[CONDITIONS.index(name)] != label]
    found = f"{len(ANSWERS) - len(wrong)} of {len(ANSWERS)} sentences right" + "".join(f"; wrong: {t}" for t in wrong)
    remedy = "these are not CheXbert's weights, or not its tokenizer (bert-base-uncased)"
    return labeler, judged("labeler", found, len(wrong) > 1, bool(wrong), remedy)


def check_tags(config: Config, tokenizer: Any) -> Finding:
    """An answer of the prompt's own form is compliant, also behind the tokenizer, and the prompt names no other tags."""
    think = config.prompt.think
    answer = target_text("The lungs are clear.", [0] * len(CONDITIONS), think)
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    back = tokenizer.decode(ids, skip_special_tokens=True)
    asked = set(re.findall(r"</?\w+>", question(config.prompt.text, think)))
    known = set(re.findall(r"</?\w+>", answer))
    remedy = "the format reward would be 0 for every report: give the tokenizer these tags as plain, not special, tokens"
    if not parse_completion(back, think).compliant:
        return Finding("tags", "fail", f"{answer!r} comes back from the tokenizer as {back!r}", remedy)
    found = f"{' '.join(sorted(known))} in {len(ids)} tokens"
    if asked != known:
        odd = ", ".join(sorted(asked ^ known))
        return Finding("tags", "warn", f"{found}; prompt and parser differ in {odd}", "leave tags out of prompt.text")
    return Finding("tags", "pass", found)


def check_model(config: Config) -> tuple[Policy | None, Finding]:
    """Base, tokenizer and adapter load."""
    torch.manual_seed(config.run.seed)
    try:
        policy = Policy.load(config)
    except UserError as error:
        return None, Finding("model", "fail", first_line(error), "mend [model] in the configuration")
    found = f"{policy.family.config.model_type}, {policy.parameter_counts()}"
    return policy, judged("model", found, not policy.trainable(), False, "lora.targets names no layer of this model")


def check_disk(config: Config, policy: Policy, studies: int, free: int | None = None) -> Finding:
    """Room for checkpoints and logs. studies: how many the test split decodes; free: bytes, else asked of the disk."""
    adapter = sum(p.numel() * p.element_size() for p in policy.trainable())
    checkpoints = (KEEP + 1) * 3 * adapter + adapter  # adapter, AdamW's two moments; one more while it is written
    report = 6 * config.sampling.max_tokens + 600  # text, think, labels, numbers of one report
    per_step = config.grpo.studies_per_step * config.grpo.group_size * report / config.run.rollouts_every + 2000
    need = int(checkpoints + config.run.steps * per_step + 2 * studies * 2 * report)
    if free is None:
        folder = Path(config.run.output_dir).absolute()
        free = shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
    found = f"{need / 1e9:.2f} GB needed (checkpoints {checkpoints / 1e9:.2f}), {free / 1e9:.1f} GB free"
    return judged("disk", found, need > free, 2 * need > free, "free space or name another run.output_dir")


def check_tokens(config: Config, policy: Policy, studies: list[Study]) -> tuple[list[Study], Finding]:
    """Prompt and report fit the model's positions. Returns the sampled studies, longest prompt first."""
    crowded = sorted(studies, key=lambda study: -len(study.images))[:SAMPLE]
    sample = list({study.id: study for study in [*spread(studies, SAMPLE), *crowded]}.values())
    lengths: dict[str, int] = {}
    images: dict[str, int] = {}
    try:
        for study in sample:
            ids = policy.encoder.encode([study]).input_ids
            lengths[study.id], images[study.id] = ids.shape[1], int((ids == image_token(policy)).sum())
    except UserError as error:
        return [], Finding("tokens", "fail", first_line(error), "mend or leave out this study")
    sample.sort(key=lambda study: -lengths[study.id])
    limit = policy.family.config.get_text_config().max_position_embeddings
    longest, most = max(lengths.values()), max(images.values())
    found = (
        f"longest prompt of {len(sample)} {longest} ({most} of images) + sampling.max_tokens "
        f"{config.sampling.max_tokens} of {limit} positions"
    )
    fails = longest + config.sampling.max_tokens > limit
    remedy = "set data.max_pixels (tokens of an image are at most max_pixels / 784 in Qwen2.5-VL) or data.views"
    return sample, judged("tokens", found, fails, most > 4096, remedy)


def check_targets(config: Config, policy: Policy, labeler: Any, studies: list[Study]) -> Finding:
    """The references, written in the asked form, fit sampling.max_tokens."""
    sample = spread(studies, 2 * SAMPLE)
    rows = policy.tokenizer(targets(sample, labeler, config), add_special_tokens=False)["input_ids"]
    lengths = torch.tensor([len(row) + 1.0 for row in rows])
    over = float((lengths > config.sampling.max_tokens).float().mean())
    found = f"answers of {len(sample)} references: median {lengths.median():.0f} tokens, longest {lengths.max():.0f}"
    remedy = f"{over:.0%} are longer than sampling.max_tokens = {config.sampling.max_tokens}: raise it"
    return judged("targets", found, over > 0.5, over > 0.05, remedy)


# ---- what the engine makes of a few studies


@dataclass
class Sampled:
    """Groups sampled from the start policy, with their rewards."""

    prompts: PromptBatch
    rollout: Rollout
    table: RewardTable


def sample(config: Config, policy: Policy, labeler: Any, studies: list[Study]) -> Sampled:
    prompts = policy.encoder.encode(studies).to(policy.device)
    rarity = None
    if config.reward.mccs.weighting == "rarity":
        rarity = rarity_weights(labeler.label([study.report for study in studies]))
    rewards = Rewards(config.reward, labeler, config.prompt.think, rarity, policy.encoder.question)
    with torch.no_grad():
        rollout = sample_groups(policy, policy.prefill(prompts), prompts.study_ids, config, 0)
    return Sampled(prompts, rollout, rewards.score(rollout.texts, studies, rollout.token_lists()))


@torch.no_grad()
def logps_of(policy: Policy, prompts: PromptBatch, rollout: Rollout, size: int) -> Tensor:
    """(B, T): log-probabilities as training computes them, in micro-batches."""
    prefix, logps = policy.prefill(prompts), torch.zeros_like(rollout.logps)
    for rows in rollout.micro_batches(size):
        logps[rows], _ = policy.logprobs(prefix, rollout.tokens[rows], rollout.mask[rows], rollout.rows[rows])
    return logps


@contextmanager
def nudged(policy: Policy) -> Iterator[None]:
    """Within: the adapter with a little noise, so that it does something."""
    before = [p.data.clone() for p in policy.trainable()]
    generator = torch.Generator().manual_seed(0)
    try:
        for parameter in policy.trainable():
            parameter.data += NUDGE * torch.randn(parameter.shape, generator=generator).to(parameter)
        yield
    finally:
        for parameter, data in zip(policy.trainable(), before):
            parameter.data = data


def check_logprobs(config: Config, policy: Policy, studies: list[Study]) -> Finding:
    """Sampling and training compute the same log-probability of every token, with an adapter that does something."""
    prompts = policy.encoder.encode(studies).to(policy.device)
    with nudged(policy), torch.no_grad():
        rollout = sample_groups(policy, policy.prefill(prompts), prompts.study_ids, config, 0)
        logps = logps_of(policy, prompts, rollout, config.grpo.micro_batch)
    gaps = (logps - rollout.logps).abs()[rollout.mask]
    coarse = policy.base.dtype in (torch.bfloat16, torch.float16)  # merging rounds
    warn, fail = (0.1, 0.5) if coarse else (1e-3, 1e-2)
    found = f"sampling and training differ by {gaps.mean():.1e} on average, {gaps.max():.1e} at most"
    remedy = "GRPO would train on other probabilities than it sampled from: please report it, with versions"
    mean_limit = fail / 5  # one token far out in bf16 is rounding; a shifted mean is not
    fails = not bool(gaps.mean() <= mean_limit)  # also NaN
    return judged("log-probabilities", found, fails, bool(gaps.max() > warn), remedy)


def check_kl(config: Config, policy: Policy, sampled: Sampled) -> Finding:
    """KL to the reference is 0 at the start, and is not 0 once the adapter has moved."""
    if config.grpo.beta == 0:
        return Finding("KL", "pass", "grpo.beta is 0: the reference never runs")
    prompts, rollout, size = sampled.prompts, sampled.rollout, config.grpo.micro_batch

    def kl() -> float:
        with policy.reference():
            reference = logps_of(policy, prompts, rollout, size)
        log_ratio = (reference - logps_of(policy, prompts, rollout, size))[rollout.mask]
        return float((log_ratio.exp() - log_ratio - 1).mean())

    start = kl()
    with nudged(policy):
        moved = kl()
    found = f"{start:.1e} at the start, {moved:.1e} with a nudged adapter"
    remedy = "the reference is not the start policy: please report it, with versions"
    return judged("KL", found, not (start < 1e-6 < moved), False, remedy)


def check_pixels(config: Config, policy: Policy, sampled: Sampled) -> Finding:
    """The same reports under another study's images have other log-probabilities."""
    studies = sampled.prompts.studies
    if len({study.images for study in studies}) < 2:
        return Finding("pixels", "warn", "only one set of images: cannot be shuffled", "give more than one study")
    turned = [Study(s.id, t.images, s.report, s.split) for s, t in zip(studies, [*studies[1:], studies[0]])]
    shuffled = policy.encoder.encode(turned).to(policy.device)
    size, mask = config.grpo.micro_batch, sampled.rollout.mask
    own = logps_of(policy, sampled.prompts, sampled.rollout, size)
    other = logps_of(policy, shuffled, sampled.rollout, size)
    change = float((own - other).abs()[mask].mean())
    better = float((own - other)[mask].mean())
    found = f"shuffled images change a token's log-probability by {change:.1e} (own images {better:+.1e})"
    coarse = policy.base.dtype in (torch.bfloat16, torch.float16)
    least = 1e-2 if coarse else 1e-4
    remedy = "the policy does not look at the images: check processor, image tokens and warm start"
    return judged("pixels", found, not change > least, change < 10 * least, remedy)


def check_rewards(config: Config, sampled: Sampled) -> Finding:
    """Groups have spread, so that there is something to learn from, and not all reports earn nothing."""
    total = sampled.table.total.view(-1, config.grpo.group_size)  # (N, G)
    flat = float((group_advantages(total, config.grpo.scale) == 0).all(dim=1).float().mean())
    zero = float((total == 0).float().mean())
    terms = ", ".join(f"{name} {column.nanmean():.2f}" for name, column in sampled.table.terms.items())
    cut = float((~sampled.rollout.finished).float().mean())
    found = (
        f"{len(total)} studies: {terms}; std within a group {total.std(dim=1).mean():.2f}; groups without spread "
        f"{flat:.0%}, zero rewards {zero:.0%}, cut by the length limit {cut:.0%}"
    )
    remedy = "warm-start first (mrg-grpo sft), lower reward.mccs.margin, or raise sampling.max_tokens or temperature"
    return judged("rewards", found, flat == 1.0, flat > 0.5 or zero > 0.5 or cut > 0.5, remedy)


# ---- the largest step


def check_longest_step(config: Config, policy: Policy, labeler: Any, longest: list[Study]) -> Finding:
    """One whole step on the longest prompts with every report at sampling.max_tokens. Moves the adapter: run it last."""
    forced = deepcopy(config)
    forced.sampling.mask_truncated = False  # every report is cut here
    stops, policy.stop_ids = policy.stop_ids, [-1]  # no report stops early
    n = config.grpo.studies_per_step
    studies = [longest[i % len(longest)] for i in range(n)] if len(longest) < n else longest[:n]
    rewards = Rewards(config.reward, labeler, config.prompt.think, prompt=policy.encoder.question)
    remedy = "lower grpo.micro_batch, data.max_pixels, grpo.studies_per_step or grpo.group_size; see mrg-grpo plan"
    try:
        if policy.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(policy.device)
        prompts = policy.encoder.encode(studies).to(policy.device)
        metrics = Grpo(forced, policy, rewards).step(prompts, 1).metrics
    except torch.OutOfMemoryError as error:
        return Finding("longest step", "fail", f"does not fit ({first_line(error)})", remedy)
    finally:
        policy.stop_ids = stops
    has = torch.cuda.get_device_properties(policy.device).total_memory if policy.device.type == "cuda" else memory()
    peak, seconds = metrics["memory_gb"], metrics["seconds/step"]
    found = (
        f"{n} studies x {config.grpo.group_size} reports of {metrics['length_max']:.0f} tokens: peak {peak:.2f} of "
        f"{has / 1e9:.1f} GB, {seconds:.1f} s, so {config.run.steps} steps take at most "
        f"{seconds * config.run.steps / 3600:.1f} h"
    )
    return judged("longest step", found, not metrics["grad_norm"] < float("inf"), peak > 0.9 * has / 1e9, remedy)


# ---- all of them


def preflight(config: Config) -> Iterator[Finding]:
    """Every check in order; what cannot run is yielded as skipped."""
    yield check_folder(config)
    device = check_device(config)
    yield device
    splits, finding = check_splits(config)
    yield finding
    if device.status == "fail":
        yield Finding("all others", "skip", "there is no device to run them on")
        return
    labeler, finding = check_labeler(config)
    yield finding
    policy, finding = check_model(config)
    yield finding
    if policy is None:
        yield Finding("all others", "skip", "there is no model")
        return
    yield check_tags(config, policy.tokenizer)
    if splits is None:
        yield Finding("all others", "skip", "there are no studies")
        return
    train = splits["train"]
    yield check_disk(config, policy, config.run.test_studies or len(splits["test"]))
    longest, finding = check_tokens(config, policy, train)
    yield finding
    if labeler is None or not longest or finding.status == "fail":
        yield Finding("all others", "skip", "they need labels and prompts")
        return
    yield check_targets(config, policy, labeler, train)
    few = spread(train, STUDIES)
    yield guarded("log-probabilities", lambda: check_logprobs(config, policy, few[:2]))
    try:
        sampled = sample(config, policy, labeler, few)
    except (UserError, torch.OutOfMemoryError) as error:
        yield Finding("sampling", "fail", first_line(error), "mend the named setting; see mrg-grpo plan for memory")
        return
    yield guarded("KL", lambda: check_kl(config, policy, sampled))
    yield guarded("pixels", lambda: check_pixels(config, policy, sampled))
    yield check_rewards(config, sampled)
    yield check_longest_step(config, policy, labeler, longest)


def guarded(name: str, check: Callable[[], Finding]) -> Finding:
    """A check whose bad image or lack of memory is a finding, not the end of the preflight."""
    try:
        return check()
    except (UserError, torch.OutOfMemoryError) as error:
        return Finding(name, "fail", first_line(error), "mend it; for memory see mrg-grpo plan")


def run_check(config: Config) -> int:
    """`mrg-grpo check`: print each finding as it is made; 0, or 2 if any fails."""
    counts = {"pass": 0, "warn": 0, "fail": 0, "skip": 0}
    for finding in preflight(config):
        counts[finding.status] += 1
        print(finding, flush=True)
    print(", ".join(f"{count} {status}" for status, count in counts.items() if count))
    return 2 if counts["fail"] else 0


def spread(studies: list[Study], count: int) -> list[Study]:
    """At most `count` studies, evenly spaced over the list."""
    count = min(count, len(studies))
    return [studies[i * len(studies) // count] for i in range(count)]


def image_token(policy: Policy) -> int:
    config = policy.family.config
    return getattr(config, "image_token_id", None) or getattr(config, "image_token_index", -1)


def memory() -> int:
    """Bytes of main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

"""`mrg-grpo check`: the preflight of a long run. Each check is a small function that returns a `Finding`.

    folder  device  splits  studies  images  following  labeler  references
    model  tags  disk  tokens  targets                                                       what the run is given: here
    log-probabilities  KL  pixels  rewards  longest step                       what the engine does: check_engine.py
    Whether the terms of the reward are there is looked at before the labeler, and told if they are not; metrics of
    the field tell their cost there.

Deliberate choices:
* The checks call the code that the run calls, never a copy of it.
* A check that cannot run because an earlier one failed is said to be skipped; nothing else is hidden.
* Only "fail" ends with exit code 2. A "warn" is a number that somebody should have looked at.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from mrg_grpo.config import Config
from mrg_grpo.data import Studies, describe_splits
from mrg_grpo.data.credentialed import banner
from mrg_grpo.data.load import read_splits, require_images, studies_of, test_studies, validation_studies
from mrg_grpo.data.records import SPLITS, first_names
from mrg_grpo.data.study import Study
from mrg_grpo.data.verify import image_faults
from mrg_grpo.errors import UserError, first_line
from mrg_grpo.evaluation.clinical import ranked_metric
from mrg_grpo.labelers import config_labeler, unread_references
from mrg_grpo.labelers.reference import ReferenceLabels
from mrg_grpo.labels import CONDITIONS, NEGATIVE, POSITIVE, UNCERTAIN
from mrg_grpo.model.adapters import parameter_counts
from mrg_grpo.model.encoder import StudyError
from mrg_grpo.model.policy import Policy
from mrg_grpo.preflight.check_engine import (
    check_kl,
    check_logprobs,
    check_longest_step,
    check_pixels,
    check_rewards,
    sample,
)
from mrg_grpo.preflight.result import CheckResult, result_of
from mrg_grpo.prompt import parse_completion, question, target_text
from mrg_grpo.rewards import field, require_terms
from mrg_grpo.run.checkpoint import KEEP
from mrg_grpo.run.folder import holds_run, require_no_strangers
from mrg_grpo.run.rehearsal import largest
from mrg_grpo.run.trackers import trackers_of
from mrg_grpo.sft import encode_targets, targets

STUDIES = 8
"""Studies that are sampled."""
SAMPLE = 32
"""Studies whose prompts are counted, and again as many of those with the longest."""
SHOWN = 100
"""Characters of a report that are shown."""
ANSWERS = (
    ("Large right pleural effusion.", "Pleural Effusion", POSITIVE),
    ("There is no pneumothorax.", "Pneumothorax", NEGATIVE),
    ("The heart is enlarged.", "Cardiomegaly", POSITIVE),
    ("There is moderate pulmonary edema.", "Edema", POSITIVE),
    ("Possible pneumonia in the right lower lobe.", "Pneumonia", UNCERTAIN),
)
"""Sentences that no CheXbert reads otherwise."""


def check_folder(config: Config) -> CheckResult:
    """The output folder can be written and does not hold another run."""
    folder = Path(config.run.output_dir)
    if holds_run(folder):
        return CheckResult("folder", "fail", f"{folder} already holds a run", "train --resume, or name another folder")
    try:
        require_no_strangers(folder)
    except UserError as error:
        return CheckResult("folder", "fail", first_line(error), "name another folder")
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return CheckResult("folder", "pass", f"{folder} can be written")
    except OSError as error:
        found = f"{nearest} cannot be written ({error.strerror})"
        return CheckResult("folder", "fail", found, "set run.output_dir to a folder of yours")


def check_device(config: Config) -> CheckResult:
    """The named device exists."""
    try:
        device = config.model.resolved_device()
        torch.zeros(1, device=device)
    except (UserError, RuntimeError, AssertionError) as error:
        found = f"{config.model.device}: {first_line(error)}"
        return CheckResult("device", "fail", found, 'set model.device to "auto", "cpu" or a GPU of this machine')
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return CheckResult("device", "pass", f"{device} ({name}), base weights in {str(config.model.resolved_dtype())[6:]}")


def check_following(config: Config) -> CheckResult:
    """The trackers are installed, and the metric that is to choose the best adapter is one."""
    run = config.run
    try:
        names = trackers_of(config)
        chooses = ranked_metric(run.keep_best)[0] if run.keep_best and run.eval_every else ""
    except UserError as error:
        return CheckResult("following", "fail", first_line(error), "mend run.report_to or run.keep_best")
    kept = f"the best adapter by {chooses}" if chooses else "the last adapter alone"
    return CheckResult("following", "pass", f"keeps {kept}; reports to {', '.join(names) or 'no tracker'}")


def check_splits(config: Config) -> tuple[Studies | None, CheckResult]:
    """The data load, what is trained on and decoded has images whose headers are in order; sizes that differ from the
    published ones are told."""
    try:
        splits = read_splits(config, verify=SPLITS)
        for studies in (studies_of(splits, "train"), validation_studies(splits, config), test_studies(splits, config)):
            require_images(studies)
    except UserError as error:
        return None, CheckResult(
            "splits", "fail", first_line(error), "mend [data] in the configuration, see docs/guides/own-data.md"
        )
    sizes, *others = describe_splits(splits, config.data.form)
    warnings = [line.removeprefix("warning: ") for line in others if line.startswith("warning:")]
    if not splits.get("val") and config.run.eval_every:
        warnings.append("there is no val split: no periodic evaluation")
    remedy = "results are not comparable with the published split unless you know why it differs"
    if config.data.form == "table":
        remedy = "mend the table or [data.columns], or go on if you know why"
    return splits, result_of("splits", "; ".join([sizes, *warnings]), False, bool(warnings), remedy)


def check_studies(config: Config, splits: Studies) -> CheckResult:
    """The first study of each split as it was read, for the eye: a column that was taken for another shows here."""
    first = [part[0] for part in splits.values() if part]
    more = [study for part in splits.values() for study in part[1:]]
    bare = bool(banner(config)) or not config.run.keep_text
    return CheckResult("studies", "pass", "; ".join(shown(config, one, bare) for one in [*first, *more][:3]))


def shown(config: Config, study: Study, bare: bool) -> str:
    """A study in a few words; bare: without its text and the names of its images."""
    head = f"{study.id} ({study.split}): {len(study.images)} image{'s' if len(study.images) != 1 else ''}"
    if config.prompt.context:
        known = [name for name in config.prompt.context if getattr(study.context, name)]
        head += f", context: {', '.join(known) or 'none'}"
    if bare:
        return head
    names = [image.removeprefix(str(Path(config.data.root))).lstrip("/") for image in study.images]
    report = study.report if len(study.report) <= SHOWN else f"{study.report[:SHOWN]}..."
    return f"{head}{f' ({first_names(names, 3)})' if names else ''}, report {report!r}"


def check_images(config: Config, splits: Studies, whole: bool) -> CheckResult:
    """The image files decode, where they are asked to. A run leaves out the studies of those that do not."""
    if config.data.rendered:
        return CheckResult("images", "pass", "rendered on demand")
    paths = {path: split for split, studies in splits.items() for study in studies for path in study.images}
    if not whole:
        return CheckResult("images", "pass", f"the headers of {len(paths):,} files; --images decodes them whole")
    faults = image_faults(list(paths), whole=True)
    named = f": {first_names(list(faults))} ({next(iter(faults.values()))})" if faults else ""
    sound = {split for path, split in paths.items() if path not in faults}
    fails = any(studies and split not in sound for split, studies in splits.items())
    remedy = "fetch them again; a run leaves their studies out, step by step"
    found = f"{len(faults):,} of {len(paths):,} files do not decode{named}"
    return result_of("images", found, fails, bool(faults), remedy)


def check_labeler(config: Config) -> tuple[Any, CheckResult]:
    """CheXbert loads and reads five plain sentences right; one wrong is a warning, more are another model's labels."""
    try:
        labeler = config_labeler(config)
    except UserError as error:
        return None, CheckResult("labeler", "fail", first_line(error), "set labeler.path and labeler.tokenizer")
    labels = labeler.label([text for text, _, _ in ANSWERS]).tolist()
    wrong = [text for row, (text, name, label) in zip(labels, ANSWERS) if row[CONDITIONS.index(name)] != label]
    found = f"{len(ANSWERS) - len(wrong)} of {len(ANSWERS)} sentences right" + "".join(f"; wrong: {t}" for t in wrong)
    remedy = "these are not CheXbert's weights, or not its tokenizer (bert-base-uncased)"
    return labeler, result_of("labeler", found, len(wrong) > 1, bool(wrong), remedy)


def check_references(config: Config, labeler: Any, studies: list[Study]) -> CheckResult:
    """The training references carry labels, and are no longer than the labeler reads."""
    unread, ids = unread_references(labeler, studies)
    notes = unread.notes("training references looked at", ids)
    found = "; ".join(notes) or f"all {unread.total} that were looked at carry labels"
    allowed = config.labeler.allow_unlabeled
    remedy = "references must be English reports that this labeler reads; labeler.allow_unlabeled = true goes on"
    share = unread.share
    return result_of("references", found, share > 0.5 and not allowed, share > 0.05 or bool(unread.cut), remedy)


def check_tags(config: Config, tokenizer: Any) -> CheckResult:
    """An answer of the prompt's own form is compliant, also behind the tokenizer; the prompt names no other tags."""
    think = config.prompt.think
    answer = target_text("The lungs are clear.", [0] * len(CONDITIONS), think)
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    back = tokenizer.decode(ids, skip_special_tokens=True)
    asked = set(re.findall(r"</?\w+>", question(config.prompt.text, think)))
    known = set(re.findall(r"</?\w+>", answer))
    remedy = (
        "the format reward would be 0 for every report: give the tokenizer these tags as plain, not special, tokens"
    )
    if not parse_completion(back, think).compliant:
        return CheckResult("tags", "fail", f"{answer!r} comes back from the tokenizer as {back!r}", remedy)
    found = f"{' '.join(sorted(known))} in {len(ids)} tokens"
    if asked != known:
        odd = ", ".join(sorted(asked ^ known))
        return CheckResult(
            "tags", "warn", f"{found}; prompt and parser differ in {odd}", "leave tags out of prompt.text"
        )
    return CheckResult("tags", "pass", found)


def check_model(config: Config) -> tuple[Policy | None, CheckResult]:
    """Base, tokenizer and adapter load."""
    torch.manual_seed(config.run.seed)
    try:
        policy = Policy.load(config)
    except UserError as error:
        return None, CheckResult("model", "fail", first_line(error), "mend [model] in the configuration")
    found = f"{policy.family.config.model_type}, {parameter_counts(policy.model)}"
    return policy, result_of("model", found, not policy.trainable(), False, "lora.targets names no layer of this model")


def check_disk(config: Config, policy: Policy, studies: int, free: int | None = None) -> CheckResult:
    """Room for checkpoints and logs. studies: how many the test split decodes; free: bytes, else asked of the disk."""
    adapter = sum(p.numel() * p.element_size() for p in policy.trainable())
    best = KEEP + 2 if config.run.keep_best and config.run.eval_every else 0  # one a checkpoint, the newest, the copy
    # a checkpoint has adapter and AdamW's two moments; there is one more while it is written
    checkpoints = (KEEP + 1) * 3 * adapter + (1 + best) * adapter
    report = 6 * config.sampling.max_tokens + 600  # text, think, labels, numbers of one report
    per_step = config.grpo.studies_per_step * config.grpo.group_size * report / config.run.rollouts_every + 2000
    need = int(checkpoints + config.run.steps * per_step + 2 * studies * 2 * report)
    if free is None:
        folder = Path(config.run.output_dir).absolute()
        free = shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
    found = f"{need / 1e9:.2f} GB needed (checkpoints {checkpoints / 1e9:.2f}), {free / 1e9:.1f} GB free"
    return result_of("disk", found, need > free, 2 * need > free, "free space or name another run.output_dir")


def check_tokens(config: Config, policy: Policy, studies: list[Study]) -> tuple[list[Study], CheckResult]:
    """Prompt and report fit the model's positions. Returns the sampled studies that can be shown, longest prompt
    first."""
    crowded = largest(studies, min(SAMPLE, len(studies)), policy.encoder)
    sample = list({study.id: study for study in [*spread(studies, SAMPLE), *crowded]}.values())
    lengths: dict[str, int] = {}
    images: dict[str, int] = {}
    unread: dict[str, str] = {}
    for study in sample:
        try:
            ids = policy.encoder.encode([study]).input_ids
        except StudyError as error:
            unread[study.id] = error.what
            continue
        lengths[study.id], images[study.id] = ids.shape[1], int((ids == image_token(policy)).sum())
    named = f"; {first_names(list(unread))} cannot be shown ({next(iter(unread.values()))})" if unread else ""
    if not lengths:
        return [], CheckResult("tokens", "fail", named.removeprefix("; "), "mend the image files")
    sample = sorted((study for study in sample if study.id in lengths), key=lambda study: -lengths[study.id])
    limit = policy.family.config.get_text_config().max_position_embeddings
    longest, most = max(lengths.values()), max(images.values())
    found = (
        f"of {len(sample)} prompts the longest has {longest} tokens, {images[sample[0].id]} of them image tokens; with "
        f"sampling.max_tokens = {config.sampling.max_tokens} that is {longest + config.sampling.max_tokens} of {limit} "
        f"positions{named}"
    )
    fails = longest + config.sampling.max_tokens > limit
    remedy = "set data.max_pixels (tokens of an image are at most max_pixels / 784 in Qwen2.5-VL) or data.views"
    if unread and not fails:
        remedy = "fetch their images again; a run leaves such studies out, --images looks for all of them"
    return sample, result_of("tokens", found, fails, most > 4096 or bool(unread), remedy)


def check_targets(config: Config, policy: Policy, labeler: Any, studies: list[Study]) -> CheckResult:
    """The references, written in the asked form, fit sampling.max_tokens."""
    sample = spread(studies, 2 * SAMPLE)
    _, mask = encode_targets(policy, targets(sample, ReferenceLabels(labeler), config.prompt.think))
    lengths = mask.sum(dim=1).float().cpu()
    over = float((lengths > config.sampling.max_tokens).float().mean())
    found = f"answers of {len(sample)} references: median {lengths.median():.0f} tokens, longest {lengths.max():.0f}"
    remedy = f"{over:.0%} are longer than sampling.max_tokens = {config.sampling.max_tokens}: raise it"
    return result_of("targets", found, over > 0.5, over > 0.05, remedy)


def check_field(config: Config) -> Iterator[CheckResult]:
    """What the metrics of the field in the reward cost a step; nothing where there are none."""
    reports = config.grpo.studies_per_step * config.grpo.group_size
    names = [name for name, weight in config.reward.weights.items() if weight != 0 and name in field.FIELD]
    cost = field.seconds(names, reports)
    found = f"{', '.join(names)}: {cost:.1f} s for the {reports} reports of a step, by RadEval on an A100, short texts"
    if names:
        yield result_of(
            "reward cost", found, False, cost > 60, "name a metric that costs less, or fewer reports a step"
        )


def preflight(config: Config, images: bool = False) -> Iterator[CheckResult]:
    """Every check in order; what cannot run is yielded as skipped. images: decode every image file."""
    yield check_folder(config)
    device = check_device(config)
    yield device
    splits, finding = check_splits(config)
    yield finding
    if splits is not None:
        if not config.data.rendered:
            yield check_studies(config, splits)
        yield check_images(config, splits, images)
    if device.status == "fail":
        yield CheckResult("all others", "skip", "there is no device to run them on")
        return
    yield check_following(config)
    try:
        require_terms(config.reward)
    except UserError as error:
        yield CheckResult("rewards", "fail", first_line(error), "mend [reward.weights] in the configuration")
        yield CheckResult("all others", "skip", "a term of the reward is not there")
        return
    yield from check_field(config)
    labeler, finding = check_labeler(config)
    yield finding
    if labeler is not None and splits is not None:
        yield check_references(config, labeler, splits["train"])
    policy, finding = check_model(config)
    yield finding
    if policy is None:
        yield CheckResult("all others", "skip", "there is no model")
        return
    yield check_tags(config, policy.tokenizer)
    if splits is None:
        yield CheckResult("all others", "skip", "there are no studies")
        return
    train = splits["train"]
    yield check_disk(config, policy, len(test_studies(splits, config)))
    longest, finding = check_tokens(config, policy, train)
    yield finding
    if labeler is None or not longest or finding.status == "fail":
        yield CheckResult("all others", "skip", "they need labels and prompts")
        return
    yield check_targets(config, policy, labeler, train)
    shown = {study.id for study in longest}
    few = [study for study in spread(train, STUDIES) if study.id in shown]  # those of them that were looked at
    if not few:
        yield CheckResult("all others", "skip", "the pictures that they need cannot be read")
        return
    yield guarded("log-probabilities", lambda: check_logprobs(config, policy, few[:2]))
    try:
        sampled = sample(config, policy, labeler, few)
    except (UserError, torch.OutOfMemoryError) as error:
        yield CheckResult("sampling", "fail", first_line(error), "mend the named setting; see mrg-grpo plan for memory")
        return
    yield guarded("KL", lambda: check_kl(config, policy, sampled))
    yield guarded("pixels", lambda: check_pixels(config, policy, sampled))
    yield check_rewards(config, sampled)
    yield check_longest_step(config, policy, labeler, longest)


def guarded(name: str, check: Callable[[], CheckResult]) -> CheckResult:
    """A check whose bad image or lack of memory is a finding, not the end of the preflight."""
    try:
        return check()
    except (UserError, torch.OutOfMemoryError) as error:
        return CheckResult(name, "fail", first_line(error), "mend it; for memory see mrg-grpo plan")


def run_check(config: Config, images: bool = False) -> int:
    """`mrg-grpo check`: print each finding as it is made; 0, or 2 if any fails."""
    counts = {"pass": 0, "warn": 0, "fail": 0, "skip": 0}
    for finding in preflight(config, images):
        counts[finding.status] += 1
        print(finding, flush=True)
    print(", ".join(f"{count} {status}" for status, count in counts.items() if count))
    return 2 if counts["fail"] else 0


def spread(studies: list[Study], count: int) -> list[Study]:
    """At most `count` studies, evenly spaced over the list."""
    count = min(count, len(studies))
    return [studies[i * len(studies) // count] for i in range(count)]


def image_token(policy: Policy) -> int:
    """The id that stands for a piece of an image; families name it differently."""
    config: Any = policy.family.config
    ids = (getattr(config, name, None) for name in ("image_token_id", "image_token_index"))
    return next((int(i) for i in ids if i is not None), -1)

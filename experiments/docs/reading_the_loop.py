"""Writes docs/explanation/grpo.md: one real step of GRPO with its tensors and numbers.

    python experiments/docs/reading_the_loop.py

The prose lies in reading_the_loop.template.md beside this file. `<<name>>` there is a value computed here, and
`<<code FILE: FIRST ... LAST>>` the lines of a source file from the first that holds FIRST to the next that holds LAST.
The step is taken piece by piece with the engine's own functions, then once more by `Grpo.step` and once by
transformers' own forward, and all three must agree: so the page cannot tell another story than the engine.

The study is the first of the training split that shows all of `shows`. Which token is sampled and which label is read
hangs on comparisons of floats; the study is one where none is close (`margins`), so that another CPU writes the same
page up to the last digits. tests/docs/test_reading_the_loop.py compares.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from experiments.docs.sections import markdown_table
from mrg_grpo.config import Config, load_config
from mrg_grpo.data.images import open_image
from mrg_grpo.data.phantom import dataset as phantom
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError
from mrg_grpo.grpo import Grpo
from mrg_grpo.labelers import embedded_labeler
from mrg_grpo.labels import CONDITIONS
from mrg_grpo.model.adapters import parameter_counts
from mrg_grpo.model.batch import PromptBatch
from mrg_grpo.model.logprobs import tempered
from mrg_grpo.model.policy import Policy, Prefix
from mrg_grpo.model.rollout import Rollout, sample_groups, uniforms
from mrg_grpo.model.sampler import Sampler
from mrg_grpo.objective import group_advantages, grpo_loss, k3
from mrg_grpo.rewards import Rewards, RewardTable
from mrg_grpo.rewards.mccs import clinical_cosine, signed_vectors

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "experiments" / "docs" / "reading_the_loop.template.md"
PAGE = ROOT / "docs" / "explanation" / "grpo.md"
PICTURE = ROOT / "docs" / "images" / "reading-the-loop.png"
SETTINGS = ["grpo.group_size=4", "grpo.studies_per_step=1", "run.seed=0", "model.device=cpu"]
CANDIDATES = 400
SAMPLING_MARGIN, LABEL_MARGIN = 1e-4, 0.2


@dataclass
class Sampled:
    """A study, its group and its rewards: everything before the first gradient."""

    study: Study
    prompts: PromptBatch
    prefix: Prefix
    rollout: Rollout
    table: RewardTable


def settings() -> Config:
    return load_config(ROOT / "experiments" / "phantom.toml", SETTINGS)


def engine(config: Config) -> Grpo:
    """The embedded policy with a fresh adapter, as `mrg-grpo train` starts it."""
    torch.manual_seed(config.run.seed)
    policy = Policy.load(config)
    return Grpo(config, policy, Rewards(config.reward, embedded_labeler(), prompt=policy.encoder.ask))


def sample(grpo: Grpo, study: Study) -> Sampled:
    prompts = grpo.policy.encoder.encode([study])
    prefix = grpo.policy.prefill(prompts)
    rollout = sample_groups(grpo.policy, prefix, prompts.keys, grpo.config, step=1)
    return Sampled(study, prompts, prefix, rollout, grpo.rewards.score(rollout.texts, [study], rollout.token_lists()))


# ---- the choice of the study


def shows(drawn: Sampled) -> bool:
    """Short texts, both kinds of form, and MCCS that is 0, in between and unequal."""
    mccs, compliant = drawn.table.terms["mccs"], drawn.table.terms["format"]
    cosine = clinical_cosine(drawn.table.reports.labels, drawn.table.reports.reference_labels)
    return bool(
        len(drawn.study.report.split()) <= 32
        and drawn.rollout.mask.shape[1] <= 64
        and drawn.rollout.finished.all()
        and 0 < compliant.sum() < len(compliant)
        and (mccs == 0).any()
        and ((cosine > 0.3) & (cosine < 0.999)).any()
        and len(set(drawn.table.total.tolist())) == len(compliant)
    )


def margins(grpo: Grpo, drawn: Sampled) -> tuple[float, float]:
    """How far the closest call of sampling (in probability) and of the labeler (in logits) is from the other side."""
    tokens, mask, policy = drawn.rollout.tokens, drawn.rollout.mask, grpo.policy
    with torch.no_grad():
        states = hidden_states(policy, drawn)  # (tokens, D)
        cumulative = torch.softmax(
            tempered(policy.base.lm_head(states), policy.temperature, policy.suppressed).double(), -1
        ).cumsum(-1)
    group, width = mask.shape
    keys = [(drawn.study.id, i) for i in range(group)]
    uniform = uniforms(grpo.config.run.seed, 1, keys, grpo.config.sampling.max_tokens)[:, :width][mask]
    above = cumulative.gather(1, tokens[mask].unsqueeze(1)).squeeze(1)
    before = (tokens[mask] - 1).clamp(min=0).unsqueeze(1)
    below = torch.where(tokens[mask] > 0, cumulative.gather(1, before).squeeze(1), -1.0)
    texts = [drawn.study.report, *drawn.table.reports.texts]
    gaps = [logits.topk(2).values for logits in grpo.rewards.labeler.logits(texts)]
    closest = min(float((gap[:, 0] - gap[:, 1]).min()) for gap in gaps)
    return float(torch.minimum(above - uniform, uniform - below).min()), closest


def hidden_states(policy: Policy, drawn: Sampled) -> Tensor:
    """The hidden state in front of every report token, (tokens, D), by one plain pass per report."""
    states = []
    for row, keep in zip(drawn.rollout.tokens, drawn.rollout.mask):
        states.append(plain_pass(policy, drawn.prompts, row[keep]))
    return torch.cat(states)


def plain_pass(policy: Policy, prompts: PromptBatch, report: Tensor) -> Tensor:
    """What any trainer does: prompt and report as one sequence through transformers' own forward -> (t, D)."""
    ids = torch.cat([prompts.input_ids[0], report]).unsqueeze(0)
    image = (ids == policy.family.config.image_token_id).int()
    output = policy.base.model(input_ids=ids, mm_token_type_ids=image, use_cache=False, **prompts.pixels)
    return output.last_hidden_state[0, prompts.input_ids.shape[1] - 1 : -1]


def choose(grpo: Grpo) -> Study:
    """The first training study whose group shows everything and where nothing is a close call."""
    for study in phantom.load(sizes={"train": CANDIDATES})["train"]:
        drawn = sample(grpo, study)
        if shows(drawn):
            sampling, labeling = margins(grpo, drawn)
            if sampling > SAMPLING_MARGIN and labeling > LABEL_MARGIN:
                return study
    raise UserError(f"none of {CANDIDATES} training studies shows everything; loosen `shows` in {Path(__file__).name}")


# ---- the step


def gradients(policy: Policy) -> dict[str, Tensor]:
    """Of the trainable parameters, which are cleared."""
    found = {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in policy.model.named_parameters()
        if p.requires_grad
    }
    for parameter in policy.trainable():
        parameter.grad = None
    return found


def norm(tensors: dict[str, Tensor]) -> float:
    return float(torch.stack([tensor.norm() for tensor in tensors.values()]).norm())


def plain_gradients(policy: Policy, drawn: Sampled, advantages: Tensor) -> dict[str, Tensor]:
    """The gradient by G full sequences and the textbook's formula: -sum_i A_i mean_t log pi / B."""
    for row, keep, advantage in zip(drawn.rollout.tokens, drawn.rollout.mask, advantages):
        logits = policy.base.lm_head(plain_pass(policy, drawn.prompts, row[keep]))
        logits[:, policy.suppressed] = -torch.inf
        logps = torch.log_softmax(logits / policy.temperature, -1).gather(1, row[keep].unsqueeze(1))
        (-advantage * logps.mean() / len(advantages)).backward()
    return gradients(policy)


def walk(grpo: Grpo, study: Study) -> dict[str, str]:
    """The step on one study, piece by piece -> every value that the template names."""
    policy, config = grpo.policy, grpo.config
    drawn = sample(grpo, study)
    rollout, table, prefix, mask = drawn.rollout, drawn.table, drawn.prefix, drawn.rollout.mask
    advantages = group_advantages(table.total.view(1, -1))[0]  # (G,)

    logps, entropy = policy.logprobs(prefix, rollout.tokens, mask)  # move 2
    logps.retain_grad()
    loss, _ = grpo_loss(logps, advantages, mask)
    loss.backward()
    slopes, before = logps.grad, logps.detach()
    leaf_norm = float(torch.stack([leaf.grad.norm() for leaf in prefix.keys + prefix.values]).norm())
    direct = norm({n: p.grad for n, p in policy.model.named_parameters() if p.grad is not None})
    policy.backward(prefix)  # move 3
    ours = gradients(policy)
    plain = plain_gradients(policy, drawn, advantages)
    apart = norm({name: ours[name] - plain[name] for name in ours})

    result = grpo.step(drawn.prompts, 1)  # the engine's own step, from the same start
    metrics = result.metrics
    same_samples(result.rollout.texts, rollout.texts)
    close("gradient of the engine's step", metrics["grad_norm"], norm(ours), 1e-4 * norm(ours))
    close("gradient of plain transformers", apart, 0.0, 1e-4 * norm(ours))
    close("loss", metrics["loss"], 0.0, 1e-6)
    close("loss by hand", float(loss.detach()), 0.0, 1e-6)
    close("KL", metrics["kl"], 0.0, 1e-6)
    close("slopes", float((slopes + mask * (advantages / mask.sum(1) / len(advantages)).unsqueeze(1)).norm()), 0, 1e-6)
    with torch.no_grad():
        after, _ = policy.logprobs(policy.prefill(drawn.prompts), rollout.tokens, mask)
    kl = float(k3(after, before)[mask].mean())

    values = before_gradient(grpo, drawn) | flat_group()
    trained = list(ours)
    silent = sum(bool((ours[name] == 0).all()) for name in trained)
    prompt, lengths = drawn.prompts.input_ids.shape[1], mask.sum(1)
    return values | {
        "mean": number(table.total.mean()),
        "std": number(table.total.std()),
        "advantages": ", ".join(number(a) for a in advantages),
        "loss_table": markdown_table(
            ["report", "A", "tokens", "mean over its tokens of -rho A", "slope of the loss in each log-probability"],
            [
                [str(i + 1), number(a), str(int(n)), number(-a), number(slopes[i, 0], 5)]
                for i, (a, n) in enumerate(zip(advantages, lengths))
            ],
        ),
        "entropy": number(entropy.sum() / mask.sum(), 3),
        "leaf_norm": number(leaf_norm),
        "direct_norm": number(direct),
        "grad_norm": number(norm(ours)),
        "lora_tensors": str(len(trained)),
        "silent_tensors": str(silent),
        "tokens_plain": f"{int((prompt + lengths).sum()):,}",
        "tokens_ours": f"{int(prompt + lengths.sum()):,}",
        "rate": f"{config.grpo.learning_rate * grpo.rate(1):.0e}",
        "max_grad_norm": f"{config.grpo.max_grad_norm:g}",
        "after_table": markdown_table(
            ["report", "A", "log pi(report) before", "after", "change"],
            [
                [str(i + 1), number(a), number(b, 2), number(c, 2), f"{c - b:+.2f}"]
                for i, (a, b, c) in enumerate(zip(advantages, before.sum(1).tolist(), after.sum(1).tolist()))
            ],
        ),
        "kl_after": number(kl, 4),
    }


def before_gradient(grpo: Grpo, drawn: Sampled) -> dict[str, str]:
    """Study, prompt, prefix, rollout, labels, cosine, rewards."""
    policy, prompts, prefix, rollout = grpo.policy, drawn.prompts, drawn.prefix, drawn.rollout
    reports, total = drawn.table.reports, drawn.table.total
    group, width = rollout.tokens.shape
    text = policy.tokenizer.decode(prompts.input_ids[0])
    image = policy.family.image_token
    ids = prompts.input_ids[0]
    decoded = [policy.tokenizer.decode([int(token)]) for token in rollout.tokens[0, :6]]
    first = torch.softmax(Sampler(policy, fast=False).start(prefix, torch.tensor([0]), 1, 1)[1].double(), -1)[0]
    likely = first.topk(4)
    drawn_at = uniforms(grpo.config.run.seed, 1, [(drawn.study.id, i) for i in range(group)], 1)[:, 0]
    cosine = clinical_cosine(reports.labels, reports.reference_labels)
    shown = max((i for i in range(group) if cosine[i] < 0.999), key=lambda i: float(cosine[i]))
    vector, reference = signed_vectors(reports.labels)[shown], signed_vectors(reports.reference_labels)[shown]
    margin = grpo.config.reward.mccs.margin
    pixels = prompts.pixels["pixel_values"]
    return {
        "study": drawn.study.id,
        "reference": drawn.study.report,
        "P": str(ids.numel()),
        "image_tokens": str(int((ids == policy.family.config.image_token_id).sum())),
        "prompt_text": re.sub(f"({re.escape(image)})+", f"{image} ... ", text),
        "pixels": shape(pixels),
        "L": str(len(prefix.keys)),
        "key_shape": shape(prefix.keys[0]),
        "hidden_shape": shape(prefix.last_hidden),
        "leaves": str(len(prefix.leaves())),
        "parameters": parameter_counts(policy.model),
        "V": f"{first.numel():,}",
        "first_table": markdown_table(
            ["token", "probability"],
            [[f"`{policy.tokenizer.decode([int(i)])}`", number(p)] for p, i in zip(likely.values, likely.indices)],
        ),
        "uniforms": ", ".join(number(u) for u in drawn_at),
        "first_tokens": ", ".join(f"`{policy.tokenizer.decode([int(token)])}`" for token in rollout.tokens[:, 0]),
        "texts": "\n\n".join(f"{i + 1}. `{text}`" for i, text in enumerate(rollout.texts)),
        "T": str(width),
        "tokens_shape": shape(rollout.tokens),
        "lengths": ", ".join(str(int(n)) for n in rollout.lengths),
        "spelled": markdown_table(
            ["token", *(f"`{piece.strip() or piece}`" for piece in decoded)],
            [["log-probability", *(number(p) for p in rollout.logps[0, :6])]],
        ),
        "report_logp": number(rollout.logps[0].sum(), 2),
        "label_table": label_table(reports.labels, reports.reference_labels[0]),
        "shown": str(shown + 1),
        "dot": str(int((vector * reference).sum())),
        "squares": str(int(vector.square().sum())),
        "reference_squares": str(int(reference.square().sum())),
        "cosine": number(cosine[shown]),
        "margin": f"{margin:g}",
        "rest": f"{1 - margin:g}",
        "mccs": number(drawn.table.terms["mccs"][shown]),
        "reward_table": markdown_table(
            ["report", "cosine", "MCCS", "format", "total", "advantage"],
            [
                [str(i + 1), number(c), number(m), f"{f:g}", number(t), number(a)]
                for i, (c, m, f, t, a) in enumerate(
                    zip(
                        cosine,
                        drawn.table.terms["mccs"],
                        drawn.table.terms["format"],
                        total,
                        group_advantages(total.view(1, -1))[0],
                    )
                )
            ],
        ),
        "weight_mccs": f"{grpo.config.reward.weights['mccs']:g}",
        "weight_format": f"{grpo.config.reward.weights['format']:g}",
    }


def flat_group() -> dict[str, str]:
    """Eight equal rewards of 0.1, added up one by one in fp32: what the bare formula makes of them, and the engine."""
    value, size = torch.tensor(0.1), 8
    centred = value - sum([value] * size, torch.tensor(0.0)) / size
    bare = centred / (centred.abs() * (size / (size - 1)) ** 0.5 + 1e-4)
    if centred == 0 or group_advantages(value.repeat(1, size)).any():
        raise RuntimeError("the example of the flat group no longer shows what the page says of it")
    return {"flat_centred": f"{float(centred):.1e}", "flat_bare": f"{float(bare):.1e}"}


# ---- writing


def number(value: Tensor | float, places: int = 4) -> str:
    text = f"{float(value):.{places}f}"
    return text.lstrip("-") if float(text) == 0 else text


def shape(tensor: Tensor) -> str:
    return "(" + ", ".join(str(size) for size in tensor.shape) + ")"


def label_table(labels: Tensor, reference: Tensor) -> str:
    """What the labeler read, as words with their signs, over the 13 conditions of the signed vector."""
    words = ("", "positive +1", "negative -1", "uncertain +1")
    rows = [[name, *(words[int(row[i])] for row in [reference, *labels])] for i, name in enumerate(CONDITIONS[:13])]
    return markdown_table(["condition", "reference", *(f"report {i + 1}" for i in range(len(labels)))], rows)


def close(name: str, value: float, expected: float, tolerance: float) -> None:
    if not abs(value - expected) <= tolerance:
        raise RuntimeError(f"{name}: {value} and {expected} differ by more than {tolerance}; the page would be wrong")


def same_samples(ours: list[str], theirs: list[str]) -> None:
    if ours != theirs:
        raise RuntimeError("the engine's step sampled other reports than the page shows")


def excerpt(file: str, first: str, last: str) -> str:
    """The lines of a source file from the first that holds `first` to the next that holds `last`, without indent."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    start = next((i for i, line in enumerate(lines) if first in line), None)
    end = None if start is None else next((i for i in range(start, len(lines)) if last in lines[i]), None)
    if start is None or end is None:
        raise UserError(f"{TEMPLATE.name}: {file} has no lines from {first!r} to {last!r}; name others")
    indent = len(lines[start]) - len(lines[start].lstrip())
    body = "\n".join(line[indent:] for line in lines[start : end + 1])
    return f"```python\n# {file}\n{body}\n```"


def fill(template: str, values: dict[str, str]) -> str:
    """The template with its values and excerpts; each name must have a value, and each value a place."""
    unused = [name for name in values if f"<<{name}>>" not in template]
    if unused:
        raise UserError(f"{TEMPLATE.name} has no place for {', '.join(unused)}")
    text = re.sub(r"<<code (\S+): (.+?) \.\.\. (.+?)>>", lambda found: excerpt(*found.groups()), template)
    return re.sub(r"<<(\w+)>>", lambda found: values[found.group(1)], text)


def page(grpo: Grpo, study: Study) -> str:
    return fill(TEMPLATE.read_text(encoding="utf-8"), walk(grpo, study))


def main() -> None:
    argparse.ArgumentParser(description="Write docs/explanation/grpo.md and its picture anew.").parse_args()
    grpo = engine(settings())
    study = choose(grpo)
    PAGE.write_text(page(grpo, study), encoding="utf-8")
    open_image(study.images[0]).save(PICTURE)
    print(f"{study.id}: {PAGE.relative_to(ROOT)}, {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

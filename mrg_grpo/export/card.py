"""The model card of an exported run: what it is, how it was made, what it scored, how to use it, and what it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mrg_grpo import __version__
from mrg_grpo.config import Config
from mrg_grpo.data.credentialed import banner
from mrg_grpo.evaluation.clinical import TITLES
from mrg_grpo.evaluation.table import Number
from mrg_grpo.files import read_text
from mrg_grpo.hub import is_hub_id
from mrg_grpo.prompt import context_line, question
from mrg_grpo.toml import written_by_run

TASK = "image-text-to-text"
LIMITS = """\
* **Not for clinical use.** It is a research model. Nobody has tested it on patients, and no authority has cleared it.
* It writes fluent reports that can be wrong: it misses findings, invents others, and gets side and size wrong. The
  omission and hallucination rates above are of the labels of 13 conditions alone.
* Scores come from an automatic labeler, which errs too, and from one data set. Scores of another labeler, another
  convention or another test set cannot be compared with them.
"""


def card_of(run: Path, config: Config, base_id: str = "", best: bool = False, kept: float | None = None) -> str:
    """README.md of an export: metadata for the hub, then text. kept: share of the log-probability shift in a merged
    checkpoint; None for an adapter alone."""
    from huggingface_hub import ModelCardData

    base = base_id or (config.model.path if is_hub_id(config.model.path) else "")
    judged = evaluation_of(run, best)
    data = ModelCardData(
        base_model=base or None,
        library_name="transformers" if kept is not None else "peft",
        pipeline_tag=TASK,
        language="en",
        model_name=run.resolve().name,
        tags=["radiology", "chest-x-ray", "report-generation", "grpo", "lora", "mrg_grpo"],
        eval_results=results(config, judged) or None,
    )
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {run.resolve().name}\n\nIt writes chest X-ray reports, trained by {method(run)}. **Not for clinical use.**",
        *(text for text in banner(config).values()),
        f"## How it was made\n\n{table(made(run, config, base, kept))}",
        f"## Before and after training\n\n{scores(judged)}",
        f"## Limits\n\n{LIMITS}",
        f"## Use\n\n{usage(config, base, merged=kept is not None)}",
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def base_name(config: Config) -> str:
    """What the base is called where no id of the hub is known: no path, which tells of the machine."""
    if not config.model.path:
        return "the built-in base of mrg_grpo"
    return config.model.path if is_hub_id(config.model.path) else Path(config.model.path).name


def evaluation_of(run: Path, best: bool) -> dict[str, Any]:
    """The comparison that the run recorded for its last adapter, or for its best; {} where it has none."""
    try:
        record = json.loads(read_text(run / "evaluation.json"))
        chosen = record.get("best", {}) if best else {}
        own = chosen if "sides" in chosen else record
        which = {"metric": chosen["metric"], "value": chosen["value"]} if chosen else {}
        return {**record, **which, "step": own["step"], "sides": own["sides"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def whole_split(judged: dict[str, Any]) -> dict[str, Any]:
    """Of its sides that of all test studies."""
    return next(iter(judged.get("sides", {}).values()), {})


def results(config: Config, judged: dict[str, Any]) -> list[Any]:
    """For the hub's own table: the values after training, as EvalResult."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type=TASK, dataset_type=config.data.form, dataset_name=config.data.form, dataset_split="test",
            metric_type=name, metric_name=TITLES.get(name, name), metric_value=round(row["after"]["value"], 4),
        )
        for name, row in whole_split(judged).get("metrics", {}).items() if row["after"]["value"] is not None
    ]  # fmt: skip


def method(run: Path) -> str:
    """How a run trained, by the first line of its configuration."""
    is_warm_start = written_by_run(run / "config.toml") and read_text(run / "config.toml").startswith("# run of sft")
    return "supervised fine-tuning" if is_warm_start else "GRPO with clinical rewards (MRG-R1, arXiv 2512.16145)"


def made(run: Path, config: Config, base: str, kept: float | None) -> list[tuple[str, str]]:
    """Settings that decide what a policy has learned."""
    grpo, lora = config.grpo, config.lora
    rows = [
        ("base", base or base_name(config)),
        ("data", f"{config.data.form}, sections {' and '.join(config.data.sections)}, views {config.data.views}"),
        ("labeler", (config.labeler.path and Path(config.labeler.path).name) or "the built-in one of mrg_grpo"),
    ]
    if method(run).startswith("GRPO"):
        rows += [
            ("reward", " + ".join(f"{weight:g} {name}" for name, weight in config.reward.weights.items())),
            ("margin of MCCS", f"{config.reward.mccs.margin:g}"),
            *clinical_rows(config),
            ("steps", f"{config.run.steps:,} of {grpo.studies_per_step} studies, {grpo.group_size} reports each"),
            ("learning rate, beta", f"{grpo.learning_rate:g}, {grpo.beta:g}"),
        ]
    rows += [
        ("LoRA", f"rank {lora.rank}, alpha {lora.alpha}, on {', '.join(lora.targets) or 'all projections'}"),
        ("base weights in training", "4 bits (NF4)" if config.model.quantize == "nf4" else config.model.dtype),
        ("seed", str(config.run.seed)),
        ("made with", f"mrg_grpo {__version__}"),
    ]
    if kept is not None:
        rows.append(("kept in this checkpoint", f"{kept:.3f} of the log-probability shift that training made"))
    return rows


def clinical_rows(config: Config) -> list[tuple[str, str]]:
    """The settings of the term `clinical`, where it has a weight."""
    if not config.reward.weights.get("clinical"):
        return []
    return [("reward.clinical", ", ".join(f"{name} {value}" for name, value in vars(config.reward.clinical).items()))]


def table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value.replace('|', '/')} |" for name, value in rows)])


def scores(judged: dict[str, Any]) -> str:
    """The comparison with its intervals, and how to read it."""
    side = whole_split(judged)
    if not side:
        return "The run has recorded no comparison."
    lines = ["| metric | before | after | difference |", "|---|---|---|---|"]
    for name, row in side["metrics"].items():
        cells = (str(Number(**{k: float("nan") if v is None else v for k, v in row[part].items()})) for part in row)
        lines.append(f"| {TITLES.get(name, name)} | {' | '.join(cells)} |")
    chosen = f", chosen by {judged['metric']} {judged['value']:.3f} on validation" if "metric" in judged else ""
    return "\n".join(
        [
            f"{side['studies']:,} test studies, greedy decoding, after step {judged['step']}{chosen}.\n",
            *lines,
            "\nValues with 95% bootstrap intervals over studies; differences are resampled in pairs. Uncertain counts "
            f"as positive. Labeler: {judged.get('labeler') or 'not recorded'}. The margin of MCCS is "
            f"{judged.get('mccs_margin')}.",
        ]
    )


def known_of(config: Config) -> list[str]:
    """What stood in front of the question, where anything did."""
    asked = config.prompt.context
    if not asked:
        return []
    filled = {name: f"[{name}]" for name in asked} | {"prior_images": ("",) * ("prior_images" in asked)}
    line = context_line(filled, asked, images=1).strip()
    told = "In front of it, in a line of its own, stood what was known of a study; what was not known was left out:"
    return [told, f"```text\n{line}\n```"]


def usage(config: Config, base: str, merged: bool) -> str:
    """Five lines for each library, and the exact prompt."""
    asked = question(config.prompt.text, config.prompt.think)
    load = (
        'model = AutoModelForImageTextToText.from_pretrained("THIS_FOLDER", dtype="auto")'
        if merged
        else f'base = AutoModelForImageTextToText.from_pretrained("{base or "THE_BASE"}", dtype="auto")\n'
        'model = PeftModel.from_pretrained(base, "THIS_FOLDER")'
    )
    imports = "from transformers import AutoModelForImageTextToText, AutoProcessor"
    imports += "" if merged else "\nfrom peft import PeftModel"
    processor = "THIS_FOLDER" if merged else base or "THE_BASE"
    lines = [
        "It was trained on this question, word for word, behind the pictures:",
        f"```text\n{asked}\n```",
        *known_of(config),
        f"```python\n{imports}\n\n{load}\n"
        f'processor = AutoProcessor.from_pretrained("{processor}")\n'
        'content = [{"type": "image", "url": "xray.png"}, {"type": "text", "text": QUESTION}]\n'
        'inputs = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True,\n'
        '                                       tokenize=True, return_dict=True, return_tensors="pt")\n'
        f"print(processor.decode(model.generate(**inputs, max_new_tokens={config.sampling.max_tokens})[0]))\n```",
    ]
    lora = f" --enable-lora --lora-modules it=THIS_FOLDER --max-lora-rank {config.lora.rank}"
    serve = "THIS_FOLDER" if merged else f"{base or 'THE_BASE'}{lora}"
    return "\n\n".join([*lines, f"```bash\nvllm serve {serve}\n```"])

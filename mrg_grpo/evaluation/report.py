"""`mrg-grpo report`: one report for the user's own X-ray."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from mrg_grpo.config import CONTEXT, load_config
from mrg_grpo.data.study import NOTHING, Context, Study
from mrg_grpo.errors import UserError
from mrg_grpo.evaluation.decode import predict, require_shown, tell_unread
from mrg_grpo.model.policy import Policy
from mrg_grpo.run.folder import adapter_of

DRAWINGS = (
    ": the embedded policy has only ever seen rendered phantoms (synthetic X-rays); of a real one it writes the form "
    "of a report and no more"
)


def run_report(
    images: list[str],
    config_path: str | None = None,
    overrides: list[str] | None = None,
    adapter: str | None = None,
    base: bool = False,
    best: bool = False,
    as_json: bool = False,
    each: bool = False,
    known: list[str] | None = None,
) -> int:
    """Print one report of all images, or of each. Without a configuration the embedded policy writes it.

    known: what stands in front of the question, each NAME=TEXT with a name of prompt.context.
    Of several studies one that cannot be shown is named, and costs the others nothing; the exit code is 2 then.
    """
    config = load_config(config_path, overrides)
    context = context_of(known or [])
    config.prompt.context = [name for name in CONTEXT if name in config.prompt.context or getattr(context, name)]
    if config_path:
        adapter = adapter_of(config, adapter, base, best)
    groups = [[image] for image in images] if each else [images]
    policy = Policy.load(config, adapter=adapter, trainable=False)
    print(f"not for clinical use{'' if config.model.path else DRAWINGS}", file=sys.stderr)
    studies = [Study(Path(group[0]).stem, tuple(group), "", "own", context=context) for group in groups]
    predictions = predict(policy, studies, config)
    require_shown(predictions)
    tell_unread(predictions)
    for study, text, completion in zip(predictions.studies, predictions.generated, predictions.parsed):
        if as_json:
            record = {"images": list(study.images), "report": completion.report, "think": completion.think,
                      "compliant": completion.compliant, "generated": text}  # fmt: skip
            print(json.dumps(record, ensure_ascii=False))
        else:
            head = f"{', '.join(study.images)}:\n" if len(groups) > 1 else ""
            print(f"{head}{completion.report}")
    return 2 if predictions.unread else 0


def context_of(known: list[str]) -> Context:
    """NAME=TEXT, of the names that are text -> the context; UserError for another."""
    names = [name for name in CONTEXT if name != "prior_images"]
    pairs = [entry.partition("=") for entry in known]
    for name, mark, _ in pairs:
        if not mark or name not in names:
            raise UserError(f"--context {name}: write NAME=TEXT, with a name of {', '.join(names)}")
    texts = {name: " ".join(text.split()) for name, _, text in pairs}
    return replace(NOTHING, **texts)  # type: ignore[arg-type]

"""`mrg-grpo report`: one report for the user's own X-ray."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mrg_grpo.config import load_config
from mrg_grpo.data.study import Study
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
) -> int:
    """Print one report of all images, or of each. Without a configuration the embedded policy writes it.

    Of several studies one that cannot be shown is named, and costs the others nothing; the exit code is 2 then.
    """
    config = load_config(config_path, overrides)
    if config_path:
        adapter = adapter_of(config, adapter, base, best)
    groups = [[image] for image in images] if each else [images]
    policy = Policy.load(config, adapter=adapter, trainable=False)
    print(f"not for clinical use{'' if config.model.path else DRAWINGS}", file=sys.stderr)
    studies = [Study(Path(group[0]).stem, tuple(group), "", "own") for group in groups]
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

"""The tables of the labeler in docs/results/built-in.md, out of experiments/results/labeler.json.

python -m experiments.audits.labeler_page        # from the stored scores, without labelling anything anew
"""

import json
from pathlib import Path

from experiments.docs import sections
from mrg_grpo.labels import CONDITIONS

SECTION = "labeler scores"
RESULTS = Path("experiments/results/labeler.json")
PAGE = Path("docs/results/built-in.md")


def markdown(scores: dict) -> str:
    """Everything between the markers."""
    return "\n".join([*summary(scores), "", *by_condition(scores)])


def summary(scores: dict) -> list[str]:
    """One line per score; the published rule labeler beside it where it has one."""
    own, rule = scores["iu_against_chexbert"], scores["rule_labeler_against_chexbert"]
    mesh, turned = scores["iu_against_mesh"], scores["turned_denials"]
    real = f"{own['reports']:,} real reports against CheXbert"
    rows = [
        (f"micro F1 of positive or uncertain, 13 conditions, {real}", own["positive_micro_f1"],
         rule["positive_micro_f1"]),
        (f"micro F1 of negative, {real}", own["negative_micro_f1"], rule["negative_micro_f1"]),
        (f"mean cosine of signed vectors, {real}", own["mean_cosine"], rule["mean_cosine"]),
        (f"micro F1 of positive, {mesh['reports']:,} real reports against people's index terms", mesh["micro_f1"],
         None),
        ("the same with uncertain counted as positive", mesh["micro_f1_with_uncertain"], None),
        (f"mean F1, {scores['phantom_heldout']['reports']:,} phantom reports in held-out phrases",
         scores["phantom_heldout"]["mean_f1"], None),
    ]  # fmt: skip
    for where, part in (("whole real reports", turned["reports"]), ("single real sentences", turned["sentences"])):
        denials = f'{part["denials"]:,} denials with the "no" taken out, {where}'
        rows.append((f"{denials}: share read as findings", part["read_as_findings"], None))
    rows.append(
        ('the same sentences with "Possible" in front: share read as uncertain',
         turned["sentences"]["read_as_uncertain"], None)
    )  # fmt: skip
    lines = ["| score | built-in labeler | rule labeler |", "|---|---|---|"]
    return lines + [
        f"| {title} | {ours:.3f} | {'' if other is None else f'{other:.3f}'} |" for title, ours, other in rows
    ]


def by_condition(scores: dict) -> list[str]:
    """F1 of each condition with its number of cases; blank where there are none."""
    own, rule, mesh = (
        scores[name]["by_condition"]
        for name in ("iu_against_chexbert", "rule_labeler_against_chexbert", "iu_against_mesh")
    )
    heads = ("condition", "positive", "cases", "negative", "cases", "rule, positive", "rule, negative", "index terms",
             "cases")  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in CONDITIONS:
        cells: list[str] = []
        for kind in ("positive", "negative"):
            count = own[name][f"{kind}_n"]
            cells += [f"{own[name][f'{kind}_f1']:.3f}", f"{count:,}"] if count else ["", ""]
        cells += [
            f"{rule[name][f'{kind}_f1']:.3f}" if own[name][f"{kind}_n"] else "" for kind in ("positive", "negative")
        ]
        cells += [f"{mesh[name]['f1']:.3f}", f"{mesh[name]['n']:,}"] if name in mesh else ["", ""]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def redraw() -> None:
    """From the stored scores."""
    sections.rewrite(PAGE, {SECTION: markdown(json.loads(RESULTS.read_text(encoding="utf-8")))})


if __name__ == "__main__":
    redraw()

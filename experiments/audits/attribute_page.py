"""The tables of sides and sizes in docs/results/built-in.md, out of experiments/results/attributes.json.

python -m experiments.audits.attribute_page        # from the stored scores, without reading anything anew
"""

import json
from pathlib import Path

from experiments.docs.sections import markdown_table, rewrite
from mrg_grpo.attributes import SIDES, SIZES
from mrg_grpo.labels import CONDITIONS

SECTION = "attribute scores"
RESULTS = Path("experiments/results/attributes.json")
PAGE = Path("docs/results/built-in.md")
COMMAND = f"python -m experiments.audits.attribute_scores --out {RESULTS} --docs"


def markdown(scores: dict) -> str:
    """Everything between the markers."""
    mesh = scores["mesh"]
    parts = [markdown_table(("reports", "side", "findings", "size", "findings"), summary(scores)), ""]
    for kind, names in (("side", SIDES), ("size", SIZES)):
        parts += [
            f"Real reports, {kind}: rows are people's terms, columns what is read, where the condition is read "
            f"({mesh[kind]['of_these_the_condition_is_read']:,} of {mesh[kind]['people_name_one']:,}).",
            "",
            markdown_table(
                ("people", *names), [(names[i], *map(str, mesh[kind]["confusion"][i])) for i in range(1, 4)]
            ),
            "",
        ]
    parts.append(markdown_table(("condition", "side", "findings", "size", "findings"), by_condition(mesh)))
    return "\n".join(parts)


def summary(scores: dict) -> list[list[str]]:
    """One line per kind of report."""
    phantom, grammar, mesh = scores["phantom_heldout"], scores["grammar"], scores["mesh"]
    rows = []
    for title, own in (
        (f"{phantom['reports']:,} phantom reports in held-out phrases, all findings", phantom),
        (f"{grammar['reports']:,} new reports of the grammar, all findings", grammar),
        (f"{mesh['reports']:,} real reports, where people's terms and the labeler name one", mesh),
    ):
        rows.append([title, *cells(own["side"]), *cells(own["size"])])
        if "where_one_is_said" in own["side"]:
            said = [cell for kind in ("side", "size") for cell in cells(own[kind]["where_one_is_said"])]
            rows.append(["of these, where the report says one", *said])
    rows.append(["of these, where both name left or right alone", *cells(mesh["left_or_right"]), "", ""])
    return rows


def cells(score: dict) -> list[str]:
    """Accuracy with its interval, and the number of findings."""
    return [f"{score['accuracy']:.3f} [{score['low']:.3f}, {score['high']:.3f}]", f"{score['n']:,}"]


def by_condition(mesh: dict) -> list[list[str]]:
    """Accuracy against people's terms of each condition that has any."""
    rows = []
    for name in CONDITIONS[:13]:
        own = [mesh[kind]["by_condition"].get(name) for kind in ("side", "size")]
        if any(own):
            parts = [(f"{score['right'] / score['n']:.3f}", f"{score['n']:,}") if score else ("", "") for score in own]
            rows.append([name, *parts[0], *parts[1]])
    return rows


def redraw() -> None:
    """From the stored scores."""
    rewrite(PAGE, {SECTION: markdown(json.loads(RESULTS.read_text(encoding="utf-8")))})


if __name__ == "__main__":
    redraw()

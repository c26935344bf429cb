"""docs/results/ablations.md out of the kept records: one section per experiment, rewritten between its two markers.

Records of another configuration make a page of the same kind in their own folder.
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.ablations.ablation import PAGE, Bench
from experiments.ablations.ablation_claims import claim_head, claim_row, claim_table
from experiments.ablations.ablation_pictures import PICTURED, pictures
from experiments.ablations.ablation_results import Result, beside, control_of, left_out, results_of
from experiments.ablations.ablation_tables import (
    agreement,
    choice_table,
    description_table,
    efficacy_table,
    form_table,
    setting_table,
    signal_table,
)
from experiments.docs import charts, sections

HEADS = {
    "settings": ("What differs", "Reward weights, margin and every other setting that differs. All else is equal."),
    "reached": ("What each arm reaches", "The main scores with 95% intervals over studies, and p-values against the "
                "control. The last column shows how far training seeds are apart."),
    "claims": ("Sentences and verdicts", "Each sentence with its difference over studies and seed by seed. A sentence "
               "holds only if every seed agrees."),
    "form": ("Apart from the form", "The same differences on studies in which the start already kept to the form. "
             "What an arm gains here is more than learning the form."),
    "written": ("How the reports read", "What the reports mention, omit and invent, how long they are, and how long "
                "training took. Means over seeds."),
    "signal": ("What was left to learn from", "How many sampled reports earn nothing and how many groups teach "
               "nothing, early and late. A reward without spread cannot teach."),
    "choice": ("What chose the default", "The final adapters on the validation split, which has the only say. The test "
               "split has none."),
    "training": ("Over training", "The validation and sampling curves of every arm. Early speed and late drift show "
                 "here."),
}  # fmt: skip
"""Part of a section -> its heading and what a reader learns from it."""


def section(bench: Bench, results: Sequence[Result]) -> str:
    """What stands between an experiment's markers."""
    control = control_of(bench, results)
    script = f"experiments/ablations/ablate_{bench.experiment.name}.py"
    script += f" --config {bench.config}" if bench.page != PAGE else ""
    old, runs = left_out(bench), sum(len(result.records) for result in results)
    choice = choice_table(results) if bench.experiment.choosing else []  # records of shared arms have it too
    apart = bool(control and beside(control, results))
    pictures = [f"![{what}](images/ablation_{bench.name}_{picture}.svg)" for picture, (what, _) in PICTURED.items()]
    lines = [f"## {bench.experiment.question}{' (quick)' if bench.label else ''}", "", bench.experiment.about, ""]
    lines += [f"`python {script}{' --quick' if bench.label else ''}`, {runs} runs.", ""]
    lines += [f"Left out, since their settings are no longer the arm's: {', '.join(old)}.", ""] if old else []
    lines += part("settings", setting_table(results, control))
    lines += part("reached", [f"![results](images/ablation_{bench.name}.svg)", "", *efficacy_table(results, control),
                              "", *agreement(results)])  # fmt: skip
    if apart and control:
        lines += [f"![differences from {control.arm.name}](images/ablation_{bench.name}_differences.svg)", ""]
    lines += part("claims", claim_table(bench, results))
    lines += part("form", form_table(results))
    lines += part("written", description_table(results))
    lines += part("signal", signal_table(results))
    lines += part("choice", choice)
    lines += part("training", [line for picture in pictures for line in (picture, "")])
    return "\n".join(lines)


def part(name: str, body: Sequence[str]) -> list[str]:
    """A heading, what a reader learns, and the body; nothing where that is empty."""
    title, learned = HEADS[name]
    return [f"### {title}", "", learned, "", *body, ""] if body else []


def paper_section(bench: Bench, results: Sequence[Result]) -> str:
    """The paper's sentences, with what this experiment has seen of each."""
    rows = [row for claim in bench.experiment.claims if claim.of_paper and (row := claim_row(claim, results))]
    return "\n".join([f"**{bench.experiment.question}**", "", *claim_head("sentence", results), *rows, ""])


def write_page(bench: Bench) -> None:
    """Put the experiment's section and pictures in place; nothing where no arm is finished."""
    results, page = results_of(bench), bench.page
    if not results:
        print(f"{bench.name}: no records yet, {page} stays as it is")
        return
    for name, svg in pictures(bench, results).items():
        charts.write(page.parent / "images" / name, svg)
    if not page.exists():
        page.write_text(f"# Ablations of {bench.config}\n", encoding="utf-8")
    mark, paper = f"ablation {bench.name}", f"ablation paper {bench.name}"
    asked = sections.marker(paper) in page.read_text(encoding="utf-8")
    sections.rewrite(
        page,
        {mark: section(bench, results), **({paper: paper_section(bench, results)} if asked else {})},
    )
    print(f"{page}: {bench.name}")

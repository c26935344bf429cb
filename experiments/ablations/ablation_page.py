"""docs/ablations.md out of the kept records: one section per experiment, rewritten between its two markers.

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


def section(bench: Bench, results: Sequence[Result]) -> str:
    """What stands between an experiment's markers."""
    control = control_of(bench, results)
    script = f"experiments/ablations/ablate_{bench.experiment.name}.py"
    script += f" --config {bench.config}" if bench.page != PAGE else ""
    claims, old = claim_table(bench, results), left_out(bench)
    records = [record for result in results for record in result.records.values()]
    lines = [f"## {bench.experiment.question}{' (quick)' if bench.label else ''}", ""]
    lines += [f"`python {script}{' --quick' if bench.label else ''}`, {len(records)} runs.", ""]
    lines += [f"Left out, since their settings are no longer the arm's: {', '.join(old)}.", ""] if old else []
    lines += [*setting_table(results, control), ""] if control else []
    lines += [f"![results](images/ablation_{bench.name}.svg)", ""]
    if control and beside(control, results):
        lines += [f"![differences from {control.arm.name}](images/ablation_{bench.name}_differences.svg)", ""]
    lines += [*efficacy_table(results, control), "", *agreement(results)]
    lines += [*claims, ""] if claims else []
    lines += form_table(results)
    lines += [*description_table(results), "", *signal_table(results), ""]
    choice = choice_table(results) if bench.experiment.choosing else []  # records of shared arms have it too
    lines += [*choice, ""] if choice else []
    for picture, (what, _) in PICTURED.items():
        lines += [f"![{what}](images/ablation_{bench.name}_{picture}.svg)", ""]
    return "\n".join(lines)


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

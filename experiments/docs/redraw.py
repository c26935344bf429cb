"""Every page and picture that programs write, from the code and the kept records; runs nothing. About four minutes.

python -m experiments.docs.redraw
"""

from experiments.ablations import (
    ablate_format,
    ablate_group,
    ablate_margin,
    ablate_rare,
    ablate_rewards,
    ablate_room,
    collect_seeds,
)
from experiments.ablations.ablation import Bench
from experiments.ablations.ablation_page import write_page
from experiments.audits import attribute_page, audit_page, iu_baselines, labeler_page, radiologists
from experiments.benchmarks import performance_page
from experiments.checks import ceiling, choosing_studies
from experiments.docs import reference, step_diagram


def main() -> None:
    reference.write()
    audit_page.redraw()
    iu_baselines.redraw()
    labeler_page.redraw()
    attribute_page.redraw()
    radiologists.redraw()
    ceiling.redraw()
    choosing_studies.redraw()
    performance_page.write()
    collect_seeds.redraw()
    step_diagram.redraw()
    for module in (ablate_rewards, ablate_rare, ablate_room, ablate_margin, ablate_format, ablate_group):
        write_page(Bench(module.EXPERIMENT))


if __name__ == "__main__":
    main()

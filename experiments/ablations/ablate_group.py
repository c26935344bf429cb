"""How many reports of one study: G x N = 64 reports a step, from many studies with two reports to four with sixteen.

    python experiments/ablations/ablate_group.py --seeds 0 1 2

The number of sampled reports is the same in every arm; the number of pictures that are read is not. How the seconds of
a step grow with G: docs/results/performance.md.
"""

from experiments.ablations.ablation import Arm, Claim, Experiment
from experiments.ablations.ablation_command import main

EXPERIMENT = Experiment(
    name="group",
    question="Which group size, at 64 reports a step",
    about="Two to sixteen reports of each study, at the same number of reports a step. It shows whether more reports "
    "of fewer studies teach more than fewer reports of more.",
    arms=tuple(
        Arm(f"g{g}", f"G = {g}, N = {64 // g}", (f"grpo.group_size={g}", f"grpo.studies_per_step={64 // g}"))
        for g in (2, 4, 8, 16)
    ),
    control="g8",
    quick=("g8", "g4"),
    claims=tuple(
        Claim("More reports of fewer studies help", f"g{more}", f"g{less}") for less, more in ((2, 4), (4, 8), (8, 16))
    ),
)

if __name__ == "__main__":
    main(EXPERIMENT)

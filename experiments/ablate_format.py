"""Does the form matter: without the format term, and without thinking?

    python experiments/ablate_format.py --seeds 0 1 2

The base was warm-started to think, and was never asked for a report alone. To start both ways of answering alike, each
first gets the same short token-level training in its own form (60 steps of 16 studies, on the training references):
"think" and "no think" below continue those two adapters, and are to be compared with each other, not with the arms that
start from the base, since those 60 steps teach something of the task too.
"""

from ablation import Arm, Experiment
from ablation_command import main

CE_F1 = ("reward.weights.mccs=0", "reward.weights.ce_f1=0.75")
NO_FORMAT = ("reward.weights.format=0",)
NO_THINK = ("prompt.think=false",)
SHORT = ("run.steps=60",)

EXPERIMENT = Experiment(
    name="format",
    question="Format term and thinking",
    arms=(
        Arm("mccs", "MCCS and format"),
        Arm("mccs-no-format", "MCCS alone", NO_FORMAT),
        Arm("ce_f1", "CE-F1 and format", CE_F1),
        Arm("ce_f1-no-format", "CE-F1 alone", CE_F1 + NO_FORMAT),
        Arm("start-think", "60 steps of sft, thinking", SHORT, command="sft", shown=False),
        Arm("start-no-think", "60 steps of sft, report alone", SHORT + NO_THINK, command="sft", shown=False),
        Arm("mccs-think", "MCCS, think, from 60 steps of sft", start="start-think"),
        Arm("mccs-no-think", "MCCS, no think, from 60 steps of sft", NO_THINK, start="start-no-think"),
        Arm("ce_f1-think", "CE-F1, think, from 60 steps of sft", CE_F1, start="start-think"),
        Arm("ce_f1-no-think", "CE-F1, no think, from 60 steps of sft", CE_F1 + NO_THINK, start="start-no-think"),
    ),
    control="mccs",
    quick=("mccs", "mccs-no-format"),
)

if __name__ == "__main__":
    main(EXPERIMENT)

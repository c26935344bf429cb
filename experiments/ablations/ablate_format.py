"""Does the form matter: without the format term, and without thinking?

    python experiments/ablations/ablate_format.py --seeds 0 1 2

The base was warm-started to think, and was never asked for a report alone. So each way of answering first gets the
same short token-level training in its own form (60 steps of 16 studies, on the training references). The arms "think"
and "report alone" continue those two adapters, and are to be compared with each other, not with the arms that start
from the base, since those 60 steps teach something of the task too. They do not make the starts equal: the base's
habit stays an advantage of "think". Token-level training goes on from either too, for the time of the MCCS arm beside
it: rewards against tokens without a change of form, and without labels in a target.
"""

from experiments.ablations.ablation import Arm, Claim, Experiment
from experiments.ablations.ablation_command import main

MCCS, CE_F1 = ("mccs",), ("ce_f1",)
NO_THINK = ("prompt.think=false",)
SHORT = ("run.steps=60",)
RATE = ("sft.learning_rate=@grpo.learning_rate",)
THINK, ALONE = "think, sft first", "report alone, sft first"  # longer ones do not fit beside the bars

EXPERIMENT = Experiment(
    name="format",
    question="Format term and thinking",
    about="With and without the format term, with and without a think block. It shows what the form of the answer is "
    "worth, apart from what the report says.",
    arms=(
        Arm("mccs", "MCCS and format", task=MCCS),
        Arm("mccs-no-format", "MCCS alone", task=MCCS, form=False),
        Arm("ce_f1", "CE-F1 and format", task=CE_F1),
        Arm("ce_f1-no-format", "CE-F1 alone", task=CE_F1, form=False),
        Arm("start-think", "60 steps of sft, thinking", SHORT, command="sft", shown=False),
        Arm("start-no-think", "60 steps of sft, report alone", SHORT + NO_THINK, command="sft", shown=False),
        Arm("mccs-think", f"MCCS, {THINK}", start="start-think", task=MCCS),
        Arm("mccs-no-think", f"MCCS, {ALONE}", NO_THINK, start="start-no-think", task=MCCS),
        Arm("ce_f1-think", f"CE-F1, {THINK}", start="start-think", task=CE_F1),
        Arm("ce_f1-no-think", f"CE-F1, {ALONE}", NO_THINK, start="start-no-think", task=CE_F1),
        Arm("sft-think", f"token-level, {THINK}", RATE, "sft", "start-think", same_time_as="mccs-think"),
        Arm(
            "sft-no-think",
            f"token-level, {ALONE}",
            RATE + NO_THINK,
            "sft",
            "start-no-think",
            same_time_as="mccs-no-think",
        ),
    ),
    control="mccs",
    quick=("mccs", "mccs-no-format"),
    claims=(
        Claim("The format term helps", "mccs", "mccs-no-format"),
        Claim("The format term helps", "ce_f1", "ce_f1-no-format"),
        Claim("Thinking helps", "mccs-think", "mccs-no-think"),
        Claim("Thinking helps", "ce_f1-think", "ce_f1-no-think"),
        Claim("MCCS beats CE-F1", "mccs-think", "ce_f1-think", of_paper=True),
        Claim("MCCS beats CE-F1", "mccs-no-think", "ce_f1-no-think", of_paper=True),
        Claim("Label rewards beat token-level supervision", "mccs-think", "sft-think", of_paper=True),
        Claim("Label rewards beat token-level supervision", "mccs-no-think", "sft-no-think", of_paper=True),
    ),
)

if __name__ == "__main__":
    main(EXPERIMENT)

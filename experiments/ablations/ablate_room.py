"""Which reward, where there is much to learn and the reward decides what.

    python experiments/ablations/ablate_room.py --seeds 0 1 2 --jobs 2

The other benches are learned within a few steps, so rewards can hardly differ there. Here the start is a writer in a
hurry (`HASTE` in mrg_grpo/data/phantom/case.py): token-level training on `phantom_hasty`, whose reports leave out and
deny one kind of finding and invent another. All arms go on from it on `phantom_room`: half of the phantom's findings,
and reports that also speak of what no label stands for. experiments/checks/ceiling.py says how much the tower sees.

The oracle (oracle.py) pays what micro F1 counts. It shows that there is something to learn in every part of the run.
"""

from dataclasses import replace

from experiments.ablations.ablate_rare import CLAIMS, CLINICAL
from experiments.ablations.ablation import Arm, Claim, Experiment
from experiments.ablations.ablation_command import main

HASTE = ("data.form=phantom_hasty", "run.steps=200", "sft.batch_size=24", "sft.learning_rate=1e-3")

EXPERIMENT = Experiment(
    name="room",
    question="Which reward, where there is much to learn",
    about="The start denies, leaves out and invents by condition, far below what its tower sees. It shows "
    "what each reward puts right, beside an oracle that knows the metric and is paid for micro F1 itself.",
    settings=("data.form=phantom_room", "run.steps=120"),
    arms=(
        Arm("start", "the hasty start", HASTE, "sft"),
        Arm("oracle", "GRPO, paid for micro F1", task=("experiments.ablations.oracle:oracle",), start="start"),
        Arm("mccs", "GRPO, MCCS (margin {margin})", task=("mccs",), start="start"),
        Arm("mccs-0.2", "GRPO, MCCS (margin {margin})", ("reward.mccs.margin=0.2",), task=("mccs",), start="start"),
        Arm("ce_f1", "GRPO, CE-F1", task=("ce_f1",), start="start"),
        Arm(
            "rarity-0.2",
            "GRPO, rarity MCCS (margin {margin})",
            ("reward.mccs.weighting=rarity", "reward.mccs.margin=0.2"),
            task=("mccs",),
            start="start",
        ),
        *(replace(arm, start="start") for arm in CLINICAL),
        Arm(
            "clinical-bleu-terms",
            "GRPO, the same, each term normalised",
            (*CLINICAL[-1].settings, "grpo.normalise=terms"),
            task=CLINICAL[-1].task,
            start="start",
        ),
    ),
    control="mccs",
    overview={
        "start": "no GRPO: the start",
        "mccs": "MCCS, margin 0.6",
        "mccs-0.2": "MCCS, margin 0.2",
        "ce_f1": "CE-F1",
        "rarity-0.2": "rarity MCCS",
        "clinical": "clinical",
        "clinical-bleu": "clinical and BLEU",
        "clinical-bleu-terms": "the same, each term normalised",
        "oracle": "micro F1 itself",
    },
    quick=("start", "oracle", "mccs", "ce_f1"),
    claims=(
        Claim("Paying for micro F1 itself teaches more", "oracle", "mccs"),
        Claim("Paying for micro F1 itself teaches more", "oracle", "ce_f1"),
        Claim("MCCS beats CE-F1", "mccs", "ce_f1", of_paper=True),
        Claim("MCCS beats CE-F1", "mccs-0.2", "ce_f1", of_paper=True),
        Claim("The margin helps", "mccs", "mccs-0.2"),
        Claim("Rarity weights help", "rarity-0.2", "mccs-0.2"),
        *CLAIMS,
        Claim("Normalising each term helps", "clinical-bleu-terms", "clinical-bleu"),
    ),
)

if __name__ == "__main__":
    main(EXPERIMENT)

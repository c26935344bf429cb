"""Which reward, where findings are as rare as in real reports and four words in ten carry no label.

    python experiments/ablations/ablate_rare.py --seeds 0 1 2

The same arms as in ablate_rewards.py on the data set `phantom_rare` (docs/results/built-in.md): a positive or uncertain
finding comes up as often as in IU X-Ray, 0.62 times a report, and denials fill the rest. The base was warm-started on
phantom reports, whose pictures show 2.6 times as many and whose incidental ones are not spoken of: like a model that
comes from other hospitals. Rarity weights are those of these training references.
"""

from dataclasses import replace

from experiments.ablations import ablate_rewards
from experiments.ablations.ablation import Arm, Claim
from experiments.ablations.ablation_command import main

LEFT_OUT = ("bleu", "rouge")  # the mix of both stands for NLG rewards

CLINICAL = (
    Arm("clinical", "GRPO, clinical (denial 0.1)", task=("clinical",)),
    Arm(
        "clinical-bleu",
        "GRPO, clinical (denial 0) and BLEU",
        ("reward.clinical.denial=0",),
        task=("clinical", "bleu"),
    ),
)
"""The terms that radiologists' ratings support (docs/results/radiologists.md)."""
LITTLE = "Little weight for denials helps"
RATED = "What radiologists agree with most teaches more"
CLAIMS = tuple(
    Claim(text, better, than)
    for text, better in ((LITTLE, "clinical"), (RATED, "clinical-bleu"))
    for than in ("mccs", "mccs-0.2", "ce_f1", "rarity-0.2")
)

EXPERIMENT = replace(
    ablate_rewards.EXPERIMENT,
    name="rare",
    question="Which reward, where findings are rare",
    about="The same arms where a finding is as rare as in real reports and four words in ten carry no label. It shows "
    "which conclusions survive when most of a report is denial.",
    overview={},
    settings=("data.form=phantom_rare",),
    arms=(*(arm for arm in ablate_rewards.EXPERIMENT.arms if arm.name not in LEFT_OUT), *CLINICAL),
    claims=(
        *(c for c in ablate_rewards.EXPERIMENT.claims if not {c.better, c.than} & set(LEFT_OUT)),
        *CLAIMS,
    ),
)

if __name__ == "__main__":
    main(EXPERIMENT)

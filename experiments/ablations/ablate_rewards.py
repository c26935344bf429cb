"""Which reward: the paper's comparison, on the embedded default.

    python experiments/ablations/ablate_rewards.py --seeds 0 1 2

* GRPO: the settings of experiments/phantom_bench.toml, a task term of weight 0.75 beside the format term of 0.25. The
  task term alone differs, with another configuration too. Without the format term, without thinking: ablate_format.py.
* Token-level training goes on from the same base, on the same references, for the time of the MCCS arm's steps, at its
  own learning rate and at GRPO's: neither was tuned. In that time it sees six to eight times as many studies; one arm
  sees just those that GRPO sees. Its targets hold a think block written from labels; one arm learns the report alone.
* The base keeps to the form in half of its reports, and learning the form alone gains: NLG rewards are held against an
  arm that is paid for nothing else.
* Rarity weights lower cosines, so a margin chosen for plain MCCS cuts more of them off: they get two margins.
"""

from experiments.ablations.ablation import Arm, Claim, Experiment
from experiments.ablations.ablation_command import main

RATE = ("sft.learning_rate=@grpo.learning_rate",)
STUDIES = "sft.batch_size=@grpo.studies_per_step"

EXPERIMENT = Experiment(
    name="rewards",
    question="Which reward",
    about="One start, one data set, one effort; only what a report is paid for differs. It shows what each reward "
    "teaches, and how far token-level training on the same references comes.",
    arms=(
        Arm("base", "warm start only", command="none"),
        Arm("mccs", "GRPO, MCCS (margin {margin})", task=("mccs",)),
        Arm("mccs-0.2", "GRPO, MCCS (margin {margin})", ("reward.mccs.margin=0.2",), task=("mccs",)),
        Arm("sft", "token-level, same time", command="sft", same_time_as="mccs"),
        Arm("sft-1e-3", "token-level, same time, GRPO's rate", RATE, "sft", same_time_as="mccs"),
        Arm("sft-studies", "token-level, same studies, GRPO's rate", (*RATE, STUDIES), "sft"),
        Arm(
            "sft-no-think",
            "token-level, report alone, GRPO's rate",
            (*RATE, "prompt.think=false"),
            "sft",
            same_time_as="mccs",
        ),
        Arm("format-only", "GRPO, format term alone", task=()),
        Arm("nlg", "GRPO, BLEU and ROUGE-L", task=("bleu", "rouge_l")),
        Arm("ce_f1", "GRPO, CE-F1", task=("ce_f1",)),
        Arm("unsigned", "GRPO, unsigned cosine", task=("unsigned_cosine",)),
        Arm("ccs", "GRPO, CCS (no margin)", task=("ccs",)),
        Arm("rarity", "GRPO, rarity MCCS (margin {margin})", ("reward.mccs.weighting=rarity",), task=("mccs",)),
        Arm(
            "rarity-0.2",
            "GRPO, rarity MCCS (margin {margin})",
            ("reward.mccs.weighting=rarity", "reward.mccs.margin=0.2"),
            task=("mccs",),
        ),
        Arm("bleu", "GRPO, BLEU", task=("bleu",)),
        Arm("rouge", "GRPO, ROUGE-L", task=("rouge_l",)),
    ),
    control="mccs",
    overview={
        "base": "no GRPO: the start",
        "format-only": "the form alone",
        "bleu": "BLEU",
        "rouge": "ROUGE-L",
        "unsigned": "label cosine, no sign",
        "ce_f1": "CE-F1",
        "mccs": "MCCS",
        "sft-studies": "token-level training",
    },
    quick=("base", "mccs", "sft", "nlg", "ce_f1", "rarity"),
    claims=(
        Claim("Label rewards beat token-level supervision", "mccs", "sft", of_paper=True),
        Claim("Label rewards beat token-level supervision", "mccs", "sft-1e-3", of_paper=True),
        Claim("Label rewards beat token-level supervision", "mccs", "sft-studies", of_paper=True),
        Claim("Label rewards beat token-level supervision", "mccs", "sft-no-think", of_paper=True),
        Claim("Label rewards beat token-level supervision", "ce_f1", "sft"),
        Claim("Token-level training gains by a think block of labels", "sft-1e-3", "sft-no-think"),
        Claim("NLG rewards help clinical efficacy", "nlg", "format-only", of_paper=True),
        Claim("NLG rewards help clinical efficacy", "bleu", "format-only"),
        Claim("NLG rewards help clinical efficacy", "rouge", "format-only"),
        Claim("Label rewards help clinical efficacy more than NLG rewards", "mccs", "nlg", of_paper=True),
        Claim("Label rewards help clinical efficacy more than NLG rewards", "mccs", "bleu"),
        Claim("Label rewards help clinical efficacy more than NLG rewards", "mccs", "rouge"),
        Claim("MCCS beats CE-F1", "mccs", "ce_f1", of_paper=True),
        Claim("MCCS beats CE-F1", "mccs-0.2", "ce_f1", of_paper=True),
        Claim("The sign helps", "ccs", "unsigned"),
        Claim("The margin helps", "mccs", "ccs"),
        Claim("Rarity weights help", "rarity", "mccs"),
        Claim("Rarity weights help", "rarity-0.2", "mccs-0.2"),
    ),
)

if __name__ == "__main__":
    main(EXPERIMENT)

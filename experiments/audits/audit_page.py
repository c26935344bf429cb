"""The tables and pictures of docs/results/reward-audit.md, out of experiments/results/reward_audit.json.

python experiments/audits/audit_page.py        # from the stored results, without scoring anything anew
"""

import json
from pathlib import Path

from experiments.audits import attacks
from experiments.audits.audited import GUARDED, GUARDS
from experiments.docs import charts, sections
from mrg_grpo.config import RewardConfig
from mrg_grpo.labels import CONDITIONS

SECTION = "reward_audit"
RESULTS = Path("experiments/results/reward_audit.json")
PAGE = Path("docs/results/reward-audit.md")
HONEST = "best_constant"
KINDS = (
    ("says the same in other words: should be paid 1", attacks.HARMLESS),
    ("the true report with one habit", attacks.CHANGED),
    (
        "needs no picture",
        {**attacks.BLIND, HONEST: "the best constant list of findings, denials and doubts found, each reward's own"},
    ),
)
SHOWN = {"omit_findings": "leaves out every finding (abnormal studies)", "negation_flip": "every denial turned around",
         "five_negatives": "five denials, always the same", "another_study": "the report of another study"}  # fmt: skip
"""The attacks of the pictures."""
SHORT = {"empty": "the empty report", "all_normal": "always the same normal report",
         "five_negatives": "five denials, always the same",
         "omit_findings": "leaves out every finding (abnormal studies)"}  # fmt: skip
CHOICE = ("CE-F1", "MCCS 0.2", "MCCS 0.6", "rarity MCCS 0.2", "clinical", "clinical d=0", "clinical d=0 + BLEU", "BLEU")
"""Attacks and rewards of the picture in docs/explanation/rewards.md."""
BREAK_EVEN = (
    "The probability above which it pays to state a condition, or a denial, that the reference may contradict. Above "
    "1/2 a reward teaches silence about what is more likely there than not; below, it teaches guessing."
)
LONG = ("copy", "repeated", "looped", "filled")
"""The true report and the attacks that `repetition` and `overlong` are there against."""
FLIPS = ("negation_flip", "negation_turned")
"""Of labels, and what of it a text can do: take a "no" away."""


def cell(triple: list[float]) -> str:
    return f"{triple[0]:.3f} [{triple[1]:.2f}, {triple[2]:.2f}]"


def attack_table(source: dict, studies: str) -> list[str]:
    """One row per attack, one column per reward."""
    table = source[studies]
    rewards = list(table["copy"])
    lines = [f"| attack | {' | '.join(rewards)} |", "|---" * (len(rewards) + 1) + "|"]
    for kind, members in KINDS:
        rows = [(name, title) for name, title in members.items() if name in table]
        if rows:
            lines.append(f"| *{kind}* |" + " |" * len(rewards))
        for name, title in rows:
            cells = [cell(table[name][reward]) if reward in table[name] else "" for reward in rewards]
            lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def cheapest(source: dict) -> dict[str, tuple[str, list[float]]]:
    """Reward -> the attack without a picture that it pays most on average over all studies, and what it pays.

    Not of the terms for length, which are no reward by themselves.
    """
    table = source["all"]
    blind = [name for name in (*attacks.BLIND, HONEST) if name in table]
    return {
        reward: max(((name, table[name][reward]) for name in blind if reward in table[name]), key=lambda pair: pair[1])
        for reward in table["copy"]
        if reward not in GUARDS
    }


def hack_table(source: dict) -> list[str]:
    """What each reward pays most for without a picture, and, in abnormal studies, for the worst habits."""
    titles = {**attacks.TITLES, HONEST: "best constant"}
    flip = next(name for name in FLIPS if name in source["all"])
    habits = ("omit_findings", flip, "findings_only")
    lines = [
        "| reward | cheapest of the hacks without a picture | pays |"
        f" {' | '.join(f'{attacks.TITLES[name]}, abnormal studies' for name in habits)} |",
        "|---" * (3 + len(habits)) + "|",
    ]
    for reward, (name, triple) in cheapest(source).items():
        title = titles[name]
        if name == HONEST and "best_constants" in source:
            title = f'"{source["best_constants"][reward]}"'
        cells = [cell(source["abnormal_studies"][attack][reward]) for attack in habits]
        lines.append(f"| {reward} | {title} | {cell(triple)} | {' | '.join(cells)} |")
    return lines


def length_table(source: dict) -> list[str]:
    """What reports that go on too long are paid: by each term, and by rewards without and with both."""
    alone, both = source["all"], source["guarded"]
    lines = [f"| reward | {' | '.join(attacks.TITLES[name] for name in LONG)} |", "|---" * (1 + len(LONG)) + "|"]
    for reward in GUARDS:
        lines.append(f"| *{reward}* | {' | '.join(cell(alone[name][reward]) for name in LONG)} |")
    for reward in GUARDED:
        cells = [f"{alone[name][reward][0]:.3f} -> {cell(both[name][reward])}" for name in LONG]
        lines.append(f"| {reward} | {' | '.join(cells)} |")
    return lines


def known_table(known: dict[str, list[float]], five: list[str]) -> list[str]:
    another = [f"{mean:.3f} ({sd:.3f})" for mean, sd in zip(known["another"], known["another_one_draw_sd"])]
    rows = [
        ("`five_negatives`: " + ", ".join(five) + " denied, nothing else; all 2,365 studies",
         [f"{x:.3f}" for x in known["five_negatives"]]),
        ("`another_study`: mean over all ordered pairs of studies (brackets: standard deviation of the mean where each"
         " study gets one random other report)", another),
        ("`omit_findings`: positive and uncertain labels made blank; the 914 studies that have one",
         [f"{x:.3f}" for x in known["omit_findings_abnormal"]]),
        ("`findings_only`: negative labels made blank; the same 914",
         [f"{x:.3f}" for x in known["findings_only_abnormal"]]),
    ]  # fmt: skip
    head = ["| mean signed cosine | plain | rarity-weighted |", "|---|---|---|"]
    return head + [f"| {title} | {plain} | {rare} |" for title, (plain, rare) in rows]


def break_even_table(source: dict) -> list[str]:
    """Where the reference is silent else, every reward asks for 1/2 or pays nothing: those cases are not shown."""
    cases = [case for case in next(iter(source["break_even"].values())) if "not mentioned" not in case]
    lines = [f"| reward | {' | '.join(cases)} |", "|---" * (1 + len(cases)) + "|"]
    for reward, shares in source["break_even"].items():
        cells = ["-" if shares[case] is None else f"{shares[case]:.2f}" for case in cases]
        lines.append(f"| {reward} | {' | '.join(cells)} |")
    return lines


def weight_table(source: dict) -> list[str]:
    """What an agreement weighs under rarity: w squared, of a finding and of a denial."""
    lines = ["| condition | agreed finding | agreed denial |", "|---|---|---|"]
    for name, *weights in zip(CONDITIONS, *source["weights"]):
        lines.append(f"| {name} | {' | '.join(f'{weight**2:.2g}' for weight in weights)} |")
    return lines


def faithful_table(sources: dict) -> list[str]:
    """Where a text is not read as it was written, the rows of that judge speak of the judge, not of the reward."""
    judged = [source for source in sources.values() if "faithful" in source]
    names = list(judged[0]["faithful"])
    written = [source for source in sources.values() if "turned" in source]
    turned = " and ".join(f"{s['turned']:.0%} of the denials in {s['source'].split(',')[0]}" for s in written)
    lines = [
        f'Denials with a "no", which the flip of a text turns, are {turned}.', "",
        "Share of the entries that the judge reads as the attack means them: of lists all that is written, of the same",
        "findings in other words all that the true report mentions, of the others what the attack changes.", "",
        f"| | {' | '.join(attacks.TITLES[name] for name in names)} |", "|---" * (len(names) + 1) + "|",
    ]  # fmt: skip
    for source in judged:
        shares = [f"{source['faithful'][name]:.2f}" for name in names]
        lines.append(f"| {source['source']} | {' | '.join(shares)} |")
    return lines


def markdown(results: dict) -> str:
    """Everything between the markers."""
    sources, lines = results["sources"], [f"`{results['command']}`, texts read by {results['labeler']}.", ""]
    lines += ["## The cheapest hacks", "", "What each reward pays a report that was written without the picture, and a "
              "report with one bad habit. The lower, the harder the reward is to game.", ""]  # fmt: skip
    for key in ("iu", "phantom"):
        lines += [f"![What each reward pays for](images/reward_audit_{key}.svg)", ""]
        for source in (sources[name] for name in sources if name.startswith(key)):
            lines += [f"{_sentence(source)}", "", *hack_table(source), ""]
    lines += ["## Repetition and length", "", "No label sees that a report says all of it again, or goes on with "
              "sentences that say nothing. What rewards pay for it, and what they pay with the terms `repetition` and "
              f"`overlong` beside them at {RewardConfig().weights['format']:g} each: without -> with. Limits are "
              f"{' and '.join(str(sources[f'{key}_text']['limit']) for key in ('iu', 'phantom'))} tokens.", "",
              "![Long reports, without and with both terms](images/reward_audit_length.svg)", ""]  # fmt: skip
    for key in ("iu", "phantom"):
        lines += [_sentence(sources[f"{key}_text"]), "", *length_table(sources[f"{key}_text"]), ""]
    lines += ["## Plain and rarity-weighted cosine", "", "Four attacks on real labels, with and without rarity "
              "weights. The weights take most from blind templates and add most to reports without denials.",
              ""]  # fmt: skip
    lines += [*known_table(results["known"], _five(sources)), ""]
    lines += [f"What an agreement weighs under rarity, w^2; {_sentence(sources['iu_labels'])}", ""]
    lines += [*weight_table(sources["iu_labels"]), "", "## How sure a sentence has to be", "", BREAK_EVEN, ""]
    for key in ("iu", "phantom"):
        lines += [f"{_sentence(sources[f'{key}_labels'])}", "", *break_even_table(sources[f"{key}_labels"]), ""]
    lines += ["## What the judges read", "", "A text attack works only as far as the labeler reads what it means. "
              "Where a share below is low, the rows of that judge speak of the judge and not of the reward.",
              ""]  # fmt: skip
    lines += [*faithful_table(sources), "", "## All attacks", "", "Every attack under every reward, by every judge: "
              "all studies first, then those with a finding. A perfect report earns 1.", ""]  # fmt: skip
    for source in sources.values():
        lines += [
            f"### {source['source'][0].upper()}{source['source'][1:]}",
            "",
            f"All {source['studies']:,} studies.",
            "",
        ]
        lines += [*attack_table(source, "all"), "", f"The {source['abnormal']:,} abnormal ones.", ""]
        lines += [*attack_table(source, "abnormal_studies"), ""]
    return "\n".join(lines)


def _sentence(source: dict) -> str:
    return f"{source['source'][0].upper()}{source['source'][1:]} ({source['studies']:,} studies):"


def _five(sources: dict) -> list[str]:
    return sources["iu_labels"]["five"]


def chart(source: dict) -> str:
    """The four attacks of SHOWN under each reward of labels."""
    rewards = list(source["all"]["copy"])
    groups = {
        reward: [
            tuple(source["abnormal_studies" if name == "omit_findings" else "all"][name][reward]) for name in SHOWN
        ]
        for reward in rewards
    }
    note = f"Mean reward, 95% interval; a perfect report is paid 1; {source['source']}, {source['studies']:,} studies"
    lowest = min(value for group in groups.values() for value, _, _ in group)
    title = "What each reward pays for reports that deserve nothing"
    return charts.bars(title, groups, list(SHOWN.values()), low=-1.0 if lowest < 0 else 0.0, note=note)


def short_chart(source: dict) -> str:
    """The rewards that there are to choose between, under the attacks that tell them apart."""
    groups = {
        reward: [
            tuple(source["abnormal_studies" if name == "omit_findings" else "all"][name][reward]) for name in SHORT
        ]
        for reward in CHOICE
    }
    note = f"Mean reward, 95% interval; the true report is paid 1; {source['source']}, {source['studies']:,} studies"
    return charts.bars("What each reward pays an attacker", groups, list(SHORT.values()), note=note)


def length_chart(source: dict) -> str:
    """The long reports under each reward without and with both terms."""
    shown = LONG[1:]
    groups = {
        title: [tuple(source[part][name][reward]) for name in shown]
        for reward in GUARDED
        for title, part in ((reward, "all"), (f"{reward}, both terms", "guarded"))
    }
    note = f"Mean reward, 95% interval; the true report is paid 1; {source['source']}, {source['studies']:,} studies"
    titles = [attacks.TITLES[name] for name in shown]
    return charts.bars("Reports that go on too long", groups, titles, note=note)


def write_page(results: dict, page: Path) -> None:
    """Rewrite what stands between the two markers of the page, and the pictures beside it."""
    for key in ("iu", "phantom"):
        svg = chart(results["sources"][f"{key}_labels"])
        charts.write(page.parent / "images" / f"reward_audit_{key}.svg", svg)
    for name, draw in (("length", length_chart), ("short", short_chart)):
        charts.write(page.parent / "images" / f"reward_audit_{name}.svg", draw(results["sources"]["iu_text"]))
    sections.rewrite(page, {SECTION: markdown(results)})


def redraw() -> None:
    """From the stored results."""
    write_page(json.loads(RESULTS.read_text(encoding="utf-8")), PAGE)


if __name__ == "__main__":
    redraw()

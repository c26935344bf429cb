"""What each reward pays for reports that deserve it and for reports that do not: docs/results/reward-audit.md.

    python experiments/audits/reward_audit.py ../shared/data/iu_xray

Real IU X-Ray reports (training and validation; the test split is never read) and 2,000 phantom reports, each attacked
on labels (CheXbert's own of labels.jsonl, the phantom's own) and on texts, read by the labeler; phantom texts also by
the generator's own reader, so that a fault of the labeler can be told from one of the reward.
Attacks are defined in experiments/audits/attacks.py, what is audited in experiments/audits/audited.py.

Deliberate choices
* What an attack knows (the normal template, what is often denied, the rarity weights, the best constant) comes from
  training reports: IU's training split, 2,000 other phantom reports.
* 95% percentile bootstrap over studies, 10,000 resamples. "Abnormal": the reference has a finding, positive or
  uncertain, among the 13 conditions.
* RadEval's rewards, or your own: `--metric module:function`, with TRL's signature.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from experiments.audits import attacks
from experiments.audits.audit_page import LONG, write_page
from experiments.audits.audited import Reward, clinical_rewards, guarded, text_rewards, token_count
from experiments.audits.iu_baselines import load
from mrg_grpo.config import load_config
from mrg_grpo.data.phantom.case import case_labels, sample_case
from mrg_grpo.data.phantom.reader import read_labels
from mrg_grpo.data.phantom.text import write_report
from mrg_grpo.errors import UserError
from mrg_grpo.evaluation.baselines import baselines_from_labels
from mrg_grpo.evaluation.intervals import bootstrap
from mrg_grpo.labelers import load_labeler
from mrg_grpo.labels import BLANK, CONDITIONS, NEGATIVE, POSITIVE, UNCERTAIN
from mrg_grpo.rewards.external import ExternalReward
from mrg_grpo.rewards.mccs import clinical_cosine, rarity_weights

COMMAND = "python experiments/audits/reward_audit.py ../shared/data/iu_xray"
PHANTOMS = 2000
LIMITS = {"iu": "experiments/iu_xray.toml", "phantom": "experiments/phantom.toml"}
"""Corpus -> the configuration whose sampling.max_tokens is the longest report."""


@dataclass
class Corpus:
    """Reports to be copied and attacked, and the training reports that an attacker knows."""

    reports: list[str]
    labels: Tensor  # (S, 14)
    train_reports: list[str]
    train_labels: Tensor  # (R, 14)
    ids: list[str]
    paraphrases: list[str]
    limit: int
    """The longest report, in tokens."""

    def read_by(self, labeler) -> "Corpus":
        """The same reports with the labels that the labeler reads in them."""
        labels, train = labeler.label(self.reports).cpu(), labeler.label(self.train_reports).cpu()
        return Corpus(self.reports, labels, self.train_reports, train, self.ids, self.paraphrases, self.limit)


def limit_of(corpus: str) -> int:
    return load_config(LIMITS[corpus], ["data.root=any"] if corpus == "iu" else []).sampling.max_tokens


class Reader:
    """The phantom generator's own reader, where a labeler is asked for."""

    def label(self, reports: list[str]) -> Tensor:
        return read_labels(reports)


def iu_corpus(folder: Path) -> Corpus:
    """Training and validation reports with CheXbert's own labels; an attacker knows the training ones."""
    splits = load(folder)
    reports = splits["train"][0] + splits["val"][0]
    labels = torch.cat([splits["train"][1], splits["val"][1]])
    other = [attacks.reworded(report) for report in reports]
    return Corpus(reports, labels, *splits["train"], [str(i) for i in range(len(reports))], other, limit_of("iu"))


def phantom_corpus(count: int = PHANTOMS) -> Corpus:
    """Training studies `count` to 2 `count`, in the data set's words and in held-out ones; the first are known."""
    cases = [sample_case("train", i) for i in range(2 * count)]
    reports, labels = [write_report(case) for case in cases], torch.tensor([case_labels(case) for case in cases])
    other = [write_report(case, "heldout") for case in cases[count:]]
    ids = [case.key for case in cases[count:]]
    return Corpus(reports[count:], labels[count:], reports[:count], labels[:count], ids, other, limit_of("phantom"))


def best_constant(reward: Reward, train_labels: Tensor) -> list[int]:
    """The 13 class ids that pay most if written for every training study, by ascent from each blind attack.

    A step changes one condition or two. No proof that nothing pays more: three to the thirteen lists are not all tried.
    """
    references, times = train_labels.unique(dim=0, return_counts=True)  # (U, 14): reports repeat each other

    def pays(rows: Sequence[Sequence[int]]) -> Tensor:
        written = torch.stack([attacks.constant(row, 1)[0] for row in rows])[:, None]  # (rows, 1, 14)
        return (reward(written, references) * times).sum(dim=1) / times.sum()

    starts = sorted(attacks.blind_rows(train_labels).values(), key=lambda row: sum(label != BLANK for label in row))
    return max((ascended(row, pays) for row in starts), key=lambda end: end[1])[0]  # of equals the one from less


def ascended(row: Sequence[int], pays: Callable[[Sequence[Sequence[int]]], Tensor]) -> tuple[list[int], float]:
    """The row that no change of one or two conditions makes better, and what it pays."""
    row, best, both = list(row), float(pays([row])[0]), False
    while True:
        changed = one_changed(row)
        if both:  # many: only where no single change is better
            changed = list(dict.fromkeys(tuple(other) for one in changed for other in one_changed(one)))
        means = pays(changed)
        place = int(means.argmax())
        if means[place] > best + 1e-7:
            row, best, both = list(changed[place]), float(means[place]), False
        elif both:
            return row, best
        else:
            both = True


def one_changed(row: Sequence[int]) -> list[list[int]]:
    """The rows that differ from this one in at most one condition."""
    return [[*row[:i], label, *row[i + 1 :]] for i in range(13) for label in range(4)]


def attacked_labels(corpus: Corpus) -> dict[str, Tensor]:
    """Attack -> class ids (S, 14) of what is written, as a perfect writer would."""
    labels, studies = corpus.labels, len(corpus.labels)
    normal = baselines_from_labels(corpus.train_reports, corpus.train_labels, labels)["all_normal"]
    rows = attacks.blind_rows(corpus.train_labels)
    denials = attacks.denials(labels, corpus.train_labels)
    return {
        "copy": labels,
        "hedged": attacks.hedged(labels),
        "omit_findings": attacks.omit_findings(labels),
        "findings_only": attacks.findings_only(labels),
        "common_left_out": attacks.left_out(labels, denials["common"]),
        "rare_left_out": attacks.left_out(labels, denials["rare"]),
        "one_left_out": attacks.left_out(labels, denials["one"]),
        "one_turned": attacks.stated(labels, denials["one"]),
        "negation_flip": attacks.negation_flip(labels),
        "negation_turned": attacks.stated(labels, turned(corpus)),
        "all_normal": normal.labels,
        **{name: attacks.constant(row, studies) for name, row in rows.items()},
        "another_study": labels[attacks.others(studies)],
    }


def turned(corpus: Corpus) -> Tensor:
    """(S, 13) bool: the denials that the flip of the texts turns, as the generator's reader sees it."""
    flipped = [attacks.without_negation(report) for report in corpus.reports]
    return attacks.turned_by_text(corpus.labels, read_labels(corpus.reports), read_labels(flipped))


def attacked_texts(corpus: Corpus, labeler) -> dict[str, list[str]]:
    """Attack -> S reports."""
    reports, studies = corpus.reports, len(corpus.reports)
    said = sorted({sentence for report in reports for sentence in attacks.sentences(report)})
    labels_of = dict(zip(said, labeler.label(said).tolist()))
    normal = baselines_from_labels(corpus.train_reports, corpus.train_labels, corpus.labels)["all_normal"]
    rows = attacks.blind_rows(corpus.train_labels)
    return {
        "copy": reports,
        "paraphrase": corpus.paraphrases,
        "shuffled": [attacks.shuffled(report, key) for report, key in zip(reports, corpus.ids)],
        "repeated": [" ".join([report] * 3) for report in reports],
        "looped": [attacks.looped(report, token_count, corpus.limit) for report in reports],
        "filled": [attacks.filled(report, token_count, corpus.limit) for report in reports],
        "hedged": attacks.hedged_text(reports, labels_of),
        "omit_findings": attacks.keep_sentences(reports, labels_of, "omit_findings"),
        "findings_only": attacks.keep_sentences(reports, labels_of, "findings_only"),
        "negation_turned": [attacks.without_negation(report) for report in reports],
        "all_normal": normal.reports,
        **{name: [attacks.write_labels(row)] * studies for name, row in rows.items()},
        "another_study": [reports[i] for i in attacks.others(studies)],
    }


def score_labels(corpus: Corpus) -> dict[str, dict[str, Tensor]]:
    """Attack -> reward -> (S,). The best constant is each reward's own."""
    rewards = clinical_rewards(corpus.train_labels)
    table = {
        attack: {name: reward(labels, corpus.labels) for name, reward in rewards.items()}
        for attack, labels in attacked_labels(corpus).items()
    }
    studies = len(corpus.labels)
    constants = {name: best_constant(reward, corpus.train_labels) for name, reward in rewards.items()}
    table["best_constant"] = {
        name: rewards[name](attacks.constant(row, studies), corpus.labels) for name, row in constants.items()
    }
    return table


def score_texts(
    corpus: Corpus, texts_of: dict[str, list[str]], labels_of: dict[str, Tensor], metrics: Sequence[str]
) -> dict[str, dict[str, Tensor]]:
    """Attack -> reward -> (S,), lexical rewards too. Attacked texts and what the corpus's judge reads in them."""
    rewards, externals = clinical_rewards(corpus.train_labels), [ExternalReward(path) for path in metrics]
    table = {}
    for attack, texts in texts_of.items():
        labels = labels_of[attack]
        paid = {name: reward(labels, corpus.labels) for name, reward in rewards.items()}
        row = text_rewards(texts, corpus.reports, paid, corpus.limit)
        for external in externals:
            columns = {"reports": texts, "reference": corpus.reports, "study_id": corpus.ids}
            columns |= {"labels": labels.tolist(), "reference_labels": corpus.labels.tolist()}
            row[external.name], _ = external(texts, **columns, prompts=[""] * len(texts))
        table[attack] = row
        print(f"  {attack}: {', '.join(f'{name} {values.mean():.3f}' for name, values in row.items())}", flush=True)
    return table


def faithful(corpus: Corpus, labels_of: dict[str, Tensor]) -> dict[str, float]:
    """Share of entries that the judge reads as the attack means them.

    Of lists of conditions all that is written; of reworded reports all that the true report mentions; of the others
    what the attack changes.
    """
    rows, before = attacks.blind_rows(corpus.train_labels), corpus.labels[:, :13]
    read = {name: labels[:, :13] for name, labels in labels_of.items()}
    right = {
        name: (read[name][0] == torch.tensor(rows[name]))[torch.tensor(rows[name]) > 0]
        for name in ("five_negatives", "all_negative", "all_positive", "all_possible")
    }
    finding, denied = attacks.findings(corpus.labels), before == NEGATIVE
    right |= {
        **{name: (read[name] == before)[before != BLANK] for name in ("paraphrase", "repeated", "looped", "filled")},
        "hedged": (read["hedged"] == UNCERTAIN)[before == POSITIVE],
        "omit_findings": ~attacks.findings(labels_of["omit_findings"])[finding],
        "findings_only": (read["findings_only"] != NEGATIVE)[denied],
        "negation_turned": attacks.findings(labels_of["negation_turned"])[turned(corpus)],
    }
    return {name: round(hits.double().mean().item(), 5) for name, hits in right.items()}


def means(table: dict[str, dict[str, Tensor]], chosen: Tensor, resamples: int) -> dict:
    """Attack -> reward -> (mean, low, high) over the chosen studies (S,), all from the same draws."""
    cells = [(attack, reward) for attack, row in table.items() for reward in row]
    values = torch.stack([table[attack][reward] for attack, reward in cells], dim=1)[chosen].double()  # (s, cells)
    statistics = torch.cat([values, torch.ones(len(values), 1, dtype=torch.double)], dim=1)
    interval = bootstrap(statistics, lambda sums: {"mean": sums[..., :-1] / sums[..., -1:]}, resamples)["mean"]
    result: dict = {attack: {} for attack in table}
    for (attack, reward), *triple in zip(
        cells, interval.value.tolist(), interval.low.tolist(), interval.high.tolist(), strict=True
    ):
        result[attack][reward] = [round(number, 5) for number in triple]
    return result


def break_even(corpus: Corpus) -> dict[str, dict[str, float | None]]:
    """How sure a writer must be for a sentence to pay, all else being right: reward -> case -> P.

    Of each report and condition three references are made, alike in all else: the condition stated, denied, not
    mentioned. gain: what the sentence earns over saying nothing of the condition where it is true; loss: what it costs
    where the reference is the `else` of the case. Both are means over all reports, and over conditions as often as each
    is stated (denied). Write it where P * gain > (1 - P) * loss, that is P > loss / (gain + loss); None where it
    neither earns nor costs.
    """
    labels, result = corpus.labels, {}
    share = {kind: (labels[:, :13] == kind).sum(dim=0).tolist() for kind in (POSITIVE, NEGATIVE)}
    for name, reward in clinical_rewards(corpus.train_labels).items():
        sums: dict[str, list[float]] = {case: [0.0, 0.0] for case in CASES}
        for i in range(13):
            versions = {label: with_label(labels, i, label) for label in (BLANK, POSITIVE, NEGATIVE)}
            pays = {
                (said, truth): reward(versions[said], versions[truth]).double().mean().item()
                for said in versions
                for truth in versions
            }
            for case, (said, other) in CASES.items():
                sums[case][0] += share[said][i] * (pays[said, said] - pays[BLANK, said])
                sums[case][1] += share[said][i] * (pays[BLANK, other] - pays[said, other])
        result[name] = {
            case: loss / (gain + loss) if gain + loss > 1e-9 else None for case, (gain, loss) in sums.items()
        }
    return result


CASES = {
    "finding, else not mentioned": (POSITIVE, BLANK),
    "finding, else denied": (POSITIVE, NEGATIVE),
    "denial, else not mentioned": (NEGATIVE, BLANK),
    "denial, else a finding": (NEGATIVE, POSITIVE),
}
"""What is said, and what the reference says where that is false."""


def with_label(labels: Tensor, condition: int, label: int) -> Tensor:
    """The same reports (S, 14) with this class of the condition."""
    changed = labels.clone()
    changed[:, condition] = label
    return changed


def known_figures(corpus: Corpus) -> dict[str, list[float]]:
    """The figures that issue trackers and papers can be held against, on labels: name -> [plain, rarity-weighted].

    Weights of all the reports here. "another": the exact mean over all ordered pairs of different reports; "one draw":
    standard deviation of the mean if each study is given one random other report instead.
    """
    labels, abnormal = corpus.labels, attacks.findings(corpus.labels).any(dim=1)
    studies = len(labels)
    template = attacks.constant(attacks.most_denied(labels), studies)
    table: dict[str, list[float]] = {}
    for weights in (None, rarity_weights(labels)):
        pairs = torch.stack([clinical_cosine(labels, one.expand_as(labels), weights) for one in labels]).double()
        apart = ~torch.eye(studies, dtype=torch.bool)
        numbers = {
            "five_negatives": clinical_cosine(template, labels, weights).double().mean(),
            "another": pairs[apart].mean(),
            "another_one_draw_sd": (pairs.masked_fill(~apart, 0).var(dim=1).mean() / studies).sqrt(),
            "omit_findings_abnormal": clinical_cosine(attacks.omit_findings(labels), labels, weights)[abnormal].mean(),
            "findings_only_abnormal": clinical_cosine(attacks.findings_only(labels), labels, weights)[abnormal].mean(),
        }
        for name, number in numbers.items():
            table.setdefault(name, []).append(round(float(number), 5))
    return table


def audit(name: str, corpus: Corpus, table: dict[str, dict[str, Tensor]], resamples: int) -> dict:
    """One source of the page."""
    abnormal = attacks.findings(corpus.labels).any(dim=1)
    everything = torch.ones_like(abnormal)
    return {
        "source": name,
        "studies": len(corpus.labels),
        "abnormal": int(abnormal.sum()),
        "all": means(table, everything, resamples),
        "abnormal_studies": means(table, abnormal, resamples),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="IU X-Ray: annotation.json (R2Gen form) and labels.jsonl")
    parser.add_argument("--labeler", default="", help="chexbert.pth or a folder; default is the embedded labeler")
    parser.add_argument("--tokenizer", default="")
    parser.add_argument("--metric", dest="metrics", action="append", default=[], metavar="PATH")
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("-o", "--output", type=Path, default=Path("experiments/results/reward_audit.json"))
    parser.add_argument("--docs", type=Path, default=Path("docs/results/reward-audit.md"))
    arguments = parser.parse_args()
    labeler = load_labeler(arguments.labeler, arguments.tokenizer, torch.device("cpu"))
    judge = Path(arguments.labeler).name or "the embedded labeler"
    results: dict = {"command": COMMAND, "labeler": judge, "sources": {}}
    corpora = {"iu": iu_corpus(arguments.folder), "phantom": phantom_corpus()}
    titles = {"iu": "real IU X-Ray reports", "phantom": "phantom reports"}
    owners = {"iu": "CheXbert's own labels", "phantom": "the generator's own labels"}
    for key, corpus in corpora.items():
        print(titles[key], flush=True)
        title = f"{titles[key]}, {owners[key]}"
        results["sources"][f"{key}_labels"] = audit(title, corpus, score_labels(corpus), arguments.resamples)
        results["sources"][f"{key}_labels"]["break_even"] = break_even(corpus)
        results["sources"][f"{key}_labels"]["best_constants"] = {
            name: attacks.write_labels(best_constant(reward, corpus.train_labels)) or "(nothing)"
            for name, reward in clinical_rewards(corpus.train_labels).items()
        }
        judges = {"text": (judge, labeler)} | (
            {"reader": ("the generator's reader", Reader())} if key == "phantom" else {}
        )
        for kind, (name, reader) in judges.items():
            read = corpus.read_by(reader)
            texts = attacked_texts(read, reader)
            labels = {attack: reader.label(written).cpu() for attack, written in texts.items()}
            table = score_texts(read, texts, labels, arguments.metrics if kind == "text" else [])
            source = audit(f"{titles[key]}, read by {name}", read, table, arguments.resamples)
            long = {attack: guarded(table[attack]) for attack in LONG}
            source["guarded"] = means(long, torch.ones(len(read.reports), dtype=torch.bool), arguments.resamples)
            results["sources"][f"{key}_{kind}"] = source | {"limit": read.limit, "faithful": faithful(read, labels)}
        denials = corpus.labels[:, :13] == NEGATIVE
        results["sources"][f"{key}_labels"]["turned"] = round(turned(corpus)[denials].double().mean().item(), 5)
        results["sources"][f"{key}_labels"]["weights"] = [
            [round(weight, 5) for weight in row] for row in rarity_weights(corpus.labels).tolist()
        ]
        denied = attacks.most_denied(corpus.train_labels)
        results["sources"][f"{key}_labels"]["five"] = [c for c, label in zip(CONDITIONS, denied) if label == NEGATIVE]
    results["known"] = known_figures(corpora["iu"])
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write_page(results, arguments.docs)
    print(f"{arguments.output}, {arguments.docs}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"{error}") from None

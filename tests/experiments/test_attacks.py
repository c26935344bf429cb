"""Each attack does to the labels what it says: on class ids by a slow loop, on phantom texts by their own reader."""

import pytest
import torch

from experiments.audits import attacks
from experiments.audits.audited import GUARDED, clinical_rewards, guarded, text_rewards, token_count
from experiments.audits.reward_audit import attacked_labels, best_constant, break_even, phantom_corpus
from mrg_grpo.data.phantom.reader import read_labels
from mrg_grpo.labelers import embedded_labeler
from mrg_grpo.labels import BLANK, CONDITIONS, NEGATIVE, POSITIVE, UNCERTAIN


@pytest.fixture(scope="module")
def corpus():
    return phantom_corpus(300)


@pytest.mark.parametrize(
    ("attack", "rule"),
    [
        ("omit_findings", {POSITIVE: BLANK, UNCERTAIN: BLANK, NEGATIVE: NEGATIVE, BLANK: BLANK}),
        ("findings_only", {POSITIVE: POSITIVE, UNCERTAIN: UNCERTAIN, NEGATIVE: BLANK, BLANK: BLANK}),
        ("negation_flip", {POSITIVE: POSITIVE, UNCERTAIN: UNCERTAIN, NEGATIVE: POSITIVE, BLANK: BLANK}),
        ("hedged", {POSITIVE: UNCERTAIN, UNCERTAIN: UNCERTAIN, NEGATIVE: NEGATIVE, BLANK: BLANK}),
    ],
)
def test_label_attacks_by_the_rule(corpus, attack, rule):
    before = corpus.labels.clone()
    got = getattr(attacks, attack)(corpus.labels).tolist()
    for row, labels in zip(got, before.tolist()):
        assert row[:13] == [rule[label] for label in labels[:13]]
        ill = any(label in (POSITIVE, UNCERTAIN) for label in row[:12])
        assert row[13] == (BLANK if ill else POSITIVE)
    assert torch.equal(corpus.labels, before)  # the references stay as they are


def read(texts):
    return read_labels(texts)[:, :13]


def test_what_a_blind_attack_writes_is_read_as_written(corpus):
    rows = attacks.blind_rows(corpus.train_labels)
    assert set(rows) | {"all_normal", "another_study"} == set(attacks.BLIND)
    for row in rows.values():
        assert read([attacks.write_labels(row)])[0].tolist() == row
    five = [CONDITIONS[i] for i, label in enumerate(rows["five_negatives"]) if label == NEGATIVE]
    counts = {name: int((corpus.train_labels[:, i] == NEGATIVE).sum()) for i, name in enumerate(CONDITIONS[:13])}
    assert len(five) == 5 and min(counts[name] for name in five) >= max(
        count for name, count in counts.items() if name not in five
    )


def test_sentences_are_dropped_by_what_they_state(corpus):
    said = {sentence for report in corpus.reports for sentence in attacks.sentences(report)}
    labels_of = {sentence: read_labels([sentence])[0].tolist() for sentence in said}
    dropped = read(attacks.keep_sentences(corpus.reports, labels_of, "omit_findings"))
    assert not attacks.findings(dropped).any()
    kept = read(attacks.keep_sentences(corpus.reports, labels_of, "findings_only"))
    truth = attacks.findings(corpus.labels)
    assert torch.equal(attacks.findings(kept), truth) and not (kept == NEGATIVE).any()
    # a phantom sentence states findings or denies them, never both: every denial survives
    assert torch.equal(dropped == NEGATIVE, corpus.labels[:, :13] == NEGATIVE)
    hedged = read(attacks.hedged_text(corpus.reports, labels_of))
    assert (hedged[truth] == UNCERTAIN).double().mean() > 0.99
    assert torch.equal(hedged[~truth], corpus.labels[:, :13][~truth])


def test_the_flip_turns_every_denial_with_a_negation_and_nothing_else(corpus):
    flipped = read([attacks.without_negation(report) for report in corpus.reports])
    truth = corpus.labels[:, :13]
    assert torch.equal(flipped[truth != NEGATIVE], truth[truth != NEGATIVE])
    spoken_as_normal = {"Enlarged Cardiomediastinum", "Cardiomegaly"}  # "heart size is normal" holds no negation
    for i, name in enumerate(CONDITIONS[:13]):
        if name not in spoken_as_normal:
            denied = truth[:, i] == NEGATIVE
            assert (flipped[denied, i] == POSITIVE).all(), name


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("No pleural effusion.", "Pleural effusion."),
        ("There is no pneumothorax. The heart is normal.", "There is pneumothorax. The heart is normal."),
        ("The lungs are free of nodules.", "The lungs are showing nodules."),
        ("Neither nodule nor mass is identified.", "Nodule and mass is identified."),
        ("Pneumothorax is not demonstrated.", "Pneumothorax is demonstrated."),
        ("Normal heart, without edema.", "Normal heart, with edema."),
    ],
)
def test_the_flip_by_example(before, after):
    assert attacks.without_negation(before) == after


def test_harmless_attacks_say_the_same(corpus):
    truth = corpus.labels[:, :13]
    turned = [attacks.shuffled(report, key) for report, key in zip(corpus.reports, corpus.ids)]
    assert torch.equal(read(turned), truth) and sum(a != b for a, b in zip(turned, corpus.reports)) > 250
    assert [sorted(attacks.sentences(a)) for a in turned] == [sorted(attacks.sentences(b)) for b in corpus.reports]
    assert torch.equal(read(corpus.paraphrases), truth)
    assert sum(a != b for a, b in zip(corpus.paraphrases, corpus.reports)) > 290


def words(text):
    return len(text.split())


def test_the_long_reports_reach_the_limit_and_say_the_same(corpus):
    """Filler has no label, alone or behind a report; a loop says what is said already."""
    assert (read(list(attacks.FILLER)) == BLANK).all() and len(set(attacks.FILLER)) == len(attacks.FILLER)
    assert (embedded_labeler().label(list(attacks.FILLER))[:, :13] == BLANK).all()
    for attack in (attacks.looped, attacks.filled):
        written = [attack(report, words, 120) for report in corpus.reports]
        assert torch.equal(read(written), corpus.labels[:, :13])
        longest = max(map(words, attacks.FILLER + tuple(s for r in corpus.reports for s in attacks.sentences(r))))
        assert all(120 <= words(text) < 120 + longest for text in written)
        assert all(text.startswith(report) for text, report in zip(written, corpus.reports))


def test_long_reports_by_example():
    assert attacks.looped("Heart is normal. No edema.", words, 9) == "Heart is normal. No edema. No edema. No edema."
    assert attacks.filled("No edema.", words, 7) == f"No edema. {attacks.FILLER[0]} {attacks.FILLER[1]}"
    assert attacks.filled("No edema.", words, 2) == "No edema."


def test_rewards_with_both_terms_by_hand():
    """Ten words that are said twice: 17 runs of four, of which the last seven are not new."""
    truth = "Large left pleural effusion with atelectasis and mild pulmonary edema."
    texts = [truth, f"{truth} {truth}"]
    of_labels = {name: torch.ones(2) for name in clinical_rewards(torch.zeros(2, 14, dtype=torch.long))}
    tokens = token_count(texts[1])
    row = text_rewards(texts, [truth] * 2, of_labels, limit=tokens)
    assert row["repetition"].tolist() == pytest.approx([1.0, 10 / 17]) and row["overlong"].tolist()[1] == -1.0
    assert text_rewards(texts, [truth] * 2, of_labels, limit=tokens + 64)["overlong"].tolist() == [0.0, 0.0]
    assert row["clinical d=0 + BLEU"].tolist() == pytest.approx(((1 + row["BLEU"]) / 2).tolist())
    both = guarded(row | {"overlong": torch.tensor([0.0, -1.0])})
    assert both["clinical"].tolist() == pytest.approx([1.0, (1 + 0.25 * 10 / 17) / 1.25 - 0.25])
    assert set(both) == set(GUARDED)


def test_calling_everything_possible_is_paid_by_the_rule_that_asks_for_positives_alone(corpus):
    normal = corpus.labels[~(corpus.labels[:, :13] == POSITIVE).any(dim=1)]
    hedge = attacks.constant([UNCERTAIN] * 13, len(normal))
    rewards = clinical_rewards(corpus.train_labels)
    assert len(normal) > 50 and (rewards["clinical by positives"](hedge, normal) == 1).all()
    assert rewards["clinical"](hedge, normal).mean() < 0.1


def test_another_study_is_never_the_own_one():
    for count in (2, 3, 50):
        assert all(i != j and 0 <= j < count for i, j in enumerate(attacks.others(count)))


def test_best_constant_is_no_worse_than_any_of_two_conditions(corpus):
    few = corpus.train_labels.clone()
    few[:, 2:13] = BLANK  # two conditions left: sixteen answers, all tried
    for reward in clinical_rewards(few).values():
        every = {
            (a, b): reward(attacks.constant([a, b, *[0] * 11], 300), few).mean().item()
            for a in range(4)
            for b in range(4)
        }
        row = best_constant(reward, few)
        assert row[2:] == [0] * 11 and every[tuple(row[:2])] == pytest.approx(max(every.values()), abs=1e-6)


def test_break_even_by_hand(corpus):
    labels = torch.zeros(4, 14, dtype=torch.long)
    labels[:2, 0], labels[2:, 1] = POSITIVE, NEGATIVE
    texts = ["a"] * 4
    shares = break_even(type(corpus)(texts, labels, texts, labels, texts, texts, 1))
    # CCS of the first condition. The rest is empty twice: the finding earns 1 if true and costs 1 where it is denied.
    # It is one denial twice: 1 instead of sqrt(1/2) if true, 0 instead of sqrt(1/2) where it is denied.
    half = 0.5**0.5
    gain, loss = 2 * 1 + 2 * (1 - half), 2 * 1 + 2 * half
    assert shares["CCS"]["finding, else denied"] == pytest.approx(loss / (gain + loss), abs=1e-6)
    assert shares["CCS"]["denial, else a finding"] == pytest.approx(loss / (gain + loss), abs=1e-6)  # the mirror image
    assert shares["CE-F1"]["denial, else a finding"] is None
    assert shares["unsigned cosine"]["finding, else denied"] is None  # it pays either way


def test_else_silent_every_reward_asks_for_one_half(corpus):
    """A reward that is the same with report and reference exchanged earns by a true mention what a false one costs."""
    for shares in break_even(corpus).values():
        assert shares["finding, else not mentioned"] == pytest.approx(0.5, abs=1e-9)
        assert shares["denial, else not mentioned"] in (None, pytest.approx(0.5, abs=1e-9))


def test_which_denials_are_left_out_or_turned(corpus):
    chosen, truth = attacks.denials(corpus.labels, corpus.train_labels), corpus.labels[:, :13]
    five = torch.tensor(attacks.most_denied(corpus.train_labels)) == NEGATIVE
    counts = (corpus.train_labels[:, :13] == NEGATIVE).sum(dim=0).tolist()
    for s, row in enumerate(truth.tolist()):
        denied = [i for i, label in enumerate(row) if label == NEGATIVE]
        assert chosen["common"][s].nonzero().flatten().tolist() == [i for i in denied if five[i]]
        assert chosen["rare"][s].nonzero().flatten().tolist() == [i for i in denied if not five[i]]
        assert chosen["one"][s].nonzero().flatten().tolist() == sorted(denied, key=lambda i: -counts[i])[:1]
    turned = attacks.stated(corpus.labels, chosen["one"])
    assert (turned[:, :13] != truth).sum() == chosen["one"].sum() and (turned[:, :13][chosen["one"]] == POSITIVE).all()
    without = attacks.left_out(corpus.labels, chosen["rare"])
    assert (without[:, :13][chosen["rare"]] == BLANK).all()
    assert torch.equal(without[:, :13][~chosen["rare"]], truth[~chosen["rare"]])


def test_the_flip_on_labels_is_what_the_text_says(corpus):
    flipped = read([attacks.without_negation(report) for report in corpus.reports])
    on_labels = attacked_labels(corpus)["negation_turned"]
    assert torch.equal(on_labels[:, :13], flipped)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("There is no evidence of pneumothorax.", "No pneumothorax."),
        ("Heart size is within normal limits.", "Size of the heart is normal."),
        ("Mild cardiomegaly without pleural effusions.", "Slight enlarged heart without pleural fluid."),
        ("No focal consolidation is seen.", "No focal area of consolidation can be made out."),
        ("Lungs are clear.", "Lungs are clear."),
    ],
)
def test_other_words_by_example(before, after):
    assert attacks.reworded(before) == after

"""Which sentence carries which finding, held against phantom reports where that is known by construction."""

import time

import pytest
import torch

from mrg_grpo.data.phantom.case import sample_case
from mrg_grpo.data.phantom.dataset import load
from mrg_grpo.data.phantom.reader import read_labels
from mrg_grpo.data.phantom.text import PHRASES, _fill, write_report
from mrg_grpo.labelers.attribution import Attributor, attribute, carriers, sentence_spans
from mrg_grpo.labels import BLANK, CONDITIONS, NEGATIVE, POSITIVE, UNCERTAIN


class Reader:
    """The generator's own keyword reader in a labeler's clothes: what it reads of a sentence is plain to see."""

    def __init__(self):
        self.net = torch.nn.Module()
        self.net.linear_heads = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
        self.asked = []

    def label(self, reports):
        self.asked.append(len(reports))
        return read_labels(reports)


def known_by_construction(count):
    """Phantom reports of one sentence per condition: (report, {condition: its sentence})."""
    for i in range(count):
        case = sample_case("test", i)
        said = {name: label for name, label in zip(CONDITIONS, case.mentions) if label != BLANK}
        rng = case.rng("attribution")
        sentences = {name: _fill(rng.choice(PHRASES[name][label]), None) for name, label in said.items()}
        yield " ".join(sentences.values()), sentences, said


def test_every_finding_of_phantom_reports_lies_on_the_sentence_that_states_it():
    """The keyword reader states what the phrase tables say, so every place must be right."""
    cases = list(known_by_construction(60))
    placed = 0
    for (report, sentences, said), found in zip(cases, attribute(Reader(), [case[0] for case in cases])):
        if read_labels([report])[0, :13].tolist() != [said.get(name, BLANK) for name in CONDITIONS[:13]]:
            continue  # a phrase that names a second condition in passing
        for sentence in found.sentences:
            text = report[sentence.start : sentence.end]
            assert sentence.signs == {name: said[name] for name, own in sentences.items() if own == text}
            placed += len(sentence.signs)
        assert not found.unplaced
    assert placed > 150


def test_the_embedded_labeler_finds_the_sentences_of_phantom_reports(labeler):
    """A neural labeler errs: of the findings it reads right, nearly all must lie on their own sentence alone."""
    cases = list(known_by_construction(40))
    right = wrong = 0
    for (report, sentences, said), found in zip(cases, attribute(labeler, [case[0] for case in cases])):
        for c, name in enumerate(CONDITIONS[:13]):
            if found.labels[c] != said.get(name, BLANK) or found.labels[c] == BLANK:
                continue
            places = [report[s.start : s.end] for s in found.sentences if name in s.signs]
            right += places == [sentences[name]]
            wrong += places != [sentences[name]]
    assert right > 100 and wrong / (right + wrong) < 0.05, (right, wrong)


def test_repeated_and_joint_statements_and_signs():
    report = "No effusion or pneumothorax. Possible cardiomegaly. The lungs are clear. There is no pneumothorax."
    (found,) = attribute(Reader(), [report])
    signs = {report[s.start : s.end]: s.signs for s in found.sentences}
    assert signs == {
        "No effusion or pneumothorax.": {"Pneumothorax": NEGATIVE, "Pleural Effusion": NEGATIVE},
        "Possible cardiomegaly.": {"Cardiomegaly": UNCERTAIN},
        "The lungs are clear.": {},
        "There is no pneumothorax.": {"Pneumothorax": NEGATIVE},  # removing either changes nothing: both carry it
    }


def test_a_statement_that_another_overrules_carries_nothing():
    (found,) = attribute(Reader(), ["No pneumonia. There is pneumonia in the left lung."])
    assert [s.signs for s in found.sentences] == [{}, {"Pneumonia": POSITIVE}]


@pytest.mark.parametrize(
    ("without", "alone", "expected"),
    [
        ([0, 1, 1], [1, 0, 0], [0]),
        ([1, 1, 1], [1, 1, 0], [0, 1]),  # said twice
        ([0, 0, 1], [1, 0, 0], [0]),  # the second only matters through the first
        ([0, 0, 1], [0, 3, 0], [1]),  # both move the label, one speaks of the condition
        ([0, 1, 1], [0, 0, 0], [0]),  # meaningful in its context alone
        ([1, 1, 1], [0, 2, 3], []),  # rests on no single sentence
    ],
)
def test_carriers(without, alone, expected):
    assert carriers(1, without, alone) == expected


def test_sentence_spans_cover_the_words_and_nothing_else():
    report = "  A 1.5 cm nodule; no effusion.\nHeart normal!  \n\n Lungs clear"
    parts = [report[start:end] for start, end in sentence_spans(report)]
    assert parts == ["A 1.5 cm nodule;", "no effusion.", "Heart normal!", "Lungs clear"]
    assert sentence_spans("") == sentence_spans(" \n ") == []
    for study in load(sizes={"test": 50})["test"]:
        assert " ".join(study.report[a:b] for a, b in sentence_spans(study.report)) == study.report


def many_sentences(count):
    return [f"Finding {i} of the {'left' if i % 2 else 'right'} lung is not there." for i in range(count)]


def test_a_long_text_is_looked_at_as_far_as_the_labeler_reads():
    """Whatever its length and its sentences: as many texts, each as long, as of one that the labeler can read."""
    asked = []

    class Counting(Reader):
        def label(self, reports):
            asked.append((len(reports), max(map(len, reports))))
            return super().label(reports)

    for count in (100, 1000, 4000):
        report = " ".join([*many_sentences(count), "There is pneumonia."])
        (found,) = attribute(Counting(), [report])
        assert len(found.sentences) < 100 and not found.unplaced and not any(found.labels[:13])
    assert asked[0] == asked[1] == asked[2]
    for report in ("No. yes " * 5000, "word " * 30_000 + ". ", "\n" * 30_000 + "No edema."):
        attribute(Counting(), [report])
        assert asked[-1][0] < 2 * 512 and asked[-1][1] < 6000


def test_what_the_labeler_reads_of_a_long_text_is_placed_as_ever(labeler):
    """Up to its last token, with what moves up where a sentence is taken out."""
    report = " ".join(
        ["There is a large right pleural effusion.", *(f"{'The heart is normal and ' * 9}so on." for _ in "a" * 90)]
    )
    (found,) = attribute(labeler, [report])
    rest = report.partition(". ")[2]
    whole, without = labeler.label([report, rest])[:, CONDITIONS.index("Pleural Effusion")].tolist()
    assert found.sentences[0].signs.get("Pleural Effusion") == whole == POSITIVE != without


def test_white_space_takes_linear_time():
    started = time.perf_counter()
    assert sentence_spans(" " * 300_000 + "a. b") == [(300_000, 300_002), (300_003, 300_004)]
    assert time.perf_counter() - started < 1


def test_equal_texts_are_asked_once_and_the_file_outlives_the_process(tmp_path):
    reports = [write_report(sample_case("val", i)) for i in range(5)]
    reader = Reader()
    first = Attributor(reader, tmp_path / "kept.json")
    once = first([*reports, *reports, ""])
    assert once[:5] == once[5:10] and once[10].sentences == ()
    assert first([reports[2]]) == [once[2]] and len(reader.asked) == 1
    kept = (tmp_path / "kept.json").read_text()
    assert not any(report[:20] in kept for report in reports)  # hashes, places and labels, no text
    again = Attributor(reader, tmp_path / "kept.json")
    assert again([*reports, ""]) == [*once[:5], once[10]] and len(reader.asked) == 1
    with torch.no_grad():
        reader.net.linear_heads[0].weight += 1  # another labeler: nothing kept counts
    assert Attributor(reader, tmp_path / "kept.json")(reports[:1]) == once[:1] and len(reader.asked) == 2
    (tmp_path / "kept.json").write_text(kept[:50])
    assert Attributor(reader, tmp_path / "kept.json").known == {}


def test_no_reports_need_no_labeler():
    assert attribute(None, []) == []

"""The embedded labeler: its size, its four published samples, and its honest scores on reports it never saw."""

import json
from pathlib import Path

import pytest
import torch

from experiments.audits import labeler_scores
from mrg_grpo import embedded
from mrg_grpo.labelers import read_label_csv
from mrg_grpo.labels import CONDITIONS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def scores():
    return labeler_scores


def says(labeler, report: str) -> dict[str, int]:
    """What a report is labelled, blanks left out."""
    return {name: value for name, value in zip(CONDITIONS, labeler.label([report])[0].tolist()) if value}


def test_folder_is_small_and_whole():
    files = {file.name: file.stat().st_size for file in embedded.labeler_path().iterdir()}
    assert sum(files.values()) <= 8_000_000
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(files)


def test_plain_sentences_of_every_condition(labeler):
    """One sentence per condition and class that no reader could mistake."""
    expected = {
        "The cardiomediastinal silhouette is normal.": {"Enlarged Cardiomediastinum": 2, "No Finding": 1},
        "Moderate cardiomegaly.": {"Cardiomegaly": 1},
        "The heart is normal in size.": {"Cardiomegaly": 2, "No Finding": 1},
        "Patchy airspace opacity in the left lower lobe.": {"Lung Opacity": 1},
        "There is a nodule in the right upper lobe.": {"Lung Lesion": 1},
        "No suspicious pulmonary nodules or masses.": {"Lung Lesion": 2, "No Finding": 1},
        "Mild interstitial pulmonary edema.": {"Edema": 1},
        "No pulmonary edema.": {"Edema": 2, "No Finding": 1},
        "Dense consolidation in the right lower lobe.": {"Consolidation": 1},
        "No focal consolidation.": {"Consolidation": 2, "No Finding": 1},
        "Findings are consistent with pneumonia.": {"Pneumonia": 1},
        "Pneumonia cannot be excluded.": {"Pneumonia": 3},
        "Left basilar atelectasis.": {"Atelectasis": 1},
        "Possible left basilar atelectasis.": {"Atelectasis": 3},
        "Small right apical pneumothorax.": {"Pneumothorax": 1},
        "Moderate left pleural effusion.": {"Pleural Effusion": 1},
        "No pneumothorax or pleural effusion.": {"Pneumothorax": 2, "Pleural Effusion": 2, "No Finding": 1},
        "Biapical pleural thickening.": {"Pleural Other": 1},
        "There is a displaced right rib fracture.": {"Fracture": 1},
        "Right PICC line with tip in the SVC.": {"Support Devices": 1, "No Finding": 1},
        "The lungs are clear.": {"No Finding": 1},
        "": {"No Finding": 1},
    }
    wrong = {text: says(labeler, text) for text, labels in expected.items() if says(labeler, text) != labels}
    assert wrong == {}


@pytest.mark.parametrize(
    ("text", "value", "names"),
    [
        ("Pulmonary edema and pleural effusion are seen.", 1, ("Edema", "Pleural Effusion")),
        ("Rib fracture.", 1, ("Fracture",)),
        ("Possible pleural effusion or pneumothorax.", 3, ("Pleural Effusion", "Pneumothorax")),
        ("Consolidation or edema cannot be excluded.", 3, ("Consolidation", "Edema")),
        ("The mediastinum may be widened.", 3, ("Enlarged Cardiomediastinum",)),
        ("Equivocal for pneumonia.", 3, ("Pneumonia",)),
        ("Neither pulmonary edema nor pleural effusion is seen.", 2, ("Edema", "Pleural Effusion")),
        ("Pneumonia and atelectasis are absent.", 2, ("Pneumonia", "Atelectasis")),
        ("The pleura is not thickened.", 2, ("Pleural Other",)),
    ],
)
def test_a_name_is_read_by_its_frame(labeler, text, value, names):
    """Bare and joint names are findings; only a negation or a hedge takes them back."""
    said = says(labeler, text)
    said.pop("No Finding", None)
    assert said == dict.fromkeys(names, value)


@pytest.mark.slow
def test_real_denials_turned_around_are_findings(labeler, scores, shared):
    """The labeler reads the negation, not the name: docs/results/reward-audit.md says what goes wrong otherwise."""
    result = scores.turned_scores(labeler, shared)
    assert result["reports"]["denials"] > 4000 and result["sentences"]["hedged"] > 500
    assert result["reports"]["read_as_findings"] >= 0.60
    assert result["sentences"]["read_as_findings"] >= 0.54
    assert result["sentences"]["read_as_uncertain"] >= 0.92


def test_case_and_white_space_do_not_matter(labeler):
    text = "NO ACUTE BONY ABNORMALITY.\n\nSmall   LEFT pleural effusion."
    assert says(labeler, text) == says(labeler, " ".join(text.lower().split()))


def test_chexberts_own_four_samples(labeler, shared):
    reports, truth = read_label_csv(shared / "data" / "chexbert" / "labeled_reports.csv")
    assert labeler.label(reports).tolist() == truth.tolist()


@pytest.mark.slow
def test_agreement_with_chexbert_on_real_reports(labeler, scores, shared):
    """Issue targets 0.80, 0.88, 0.80; the floor is a little below what docs/results/built-in.md records."""
    reports, labels = scores.iu_records(shared)
    assert len(reports) == 2365
    result = scores.compare(labeler.label(reports), labels["chexbert"])
    assert result["positive_micro_f1"] >= 0.85
    assert result["negative_micro_f1"] >= 0.95
    assert result["mean_cosine"] >= 0.915


@pytest.mark.slow
def test_agreement_with_people_on_real_reports(labeler, scores, shared):
    result = scores.mesh_scores(labeler, shared)
    assert result["reports"] > 3000
    assert result["micro_f1"] >= 0.865


def test_held_out_phantom_templates(labeler, scores):
    """A floor against regressions; docs/results/built-in.md says what it is worth; 0.97 is asked for."""
    assert scores.phantom_scores(labeler, count=1000)["mean_f1"] >= 0.98


def test_the_test_split_takes_no_part(scores, shared):
    """No report of the 590 test ids is in either real evaluation."""
    annotation = json.loads((shared / "data" / "iu_xray" / "annotation.json").read_text())
    tests = {row["report"] for row in annotation["test"]}
    others = {row["report"] for split in ("train", "val") for row in annotation[split]}
    assert not set(scores.iu_records(shared)[0]) - others
    reports, _, covered = scores.mesh_records(shared)
    assert not {text for text in tests - others if len(text) > 200} & set(reports)
    assert [CONDITIONS[index] for index in covered] == list(CONDITIONS[1:13])


def test_micro_f1_and_counts_by_hand(scores):
    truth = torch.zeros(3, 14, dtype=torch.long)
    truth[0, 3], truth[1, 3], truth[2, 5] = 1, 3, 2
    predicted = torch.zeros_like(truth)
    predicted[0, 3], predicted[1, 4], predicted[2, 5] = 3, 1, 2
    result = scores.compare(predicted, truth)
    assert result["positive_micro_f1"] == pytest.approx(2 * 1 / (2 + 2))  # one hit; two said, two true
    assert result["negative_micro_f1"] == 1.0
    assert result["mean_cosine"] == pytest.approx((1 + 0 + 1) / 3)
    assert result["by_condition"]["Lung Lesion"] == {
        "positive_f1": pytest.approx(2 / 3), "positive_n": 2, "negative_f1": 0.0, "negative_n": 0,
    }  # fmt: skip

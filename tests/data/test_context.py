"""What is known beside the pictures: which text it is, that it never holds the answer, and the study before."""

import csv
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from mimic_tree import REPORT, flat, native

from mrg_grpo.config import CONTEXT, Config
from mrg_grpo.data import load_studies
from mrg_grpo.data.context import before, context_of, holds_answer
from mrg_grpo.data.load import read_splits
from mrg_grpo.data.records import LoadOptions
from mrg_grpo.data.sections import parse_context
from mrg_grpo.data.study import NOTHING, Context
from mrg_grpo.errors import UserError

TEXTS = ("indication", "history", "comparison")


def options(*context: str, keep: bool = True) -> LoadOptions:
    return LoadOptions(("findings",), "all", keep, None, context=context)


# ---- texts


UNDER_INDICATION = """                                 FINAL REPORT
 CHEST RADIOGRAPH
 
 INDICATION:
 
 Cough and fever,
 evaluate for pneumonia.
 
 COMPARISON:  ___.
 
 Bilateral opacities are new since the last study.
 There is a small left effusion.
 
 IMPRESSION:
 
 Pneumonia.
"""  # noqa: W293  (a blank line of MIMIC-CXR holds a space)


def test_a_text_ends_at_the_first_blank_line_behind_its_first_paragraph():
    """The findings of this report stand below the comparison, with no header of their own."""
    said = {name: " ".join(text.split()) for name, text in parse_context(UNDER_INDICATION).items()}
    assert said == {"indication": "Cough and fever, evaluate for pneumonia.", "comparison": "___."}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (" REASON FOR EXAM: Chest pain.\n FINDINGS: Clear.\n", {"indication": "Chest pain."}),
        (" REASON FOR THIS EXAMINATION: Line.\n", {"indication": "Line."}),
        (" CLINICAL INDICATION: Cough.\n", {"indication": "Cough."}),
        (" CLINICAL HISTORY: COPD.\n COMPARISONS: None.\n", {"history": "COPD.", "comparison": "None."}),
        (" CLINICAL INFORMATION: Asthma.\n", {"history": "Asthma."}),
        (" HISTORY: One.\n INDICATION: Two.\n", {"history": "One.", "indication": "Two."}),
        (" INDICATION: First.\n ADDENDUM:\n INDICATION: Second.\n", {"indication": "First."}),
        (" INDICATION: \n HISTORY: Fever.\n", {"history": "Fever."}),
        (" INDICATION: Cough.\n LUNGS: Clear.\n", {"indication": "Cough."}),
        (" COMPARISON: ___.\n WET READ: Effusion.\n", {"comparison": "___."}),
        (" TECHNIQUE: Two views.\n RECOMMENDATION: Repeat for comparison.\n", {}),
        (" COMMUNICATION OF COMPARISON: By phone.\n", {}),
        (" IMPRESSION AND COMPARISON: Worse than before.\n", {}),
        ("", {}),
    ],
)
def test_headers_of_what_was_known(text, said):
    assert parse_context(text) == said


def test_each_field_is_cleaned_and_only_what_is_asked_for_is_kept():
    said = {"indication": " Fever \n in XXXX  man. ", "age": 63, "sex": "M", "history": "", "comparison": None}
    assert context_of(said, options("indication"), "x") == Context(indication="Fever in XXXX man.")
    assert context_of(said, options(*CONTEXT, keep=False), "x") == Context("63", "male", "Fever in man.")
    assert context_of(said, options(), "x") is NOTHING
    with pytest.raises(UserError, match=r"row 7 has indication of type list; give it as text"):
        context_of({"indication": ["x"]}, options("indication"), "row 7")
    with pytest.raises(UserError, match="row 7 is not valid Unicode"):
        context_of({"indication": "\ud800"}, options("indication"), "row 7")


@pytest.mark.parametrize(
    ("given", "said"),
    [("063Y", "63"), ("007M", "7 months"), ("002D", "2 days"), ("011W", "11 weeks"), ("82.0", "82"), (5, "5"),
     ("nan", ""), ("unknown", ""), ("", ""), ("-3", "")],
)  # fmt: skip
def test_ages(given, said):
    assert context_of({"age": given}, options("age"), "x").age == said


@pytest.mark.parametrize(("given", "said"), [("F", "female"), ("Male", "male"), ("O", ""), ("Unknown", "")])
def test_sexes(given, said):
    assert context_of({"sex": given}, options("sex"), "x").sex == said


@pytest.mark.parametrize(
    "text",
    ["Cough. FINDINGS: Effusion.", "Cough. Impression : Effusion.", "Cough. FINDINGS AND IMPRESSION: Effusion.",
     "Cough. conclusion: Effusion."],
)  # fmt: skip
def test_a_text_ends_where_the_answer_begins_in_it(text):
    assert context_of({"indication": text}, options("indication"), "x").indication == "Cough."


def test_a_text_that_speaks_of_findings_is_kept_whole():
    text = "Fever, no findings on examination; impression of sepsis."
    assert context_of({"indication": text}, options("indication"), "x").indication == text


@pytest.mark.parametrize(
    ("text", "answer", "held"),
    [
        ("Cough. THE heart -- size is normal!", "Clear. The heart size is normal. Stable.", True),
        ("The heart size is normal", "1. The heart size is normal.", True),
        ("No acute disease.", "No acute disease.", False),  # three words
        ("Cough, the heart size is normally", "The heart size is normal.", False),
        ("Rule out a large left pleural effusion", "There is a large left pleural effusion.", False),
        ("Cough.", "", False),
    ],
)
def test_what_counts_as_a_sentence_of_the_answer(text, answer, held):
    assert holds_answer(text, answer) == held


LEAK = " INDICATION: Cough. The lungs are clear of consolidation.\n FINDINGS: The lungs are clear of consolidation.\n"
OTHER = " INDICATION: Small effusion on the left side.\n FINDINGS: Ok.\n IMPRESSION: Small effusion on the left side.\n"


def test_a_text_that_holds_a_sentence_of_the_report_is_emptied_and_named(tmp_path):
    """Also one of the impression, though the findings alone are wanted."""
    native(tmp_path, texts={"50000001": LEAK, "50000003": OTHER, "50000002": REPORT, "50000004": REPORT})
    loaded = load_studies("mimic_cxr", tmp_path, context=("indication", "comparison"))
    said = {name: study.context.indication for name, study in flat(loaded).items()}
    cough = "___F with cough // eval for pneumonia: please"
    assert said == {"50000001": "", "50000002": cough, "50000003": "", "50000004": cough}
    assert [note for note in loaded.notes if "context" in note] == [
        "context: indication of 2 of 4 studies, comparison of 2",
        "context: 2 texts hold a sentence of the study's own report and are left out: indication of 50000001, "
        "indication of 50000003",
    ]


def test_without_a_wish_a_study_carries_none_and_no_note_says_anything(tmp_path):
    loaded = load_studies("mimic_cxr", native(tmp_path))
    assert all(study.context is NOTHING for study in flat(loaded).values())
    assert not [note for note in loaded.notes if "context" in note]


def test_a_set_that_has_none_says_so(tmp_path):
    (tmp_path / "reports.csv").write_text("uid,split,image,findings\n1,train,a.png,Clear.\n")
    (tmp_path / "a.png").touch()
    loaded = load_studies("table", tmp_path, files="reports.csv", context=("prior_report", "age"))
    assert "warning: context: age of 0 of 1 studies, prior_report of 0" in loaded.notes
    assert load_studies("phantom", "", context=["age"]).notes == ("warning: context: phantom has none of age",)
    with pytest.raises(UserError, match=r"prompt\.context names 'weight'; use some of age, sex, indication"):
        load_studies("table", tmp_path, files="reports.csv", context=["weight"])


# ---- the study before


def metadata(root: Path, times: dict[str, tuple[str, str]], rows=None) -> None:
    lines = [f"{name},{date},{time}" for name, (date, time) in times.items()] if rows is None else rows
    (root / "mimic-cxr-2.0.0-metadata.csv").write_text("study_id,StudyDate,StudyTime\n" + "\n".join(lines) + "\n")


ROWS = [
    ("a1", "50000001", "10000032", "train"),
    ("b1", "50000002", "10000032", "train"),
    ("b2", "50000002", "10000032", "train"),
    ("c1", "50000003", "10000032", "train"),
    ("d1", "50000004", "12000009", "test"),
]
# 3, then 1 (ten past nine, its zero lost), then 2 (ten past ten): neither the order of ids nor that of texts
TIMES = {
    "50000001": ("21800506", "91000.5"),
    "50000002": ("21800506", "101000"),
    "50000003": ("21791231", "235959"),
    "50000004": ("21700101", "0"),
}
SAID = {name: f" FINDINGS: Report of {name}.\n" for name in TIMES}


def test_the_study_before_is_the_last_one_that_is_earlier(tmp_path):
    native(tmp_path, rows=ROWS, texts=SAID)
    metadata(tmp_path, TIMES)
    loaded = load_studies("mimic_cxr", tmp_path, context=("prior_images", "prior_report"))
    said = {name: study.context.prior_report for name, study in flat(loaded).items()}
    assert said == {
        "50000001": "Report of 50000003.",
        "50000002": "Report of 50000001.",
        "50000003": "",
        "50000004": "",
    }
    folder = f"{tmp_path}/files/p10/p10000032"
    assert flat(loaded)["50000002"].context.prior_images == (f"{folder}/s50000001/a1.jpg",)
    assert flat(loaded)["50000001"].context.prior_images == (f"{folder}/s50000003/c1.jpg",)
    assert "context: prior_report of 2 of 4 studies, prior_images of 2" in loaded.notes
    assert loaded.notes == load_studies("mimic_cxr", tmp_path, context=CONTEXT[-2:]).notes


def test_a_prior_whose_images_are_gone_is_not_there_and_one_that_is_dropped_is(tmp_path):
    native(tmp_path, rows=ROWS, texts=SAID | {"50000003": " IMPRESSION: Only this.\n"})
    metadata(tmp_path, TIMES)
    (tmp_path / "files/p10/p10000032/s50000001/a1.jpg").unlink()
    loaded = load_studies("mimic_cxr", tmp_path, context=CONTEXT[-2:], incomplete="drop", allow_missing=True)
    known = {name: study.context for name, study in flat(loaded).items()}
    assert "50000003" not in known  # without findings
    assert [Path(name).name for name in known["50000001"].prior_images] == ["c1.jpg"]
    assert known["50000001"].prior_report == "" and known["50000002"].prior_images == ()
    assert known["50000002"].prior_report == "Report of 50000001."


def test_a_run_that_goes_on_has_the_prior_images_that_it_began_with(tmp_path):
    native(tmp_path, rows=ROWS, texts=SAID)
    metadata(tmp_path, TIMES)
    began = load_studies("mimic_cxr", tmp_path, context=["prior_images"], left_out={"50000003": [0]})
    assert flat(began)["50000001"].context.prior_images == ()
    assert len(flat(began)["50000002"].context.prior_images) == 1


def test_the_table_of_times_is_read_only_for_the_study_before(tmp_path):
    native(tmp_path, rows=ROWS, texts=SAID)
    metadata(tmp_path, {}, ["50000001,21800506,noon"])
    assert load_studies("mimic_cxr", tmp_path, context=("indication",))
    with pytest.raises(UserError, match=r"study '50000001': StudyDate '21800506' or StudyTime 'noon' is no number"):
        load_studies("mimic_cxr", tmp_path, context=("prior_report",))
    metadata(tmp_path, {name: TIMES[name] for name in list(TIMES)[:3]})
    with pytest.raises(UserError, match="lacks 1 studies: 50000004; take it from"):
        load_studies("mimic_cxr", tmp_path, context=("prior_report",))


def test_two_studies_at_once_have_the_same_before_them():
    studies = {"c": ("p", 2), "a": ("p", 1), "b": ("p", 1), "d": ("p", 2), "e": ("q", 3), "f": ("p", 3)}
    assert before(studies) == {"c": "b", "d": "b", "f": "d"}


# ---- from the configuration, and the user's own table


def test_the_configuration_asks_for_it(tmp_path):
    config = Config()
    config.data = replace(config.data, form="mimic_cxr", root=str(native(tmp_path)))
    assert all(study.context == NOTHING for study in flat(read_splits(config)).values())
    config.prompt.context = ["comparison"]
    assert flat(read_splits(config))["50000001"].context == Context(comparison="___.")


TABLE = """study,patient,split,image,findings,impression,Indication,Patient Age,sex
s1,p1,train,a.png,Clear lungs.,No disease.,Cough.,63,F
s1,p1,train,b.png,,,,,
s2,p2,test,c.png,Effusion.,A large effusion on the left.,Known: a large effusion on the left.,,M
"""


def test_a_table_is_read_by_usual_names_where_it_is_asked_for(tmp_path):
    (tmp_path / "reports.csv").write_text(TABLE)
    for name in "abc":
        (tmp_path / f"{name}.png").touch()
    plain = load_studies("table", tmp_path, files="reports.csv")
    assert "'Indication'" not in plain.notes[0] and flat(plain)["s1"].context is NOTHING
    loaded = load_studies("table", tmp_path, files="reports.csv", context=("sex", "age", "indication", "history"))
    assert "indication from 'Indication'" in loaded.notes[0] and "age from 'Patient Age'" in loaded.notes[0]
    assert flat(loaded)["s1"].context == Context("63", "female", "Cough.")
    assert flat(loaded)["s1"].report == "Clear lungs."
    assert flat(loaded)["s2"].context == Context("", "male")  # its indication held a sentence of its impression
    (tmp_path / "reports.csv").write_text(TABLE.replace("b.png,,,,,", "b.png,,,Fever.,,"))
    with pytest.raises(UserError, match=r"line 3 gives study 's1' another indication than .*line 2 does"):
        load_studies("table", tmp_path, files="reports.csv", context=("indication",))


# ---- the real IU X-Ray


@pytest.fixture(scope="module")
def both(shared):
    """Both forms that hold a context, by study id."""
    root = shared / "data" / "iu_xray"
    forms = ("iu_xray_kaggle", "iu_xray_xml")
    return {form: load_studies(form, root, allow_missing=True, context=TEXTS) for form in forms}


SPOILT = {
    "CXR1555": "+PPD. No known exposure. History of right upper lobectomy.",
    "CXR3477": "+PPD",
    "CXR3784": "-- XXXX",
}


def test_both_forms_of_iu_xray_give_the_same(both):
    """But for three indications that begin with a sign, which a spreadsheet has spoilt in Kaggle's table."""
    kaggle, xml = (flat(loaded) for loaded in both.values())
    for name, study in kaggle.items():
        assert study.context.comparison == xml[name].context.comparison
        assert study.context.indication == ("" if name in SPOILT else xml[name].context.indication)
    assert {name: xml[name].context.indication for name in SPOILT} == SPOILT


def test_how_many_studies_of_iu_xray_have_what(both, shared):
    """As a plain search in the files counts them; the guide has the numbers."""
    root = shared / "data" / "iu_xray"
    with tarfile.open(root / "NLMCXR_reports.tgz") as tar:
        reports = [tar.extractfile(one).read().decode() for one in tar if one.name.endswith(".xml")]
    marked = [len(re.findall(rf'Label="{name}">\s*[^<\s]', "".join(reports))) for name in ("INDICATION", "COMPARISON")]
    assert marked == [3865, 3333]
    with open(root / "indiana_reports.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    filled = [sum(row[name].strip() not in ("", "#NAME?") for row in rows) for name in ("indication", "comparison")]
    assert filled == [3762, 3252]
    notes = {form: next(note for note in loaded.notes if note.startswith("context: ")) for form, loaded in both.items()}
    assert notes == {
        "iu_xray_kaggle": "context: indication of 3,762 of 3,851 studies, history of 0, comparison of 3,252",
        "iu_xray_xml": "context: indication of 3,865 of 3,955 studies, history of 0, comparison of 3,333",
    }
    guide = Path("docs/guides/studies.md").read_text(encoding="utf-8")
    for note in notes.values():
        for number in re.findall(r"\d,\d+", note):
            assert number in guide


def test_no_context_of_iu_xray_holds_a_sentence_of_its_report(both, shared):
    """By brute force: sentences of findings and impression, as letters alone, in what is left of each text."""
    whole = load_studies(
        "iu_xray_xml", shared / "data" / "iu_xray", allow_missing=True, sections=("findings", "impression")
    )
    reports = {name: study.report for name, study in flat(whole).items()}
    bare = lambda text: re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()  # noqa: E731
    for name, study in flat(both["iu_xray_xml"]).items():
        sentences = {bare(one) for one in re.split(r"[.!?]\s", reports[name])}
        for field in TEXTS:
            held = bare(getattr(study.context, field))
            assert not [one for one in sentences if len(one.split()) >= 5 and f" {one} " in f" {held} "], name

"""Which section a header opens, against what the published parser of MIMIC-CXR makes of it."""

import re

import pytest

from mrg_grpo.data.headers import COMBINED, EXAMINATION, SUB_HEADING, section_of
from mrg_grpo.data.sections import header_names, joined, parse_report

# Headers that the published parser knows by name or by a word, with the section it gives them.
PUBLISHED = {
    "findings": """FINDINGS|FINDING|FINDINS|FINDINDGS|FINDGINGS|FINDNGS|FINDNINGS|FINIDNGS|REFERENCE FINDINGS
        |CHEST FINDINGS
        |CHEST, TWO VIEWS|CHEST|PORTABLE|PORTABLE CHEST|PORTABLE AP CHEST|PORTABLE AP CHEST RADIOGRAPH|PA AND LATERAL
        |PA AND LATERAL VIEWS OF THE CHEST|LATERAL AND PA|AP AND LATERAL|LATERAL AND AP CHEST|FRONTAL AND LATERAL
        |FRONTAL AND LATERAL CHEST RADIOGRAPHS|TWO VIEWS|FRONTAL VIEW|PA VIEW|AP VIEW|ONE VIEW|ONE VIEW OF THE CHEST
        |LATERAL VIEW|BONE WINDOWS|FRONTAL UPRIGHT|FRONTAL SEMI-UPRIGHT|RIBS|LEFT RIBS|PA AND LAT|CHEST (PA AND LAT)
        |SINGLE AP CHEST|AP PORTABLE UPRIGHT CHEST|CHEST X-RAY|CHEST RADIOGRAPH|CHEST RADIOGRAPH, PA AND LATERAL
        |UPRIGHT AP AND LATERAL VIEWS OF THE CHEST|SEMI-ERECT PORTABLE CHEST|CT CHEST|CHEST PORT. LINE PLACEMENT
        |PORTABLE CHEST EXAMINATION|CHEST, SINGLE AP VIEW|PORTABLE SUPINE FRONTAL VIEW|CHEST FILM""",
    "impression": """IMPRESSION|CONCLUSION|IMPRESSON|IMPRRESSION|IMORESSION|IMPRESSOIN|IMPRSSION|IMPRESION
        |IMPERSSION|MPRESSION|IMPESSION|FINAL IMPRESSION|IMPRESSION AND RECOMMENDED FOLLOW-UP|IMPRESSIONS""",
    "": """COMPARISON|COMPARISONS|INDICATION|EXAMINATION|TECHNIQUE|HISTORY|CLINICAL HISTORY|REASON FOR EXAMINATION
        |NOTIFICATION|REASON FOR EXAM|CLINICAL INFORMATION|EXAM|CLINICAL INDICATION|RECOMMENDATION(S)|RECOMMENDATIONS
        |TYPE OF EXAMINATION|REFERENCE EXAM|PATIENT HISTORY|ADDENDUM|COMPARISON EXAM|DATE|COMMENT|WET READ|WETREAD
        |COMPARISON FILM|PFI|IDICATION|COMPARISION|COMPARSION|COMPARRISON|COMPARISIONS|HISTORY OF CHEST PAIN
        |COMPARISON CHEST RADIOGRAPH|NOTE|STUDY|PROCEDURE|DOSE|PROVIDER|ACCESSION|LATERAL|VIEWS|AP""",
}
# Where we differ, and why: theirs -> ours.
OTHERWISE = {
    "FINDINGS AND IMPRESSION": COMBINED,  # impression; it answers for either name here
    "FINDINGS/IMPRESSION": COMBINED,
    "FINDINGS/ IMPRESSION": COMBINED,
    "FINDINGS & IMPRESSION": COMBINED,
    "IMPRESSION AND FINDINGS": COMBINED,
    "NDICATION": None,  # impression, a slip of the table
    "CONCUSION": "impression",  # a section of its own, "conclusion", that nothing reads
    "COINCLUSION": "impression",
    "CONCLUSIONS": "impression",  # unknown
    "INDICATION FOR CHEST RADIOGRAPH": None,  # findings, by the word chest
    "REASON FOR PORTABLE CHEST": None,
    "CHEST TUBE PLACEMENT": None,
    "COMMUNICATION OF CRITICAL FINDINGS": None,  # findings
    "CHEST, 2 VIEWS": EXAMINATION,  # no header, for its digit
    "AP CHEST, 10:30 A.M.": EXAMINATION,
    "LUNGS": SUB_HEADING,  # the findings end before it
    "HEART AND MEDIASTINUM": SUB_HEADING,
    "SUPPORT DEVICES": SUB_HEADING,
    "CHEST WALL": SUB_HEADING,
    "BONES AND SOFT TISSUES": SUB_HEADING,
    "ABDOMEN": None,
    "COMPRESSION": None,  # two slips from impression
}


@pytest.mark.parametrize("section", PUBLISHED)
def test_headers_open_the_section_that_the_published_parser_gives_them(section):
    names = [" ".join(name.split()) for name in PUBLISHED[section].split("|")]
    got = {name: (section_of(name) or "").replace(EXAMINATION, "findings") for name in names}
    assert got == dict.fromkeys(names, section)


@pytest.mark.parametrize("name", OTHERWISE)
def test_where_we_differ_from_it(name):
    assert section_of(name) == OTHERWISE[name]


@pytest.mark.parametrize(
    ("text", "findings", "impression"),
    [
        (" CHEST, TWO VIEWS:  Effusion.\n IMPRESSION:  B.\n", "Effusion.", "B."),
        (" CHEST, PA AND LATERAL:\n \n INDICATION: cough.\n FINDINGS: A.\n", "A.", ""),
        (" CHEST, PA AND LATERAL: two views.\n FINDINGS: A.\n", "A.", ""),
        (" FINDINGS:\n PORTABLE CHEST: A.\n", "A.", ""),
        (" AP CHEST: first.\n LATERAL VIEW: last.\n PORTABLE:\n \n", "last.", ""),
        (" CHEST: x.\n FINDINGS AND IMPRESSION: A.\n", "A.", "A."),
        (" FINDINGS: Tube seen\n AT 10:30 ON ROUNDS. It is\n low.\n", "Tube seen AT 10:30 ON ROUNDS. It is low.", ""),
        (" FINDINGS: DISCUSSED WITH ___\n AT 10: the tube is low.\n", "DISCUSSED WITH ___ AT 10: the tube is low.", ""),
        (" AP CHEST, 10:30 A.M.: A.\n IMPRESSION: B.\n", "A.", "B."),
        (" PORTABLE CHEST RADIOGRAPH, ___: A.\n", "A.", ""),
        (" FINDINGS:\n LUNGS: Clear.\n HEART: Normal.\n IMPRESSION: B.\n", "LUNGS: Clear. HEART: Normal.", "B."),
        (" FINDINS: A.\n FINAL IMPRESSION:B.\n", "A.", "B."),
        (" FINDINGS: A.\r\n NOTE: x.\r\n", "A.", ""),
    ],
)  # fmt: skip
def test_sections_of_whole_reports(text, findings, impression):
    texts = parse_report(text)
    assert joined(texts, ["findings"]) == findings and joined(texts, ["impression"]) == impression


def test_header_names_hold_no_more_than_headers():
    text = " INDICATION: cough.\n AT 10:30 ON ROUNDS.\n CHEST RADIOGRAPH, ___ 10:30 A.M.: A.\n NOTE: secret\n"
    assert header_names(text) == ["INDICATION", "CHEST RADIOGRAPH, A.M.", "NOTE"]
    assert not any(re.search(r"[\d_]", name) for name in header_names(text))


def test_a_long_line_of_capitals_is_read_in_no_time():
    assert parse_report(" FINDINGS: x\n" + "A" * 200_000 + "\n" + (" A 10:30" * 20_000) + "\n")["findings"].startswith(
        "x"
    )

"""Whatever the files hold, a loader gives sound studies or raises the one error that a user can mend.

Seven properties; `make test` draws 30 cases of each, `make test-all` 1,500 of each, 10,500 in all.
"""

import io
import json
import os
import posixpath
import tarfile
from pathlib import Path
from typing import Any

import pytest
from drawing import Property, draw
from hypothesis import strategies as st
from PIL import Image

from mrg_grpo.data import load_studies
from mrg_grpo.data.images import open_image
from mrg_grpo.data.records import safe_relative
from mrg_grpo.data.sections import SECTIONS, clean, joined, parse_report
from mrg_grpo.errors import UserError

NASTY = st.sampled_from(
    ["", " ", "\n", "..", "../../x.png", "/etc/passwd", "a/../..", "C:\\x", "\0", "\ud800", "XXXX", "___", "\ufeff",
     "é", '"', ",", "(", ")", ".", "<!--", "FINDINGS:", "IMPRESSION:", "train", "validate", "CXR1", "1", "50000001",
     "x" * 300]
)  # fmt: skip
TEXT = st.one_of(NASTY, st.text(max_size=30), st.lists(NASTY, max_size=4).map("".join))
PATH = st.one_of(TEXT, st.just("a/0.png"), st.lists(st.sampled_from(["..", ".", "a", "", "b"])).map("/".join))
LEAF = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT)
JSON = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)
OPTIONS = st.fixed_dictionaries(
    {"allow_missing": st.sampled_from([True, True, False])},
    optional={
        "sections": st.sampled_from([("findings",), ("findings",), ("impression",), ("findings", "impression")]),
        "views": st.sampled_from([None, "all", 1, 2, "frontal"]),
        "keep_xxxx": st.booleans(),
        "incomplete": st.sampled_from(["keep", "drop"]),
    },
)
# what a sound file holds: any text that has an encoding, and names that stay inside
SOUND = st.lists(NASTY.filter(lambda text: text != "\ud800"), max_size=5).map(" ".join)
NAME = st.sampled_from(["a/0.png", "a/1.png", "b/../a/0.png", "./a//0.png"])


def sound_or_refused(form: str, root: Path, options: dict[str, Any]) -> None:
    """Load: studies that keep every promise of `load_studies`, or a UserError of one line."""
    try:
        loaded = load_studies(form, root, **options)
    except UserError as error:
        assert "\n" not in str(error) and "\r" not in str(error) and str(error)
        return
    assert list(loaded) == ["train", "val", "test"]
    studies = [study for part in loaded.values() for study in part]
    assert len({study.id for study in studies}) == len(studies)
    assert all(study.split == name for name, part in loaded.items() for study in part)
    for study in studies:
        study.report.encode("utf-8")
        assert study.report == " ".join(study.report.split())
        assert options.get("keep_xxxx", True) or "XXXX" not in study.report
        for name in study.images:
            assert os.path.commonpath([os.path.normpath(name), root]) == str(root) and os.path.exists(name)
    if options.get("incomplete") == "drop":
        assert all(study.report for study in studies)


SOUND_RECORD = st.fixed_dictionaries({"report": SOUND, "image_path": st.lists(NAME, max_size=3)})
SOUND_ANNOTATION = st.tuples(*[st.lists(SOUND_RECORD, max_size=3)] * 3).map(
    lambda lists: {
        name: [record | {"id": f"{name}{n}"} for n, record in enumerate(part)]
        for name, part in zip(("train", "val", "test"), lists)
    }
)
RECORD = st.fixed_dictionaries(
    {"id": st.one_of(st.sampled_from(["a", "b", 1]), LEAF), "report": TEXT, "image_path": st.lists(PATH, max_size=3)}
) | st.fixed_dictionaries({}, optional={"id": JSON, "report": JSON, "image_path": JSON, "split": JSON})
ANNOTATION = st.one_of(
    SOUND_ANNOTATION,
    st.tuples(SOUND_ANNOTATION, st.lists(RECORD, max_size=1)).map(lambda pair: pair[0] | {"test": pair[1]}),
    st.dictionaries(st.one_of(st.sampled_from(["train", "val", "test"]), TEXT), st.lists(RECORD, max_size=2) | JSON),
    JSON,
).map(lambda tree: json.dumps(tree).encode())


def annotation(case: tuple[bytes, dict], root: Path) -> None:
    content, options = case
    (root / "images" / "a").mkdir(parents=True, exist_ok=True)
    (root / "images" / "a" / "0.png").touch()
    (root / "annotation.json").write_bytes(content)
    sound_or_refused("iu_xray_r2gen", root, options)
    sound_or_refused("mimic_cxr_r2gen", root, options)


def quoted(rows: list[list[str]]) -> bytes:
    """Rows as a sound CSV; half a surrogate pair has no encoding and becomes a question mark."""
    lines = (",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows)
    return "\n".join(lines).encode("utf-8", "replace")


def table(header: list[str], *cells: st.SearchStrategy[str], unique: bool = False) -> st.SearchStrategy[bytes]:
    """A CSV of this header: three in five sound, the others with rows of anything, cut short, or noise."""
    rows = st.lists(st.tuples(*cells).map(list), max_size=4, unique_by=(lambda row: row[0]) if unique else None)
    sound = rows.map(lambda rows: quoted([header, *rows]))
    any_rows = st.lists(st.lists(TEXT, max_size=len(header) + 1), max_size=3)
    noise = st.one_of(
        st.tuples(rows, any_rows).map(lambda parts: quoted([header, *parts[0], *parts[1]])),
        sound.map(lambda content: content[:-3]),
        st.binary(max_size=60).map(lambda noise: ",".join(header).encode() + b"\n" + noise),
        st.binary(max_size=60),
    )
    return st.integers(0, 4).flatmap(lambda kind: sound if kind < 3 else noise)


UID = st.sampled_from(["1", "2", "3", "04"])
SPLIT = st.sampled_from(["train", "val", "test", "validate"])
KAGGLE = st.tuples(
    table(["uid", "findings", "impression"], UID, SOUND, SOUND, unique=True),
    table(["uid", "filename", "projection"], UID, NAME | PATH, st.sampled_from(["Frontal", "Lateral"])),
    table(["id", "split"], UID, SPLIT, unique=True),
)


def kaggle(case: tuple[tuple[bytes, bytes, bytes], bool, dict], root: Path) -> None:
    (reports, projections, splits), named, options = case
    (root / "images" / "a").mkdir(parents=True, exist_ok=True)
    (root / "images" / "a" / "0.png").touch()
    (root / "indiana_reports.csv").write_bytes(reports)
    (root / "indiana_projections.csv").write_bytes(projections)
    (root / "splits.csv").write_bytes(splits)
    sound_or_refused("iu_xray_kaggle", root, options | ({"split_file": root / "splits.csv"} if named else {}))


def as_xml(parts: tuple[str, str, str, str]) -> bytes:
    uid, findings, impression, image = parts
    return (
        f'<eCitation><uId id="CXR{uid}"/><AbstractText Label="FINDINGS">{findings}</AbstractText>'
        f'<AbstractText Label="IMPRESSION">{impression}</AbstractText><parentImage id="{image}"/></eCitation>'
    ).encode("utf-8", "replace")


MARKUP = SOUND.map(lambda text: "".join(letter for letter in text if letter.isprintable() and letter not in '<&"'))
XML = st.one_of(
    st.tuples(st.integers(1, 50).map(str), MARKUP, MARKUP, NAME).map(as_xml),
    st.tuples(st.integers(51, 99).map(str), MARKUP, st.just("a &lt; b"), st.just("a/0")).map(as_xml),
    st.tuples(UID, TEXT, TEXT, PATH).map(as_xml),
    st.binary(max_size=80),
)
XML_FILES = st.lists(XML, max_size=3) | st.lists(XML.filter(lambda content: b"<eCitation>" in content), max_size=2)


def xml(case: tuple[list[bytes], int | None, dict], root: Path) -> None:
    contents, cut, options = case
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for number, content in enumerate(contents):
            member = tarfile.TarInfo(f"ecgen-radiology/{number}.xml")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (root / "NLMCXR_reports.tgz").write_bytes(buffer.getvalue()[:cut])
    sound_or_refused("iu_xray_xml", root, options)


MIMIC_SPLIT = st.one_of(
    table(
        ["study_id", "dicom_id", "subject_id", "split"],
        st.sampled_from(["50000001", "50000002"]),
        st.sampled_from(["aa", "bb", "cc"]),
        st.just("10000032"),
        st.just("train"),
        unique=True,
    ),
    table(
        ["dicom_id", "study_id", "subject_id", "split"],
        st.sampled_from(["aa", "bb", "cc"]) | PATH,
        st.sampled_from(["50000001", "50000002"]) | PATH,
        st.sampled_from(["10000032", "10000033"]) | PATH,
        SPLIT | TEXT,
    ),
)
MIMIC_METADATA = table(["dicom_id", "ViewPosition"], st.sampled_from(["aa", "bb"]), st.sampled_from(["PA", "LL"]))
MIMIC_REPORT = st.one_of(SOUND.map(str.encode), st.binary(max_size=40), SOUND.map(lambda t: f" FINDINGS: {t}".encode()))


def mimic(case: tuple[bytes, bytes, bytes, dict], root: Path) -> None:
    split, metadata, report, options = case
    for subject in ("10000032", "10000033"):
        for study in ("50000001", "50000002"):
            folder = root / "files" / "p10" / f"p{subject}" / f"s{study}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "aa.jpg").touch()
            Path(f"{folder}.txt").write_bytes(report)
    (root / "mimic-cxr-2.0.0-split.csv").write_bytes(split)
    (root / "mimic-cxr-2.0.0-metadata.csv").write_bytes(metadata)
    sound_or_refused("mimic_cxr", root, options)


def encoded(kind: str, mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((17, 13), 60).convert(mode).save(buffer, kind)
    return buffer.getvalue()


WHOLE = [encoded(*kind) for kind in (("PNG", "L"), ("PNG", "P"), ("PNG", "RGBA"), ("PNG", "I;16"), ("JPEG", "RGB"))] + [
    encoded(*kind) for kind in (("TIFF", "L"), ("TIFF", "F"), ("BMP", "RGB"), ("GIF", "P"), ("WEBP", "RGB"))
]
DAMAGE = st.lists(st.tuples(st.integers(0, 3000), st.binary(max_size=4)), max_size=4)


def image(case: tuple[bytes, list[tuple[int, bytes]], int | None], root: Path) -> None:
    content, damage, cut = case
    for place, patch in damage:
        place %= len(content)
        content = content[:place] + patch + content[place + len(patch) :]
    path = root / "x.png"
    path.write_bytes(content[:cut])
    try:
        picture = open_image(path)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return
    assert picture.mode == "RGB" and len(picture.tobytes()) == 3 * picture.width * picture.height


def image_name(name: str, root: Path) -> None:
    """An accepted name stays inside, however the system reads it."""
    try:
        plain = safe_relative(name, "a file")
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert posixpath.normpath(posixpath.join("/data/images", plain)).startswith("/data/images/")
    assert ".." not in plain.split("/") and not os.path.isabs(plain)


def report_text(case: tuple[str, bool], root: Path) -> None:
    text, keep = case
    once = clean(text, keep)
    assert clean(once, keep) == once and (keep or "XXXX" not in once)
    texts = parse_report(text)
    for sections in (SECTIONS, SECTIONS[:1], SECTIONS[1:]):
        assert not set("".join(joined(texts, sections).split())) - set("".join(text.split()))


PROPERTIES: dict[str, Property] = {
    "annotation": (st.tuples(ANNOTATION | st.binary(max_size=80), OPTIONS), annotation),
    "kaggle": (st.tuples(KAGGLE, st.booleans(), OPTIONS), kaggle),
    "xml": (st.tuples(XML_FILES, st.sampled_from([None, None, None, 3, 40, 200]), OPTIONS), xml),
    "mimic": (st.tuples(MIMIC_SPLIT, MIMIC_METADATA, MIMIC_REPORT, OPTIONS), mimic),
    "image": (st.tuples(st.sampled_from(WHOLE), DAMAGE, st.none() | st.integers(0, 900)), image),
    "image name": (PATH, image_name),
    "report text": (st.tuples(st.lists(TEXT, max_size=6).map(" ".join), st.booleans()), report_text),
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_property_on_a_few_cases(tmp_path, name):
    draw(PROPERTIES[name], 30, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROPERTIES)
def test_property_on_many_cases(tmp_path, name):
    draw(PROPERTIES[name], 1500, tmp_path)

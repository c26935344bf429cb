"""IU X-Ray as Kaggle's two tables and as NLM's XML files; its R2Gen form is read by `r2gen.py`.

Kaggle: indiana_reports.csv (uid, findings, impression; indication and comparison where they are there),
indiana_projections.csv (uid, filename, projection), and images under images/images_normalized/ or images/. NLM:
NLMCXR_reports.tgz, read in memory, or its unpacked folder of *.xml, and images under images/ or beside it.
Both give a study the id "CXR" + uid, so that one split serves both.

Deliberate choices:
1. Images keep the order of the file. The XML does not say which image is frontal: `views = "frontal"` then needs
   Kaggle's indiana_projections.csv beside it.
2. An XML file that declares a document type is refused: entities are the one way XML can reach other files or explode.
   The parser itself is asked, piece by piece, so that the encoding does not matter and no entity is ever expanded.
3. Kaggle's table has "#NAME?" where a spreadsheet took an indication that begins with a sign ("+PPD") for a formula. It
   says nothing and counts as blank; NLM's files have the words.
"""

import re
import tarfile
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Iterator
from pathlib import Path
from xml.parsers import expat

from mrg_grpo.data import records
from mrg_grpo.data.context import context_of
from mrg_grpo.data.records import LoadOptions, Record, Source
from mrg_grpo.data.sections import SECTIONS, joined
from mrg_grpo.errors import UserError

KAGGLE_REMEDY = "take it from Kaggle's raddar/chest-xrays-indiana-university"
NLM_REMEDY = "take NLMCXR_reports.tgz from openi.nlm.nih.gov/faq"
SPOILT = "#NAME?"
PIECE = 64
"""Bytes of XML given to the parser at once: too few for entities and their use to stand in one with the declaration."""
ARCHIVE = "NLMCXR_reports.tgz"


def read_kaggle(root: Path, options: LoadOptions) -> Source:
    """Records of Kaggle's two tables, in the order of indiana_reports.csv."""
    source = Source([], _image_folder(root))
    listed = projections(root, source.notes)
    path = root / "indiana_reports.csv"
    columns = ("uid", "findings", "impression")
    seen: set[str] = set()
    more = ("indication", "comparison")
    rows = records.table_rows(path, columns, source.notes, KAGGLE_REMEDY, optional=more)
    for uid, findings, impression, indication, comparison in rows:
        study_id = _study_id(uid, str(path))
        if study_id in seen:
            raise UserError(f"{path}: uid {uid!r} occurs twice; keep one row for each study")
        seen.add(study_id)
        texts = {"findings": findings, "impression": impression, "indication": indication, "comparison": comparison}
        texts = {name: "" if text == SPOILT else text for name, text in texts.items()}
        views = listed.pop(study_id, [])
        if options.views == "frontal":
            views = [view for view in views if view[1] == "Frontal"]
        names = _first(tuple(name for name, _ in views), options)
        source.records.append(_record(study_id, texts, names, options, f"{path}, uid {uid!r}"))
    if listed:
        source.notes.append(
            f"warning: {len(listed):,} studies of indiana_projections.csv have no report and are left out: "
            f"{records.first_names(sorted(listed))}"
        )
    return source


def read_xml(root: Path, options: LoadOptions) -> Source:
    """Records of NLM's XML files, in the order of their numbers."""
    source = Source([], _image_folder(root))
    frontal: set[tuple[str, str]] | None = None
    if options.views == "frontal":
        if not (root / "indiana_projections.csv").is_file():
            raise records.view_error(
                "iu_xray_xml", "put Kaggle's indiana_projections.csv beside it, or use views = 1 for the first image"
            )
        listed = projections(root, source.notes)
        # Kaggle's "1_IM-0001-4001.dcm.png" is NLM's "CXR1_1_IM-0001-4001" of the same study
        frontal = {
            (study_id, _series(name))
            for study_id, images in listed.items()
            for name, view in images
            if view == "Frontal"
        }
    seen: dict[str, str] = {}
    present = _listing(source.image_folder)
    for where, raw in _xml_files(root):
        study_id, texts, names = _parse(raw, where)
        if study_id in seen:
            raise UserError(f"{where} has the uId {study_id!r} of {seen[study_id]} again; keep one file for each study")
        seen[study_id] = where
        if frontal is not None:
            names = [name for name in names if (study_id, _series(name)) in frontal]
        files = (_file_name(name, present, where) for name in names)
        source.records.append(_record(study_id, texts, _first(tuple(files), options), options, where))
    source.records.sort(key=lambda record: int(record.id[3:]))
    if not source.records:
        raise UserError(f"{root} holds no XML report; {NLM_REMEDY}")
    return source


def projections(root: Path, notes: list[str]) -> dict[str, list[tuple[str, str]]]:
    """Image name and view ("Frontal" or "Lateral") of every image in indiana_projections.csv, by study id."""
    path = root / "indiana_projections.csv"
    listed: dict[str, list[tuple[str, str]]] = {}
    for uid, name, view in records.table_rows(path, ("uid", "filename", "projection"), notes, KAGGLE_REMEDY):
        if view not in ("Frontal", "Lateral"):
            raise UserError(
                f"{path}, uid {uid!r}: the projection {view!r} is neither Frontal nor Lateral; mend the row"
            )
        where = f"{path}, uid {uid!r}"
        listed.setdefault(_study_id(uid, str(path)), []).append((records.safe_relative(name, where), view))
    return listed


def _study_id(uid: str, where: str) -> str:
    if not re.fullmatch(r"\d{1,9}", uid, re.ASCII):
        raise UserError(f"{where} has the uid {uid!r}; it must be a whole number")
    return f"CXR{int(uid)}"


def _record(study_id: str, texts: dict[str, str], images: tuple[str, ...], options: LoadOptions, where: str) -> Record:
    report = joined(texts, options.sections, options.keep_xxxx)
    answer = joined(texts, SECTIONS, options.keep_xxxx) if options.context else ""
    context = context_of({name: texts.get(name) for name in ("indication", "comparison")}, options, where)
    return Record(study_id, report, images, None, context=context, answer=answer)


def _first(names: tuple[str, ...], options: LoadOptions) -> tuple[str, ...]:
    return names[: options.views] if isinstance(options.views, int) else names


def _image_folder(root: Path) -> Path:
    """Where the images lie: the first of the usual folders that is there."""
    for name in ("images/images_normalized", "images_normalized", "images", "NLMCXR_png"):
        if (root / name).is_dir():
            return root / name
    return root / "images"


def _listing(folder: Path) -> frozenset[str]:
    return frozenset(entry.name for entry in folder.iterdir()) if folder.is_dir() else frozenset()


def _file_name(image_id: str, present: frozenset[str], where: str) -> str:
    """NLM publishes the images as PNG; some copies hold JPG. A name that is not there is reported as the PNG."""
    name = records.safe_relative(image_id, where)
    return f"{name}.jpg" if f"{name}.jpg" in present and f"{name}.png" not in present else f"{name}.png"


def _series(name: str) -> str:
    """What Kaggle's and NLM's names of one image of a study share: series and image number, "IM-0001-4001"."""
    return re.sub(r"(\.dcm)?\.(png|jpg)$", "", name[max(name.find("IM-"), 0) :])


def _xml_files(root: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each report, from the archive if there is one, else from the folder."""
    archive = root / ARCHIVE
    if archive.is_file():
        yield from _archived(archive)
        return
    folder = next((root / name for name in ("ecgen-radiology", "NLMCXR_reports/ecgen-radiology", "reports")
                   if (root / name).is_dir()), root)  # fmt: skip
    for path in sorted(folder.glob("*.xml")):
        yield str(path), records.read_bytes(path, NLM_REMEDY)


def _archived(archive: Path) -> Iterator[tuple[str, bytes]]:
    try:
        # read from front to back, never written to disk; not as a stream ("r|gz"), which raises TypeError on a stub
        with records.Unpacked(archive) as unpacked, tarfile.open(fileobj=unpacked, mode="r:") as tar:
            for member in tar:
                if not (member.isfile() and member.name.endswith(".xml")):
                    continue
                where = f"{archive}, {member.name}"
                if member.size > records.MAX_REPORT:
                    raise UserError(f"{where} holds {member.size:,} bytes, more than a report can; {NLM_REMEDY}")
                content = tar.extractfile(member)
                if content is not None:
                    yield where, content.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{archive} is truncated or no tgz archive ({error}); {NLM_REMEDY}") from error


def _has_doctype(raw: bytes) -> bool:
    """Whether a document type is declared, which can only stand before the first element. Raises what expat does."""
    found: list[bool] = []
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = lambda *_: found.append(True)
    parser.StartElementHandler = lambda *_: found.append(False)
    for start in range(0, len(raw), PIECE):
        parser.Parse(raw[start : start + PIECE], False)
        if found:
            return found[0]
    return False


def _parse(raw: bytes, where: str) -> tuple[str, dict[str, str], list[str]]:
    """Study id, texts by section name in lower case, and image ids of one file."""
    try:
        if _has_doctype(raw):
            raise UserError(f"{where} declares a document type, which a report does not need; {NLM_REMEDY}")
        tree = ElementTree.fromstring(raw)
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError) as error:  # Lookup: of an encoding
        raise UserError(f"{where} is not XML ({error}); {NLM_REMEDY}") from error
    uid = tree.find("uId")
    number = "" if uid is None else uid.get("id", "")
    if not number.startswith("CXR"):
        raise UserError(f'{where} has no <uId id="CXR...">; {NLM_REMEDY}')
    texts: dict[str, str] = {}
    for element in tree.iter("AbstractText"):
        label = element.get("Label", "").lower()
        text = "".join(element.itertext())
        texts[label] = f"{texts[label]} {text}" if label in texts else text
    names = [element.get("id", "") for element in tree.iter("parentImage")]
    return _study_id(number[3:], where), texts, names

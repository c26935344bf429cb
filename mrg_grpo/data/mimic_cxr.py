"""MIMIC-CXR in its native layout; its R2Gen form is read by `r2gen.py`, with the views looked up here.

    mimic-cxr-2.0.0-split.csv[.gz]       dicom_id, study_id, subject_id, split: which studies and images there are
    mimic-cxr-2.0.0-metadata.csv[.gz]    dicom_id, ViewPosition: read only for views = "frontal";
                                         study_id, StudyDate, StudyTime: read only for the study before
    mimic-cxr-reports.zip                reports in one archive, read in place; or unpacked:
    files/p10/p10000032/s50414267.txt    a report
    files/p10/p10000032/s50414267/*.jpg  its images

Deliberate choices:
1. Tables alone say which images exist. 377,110 files are neither listed nor opened here; `load_studies` looks whether
   they are there, and an image is opened when its step comes.
2. Frontal is ViewPosition PA or AP.
3. A study's id is its study_id. Images keep the order of the split file.
4. The study before is the patient's last one whose StudyDate and StudyTime are earlier. Both are numbers: a StudyTime
   has lost its leading zeros ("91234.5" is ten past nine). Dates are shifted by patient, and their order is true.
   Images of a study that differ in time count with the earliest.
5. The data are credentialed: nothing here writes anything, and an error names ids and files, never a report's text.
   The line on reports without a section names their most frequent headers, and no more of them.
"""

import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from mrg_grpo.data import records
from mrg_grpo.data.context import before, context_of, wants_prior
from mrg_grpo.data.r2gen import ChooseFrontal
from mrg_grpo.data.records import LoadOptions, Record, Source
from mrg_grpo.data.sections import COMBINED, SECTIONS, header_names, joined, parse_context, parse_report
from mrg_grpo.data.study import NOTHING
from mrg_grpo.errors import UserError
from mrg_grpo.files import read_bytes

REMEDY = "take it from physionet.org/content/mimic-cxr-jpg"
REPORT_REMEDY = (
    "put mimic-cxr-reports.zip of physionet.org/content/mimic-cxr there or unpack it, "
    "or name a split_file that lists only the studies you have"
)
FRONTAL_POSITIONS = ("PA", "AP")
DIGITS = re.compile(r"\d{1,12}", re.ASCII)
DICOM_ID = re.compile(r"[\w-]{1,80}", re.ASCII)
ReadReport = Callable[[str], bytes | None]


def read_native(root: Path, options: LoadOptions) -> Source:
    """Records of the split file, with their reports; UserError with counts and names where reports are missing."""
    source = Source([], root)
    path = options.split_file or _plain_or_packed(root, "mimic-cxr-2.0.0-split.csv")
    studies = _studies(path, source.notes)
    frontal = frontal_dicoms(root, source.notes) if options.views == "frontal" else None
    prior = _prior_studies(root, studies, source.notes) if wants_prior(options) else {}
    read, close = _reports(root)
    missing: list[str] = []
    lacking: dict[str, list[list[str]]] = {section: [] for section in options.sections}
    try:
        for study_id, (subject_id, split, dicoms) in studies.items():
            stem = f"files/p{subject_id[:2]}/p{subject_id}/s{study_id}"
            raw = read(f"{stem}.txt")
            if raw is None:
                missing.append(f"{stem}.txt")
                continue
            text = records.decoded(raw, root / f"{stem}.txt", source.notes)
            if frontal is not None:
                dicoms = [dicom for dicom in dicoms if dicom in frontal]
            elif isinstance(options.views, int):
                dicoms = dicoms[: options.views]
            texts = parse_report(text)
            for section, others in lacking.items():
                if not (texts.get(section) or texts.get(COMBINED)):
                    others.append(header_names(text))
            report = joined(texts, options.sections, options.keep_xxxx)
            images = tuple(f"{stem}/{dicom}.jpg" for dicom in dicoms)
            context = context_of(parse_context(text), options, f"{stem}.txt") if options.context else NOTHING
            answer = joined(texts, SECTIONS, options.keep_xxxx) if options.context else ""
            source.records.append(
                Record(study_id, report, images, split, subject_id, context, prior.get(study_id, ""), answer)
            )
    finally:
        close()
    if missing:
        raise UserError(
            f"{root}: {len(missing):,} of {len(studies):,} reports are missing: {records.first_names(missing)}; "
            f"{REPORT_REMEDY}"
        )
    source.notes += [_lack(name, others, len(studies)) for name, others in lacking.items() if others]
    return source


def _lack(section: str, others: list[list[str]], total: int) -> str:
    """The line on reports without a section: how many, and the headers that they have, the most frequent first."""
    counts = Counter(name for names in others for name in dict.fromkeys(names))
    said = ", ".join(f"{name} {count:,}" for name, count in counts.most_common(10)) or "none"
    return f"{len(others):,} of {total:,} reports have no {section}; the headers in them: {said}"


def r2gen_frontal(root: Path, notes: list[str]) -> ChooseFrontal | None:
    """For the R2Gen form: picks frontal images by the dicom id in their names, if the metadata file lies beside it."""
    if not any((root / f"mimic-cxr-2.0.0-metadata.csv{end}").is_file() for end in ("", ".gz")):
        return None
    frontal = frontal_dicoms(root, notes)
    return lambda names: tuple(name for name in names if Path(name).stem in frontal)


def frontal_dicoms(root: Path, notes: list[str]) -> frozenset[str]:
    """The dicom ids whose ViewPosition is frontal."""
    path = _plain_or_packed(root, "mimic-cxr-2.0.0-metadata.csv")
    rows = records.table_rows(path, ("dicom_id", "ViewPosition"), notes, REMEDY)
    return frozenset(dicom for dicom, position in rows if position in FRONTAL_POSITIONS)


def _prior_studies(root: Path, studies: Mapping[str, tuple[str, str, list[str]]], notes: list[str]) -> dict[str, str]:
    """study id -> the id of the patient's study before it, of those that have one."""
    path = _plain_or_packed(root, "mimic-cxr-2.0.0-metadata.csv")
    times: dict[str, tuple[float, float]] = {}
    for study_id, date, time in records.table_rows(path, ("study_id", "StudyDate", "StudyTime"), notes, REMEDY):
        try:
            at = float(date), float(time)
        except ValueError as error:
            raise UserError(
                f"{path}, study {study_id!r}: StudyDate {date!r} or StudyTime {time!r} is no number; {REMEDY}"
            ) from error
        times[study_id] = min(at, times.get(study_id, at))
    absent = [study_id for study_id in studies if study_id not in times]
    if absent:
        raise UserError(f"{path} lacks {len(absent):,} studies: {records.first_names(absent)}; {REMEDY}")
    return before({study_id: (subject, times[study_id]) for study_id, (subject, _, _) in studies.items()})


def _plain_or_packed(root: Path, name: str) -> Path:
    plain, packed = root / name, root / f"{name}.gz"
    if not plain.is_file() and not packed.is_file():
        raise UserError(f"{plain} and {packed.name} are missing; {REMEDY}")
    return plain if plain.is_file() else packed


def _studies(path: Path, notes: list[str]) -> dict[str, tuple[str, str, list[str]]]:
    """Subject id, split and dicom ids of every study, by study id."""
    studies: dict[str, tuple[str, str, list[str]]] = {}
    seen: set[str] = set()
    subject_split: dict[str, str] = {}
    columns = ("dicom_id", "study_id", "subject_id", "split")
    for dicom_id, study_id, subject_id, name in records.table_rows(path, columns, notes, REMEDY):
        if not (DIGITS.fullmatch(study_id) and DIGITS.fullmatch(subject_id) and DICOM_ID.fullmatch(dicom_id)):
            raise UserError(
                f"{path} has the ids dicom {dicom_id!r}, study {study_id!r}, subject {subject_id!r}; "
                f"studies and subjects are whole numbers, dicoms letters, digits and hyphens"
            )
        if dicom_id in seen:
            raise UserError(f"{path}: dicom_id {dicom_id!r} occurs twice; keep one row for each image")
        seen.add(dicom_id)
        split = records.SPLIT_NAMES.get(name) or records.split_named(name, f"{path}, study {study_id}")
        if subject_split.setdefault(subject_id, split) != split:
            raise UserError(
                f"{path} puts subject {subject_id} into {subject_split[subject_id]} and {split}; one patient, one split"
            )
        subject, _, dicoms = studies.setdefault(study_id, (subject_id, split, []))
        if subject != subject_id:
            raise UserError(f"{path} gives study {study_id} to subjects {subject} and {subject_id}; mend the row")
        dicoms.append(dicom_id)
    return studies


def _reports(root: Path) -> tuple[ReadReport, Callable[[], None]]:
    """A function from a report's name to its bytes, or None where there is none; and one that ends the reading."""
    archive = root / "mimic-cxr-reports.zip"
    if not archive.is_file():
        return lambda name: _file_content(root / name), lambda: None
    try:
        packed = zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{archive} is truncated or no zip archive ({error}); fetch it again") from error

    def read(name: str) -> bytes | None:
        try:
            with packed.open(name) as file:
                content = file.read(records.MAX_REPORT + 1)  # never all: what the archive says of its size may be wrong
        except KeyError:
            return None
        except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError, zlib.error) as error:
            raise UserError(f"{archive}, {name} cannot be read ({error}); fetch it again") from error
        if len(content) > records.MAX_REPORT:
            raise UserError(f"{archive}, {name} holds more than a report can; fetch it again")
        return content

    return read, packed.close


def _file_content(path: Path) -> bytes | None:
    try:
        return read_bytes(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"report {path} cannot be read ({error}); check its permissions") from error

"""Studies by split name: from any of the data forms (`load_studies`), and as a configuration asks for them.

Deliberate choices:
1. No image is opened. Whether each file is there is asked once, folder by folder; `leaks.py` reads the bytes of files
   of equal size in two splits, of forms whose split is not by patient.
2. Nothing is left out silently. A study with an empty report, or without an image of the wished views, stays, counted
   and named in a note; `incomplete="drop"`, the default of a configuration, leaves such studies out, by name, and says
   so too. Evaluation sets of two people who use the same settings therefore hold the same studies.
3. The result is a dict by split name that also carries `notes`, the lines that a command prints (`describe_splits`).
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from mrg_grpo.config import FORMS, Config
from mrg_grpo.data import iu_xray, mimic_cxr, r2gen, records
from mrg_grpo.data.leaks import leaks
from mrg_grpo.data.records import LoadOptions, Record, Source, first_names
from mrg_grpo.data.sections import checked_sections
from mrg_grpo.data.splits import Studies, assigned, describe_splits
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError


def load_studies(
    form: str,
    root: str | os.PathLike[str],
    *,
    sections: Sequence[str] = ("findings",),
    views: str | int | None = None,
    allow_missing: bool = False,
    split_file: str | os.PathLike[str] | None = None,
    keep_xxxx: bool = True,
    incomplete: str = "keep",
) -> Studies:
    """Every study of the data set at `root`, by split name (train, val, test), in the order of its files.

    form           one of mrg_grpo.config.FORMS; docs/data.md says what each looks like
    sections       "findings", "impression" or both, joined in this order
    views          None or "all", "frontal", or the number of first images to keep
    allow_missing  keep every study with the images that are there, possibly none; of what is decoded those with none
                   are left out later, by `read_splits`
    split_file     splits by id, for iu_xray_kaggle and iu_xray_xml; for mimic_cxr a table in place of its split file
    keep_xxxx      False drops de-identified words (XXXX, ___) from reports
    incomplete     "keep" or "drop" studies with an empty report, or with no image of the wished views

    Raises UserError, one line with file, record and remedy, for anything the data set is not.
    """
    if form not in FORMS:
        raise UserError(f"data.form is {form!r}; use one of {', '.join(FORMS)}")
    if incomplete not in ("keep", "drop"):
        raise UserError(f'incomplete is {incomplete!r}; use "keep" or "drop"')
    options = LoadOptions(
        checked_sections(sections),
        records.checked_views(views),
        keep_xxxx,
        None if split_file is None else Path(split_file),
    )
    if form.startswith("phantom"):
        from mrg_grpo.data.phantom import dataset as phantom  # rendered on demand; runs on real images never import it

        return Studies(phantom.load(str(root), sections=options.sections, rare=form == "phantom_rare"))
    source = _read(form, records.data_folder(Path(root)), options)
    notes = source.notes
    pairs = assigned(source.records, options.split_file, form, notes)
    absent = missing_files(source.image_folder, (name for _, record in pairs for name in record.images))
    _judge_images(pairs, absent, source.image_folder, allow_missing, incomplete, notes)
    empty = [record.id for _, record in pairs if not record.report]
    if empty:
        fate = "left out" if incomplete == "drop" else 'kept (data.incomplete = "drop" leaves them out)'
        named = " or ".join(options.sections)
        notes.append(f"{len(empty):,} studies have no text in {named} and are {fate}: {first_names(empty)}")
    if form != "mimic_cxr":  # its split file has been judged by patient
        notes += leaks(pairs, source.image_folder, absent, form)
    folder = str(source.image_folder)
    by_split: dict[str, list[Study]] = {name: [] for name in records.SPLITS}
    for split, record in pairs:
        if incomplete == "drop" and not (record.report and record.images):
            continue
        images = tuple(f"{folder}/{name}" for name in record.images if name not in absent)
        by_split[split].append(Study(record.id, images, record.report, split))
    return Studies(by_split, notes, read=len(source.records))


def _read(form: str, root: Path, options: LoadOptions) -> Source:
    """The records of one form."""
    if form == "iu_xray_kaggle":
        return iu_xray.read_kaggle(root, options)
    if form == "iu_xray_xml":
        return iu_xray.read_xml(root, options)
    if form == "mimic_cxr":
        return mimic_cxr.read_native(root, options)
    notes: list[str] = []
    frontal = None
    if form == "mimic_cxr_r2gen" and options.views == "frontal":
        frontal = mimic_cxr.r2gen_frontal(root, notes)
    source = r2gen.read(root, form, options, frontal)
    source.notes[:0] = notes
    return source


def missing_files(folder: Path, names: Iterable[str]) -> set[str]:
    """Which of these names, relative to the folder, are not there.

    Each folder is listed once. On MIMIC-CXR's tree of one or two images a folder this took as long as asking for each
    file, and on a flat folder of thousands it is one request in place of thousands.
    """
    by_folder: dict[str, list[str]] = {}
    for name in names:
        head, _, tail = name.rpartition("/")
        by_folder.setdefault(head, []).append(tail)
    missing: set[str] = set()
    for head, tails in by_folder.items():
        inner = f"{folder}/{head}" if head else str(folder)
        prefix = f"{head}/" if head else ""
        try:
            present = set(os.listdir(inner))
        except OSError:  # no such folder: then none of its files is there
            present = set()
        missing.update(prefix + tail for tail in tails if tail not in present)
    return missing


def _judge_images(
    pairs: list[tuple[str, Record]],
    absent: set[str],
    folder: Path,
    allow_missing: bool,
    incomplete: str,
    notes: list[str],
) -> None:
    """Raise for missing images, or note them where they are allowed."""
    wished = sum(len(record.images) for _, record in pairs)
    if absent:
        names = sorted(absent)
        line = f"{len(absent):,} of {wished:,} images are missing from {folder}: {first_names(names)}"
        if not allow_missing:
            raise UserError(f"{line}; put them there, or set data.allow_missing = true to go on without them")
        bare = sum(not any(name not in absent for name in record.images) for _, record in pairs)
        notes.append(f"warning: {line}; {bare:,} of {len(pairs):,} studies have no image at all")
    without = [record.id for _, record in pairs if not record.images]
    if without:
        line = f"{len(without):,} studies list no image of the wished views: {first_names(without)}"
        if not allow_missing and incomplete != "drop":
            raise UserError(f'{line}; set data.incomplete = "drop" to leave them out, or data.allow_missing = true')
        notes.append(f"{line}; they are {'left out' if incomplete == 'drop' else 'kept without one'}")


def load_splits(config: Config) -> Studies:
    """The configured studies by split name; prints the sizes beside the published ones, and the loader's notes."""
    studies = read_splits(config)
    print("\n".join(describe_splits(studies, config.data.form)))
    return studies


def read_splits(config: Config) -> Studies:
    """The configured studies by split name. With data.allow_missing those without an image file are left out, named:
    all who call this decode or train."""
    data = config.data
    views = int(data.views) if data.views.isdigit() else (None if data.views == "all" else data.views)
    studies = load_studies(
        data.form,
        data.root,
        sections=tuple(data.sections),
        views=views,
        allow_missing=data.allow_missing,
        split_file=data.split_file or None,
        keep_xxxx=data.keep_xxxx,
        incomplete=data.incomplete,
    )
    return with_images(studies, data.root) if data.allow_missing else studies


def with_images(studies: Studies, root: str) -> Studies:
    """Without the studies that have no image, and with a note that counts and names them; UserError where all go."""
    bare = [study.id for part in studies.values() for study in part if not study.images]
    if not bare:
        return studies
    kept = {split: [study for study in part if study.images] for split, part in studies.items()}
    if not any(kept.values()):
        raise UserError(f"data.root {root}: none of its {len(bare):,} studies has an image file; put the images there")
    note = (
        f"warning: {len(bare):,} studies have no image file and are left out (data.allow_missing): {first_names(bare)}"
    )
    return Studies(kept, [*studies.notes, note], studies.read)


def studies_of(splits: dict[str, list[Study]], split: str) -> list[Study]:
    """The studies of a split; UserError names the splits that there are."""
    if not splits.get(split):
        raise UserError(
            f'split "{split}" is not in the data; it has {", ".join(f"{k} ({len(v)})" for k, v in splits.items())}'
        )
    return splits[split]


def validation_studies(splits: dict[str, list[Study]], config: Config) -> list[Study]:
    """What a run decodes on its way; none where the data have no validation split."""
    return splits.get("val", [])[: config.run.eval_studies]


def test_studies(splits: dict[str, list[Study]], config: Config) -> list[Study]:
    """What a run decodes at its end, before and after."""
    studies = studies_of(splits, "test")
    return studies[: config.run.test_studies or len(studies)]


def require_images(studies: list[Study]) -> None:
    """UserError that names the studies without an image, which no policy can be shown."""
    bare = [study.id for study in studies if not study.images]
    if bare:
        raise UserError(
            f"{len(bare)} of {len(studies)} studies have no image ({first_names(bare)}); "
            "add the images, or set data.allow_missing = true to leave such studies out; score needs no images"
        )

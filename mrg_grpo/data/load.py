"""Studies by split name: from any of the data forms (`load_studies`), and as a configuration asks for them.

Deliberate choices:
1. No image is opened, unless `verify` asks for headers. Whether each file is there is asked once, folder by folder;
   `leaks.py` reads the bytes of files of equal size in two splits, of forms whose split is not by patient.
2. Nothing is left out silently. A study with an empty report, or without an image of the wished views, stays, counted
   and named in a note; `incomplete="drop"`, the default of a configuration, leaves such studies out, by name, and says
   so too. Evaluation sets of two people who use the same settings therefore hold the same studies.
3. The result is a dict by split name that also carries `notes`, the lines that a command prints (`describe_splits`).
4. A run that goes on keeps the studies that it began with, in their order, whatever has become of their files: what
   cannot be read by then is left out when it comes. Else one lost picture would change every step that follows.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from mrg_grpo import distributed
from mrg_grpo.config import FORMS, ColumnsConfig, Config
from mrg_grpo.data import chexpert_plus, iu_xray, mimic_cxr, padchest_gr, r2gen, records, rexgradient, table
from mrg_grpo.data.context import Known, checked_context
from mrg_grpo.data.keep import kept
from mrg_grpo.data.leaks import leaks
from mrg_grpo.data.records import LoadOptions, Record, Source, first_names
from mrg_grpo.data.sections import checked_sections
from mrg_grpo.data.splits import Studies, assigned, describe_splits
from mrg_grpo.data.study import Study
from mrg_grpo.data.verify import image_faults, missing_files
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
    verify: Sequence[str] = (),
    left_out: Mapping[str, Sequence[int]] | None = None,
    files: str = "",
    columns: ColumnsConfig | None = None,
    context: Sequence[str] = (),
) -> Studies:
    """Every study of the data set at `root`, by split name (train, val, test), in the order of its files.

    form           one of mrg_grpo.config.FORMS; docs/guides/own-data.md says what each looks like
    sections       "findings", "impression" or both, joined in this order
    views          None or "all", "frontal", or the number of first images to keep
    allow_missing  keep every study with the images that can be read, possibly none; of what is decoded those with
                   none are left out later, by `read_splits`
    split_file     splits by id, for iu_xray_kaggle and iu_xray_xml; for mimic_cxr a table in place of its split file
    keep_xxxx      False drops de-identified words (XXXX, ___) from reports
    incomplete     "keep" or "drop" studies with an empty report, or with no image of the wished views
    verify         splits of whose image files the headers are read too, by many ranks in shares: all must call this
    left_out       of a run that goes on: the images, by study id and place, that it began without. It has all others
                   still, and what can no longer be read is a note
    files, columns of the form "table": its file or pattern of files, and what its columns are called
    context        what of `Context` each study carries, some of mrg_grpo.config.CONTEXT

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
        files,
        columns or ColumnsConfig(),
        checked_context(context),
    )
    if form.startswith("phantom"):
        from mrg_grpo.data.phantom import dataset as phantom  # rendered on demand; runs on real images never import it

        drawn = phantom.load(str(root), sections=options.sections, form=form)
        none = f"warning: context: {form} has none of {', '.join(options.context)}"
        return Studies(drawn, [none] if options.context else ())
    source = _read(form, records.data_folder(Path(root)), options)
    notes = source.notes
    pairs = assigned(source.records, options.split_file, form, notes)
    known = Known(options.context, pairs, source.records)
    images = _Images(pairs, source.image_folder, verify, known)
    if left_out is None:
        images.judge(allow_missing, incomplete, notes)
        left_out = images.left_out()
    else:
        images.compare(left_out, allow_missing, notes)
    empty = [record.id for _, record in pairs if not record.report]
    if empty:
        fate = "left out" if incomplete == "drop" else 'kept (data.incomplete = "drop" leaves them out)'
        named = " or ".join(options.sections)
        notes.append(f"{len(empty):,} studies have no text in {named} and are {fate}: {first_names(empty)}")
    if form != "mimic_cxr":  # its split file has been judged by patient
        notes += leaks(pairs, source.image_folder, images.missing, form)
    folder = str(source.image_folder)
    by_split: dict[str, list[Study]] = {name: [] for name in records.SPLITS}
    for split, record in pairs:
        if incomplete == "drop" and not (record.report and record.images):
            continue
        gone = left_out.get(record.id, ())
        kept = tuple(f"{folder}/{name}" for place, name in enumerate(record.images) if place not in gone)
        beside = known.of(record, images.of_prior(record, left_out))
        by_split[split].append(Study(record.id, kept, record.report, split, context=beside))
    notes += known.notes()
    return Studies(by_split, notes, read=len(source.records), left_out=left_out)


READERS = {
    "iu_xray_kaggle": iu_xray.read_kaggle,
    "iu_xray_xml": iu_xray.read_xml,
    "mimic_cxr": mimic_cxr.read_native,
    "table": table.read,
    "rexgradient": rexgradient.read,
    "chexpert_plus": chexpert_plus.read,
    "padchest_gr": padchest_gr.read,
}


def _read(form: str, root: Path, options: LoadOptions) -> Source:
    """The records of one form."""
    if form in READERS:
        return READERS[form](root, options)
    notes: list[str] = []
    frontal = None
    if form == "mimic_cxr_r2gen" and options.views == "frontal":
        frontal = mimic_cxr.r2gen_frontal(root, notes)
    source = r2gen.read(root, form, options, frontal)
    source.notes[:0] = notes
    return source


class _Images:
    """The image files of all records, and which of them cannot be read."""

    def __init__(self, pairs: list[tuple[str, Record]], folder: Path, verify: Sequence[str], known: Known) -> None:
        self.pairs, self.folder, self.known = pairs, folder, known
        listed = {name for _, record in pairs for name in record.images}
        priors = {name: split for split, record in pairs for name in known.prior_names(record) if name not in listed}
        missing = missing_files(folder, [*listed, *priors])
        # with `verify` every rank comes here, and all must have the same studies where their disks differ
        missing = set[str]().union(*distributed.all_gather(missing)) if verify else missing
        names = dict.fromkeys(name for split, record in pairs if split in verify for name in record.images)
        names |= dict.fromkeys(name for name, split in priors.items() if split in verify)
        there = {f"{folder}/{name}": name for name in names if name not in missing}
        faults = {there[path]: why for path, why in image_faults(list(there)).items()}
        self.missing, self.faults = missing & listed, {name: why for name, why in faults.items() if name in listed}
        self.no_prior = (missing | faults.keys()) - listed
        """Images of prior studies alone, which cannot be read: then there is none, and that is no fault."""

    def judge(self, allow_missing: bool, incomplete: str, notes: list[str]) -> None:
        """Raise for images that cannot be read, or note them where they are allowed."""
        lines, gone = self.lines(self.missing, self.faults), self.left_out()
        if lines and not allow_missing:
            raise UserError(
                f"{'; '.join(lines)}; put them there, or set data.allow_missing = true to go on without them"
            )
        bare = sum(len(gone.get(record.id, ())) == len(record.images) for _, record in self.pairs)
        notes += [f"warning: {line}; {bare:,} of {len(self.pairs):,} studies have no image at all" for line in lines]
        without = [record.id for _, record in self.pairs if not record.images]
        if without:
            line = f"{len(without):,} studies list no image of the wished views: {first_names(without)}"
            if not allow_missing and incomplete != "drop":
                raise UserError(f'{line}; set data.incomplete = "drop" to leave them out, or data.allow_missing = true')
            notes.append(f"{line}; they are {'left out' if incomplete == 'drop' else 'kept without one'}")

    def compare(self, left_out: Mapping[str, Sequence[int]], allow_missing: bool, notes: list[str]) -> None:
        """Note images that a run began with and that can no longer be read; raise where they are of most studies."""
        sizes, hit, lost = Counter(split for split, _ in self.pairs), Counter[str](), set()
        for split, record in self.pairs:
            places = [place for place in self.unusable(record) if place not in left_out.get(record.id, ())]
            hit[split] += bool(places)
            lost |= {record.images[place] for place in places}
        lines = self.lines(self.missing & lost, {name: why for name, why in self.faults.items() if name in lost})
        most = [split for split, count in hit.items() if 2 * count > sizes[split]]
        if most and not allow_missing:
            raise UserError(
                f"{'; '.join(lines)}; the run began with them, and they are of more than half of the studies of "
                f"{' and '.join(most)}: put them back, or set data.allow_missing = true to go on without them"
            )
        notes += [f"warning: {line}; the run began with them, and leaves their studies out now" for line in lines]

    def lines(self, missing: set[str], faults: Mapping[str, str]) -> list[str]:
        """How many images are missing, and how many broken, with the first names."""
        listed = sum(len(record.images) for _, record in self.pairs)
        lines = []
        if missing:
            named = first_names(sorted(missing))
            lines.append(f"{len(missing):,} of {listed:,} images are missing from {self.folder}: {named}")
        if faults:
            named = f"{first_names(sorted(faults))} ({faults[min(faults)]})"
            lines.append(f"{len(faults):,} of {listed:,} images cannot be read: {named}")
        return lines

    def unusable(self, record: Record) -> list[int]:
        """The places of a record's images that cannot be read."""
        return [n for n, name in enumerate(record.images) if name in self.missing or name in self.faults]

    def of_prior(self, record: Record, left_out: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
        """The paths of the images of the study before, those that can be read."""
        prior = self.known.prior.get(record.id)
        gone = () if prior is None else left_out.get(prior.id, ())
        names = enumerate(self.known.prior_names(record))
        return tuple(f"{self.folder}/{name}" for n, name in names if n not in gone and name not in self.no_prior)

    def left_out(self) -> dict[str, list[int]]:
        """study id -> those places, of the studies that have any."""
        return {record.id: places for _, record in self.pairs if (places := self.unusable(record))}


def load_splits(
    config: Config, verify: Sequence[str] = (), left_out: Mapping[str, Sequence[int]] | None = None
) -> Studies:
    """The configured studies by split name; prints the sizes beside the published ones, and the loader's notes."""
    studies = read_splits(config, verify, left_out)
    print("\n".join(describe_splits(studies, config.data.form)))
    return studies


def read_splits(
    config: Config, verify: Sequence[str] = (), left_out: Mapping[str, Sequence[int]] | None = None
) -> Studies:
    """The configured studies by split name. With data.allow_missing those without an image that can be read are left
    out, named: all who call this decode or train. verify, left_out: as in `load_studies`."""
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
        verify=verify,
        left_out=left_out,
        files=data.table,
        columns=data.columns,
        context=config.prompt.context,
    )
    if left_out is not None or data.allow_missing:
        studies = with_images(studies, data.root)
    return chosen(studies, config) if data.keep else studies


def chosen(studies: Studies, config: Config) -> Studies:
    """With the training studies alone that data.keep asks for."""
    train, notes = kept(studies_of(studies, "train"), config)
    return Studies({**studies, "train": train}, [*studies.notes, *notes], studies.read, studies.left_out)


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
    return Studies(kept, [*studies.notes, note], studies.read, studies.left_out)


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

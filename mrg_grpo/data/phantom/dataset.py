"""The phantom: procedural chest X-ray studies, so that the whole loop runs with no download.

A case is drawn first (`phantom_case`); picture (`phantom_draw`) and report (`phantom_text`) are both made from it when
they are asked for. A test bench, no medical data: docs/results/built-in.md says what it is and is not.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from pathlib import Path

from PIL import Image

from mrg_grpo.data.phantom.case import HASTY, RARE, ROOM, SEED, PhantomCase, case_labels, hasty, sample_case
from mrg_grpo.data.phantom.draw import render
from mrg_grpo.data.phantom.heldout import HELDOUT, JOINT_HELDOUT
from mrg_grpo.data.phantom.phrases import JOINT, PHRASES
from mrg_grpo.data.phantom.text import write_report
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError
from mrg_grpo.labels import BLANK, CONDITIONS, NEGATIVE, POSITIVE, UNCERTAIN

SIZES = {"train": 8000, "val": 500, "test": 1000}


def load(
    root: str = "",
    *,
    sections: tuple[str, ...] = ("findings",),
    sizes: dict[str, int] | None = None,
    form: str = "phantom",
) -> dict[str, list[Study]]:
    """The data set `form` by split name. `root` is not needed; every report is a findings section."""

    def study(split: str, index: int) -> Study:
        case = case_of(form, split, index)
        address = f"phantom:{SEED}/{case.split}/{index}"
        return Study(f"{case.split}-{index:05d}", (address,), write_report(case), split, case_labels(case))

    return {split: [study(split, i) for i in range(size)] for split, size in (sizes or SIZES).items()}


def case_of(form: str, split: str, index: int) -> PhantomCase:
    """A study of a data set, as its report tells it."""
    if form == "phantom_hasty" and split == "train":
        return hasty(sample_case(HASTY, index))
    prefix = {"phantom": "", "phantom_rare": RARE, "phantom_room": ROOM, "phantom_hasty": ROOM}[form]
    return sample_case(prefix + split, index)


def image_of(address: str) -> Image.Image:
    """The picture behind "phantom:SEED/SPLIT/INDEX"."""
    parts = re.fullmatch(r"phantom:([0-9]{1,9})/([^/]*)/([0-9]{1,9})", address)
    if parts is None:
        raise UserError(f'{address}: not a phantom address; they look like "phantom:7/test/12"')
    seed, split, index = parts.groups()
    return Image.fromarray(render(sample_case(split, int(index), int(seed))))


def prevalence(
    form: str = "phantom", split: str = "train", count: int = 8000
) -> list[tuple[str, float, float, float, float]]:
    """Per condition: per cent positive, uncertain, negative, blank in the reports of a split."""
    rows = [case_labels(case_of(form, split, i)) for i in range(count)]
    table = []
    for i, name in enumerate(CONDITIONS):
        counts = Counter(row[i] for row in rows)
        shares = [100 * counts[label] / count for label in (POSITIVE, UNCERTAIN, NEGATIVE, BLANK)]
        table.append((name, *shares))
    return table  # type: ignore[return-value]


def wording(form: str = "phantom", split: str = "train", count: int = 8000) -> str:
    """How many phrases there are, and how long the reports of a split."""
    train, held = (
        sum(len(o) for by_class in table.values() for o in by_class.values()) for table in (PHRASES, HELDOUT)
    )
    joint, joint_held = (sum(map(len, table.values())) for table in (JOINT, JOINT_HELDOUT))
    words = [len(write_report(case_of(form, split, i)).split()) for i in range(count)]
    return (
        f"phrases of one condition: {train} to train with, {held} held out; joint denials: {joint} and {joint_held}; "
        f"words of a report: {sum(words) / count:.1f} on average, {min(words)} to {max(words)}"
    )


def export(folder: Path, split: str, count: int, form: str = "phantom") -> None:
    """Write studies as files: images/, and what belongs to them twice, as the table reports.csv and in R2Gen's form as
    annotation.json. Other splits that are there stay."""
    studies = load(sizes={split: count}, form=form)[split]
    (folder / "images").mkdir(parents=True, exist_ok=True)
    records = []
    for study in studies:
        name = f"{study.id}.png"
        image_of(study.images[0]).save(folder / "images" / name)
        records.append({"id": study.id, "report": study.report, "image_path": [name], "split": split})
    path = folder / "annotation.json"
    whole: dict[str, list] = {"train": [], "val": [], "test": []}
    if path.exists():
        whole = json.loads(path.read_text())
    whole = whole | {split: records}
    path.write_text(json.dumps(whole, indent=1))
    with (folder / "reports.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["study", "split", "image", "report"])
        for record in (one for part in whole.values() for one in part):
            table.writerow([record["id"], record["split"], f"images/{record['image_path'][0]}", record["report"]])


def run_phantom(
    folder: str | None = None, split: str = "test", count: int = 100, table: bool = False, form: str = "phantom"
) -> None:
    """`mrg-grpo phantom`: studies as files, or the data set's label table. UserError where neither is asked for."""
    if count < 1:
        raise UserError(f"phantom: --count {count} must be at least 1")
    if table:
        print("| condition | positive | uncertain | negative | blank |\n|---|---|---|---|---|")
        for name, *shares in prevalence(form):
            print(f"| {name} | " + " | ".join(f"{share:.1f}" for share in shares) + " |")
        print(f"\n{wording(form)}")
    elif not folder:
        raise UserError("phantom: say --export DIR for studies as files, or --table for the labels they carry")
    if folder:
        export(Path(folder), split, count, form)
        print(f"{count} studies of {split}: {folder}")

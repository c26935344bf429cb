"""The native layout of MIMIC-CXR, written with invented texts and empty images."""

import gzip
import zipfile
from pathlib import Path

REPORT = "\n".join(
    (
        " " * 33 + "FINAL REPORT",
        " EXAMINATION:  CHEST (PA AND LAT)",
        " ",
        " INDICATION:  ___F with cough  // eval for pneumonia: please",
        " ",
        " COMPARISON:  ___.",
        " ",
        " FINDINGS: ",
        " ",
        " The lungs are clear.  Compared to ___:",
        " no change. Heart size is normal.",
        " ",
        " IMPRESSION: ",
        " ",
        " 1. No acute disease.",
        " 2. Tube ends 4 cm above the carina.",
        "",
    )
)
SPLIT = [  # dicom, study, subject, split
    ("aa-1", "50000001", "10000032", "train"),
    ("aa-2", "50000001", "10000032", "train"),
    ("bb-1", "50000002", "10000032", "train"),
    ("cc-1", "50000003", "11000007", "validate"),
    ("dd-1", "50000004", "12000009", "test"),
]
VIEWS = {"aa-1": "LATERAL", "aa-2": "PA", "bb-1": "AP", "cc-1": "PA", "dd-1": "AP"}
TEXTS = {
    "50000002": " FINDINGS AND IMPRESSION: Both lungs ___ clear.\n",
    "50000003": " IMPRESSION: No change.\n",
}


def native(root: Path, *, packed: bool = False, archived: bool = False, rows=SPLIT, texts=TEXTS) -> Path:
    """The native layout: tables plain or as .gz, reports as files or in the archive, empty image files."""
    split = "dicom_id,study_id,subject_id,split\n" + "".join(",".join(row) + "\n" for row in rows)
    metadata = "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition\n" + "".join(
        f'{dicom},{subject},{study},"CHEST, PA",{VIEWS.get(dicom, "")}\n' for dicom, study, subject, _ in rows
    )
    for name, text in (("split", split), ("metadata", metadata)):
        path = root / f"mimic-cxr-2.0.0-{name}.csv"
        if packed:
            Path(f"{path}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            path.write_text(text)
    archive = zipfile.ZipFile(root / "mimic-cxr-reports.zip", "w") if archived else None
    for dicom, study, subject, _ in rows:
        folder = root / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{dicom}.jpg").touch()
        text, name = texts.get(study, REPORT), f"files/p{subject[:2]}/p{subject}/s{study}.txt"
        if archive is None:
            (root / name).write_text(text)
        elif name not in archive.namelist():
            archive.writestr(name, text)
    if archive is not None:
        archive.close()
    return root


def flat(studies) -> dict:
    return {study.id: study for part in studies.values() for study in part}

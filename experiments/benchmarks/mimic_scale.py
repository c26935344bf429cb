"""Seconds and memory to load a MIMIC-CXR tree of the published size, with invented texts and empty image files.

    python experiments/benchmarks/mimic_scale.py              builds the tree in a temporary folder, measures
    python experiments/benchmarks/mimic_scale.py --share 0.01 the same with a hundredth of the studies

65,379 subjects, 227,835 studies and 377,110 images, as published. Each setting runs in a process of its own; its peak
memory is VmHWM of /proc, which starts anew with a program (ru_maxrss would inherit its parent's). The images hold no
byte, and every file that Python opens is counted. The file cache is warm, because the tree was written just before: a
cold disk or a network file system takes longer, and its time is not shown.
Writes experiments/results/mimic_scale.json; --share other than 1 prints only.
"""

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

SUBJECTS, STUDIES, IMAGES = 65_379, 227_835, 377_110
RESULT = Path(__file__).resolve().parents[1] / "results" / "mimic_scale.json"
SETTINGS: dict[str, dict] = {
    "reports in files": {},
    "reports in the archive": {"archive": True},
    "reports in the archive, frontal views": {"archive": True, "views": "frontal"},
}
SENTENCES = (
    "The lungs are clear. ",
    "There is no pleural effusion or pneumothorax. ",
    "The heart is mildly enlarged. ",
    "A right-sided catheter ends in the superior vena cava. ",
    "Streaky opacity at the left base may represent atelectasis. ",
    "No focal consolidation is seen. ",
)


def build(root: Path, share: float) -> dict[str, int]:
    """Write the tree; returns what it holds. Every study belongs to one subject and has at least one image."""
    draw = random.Random(0)
    subjects, studies, images = (max(1, int(count * share)) for count in (SUBJECTS, STUDIES, IMAGES))
    extra = [0] * studies
    for _ in range(images - studies):
        extra[draw.randrange(studies)] += 1
    split_rows, metadata_rows = ["dicom_id,study_id,subject_id,split"], ["dicom_id,subject_id,study_id,ViewPosition"]
    with zipfile.ZipFile(root / "mimic-cxr-reports.zip.kept", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(studies):
            subject = 10_000_000 + (number * subjects // studies) * 153
            split = ("validate" if subject % 100 == 7 else "test" if subject % 100 == 13 else "train")  # fmt: skip
            study = 50_000_000 + number
            stem = f"files/p{subject // 1_000_000}/p{subject}/s{study}"
            (root / stem).mkdir(parents=True)
            text = (
                f"{' ' * 33}FINAL REPORT\n EXAMINATION:  CHEST\n\n INDICATION:  ___\n\n FINDINGS: \n\n "
                f"{''.join(draw.choices(SENTENCES, k=6))}\n\n IMPRESSION: \n\n {draw.choice(SENTENCES)}\n"
            )
            (root / f"{stem}.txt").write_text(text)
            archive.writestr(f"{stem}.txt", text)
            for image in range(1 + extra[number]):
                dicom = "-".join(f"{draw.getrandbits(32):08x}" for _ in range(5))
                (root / stem / f"{dicom}.jpg").touch()
                split_rows.append(f"{dicom},{study},{subject},{split}")
                metadata_rows.append(
                    f"{dicom},{subject},{study},{'LATERAL' if image % 2 else draw.choice(('PA', 'AP'))}"
                )
    (root / "mimic-cxr-2.0.0-split.csv").write_text("\n".join(split_rows) + "\n")
    (root / "mimic-cxr-2.0.0-metadata.csv").write_text("\n".join(metadata_rows) + "\n")
    return {"subjects": subjects, "studies": studies, "images": len(split_rows) - 1}


def measure(root: Path, setting: dict) -> dict[str, float]:
    """Load the tree in this process: seconds, peak memory above the idle process, and opened image files."""
    from mrg_grpo import data

    opened = {"files": 0, "images": 0}

    def count(event: str, args: tuple) -> None:
        if event == "open":
            opened["files"] += 1
            opened["images"] += str(args[0]).endswith(".jpg")

    sys.addaudithook(count)
    archive = root / "mimic-cxr-reports.zip"
    if setting.get("archive"):
        (root / "mimic-cxr-reports.zip.kept").rename(archive)
    idle = peak_mib()
    start = time.perf_counter()
    try:
        studies = data.load_studies("mimic_cxr", root, views=setting.get("views"))
        seconds = time.perf_counter() - start
    finally:
        if archive.exists():
            archive.rename(root / "mimic-cxr-reports.zip.kept")
    return {
        "seconds": round(seconds, 1),
        "peak_mib_above_idle": round(peak_mib() - idle),
        "idle_mib": round(idle),
        "studies": sum(map(len, studies.values())),
        "images": sum(len(study.images) for part in studies.values() for study in part),
        "files_opened": opened["files"],
        "image_files_opened": opened["images"],
    }


def peak_mib() -> float:
    """The largest resident size of this process so far."""
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kib) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--share", type=float, default=1.0, help="share of the published size")
    parser.add_argument("--measure", nargs=2, metavar=("ROOT", "SETTING"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        root, name = options.measure
        print(json.dumps(measure(Path(root), SETTINGS[name])))
        return
    root = Path(tempfile.mkdtemp(prefix="mimic_scale_"))
    try:
        start = time.perf_counter()
        tree = build(root, options.share)
        print(f"{tree} written in {time.perf_counter() - start:.0f} s")
        measured = {}
        for name in SETTINGS:
            command = [sys.executable, __file__, "--measure", str(root), name]
            finished = subprocess.run(command, check=True, capture_output=True, text=True)
            measured[name] = json.loads(finished.stdout)
            print(name, measured[name])
    finally:
        shutil.rmtree(root)
    if options.share == 1:
        result = {
            "command": "python experiments/benchmarks/mimic_scale.py",
            "file_cache": "warm",
            "tree": tree,
            "load": measured,
        }
        RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

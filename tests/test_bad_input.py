"""Bad input over the command line: one line that names the place, exit code 2, and nothing lost.

One table for all of it. What each reader says in detail is tested beside the reader (tests/data, tests/labelers,
tests/evaluation, tests/model/test_pretrained.py).
"""

import csv
import functools
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from command import CONFIG, command_line
from damage import foreign_tokenizer
from PIL import Image
from safetensors.torch import load_file, save_file

from mrg_grpo.cli import main

SMALL = [
    "run.test_studies=2", "grpo.studies_per_step=2", "grpo.group_size=2", "sampling.max_tokens=16", "run.eval_every=0",
    "run.follow_studies=0", "run.steps=1",
]  # fmt: skip


def refused(capsys, arguments, *words):
    """The command ends with 2 and one line that has these words; no traceback."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    line = error.strip().splitlines()[-1]
    assert line.startswith("mrg-grpo: ") and "Traceback" not in error
    for word in words:
        assert str(word) in line, line
    assert len(line) < 1000


def train(folder, *settings):
    every = [*SMALL, f"run.output_dir={folder}", *settings]
    return command_line("train", every)


# ---- images


def png() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 60).save(buffer, "PNG")
    return buffer.getvalue()


def bomb() -> bytes:
    """A picture of 30,000 x 30,000 pixels in 110 kB."""
    buffer = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(buffer, "PNG")
    return buffer.getvalue()


IMAGES = {
    "missing": (None, "is missing"),
    "zero bytes": (lambda: b"", "is empty (0 bytes)"),
    "truncated": (lambda: png()[:500], "truncated or damaged"),
    "bomb": (bomb, "would decode to more than 80,000,000 pixels"),
    "text": (lambda: b"Findings: clear lungs.", "is not an image"),
    "page": (lambda: b"<html><body>not found</body></html>", "is not an image"),
    "dicom": (lambda: b"\0" * 128 + b"DICM", "is a DICOM file; convert it first"),
}


def test_an_image_that_the_processor_refuses(tmp_path, capsys):
    Image.new("L", (1, 4000)).save(tmp_path / "x.png")
    refused(capsys, ["report", tmp_path / "x.png"], tmp_path / "x.png", "aspect ratio", "crop it")


@pytest.mark.parametrize("kind", IMAGES)
def test_images(kind, tmp_path, capsys):
    make, words = IMAGES[kind]
    if make:
        (tmp_path / "x.png").write_bytes(make())
    refused(capsys, ["report", tmp_path / "x.png"], tmp_path / "x.png", words)


@pytest.mark.parametrize("kind", ["zero bytes", "bomb", "text", "dicom"])
def test_an_image_that_its_header_condemns_ends_no_run_but_a_start(kind, tmp_path, capsys):
    """All headers are read first: nothing is loaded, and nothing is there that a second start would have to resume."""
    records = {"train": [], "val": [], "test": []}
    (tmp_path / "images").mkdir()
    for n, split in enumerate(("train", "train", "test")):
        records[split].append({"id": str(n), "report": "Clear lungs.", "image_path": [f"{n}.png"], "split": split})
        (tmp_path / "images" / f"{n}.png").write_bytes(IMAGES[kind][0]() if n == 1 else png())
    (tmp_path / "annotation.json").write_text(json.dumps(records))
    settings = ("data.form=iu_xray_r2gen", f"data.root={tmp_path}")
    reason = IMAGES[kind][1].partition(";")[0]
    for command in (train(tmp_path / "run", *settings), ["sft", *train(tmp_path / "run", *settings)[1:]]):
        refused(capsys, command, "1 of 3 images cannot be read: 1.png", reason, "data.allow_missing = true")
    assert not (tmp_path / "run" / "config.toml").exists()
    assert main(train(tmp_path / "run", *settings, "data.allow_missing=true", "grpo.studies_per_step=1")) == 0


def test_of_several_radiographs_one_that_is_damaged_costs_the_others_nothing(tmp_path, capsys):
    for name in ("a.png", "c.png"):
        (tmp_path / name).write_bytes(png())
    (tmp_path / "b.png").write_bytes(png()[:500])
    images = [str(tmp_path / name) for name in ("a.png", "b.png", "c.png")]
    assert main(["report", *images, "--each", "--json", "--set", "sampling.max_tokens=4"]) == 2
    said = capsys.readouterr()
    assert [json.loads(line)["images"] for line in said.out.splitlines()] == [[images[0]], [images[2]]]
    assert "left out 1 of 3 studies, whose pictures cannot be read: b (image" in said.err.splitlines()[-1]
    refused(capsys, ["report", *images], images[1], "truncated or damaged")  # the views of one study: all or none


# ---- annotation files


def record(study="a", **changes) -> dict:
    return {"id": study, "report": "Clear.", "image_path": ["a.png"], "split": "train"} | changes


def three(*entries, **more) -> dict:
    return {"train": list(entries), "val": [], "test": []} | more


ANNOTATIONS = {
    "not JSON": ("{'train': []}", "is not JSON"),
    "cut short": (json.dumps(three(record()))[:-9], "is not JSON"),
    "empty file": ("", "is not JSON"),
    "lacks a split": ({"train": [], "val": []}, "lacks the split 'test'"),
    "blank split name": ({"train": [], "val": [], " ": []}, "has a blank split name"),
    "ids twice": (three(record(), record()), "id 'a' occurs twice"),
    "ids twice over splits": (three(record(), test=[record(split="test")]), "id 'a' occurs twice"),
    "mixed types": (three(record(), record("b", report=7)), "has a report of type int"),
    "mixed types of records": (three(record(), ["b"]), "train record 1 is a list"),
    "mixed types of images": (three(record(image_path="a.png")), "has no list of image names"),
    "no image there": (three(record()), "1 of 1 images are missing"),
    "a path that climbs out": (three(record(image_path=["../../etc/passwd"])), "lies outside the data folder"),
    "an absolute path": (three(record(image_path=["/etc/passwd"])), "lies outside the data folder"),
    "no training study": (three(), 'split "train" is not in the data'),
    "all reports empty": (three(record(report=" ", image_path=["b.png"])), 'split "train" is not in the data'),
}


@pytest.mark.parametrize("kind", ANNOTATIONS)
def test_annotations(kind, tmp_path, capsys):
    tree, words = ANNOTATIONS[kind]
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "b.png").write_bytes(png())
    (tmp_path / "annotation.json").write_text(tree if isinstance(tree, str) else json.dumps(tree))
    command = train(tmp_path / "run", "data.form=iu_xray_r2gen", f"data.root={tmp_path}")
    refused(capsys, command, words)
    assert not (tmp_path / "run" / "config.toml").exists()  # mended, the same command starts


# ---- what is no file


@pytest.fixture
def in_time():
    """A command that waits for the other end of a pipe fails; it would wait for ever."""

    def late(*_):
        raise TimeoutError("waits for a pipe")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pipe(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    return path


PIPES = {
    "config": lambda root: ["plan", pipe(root / "x.toml")],
    "config of a run": lambda root: ["plan", pipe(root / "run" / "config.toml").parent],
    "image": lambda root: ["report", pipe(root / "x.png")],
    "annotation": lambda root: of_data(pipe(root / "annotation.json").parent),
    "packed table": lambda root: of_data(pipe(root / "mimic-cxr-2.0.0-split.csv.gz").parent, "mimic_cxr"),
    "reports of XML": lambda root: of_data(pipe(root / "ecgen-radiology" / "1.xml").parents[1], "iu_xray_xml"),
    **{f"predictions {kind}": lambda root, kind=kind: ["score", pipe(root / f"x.{kind}")]
       for kind in ("csv", "tsv", "json", "jsonl", "txt")},
    "folder of predictions": lambda root: ["score", pipe(root / "x" / "a.txt").parent],
    "reports to label": lambda root: ["label", pipe(root / "x.csv"), "-o", root / "y.csv"],
    "skipped step": lambda root: ["replay", pipe(root / "x.pt")],
    "run to view": lambda root: ["view", pipe(root / "run" / "config.toml").parent],
    "labeler": lambda root: ["score", predictions(root), "--labeler", pipe(root / "chexbert.pth")],
    "folder of a labeler": lambda root: ["score", predictions(root), "--labeler", pipe(root / "l/config.json").parent],
}  # fmt: skip


def of_data(root, form="iu_xray_r2gen"):
    return command_line("plan", [f"data.form={form}", f"data.root={root}"])


def predictions(root):
    return table(root / "p.csv", ["study_id", "reference", "prediction"], ["a", "Clear.", "Clear."])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("kind", PIPES)
def test_a_pipe_in_place_of_a_file_is_never_waited_for(kind, tmp_path, capsys, in_time):
    refused(capsys, PIPES[kind](tmp_path))


# ---- tables


def table(path, header, *rows, encoding="utf-8"):
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_csv_without_the_column(tmp_path, capsys):
    path = table(tmp_path / "x.csv", ["Report", "Edema"], ["clear", "1"])
    refused(capsys, ["label", path, "-o", tmp_path / "y.csv"], path, "no column 'Report Impression'")
    path = table(tmp_path / "p.csv", ["study_id", "prediction"], ["a", "clear"])
    refused(capsys, ["score", path], path, "no column for reference")
    assert not (tmp_path / "y.csv").exists()


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "cp1252"])
def test_csv_of_another_encoding(encoding, tmp_path, capsys):
    path = table(tmp_path / "x.csv", ["Report Impression"], ["Herz vergrößert"], encoding=encoding)
    refused(capsys, ["label", path, "-o", tmp_path / "y.csv"], path, "UTF-8")
    path = table(tmp_path / "p.csv", ["study_id", "reference", "prediction"], ["a", "größer", "x"], encoding=encoding)
    refused(capsys, ["score", path], path, "UTF-8")


PREDICTIONS = {
    "nested for ever": "[" * 50_000,
    "thousands of digits": '{"study_id": ' + "9" * 5000 + "}",
    "not JSON": "{",
}


@pytest.mark.parametrize("form", ["json", "jsonl"])
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_predictions_that_are_not_json(kind, form, tmp_path, capsys):
    path = tmp_path / f"x.{form}"
    path.write_text(PREDICTIONS[kind])
    refused(capsys, ["score", path], path, "not valid JSON")


def test_half_a_surrogate_pair_and_numbers_for_texts_are_scored(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(
        '{"study_id": 1, "reference": "clear", "prediction": "\\ud800 clear", "generated": 5, "think": 6}\n'
    )
    assert main(["score", str(path), "--language", "none"]) == 0


def test_labels_that_find_no_room_leave_the_old_file(tmp_path, capsys):
    import resource

    path = table(tmp_path / "x.csv", ["Report Impression"], *(["clear " * 200] for _ in range(40)))
    (tmp_path / "y.csv").write_text("mine")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        refused(capsys, ["label", path, "-o", tmp_path / "y.csv"], "y.csv", "cannot be written")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "y.csv").read_text() == "mine"


def test_utf8_with_a_byte_order_mark_is_read(tmp_path):
    path = table(tmp_path / "x.csv", ["Report Impression"], ["Herz vergrößert"], encoding="utf-8-sig")
    assert main(["label", str(path), "-o", str(tmp_path / "y.csv")]) == 0
    assert "vergrößert" in (tmp_path / "y.csv").read_text(encoding="utf-8")


def test_empty_and_very_long_reports_are_labelled_and_scored(tmp_path):
    long = "There is a large right pleural effusion. " * 2440  # 100,040 characters
    path = table(tmp_path / "x.csv", ["Report Impression"], [""], [long], [" \n "])
    assert main(["label", str(path), "-o", str(tmp_path / "y.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "y.csv").open(newline="")))
    assert [row["Report Impression"] for row in rows] == ["", long, " \n "]
    assert rows[1]["Pleural Effusion"] == "1.0" and rows[0]["Pleural Effusion"] == ""
    path = table(tmp_path / "p.csv", ["study_id", "reference", "prediction"], ["a", long, ""], ["b", "", long])
    assert main(["score", str(path), "--language", "none"]) == 0


def test_a_report_that_is_too_much_for_meteor_is_named(monkeypatch):
    from types import SimpleNamespace

    from mrg_grpo.errors import UserError
    from mrg_grpo.evaluation import language

    def broken(a, b):
        raise BrokenPipeError

    monkeypatch.setattr(language, "METEOR_SECONDS", 0.05)
    for answer in (lambda a, b: "", broken, lambda a, b: time.sleep(20)):  # its process is gone, was gone, never ends
        killed: list[int] = []
        process = SimpleNamespace(kill=lambda killed=killed: killed.append(9))
        scorer = functools.cache(lambda answer=answer, process=process: SimpleNamespace(_stat=answer, meteor_p=process))
        monkeypatch.setattr(language, "meteor_scorer", scorer)
        words = "METEOR gave up on report 1, of 3,000 characters, its reference of 1; shorten"
        with pytest.raises(UserError, match=words):
            language._meteor_statistics(["x" * 3000], ["y"])
        assert scorer.cache_info().currsize == 0 and killed == [9]


def test_a_reference_of_100_000_characters_trains(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png())
    long = "There is a large right pleural effusion. " * 2440
    records = three(record(report=long), test=[record("t", split="test")])
    (tmp_path / "annotation.json").write_text(json.dumps(records))
    settings = (
        "data.form=iu_xray_r2gen",
        f"data.root={tmp_path}",
        "reward.weights={ mccs = 1, bleu = 1, rouge_l = 1 }",
    )
    assert main(train(tmp_path / "run", *settings, "grpo.studies_per_step=1")) == 0


def test_an_output_that_cannot_be_written(tmp_path, capsys):
    path = table(tmp_path / "x.csv", ["Report Impression"], ["clear"])
    refused(capsys, ["label", path, "-o", tmp_path / "none" / "y.csv"], "y.csv")
    path = table(tmp_path / "p.csv", ["study_id", "reference", "prediction"], ["a", "x", "x"])
    refused(capsys, ["score", path, "-o", tmp_path / "none" / "y.json"], "y.json")


# ---- labeler, adapter, tokenizer


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_labelers(tmp_path, capsys):
    reports = table(tmp_path / "x.csv", ["Report Impression"], ["clear"])
    path, fuse = tmp_path / "chexbert.pth", tmp_path / "ran"
    command = ["label", reports, "-o", tmp_path / "y.csv", "--labeler", path]
    refused(capsys, command, f"no CheXbert checkpoint at {path}")
    torch.save({"model_state_dict": {"resnet.weight": torch.zeros(2)}}, path)
    refused(capsys, command, path, "holds another model, not CheXbert")
    path.write_bytes(path.read_bytes()[:300])
    refused(capsys, command, path, "cannot be read as a torch file")
    path.write_bytes(b"")
    refused(capsys, command, path, "cannot be read as a torch file")
    torch.save({"model_state_dict": Bomb(fuse)}, path)
    refused(capsys, command, path, "it was not run")
    path.write_bytes(pickle.dumps(Bomb(fuse)))
    refused(capsys, command, path, "it was not run")
    assert not fuse.exists() and not (tmp_path / "y.csv").exists()


def test_adapter_of_another_base_and_tokenizer_without_images(own_checkpoint, tiny_checkpoint, tmp_path, capsys):
    from mrg_grpo.config import load_config
    from mrg_grpo.model.policy import Policy

    other = own_checkpoint
    Policy.load(load_config(CONFIG, [f"model.path={other}"])).model.save_pretrained(str(tmp_path / "adapter"))
    (tmp_path / "x.png").write_bytes(png())
    refused(capsys, ["report", tmp_path / "x.png", "--adapter", tmp_path / "adapter"], "does not fit this base")
    refused(capsys, train(tmp_path / "run", f"model.adapter={tmp_path / 'adapter'}"), "does not fit this base")
    Policy.load(load_config(CONFIG)).model.save_pretrained(str(tmp_path / "part"))
    part = tmp_path / "part" / "adapter_model.safetensors"
    tensors = load_file(part)
    lost = tensors.pop(min(tensors))
    save_file({**tensors, "base_model.model.other.lora_A.weight": lost}, part)
    words = ("does not fit this base", "1 of its tensors are missing, 1 are unknown to it")
    refused(capsys, ["report", tmp_path / "x.png", "--adapter", tmp_path / "part"], *words)
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(capsys, ["report", tmp_path / "x.png", "--adapter", tmp_path / "adapter"], "adapter")
    weights.rename(tmp_path / "adapter" / "adapter_model.bin")
    refused(capsys, ["report", tmp_path / "x.png", "--adapter", tmp_path / "adapter"], "no adapter_model.safetensors")
    foreign_tokenizer(other)
    report = ["report", tmp_path / "x.png", "--set", f"model.path={other}"]
    refused(capsys, report, "has no image token")
    for name in ("tokenizer.json", "preprocessor_config.json", "config.json"):
        kept = (other / name).read_text()
        for damaged in ("[]", "{", '{"model_type": 3}'):
            (other / name).write_text(damaged)
            refused(capsys, report, "model.path", other)
        (other / name).write_text(kept)
    (other / "model.safetensors").rename(other / "pytorch_model.bin")
    for file in tiny_checkpoint().iterdir():
        if file.suffix != ".safetensors":
            (other / file.name).write_bytes(file.read_bytes())
    refused(capsys, report, "model.path", "safetensors")


# ---- configuration and output folder

CONFIGS = {
    "wrong type": ("[grpo]\ngroup_size = 'four'", "group_size: expected a whole number, got 'four'"),
    "wrong type in a table": ("[reward.weights]\nmccs = 'much'", "weights.mccs: expected a number"),
    "unknown key": ("[sampling]\ntemprature = 1", 'unknown key "temprature"; did you mean "temperature"'),
    "unknown table": ("[smapling]\n", 'unknown key "smapling"; did you mean "sampling"'),
    "unknown term": ("[reward.weights]\nmcss = 1.0", 'unknown term "mcss"'),
    "not a number": ("[grpo]\nlearning_rate = nan", "learning_rate: expected a finite number"),
    "infinite": ("[grpo]\nbeta = inf", "beta: expected a finite number"),
    "nan weight": ("[reward.weights]\nmccs = nan", "weights.mccs: expected a finite number"),
    "contradiction: a group of one": ("[grpo]\ngroup_size = 1", "must be at least 2"),
    "contradiction: clip": ("[grpo]\nclip_low = 1.5", "must be below 1"),
    "contradiction: data without a folder": ("[data]\nform = 'mimic_cxr'", "needs the folder of the data set"),
    "contradiction: nothing to learn": ("[reward.weights]\nmccs = 0", "every weight is 0"),
    "not TOML": ("[grpo\n", "not valid TOML"),
    "nested for ever": ("a = " + "[" * 50_000, "not valid TOML"),
    "thousands of digits": ("[run]\nseed = " + "9" * 5000, "not valid TOML"),
    "a seed too large": ("[run]\nseed = 9223372036854775808", "seed: 9223372036854775808... is too large"),
    "a weight too large": ("[grpo]\nbeta = 1" + "0" * 400, "is too large"),
    "negative batch": ("[sampling]\nbatch = -1", "must not be negative"),
    "negative studies": ("[run]\ntest_studies = -9", "must not be negative"),
    "views that int() does not read": ("[data]\nviews = '\u00b2'", "must be"),
    "NUL": ('[data]\nroot = "a\\u0000b"', "has a NUL character"),
    "no device": ("[model]\ndevice = 'foo'", "'foo' is none"),
    "no device of ours": ("[model]\ndevice = 'meta'", "'meta' holds no numbers here"),
    "a seed of nanoseconds": ("[run]\nseed = 20261127074524000", "seed: 20261127074524000 must be below 4294967296"),
    "targets that are no pattern": ("[lora]\ntargets = ['*']", "lora.targets ['*']: "),
    "data of the phantom": ("[data]\nroot = '/data/iu'", "data.root: phantom renders its own studies; set data.form"),
    "an image in the question": ("[prompt]\ntext = '<|image_pad|>'", "must not hold <|image_pad|>"),
    "not text": (b"\xff\xfe\x00", "cannot be read"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_configurations(kind, tmp_path, capsys):
    content, words = CONFIGS[kind]
    path = tmp_path / "c.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(capsys, ["train", path, "--set", f"run.output_dir={tmp_path / 'run'}"], words)
    assert not (tmp_path / "run" / "config.toml").exists()


def test_arguments_that_are_not_utf8(tmp_path, capsys):
    refused(capsys, train(tmp_path / "run", "prompt.text=caf\udce9"), "prompt: text", "is not UTF-8")


@pytest.mark.parametrize("option", ["--gpu-gb=0", "--gpu-gb=nan", "--tflops=0", "--bandwidth=0", "--images=inf"])
def test_plan_of_nothing(option, capsys):
    refused(capsys, ["plan", CONFIG, option], option.partition("=")[0], "must be a number above 0")


def test_plan_of_an_adapter_that_is_not_there(capsys):
    refused(capsys, ["plan", CONFIG, "--set", "model.adapter=/nowhere"], "adapter /nowhere")


def test_main_memory_that_is_full(monkeypatch, capsys):
    def full(**_):
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr("mrg_grpo.train.train", full)
    refused(capsys, ["train", CONFIG], "the main memory is full", "lower grpo.micro_batch")


def test_an_output_is_never_its_own_input(tmp_path, capsys):
    path = table(tmp_path / "x.csv", ["study_id", "Report Impression"], ["a", "clear"])
    other = tmp_path / "link.csv"
    other.symlink_to(path)
    before = Path(path).read_bytes()
    for output in (path, other):
        refused(capsys, ["label", path, "-o", output], "it is what is read", "name another file")
        refused(capsys, ["score", path, path, "-o", output], "it is what is read")
    assert Path(path).read_bytes() == before


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_standard_output_on_a_full_disk_is_one_line(tmp_path, request):
    path = table(tmp_path / "x.csv", ["Report Impression"], ["clear"])
    words = [sys.executable, "-m", "mrg_grpo", "label", path, "-o", str(tmp_path / "y.csv")]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, cwd=request.config.rootpath)
    assert done.returncode == 2 and "standard output cannot be written" in done.stderr
    assert "Traceback" not in done.stderr and (tmp_path / "y.csv").exists()


def test_an_output_without_a_folder_costs_no_labelling(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mrg_grpo.labelers.load_labeler", lambda *_: pytest.fail("it was loaded"))
    path = table(tmp_path / "x.csv", ["Report Impression"], ["clear"])
    refused(capsys, ["label", path, "-o", tmp_path / "none" / "y.csv"], "its folder does not exist")
    refused(capsys, ["score", path, path, "-o", tmp_path], "it is a folder")


def test_output_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    refused(capsys, train(tmp_path / "file"), "run.output_dir", tmp_path / "file", "cannot be written")
    refused(capsys, train(tmp_path / "file" / "run"), "run.output_dir", "cannot be written")
    refused(capsys, ["evaluate", CONFIG, "-o", tmp_path / "file"], tmp_path / "file", "cannot be written")
    assert (tmp_path / "file").read_text() == "mine"
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.geteuid() != 0:  # root may write anywhere
        refused(capsys, train(locked / "run"), "run.output_dir", "cannot be written")


def test_output_folder_that_holds_another_run(tmp_path, capsys):
    assert main(train(tmp_path / "run")) == 0
    content = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    refused(capsys, train(tmp_path / "run"), "already holds a run; add --resume or name another folder")
    refused(capsys, [*train(tmp_path / "run", "grpo.beta=0.5"), "--resume"], "grpo.beta changed")
    assert content == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


# ---- rewards of others

REWARDS = {
    "raises": ("raise RuntimeError('no graph')", "failed on completion 0 (study train-"),
    "nan": ("return [float('nan')] * len(completions)", "returned nan for completion 0 (study train-"),
    "infinite": ("return [float('inf')] * len(completions)", "returned inf for completion 0"),
    "short": ("return [1.0]", "returned 1 scores for 4 completions"),
    "exits": ("raise SystemExit", "failed on completion 0 (study train-"),
}


def test_a_reward_that_is_not_there_costs_nothing(tmp_path, capsys, monkeypatch):
    for module in ("train", "preflight.check"):
        monkeypatch.setattr(f"mrg_grpo.{module}.Policy", None)  # nothing is loaded
        monkeypatch.setattr(f"mrg_grpo.{module}.config_labeler", None)
    for name, words in (("no_such_for_test:f", "cannot import no_such_for_test"), ("mcss", 'unknown term "mcss"')):
        arguments = train(tmp_path / "run", f"reward.weights={{ '{name}' = 1 }}")
        refused(capsys, arguments, words)
        assert not (tmp_path / "run").exists()
        assert main(["check", *arguments[1:]]) == 2
        printed = capsys.readouterr().out
        assert words in next(line for line in printed.splitlines() if line.startswith("fail  rewards"))
        assert "skip  all others" in printed


@pytest.mark.parametrize("kind", REWARDS)
def test_rewards_of_others(kind, tmp_path, capsys, monkeypatch):
    body, words = REWARDS[kind]
    name = f"reward_{kind}_for_test"
    (tmp_path / f"{name}.py").write_text(f"def f(completions, **columns):\n    {body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    refused(
        capsys, train(tmp_path / "run", f"reward.weights={{ mccs = 1, '{name}:f' = 1 }}"), f"reward {name}:f", words
    )

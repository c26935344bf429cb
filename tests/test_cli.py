"""The command line, end to end on the embedded default: what it writes, and how bad input ends."""

import csv
import io
import json
import sys

import pytest
import torch
from command import CONFIG, run
from PIL import Image

from mrg_grpo.cli import main, parser
from mrg_grpo.config import load_config
from mrg_grpo.errors import STEERING
from mrg_grpo.step_metrics import find

SMALL = [
    "run.test_studies=4", "grpo.studies_per_step=2", "grpo.group_size=4", "sampling.max_tokens=48", "run.eval_every=1",
    "run.eval_studies=2", "run.save_every=1", "run.rollouts_every=1", "grpo.decay=false",
]  # fmt: skip


def train(folder, steps, *more, command="train"):
    settings = [*SMALL, f"run.output_dir={folder}", f"run.steps={steps}"]
    return run(command, settings, *more)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_times(records):
    return [{k: v for k, v in r.items() if not k.startswith(("seconds", "memory"))} for r in records]


@pytest.mark.slow
def test_train_leaves_a_whole_run_behind_and_resumes_exactly(tmp_path, capsys):
    assert train(tmp_path / "whole", 3) == 0
    printed = capsys.readouterr().out
    assert "196,608 trainable" in printed and "micro F1, 13 conditions" in printed
    run = tmp_path / "whole"
    for name in ("config.toml", "predictions.jsonl", "predictions_before.jsonl", "evaluation.json", "validation.jsonl",
                 "adapter/adapter_model.safetensors", "checkpoints/step-000003/state.pt"):  # fmt: skip
        assert (run / name).is_file(), name
    judged_by = json.loads((run / "evaluation.json").read_text())
    assert (judged_by["labeler"], judged_by["mccs_margin"]) == ("embedded", 0.6)
    assert [record["step"] for record in lines(run / "metrics.jsonl")] == [1, 2, 3]
    assert all(find(name) for name in lines(run / "metrics.jsonl")[0] if name != "step")  # each is explained
    assert main(["view", str(run)]) == 0 and (run / "page.html").stat().st_size < 5e6
    assert [record["step"] for record in lines(run / "followed.jsonl")][::2] == [0, 1, 2, 3]
    group = lines(run / "rollouts.jsonl")[0]
    assert len(group["samples"]) == 4 and len(group["reference_labels"]) == 14
    assert abs(sum(sample["advantage"] for sample in group["samples"])) < 1e-3

    assert train(tmp_path / "cut", 2) == 0
    assert train(tmp_path / "cut", 3, "--resume") == 0
    for name in ("metrics.jsonl", "predictions.jsonl", "rollouts.jsonl"):
        assert without_times(lines(run / name)) == without_times(lines(tmp_path / "cut" / name))
    weights = [(folder / "adapter" / "adapter_model.safetensors").read_bytes() for folder in (run, tmp_path / "cut")]
    assert weights[0] == weights[1]

    assert train(run, 3) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert train(run, 3, "--resume", "--set", "grpo.beta=0.5") == 2
    assert "grpo.beta changed" in capsys.readouterr().err


@pytest.mark.slow
def test_sft_then_train_continues_its_adapter(tmp_path, capsys):
    assert train(tmp_path / "sft", 2, command="sft") == 0
    adapter = tmp_path / "sft" / "adapter"
    assert train(tmp_path / "grpo", 1, "--set", f"model.adapter={adapter}") == 0
    assert lines(tmp_path / "grpo" / "metrics.jsonl")[0]["kl"] == 0  # the reference is the warm start
    assert (tmp_path / "grpo" / "predictions_before.jsonl").read_text() == (
        tmp_path / "sft" / "predictions.jsonl"
    ).read_text()


def test_before_is_the_start_policy_though_it_is_decoded_at_the_end(tmp_path):
    assert train(tmp_path / "far", 2, "--set", "grpo.learning_rate=0.1") == 0
    assert train(tmp_path / "still", 1, "--set", "grpo.learning_rate=1e-12") == 0
    start = lines(tmp_path / "still" / "predictions.jsonl")
    assert lines(tmp_path / "far" / "predictions_before.jsonl") == start
    assert lines(tmp_path / "far" / "predictions.jsonl") != start


def test_saved_adapter_is_pefts_own_format(tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    from mrg_grpo.config import load_config
    from mrg_grpo.embedded import base_path
    from mrg_grpo.model.policy import Policy

    policy = Policy.load(load_config(CONFIG))
    for parameter in policy.trainable():
        parameter.data += 0.05
    policy.model.save_pretrained(str(tmp_path / "adapter"))
    base = AutoModelForImageTextToText.from_pretrained(base_path(), dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload().eval()
    ids = torch.arange(20).unsqueeze(0)
    with torch.no_grad():
        ours = torch.log_softmax(policy.model(input_ids=ids).logits, -1)
        theirs = torch.log_softmax(merged(input_ids=ids).logits, -1)
        loaded = Policy.load(load_config(CONFIG), adapter=str(tmp_path / "adapter"), trainable=False)
        again = torch.log_softmax(loaded.model(input_ids=ids).logits, -1)
    assert (ours - theirs).abs().max() < 1e-5 and torch.equal(ours, again)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "none.toml"], "no such file"),
        (["train", CONFIG, "--set", "grpo.group_siz=3"], 'did you mean "group_size"'),
        (["train", CONFIG, "--set", "model.path=/nowhere"], "/nowhere: no such file or folder"),
        (["evaluate", CONFIG, "--adapter", "/nowhere"], "adapter /nowhere"),
        (["evaluate", CONFIG, "--split", "dev"], 'split "dev" is not in the data'),
        (["report", "none.png"], "none.png"),
        (["report", "README.md"], "README.md"),
        (["label", "README.md", "-o", "x.csv"], "Report Impression"),
        (["label", "none.csv", "-o", "x.csv"], "none.csv"),
        (["score", "none.jsonl"], "none.jsonl"),
    ],
)
def test_bad_input_ends_in_one_line_and_exit_code_2(arguments, words, capsys, tmp_path):
    if arguments[0] == "train" and "--set" in arguments:
        arguments = [*arguments, "--set", f"run.output_dir={tmp_path / 'run'}"]
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in error and error.startswith("mrg-grpo:")


def test_unknown_command_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["trian"])
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_label_follows_chexberts_csv(shared, tmp_path):
    given = shared / "data" / "chexbert"
    out = tmp_path / "labels.csv"
    assert main(["label", str(given / "sample_reports.csv"), "-o", str(out)]) == 0
    with out.open() as ours, (given / "labeled_reports.csv").open() as theirs:
        assert list(csv.reader(ours)) == list(csv.reader(theirs))


def test_report_on_every_real_xray(shared, capsys):
    images = sorted(str(path) for path in (shared / "data" / "cxr_images").iterdir() if path.suffix in (".png", ".jpg"))
    assert main(["report", "--each", "--json", *images]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["images"] for record in records] == [[image] for image in images]
    assert all(len(record["report"].split()) > 3 for record in records)


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_report_says_on_stderr_what_it_is_not_for(tmp_path, capsys, more):
    Image.new("L", (64, 64), 90).save(tmp_path / "x.png")
    assert main(["report", str(tmp_path / "x.png"), *more]) == 0
    out, err = capsys.readouterr()
    assert "not for clinical use" not in out and len(out.splitlines()) == 1
    (line,) = err.splitlines()
    for words in ("not for clinical use", "only ever seen rendered phantoms (synthetic X-rays)"):
        assert words in line


@pytest.mark.parametrize("more", [["--split", "banana"], ["--count", "0"], ["--count", "-3"]])
def test_phantom_refuses_splits_and_counts_that_are_none(tmp_path, capsys, more):
    try:
        code = main(["phantom", "--export", str(tmp_path / "x"), *more])
    except SystemExit as leaving:  # argparse
        code = leaving.code
    assert code == 2 and not (tmp_path / "x").exists() and len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"RANK": "0", "WORLD_SIZE": "1"}, "LOCAL_RANK and MASTER_ADDR and MASTER_PORT not, so no launcher"),
        ({"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}, "LOCAL_RANK not"),
        ({"RANK": "x", "WORLD_SIZE": "4", "MASTER_ADDR": "h", "MASTER_PORT": "1", "LOCAL_RANK": "0"}, "RANK in the"),
    ],
)
@pytest.mark.parametrize("command", [["label", "x.csv", "-o", "y.csv"], ["score", "x.csv"]])
def test_ranks_that_no_launcher_started_are_said_and_not_waited_for(command, variables, words, monkeypatch, capsys):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(command) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("address", ["127.0.0.1", "no-such-host.invalid"])
def test_what_an_ended_torchrun_has_left_is_said_at_once(tmp_path, monkeypatch, capsys, address):
    """A whole set of its variables, in a shell or a container: none of its ranks will ever come."""
    left = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": address, "MASTER_PORT": "1"}
    for name, value in {**left, "TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_USE_AGENT_STORE": "True"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "x.csv").write_text("Report Impression\nEdema.\n")
    assert main(["label", str(tmp_path / "x.csv"), "-o", str(tmp_path / "y.csv")]) == 2
    assert f"no torchrun answers at {address}:1" in capsys.readouterr().err


def test_a_command_for_one_process_does_not_wait_for_the_others(monkeypatch, capsys):
    ranks = {"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "LOCAL_RANK": "0"}
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    assert main(["score", "x.csv"]) == 2
    assert capsys.readouterr().err == "mrg-grpo: score is for one process: start it without torchrun\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", ""], ["evaluate", "experiments/phantom.toml", "--adapter", ""], ["view", ""], ["report", ""],
        ["evaluate", "experiments/phantom.toml", "-o", " "], ["score", ""], ["label", "", "-o", "x"], ["replay", ""],
        ["report", "x.png", "--config", ""], ["report", "x.png", "--adapter", "~no-such-user/adapter"],
        ["train", "experiments/phantom.toml", "--set", "run.output_dir="],
        ["train", "experiments/phantom.toml", "--set", "run.output_dir=~no-such-user/run"],
        ["train", "experiments/phantom.toml", "--set", "model.path= "],
        ["train", "experiments/phantom.toml", "--set", "labeler.tokenizer=' '"],
        ["score", "x.csv", "--compare", ""], ["score", "x.csv", "--labeler= "], ["phantom", "--export", ""],
    ],
)  # fmt: skip
def test_paths_that_are_empty_or_of_no_home_are_refused(arguments, capsys):
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code
    assert code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert any(words in line for words in ("is empty", "is blank", "home folder that is not here"))


def test_a_home_folder_is_resolved_in_settings_and_arguments(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "other.toml").write_text('include = "~/own.toml"\n')
    (tmp_path / "own.toml").write_text('[model]\npath = "~/base"\n')
    assert load_config(tmp_path / "other.toml").model.path == f"{tmp_path}/base"
    settings = ["run.output_dir=~/runs/x", "data.form=iu_xray_r2gen", "data.root=~"]
    config = load_config(tmp_path / "own.toml", settings)
    assert config.run.output_dir == f"{tmp_path}/runs/x" and config.data.root == str(tmp_path)
    assert config.model.path == f"{tmp_path}/base" and config.model.adapter == ""
    assert parser().parse_args(["evaluate", "~/own.toml", "--adapter=~/a"]).adapter == f"{tmp_path}/a"


STEERERS = ("\x1b[2J\x1b]0;x\x07", "\x9b31m", "a\x7f\x08", "\u202eb\u2066", "a\rb", "\u2028", "\x00")
"""Clears and renames a terminal, colours it, deletes, turns the direction of what follows, writes over the line."""


def predictions(path, ids, **more):
    records = [{"study_id": one, "reference": "No edema.", "prediction": "Edema.", **more} for one in ids]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_what_steers_a_terminal_is_shown_and_not_sent(tmp_path, capsys):
    ids = [f"s{mark}" for mark in STEERERS]
    first = predictions(tmp_path / "a.jsonl", ids)
    odd = tmp_path / f"b{STEERERS[0]}{STEERERS[3]}.jsonl"
    twice = predictions(tmp_path / "twice.jsonl", ids * 2)
    for arguments, code in (
        (["score", first, "--language", "none", "--compare", predictions(odd, ids)], 0),
        (["score", twice, "--language", "none"], 2),  # ids in an error
        (["score", str(tmp_path / f"none{STEERERS[1]}.jsonl")], 2),
        (["label", str(tmp_path / f"none{STEERERS[3]}.csv"), "-o", "x.csv"], 2),
        (["train", CONFIG, "--set", f"grpo.{STEERERS[0]}=1"], 2),
        (["train", CONFIG, f"--{STEERERS[0]}"], 2),
        ([f"trian{STEERERS[1]}\n"], 2),
    ):
        try:
            assert main(arguments) == code, arguments
        except SystemExit as end:
            assert end.code == code
        said = capsys.readouterr()
        assert not STEERING.findall(said.out + said.err), arguments
        assert said.err.count("\n") == (code == 2), arguments


def test_a_bar_may_return_to_the_start_of_its_line(monkeypatch):
    from mrg_grpo.cli import shown_streams

    plain = io.StringIO()
    monkeypatch.setattr(sys, "stderr", plain)
    with shown_streams():
        from tqdm import tqdm

        with tqdm(total=2, desc="a\x1bb\rc", file=sys.stderr) as bar:
            bar.update()
    assert sys.stderr is plain
    assert plain.getvalue().startswith("\r") and "a\\u001bb\\u000dc" in plain.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("command", ["score", "label", "phantom"])
def test_a_terminal_that_cannot_write_a_letter_loses_nothing(tmp_path, monkeypatch, command, encoding):
    said = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", said)
    monkeypatch.setattr(sys, "stderr", said)
    folder = tmp_path / "Röntgen-胸部-\udcff"
    folder.mkdir()
    (folder / "x.csv").write_text("Report Impression\nNo edema.\n")
    arguments = {
        "score": [predictions(folder / "a.jsonl", ["é", "胸"], think="☃"), "-o", str(folder / "o.json")],
        "label": [str(folder / "x.csv"), "-o", str(folder / "y.csv")],
        "phantom": ["--export", str(folder / "data"), "--count", "1"],
    }
    assert main([command, *arguments[command]]) == 0
    said.flush()
    assert "\\u80f8\\u90e8-\\udcff" in said.buffer.getvalue().decode(encoding)
    assert main(["report", str(folder / "none.png")]) == 2

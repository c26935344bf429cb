"""Whole runs by the command line: a tiny checkpoint on real X-rays, the embedded default, credentialed data."""

import json

import numpy as np
import pytest
from PIL import Image

from mrg_grpo.cli import main
from mrg_grpo.data.credentialed import BANNER

CONFIG = "experiments/phantom.toml"


def run(command, config, settings, *more):
    return main([command, str(config), *[part for setting in settings for part in ("--set", setting)], *more])


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint):
    return tiny_checkpoint(scale=0.1, max_position_embeddings=2048)


def small(output, checkpoint, *more):
    """Settings of a run of two steps."""
    return [
        f"run.output_dir={output}", f"model.path={checkpoint}", "run.steps=2", "run.save_every=1", "run.eval_every=1",
        "run.eval_studies=3", "run.rollouts_every=1", "run.test_studies=5", "grpo.studies_per_step=2",
        "grpo.group_size=3", "grpo.decay=false", "sampling.max_tokens=24", "lora.rank=4", "sft.batch_size=2", *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_real_xrays_from_check_to_report(shared, tiny, tmp_path, capsys):
    cases = shared / "data" / "case_reports"
    data = ["data.form=iu_xray_r2gen", f"data.root={cases}", "prompt.text=Describe."]

    code = run("check", CONFIG, small(tmp_path / "sft", tiny, *data))
    printed = capsys.readouterr().out
    assert code == 0 or "fail  rewards" in printed  # a random policy may earn nothing at all
    assert "warn  splits" in printed and "holds 143 studies, the published one 2,069" in printed
    for name in ("tags", "tokens", "log-probabilities", "KL", "pixels", "longest step"):
        assert f"pass  {name}" in printed, printed

    assert run("sft", CONFIG, small(tmp_path / "sft", tiny, *data)) == 0
    adapter = tmp_path / "sft" / "adapter"
    assert (adapter / "adapter_model.safetensors").is_file()

    settings = small(tmp_path / "grpo", tiny, *data, f"model.adapter={adapter}")
    assert run("train", CONFIG, settings) == 0
    assert lines(tmp_path / "grpo" / "metrics.jsonl")[0]["kl"] == 0  # the reference is the warm start
    for name in ("config.toml", "validation.jsonl", "rollouts.jsonl", "predictions_before.jsonl", "evaluation.json",
                 "checkpoints/step-000002/state.pt"):  # fmt: skip
        assert (tmp_path / "grpo" / name).is_file(), name

    assert run("evaluate", CONFIG, settings, "-o", str(tmp_path / "test")) == 0
    predictions = lines(tmp_path / "test" / "predictions.jsonl")
    assert len(predictions) == 31
    assert {row["study_id"]: row["generated"] for row in predictions[:5]} == {
        row["study_id"]: row["generated"] for row in lines(tmp_path / "grpo" / "predictions.jsonl")
    }
    evaluation = json.loads((tmp_path / "test" / "evaluation.json").read_text())
    assert evaluation["studies"] == 31 and evaluation["baselines"]
    assert "credentialed" not in evaluation and not (tmp_path / "test" / "CREDENTIALED.txt").exists()
    capsys.readouterr()

    images = predictions[0]["images"]
    config = tmp_path / "grpo" / "config.toml"
    assert main(["report", *images, "--config", str(config), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["generated"] == predictions[0]["generated"]  # the run's own adapter wrote it


@pytest.mark.slow
def test_evaluate_is_scored_again_by_score_to_the_same_numbers(tmp_path, capsys):
    settings = [f"run.output_dir={tmp_path}", "data.form=phantom", "sampling.max_tokens=120"]
    assert run("evaluate", CONFIG, settings, "--split", "val") == 0
    folder = tmp_path / "evaluate-val"
    assert main(["score", str(folder / "predictions.jsonl"), "-o", str(folder / "again.json")]) == 0
    first, again = (json.loads((folder / name).read_text()) for name in ("evaluation.json", "again.json"))
    assert first["studies"] == again["studies"] == 500
    assert first["metrics"] == again["metrics"] and len(first["metrics"]) > 50
    assert first["conditions"] == again["conditions"] and first["presets"] == again["presets"]
    assert len(lines(folder / "predictions.jsonl")) == 500


# ---- one's own picture


def gradient(bits):
    return (np.linspace(0, 1, 90 * 80).reshape(90, 80) * (2**bits - 1)).astype(np.uint16 if bits > 8 else np.uint8)


def test_report_reads_every_kind_of_picture_with_any_base(tiny, tmp_path, capsys):
    plain = Image.fromarray(gradient(8))
    plain.save(tmp_path / "grey.png")
    plain.save(tmp_path / "grey.jpg", quality=95)
    plain.convert("RGB").convert("P").save(tmp_path / "palette.png")
    Image.fromarray(gradient(16)).save(tmp_path / "deep.png")  # 16 bit
    Image.fromarray(gradient(12)).save(tmp_path / "twelve.png")  # 12 of 16 bit used
    names = [str(tmp_path / name) for name in ("grey.png", "grey.jpg", "palette.png", "deep.png", "twelve.png")]
    settings = [part for s in (f"model.path={tiny}", "sampling.max_tokens=12") for part in ("--set", s)]
    assert main(["report", "--each", "--json", *names, *settings]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["images"] for answer in answers] == [[name] for name in names]
    # the deep and the 12-bit picture are scaled by their own range: to within a grey value the same picture
    assert answers[0]["generated"] == answers[2]["generated"]
    assert answers[3]["generated"] == answers[4]["generated"]
    assert main(["report", *names[:2], *settings]) == 0  # two views of one study, as text
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("name", ["scan.dcm", "scan.png"])
def test_report_refuses_dicom_and_says_how_to_convert(tmp_path, capsys, name):
    (tmp_path / name).write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 64)
    assert main(["report", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "is a DICOM file" in error and f"dcmj2pnm --write-png --min-max-window {tmp_path / name} image.png" in error


# ---- credentialed data

WORDS = ("zebrafish", "quokka", "axolotl", "narwhal", "okapi", "tapir")


@pytest.fixture(scope="module")
def mimic(tmp_path_factory):
    """MIMIC-CXR's native layout with invented reports, each with a word that stands nowhere else."""
    root = tmp_path_factory.mktemp("mimic")
    rows = ["dicom_id,study_id,subject_id,split"]
    for n, (word, split) in enumerate(zip(WORDS, ("train", "train", "train", "validate", "test", "test"))):
        study, subject = f"5000000{n}", f"1{n}000032"
        folder = root / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}"
        folder.mkdir(parents=True)
        folder.with_suffix(".txt").write_text(f" FINDINGS: The {word} heart is enlarged. No pneumothorax.\n")
        Image.fromarray(np.roll(gradient(8), 11 * n, axis=1)).save(folder / f"dicom-{n}.jpg")
        rows.append(f"dicom-{n},{study},{subject},{split}")
    (root / "mimic-cxr-2.0.0-split.csv").write_text("\n".join(rows) + "\n")
    return root


def bytes_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_credentialed_runs_carry_a_banner_and_can_leave_all_text_out(mimic, tiny, tmp_path, capsys):
    data = ["data.form=mimic_cxr", f"data.root={mimic}", "prompt.text=Describe.", "run.test_studies=0"]
    for keep in ("true", "false"):
        folder = tmp_path / keep
        settings = small(folder, tiny, *data, f"run.keep_text={keep}")
        assert run("sft", CONFIG, [*settings, f"run.output_dir={folder / 'sft'}"]) == 0
        assert run("train", CONFIG, [*settings, f"run.output_dir={folder / 'grpo'}"]) == 0
        assert run("evaluate", CONFIG, [*settings, f"run.output_dir={folder / 'grpo'}"], "-o", f"{folder}/test") == 0

    for part in ("sft", "grpo", "test"):
        for keep in ("true", "false"):
            folder = tmp_path / keep / part
            assert (folder / "CREDENTIALED.txt").read_text() == BANNER + "\n"
            for path in folder.glob("*.jsonl"):
                if path.name.startswith(("predictions", "rollouts")):
                    assert all(record["credentialed"] == BANNER for record in lines(path))
            assert json.loads((folder / "evaluation.json").read_text())["credentialed"] == BANNER

    kept = b"".join(bytes_of(tmp_path / "true").values())
    assert all(word.encode() in kept for word in WORDS[:3] + WORDS[4:])  # the search below can find what is there
    written = [s["completion"] for r in lines(tmp_path / "true" / "grpo" / "rollouts.jsonl") for s in r["samples"]]
    written += [r["generated"] for r in lines(tmp_path / "true" / "grpo" / "predictions.jsonl")]
    written = [json.dumps(text, ensure_ascii=False)[1:-1].encode() for text in written if len(text) > 8]
    assert written and all(text in kept for text in written)
    secrets = [*(word.encode() for word in WORDS), b"heart is enlarged", b"dicom-", b".jpg", *written]
    for path, content in bytes_of(tmp_path / "false").items():
        for secret in secrets:
            assert secret not in content, (path, secret)

    # our own readers still work: score on labels alone, and a resumed run that cuts lines
    capsys.readouterr()
    assert main(["score", str(tmp_path / "false" / "test" / "predictions.jsonl")]) == 0
    assert "no text in this file" in capsys.readouterr().out
    settings = [*small(tmp_path / "false" / "grpo", tiny, *data, "run.keep_text=false"), "run.steps=3"]
    assert run("train", CONFIG, settings, "--resume") == 0
    assert [r["step"] for r in lines(tmp_path / "false" / "grpo" / "metrics.jsonl")] == [1, 2, 3]


def test_what_is_known_of_a_study_goes_from_the_table_into_every_record(tiny, tmp_path, capsys):
    """A table with an indication: check, sft, train, the page, and a report of one picture with words of the user's."""
    data = tmp_path / "data"
    assert main(["phantom", "--export", str(data), "--split", "train", "--count", "24"]) == 0
    head, *rows = (data / "reports.csv").read_text().splitlines()
    told = [f"{row},cough of case {n}" if n % 2 else f"{row}," for n, row in enumerate(rows)]
    (data / "reports.csv").write_text("\n".join([f"{head},indication", *told]) + "\n")
    known = ["data.form=table", f"data.root={data}", "data.table=reports.csv", "data.columns.split=none"]
    known.append("prompt.context=['indication']")
    settings = small(tmp_path / "run", tiny, *known)
    main(["check", CONFIG, *[part for setting in settings for part in ("--set", setting)]])
    printed = capsys.readouterr().out
    assert "context: indication" in printed and "context: none" in printed
    assert run("sft", CONFIG, [*small(tmp_path / "warm", tiny, *known), "run.steps=1"]) == 0
    assert run("train", CONFIG, settings) == 0
    for name in ("rollouts.jsonl", "predictions.jsonl", "predictions_before.jsonl", "followed.jsonl"):
        records = lines(tmp_path / "run" / name)
        said = {record["context"] for record in records}
        assert said <= {"", *(f"Context: Indication: cough of case {n}." for n in range(24))} and len(said) > 1, name
    assert run("train", CONFIG, [*settings, "prompt.context=[]"], "--resume") == 2  # another question
    table = (data / "reports.csv").read_text()
    (data / "reports.csv").write_text(table.replace("cough of case", "fever of case"))
    capsys.readouterr()
    assert run("train", CONFIG, [*settings, "run.steps=3"], "--resume") == 2
    assert "the studies of data.root (test, train" in capsys.readouterr().err
    (data / "reports.csv").write_text(table)
    assert main(["view", str(tmp_path / "run"), "--plain"]) == 0
    assert "Context: Indication: cough of case" in (tmp_path / "run" / "page.html").read_text()
    picture = next(data.glob("images/*.png"))
    more = ["--config", str(tmp_path / "run"), "--context", "history=asthma"]
    assert main(["report", str(picture), *more]) == 0
    capsys.readouterr()
    assert main(["report", str(picture), "--context", "prior_images=a.png"]) == 2
    assert "--context prior_images: write NAME=TEXT, with a name of age, sex" in capsys.readouterr().err

"""The guides, followed: their files written, their commands run, in their order, by a stranger in an empty folder."""

import csv
import json
import os
import re
import subprocess
import sys
import textwrap
import tomllib

import pytest
from command import in_a_child

from mrg_grpo.cli import main
from mrg_grpo.config import ColumnsConfig, RunConfig, load_config
from mrg_grpo.data import load_studies
from mrg_grpo.evaluation.clinical import ranked_metric

pytestmark = pytest.mark.slow
PAGES = ("own-data", "own-reward", "gpus")
BLOCK = re.compile(r"^```(bash|python|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def followed(request, tmp_path_factory):
    """The folder after the last block, and what each command printed."""
    root, folder = request.config.rootpath, tmp_path_factory.mktemp("guides")
    (folder / "experiments").symlink_to(root / "experiments")
    printed = {}
    texts = [(root / "docs" / "guides" / f"{page}.md").read_text(encoding="utf-8") for page in PAGES]
    for kind, body in BLOCK.findall("\n".join(texts)):
        if kind != "bash":
            (folder / body.splitlines()[0].removeprefix("# ")).write_text(body)
            continue
        for command in body.splitlines():
            printed[command] = shell(command, root, folder)
    return folder, printed


def shell(command, root, folder) -> str:
    """Run one line as it stands, with `python` and `mrg-grpo` those of the tree under test."""
    if command.startswith("mrg-grpo "):
        done = in_a_child(command, folder)
    else:
        line = re.sub(r"^python\b", f'"{sys.executable}"', command)
        path = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
        done = subprocess.run(line, shell=True, cwd=folder, env={**os.environ, **path}, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_command_runs_and_leaves_what_the_page_says(followed):
    folder, printed = followed
    run = folder / "runs" / "my_reward"
    assert {command.split()[1] for command in printed if command.startswith("mrg-grpo")} == {
        "phantom", "check", "train", "view", "evaluate", "score", "report", "plan",
    }  # fmt: skip
    assert "[1.0, 0.0, None]" in printed[next(command for command in printed if "no_prior(" in command)]
    fits = printed[next(command for command in printed if command.startswith("mrg-grpo plan"))]
    assert "fits in 24 GB" in fits and "DOES NOT FIT" not in fits
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2, 3, 4] and "reward/my_reward:no_prior" in steps[-1]
    values = [step["reward/my_reward:no_prior"] for step in steps]
    assert 0.8 < sum(values) / len(values) <= 1  # "near 1"
    assert "my_reward:no_prior" in (run / "page.html").read_text()
    assert json.loads((folder / "runs" / "my_data" / "val" / "scores.json").read_text())
    assert (run / "evaluation.json").exists()


def test_the_columns_that_the_page_names_are_read(request, followed, tmp_path):
    """Its example of [data.columns] on a table with such columns, split by patient as the page says."""
    page = (request.config.rootpath / "docs" / "guides" / "own-data.md").read_text(encoding="utf-8")
    block = re.search(r"^    \[data\.columns\]\n(    .*\n)+", page, re.MULTILINE).group()
    columns = ColumnsConfig(**tomllib.loads(textwrap.dedent(block))["data"]["columns"])
    folder, _ = followed
    images = sorted((folder / "my_data" / "images").iterdir())
    with (tmp_path / "hospital.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["accession", "mrn", "files", "befund"])
        for number, image in enumerate(images):  # two images a study, two studies a patient
            (tmp_path / image.name).symlink_to(image)
            table.writerow([f"s{number // 2}", f"p{number // 4}", image.name, 'Clear, "quoted", lungs.'])
    splits = load_studies("table", tmp_path, files="hospital.csv", columns=columns)
    where = {study.id: split for split, studies in splits.items() for study in studies}
    assert len(where) == len(images) // 2 and len(set(where.values())) > 1
    assert all(where[f"s{n}"] == where[f"s{n + 1}"] for n in range(0, len(where) - 1, 2))
    assert all(len(study.images) == 2 for studies in splits.values() for study in studies)
    assert all(study.report == 'Clear, "quoted", lungs.' for studies in splits.values() for study in studies)


def test_the_hours_in_the_table_of_cards_are_the_plans(request, capsys):
    root = request.config.rootpath
    page = (root / "docs" / "guides" / "gpus.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `(\w+\.toml)` \| (\d+) GB \| (\d+) x (\d+) \| (\d+) .* ([\d.]+) \+ ([\d.]+) \|$", page, re.MULTILINE
    )
    assert len(rows) == 7
    for name, gpu, studies, group, held, training, decoding in rows:
        path = str(root / "experiments" / name)
        config = load_config(path)
        assert (int(studies), int(group)) == (config.grpo.studies_per_step, config.grpo.group_size)
        assert int(held) == (config.grpo.studies_per_pass or config.grpo.studies_per_step)
        model = f"model.path={root / 'experiments' / 'huatuo_7b'}"
        assert main(["plan", path, "--gpu-gb", gpu, "--set", model]) == 0
        printed = capsys.readouterr().out
        assert f"hours to expect of train: {training} for" in printed and f"steps, {decoding} to decode" in printed
        assert f"fits in {gpu} GB" in printed


def test_the_table_of_the_best_adapter_is_that_of_the_record(request):
    root = request.config.rootpath
    record = json.loads((root / "experiments" / "results" / "best_checkpoint.json").read_text(encoding="utf-8"))
    page = (root / "docs" / "guides" / "during-and-after.md").read_text(encoding="utf-8")
    f1, cosine = "f1_micro_13_uncertain_positive", "clinical_cosine"
    for seed, found in record["seeds"].items():
        numbers = (f"{found[side][name]['value']:.3f}" for name in (f1, cosine) for side in ("last", "best"))
        assert f"| {seed} | {found['step']['best']} | {' | '.join(numbers)} |\n" in page
    regrets = [sum(record["regret"][name]) / len(record["regret"][name]) for name in (cosine, f1)]
    assert "was {:.3f} of a run's range for the clinical cosine, {:.3f} for the micro F1".format(*regrets) in page
    assert record["metric"] == ranked_metric(RunConfig().keep_best)[0]

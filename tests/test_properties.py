"""The parser, the rewards and the readers of files: whatever comes in, a sound result or the one error a user can mend.

`make test` draws 20 cases of each property, `make test-all` 1,250 of each, 10,000 in all. Data sets have theirs in
tests/data/test_properties.py.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from drawing import Property, draw
from hypothesis import strategies as st

from mrg_grpo.config import Config, load_config
from mrg_grpo.errors import UserError
from mrg_grpo.evaluation.prediction_files import read_predictions
from mrg_grpo.labelers import read_label_csv, read_report_csv
from mrg_grpo.prompt import parse_completion
from mrg_grpo.rewards.ce_f1 import ce_f1
from mrg_grpo.rewards.external import ExternalReward
from mrg_grpo.rewards.format import format_reward
from mrg_grpo.rewards.mccs import clinical_cosine, mccs, rarity_weights
from mrg_grpo.rewards.nlg import bleu, rouge_l
from mrg_grpo.run.folder import step_of
from mrg_grpo.toml import to_toml

TAGS = ["<think>", "</think>", "<report>", "</report>", "<think", "</report", "<THINK>", "<report >"]
PIECE = st.one_of(st.sampled_from([*TAGS, *TAGS[:4], " ", "\n", "edema", "no", "\0", "\u2028"]), st.text(max_size=8))
COMPLETION = st.lists(PIECE, max_size=12).map("".join)
WORDS = st.one_of(COMPLETION, st.lists(st.sampled_from(["no", "edema", "is", "seen", "."]), max_size=40).map(" ".join))


def parser(case: tuple[str, bool], root: Path) -> None:
    """Against the definition written with plain regular expressions."""
    text, think = case
    result = parse_completion(text, think)
    assert not re.search(r"</?(think|report)>", result.report) or result.compliant is False
    for part in (result.report, result.think):
        assert part == part.strip()
    assert format_reward([result]).tolist() == [float(result.compliant)]
    tag = r"</?(?:think|report)>"
    blocks = re.split(rf"({tag})", text.strip())
    form = ["", "<think>", None, "</think>", "", "<report>", None, "</report>", ""] if think else [
        "", "<report>", None, "</report>", ""
    ]  # fmt: skip
    fits = len(blocks) == len(form) and all(
        block.strip() == want if want is not None else block.strip() for block, want in zip(blocks, form)
    )
    assert result.compliant == bool(fits)
    if not result.compliant:
        without = re.sub(r"<think>.*?(?:</think>|\Z)", " ", text, flags=re.DOTALL | re.IGNORECASE)
        without = re.split("</think>", without, flags=re.IGNORECASE)[-1]
        block = re.compile(r"<report>(.*?)(?:</report>|\Z)", re.DOTALL)
        opened = block.search(without) or block.search(text)
        expected = opened.group(1) if opened else without
        assert result.report == re.sub("(?i:</?think>)", " ", re.sub(tag, " ", expected)).strip()


ROW = st.lists(st.integers(0, 3), min_size=13, max_size=13).flatmap(
    lambda row: st.sampled_from([0, 1]).map(lambda last: [*row, last])
)
LABELS = st.integers(1, 5).flatmap(lambda n: st.tuples(*[st.lists(ROW, min_size=n, max_size=n)] * 2))


def clinical(case: tuple[tuple[list, list], float, float], root: Path) -> None:
    (generated, reference), margin, zero = case
    ours, theirs = torch.tensor(generated), torch.tensor(reference)
    for weights in (None, rarity_weights(theirs)):
        cosine = clinical_cosine(ours, theirs, weights=weights, zero_vectors=zero)
        reward = mccs(ours, theirs, margin, weights=weights, zero_vectors=zero)
        assert cosine.isfinite().all() and (cosine.abs() <= 1 + 1e-5).all()
        assert reward.isfinite().all() and (reward >= 0).all() and (reward <= 1 + 1e-5).all()
        assert ((reward > 0) == (cosine > margin)).logical_or((cosine - margin).abs() < 1e-5).all()
    same = clinical_cosine(ours, ours)
    assert torch.allclose(same, torch.ones(len(ours)), atol=1e-5)
    f1 = ce_f1(ours, theirs)
    assert f1.isfinite().all() and (f1 >= 0).all() and (f1 <= 1).all()


def lexical(case: tuple[str, str], root: Path) -> None:
    a, b = case
    for score in (bleu, rouge_l):
        value = score([a, a], [b, a]).tolist()
        assert all(0 <= v <= 1 + 1e-6 and math.isfinite(v) for v in value)
        assert value[1] >= value[0] - 1e-6  # nothing is nearer to a report than itself


SCORE = st.one_of(st.none(), st.floats(), st.integers(-9, 9), st.booleans(), st.text(max_size=3), st.just([1.0]))
SCORES = st.one_of(st.lists(SCORE, max_size=4), st.lists(st.floats(-1, 1) | st.none(), min_size=3, max_size=3), SCORE)
RETURNED: list[Any] = [None]


def returns(completions: list[str], **columns: Any) -> Any:
    """The reward of others that the property below speaks for."""
    return RETURNED[0]


def external(scores: Any, root: Path) -> None:
    RETURNED[0] = scores
    reward = ExternalReward("json:dumps")
    reward.function = returns
    try:
        values, present = reward(["a", "b", "c"], study_id=["s0", "s1", "s2"])
    except UserError as error:
        assert "\n" not in str(error) and "json:dumps" in str(error)
        return
    assert values.isfinite().all() and len(values) == len(present) == 3
    assert present.tolist() == [score is not None for score in scores]


LEAF = st.one_of(st.none(), st.booleans(), st.integers(-3, 9), st.floats(), st.text(max_size=12))
JSON = st.recursive(
    LEAF, lambda i: st.lists(i, max_size=3) | st.dictionaries(st.text(max_size=5), i, max_size=3), max_leaves=6
)
COLUMN = st.sampled_from(
    ["study_id", "reference", "prediction", "report", "generated", "labels", "reference_labels", "id"]
)
RECORD = st.dictionaries(COLUMN | st.text(max_size=4), JSON, max_size=5)
SOUND_RECORD = st.fixed_dictionaries(
    {"study_id": st.text(max_size=4) | st.integers(0, 3), "reference": WORDS, "prediction": WORDS | st.none()}
)
RECORDS = st.lists(SOUND_RECORD, max_size=4) | st.lists(RECORD, max_size=3) | JSON
FILE = st.one_of(
    RECORDS.map(lambda tree: ("p.json", json.dumps(tree).encode())),
    st.lists(SOUND_RECORD | RECORD | JSON, max_size=4).map(
        lambda rows: ("p.jsonl", "\n".join(map(json.dumps, rows)).encode())
    ),
    st.lists(st.lists(COLUMN | st.text(max_size=6), max_size=4), max_size=4).map(
        lambda rows: ("p.csv", "\n".join(map(",".join, rows)).encode("utf-8", "replace"))
    ),
    st.tuples(st.sampled_from(["p.csv", "p.json", "p.jsonl"]), st.binary(max_size=60)),
)


def predictions(case: tuple[tuple[str, bytes], int | None, str], root: Path) -> None:
    (name, content), cut, duplicates = case
    (root / name).write_bytes(content[:cut])
    try:
        result = read_predictions([root / name], duplicates)
    except UserError as error:
        assert name in str(error) and "\n" not in " ".join(str(error).split())
        return
    assert result.rows and len({row.study_id for row in result.rows}) == len(result.rows)
    assert all(isinstance(part, str) for row in result.rows for part in (row.study_id, row.reference, row.prediction))
    assert result.notes()


HEADER = ",".join(["Report Impression", *(f"c{i}" for i in range(14))]).encode()


TABLE = st.binary(max_size=80) | st.binary(max_size=60).map(lambda noise: HEADER + b"\n" + noise)


def label_table(content: bytes, root: Path) -> None:
    (root / "x.csv").write_bytes(content)
    for read in (read_report_csv, read_label_csv):
        try:
            result = read(root / "x.csv")
        except UserError as error:
            assert "x.csv" in str(error)
            continue
        reports = result if isinstance(result, list) else result[0]
        assert all(isinstance(report, str) for report in reports)


KEY = st.sampled_from(
    ["grpo", "beta", "group_size", "reward", "weights", "run", "steps", "data", "views", "x", "prompt"]
)
TREE = st.recursive(
    st.integers(-5, 9) | st.floats() | st.booleans() | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: st.dictionaries(KEY, inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=5,
)


def inline(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return json.dumps(value) if isinstance(value, str | bool) else repr(value)


def configuration(case: tuple[dict | bytes, int | None], root: Path) -> None:
    tree, cut = case
    text = tree if isinstance(tree, bytes) else "\n".join(f"{k} = {inline(v)}" for k, v in tree.items()).encode()
    (root / "c.toml").write_bytes(text[:cut])
    try:
        config = load_config(root / "c.toml")
    except UserError as error:
        assert str(error)
        return
    assert isinstance(config, Config)
    (root / "again.toml").write_text(to_toml(config), encoding="utf-8")
    assert load_config(root / "again.toml") == config


def log_line(line: str, root: Path) -> None:
    step = step_of(line)
    assert step is None or isinstance(step, int)


LINE = st.one_of(JSON.map(json.dumps), st.text(max_size=20), st.integers().map(lambda n: json.dumps({"step": n})))
PROPERTIES: dict[str, Property] = {
    "parser": (st.tuples(COMPLETION, st.booleans()), parser),
    "clinical rewards": (st.tuples(LABELS, st.floats(0, 0.95), st.floats(-1, 1)), clinical),
    "lexical rewards": (st.tuples(WORDS, WORDS), lexical),
    "rewards of others": (SCORES, external),
    "predictions": (
        st.tuples(FILE, st.none() | st.integers(0, 80), st.sampled_from(["error", "first", "last"])), predictions,
    ),
    "label tables": (TABLE, label_table),
    "configuration": (
        st.tuples(st.dictionaries(KEY, TREE, max_size=3) | st.binary(max_size=40), st.none() | st.integers(0, 60)),
        configuration,
    ),
    "log lines": (LINE, log_line),
}  # fmt: skip


@pytest.mark.parametrize("name", PROPERTIES)
def test_property_on_a_few_cases(tmp_path, name):
    draw(PROPERTIES[name], 20, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROPERTIES)
def test_property_on_many_cases(tmp_path, name):
    draw(PROPERTIES[name], 1250, tmp_path)

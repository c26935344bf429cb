"""Rewards of the field with a stand-in that returns what RadEval 2.2.1 returns; test_radeval.py has RadEval itself."""

import json
import math
import sys
import types
from itertools import pairwise

import pytest
import torch

import mrg_grpo.rewards.field as field
from mrg_grpo.config import Config, RewardConfig, load_config
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError
from mrg_grpo.preflight.check import check_field
from mrg_grpo.rewards import TERMS, Rewards, require_terms

PER_SAMPLE = {
    "radgraph": ("radgraph_simple", "radgraph_partial", "radgraph_complete"),
    "ratescore": ("ratescore",),
    "radcliq": ("radcliq_v1",),
    "green": ("green",),
    "bertscore": ("bertscore",),
    "srrbert": ("srrbert_weighted_f1", "srrbert_weighted_precision", "srrbert_weighted_recall"),
}
"""RadEval's name of a metric -> the keys of its `compute(..., per_sample=True)`."""


class Labeler:
    device = torch.device("cpu")

    def label(self, texts):
        return torch.zeros(len(texts), 14, dtype=torch.long)


@pytest.fixture
def radeval(monkeypatch):
    """A stand-in whose value of a report is `value(report)`: what was loaded and what was scored."""
    seen = types.SimpleNamespace(loaded=[], scored=[], value=lambda text: float(len(text.split())))

    def make_reward_fn(metric, reference_column="ground_truth", key=None):
        assert key in PER_SAMPLE[metric], f"RadEval returns no {key} for {metric}"
        seen.loaded.append(metric)

        def reward(completions, **columns):
            references = columns[reference_column]
            seen.scored.append((metric, completions, references))
            print("Using device: cpu")  # as RadGraph does
            values = [seen.value(text) for text in completions]
            if any(value is not None and math.isnan(value) for value in values):
                raise ValueError(f"{metric}: non-finite reward at sample index 0 (got nan)")
            return values

        return reward

    module = types.ModuleType("radeval")
    module.make_reward_fn = make_reward_fn
    monkeypatch.setitem(sys.modules, "radeval", module)
    for package in {name for metric in field.FIELD.values() for name in metric.packages}:
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    monkeypatch.setattr(field, "is_offline_mode", lambda: False)
    field._loaded.cache_clear()
    yield seen
    field._loaded.cache_clear()
    sys.modules.pop("RadEval", None)


def score(weights, completions, references=("lungs are clear",)):
    studies = [Study(f"s{i}", (), text, "train") for i, text in enumerate(references)]
    rewards = Rewards(RewardConfig(weights=weights), Labeler(), think=False)
    return rewards.score([f"<report>{text}</report>" for text in completions], studies, [[0]] * len(completions))


@pytest.mark.parametrize("name", field.FIELD)
def test_each_is_a_term_that_rises_with_quality(name, radeval, capsys):
    metric = field.FIELD[name]
    table = score({name: 0.5}, ["one two three", "four"])
    sign = -1 if name == "radcliq" else 1
    assert table.terms[name].tolist() == [3 * sign, sign] and table.total.tolist() == [1.5 * sign, 0.5 * sign]
    more = ["x"] if name == "radcliq" else []
    assert radeval.scored == [(metric.radeval, ["one two three", "four", *more], ["lungs are clear"] * 2 + more)]
    assert capsys.readouterr().out == "" and metric.milliseconds > 0 and metric.downloads


def test_a_model_is_loaded_at_the_first_report_and_once_in_a_process(radeval):
    config = RewardConfig(weights={"radgraph": 1.0, "bertscore": 1.0})
    first, second = Rewards(config, Labeler()), Rewards(config, Labeler())
    assert radeval.loaded == []
    for rewards in (first, second, first):
        rewards.score(["pleural effusion"], [Study("s", (), "clear lungs", "train")], [[0]])
    assert radeval.loaded == ["radgraph", "bertscore"]


def test_a_report_without_a_word_is_worst_and_is_not_handed_over(radeval):
    table = score({"radcliq": 1.0, "ratescore": 1.0}, ["", "heart is large", "ok.", " . "])
    assert table.terms["ratescore"].tolist() == [0, 3, 0, 0]
    assert table.terms["radcliq"].tolist() == pytest.approx([-2.45, -3, -2.45, -2.45])
    assert [reports for _, reports, _ in radeval.scored] == [["heart is large", "x"], ["heart is large"]]
    radeval.scored.clear()
    assert score({"ratescore": 1.0}, ["", "-"]).terms["ratescore"].tolist() == [0, 0] and radeval.scored == []


def test_a_reference_without_a_word_gives_no_value(radeval):
    table = score({"ratescore": 1.0}, ["heart is large", "", "one", ""], ["", "lungs are clear"])
    assert table.terms["ratescore"].isnan().tolist() == [True, True, False, False]
    assert table.total.tolist() == [0, 0, 1, 0] and radeval.scored == [("ratescore", ["one"], ["lungs are clear"])]


def test_none_adds_nothing_and_nan_ends_the_run(radeval):
    radeval.value = lambda text: None if text == "none" else 0.25
    table = score({"green": 2.0, "format": 1.0}, ["none", "some"])
    assert table.terms["green"].isnan().tolist() == [True, False] and table.total.tolist() == [1.0, 1.5]
    radeval.value = lambda text: math.nan if text == "bad" else 0.25
    with pytest.raises(UserError, match=r"reward green failed on completion 1 \(study s0\): ValueError: .*non-finite"):
        score({"green": 1.0}, ["some", "bad"])


def test_scores_that_could_belong_to_other_reports_end_the_run(radeval, monkeypatch):
    lost = lambda metric, **_: lambda completions, **columns: [0.5] * (len(completions) - 1)  # noqa: E731
    monkeypatch.setattr(sys.modules["radeval"], "make_reward_fn", lost)
    with pytest.raises(UserError, match=r"RadEval's ratescore returned 0 values for 1 reports|returned 1 values for 2"):
        score({"ratescore": 1.0}, ["heart is large", "lungs are clear"])


def test_radcliq_gets_a_second_reference_where_there_is_one_alone(radeval):
    """Its words weigh log((1 + references) / (1 + those with the word)): 0 for all of a lone reference."""
    two = score({"radcliq": 1.0}, ["heart is large"] * 2, ["lungs are clear", "edema"])
    assert radeval.scored.pop() == ("radcliq", ["heart is large"] * 2, ["lungs are clear", "edema"])
    lone = score({"radcliq": 1.0}, ["heart is large"] * 2)
    assert radeval.scored == [("radcliq", ["heart is large"] * 2 + ["x"], ["lungs are clear"] * 2 + ["x"])]
    assert two.terms["radcliq"].tolist() == lone.terms["radcliq"].tolist() == [-3, -3]


def test_radcliq_never_sees_a_list_of_references_at_the_address_of_the_last(radeval, monkeypatch):
    addresses = []
    looked = lambda metric, **_: lambda completions, **c: addresses.append(id(c["reference"])) or [1.0]  # noqa: E731
    monkeypatch.setattr(sys.modules["radeval"], "make_reward_fn", looked)
    for _ in range(20):
        score({"radcliq": 1.0}, ["heart is large"])
    assert all(a != b for a, b in pairwise(addresses))


def test_mistyped_names_are_asked_for_among_ours_and_the_fields():
    for name, words in (
        ("radgraf", 'unknown term "radgraf"; did you mean "radgraph"\\? use mccs, .*, radgraph, ratescore, radcliq'),
        ("rate_score", 'did you mean "ratescore"'),
        ("mcss", 'did you mean "mccs"'),
    ):
        with pytest.raises(UserError, match=words):
            require_terms(RewardConfig(weights={name: 1.0}))
    assert not set(TERMS) & set(field.FIELD)


def test_without_radeval_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "radeval", None)  # as if it were not there
    with pytest.raises(UserError) as refused:
        require_terms(RewardConfig(weights={"mccs": 1.0, "radgraph": 0.5}))
    assert str(refused.value) == (
        'reward.weights: "radgraph" needs radeval, not installed: pip install "mrg_grpo[radeval]"'
    )
    require_terms(RewardConfig(weights={"mccs": 1.0, "radgraph": 0.0}))  # no weight, no need


def test_a_package_that_is_broken_is_not_called_missing(radeval, monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "medspacy")
    (tmp_path / "medspacy.py").write_text("raise ValueError('numpy.dtype size changed,\\nmay be old')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError) as refused:
        field.require("ratescore")
    assert str(refused.value) == (
        'reward.weights: "ratescore": cannot import medspacy (numpy.dtype size changed, may be old); '
        'pip install "spacy>=3.8"'
    )


def test_offline_one_line_says_what_to_fetch(radeval, monkeypatch, tmp_path):
    monkeypatch.setattr(field, "is_offline_mode", lambda: True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    sys.modules["appdirs"].user_cache_dir = lambda name: str(tmp_path / name)
    sys.modules["nltk"].data = types.SimpleNamespace(find=raising(LookupError))
    for name, commands in {
        "bertscore": ["hf download distilbert-base-uncased"],
        "radgraph": [
            f"hf download StanfordAIMI/RRG_scorers radgraph-xl.tar.gz --cache-dir {tmp_path}/radgraph/0.1.18",
        ],
        "srr_bert": [
            "hf download StanfordAIMI/SRR-BERT-Leaves-with-Statuses",
            "hf download microsoft/BiomedVLP-CXR-BERT-general",
            "python -m nltk.downloader punkt_tab",
        ],
    }.items():
        with pytest.raises(UserError) as refused:
            field.require(name)
        assert str(refused.value) == (
            f'reward.weights: "{name}": the hub is switched off and the cache lacks a model; get it: '
            + " && ".join(commands)
        )
    hold(tmp_path / "hub", "distilbert-base-uncased", "config.json")
    hold(tmp_path / "radgraph" / "0.1.18", "StanfordAIMI/RRG_scorers", "radgraph-xl.tar.gz")
    for name in ("bertscore", "radgraph"):
        field.require(name)
    unpacked = tmp_path / "radgraph" / "0.1.18" / "radgraph-xl"
    unpacked.mkdir()
    named = {"model": {"embedder": {"token_embedders": {"bert": {"model_name": "some/encoder"}}}}}
    (unpacked / "config.json").write_text(json.dumps(named))
    with pytest.raises(UserError, match=r"get it: hf download some/encoder$"):
        field.require("radgraph")
    hold(tmp_path / "hub", "some/encoder", "config.json")
    field.require("radgraph")
    assert radeval.loaded == []  # nothing was loaded to find that out


def raising(error):
    def function(*_):
        raise error

    return function


def hold(cache, repo, file):
    """A file as the hub's cache holds it."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc" / file).write_text("{}")


def test_green_is_refused_where_it_would_start_on_several_gpus(radeval, monkeypatch):
    field.require("green")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r'"green" starts anew on every GPU at each step; .*CUDA_VISIBLE_DEVICES'):
        field.require("green")


def test_check_tells_what_a_step_costs():
    config = Config()
    config.grpo.studies_per_step, config.grpo.group_size = 16, 8
    assert list(check_field(config)) == []
    config.reward.weights = {"mccs": 1.0, "ratescore": 0.5, "green": 0.0, "radcliq": 0.1}
    (found,) = check_field(config)
    assert (found.status, found.remedy) == ("pass", "") and found.found.startswith(
        "ratescore, radcliq: 27.4 s for the 128"
    )
    config.reward.weights["green"] = 1.0
    (found,) = check_field(config)
    assert found.status == "warn" and "310.3 s" in found.found and "costs less" in found.remedy


@pytest.mark.parametrize("name", ["cxrmate2", "editgrpo"])
def test_the_mixes_are_read_and_name_what_is_known(name, request):
    config = load_config(request.config.rootpath / "experiments" / f"mimic_cxr_{name}.toml")
    known = {*TERMS, *field.FIELD, "repetition"}
    assert config.data.form == "mimic_cxr_r2gen" and set(config.reward.weights) <= known
    expected = {
        "cxrmate2": {"ratescore": 0.3, "bertscore": 0.3, "repetition": 0.1},
        "editgrpo": {"radgraph": 1.0, "ce_f1": 1.0, "ratescore": 1.0},
    }[name]
    assert config.reward.weights == expected


def test_the_guide_has_the_table(request):
    page = (request.config.rootpath / "docs" / "guides" / "own-reward.md").read_text(encoding="utf-8")
    for name, metric in field.FIELD.items():
        cost = f"{metric.milliseconds:,.0f}" if metric.milliseconds >= 10 else f"{metric.milliseconds:.1f}"
        row = f"| `{name}` | {metric.pays_for} | {metric.range} | {cost} | {metric.memory} |"
        assert row in page, row
        for one in metric.downloads:
            assert one.repo in page, one.repo

"""The benchmarks' own arithmetic by hand and by independent counters; tiny runs; the page shows what is stored."""

import json
import math
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from svg_text import texts
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig

from experiments.benchmarks import cases, growth, ours, performance_page, reward, start
from experiments.docs import sections
from mrg_grpo.data.study import Study

ROOT = Path(__file__).resolve().parents[2]
BERT = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
TEXTS = ["heart size is normal", "no effusion", "the lungs are clear and there is no pneumothorax", "edema is present"]


# ---- reward


def test_flop_are_those_torch_counts():
    """On a sequence without padding; torch's counter leaves nothing out but the heads that we leave out too."""
    labeler = reward.labeler(BertConfig(**BERT.to_diff_dict(), attn_implementation="eager"))
    ids = torch.randint(5, 100, (1, 9))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        labeler.net.bert(input_ids=ids, attention_mask=torch.ones_like(ids))
    pooler = 2 * 32 * 32
    assert reward.flop([9], BERT) == counter.get_total_flops() - pooler
    assert reward.flop([9, 4], BERT) == reward.flop([9], BERT) + reward.flop([4], BERT)


def test_reward_benchmark_runs_and_both_ways_agree(shared):
    texts = reward.real_texts(shared / "data" / "iu_xray", 8)
    assert len(set(texts)) == 8
    result = reward.measure(texts, BERT, rounds=1, threads=1)
    assert result["labels_that_differ"] == 0 and result["labels"] == 8 * 14 and result["distinct"] > 1
    assert "references labelled before" in performance_page.reward(result)


def test_one_by_one_is_what_the_labeler_says():
    labeler = reward.labeler(BERT)
    texts = [*TEXTS, "", "no effusion " * 400]
    labels = reward.one_by_one(labeler, texts)
    assert torch.equal(labels, labeler.label(texts)) and len(set(map(tuple, labels.tolist()))) > 1


# ---- growth


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return cases.write_checkpoint(tmp_path_factory.mktemp("growth") / "model")


def test_prompts_have_the_length_that_is_asked(checkpoint, tmp_path):
    for length in (64, 300):
        case = cases.Case("growth", 1, growth.side(length), 2, 1, 4)
        config = ours.configuration(case, checkpoint, 0.0)
        config.prompt.text, config.prompt.think = growth.QUESTION_TEXT, False
        encoder = ours.build(config).policy.encoder
        pictures = cases.pictures(case, tmp_path, 1)[0]
        batch = encoder.encode([Study("1", tuple(pictures), "", "train")])
        longer = growth.lengthened(batch, length)
        assert longer.input_ids.shape == longer.attention_mask.shape == (1, length)
        image = encoder.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        assert (longer.input_ids == image).sum() == (growth.side(length) // 28) ** 2
        assert batch.input_ids.shape[1] > length / 2  # most of it is picture and question
    with pytest.raises(ValueError, match="no room"):
        growth.lengthened(batch, 20)


def test_a_point_is_measured(checkpoint, tmp_path):
    row = growth.measure(growth.Point(2, 64, 6, 2048, 1), checkpoint, tmp_path, steps=1)
    assert len(row["seconds"]) == 1 and row["phases"]["reference"] > 0 and row["peak_mib"] > 0


def test_points_that_are_there_are_not_measured_again(tmp_path, monkeypatch):
    calls = []

    def run(module, arguments, threads):
        calls.append(arguments)
        if len(calls) == 5:
            raise RuntimeError("stopped")
        return {"seconds": [1.0], "phases": {}, "peak_mib": 2.0}

    monkeypatch.setattr(growth, "run", run)
    monkeypatch.setattr(cases, "write_checkpoint", lambda folder, vocabulary: folder.mkdir(parents=True))
    out, record = tmp_path / "growth.json", {"threads": 1, "points": {}}
    with pytest.raises(RuntimeError, match="stopped"):
        growth.collect(growth.QUICK, record, tmp_path, 1, out)
    kept = json.loads(out.read_text())
    assert len(kept["points"]) == 2  # each is two processes: time, then memory
    growth.collect(growth.QUICK, kept, tmp_path, 1, out)
    points = list(growth.points(growth.QUICK))
    assert len(calls) == 5 + 2 * (len(points) - 2) and set(kept["points"]) == {growth.key(p) for p in points}


def made_up(seconds, mib):
    """A record of growth where a step takes `seconds` and `mib` of a point."""
    rows = {}
    for point in growth.points(growth.AXES):
        phases = dict.fromkeys(("prefill", "sample", "reference", "train"), 0.5)
        row = {"seconds": [seconds(point)], "phases": phases, "peak_mib": 9.0, "alive_mib": mib(point)}
        rows[growth.key(point)] = {**asdict(point), **row}
    axes = {axis: [growth.key(point) for point in points] for axis, points in growth.AXES.items()}
    return {"threads": 2, "torch": "2", "peak_gflops": 100.0, "points": rows, "axes": axes}


def test_growth_page_computes_its_ratios():
    flat = performance_page.growth(made_up(lambda p: 1 + p.group, lambda p: 100.0))
    assert "3.67 times as long as one with G = 8" in flat and "1.000 times that at G = 8" in flat
    grown = performance_page.growth(made_up(lambda p: 8 + p.group, lambda p: 100.0 + p.group))
    assert "2.50 times as long as one with G = 8" in grown and f"{164 / 108:.3f} times that at G = 8" in grown
    assert set(performance_page.growth_pictures(made_up(lambda p: 1.0, lambda p: 1.0))) == {
        "growth_seconds.svg", "growth_memory.svg",
    }  # fmt: skip


# ---- start


def test_the_first_whole_line_is_awaited(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write = (
        f"import time; f = open({str(path)!r}, 'w'); f.write('{{\"a\":'); f.flush(); time.sleep(.2); f.write('1}}\\n')"
    )
    child = subprocess.Popen([sys.executable, "-c", write + "; f.flush(); time.sleep(60)"])
    began = time.perf_counter()
    try:
        assert start.awaited(path, child) == {"a": 1}
    finally:
        child.kill()
        child.wait()
    assert time.perf_counter() - began < 30
    with pytest.raises(RuntimeError, match="before its first step"):
        start.awaited(tmp_path / "none", child)


def test_start_figures_of_the_phantom():
    found = start.studies(2)
    assert found["split"] == 8000 and found["random"] == 2 and math.isfinite(found["images_a_second_ahead"])
    begun = {"first_step_began": 19.0, "first_step_ended": 21.0, "imports": 4.0}
    page = performance_page.start({"threads": 2, "starts": [begun], **begun, **found})
    assert "begins | 19.0 |" in page and "logged | 21.0 |" in page


# ---- the page


def test_the_page_shows_what_is_stored(tmp_path):
    page = performance_page.PAGE.read_text(encoding="utf-8")
    for name, (file, section) in performance_page.SECTIONS.items():
        assert page.count(f"<!-- {name} -->") == 2
        if (performance_page.RESULTS / file).exists():
            record = json.loads((performance_page.RESULTS / file).read_text(encoding="utf-8"))
            assert section(record) in page, f"run python -m experiments.docs.redraw: {name} is stale"
            if name == "growth":
                for picture, svg in performance_page.growth_pictures(record).items():
                    kept = performance_page.PAGE.parent / "images" / picture
                    assert texts(kept.read_text(encoding="utf-8")) == texts(svg)


def test_sections_are_replaced_between_their_markers():
    page = "a\n<!-- x -->\nold\n<!-- x -->\nb\n"
    assert sections.placed(page, "x", "new") == "a\n<!-- x -->\n\nnew\n\n<!-- x -->\nb\n"

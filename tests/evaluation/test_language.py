"""Language metrics against pycocoevalcap's own corpus values, and R2Gen's cleaning against its code written out."""

import random
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from mrg_grpo.errors import UserError
from mrg_grpo.evaluation import language
from mrg_grpo.evaluation.intervals import bootstrap
from mrg_grpo.evaluation.language import clean_r2gen, language_from_sums, language_statistics, prepare

needs_coco = pytest.mark.skipif(
    not pytest.importorskip("importlib.util").find_spec("pycocoevalcap"),
    reason="needs the extra `eval` (pycocoevalcap)",
)
WORDS = "lungs are clear no pleural effusion or pneumothorax heart size is normal . mild edema opacities".split(" ")  # noqa: SIM905


def draw(reports=25, seed=0):
    rng = random.Random(seed)
    reference = [[rng.choice(WORDS) for _ in range(rng.randint(4, 30))] for _ in range(reports)]
    generated = [[word for word in row if rng.random() < 0.8] + rng.choices(WORDS, k=2) for row in reference]
    generated[3], generated[4] = [], reference[4]
    return [" ".join(row) for row in generated], [" ".join(row) for row in reference]


def coco(generated, reference):
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    gts, res = ({i: [text] for i, text in enumerate(side)} for side in (reference, generated))
    bleu = Bleu(4).compute_score(gts, res, verbose=0)[0]
    scores = {f"bleu_{n}": bleu[n - 1] for n in (1, 2, 3, 4)}
    scores["rouge_l"], scores["cider"] = (scorer.compute_score(gts, res)[0] for scorer in (Rouge(), Cider()))
    if shutil.which("java"):
        scores["meteor"] = language.meteor_scorer().compute_score(gts, res)[0]
    return scores


@needs_coco
def test_against_pycocoevalcap():
    generated, reference = draw()
    got = language_from_sums(language_statistics(generated, reference).statistics.sum(dim=0))
    expected = coco(generated, reference)
    assert len(expected) >= 6
    for name, value in expected.items():
        assert got[name].item() == pytest.approx(value, rel=1e-6), name
        assert value > 0.05


@needs_coco
def test_resamples_are_corpus_scores_of_the_drawn_studies():
    """What a mean of per-study scores would get wrong: BLEU of a resample, recomputed from the texts."""
    generated, reference = draw(12, seed=1)
    statistics = language_statistics(generated, reference).statistics
    rows = torch.randint(0, 12, (12,), generator=torch.Generator().manual_seed(0))
    got = language_from_sums(statistics[rows].sum(dim=0))
    expected = coco([generated[i] for i in rows], [reference[i] for i in rows])
    for name in expected.keys() - {"cider"}:  # CIDEr's frequencies stay those of all references
        assert got[name].item() == pytest.approx(expected[name], rel=1e-6), name
    interval = bootstrap(statistics, language_from_sums, resamples=200)["bleu_4"]
    assert interval.low < interval.value < interval.high


@needs_coco
def test_long_and_empty_texts_have_pycocoevalcaps_rouge_in_no_time(monkeypatch):
    from pycocoevalcap.rouge.rouge import Rouge

    monkeypatch.setattr(language.shutil, "which", lambda name: None)
    pairs = [("", ""), ("a", ""), ("", "a"), ("a b", "b a"), ("x", "x")]
    got = language_statistics(*map(list, zip(*pairs))).statistics[:, language.COLUMNS["rouge_l"]]
    assert got.flatten().tolist() == [Rouge().calc_score([a], [b]) for a, b in pairs]
    long = [" ".join(random.Random(seed).choices(WORDS, k=20_000)) for seed in (0, 1)]
    started = time.perf_counter()
    language_statistics([long[0]], [long[1]])  # a table of all pairs of words has 400 million cells
    assert time.perf_counter() - started < 5


@needs_coco
def test_without_java(monkeypatch):
    monkeypatch.setattr(language.shutil, "which", lambda name: None)
    result = language_statistics(["clear lungs"], ["clear lungs"])
    assert len(result.notes) == 1 and "Java" in result.notes[0]
    got = language_from_sums(result.statistics.sum(dim=0))
    assert got["meteor"].isnan() and got["rouge_l"].item() == pytest.approx(1.0)


@needs_coco
@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR needs Java")
def test_identical_reports_reach_one():
    got = language_from_sums(
        language_statistics(["the heart is normal"], ["the heart is normal"]).statistics.sum(dim=0)
    )
    assert got["meteor"].item() == pytest.approx(1.0) and got["bleu_4"].item() == pytest.approx(1.0, abs=1e-6)


@needs_coco
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None or sys.platform != "linux", reason="needs Java on Linux")
def test_java_ends_with_a_command_that_is_killed():
    """In the midst of a text that it is busy with for ever."""
    code = (
        "from mrg_grpo.evaluation.language import meteor_scorer; scorer = meteor_scorer(); scorer._stat('a', ['b']);"
        "print(scorer.meteor_p.pid, flush=True); scorer._stat('effusion ' * 3000, ['effusion ' * 3000])"
    )
    command = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    java = int(command.stdout.readline())
    assert Path(f"/proc/{java}/cmdline").read_bytes().startswith(b"java")
    time.sleep(1)
    command.kill()
    command.wait()
    end = time.monotonic() + 10
    while Path(f"/proc/{java}/stat").exists() and Path(f"/proc/{java}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < end, "Java goes on alone"
        time.sleep(0.05)


def test_without_pycocoevalcap(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pycocoevalcap.bleu.bleu_scorer", None)
    with pytest.raises(UserError, match=r"pip install -c constraints.txt -e '\.\[eval\]'"):
        language_statistics(["a"], ["a"])


def r2gen_iu(report):
    """The order of R2Gen's replacements for IU X-Ray, one by one."""
    for old, new in [("..", ".")] * 3 + [("1. ", "")] + [(f". {n}. ", ". ") for n in "2345"]:
        report = report.replace(old, new)
    for n in "2345":
        report = report.replace(f" {n}. ", ". ")
    sentences = []
    for sentence in report.strip().lower().split(". "):
        for character in ('"', "/", "\\", "'"):
            sentence = sentence.replace(character, "")
        sentences.append("".join(c for c in sentence.strip() if c not in ".,?;*!%^&_+()[]{}" and not ":" <= c <= "["))
    return " . ".join(sentences) + " ."


def test_r2gen_cleaning():
    report = (
        '1. Heart size: NORMAL... 2. No effusion, (left) 3. well-expanded lungs/bases. XXXX-year "old" opacity; 5 mm?'
    )
    assert clean_r2gen(report) == r2gen_iu(report)
    assert clean_r2gen("The heart is normal. No focal disease.") == "the heart is normal . no focal disease ."
    assert "well-expanded" in clean_r2gen(report)  # hyphens stay
    rng = random.Random(0)
    pieces = [
        "1. ",
        "2. ",
        "3. ",
        "..",
        ". ",
        "No edema",
        " heart's",
        ", ",
        "(mild)",
        " AP/PA ",
        ":",
        "-",
        '"x"',
        " 5. ",
    ]
    for _ in range(300):
        text = "".join(rng.choices(pieces, k=12))
        assert clean_r2gen(text) == r2gen_iu(text)
    mimic = clean_r2gen("FINDINGS:\n The ____ lungs   are clear..... 2. No\neffusion.", mimic=True)
    assert mimic == "findings the  lungs are clear . no effusion ."
    assert re.fullmatch(r"[^A-Z,?()]*", mimic)


def test_r2gen_truncates_references_alone():
    text = " ".join(["word"] * 200)
    assert len(prepare([text], "r2gen")[0].split()) == 201  # with its full stop
    assert len(prepare([text], "r2gen", is_reference=True)[0].split()) == 59
    assert len(prepare([text], "r2gen_mimic", is_reference=True)[0].split()) == 99
    assert prepare(["A  b.\nC"], "raw", is_reference=True) == ["A b. C"]
    with pytest.raises(UserError, match="language mode"):
        prepare([text], "lower")


def test_threads_do_not_write_to_meteors_one_process_at_once(monkeypatch):
    """Ablations run side by side in threads: each must get the answers to its own reports."""
    inside, met = [0], []

    class Scorer:
        def _stat(self, generated, references):
            inside[0] += 1
            met.append(inside[0])
            time.sleep(0.001)
            inside[0] -= 1
            return " ".join([str(len(generated))] * 23)

    monkeypatch.setattr(language, "meteor_scorer", Scorer)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: language._meteor_statistics(["x" * n] * 20, ["y"] * 20), range(1, 5)))
    assert max(met) == 1
    assert [float(one[0, 0]) for one in found] == [1.0, 2.0, 3.0, 4.0]

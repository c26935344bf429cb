"""Language metrics by pycocoevalcap (extra `eval`): BLEU-1 to 4, METEOR, ROUGE-L, CIDEr, each with an interval.

As with the clinical metrics, each study yields additive statistics (S, K) and a metric is a function of their sum, so
corpus BLEU and corpus METEOR are resampled exactly, not as means of per-study scores. Counting, stemming and matching
are pycocoevalcap's own; only the last formula is here, and tests hold it to pycocoevalcap's corpus value. ROUGE-L is
that of the reward: pycocoevalcap keeps a table of as many cells as the product of both lengths.

Deliberate choices
* Scorers get the text as it is, without the PTB tokenizer, as R2Gen and its many descendants call them.
* `raw` only joins white space. `r2gen` and `r2gen_mimic` clean both sides as R2Gen's tokenizers do and cut references
  to 60 or 100 ids; the start id is one of them, so 59 or 99 words stay. Words that R2Gen's vocabulary would turn into
  <unk> are kept: its vocabulary is made from a training set that is not here.
* METEOR runs in Java. Without Java it is left out, with one line that says so. Its process ends with ours, and it has
  METEOR_SECONDS for a report: its time grows with the square of the length and more, of one repeated word without end.
* CIDEr's document frequencies come from all references scored, and stay fixed in resampling.
"""

import contextlib
import functools
import importlib
import io
import math
import os
import re
import shutil
import threading
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mrg_grpo.errors import UserError, time_limit
from mrg_grpo.rewards.nlg import rouge_l_of_words
from mrg_grpo.run.process import end_with_parent

MODES = ("raw", "r2gen", "r2gen_mimic")
R2GEN_IDS = {"r2gen": 60, "r2gen_mimic": 100}
"""R2Gen's max_seq_length: IU X-Ray and MIMIC-CXR."""

COLUMNS = {
    "correct": slice(0, 4),  # n-grams in common, n = 1 to 4
    "guess": slice(4, 8),  # n-grams generated
    "length": slice(8, 10),  # words generated, words of the reference
    "rouge_l": slice(10, 11),
    "cider": slice(11, 12),
    "studies": slice(12, 13),
    "meteor": slice(13, 36),  # the 23 statistics of METEOR 1.5
    "with_meteor": slice(36, 37),
}
"""Where each statistic lies along K."""

# METEOR 1.5, English, task "rank" (Denkowski and Lavie 2014): weights of exact, stem, synonym and paraphrase matches
METEOR_WEIGHTS = (1.0, 0.6, 0.8, 0.6)
METEOR_ALPHA, METEOR_BETA, METEOR_GAMMA, METEOR_DELTA = 0.85, 0.2, 0.6, 0.75

METEOR_SECONDS = 60
"""For one report; one of 8,000 characters, and as many in its reference, takes five."""
NO_JAVA = "METEOR is left out: it needs Java, and no `java` is on the path"


@dataclass
class LanguageStatistics:
    """Per-study statistics (S, K) float64, and lines for the reader."""

    statistics: Tensor
    notes: list[str]


def language_statistics(generated: list[str], reference: list[str], mode: str = "raw") -> LanguageStatistics:
    """S reports and their references -> additive statistics. mode: one of MODES.

    Raises UserError where pycocoevalcap is not installed or the mode is not known.
    """
    if len(generated) != len(reference):
        raise ValueError(f"{len(generated)} reports and {len(reference)} references")
    ours, theirs = prepare(generated, mode), prepare(reference, mode, is_reference=True)
    bleu, cider = (_import(name) for name in ("bleu.bleu_scorer", "cider.cider"))
    table = torch.zeros(len(ours), 37, dtype=torch.float64)
    table[:, COLUMNS["studies"]] = 1
    for row, (a, b) in enumerate(zip(ours, theirs)):
        counts = bleu.BleuScorer(a, [b], n=4).ctest[0]
        table[row, :10] = torch.tensor([*counts["correct"], *counts["guess"], counts["testlen"], counts["reflen"][0]])
        table[row, COLUMNS["rouge_l"]] = rouge_l_of_words(a.split(" "), b.split(" "))
    if ours:
        scores = cider.Cider().compute_score(dict(enumerate([b] for b in theirs)), dict(enumerate([a] for a in ours)))[
            1
        ]
        table[:, COLUMNS["cider"]] = torch.as_tensor(scores, dtype=torch.float64).unsqueeze(1)
    if shutil.which("java") is None:
        return LanguageStatistics(table, [NO_JAVA])
    table[:, COLUMNS["meteor"]] = _meteor_statistics(ours, theirs)
    table[:, COLUMNS["with_meteor"]] = 1
    return LanguageStatistics(table, [])


def language_from_sums(sums: Tensor) -> dict[str, Tensor]:
    """Summed statistics (..., K) -> bleu_1 to bleu_4, meteor (NaN without Java), rouge_l, cider, each (...,)."""
    at = {name: sums[..., column] for name, column in COLUMNS.items()}
    # BLEU as pycocoevalcap writes it, with its two small numbers against 0 / 0
    precision = (at["correct"] + 1e-15) / (at["guess"] + 1e-9)  # (..., 4)
    ratio = (at["length"][..., 0] + 1e-15) / (at["length"][..., 1] + 1e-9)
    brevity = torch.where(ratio < 1, torch.exp(1 - 1 / ratio), 1.0)
    logs = precision.log().cumsum(dim=-1)
    metrics = {f"bleu_{n}": brevity * torch.exp(logs[..., n - 1] / n) for n in (1, 2, 3, 4)}
    present = at["with_meteor"][..., 0] > 0
    metrics["meteor"] = torch.where(present, _meteor(at["meteor"]), torch.nan)
    for name in ("rouge_l", "cider"):
        metrics[name] = at[name][..., 0] / at["studies"][..., 0]
    return metrics


def prepare(texts: list[str], mode: str, is_reference: bool = False) -> list[str]:
    """Texts as the scorers get them in this mode."""
    if mode not in MODES:
        raise UserError(f'language mode "{mode}" is not one of {", ".join(MODES)}')
    if mode == "raw":
        return [" ".join(text.split()) for text in texts]
    cleaned = [clean_r2gen(text, mimic=mode == "r2gen_mimic").split() for text in texts]
    if is_reference:
        cleaned = [words[: R2GEN_IDS[mode] - 1] for words in cleaned]
    return [" ".join(words) for words in cleaned]


def clean_r2gen(report: str, mimic: bool = False) -> str:
    """R2Gen's report cleaning (modules/tokenizers.py): lower case, list numbers and punctuation off, " . " at the ends.

    Its character class runs from ":" to "[", so colons, semicolons, question marks and "@" go and hyphens stay.
    """
    if mimic:
        report = re.sub(" {2,}", " ", re.sub("_{2,}", "_", report.replace("\n", " ")))
    report = re.sub(r"\.{2,}", ".", report) if mimic else _replace(report, ("..", "."), times=3)
    report = report.replace("1. ", "")
    for number in "2345":
        report = report.replace(f". {number}. ", ". ")
    for number in "2345":
        report = report.replace(f" {number}. ", ". ")
    sentences = report.strip().lower().split(". ")
    return " . ".join(_clean_sentence(sentence) for sentence in sentences) + " ."


def _clean_sentence(sentence: str) -> str:
    for character in "\"/\\'":
        sentence = sentence.replace(character, "")
    return re.sub(r"[.,?;*!%^&_+():-\[\]{}]", "", sentence.strip().lower())


def _replace(text: str, pair: tuple[str, str], times: int) -> str:
    for _ in range(times):
        text = text.replace(*pair)
    return text


def _meteor(stats: Tensor) -> Tensor:
    """METEOR 1.5 of its summed statistics (..., 23).

    They are: words and function words of test and reference; for each of four matchers the content and function words
    matched in test and in reference; chunks, matched words of the test, matched words of the reference.
    """
    test, ref, test_function, ref_function = stats[..., :4].unbind(dim=-1)
    matched = stats[..., 4:20].reshape(*stats.shape[:-1], 4, 4)  # (..., matcher, content or function x test or ref)
    weighted = (matched * torch.tensor(METEOR_WEIGHTS).to(stats).unsqueeze(1)).sum(dim=-2)  # (..., 4)
    chunks, test_matched, ref_matched = stats[..., 20:].unbind(dim=-1)

    def share(content: Tensor, function: Tensor, words: Tensor, function_words: Tensor) -> Tensor:
        delta = METEOR_DELTA
        whole = delta * (words - function_words) + (1 - delta) * function_words
        return (delta * content + (1 - delta) * function) / whole.clamp(min=1e-12)

    precision = share(weighted[..., 0], weighted[..., 2], test, test_function)
    recall = share(weighted[..., 1], weighted[..., 3], ref, ref_function)
    mean = precision * recall / (METEOR_ALPHA * precision + (1 - METEOR_ALPHA) * recall).clamp(min=1e-12)
    fragments = chunks / ((test_matched + ref_matched) / 2).clamp(min=1e-12)
    return mean * (1 - METEOR_GAMMA * fragments**METEOR_BETA)


@functools.cache
def meteor_scorer() -> Any:
    """pycocoevalcap's METEOR: one Java process for the whole run, since its tables take seconds to load."""
    theirs: Any = _import("meteor.meteor")

    class Meteor(theirs.Meteor):
        """The same, but that it ends with this process, and that no one has to read its log."""

        def __init__(self) -> None:
            self.lock = threading.Lock()
            pipe = theirs.subprocess.PIPE
            self.meteor_p = theirs.subprocess.Popen(
                ["java", "-jar", "-Xmx2G", theirs.METEOR_JAR, "-", "-", "-stdio", "-l", "en", "-norm"],
                cwd=os.path.dirname(theirs.__file__),
                stdin=pipe,
                stdout=pipe,
                stderr=theirs.subprocess.DEVNULL,
                preexec_fn=end_with_parent,
            )

    return Meteor()


ONE_AT_A_TIME = threading.Lock()
"""METEOR's process answers line by line: two threads at once would get each other's answers, or wait for ever."""


def _meteor_statistics(generated: list[str], reference: list[str]) -> Tensor:
    with ONE_AT_A_TIME:
        return _asked_of_meteor(generated, reference)


def _asked_of_meteor(generated: list[str], reference: list[str]) -> Tensor:
    scorer = meteor_scorer()
    rows = []
    for number, (a, b) in enumerate(zip(generated, reference), start=1):
        gave_up = UserError(
            f"METEOR gave up on report {number}, of {len(a):,} characters, its reference of {len(b):,}; shorten them, "
            "or leave language metrics out with --language none"
        )
        try:
            with time_limit(METEOR_SECONDS, gave_up):
                rows.append([float(value) for value in scorer._stat(a, [b.replace("|||", "")]).split()])
            if len(rows[-1]) != 23 or not all(math.isfinite(value) for value in rows[-1]):
                raise gave_up  # its process has ended, without memory for them
        except (UserError, OSError, ValueError):
            meteor_scorer.cache_clear()
            scorer.meteor_p.kill()
            raise gave_up from None
    stats = torch.tensor(rows, dtype=torch.float64).reshape(-1, 23)
    chunks, test_matched, ref_matched = stats[:, 20:].unbind(dim=1)
    identical = (chunks == 1) & (test_matched == stats[:, 0]) & (ref_matched == stats[:, 1])
    stats[identical, 20] = 0  # METEOR counts no fragment for a report that matches from end to end
    return stats


def _import(name: str) -> ModuleType:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return importlib.import_module(f"pycocoevalcap.{name}")
    except ImportError as error:
        raise UserError(
            f"language metrics need pycocoevalcap ({error}): .venv/bin/pip install -c constraints.txt -e '.[eval]', "
            "or use --language none"
        ) from error

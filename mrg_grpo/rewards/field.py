"""Rewards of the field: radiology metrics that reward.weights can name, computed by RadEval (extra `radeval`).

Each is a metric's value for one report against its reference, turned so that more is better. A term loads its models at
its first report, once in a process whoever asks, beside the labeler. RadEval's published costs are in FIELD, to be seen
before a run; its release 2.2.1 is what the keys and the downloads here were read from.

A report without a word earns `empty`, one whose reference has none has no value; neither is handed over: RaTEScore
would pay it 0.5 or move all scores after it. Else the rules of rewards by dotted path hold: None adds nothing, NaN ends
the run.
"""

import contextlib
import importlib
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from transformers.utils.hub import is_offline_mode

from mrg_grpo.errors import UserError, one_line
from mrg_grpo.rewards.external import ANYTHING, state_kept

WORD = re.compile(r"\w{3}")


@dataclass(frozen=True)
class Download:
    """A file of the hub, by which a whole checkpoint is known to be there."""

    repo: str
    file: str = "config.json"
    cache: str = ""
    """The folder below the user's cache that RadEval keeps it in; "" is the hub's own."""

    @property
    def absent(self) -> list[str]:
        """Commands that fetch what is not on this machine, for one that reaches the hub."""
        if self.repo == "nltk":
            try:
                importlib.import_module("nltk").data.find(f"tokenizers/{self.file}")
            except LookupError:
                return [f"python -m nltk.downloader {self.file}"]
            return []
        from huggingface_hub import try_to_load_from_cache

        first, *rest = self.cache.split("/")  # RadEval asks appdirs for the user's cache: it is not ~/.cache everywhere
        folder = Path(importlib.import_module("appdirs").user_cache_dir(first), *rest) if first else None
        unpacked = folder / self.file.removesuffix(".tar.gz") / "config.json" if folder else Path()
        if unpacked.is_file():  # an archive of RadGraph; its encoder lies on the hub
            named = json.loads(unpacked.read_text(encoding="utf-8"))["model"]["embedder"]["token_embedders"]["bert"]
            return Download(named["model_name"]).absent
        if isinstance(try_to_load_from_cache(self.repo, self.file, cache_dir=folder), str):
            return []
        return [f"hf download {self.repo}" + (f" {self.file} --cache-dir {folder}" if folder else "")]


@dataclass(frozen=True)
class Metric:
    """What is known of a metric before it is loaded."""

    radeval: str
    """RadEval's name of it."""
    key: str
    """Of the value per report, in what RadEval returns."""
    pays_for: str
    milliseconds: float
    """Per report, by RadEval on an A100: 20 texts of 8 to 15 tokens, so real reports cost more."""
    memory: str
    """On the GPU, by the same table."""
    downloads: tuple[Download, ...]
    packages: tuple[str, ...] = ()
    """What RadEval imports for it beyond what every metric needs."""
    rises: bool = True
    """False where a lower value is the better report: the reward is then minus the value."""
    range: str = "0 to 1"
    empty: float = 0.0
    """What a report without a word earns."""


SCORERS = "StanfordAIMI/RRG_scorers"
RADGRAPH = ("dotmap", "appdirs", "h5py", "jsonpickle", "nltk")
RADGRAPH_CACHE = "radgraph/0.1.18"
BERT = Download("bert-base-uncased")

FIELD: dict[str, Metric] = {
    "radgraph": Metric(
        "radgraph",
        "radgraph_partial",
        "F1 of the entities and of whether they have relations, by RadGraph-XL",
        157.79,
        "0.9 GB",
        (Download(SCORERS, "radgraph-xl.tar.gz", RADGRAPH_CACHE),),
        RADGRAPH,
    ),
    "ratescore": Metric(
        "ratescore",
        "ratescore",
        "entities alike in meaning, denials apart; 0.5 where either text has none",
        52.98,
        "1.1 GB",
        (Download("Angelakeke/RaTE-NER-Deberta"), Download("FremyCompany/BioLORD-2023-C")),
        ("medspacy", "pandas"),
    ),
    "radcliq": Metric(
        "radcliq",
        "radcliq_v1",
        "the errors that radiologists would count, from RadGraph, BERTScore and CheXbert; a lower RadCliQ-v1 is better",
        161.13,
        "1.2 GB",
        (
            Download(SCORERS, "radgraph.tar.gz", RADGRAPH_CACHE),
            Download(SCORERS, "chexbert.pth", "chexbert"),
            BERT,
            Download("distilroberta-base"),
        ),
        (*RADGRAPH, "pandas", "sklearn"),
        rises=False,
        range="about -2.5 to 1.4",
        empty=-2.45,  # minus RadCliQ of a report whose four parts are all 0
    ),
    "green": Metric(
        "green",
        "green",
        "matched findings over those and the significant errors, counted by a language model of 7B",
        2210.0,
        "14 GB",
        (Download("StanfordAIMI/GREEN-radllama2-7b"),),
        ("datasets", "pandas", "accelerate"),
    ),
    "bertscore": Metric(
        "bertscore",
        "bertscore",
        "words alike in context (distilbert-base-uncased, layer 5, rescaled)",
        0.64,
        "0.3 GB",
        (Download("distilbert-base-uncased"),),
        ("pandas",),
        range="about 0 to 1",
    ),
    "srr_bert": Metric(
        "srrbert",
        "srrbert_weighted_f1",
        "findings with status that both texts have, of those that either has (SRR-BERT, 55 findings)",
        4.97,
        "0.4 GB",
        (
            Download("StanfordAIMI/SRR-BERT-Leaves-with-Statuses"),
            Download("microsoft/BiomedVLP-CXR-BERT-general", "vocab.txt"),
            Download("nltk", "punkt_tab"),
        ),
        ("nltk", "sklearn"),
    ),
}


def require(name: str) -> None:
    """RadEval is installed for this metric and, where the hub is switched off, its checkpoints are here. UserError."""
    metric, term = FIELD[name], f'reward.weights: "{name}"'
    for package in ("radeval", *metric.packages):
        try:
            with state_kept(), _quiet():
                importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise UserError(f'{term} needs {error.name}, not installed: pip install "mrg_grpo[radeval]"') from error
        except ANYTHING as error:  # importing runs foreign code
            remedy = 'pip install "spacy>=3.8"' if package == "medspacy" else f"mend {package}"
            raise UserError(f"{term}: cannot import {package} ({one_line(error)[:200]}); {remedy}") from error
    absent = [command for one in metric.downloads for command in one.absent] if is_offline_mode() else []
    if absent:
        raise UserError(f"{term}: the hub is switched off and the cache lacks a model; get it: {' && '.join(absent)}")
    if name == "green" and torch.cuda.device_count() > 1:
        raise UserError(f"{term} starts anew on every GPU at each step; let the run see one, by CUDA_VISIBLE_DEVICES")


def scorer(name: str, device: torch.device) -> Callable[[list[str], list[str]], list[float | None]]:
    """reports, reference -> one reward each. Nothing is loaded before the first call."""
    return partial(_scored, name, device)


def seconds(names: list[str], reports: int) -> float:
    """What those of the names that are of the field cost for so many reports, by RadEval's figures."""
    return sum(FIELD[name].milliseconds for name in names if name in FIELD) * reports / 1000


def _scored(name: str, device: torch.device, reports: list[str], reference: list[str]) -> list[float | None]:
    metric = FIELD[name]
    values: list[float | None] = [metric.empty if WORD.search(text) else None for text in reference]
    rows = [i for i, (text, truth) in enumerate(zip(reports, reference)) if WORD.search(text) and WORD.search(truth)]
    with _quiet(), torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        found = _loaded(name)([reports[i] for i in rows], [reference[i] for i in rows]) if rows else []
    if len(found) != len(rows):
        raise ValueError(f"RadEval's {metric.radeval} returned {len(found)} values for {len(rows)} reports")
    for row, value in zip(rows, found):
        values[row] = value if value is None or metric.rises else -value
    return values


@cache
def _loaded(name: str) -> Callable[[list[str], list[str]], list[float | None]]:
    """The metric with its models: one in a process."""
    import radeval

    # release 2.2.1 calls itself RadEval within its copy of RadGraph, which only a file system without case forgives
    sys.modules.setdefault("RadEval", radeval)
    metric = FIELD[name]
    function = radeval.make_reward_fn(metric.radeval, reference_column="reference", key=metric.key)
    kept: list[list[str]] = []

    def values(reports: list[str], reference: list[str]) -> list[float | None]:
        # RadCliQ weighs words by how few references have them. One reference alone would weigh all its words 0, and a
        # list at the address of the last would be taken for that
        more = ["x"] if name == "radcliq" and len(set(reference)) == 1 else []
        kept.append(reference + more)
        del kept[:-2]
        return function(completions=reports + more, reference=kept[-1])[: len(reports)]

    return values


def _quiet() -> contextlib.AbstractContextManager:
    """Within: what is printed goes where it spoils no output that a program reads."""
    return contextlib.redirect_stdout(sys.stderr)

"""Which sentence of a report carries which finding, asked of the labeler itself.

No keyword list: a report is labelled whole, without each of its sentences, and each sentence alone. Condition c has
label y in the whole report. Two sets of sentences are then looked at:

    needed      without the sentence the label of c is no longer y
    sufficient  the sentence alone has label y for c

c is carried by the sentences that are both; where none is both, by the needed ones that name c at all (alone they have
some label for it, such as "uncertain" where the whole says "positive"); where none does, by the needed ones (a sentence
that only means something in its context); where none is needed, by the sufficient ones (two sentences state the same
finding, so either can go). Where both sets are empty the label rests on no single sentence: c is `unplaced`.

Deliberate choices: the 13 conditions of the signed vector, not No Finding, which no sentence states. All texts of all
reports go to the labeler at once, which labels equal texts once and batches the rest by length. A text is looked at as
far as the labeler reads, which is never beyond as many words as it reads tokens: else the work on a text grew with the
square of its length. Results are kept by content hash of labeler and text, in memory and in a file if one is given: it
holds no text.
"""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from mrg_grpo.errors import UserError
from mrg_grpo.files import write_whole
from mrg_grpo.labelers.chexbert import MAX_TOKENS
from mrg_grpo.labels import BLANK, CONDITIONS

Span = tuple[int, int]
RULE = b"3"
"""Raise it when `carriers`, the sentence break or the reach changes: what was kept by an older rule then no longer
counts."""
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class Sentence:
    """Characters [start, end) of the report, and the conditions that the labeler reads from them."""

    start: int
    end: int
    signs: dict[str, int]  # condition -> class id (1 positive, 2 negative, 3 uncertain), in the order of CONDITIONS


@dataclass(frozen=True)
class Attribution:
    """One report as its labeler reads it."""

    labels: tuple[int, ...]  # (14,) class ids of the whole report
    sentences: tuple[Sentence, ...]
    unplaced: tuple[str, ...]  # conditions with a label that rests on no single sentence


class Attributor:
    """reports -> Attribution each; equal reports are looked at once, in this process and, with a file, for good."""

    def __init__(self, labeler, file: str | Path | None = None) -> None:
        self.labeler, self.file = labeler, Path(file) if file else None
        self.mark = _fingerprint(labeler)
        self.known: dict[str, Attribution] = _kept(self.file)

    def __call__(self, reports: list[str]) -> list[Attribution]:
        keys = [hashlib.sha256(self.mark + report.encode()).hexdigest() for report in reports]
        new = {key: report for key, report in zip(keys, reports) if key not in self.known}
        if new:
            self.known.update(zip(new, attribute(self.labeler, list(new.values()))))
            self._write()
        return [self.known[key] for key in keys]

    def _write(self) -> None:
        if self.file is None:
            return
        records = {
            key: [a.labels, [(s.start, s.end, s.signs) for s in a.sentences], a.unplaced]
            for key, a in self.known.items()
        }
        with suppress(UserError):  # a folder that may only be read: the file saves time, no more
            write_whole(self.file, json.dumps(records))


def attribute(labeler, reports: list[str]) -> list[Attribution]:
    """B reports -> B attributions, by one call of `labeler.label`."""
    spans = [sentence_spans(report) for report in reports]
    texts: list[str] = []
    for report, own in zip(reports, spans):
        words = [report[start:end].split()[:MAX_TOKENS] for start, end in own]
        own[_read(words) :] = []
        texts.append(_without(words))
        texts += [_without(words, i) for i in range(len(own))]
        texts += [" ".join(words[i]) for i in range(len(own))]
    labels = labeler.label(texts).tolist() if texts else []
    found, at = [], 0
    for own in spans:
        whole, rest, alone = at, at + 1, at + 1 + len(own)
        at = alone + len(own)
        found.append(_place(own, labels[whole], labels[rest:alone], labels[alone:at]))
    return found


def sentence_spans(report: str) -> list[Span]:
    """[start, end) of each sentence, without the white space around it; a full stop inside a number ends none."""
    cuts = [0]
    for match in _SPACE.finditer(report):
        if "\n" in match.group() or report[match.start() - 1 : match.start()] in tuple(".;!?"):
            cuts += [match.start(), match.end()]
    cuts.append(len(report))
    spans = []
    for start, end in zip(cuts[::2], cuts[1::2]):
        inner = report[start:end]
        if inner.strip():
            spans.append((start + len(inner) - len(inner.lstrip()), end - len(inner) + len(inner.rstrip())))
    return spans


def carriers(label: int, without: list[int], alone: list[int]) -> list[int]:
    """Sentences that carry a condition: its label in the whole report, without each sentence, in each alone."""
    needed = [i for i, other in enumerate(without) if other != label]
    sufficient = [i for i, other in enumerate(alone) if other == label]
    both = [i for i in needed if i in sufficient]
    naming = [i for i in needed if alone[i] != BLANK]
    return both or naming or needed or sufficient


def _place(spans: list[Span], whole: list[int], without: list[list[int]], alone: list[list[int]]) -> Attribution:
    signs: list[dict[str, int]] = [{} for _ in spans]
    unplaced = []
    for c, name in enumerate(CONDITIONS[:13]):
        if whole[c] == BLANK:
            continue
        rows = carriers(whole[c], [row[c] for row in without], [row[c] for row in alone])
        for i in rows:
            signs[i][name] = whole[c]
        if not rows:
            unplaced.append(name)
    sentences = tuple(Sentence(start, end, sign) for (start, end), sign in zip(spans, signs))
    return Attribution(tuple(whole), sentences, tuple(unplaced))


def _read(words: list[list[str]]) -> int:
    """How many sentences begin within what a labeler reads; words: of each."""
    before = 0
    for place, own in enumerate(words):
        if before >= MAX_TOKENS:
            return place
        before += len(own)
    return len(words)


def _without(words: list[list[str]], gone: int | None = None) -> str:
    """The text, without one sentence where one is named, as far as a labeler reads; words: of each."""
    others = (own for i, own in enumerate(words) if i != gone)
    return " ".join(islice(chain.from_iterable(others), MAX_TOKENS))


def _fingerprint(labeler) -> bytes:
    """Tells one labeler from another: its heads differ wherever any training step lies between them."""
    digest = hashlib.sha256(RULE)
    for parameter in labeler.net.linear_heads.parameters():
        digest.update(parameter.detach().cpu().numpy().tobytes())
    return digest.digest()


def _kept(file: Path | None) -> dict[str, Attribution]:
    """What an earlier call has kept. A file that is cut short or of another form is begun anew: it only saves time."""
    if file is None or not file.is_file():
        return {}
    try:
        return {
            key: Attribution(tuple(labels), tuple(Sentence(*sentence) for sentence in sentences), tuple(unplaced))
            for key, (labels, sentences, unplaced) in json.loads(file.read_text(encoding="utf-8")).items()
        }
    except (ValueError, TypeError, AttributeError, KeyError):
        return {}

"""What the references alone would score: four systems that never look at an image. No result means much without them.

    all_normal       one normal report for every study: the most frequent training report with No Finding and with
                     nothing positive or uncertain
    most_frequent    the most frequent training report, whatever it says
    random           a random training report for each study (seeded)
    nearest          for each study the training report whose labels are nearest to the reference's: an oracle that has
                     read the reference, the ceiling of retrieval by labels

Nearest is by the clinical cosine (that of MCCS), ties by the number of equal classes among the 14, then by order.
S studies, T training reports.
"""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from mrg_grpo.labels import CONDITIONS, POSITIVE, UNCERTAIN
from mrg_grpo.rewards.mccs import signed_vectors

NO_FINDING = CONDITIONS.index("No Finding")
CHUNK_CELLS = 8_000_000
"""Cells of one (studies x training reports) matrix: 64 MB in float64."""


@dataclass(frozen=True)
class Baseline:
    """The report it gives each of S studies, and their class ids (S, 14)."""

    reports: list[str]
    labels: Tensor


def baselines_from_labels(
    reports: list[str], labels: Tensor, reference: Tensor, seed: int = 0, leave_one_out: bool = False
) -> dict[str, Baseline]:
    """T reports with class ids (T, 14), and the references' class ids (S, 14) -> the baselines by name.

    leave_one_out: the reports are the references themselves, where no training split is at hand; a study is then never
    given its own report by `random` and `nearest`. all_normal is left out where no report is normal.
    """
    labels, reference = labels.cpu(), reference.cpu()
    studies, total = len(reference), len(reports)
    if total == 0 or (leave_one_out and total < 2):
        raise ValueError("baselines need reports to choose from")
    finding = ((labels[:, :13] == POSITIVE) | (labels[:, :13] == UNCERTAIN)).any(dim=1)
    normal = ((labels[:, NO_FINDING] == POSITIVE) & ~finding).tolist()
    chosen = {"most_frequent": torch.full((studies,), _most_frequent(reports, [True] * total))}
    if any(normal):
        chosen = {"all_normal": torch.full((studies,), _most_frequent(reports, normal)), **chosen}
    generator = torch.Generator().manual_seed(seed)
    if leave_one_out:
        step = torch.randint(1, total, (studies,), generator=generator)
        chosen["random"] = (torch.arange(studies) + step) % total
    else:
        chosen["random"] = torch.randint(0, total, (studies,), generator=generator)
    chosen["nearest"] = nearest(labels, reference, leave_one_out)
    return {name: Baseline([reports[i] for i in rows.tolist()], labels[rows]) for name, rows in chosen.items()}


def nearest(labels: Tensor, reference: Tensor, leave_one_out: bool = False) -> Tensor:
    """Class ids (T, 14) and (S, 14) -> for each of the S the row of the nearest of the T, (S,).

    Of equal rows the first alone can be the answer, or the second where the first is the study itself: so distinct rows
    are compared with distinct rows, of which 16,000 reports have far fewer.
    """
    kept = _first_two(labels)
    own = torch.full((len(reference), 1), -1)  # the place among those kept that is the study itself
    if leave_one_out:
        own[kept, 0] = torch.arange(len(kept))
    asked, back = torch.unique(torch.cat([reference.long(), own], dim=1), dim=0, return_inverse=True)
    vectors, classes = _unit(labels[kept]), _one_hot(labels[kept])
    silent = (vectors == 0).all(dim=1).double()  # two empty vectors agree: cosine 1
    rows = max(1, CHUNK_CELLS // len(kept))
    found = []
    for start in range(0, len(asked), rows):
        part, itself = asked[start : start + rows].split((labels.shape[1], 1), dim=1)
        unit = _unit(part)
        cosine = unit @ vectors.T + (unit == 0).all(dim=1).double().unsqueeze(1) * silent  # (rows, kept)
        # whole numbers, so that rounding breaks no tie: distinct cosines of 13 signs lie further apart than a millionth
        score = (cosine * 1e6).round_().mul_(64).add_(_one_hot(part) @ classes.T)
        score[torch.arange(len(kept)) == itself] = -torch.inf
        found.append(score.argmax(dim=1))
    return kept[torch.cat(found)[back]]


def _first_two(rows: Tensor) -> Tensor:
    """Places, in order, of the first two of each distinct row (T, C)."""
    _, kind = torch.unique(rows, dim=0, return_inverse=True)
    kind, order = kind.sort(stable=True)
    first = torch.cat([torch.ones(1, dtype=torch.bool), kind[1:] != kind[:-1]])
    second = torch.cat([torch.zeros(1, dtype=torch.bool), first[:-1]])
    return order[first | second].sort().values


def _unit(labels: Tensor) -> Tensor:
    vectors = signed_vectors(labels).double()
    return vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-12)


def _one_hot(labels: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(labels.long(), 4).flatten(1).double()  # (..., 56)


def _most_frequent(reports: list[str], allowed: list[bool]) -> int:
    """Place of the first copy of the report that comes most often; white space does not count."""
    counts: Counter[str] = Counter()
    first: dict[str, int] = {}
    for place, report in enumerate(reports):
        if allowed[place] and report.strip():
            text = " ".join(report.split())
            counts[text] += 1
            first.setdefault(text, place)
    return first[counts.most_common(1)[0][0]] if counts else 0

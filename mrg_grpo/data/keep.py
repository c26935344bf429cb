"""Training studies that teach: `data.keep` chosen from the file of `mrg-grpo probe`.

    {"probe": {...}}                                       what it was made with
    {"study_id": "s1", "mean": {"reward": 0.4, "mccs": 0.2}, "spread": {"reward": 0.1, "mccs": 0.1}}

Means and sample standard deviations over the G reports of a study, of the whole reward and of each term.
"""

import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mrg_grpo.config import Config
from mrg_grpo.data.records import first_names
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError, first_line
from mrg_grpo.files import read_text

Probed = Mapping[str, Mapping[str, float | None]]
"""Of one study: "mean" and "spread" -> name of a term, or "reward" -> number."""
COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
CONDITION = re.compile(r"(mean|spread)(?:\.([^\s<>=]+))?\s*(>=|<=|>|<)\s*([0-9]*\.?[0-9]+(?:e-?[0-9]+)?)")
HELP = 'write for example "spread > 0.05", or "spread.mccs > 0 and mean < 0.9"'


@dataclass(frozen=True)
class Condition:
    """One comparison, such as spread.mccs > 0.05."""

    figure: str
    term: str
    sign: str
    limit: float

    def holds(self, probed: Probed) -> bool:
        """UserError for a term that the probe has not measured."""
        known = probed[self.figure]
        if self.term not in known:
            raise UserError(f"data.keep: the probe has no term {self.term!r}; it has {', '.join(known)}")
        value = known[self.term]
        return value is not None and COMPARE[self.sign](value, self.limit)


def conditions(rule: str) -> list[Condition]:
    """data.keep -> its conditions, all of which must hold; UserError for what is none."""
    found = []
    for part in rule.split(" and "):
        match = CONDITION.fullmatch(part.strip())
        if not match:
            raise UserError(f"data.keep: {part.strip()!r} is no condition; {HELP}")
        figure, term, sign, limit = match.groups()
        found.append(Condition(figure, term or "reward", sign, float(limit)))
    return found


def probe_path(config: Config) -> Path:
    """data.probe, or beside the run's folder."""
    return Path(config.data.probe or f"{config.run.output_dir.rstrip('/')}-probe.jsonl")


def read_probe(path: Path) -> tuple[dict[str, object], dict[str, Probed]]:
    """What a probe was made with, and study id -> what it measured; UserError where it is no whole file of a probe."""
    try:
        first, *lines = read_text(path).split("\n")
        made, rows = json.loads(first)["probe"], [json.loads(line) for line in lines if line]
        return dict(made), {
            str(row["study_id"]): {name: dict(row[name]) for name in ("mean", "spread")} for row in rows
        }
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there; make it by mrg-grpo probe, or name it in data.probe") from error
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise UserError(
            f"{path} is no whole file of a probe ({first_line(error)}); run mrg-grpo probe again, which goes on"
        ) from error


def kept(studies: Sequence[Study], config: Config) -> tuple[list[Study], list[str]]:
    """The training studies that data.keep chooses, and what to say of them. UserError where it chooses none."""
    rule, path = conditions(config.data.keep), probe_path(config)
    made, probed = read_probe(path)
    known = [study for study in studies if study.id in probed]
    chosen = [study for study in known if all(condition.holds(probed[study.id]) for condition in rule)]
    if not chosen:
        named = f"; ids of the probe look like {first_names(list(probed)[:2])}" if not known else ""
        raise UserError(
            f'data.keep "{config.data.keep}": none of {len(studies):,} training studies fits, of which {path} has '
            f"{len(known):,}{named}; lower the limit, or probe more of them"
        )
    notes = [
        f'data.keep "{config.data.keep}": {len(chosen):,} of {len(known):,} probed studies, of {len(studies):,} in the '
        "training split"
    ]
    other = [name for name, value in made_with(config).items() if made.get(name) != value]
    if other:
        notes.append(
            f"warning: {path} was made with other settings of {', '.join(other)}; its spreads may not hold here"
        )
    return chosen, notes


def made_with(config: Config) -> dict[str, object]:
    """The settings that decide what a probe finds."""
    return {
        "model.path": config.model.path,
        "model.adapter": config.model.adapter,
        "data.form": config.data.form,
        "data.sections": list(config.data.sections),
        "data.views": config.data.views,
        "prompt": vars(config.prompt),
        "labeler.path": config.labeler.path,
        "reward.weights": dict(config.reward.weights),
        "reward.mccs": vars(config.reward.mccs),
        "sampling.temperature": config.sampling.temperature,
        "sampling.max_tokens": config.sampling.max_tokens,
        "grpo.group_size": config.grpo.group_size,
        "run.seed": config.run.seed,
        **({"reward.clinical": vars(config.reward.clinical)} if config.reward.weights.get("clinical") else {}),
    }

"""Everything on the page as one typed tree, made from the records of a run and kept within the page's size.

Deliberate choices
* A page stays below 5 MB: groups and studies are chosen evenly over the run, never by merit, and the page says how many
  of how many it shows. Curves of long runs are means over equal stretches of steps.
* Of credentialed data (MIMIC-CXR), and where run.keep_text = false asks for it, there are numbers and labels on the
  page, no text and no picture.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from mrg_grpo import __version__
from mrg_grpo.data.credentialed import banner as credentialed
from mrg_grpo.data.records import first_names
from mrg_grpo.evaluation.clinical import TITLES
from mrg_grpo.labels import BLANK, CONDITIONS, NEGATIVE
from mrg_grpo.step_metrics import find
from mrg_grpo.view.cases import Attribute, Case, Pictures, colour, finite, group_case, series_case
from mrg_grpo.view.records import Record, Records

CODES = ("EC", "CM", "LO", "LL", "ED", "CO", "PN", "AT", "PX", "PE", "PO", "FX", "SD")
"""Two letters for each of the 13 conditions, in their order."""

MAX_SAMPLES, GROUP_BYTES = 1600, 2_400_000
MAX_STUDIES, STUDY_BYTES = 100, 800_000
MAX_POINTS = 400

SECTIONS = (
    ("Reward", ("reward",)),
    ("Learning", ("loss", "grad_norm", "kl", "clip_", "ratio", "entropy", "groups_without_spread", "zero_reward",
                  "sampling_gap", "advantage", "lr", "learning")),
    ("Reports", ("length", "tokens", "truncated", "mentioned", "uncertain", "think")),
    ("Time and memory", ("seconds", "memory")),
)  # fmt: skip
"""Where a curve stands, by how its name begins; what fits nowhere goes to the end, under "Other"."""
VALIDATION = "Validation"

Item = TypeVar("Item")


@dataclass
class Curve:
    name: str
    section: str
    steps: list[float]
    values: list[float | None]
    meaning: str = ""
    healthy: str = ""
    otherwise: str = ""
    chosen: int | None = field(
        default=None, kw_only=True
    )  # the step of the best adapter, in the curve of the metric that chose it


@dataclass
class Bar:
    """F1 of a condition on the test split, uncertain as positive, and its references that state it; without any there
    is no F1."""

    condition: str
    before: float | None
    after: float | None
    stated: int | None


@dataclass
class Page:
    title: str
    stamp: str
    refresh: int  # seconds between looks for a newer page; 0 for a page that will not change
    facts: list[tuple[str, str]]
    banner: str
    notes: list[str]
    conditions: list[str] = field(default_factory=lambda: list(CONDITIONS[:13]))
    codes: list[str] = field(default_factory=lambda: list(CODES))
    metric_titles: dict[str, str] = field(default_factory=lambda: dict(TITLES))
    top: list[str] = field(default_factory=list)  # sections of curves that stand before the reports
    curves: list[Curve] = field(default_factory=list)
    sides: dict[str, Any] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)
    groups: list[Case] = field(default_factory=list)
    tests: list[Case] = field(default_factory=list)
    followed: list[Case] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)


def build(records: Records, pictures: Pictures, attribute: Attribute | None, stamp: str, refresh: int = 0) -> Page:
    """Records -> Page; attribute None leaves the findings of the texts uncoloured."""
    config, notes = records.config, []
    if records.textless:
        records = without_texts(records)
    rendered = config.data.rendered
    pictures.begin(None if rendered else data_folder(config.data.root), rendered)
    rollouts = evenly(records.rollouts, MAX_SAMPLES // max(config.grpo.group_size, 1))
    chosen_best = records.evaluation.get("best", {})
    names = ["before", *(["best"] if "sides" in chosen_best else []), "after"]
    judged = joined([getattr(records, name) for name in names])
    chosen = evenly(judged, MAX_STUDIES)
    groups = [group_case(record, pictures, config.prompt.think) for record in rollouts]
    tests = [series_case(str(row[0]["study_id"]), list(zip(names, row)), pictures) for row in chosen]
    followed = [
        series_case(study, [(f"step {step}" if step else "start", record) for step, record in steps.items()], pictures)
        for study, steps in over_time(records.followed).items()
    ]
    if attribute is not None:
        changed = colour([*groups, *tests, *followed], attribute)
        if changed:
            notes.append(
                f"The labeler at hand reads {changed:,} of the texts otherwise than the run recorded: cells and "
                "rewards are the run's, colours in the texts are the labeler's of today."
            )
    groups, tests = within(groups, GROUP_BYTES), within(tests, STUDY_BYTES)
    for what, shown, all_ in (("sampled groups", groups, records.rollouts), ("test studies", tests, judged)):
        if len(shown) < len(all_):
            notes.append(f"{len(shown):,} of {len(all_):,} {what} are on this page, chosen evenly over all.")
    if records.evaluated and not records.evaluation:
        notes.append(
            "evaluation.json is of mrg-grpo evaluate, which has put it in the place of the before/after table."
        )
    if records.left_out:
        named = first_names([f"{one['study_id']} ({one['split']})" for one in records.left_out])
        notes.append(f"{len(records.left_out):,} studies were left out, as their pictures could not be read: {named}.")
    if pictures.missing:
        notes.append(f"{len(pictures.missing)} pictures could not be opened, such as {min(pictures.missing)}.")
    drawn = curves(records)
    return Page(
        title=records.path.resolve().name,
        stamp=stamp,
        refresh=refresh,
        facts=facts(records),
        banner=banner(records),
        notes=notes,
        top=[next((title for title, _ in SECTIONS if title in {c.section for c in drawn}), ""), VALIDATION],
        curves=drawn,
        sides=sides(records.evaluation),
        bars=bars(records),
        groups=groups,
        tests=tests,
        followed=followed,
        pictures=pictures.data,
    )


def data_folder(root: str) -> str | None:
    """The folder that pictures may come from; None where the run, which may be somebody else's, names one that holds
    the viewer's own files: the home, or whatever it lies in."""
    folder, home = Path(root).resolve(), Path.home().resolve()
    return None if folder in (home, *home.parents) else root


def banner(records: Records) -> str:
    """What stands above the page where texts and pictures are left out, and why they are."""
    if credentialed(records.config):
        return "Made from credentialed data: do not share. Texts and pictures are left out."
    return "" if records.config.run.keep_text else "Texts and pictures are left out (run.keep_text = false)."


def without_texts(records: Records) -> Records:
    """The same run with nothing in it that was read off a report or an X-ray but labels and numbers."""
    kept = {"step", "study_id", "labels", "reference_labels", "compliant", "rewards", "reward", "advantage"}

    def bare(record: Record) -> Record:
        small = {key: value for key, value in record.items() if key in kept}
        return small | ({"samples": [bare(sample) for sample in record["samples"]]} if "samples" in record else {})

    lists = ("rollouts", "followed", "before", "best", "after")
    return Records(**vars(records) | {name: [bare(r) for r in getattr(records, name)] for name in lists})


def facts(records: Records) -> list[tuple[str, str]]:
    config, grpo = records.config, records.config.grpo
    last = records.metrics[-1] if records.metrics else {"step": 0, "reward": 0.0}
    if "reward" in last:
        own = [
            ("reports a step", f"{grpo.studies_per_step} studies × {grpo.group_size}"),
            ("reward", " + ".join(f"{weight:g} {name}" for name, weight in config.reward.weights.items())),
            ("learning rate", f"{grpo.learning_rate:g}"),
            ("beta", f"{grpo.beta:g}"),
        ]
    else:  # a warm start
        own = [("studies a step", str(config.sft.batch_size)), ("learning rate", f"{config.sft.learning_rate:g}")]
    best = records.evaluation.get("best", {})
    if best:
        value = finite(best["value"])
        own.append(("best step", f"{best['step']:,} by {best['metric']}" + ("" if value is None else f" {value:.3f}")))
    return [
        ("step", f"{last['step']:,} of {config.run.steps:,}"),
        ("policy", config.model.path or "embedded"),
        ("labeler", config.labeler.path or "embedded"),
        ("data", config.data.form),
        *own,
        ("seed", str(config.run.seed)),
        ("mrg_grpo", __version__),
    ]


def curves(records: Records) -> list[Curve]:
    """Every metric over the steps, in the order of SECTIONS, and the headline metrics of validation."""
    order = [title for title, _ in SECTIONS] + ["Other"]
    made = []
    for name in dict.fromkeys(key for record in records.metrics for key in record if key != "step"):
        section = next((title for title, starts in SECTIONS if name.startswith(starts)), "Other")
        metric = find(name)
        texts = (metric.meaning, metric.healthy, metric.otherwise) if metric else ("a metric of your own",)
        made.append(Curve(name, section, *thin(records.metrics, name), *map(plain, texts)))
    made.sort(key=lambda curve: order.index(curve.section))
    best = records.evaluation.get("best", {})
    chose = best.get("metric", "")
    for name, title in {**TITLES, **({chose: TITLES.get(chose, chose)} if best else {})}.items():
        if any(name in record for record in records.validation):
            curve = Curve(
                title, VALIDATION, *thin(records.validation, name), "on the validation studies, decoded greedily"
            )
            curve.chosen = best["step"] if name == chose else None
            made.append(curve)
    return made


def thin(records: list[Record], name: str) -> tuple[list[float], list[float | None]]:
    """Steps and values of one metric; above MAX_POINTS, means over equal stretches of records."""
    size = -(-len(records) // MAX_POINTS) or 1
    steps, values = [], []
    for start in range(0, len(records), size):
        part = records[start : start + size]
        numbers = [float(r[name]) for r in part if finite(r.get(name)) is not None]
        steps.append(part[-1]["step"])
        values.append(float(f"{sum(numbers) / len(numbers):.5g}") if numbers else None)
    return steps, values


def bars(records: Records) -> list[Bar]:
    stated = [
        sum(row["reference_labels"][c] not in (BLANK, NEGATIVE) for row in records.after) if records.after else None
        for c in range(13)
    ]
    conditions = records.evaluation.get("conditions", {})
    made = []
    for c, name in enumerate(CONDITIONS[:13]):
        if name in conditions:
            sides = conditions[name] if stated[c] != 0 else {}
            made.append(Bar(name, finite(sides.get("before")), finite(sides.get("after")), stated[c]))
    return made


def sides(evaluation: Record) -> dict[str, Any]:
    """The tables of the last adapter, and of the best where that is another, by title."""
    last, best = evaluation.get("sides", {}), evaluation.get("best", {})
    if "sides" not in best:
        return last
    named = (("last", evaluation.get("step"), last), ("best", best["step"], best["sides"]))
    return {
        f"{title}, {which} adapter (step {step})": side for which, step, both in named for title, side in both.items()
    }


def joined(decodings: list[list[Record]]) -> list[tuple[Record, ...]]:
    """The same study in every decoding; while the run goes on one of them is missing, and all studies."""
    by_study = [{record["study_id"]: record for record in records} for records in decodings]
    return [tuple(one[study] for one in by_study) for study in by_study[0] if all(study in one for one in by_study)]


def over_time(records: list[Record]) -> dict[str, dict[int, Record]]:
    """study -> step -> record, in order; of a step that was done twice the last counts."""
    found: dict[str, dict[int, Record]] = defaultdict(dict)
    for record in records:
        found[str(record["study_id"])][int(record["step"])] = record
    return {study: dict(sorted(steps.items())) for study, steps in found.items()}


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of the items, spread evenly, first and last among them."""
    if len(items) <= count:
        return list(items)
    if count < 2:
        return list(items[:count])
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def within(cases: list[Case], limit: int, size: Callable[[Case], int] | None = None) -> list[Case]:
    """As many of the cases, evenly chosen, as take about `limit` bytes of JSON."""
    measure = size or (lambda case: len(json.dumps(asdict(case))))
    total = sum(map(measure, cases))
    return cases if total <= limit else evenly(cases, int(len(cases) * limit / total))


def plain(text: str) -> str:
    """Markdown of the glossary -> words."""
    return text.replace("`", "").replace("**", "")

"""Writes docs/reference/commands.md and docs/reference/metrics.md from the code that they describe.

    python -m experiments.docs.reference

Commands come from the parser, settings from the fields of mrg_grpo/config.py with their docstrings and rules, metrics
from the rows that stand beside their computation. tests/docs/test_reference.py holds the pages to this script.
"""

from __future__ import annotations

import argparse
import ast
import inspect
from dataclasses import MISSING, Field, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

from experiments.docs.sections import escaped, markdown_table
from mrg_grpo import config as settings
from mrg_grpo import step_metrics
from mrg_grpo.cli import parser
from mrg_grpo.commands import COMMANDS
from mrg_grpo.config import Config
from mrg_grpo.evaluation import summary
from mrg_grpo.evaluation.clinical import AVERAGES, LABEL_SETS, READINGS
from mrg_grpo.files import write_whole
from mrg_grpo.labels import BLANK, CONDITIONS, NEGATIVE, POSITIVE, UNCERTAIN
from mrg_grpo.step_metrics import Metric
from mrg_grpo.toml import LIMITS, toml_value

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "reference"
MADE = "<!-- Made by `python -m experiments.docs.reference`: change the code that it describes, not this page. -->"

COMMANDS_PAGE = """\
# Commands and configuration

{made}

The program is `mrg-grpo`. It is in `.venv/bin` after `make train` or `make test`, and `python -m mrg_grpo` is the same.
The exit code is 0 for success, 2 for a mistake that one line explains, 128 plus the number of the signal for a run that
a signal stopped, and 1 for a bug.

## Commands

{commands}

## Configuration

A configuration is a TOML file with the tables below. A setting that is left out has its default, and an unknown one is
an error. `include = "other.toml"` on the first line takes the settings of another file, which this file then changes.
`--set TABLE.KEY=VALUE` changes one setting for one command.

{tables}
"""

METRICS_PAGE = """\
# Metrics

{made}

## Metrics of a step

A run writes one line per step to `RUN_DIR/metrics.jsonl`. A step samples B = N * G reports: `grpo.group_size` (G) for
each of `grpo.studies_per_step` (N) studies. The reports of one study are a group, and a group has spread if its rewards
are not all equal. Runs on several GPUs log the numbers of all reports of the step, as one GPU would.

Look first at three of them. `reward` should rise over tens of steps; single steps are noisy, since each has other
studies. `groups_without_spread` says how much of a step taught nothing. `sampling_gap` says whether the engine works.

{steps}

## Metrics of an evaluation

`mrg-grpo evaluate` and `mrg-grpo score` write these numbers, each with a 95% interval. `RUN_DIR/validation.jsonl` holds
the clinical ones for every evaluation during training. A finding is a condition that a report calls positive or
uncertain. A rate that would divide by 0 is `null`. `conditions` in `evaluation.json` has precision, recall, F1 and the
counts of each condition.

{evaluation}

Precision, recall and F1 are computed under every convention in use. Their names say which one:

{conventions}
"""


def write() -> None:
    """Both pages anew."""
    for name, text in pages().items():
        write_whole(FOLDER / name, text)


def pages() -> dict[str, str]:
    """File name -> text."""
    commands = COMMANDS_PAGE.format(made=MADE, commands=all_commands(), tables=all_settings())
    tables = {"steps": of_step(), "evaluation": of_evaluation(), "conventions": conventions()}
    return {"commands.md": commands, "metrics.md": METRICS_PAGE.format(made=MADE, **tables)}


# ---- commands


def all_commands() -> str:
    parsers: dict[str, Any] = next(iter(parser()._subparsers._group_actions)).choices  # type: ignore[union-attr]
    return "\n\n".join(command(name, parsers[name]) for name in COMMANDS)


def command(name: str, own: argparse.ArgumentParser) -> str:
    actions = [action for action in own._actions if not isinstance(action, argparse._HelpAction)]
    rows = [[f"`{usage(action)}`", cell(meaning(action))] for action in actions]
    head = f"### mrg-grpo {name}\n\n{sentence(COMMANDS[name].help)}"
    return f"{head}\n\n    mrg-grpo {COMMANDS[name].example}\n\n{markdown_table(['argument', 'meaning'], rows)}"


def usage(action: argparse.Action) -> str:
    """The names of an argument and what follows it: `-o, --output HTML`."""
    value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
    if not action.option_strings:
        return f"{value} ..." if action.nargs == "+" else str(value)
    return f"{', '.join(action.option_strings)} {'' if action.choices else value}".strip()


def meaning(action: argparse.Action) -> str:
    if not action.help:
        raise ValueError(f"{usage(action)} has no help; say in mrg_grpo/commands.py what it is")
    choices = f" (one of {', '.join(f'`{choice}`' for choice in action.choices)})" if action.choices else ""
    required = "; required" if action.option_strings and action.required else ""
    return f"{action.help}{choices}{required}"


# ---- settings


def all_settings() -> str:
    return "\n\n".join(setting_table(field, "") for field in fields(Config))


def setting_table(field: Field, above: str) -> str:
    """One table of the configuration, and behind it those inside it."""
    kind = get_type_hints(owner(above))[field.name]
    name = f"{above}.{field.name}".lstrip(".")
    docs, hints = docstrings(kind), get_type_hints(kind)
    inner = [one for one in fields(kind) if is_dataclass(hints[one.name])]
    rows = [
        [f"`{one.name}`", type_name(hints[one.name]), f"`{default(one)}`", allowed(one), cell(docs[one.name])]
        for one in fields(kind)
        if one not in inner
    ]
    text = f"### `[{name}]`\n\n{sentence(docstrings(owner(above))[field.name])}\n\n"
    text += markdown_table(["setting", "type", "default", "allowed", "meaning"], rows)
    return "\n\n".join([text, *(setting_table(one, name) for one in inner)])


def owner(name: str) -> type:
    """The dataclass of a dotted table; "" is the whole."""
    kind: type = Config
    for part in filter(None, name.split(".")):
        kind = get_type_hints(kind)[part]
    return kind


def docstrings(kind: type) -> dict[str, str]:
    """Field -> the string under it, on one line."""
    body = next(
        node.body
        for node in ast.walk(ast.parse(inspect.getsource(settings)))
        if isinstance(node, ast.ClassDef) and node.name == kind.__name__
    )
    found = {}
    for field, below in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return found


def type_name(hint: Any) -> str:
    """In TOML's words."""
    names = {str: "string", int: "integer", float: "float", bool: "boolean"}
    return names.get(hint) or {"list[str]": "array of strings", "dict[str, float]": "table of floats"}[str(hint)]


def default(field: Field) -> str:
    value = field.default if field.default is not MISSING else field.default_factory()  # type: ignore[misc]
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml_value(entry)}" for key, entry in value.items()) + " }"
    return toml_value(value)


def allowed(field: Field) -> str:
    """The rule of a field in words; "" where it has none."""
    choices = [f"`{toml_value(choice)}`" for choice in field.metadata.get("choices", ())]
    limits = [f"{words} {field.metadata[limit]}" for limit, (_, words) in LIMITS.items() if limit in field.metadata]
    return ", ".join(choices) or " and ".join(limits)


# ---- metrics


def of_step() -> str:
    rows = [[names(one), *map(cell, (one.meaning, one.healthy, one.otherwise))] for one in step_metrics.METRICS]
    return markdown_table(["name", "meaning", "healthy range", "what to do otherwise"], rows)


def of_evaluation() -> str:
    return markdown_table(["name", "meaning"], [[names(one), cell(one.meaning)] for one in summary.METRICS])


def names(metric: Metric) -> str:
    return ", ".join(f"`{name}`" for name in metric.names)


def conventions() -> str:
    """What each part of a name stands for."""
    classes = {BLANK: "not mentioned", POSITIVE: "positive", NEGATIVE: "negative", UNCERTAIN: "uncertain"}
    rows = [["average", f"`{name}`", cell(words)] for name, words in AVERAGES.items()]
    rows += [["labels", f"`{name}`", label_set(members)] for name, members in LABEL_SETS.items()]
    rows += [
        ["reading", f"`{name}`", f"a label counts as positive if it is {' or '.join(classes[one] for one in members)}"]
        for name, members in READINGS.items()
    ]
    return markdown_table(["part", "value", "meaning"], rows)


def label_set(members: tuple[int, ...]) -> str:
    absent = [name for index, name in enumerate(CONDITIONS) if index not in members]
    if len(absent) < 2:
        return "all of CheXbert's labels" + "".join(f" but {name}" for name in absent)
    return ", ".join(CONDITIONS[index] for index in members)


# ---- words


def sentence(text: str) -> str:
    """With a capital at its head and a full stop at its end."""
    return cell(text[0].upper() + text[1:].rstrip(".") + ".")


def cell(text: str) -> str:
    """Text for a cell of a table, which a | would end."""
    if "|" in text:
        raise ValueError(f"{text!r} holds a |, which ends a cell of a table; say it in other words")
    return escaped(text)


if __name__ == "__main__":
    write()

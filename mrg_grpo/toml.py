"""Dataclasses as TOML tables: rules on their fields, a tree of them from files and back.

A file may include another and change it (`read_tree`). The standard library reads TOML and does not write it; `to_toml`
is the way back.
"""

import json
import math
import operator
import tomllib
from collections.abc import Callable
from dataclasses import asdict, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from mrg_grpo.errors import UserError, nearest
from mrg_grpo.files import at_home, open_file, read_text


def ruled(default: Any, *choices: str, **limits: float) -> Any:
    """A field with a rule: one of `choices`, or a number within `limits`, which LIMITS names."""
    return field(default=default, metadata={"choices": choices, **limits})


LIMITS: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "above": (operator.gt, "above"),
    "least": (operator.ge, "at least"),
    "below": (operator.lt, "below"),
    "most": (operator.le, "at most"),
}
"""Limit of a rule -> the comparison that a value must pass, and its words."""


SMALLEST, LARGEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127
"""Of what fp32 holds with all its bits: a setting beyond them would be 0 or infinite where it is used."""
RENAMED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "merge_lora": ("fast_decode", lambda value: value),
    "tensorboard": ("report_to", lambda on: ["tensorboard"] if on else []),
}
"""Keys that runs begun by older versions have: what they are called now, and the value as it is written now."""


def build(kind: type, tree: dict[str, Any], where: str) -> Any:
    """A dict -> the dataclass `kind`; unknown keys and wrong types are refused by name."""
    hints = get_type_hints(kind)
    for old, (new, translate) in RENAMED.items():
        if old in tree and new in hints:
            tree = {new: translate(tree[old]), **{key: value for key, value in tree.items() if key != old}}
    for key in tree:
        if key not in hints:
            hint = nearest(key, hints) or f"known keys: {', '.join(hints)}"
            raise UserError(f'{where}: unknown key "{key}"; {hint}')
    return kind(**{key: convert(hints[key], value, f"{where}: {key}") for key, value in tree.items()})


def convert(hint: Any, value: Any, where: str) -> Any:
    """A TOML value as the type of its field. int passes as float, nothing else is bent."""
    if is_dataclass(hint):
        if not isinstance(value, dict):
            raise UserError(f"{where}: expected a table, got {value!r}")
        return build(hint, value, where)  # type: ignore[arg-type]
    origin = get_origin(hint)
    if hint == list[str] and isinstance(value, str):
        value = [value]  # run.report_to = "wandb"
    if origin is list and isinstance(value, list):
        return [convert(get_args(hint)[0], item, where) for item in value]
    if origin is dict and isinstance(value, dict):
        return {str(k): convert(get_args(hint)[1], item, f"{where}.{k}") for k, item in value.items()}
    if hint is float and isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: expected a finite number, got {value!r}")
    if hint is float and isinstance(value, float) and value and not SMALLEST <= abs(value) <= LARGEST:
        raise UserError(f"{where}: {value!r} is not a number that fp32 holds, {SMALLEST:.1e} to {LARGEST:.1e}")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > 2**63:
            raise UserError(f"{where}: {str(value)[:20]}... is too large")
        return float(value)
    if hint is int and isinstance(value, int) and abs(value) >= 2**63:
        raise UserError(f"{where}: {str(value)[:20]}... is too large")
    if isinstance(value, str) and "\0" in value:
        raise UserError(f"{where}: {value!r} has a NUL character in it")
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise UserError(f"{where}: {value!r} is not UTF-8; write it in a terminal or file that is")
    if hint is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # data.views = 2
    expected = origin or hint
    if not isinstance(value, expected) or (isinstance(value, bool) and hint is not bool):
        names = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
        raise UserError(f"{where}: expected {names.get(expected, f'a {expected.__name__}')}, got {value!r}")
    return value


def check_rules(table: Any, name: str = "") -> None:
    """Every value keeps to the rule of its field, see `ruled`; name: of the table, with a dot behind it."""
    for one in fields(table):
        value, full, rule = getattr(table, one.name), f"{name}{one.name}", one.metadata
        if is_dataclass(value):
            check_rules(value, f"{full}.")
            continue
        choices, entries = rule.get("choices", ()), value if isinstance(value, list) else [value]
        for entry in entries if choices else ():
            if entry not in choices:
                raise UserError(f"{full}: {entry!r} is not one of {', '.join(choices)}")
        if choices and not entries and not rule.get("empty"):
            raise UserError(f"{full}: is empty; use {' or '.join(choices)}")
        for limit, (holds, words) in LIMITS.items():
            if limit in rule and not holds(value, rule[limit]):
                must = "not be negative" if (limit, rule[limit]) == ("least", 0) else f"be {words} {rule[limit]}"
                raise UserError(f"{full}: {value} must {must}")


def changed_keys(old: Any, new: Any) -> list[str]:
    """Dotted names whose values differ."""

    def walk(a: Any, b: Any, name: str) -> list[str]:
        if is_dataclass(a):
            return [n for f in fields(a) for n in walk(getattr(a, f.name), getattr(b, f.name), f"{name}.{f.name}")]
        return [] if a == b else [name.lstrip(".")]

    return walk(old, new, "")


def to_toml(config: Any) -> str:
    """The whole tree as TOML, tables in order; reads back to an equal one."""
    lines: list[str] = []

    def table(name: str, tree: dict) -> None:
        lines.append(f"\n[{name}]")
        lines.extend(f"{toml_key(k)} = {toml_value(v)}" for k, v in tree.items() if not isinstance(v, dict))
        for key, value in tree.items():
            if isinstance(value, dict):
                table(f"{name}.{toml_key(key)}", value)

    for name, tree in asdict(config).items():
        table(name, tree)
    return "\n".join(lines).strip() + "\n"


def toml_key(key: str) -> str:
    return key if key.replace("_", "").isalnum() and key.isascii() else toml_value(key)


def toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON's escapes are TOML's too
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return repr(value)


RUN_HEADERS = ("# run of ", "# mrg_grpo ")
"""How the first line of a config.toml begins that a run wrote; the second is of the first versions."""


def written_by_run(path: Path) -> bool:
    """Whether this is the config.toml of a run, and not one that somebody wrote."""
    try:
        with open_file(path) as file:
            return path.name == "config.toml" and file.readline().decode().startswith(RUN_HEADERS)
    except (OSError, UnicodeDecodeError):
        return False


def read_tree(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The tables of a TOML file, or of the config.toml of a run's folder.

    `include = "other.toml"` on top takes that file's, changed by this one's. A run is its folder: run.output_dir in a
    file that a run wrote is where it began, and it may have been moved or copied, or be read from elsewhere.
    above: the files, outermost first, that include this one. UserError names a circle.
    """
    if path.is_dir():
        if not written_by_run(path / "config.toml"):
            raise UserError(f"config {path}: a folder without a run's config.toml; name a TOML file or a run's folder")
        path = path / "config.toml"
    try:
        tree = tomllib.loads(read_text(path))
    except FileNotFoundError:
        raise UserError(f"config {path}: no such file; experiments/phantom.toml is the embedded default") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config {path}: cannot be read ({error})") from error
    except (ValueError, RecursionError) as error:  # TOML, numbers of thousands of digits, tables nested for ever
        raise UserError(f"config {path}: not valid TOML ({error})") from error
    if written_by_run(path) and isinstance(tree.setdefault("run", {}), dict):
        tree["run"]["output_dir"] = str(path.parent)
    included = tree.pop("include", None)
    if included is None:
        return tree
    if not isinstance(included, str) or not included:
        raise UserError(f"config {path}: include = {included!r} must be one TOML file")
    chain, other = (*above, path), path.parent / at_home(included, f"config {path}: include")
    if other.resolve() in [one.resolve() for one in chain]:
        circle = " includes ".join(str(one) for one in (*chain, other))
        raise UserError(f"config {path}: include goes round in a circle ({circle}); take one of them out")
    return merged(read_tree(other, chain), tree)


WEIGHTS = "reward.weights"
"""The one table whose keys are not settings but a choice: a file that has it means these terms and no others."""


def merged(whole: dict[str, Any], change: dict[str, Any], table: str = "") -> dict[str, Any]:
    """`whole` with the keys of `change` in place of its own, table by table; reward.weights is replaced as a whole.

    table: the dotted name of the table that both are.
    """
    both = dict(whole)
    for key, value in change.items():
        name = f"{table}.{key}" if table else key
        by_key = isinstance(value, dict) and isinstance(both.get(key), dict) and name != WEIGHTS
        both[key] = merged(both[key], value, name) if by_key else value
    return both


def parsed_override(override: str) -> tuple[list[str], str, Any]:
    """`grpo.group_size=16` -> its tables, its key and its value; UserError for what is no setting."""
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise UserError(f"--set {override}: write it as table.key=value, for example grpo.group_size=16")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except (ValueError, RecursionError):
        value = text
    *tables, key = keys_of(name.strip())
    if not key:
        raise UserError(f"--set {override}: the key before = is empty")
    return tables, key, value


def keys_of(name: str) -> list[str]:
    """`grpo.group_size` -> its tables and its key. A term of the reward may have dots, and quotes around it."""
    term = name.removeprefix(f"{WEIGHTS}.")
    return name.split(".") if term == name else [*WEIGHTS.split("."), term.strip("\"' ")]

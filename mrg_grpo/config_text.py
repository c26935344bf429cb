"""A configuration as TOML text, the way back from `config.load_config`."""

import json
from dataclasses import asdict
from typing import Any

from mrg_grpo.config import Config


def to_toml(config: Config) -> str:
    """The whole tree as TOML, tables in order; reads back to an equal Config."""
    lines: list[str] = []

    def table(name: str, tree: dict) -> None:
        lines.append(f"\n[{name}]")
        lines.extend(f"{_key(k)} = {_value(v)}" for k, v in tree.items() if not isinstance(v, dict))
        for key, value in tree.items():
            if isinstance(value, dict):
                table(f"{name}.{_key(key)}", value)

    for name, tree in asdict(config).items():
        table(name, tree)
    return "\n".join(lines).strip() + "\n"


def _key(key: str) -> str:
    return key if key.replace("_", "").isalnum() and key.isascii() else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON's escapes are TOML's too
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return repr(value)

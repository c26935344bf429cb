"""The command line on the embedded default, at the size of a test."""

from mrg_grpo.cli import main

CONFIG = "experiments/phantom.toml"


def command_line(command: str, settings: list[str], *more: str) -> list[str]:
    """Arguments of `mrg-grpo command CONFIG` with these settings."""
    return [command, CONFIG, *[part for setting in settings for part in ("--set", setting)], *more]


def run(command: str, settings: list[str], *more: str) -> int:
    return main(command_line(command, settings, *more))

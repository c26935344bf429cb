"""The reference pages are what experiments/docs/reference.py makes of the code, and they leave nothing out."""

from dataclasses import fields, is_dataclass

import pytest

from experiments.docs import reference
from mrg_grpo.commands import COMMANDS, TABLE
from mrg_grpo.config import Config


@pytest.mark.parametrize("name", ["commands.md", "metrics.md"])
def test_a_page_is_what_the_code_says(name):
    written = (reference.FOLDER / name).read_text(encoding="utf-8")
    assert written == reference.pages()[name], "run python -m experiments.docs.reference"


def test_every_command_argument_and_setting_is_there():
    page = reference.pages()["commands.md"]
    for name, command in COMMANDS.items():
        assert f"### mrg-grpo {name}\n" in page and f"    mrg-grpo {command.example}\n" in page
    named = {option for command in TABLE for names, _ in command.arguments for option in names if option[0] == "-"}
    assert all(f"{option} " in page or f"{option}`" in page or f"{option}," in page for option in named)

    def settings(table):
        for field in fields(table):
            value = getattr(table, field.name)
            yield from settings(value) if is_dataclass(value) else [field.name]

    names = list(settings(Config()))
    assert len(names) > 60 and all(page.count(f"\n| `{name}` |") >= names.count(name) for name in names)


def test_a_setting_or_argument_without_words_is_refused():
    action = reference.argparse.ArgumentParser().add_argument("--new")
    with pytest.raises(ValueError, match="--new NEW has no help"):
        reference.meaning(action)
    with pytest.raises(ValueError, match="ends a cell"):
        reference.cell("a | b")
    assert reference.cell("a <think> block, `<think>`") == "a &lt;think> block, `<think>`"

"""The linter of prose: what it finds, where, and what it leaves alone. `make lint` runs it over the pages."""

import pytest

from experiments.docs import prose


@pytest.mark.parametrize(
    "text",
    [
        "Asked: at least 5.", "asked for 0.97", "5.1, NOT reached", "It hangs on the machine.", "At commit cc9b566.",
        "A busy machine.", "This page once said so.", "An earlier version did.", "With drawn weights.",
        "A helper of ours.", "Nobody knows.", "It may be had.", "The gain is not shown.", "By as much as pairs differ.",
        "| 0.9 | NOT reached |",
    ],
)  # fmt: skip
def test_words_of_the_project_are_found_with_what_to_write(text):
    (found,) = prose.findings(f"# Title\n\n{text}\n")
    assert found[0] == 3 and found[1].startswith('"') and ": " in found[1]


@pytest.mark.parametrize(
    "text",
    [
        "Take `asked for` as it is.", "```\nasked: nobody\n```", "    python nobody.py  # not shown", "[a](nobody.md)",
        "<!-- asked: nobody -->", "Tasked forever.", "See https://example.org/nobody.", "# Score\n\nScore two files.",
        "a `b` and\n`b` c", "| very | very |",
    ],
)  # fmt: skip
def test_code_addresses_and_other_words_are_left_alone(text):
    assert prose.findings(f"{text}\n") == []


def test_english_is_checked_by_proselint():
    ((line, words),) = prose.findings("One.\n\nThis is is wrong.\n")
    assert line == 3 and "lexical_illusions" in words


def test_the_command_names_file_and_line_and_fails(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\nNobody.\n")
    assert prose.main([str(page)]) == 1 and f"{page}:3: " in capsys.readouterr().out
    page.write_text("# Page\n\nGood.\n")
    assert prose.main([str(page)]) == 0 and not capsys.readouterr().out
    names = {page.name for page in prose.pages(prose.ROOT)}
    assert {"README.md", "CONTRIBUTING.md", "commands.md", "pull_request_template.md"} <= names

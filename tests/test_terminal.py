"""Lines that fit a terminal, and tables; nothing is cut, and in a file nothing is broken."""

import io
import sys

import pytest

from mrg_grpo import terminal
from mrg_grpo.evaluation.table import format_table
from mrg_grpo.terminal import pad, time_left, width, wrap


def test_east_asian_letters_take_two_columns_and_accents_none():
    assert [width(text) for text in ("heart", "肺野", "한국", "ｆｕｌｌ", "e\u0301", "")] == [5, 4, 4, 8, 1, 0]
    assert pad("肺", 4) == "肺  "


def test_words_are_wrapped_behind_their_indent():
    assert wrap("one two three four", 12, "  a ", "    ") == "  a one two\n    three\n    four"
    assert wrap("a " + "x" * 7, 5) == "a\nxxxxx\nxx"
    assert wrap("肺野に浸潤", 6, "", " ") == "肺野に\n 浸潤"
    assert wrap("any  length", None, "> ") == "> any  length" and wrap("", 10, "> ") == "> "


def test_standard_output_has_columns_only_where_it_is_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "72")
    for out, expected in ((Terminal(), 72), (io.StringIO(), None), (None, None)):
        monkeypatch.setattr(sys, "stdout", out)
        assert terminal.columns() == expected


HEADER = ("metric", "before [95% interval]", "after", "difference")
ROWS = [
    ("micro F1, 13 conditions", "0.444 [0.240, 0.576]", "0.444 [0.240, 0.576]", "0.000 [0.000, 0.000]"),
    ("my_module.of_mine:肺野に浸潤影なし_and_a_long_name", "-", "28.125 [25.062, 31.562]", "-"),
]


@pytest.mark.parametrize("room", [30, 40, 60, 80, 100, 120, 200])
def test_a_table_fits_and_no_number_of_it_is_cut_or_broken(room):
    text = format_table(HEADER, ROWS, "test split, 16 studies", room)
    assert max(map(width, text.split("\n"))) <= max(room, 12 + 2 + 23)
    for cell in (cell for row in (HEADER, *ROWS) for cell in row[1:]):
        assert cell in text
    assert [text.count(letter) for letter in "肺影無"] == [text.count("metric")] * 2 + [0]  # all of the name, each time
    assert text.count("difference") == 1


def test_a_table_in_a_file_is_one_of_any_width_and_its_columns_stand_under_each_other():
    lines = format_table(HEADER, ROWS).split("\n")
    assert len(lines) == 4 and len({width(line) for line in (lines[0], lines[1], lines[2], lines[3])}) == 1


def test_the_time_left():
    assert time_left(60.0, 2, 22) == "10:00 left" and time_left(5.0, 5, 5) == "00:00 left"

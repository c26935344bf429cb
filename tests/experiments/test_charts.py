"""Charts: what they show and say, and that the same numbers have the same bytes."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
from svg_text import texts

from experiments.docs import charts

SVG = "{http://www.w3.org/2000/svg}"


def strokes(svg, group):
    """Of the drawn lines of an axes: each as its places and its style."""
    root = ElementTree.fromstring(svg)
    axes = next(element for element in root.iter(f"{SVG}g") if element.get("id") == group)
    paths = [
        path
        for part in axes.iter(f"{SVG}g")
        if (part.get("id") or "").startswith("line2d")
        for path in part.findall(f"{SVG}path")
    ]
    return [
        ([tuple(map(float, pair)) for pair in re.findall(r"[ML] (\S+) (\S+)", path.get("d"))], path.get("style"))
        for path in paths
    ]


def test_bars_say_their_values_and_end_where_the_axis_does():
    groups = {"one": [(0.5, 0.4, 0.6), (0.25, 0.2, 0.3)], "two": [(0.75, 0.7, 0.8), None]}
    said = texts(charts.bars("a title", groups, ["first", "second"], note="a note"))
    assert {"a title", "a note", "one", "two", "first", "second", "0.50", "0.25", "0.75"} < set(said)
    signed = texts(charts.bars("t", {"one": [(-0.2, -0.3, -0.1)]}, ["first"], -0.1, 0.1, digits=3))
    assert "-0.200" in signed and "-0.10" in signed and "0.10" in signed


def test_the_same_numbers_have_the_same_bytes():
    draw = lambda: charts.lines("t", {"p": {"a": [(0.0, 1.0), (1.0, 2.0)]}})  # noqa: E731
    assert draw() == draw() and "<dc:date>" not in draw()


def test_axes_that_begin_at_zero():
    curves = {"p": {"a": [(2.0, 4.0), (4.0, 8.0)]}}
    flat = texts(charts.lines("t", curves, from_zero=True))
    assert {"0", "2", "8"} < set(flat) and "5" not in flat  # ticks 0, 2, 4, 6, 8
    assert "5" in texts(charts.lines("t", curves))  # ticks 4, 5, 6, 7, 8


@pytest.mark.parametrize("values, want", [
    ((4.0, 8.0), [4, 5, 6, 7, 8]),
    ((0.1991, 0.9956), [0, 0.2, 0.4, 0.6, 0.8, 1]),
    ((0.0062, 0.0184), [0.005, 0.0075, 0.01, 0.0125, 0.015, 0.0175, 0.02]),
    ((-3.0, 12_345.0), [-2500, 0, 2500, 5000, 7500, 10_000, 12_500]),
    ((2.0, 2.0), [1.4, 1.6, 1.8, 2, 2.2, 2.4, 2.6]),
])  # fmt: skip
def test_ticks_are_round_and_enclose_what_is_drawn(values, want):
    assert charts.ticks(values) == want


def test_every_curve_of_a_chart_has_a_stroke_of_its_own():
    names = [f"arm {i}" for i in range(2 * len(charts.COLOURS))]
    svg = charts.lines("t", {"panel": {name: [(0.0, 0.0), (1.0, float(i))] for i, name in enumerate(names)}})
    drawn = [style for places, style in strokes(svg, "axes_2") if len(places) == 2 and "#dddddd" not in style]
    assert len(drawn) == len(set(drawn)) == len(names) and set(names) < set(texts(svg))


def test_small_multiples_show_every_curve_as_its_own_and_among_the_others():
    curves = {"one": [(0.0, 0.0), (1.0, 10.0)], "two": [(0.0, 10.0), (0.5, 5.0)], "none": []}
    strands = {"a\nb": {"one": [[(0.0, 0.0), (1.0, 0.0)], [(0.0, 0.0), (1.0, 20.0)]]}}
    svg = charts.small_multiples("t", {"a\nb": curves, "empty": {"one": []}}, x_range=(0, 1), strands=strands)
    drawn = strokes(svg, "axes_1")
    own = [places for places, style in drawn if charts.COLOURS[0] in style]
    thin = [places for places, style in drawn if "#8fb8d6" in style]
    assert len(own) == 2 and len(thin) == 2
    (x0, low), (x1, high) = own[0]
    assert low > high  # 0 to 20 goes up, and y grows downwards in a picture
    (u0, v0), (u1, v1) = own[1]
    assert u0 == pytest.approx(x0) and x1 - x0 == pytest.approx(2 * (u1 - u0), abs=0.03)
    assert v1 - v0 == pytest.approx((low - high) / 2, abs=0.03)
    assert svg.count("#d5d9dc") == 2  # all curves in grey, in either row
    said = texts(svg)
    assert {"a", "b", "one", "two", "10.0", "5.0", "0 to 20"} < set(said) and not {"empty", "none"} & set(said)

"""Bars, lines and small multiples, drawn by matplotlib as SVG: the same bytes for the same numbers and versions.

Text stays text, in whatever sans-serif font the reader has. Every chart carries its own title, axes and legend.
"""

import re
from collections.abc import Mapping, Sequence
from io import StringIO
from itertools import chain
from pathlib import Path

from cycler import cycler
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.path import Path as Curve
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import AffineDeltaTransform

COLOURS = ("#1b6ca8", "#d1495b", "#2e933c", "#edae49", "#7b4ea3", "#f07c1d", "#8d6a4f", "#e377c2", "#5f6b73", "#b5bd00",
           "#111111")  # fmt: skip
STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "mrg_grpo", "axes.unicode_minus": False, "font.size": 9,
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial"], "axes.titlesize": 9, "axes.titleweight": "bold",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888888", "axes.axisbelow": True,
    "grid.color": "#dddddd", "xtick.color": "#555555", "ytick.color": "#555555", "ytick.labelcolor": "#111111",
    "legend.frameon": False, "lines.linewidth": 1.5,
    "axes.prop_cycle": cycler(linestyle=["-", (0, (6, 3))]) * cycler(color=COLOURS),
}  # fmt: skip
GREY = "#555555"
Point = tuple[float, float]


def ticks(values: Sequence[float]) -> list[float]:
    """At most 7 round numbers at equal steps, the first and last of which enclose the values."""
    low, high = min(values), max(values)
    room = 0.5 if low == high else 0.0
    found = MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]).tick_values(low - room, high + room)
    return [float(f"{value:.12g}") for value in found]


def bars(
    title: str,
    groups: Mapping[str, Sequence[tuple[float, float, float] | None]],
    series: Sequence[str],
    low: float = 0.0,
    high: float = 1.0,
    note: str = "",
    digits: int = 2,
) -> str:
    """Horizontal bars: for each group one bar per series, (value, low, high) with a whisker, or None for no bar.

    digits: of the value beside its bar, signed where bars go both ways. What lies beyond low and high is not drawn.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 1.1 + len(groups) * (0.13 * len(series) + 0.12)), layout="constrained")
        axes = figure.add_subplot()
        thick = 0.8 / len(series)
        for i, name in enumerate(series):
            drawn = [(g + (i + 0.5) * thick, cell) for g, values in enumerate(groups.values()) if (cell := values[i])]
            places, values = [place for place, _ in drawn], [value for _, (value, _, _) in drawn]
            axes.barh(places, values, 0.85 * thick, label=name, color=COLOURS[i % len(COLOURS)])
            axes.hlines(places, *zip(*[(least, most) for _, (_, least, most) in drawn]), "#222222", lw=0.8)
            for place, (value, _, most) in drawn:
                end = min(max(value, most, 0.0), high)
                text = f"{value:{'+' if low < 0 else ''}.{digits}f}"
                axes.annotate(text, (end, place), (3, 0), textcoords="offset points", va="center", size=7)
        axes.set(xlim=(low, high), ylim=(len(groups) - 0.1, -0.15), xticks=ticks([low, high]))
        axes.set_yticks([g + 0.4 for g in range(len(groups))], groups)
        axes.axvline(0, color="#888888", lw=0.8)
        axes.grid(axis="x")
        axes.tick_params(length=0)
        axes.spines[["left", "bottom"]].set_visible(False)
        return finished(figure, title, note, legend=axes)


def dots(
    title: str,
    panels: Mapping[str, Mapping[str, tuple[float, float, float]]],
    note: str = "",
    marks: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
) -> str:
    """A dot with its interval per name, panels side by side: panel -> name -> (value, low, high), names from the top.

    marks: panel -> name -> values that stand beside the dot as small open circles, such as training seeds.
    """
    names = list(next(iter(panels.values())))
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 1.1 + 0.34 * len(names)), layout="constrained")
        for i, (axes, (panel, cells)) in enumerate(
            zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items())
        ):
            for row, name in enumerate(names):
                value, low, high = cells[name]
                axes.hlines(-row, low, high, COLOURS[i], lw=2)
                axes.plot([value], [-row], "o", color=COLOURS[i], ms=7)
                axes.annotate(f"{value:.2f}", (value, -row), (0, 7), textcoords="offset points", ha="center", size=8)
                seeds = (marks or {}).get(panel, {}).get(name, ())
                axes.plot(seeds, [-row - 0.22] * len(seeds), "o", mfc="none", mec=GREY, ms=3, mew=0.7)
            across = ticks([x for cell in cells.values() for x in cell])
            axes.set(xlim=(across[0], across[-1]), xticks=across, ylim=(-len(names) + 0.4, 0.7))
            axes.set_title(panel)
            axes.set_yticks([-row for row in range(len(names))], names)
            axes.grid(axis="both")
            axes.tick_params(length=0)
            axes.spines[["left", "bottom"]].set_visible(False)
        return finished(figure, title, note)


def lines(
    title: str,
    panels: Mapping[str, Mapping[str, Sequence[Point]]],
    x_name: str = "step",
    from_zero: bool = False,
) -> str:
    """Line charts side by side, two a row: panel -> name -> points (x, y). One stroke per name over all panels.

    from_zero: both axes begin at 0, so that what grows in proportion is a line through the corner.
    """
    names = list(dict.fromkeys(name for curves in panels.values() for name, points in curves.items() if points))
    shown = {panel: curves for panel, curves in panels.items() if any(curves.values())}
    rows = (len(shown) + 1) // 2
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 0.8 + 2.4 * rows), layout="constrained")
        key = figure.add_subplot(frameon=False, xticks=[], yticks=[])  # a line of every name, for the legend alone
        strokes = {name: key.plot([], [], label=name)[0] for name in names}
        for axes, (panel, curves) in zip(figure.subplots(rows, 2, squeeze=False).flat, shown.items()):
            for name, curve in curves.items():
                if curve:
                    stroke = strokes[name]
                    axes.plot(*zip(*curve), color=stroke.get_color(), ls=stroke.get_linestyle())
            points = [*chain(*curves.values()), *([(0.0, 0.0)] if from_zero else [])]
            across, up = (ticks(values) for values in zip(*points))
            axes.set(title=panel, xlabel=x_name, xticks=across, yticks=up)
            axes.set(xlim=(across[0], across[-1]), ylim=(up[0], up[-1]))
            axes.grid(axis="y")
        for axes in figure.axes[1 + len(shown) :]:
            axes.remove()
        return finished(figure, title, legend=key)


def small_multiples(
    title: str,
    columns: Mapping[str, Mapping[str, Sequence[Point]]],
    note: str = "",
    x_range: Sequence[float] = (),
    strands: Mapping[str, Mapping[str, Sequence[Sequence[Point]]]] | None = None,
) -> str:
    """A row per name, a column per quantity (column -> name -> points): each name's own curve over all the others.

    For more curves than one panel can tell apart. A column has one y axis, written under its heading; the last value
    of each curve stands beside it, - where there is none.

    x_range: what the x axis has to show, whatever the points do. strands: what a curve is the mean of, drawn thin.
    """
    names = list(dict.fromkeys(name for curves in columns.values() for name, points in curves.items() if points))
    shown = {column: curves for column, curves in columns.items() if any(curves.values())}
    with rc_context(STYLE):
        figure = Figure(figsize=(2.6 + 1.6 * len(shown), 1.1 + 0.45 * len(names)), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.1)
        grid = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0] if shown else []
        for axes, (column, curves) in zip(grid, shown.items()):
            thin = (strands or {}).get(column, {})
            points = [*chain(*curves.values(), *chain(*thin.values()))]
            across, up = ticks([*x_range, *(x for x, _ in points)]), ticks([y for _, y in points])
            axes.set(xlim=(across[0], across[-1]), ylim=(-len(names), 0), xticks=[across[0], across[-1]])
            axes.set_title(f"{column}\n", loc="left")
            axes.annotate(f"{up[0]:g} to {up[-1]:g}", (0, 1), (0, 4), "axes fraction", textcoords="offset points",
                          color=GREY, size=8)  # fmt: skip
            rows_of(axes, names, curves, thin, up)
            axes.tick_params(axis="y", length=0)
            axes.spines[["left", "bottom"]].set_visible(False)
        for axes in grid[:1]:
            axes.set_yticks([-row - 0.5 for row in range(len(names))], names)
        return finished(figure, title, note)


def rows_of(
    axes: Axes,
    names: Sequence[str],
    curves: Mapping[str, Sequence[Point]],
    strands: Mapping[str, Sequence[Sequence[Point]]],
    up: Sequence[float],
) -> None:
    """One column of `small_multiples`: row r lies between -r - 1 and -r, and its curves take 0.84 of that."""
    scale = 0.84 / (up[-1] - up[0])

    def lifted(curve: Sequence[Point], row: int) -> list[Point]:
        return [(x, scale * (y - up[0]) - row - 0.92) for x, y in curve]

    digits = 3 if up[-1] - up[0] < 1 else 2 if up[-1] - up[0] < 10 else 1
    every = Curve.make_compound_path(*(Curve(lifted(curve, 0)) for curve in curves.values() if curve))
    rows = range(len(names))
    axes.add_collection(
        PathCollection(
            [every], offsets=[(0, -row) for row in rows], offset_transform=AffineDeltaTransform(axes.transData),
            transform=axes.transData, facecolors="none", edgecolors="#d5d9dc", linewidths=0.8,
        ),
        autolim=False,
    )  # fmt: skip
    axes.hlines([-row - 0.92 for row in rows], *axes.get_xlim(), "#bbbbbb", lw=0.6)
    for row, name in enumerate(names):
        for strand in strands.get(name, ()):
            axes.plot(*zip(*lifted(strand, row)), "-", color="#8fb8d6", lw=0.6)
        own = lifted(curves.get(name, ()), row)
        if own:
            axes.plot(*zip(*own), "-", color=COLOURS[0])
        end = own[-1] if own else (axes.get_xlim()[1], -row - 0.5)
        text = f"{curves[name][-1][1]:.{digits}f}" if own else "-"
        axes.annotate(text, end, (3, 0), textcoords="offset points", va="center", size=7)


def finished(figure: Figure, title: str, note: str = "", legend: Axes | None = None) -> str:
    """The figure with its title, the note and the legend below it, as SVG."""
    figure.suptitle(title, x=0.01, ha="left", size=12, weight="bold")
    entries = legend.get_legend_handles_labels() if legend else ([], [])
    figure.legend(*entries, loc="outside lower left", ncols=2, title=note, title_fontsize=8, alignment="left")
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
    return re.sub(r"(\.\d\d)\d{3,}", r"\1", text.getvalue())  # places to a hundredth of a point: a third fewer bytes


def write(path: Path, svg: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(svg, encoding="utf-8")

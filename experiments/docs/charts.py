"""Bar and line charts as plain SVG text: no dependency, the same bytes for the same numbers, readable on any page.

Every chart carries its own title, axes in round numbers, and its legend.
"""

from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from html import escape
from itertools import chain
from pathlib import Path

COLOURS = ("#1b6ca8", "#d1495b", "#2e933c", "#edae49", "#7b4ea3", "#f07c1d", "#8d6a4f", "#e377c2", "#5f6b73", "#b5bd00",
           "#111111")  # fmt: skip
FONT = 'font-family="Helvetica, Arial, sans-serif"'
Point = tuple[float, float]


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

    digits: of the value beside its bar, signed where bars go both ways.
    """
    left, width, bar, gap, top = 250, 470, 13, 14, 58 + 18 * ((len(series) + 1) // 2)
    row = len(series) * bar + gap
    height = top + row * len(groups) + 40
    scale = lambda value: left + width * (min(max(value, low), high) - low) / (high - low)  # noqa: E731
    parts = [_text(12, 24, title, 16, weight="bold"), _text(12, 42, note, 12, "#555")]
    for i, name in enumerate(series):
        x, y = 12 + 350 * (i % 2), 62 + 18 * (i // 2)
        parts += [_box(x, y - 10, 12, 10, COLOURS[i % len(COLOURS)]), _text(x + 18, y, name, 12)]
    for value in ticks([low, high]):
        parts += [_line(scale(value), top - 6, scale(value), height - 34, "#ddd" if abs(value) > 1e-9 else "#888")]
        parts += [_text(scale(value), height - 18, f"{value:g}", 11, "#555", "middle")]
    for g, (group, values) in enumerate(groups.items()):
        y = top + g * row
        parts.append(_text(left - 8, y + len(series) * bar / 2 + 4, group, 12, anchor="end"))
        for i, cell in enumerate(values):
            if cell is None:
                continue
            value, least, most = cell
            start, end = sorted((scale(0.0), scale(value)))
            middle = y + i * bar + bar / 2
            parts += [_box(start, y + i * bar, max(end - start, 1), bar - 2, COLOURS[i % len(COLOURS)])]
            parts += [_line(scale(least), middle, scale(most), middle, "#222")]
            parts += [
                _text(max(end, scale(most)) + 4, middle + 4, f"{value:{'+' if low < 0 else ''}.{digits}f}", 10, "#333")
            ]
    return _svg(left + width + 50, height, parts)


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
    wide, tall, pad, top = 330, 220, 46, 40 + 18 * ((len(names) + 2) // 3)
    parts = [_text(12, 24, title, 16, weight="bold")]
    for i, name in enumerate(names):
        x, y = 12 + 250 * (i % 3), 46 + 18 * (i // 3)
        parts += [_path(((x, y - 5), (x + 18, y - 5)), i), _text(x + 24, y, name, 12)]
    shown = [(panel, curves) for panel, curves in panels.items() if any(curves.values())]
    for p, (panel, curves) in enumerate(shown):
        x0, y0 = pad + (p % 2) * (wide + pad), top + 24 + (p // 2) * (tall + 60)
        points = [point for curve in curves.values() for point in curve] + ([(0.0, 0.0)] if from_zero else [])
        across, up = ticks([x for x, _ in points]), ticks([y for _, y in points])
        left, right, low, high = across[0], across[-1], up[0], up[-1]
        at = lambda x, y: (x0 + wide * (x - left) / (right - left), y0 + tall * (1 - (y - low) / (high - low)))  # noqa: E731, B023
        parts.append(_text(x0, y0 - 8, panel, 13, weight="bold"))
        for value in up:
            y = at(left, value)[1]
            parts += [_line(x0, y, x0 + wide, y, "#ddd"), _text(x0 - 4, y + 4, f"{value:g}", 10, "#555", "end")]
        for value in across:
            parts.append(_text(at(value, low)[0], y0 + tall + 14, f"{value:g}", 10, "#555", "middle"))
        parts.append(_text(x0 + wide / 2, y0 + tall + 27, x_name, 10, "#555", "middle"))
        for name, curve in curves.items():
            if curve:
                parts.append(_path([at(*point) for point in curve], names.index(name)))
    rows = (len(shown) + 1) // 2
    return _svg(2 * (wide + pad) + 30, top + rows * (tall + 60) + 10, parts)


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
    left, wide, tall, gap, top = 250, 104, 40, 50, 100
    height = top + len(names) * (tall + 8) + 30
    parts = [_text(12, 24, title, 16, weight="bold"), _text(12, 42, note, 12, "#555")]
    for r, name in enumerate(names):
        parts.append(_text(left - 12, top + r * (tall + 8) + tall / 2 + 4, name, 12, anchor="end"))
    for c, (column, curves) in enumerate(shown.items()):
        x0 = left + c * (wide + gap)
        thin = (strands or {}).get(column, {})
        points = [point for curve in (*curves.values(), *chain(*thin.values())) for point in curve]
        across, up = ticks([*x_range, *(x for x, _ in points)]), ticks([y for _, y in points])
        at = lambda x, y: (wide * (x - across[0]) / (across[-1] - across[0]), tall * (up[-1] - y) / (up[-1] - up[0]))  # noqa: E731, B023
        digits = 3 if up[-1] - up[0] < 1 else 2 if up[-1] - up[0] < 10 else 1
        for i, line in enumerate(column.split("\n")):
            parts.append(_text(x0, 62 + 14 * i, line, 12, weight="bold"))
        parts.append(_text(x0, 90, f"{up[0]:g} to {up[-1]:g}", 10, "#555"))
        for r, name in enumerate(names):
            y0 = top + r * (tall + 8)
            parts += [_line(x0, y0, x0 + wide, y0, "#eee"), _line(x0, y0 + tall, x0 + wide, y0 + tall, "#bbb")]
            place = lambda curve: [(x0 + dx, y0 + dy) for dx, dy in (at(*point) for point in curve)]  # noqa: E731, B023
            parts += [_curve(place(curve), "#d5d9dc", 1) for other, curve in curves.items() if curve and other != name]
            parts += [_curve(place(curve), "#8fb8d6", 0.7) for curve in thin.get(name, ())]
            own = place(curves.get(name, ()))
            if not own:
                parts.append(_text(x0 + wide + 4, y0 + tall / 2 + 4, "-", 10, "#555"))
            else:
                x, y = own[-1]
                parts += [
                    _curve(own, COLOURS[0], 2),
                    _text(x + 4, y + 4, f"{curves[name][-1][1]:.{digits}f}", 10),
                ]
        for value, anchor in ((across[0], "start"), (across[-1], "end")):
            parts.append(_text(x0 + at(value, up[0])[0], height - 22, f"{value:g}", 10, "#555", anchor))
    return _svg(left + len(shown) * (wide + gap) + 4, height, parts)


def write(path: Path, svg: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(svg, encoding="utf-8")


def ticks(values: Sequence[float], most: int = 6) -> list[float]:
    """At most `most` + 1 round numbers at equal steps, the first and last of which enclose the values."""
    low, high = min(values), max(values)
    if high == low:
        low, high = low - 0.5, high + 0.5
    power = Decimal(10) ** (Decimal(high - low) / most).adjusted()
    for step in (power * part for part in (1, 2, Decimal("2.5"), 5, 10, 20)):
        first = (Decimal(low) / step).to_integral_value(ROUND_FLOOR)
        last = (Decimal(high) / step).to_integral_value(ROUND_CEILING)
        if last - first <= most:
            return [float((first + i) * step) for i in range(int(last - first) + 1)]
    raise AssertionError("20 times the power of ten below a step always suffices")


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    body = "\n".join(part for part in parts if part)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n{_box(0, 0, width, height, "#ffffff")}\n{body}\n</svg>\n'


def _text(
    x: float, y: float, text: str, size: int, colour: str = "#111", anchor: str = "start", weight: str = "normal"
) -> str:
    style = f'font-size="{size}" font-weight="{weight}" fill="{colour}" text-anchor="{anchor}" {FONT}'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>' if text else ""


def _path(points: Sequence[Point], index: int) -> str:
    """A curve in the index-th stroke: all colours in full lines, then all in broken ones."""
    return _curve(points, COLOURS[index % len(COLOURS)], 2, 6 * (index // len(COLOURS)))


def _curve(points: Sequence[Point], colour: str, width: float, dash: int = 0) -> str:
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    broken = f' stroke-dasharray="{dash} 3"' if dash else ""
    return f'<polyline points="{corners}" fill="none" stroke="{colour}" stroke-width="{width}"{broken}/>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'

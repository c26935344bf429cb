"""The diagram of one GRPO step: what flows where, with shapes. N studies, G reports of one, B = N * G, T tokens.

python -m experiments.docs.step_diagram        # writes docs/images/step.svg
"""

from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from experiments.docs import charts

PICTURE = Path("docs/images/step.svg")
WIDTH, HEIGHT = 2.3, 1.25
ACROSS, DOWN = 2.9, 2.2
"""Size of a box and the distance of one box to the next."""
BOXES = {
    "encode": (0, 0, "1 Encode", "images and question\nof N studies", "#e8eef4"),
    "prefill": (1, 0, "2 Prefill", "vision and prompt,\nonce per study", "#d7e8f5"),
    "sample": (2, 0, "3 Sample", "G reports of each study\ntokens (B, T)", "#d7e8f5"),
    "reward": (3, 0, "4 Reward", "labels (B, 14)\nreward (B)", "#f9dfe1"),
    "advantage": (3, 1, "5 Advantage", "reward minus group\nmean, scaled (N, G)", "#f9dfe1"),
    "loss": (2, 1, "6 Loss", "log-probabilities (B, T):\npolicy, old, reference", "#def0e0"),
    "gradient": (1, 1, "Gradient", "through the reports,\nthen the prompt, once", "#def0e0"),
    "update": (0, 1, "7 Update", "clip, AdamW\non the LoRA adapter", "#fdf3d9"),
}
"""Name -> column, row, title, text, colour."""
ARROWS = {
    ("encode", "prefill"): "", ("prefill", "sample"): "keys,\nvalues", ("sample", "reward"): "texts",
    ("reward", "advantage"): "", ("advantage", "loss"): "A", ("loss", "gradient"): "", ("gradient", "update"): "",
    ("update", "encode"): "next step", ("prefill", "gradient"): "the same prefix", ("sample", "loss"): "tokens",
}  # fmt: skip


def corner(name: str) -> tuple[float, float]:
    """The lower left corner of a box."""
    column, row, *_ = BOXES[name]
    return column * ACROSS, -row * DOWN


def arrow(axes: Axes, start: str, end: str, text: str) -> None:
    """From edge to edge, with its text beside it."""
    (x, y), (to_x, to_y) = corner(start), corner(end)
    if y == to_y:
        right = to_x > x
        tail, head = (x + WIDTH * right, y + HEIGHT / 2), (to_x + WIDTH * (not right), y + HEIGHT / 2)
    else:
        down = to_y < y
        tail, head = (x + WIDTH / 2, y + HEIGHT * (not down)), (to_x + WIDTH / 2, to_y + HEIGHT * down)
    axes.annotate("", head, tail, arrowprops={"arrowstyle": "-|>", "color": charts.GREY, "lw": 1.4, "shrinkA": 0,
                                              "shrinkB": 0})  # fmt: skip
    middle = (tail[0] + head[0]) / 2, (tail[1] + head[1]) / 2
    if y == to_y:
        axes.annotate(text, (middle[0], middle[1] + 0.08), ha="center", va="bottom", size=8, color=charts.GREY)
    else:
        axes.annotate(text, (middle[0] + 0.08, middle[1]), ha="left", va="center", size=8, color=charts.GREY)


def diagram() -> str:
    """SVG."""
    with rc_context(charts.STYLE):
        figure = Figure(figsize=(8.4, 3.3), layout="constrained")
        axes = figure.add_subplot()
        for name, (_, _, title, text, colour) in BOXES.items():
            x, y = corner(name)
            axes.add_patch(
                FancyBboxPatch((x, y), WIDTH, HEIGHT, "round,pad=0,rounding_size=0.12", fc=colour, ec="#888888")
            )
            axes.annotate(title, (x + WIDTH / 2, y + HEIGHT - 0.13), ha="center", va="top", size=12, weight="bold")
            axes.annotate(text, (x + WIDTH / 2, y + 0.15), ha="center", va="bottom", size=9.5)
        for (start, end), text in ARROWS.items():
            arrow(axes, start, end, text)
        axes.set(xlim=(-0.1, 3 * ACROSS + WIDTH + 0.1), ylim=(-DOWN - 0.1, HEIGHT + 0.1), aspect="equal")
        axes.axis("off")
        return charts.finished(figure, "One GRPO step")


def redraw() -> None:
    charts.write(PICTURE, diagram())


if __name__ == "__main__":
    redraw()

"""A contact sheet of phantom studies: `python experiments/docs/phantom_sheet.py docs/images/phantom_sheet.png`.

One clear case per condition (severity above 0.6, alone in the picture where one is found), a normal chest at each site,
a subtle and an invisible finding.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw

from mrg_grpo.data.phantom.case import PhantomCase, sample_case
from mrg_grpo.data.phantom.draw import render
from mrg_grpo.labels import CONDITIONS

TILE, GAP, COLUMNS = 224, 18, 6


def find(accept) -> PhantomCase:
    """The first case of the train split that `accept` takes."""
    return next(case for case in (sample_case("train", i) for i in range(20000)) if accept(case))


def only(name: str, low: float, high: float):
    return lambda c: len(c.findings) == 1 and c.findings[0].condition == name and low <= c.findings[0].severity < high


def cases() -> list[tuple[str, PhantomCase]]:
    chosen = [(f"normal, site {site}", find(lambda c, s=site: not c.findings and c.site == s)) for site in "AB"]
    for name in CONDITIONS[:13]:
        chosen.append((name, find(only(name, 0.65, 1.01))))
    chosen.append(("subtle nodule", find(only("Lung Lesion", 0.15, 0.3))))
    chosen.append(("invisible opacity", find(only("Lung Opacity", 0.0, 0.15))))
    chosen.append(("four findings", find(lambda c: len(c.findings) >= 4)))
    return chosen


def main(path: Path) -> None:
    tiles = cases()
    rows = -(-len(tiles) // COLUMNS)
    sheet = Image.new("L", (COLUMNS * TILE, rows * (TILE + GAP)), 255)
    draw = ImageDraw.Draw(sheet)
    for i, (title, case) in enumerate(tiles):
        x, y = i % COLUMNS * TILE, i // COLUMNS * (TILE + GAP)
        draw.text((x + 4, y + 3), title, fill=0)
        sheet.paste(Image.fromarray(render(case)), (x, y + GAP))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

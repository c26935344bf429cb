"""`mrg-grpo view`: write the page once or, with --watch, whenever the run has moved on, until it is done.

The page finds out on its own that a newer one was written (assets/probe.js), reloads itself and keeps filters, choice
and place. The labeler is loaded when the first text is there to be coloured, pictures are rendered once.
"""

from __future__ import annotations

import time
from pathlib import Path

from mrg_grpo.files import write_whole
from mrg_grpo.labelers import config_labeler
from mrg_grpo.labelers.attribution import Attribution, Attributor
from mrg_grpo.view.cases import Pictures
from mrg_grpo.view.page import build
from mrg_grpo.view.records import Records, read_run, signature
from mrg_grpo.view.render import render

WATCH_SECONDS = 5
REMEDY = "name another file with -o"
CACHE = "view-findings.json"
"""In RUN_DIR: which sentence carries which finding, by hash of the text. It may be deleted."""


class Viewer:
    """Makes pages of one run; what is costly is kept from page to page."""

    def __init__(self, path: Path, plain: bool = False) -> None:
        self.path, self.plain = path, plain
        self.pictures = Pictures()
        self.attributor: Attributor | None = None

    def page(self, watching: bool = False) -> tuple[str, bool]:
        """(HTML, whether the run is done). Only a page of a run that goes on looks for a newer one."""
        records = read_run(self.path)
        refresh = WATCH_SECONDS if watching and not records.done else 0
        colours = None if self.plain or records.textless else self._attribute(records)
        page = build(records, self.pictures, colours, stamp=str(time.time_ns()), refresh=refresh)
        return render(page), records.done

    def _attribute(self, records: Records):
        def attribute(reports: list[str]) -> list[Attribution]:
            if self.attributor is None:
                self.attributor = Attributor(config_labeler(records.config), self.path / CACHE)
            return self.attributor(reports)

        return attribute


def view(run_dir: str, output: str | None = None, watching: bool = False, plain: bool = False) -> None:
    """Write the page of RUN_DIR to `output`, default RUN_DIR/page.html."""
    path = Path(run_dir)
    target = Path(output) if output else path / "page.html"
    viewer = Viewer(path, plain)
    seen = signature(path)  # before reading: what is written meanwhile is seen at the next look
    text, done = viewer.page(watching)
    write_whole(target, text, REMEDY)  # at once: a browser never loads half a page
    print(f"{target} ({len(text.encode()) / 1e6:.1f} MB): open it in a browser", flush=True)
    if watching and not done:
        print("watching; Ctrl-C ends it, the run goes on", flush=True)
    while watching and not done:
        time.sleep(WATCH_SECONDS)
        now = signature(path)
        if now != seen:
            seen = now
            text, done = viewer.page(watching)
            write_whole(target, text, REMEDY)

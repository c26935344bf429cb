"""A page's tree -> one HTML file: assets inlined, data as JSON in a script tag that no browser runs.

Nothing of the data is ever markup. It is JSON in which every "<" is written as an escape, so neither a closing script
tag nor the start of a comment can be in it; the scripts read it by JSON.parse and put it on the page as text nodes. On
top the page forbids itself everything by a content security policy: no network, no script and no style but its own,
by their hashes, pictures from data addresses alone.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from dataclasses import asdict
from importlib.resources import files

from mrg_grpo.view.page import Page

SCRIPTS = ("dom.js", "curves.js", "tables.js", "report.js", "browser.js", "main.js")
"""In the order in which they are run: each may use those before it."""


def render(page: Page) -> str:
    """The whole file as a string."""
    style, probe = asset("page.css"), asset("probe.js")
    script = "\n".join(asset(name) for name in SCRIPTS)
    parts = {
        "policy": policy([style], [probe, script]),
        "title": html.escape(page.title),
        "stamp": html.escape(page.stamp),
        "style": style,
        "probe": probe,
        "script": script,
        "data": safe_json(asdict(page)),
    }
    # one pass over the template alone: what is put in is never looked at again
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match.group(1)], asset("page.html"))


def safe_json(tree: object) -> str:
    """JSON that may stand inside a script tag; non-ASCII is escaped too, so that any string can be written."""
    return json.dumps(tree, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def policy(styles: list[str], scripts: list[str]) -> str:
    """A content security policy that allows these inline styles and scripts, and frames of the page itself."""

    def hashes(texts: list[str]) -> str:
        digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    return (
        f"default-src 'none'; img-src data:; style-src {hashes(styles)}; script-src {hashes(scripts)}; "
        "frame-src 'self' file:; base-uri 'none'; form-action 'none'"
    )


def asset(name: str) -> str:
    return files("mrg_grpo.view").joinpath("assets", name).read_text(encoding="utf-8").strip()

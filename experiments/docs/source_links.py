"""A hook of MkDocs: links of a page that lead out of docs/ become links to the repository.

A page links to a source file as GitHub shows it, `[grpo.py](../mrg_grpo/grpo.py)`. The site has no such file, so there
the link is `URL/blob/main/mrg_grpo/grpo.py`, with the address from setup.py. A link to nothing is a warning, which
`mkdocs build --strict` does not pass.
"""

import logging
import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?P<head>\]\()(?P<path>\.\./[^)#\s]*)")
CODE = re.compile(r"(^```.*?^```$|`[^`\n]*`)", re.MULTILINE | re.DOTALL)
log = logging.getLogger("mkdocs.hooks.source_links")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """MkDocs calls this with the text of every page."""
    return linked(markdown, Path(page.file.abs_src_path).parent, Path(config.docs_dir))


def linked(markdown: str, folder: Path, docs: Path) -> str:
    """The text of a page in `folder`, its links out of `docs` led to the repository; code is left as it is."""

    def target(found: re.Match) -> str:
        path = Path(os.path.normpath(folder / found["path"]))
        if path.is_relative_to(docs):
            return found[0]
        if not path.exists() or not path.is_relative_to(ROOT):
            log.warning("the link %s in %s leads to no file of the repository", found["path"], folder)
        kind = "tree" if path.is_dir() else "blob"
        return f"{found['head']}{repository()}/{kind}/main/{os.path.relpath(path, ROOT)}"

    parts = CODE.split(markdown)
    return "".join(part if i % 2 else LINK.sub(target, part) for i, part in enumerate(parts))


def repository() -> str:
    """The address that setup.py states."""
    found = re.search(r'^URL = "(.+)"', (ROOT / "setup.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert found, "setup.py states no URL"
    return found[1]

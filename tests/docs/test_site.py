"""What `make docs` does to pages: links to sources, docstrings as Markdown. The build itself runs in .ci/run."""

import logging

from experiments.docs.docstrings import as_markdown
from experiments.docs.source_links import ROOT, linked, repository


def test_links_out_of_the_docs_lead_to_the_repository_and_code_stays(caplog):
    docs, text = (
        ROOT / "docs",
        "[a](../mrg_grpo/grpo.py#L1) [b](../../tests) [c](gpus.md) `[d](../x.py)`\n```\n[e](../y)\n```",
    )
    assert linked(text.replace("../mrg", "../../mrg"), docs / "guides", docs) == (
        f"[a]({repository()}/blob/main/mrg_grpo/grpo.py#L1) [b]({repository()}/tree/main/tests) [c](gpus.md) "
        "`[d](../x.py)`\n```\n[e](../y)\n```"
    )
    assert linked("[a](../index.md)", docs / "guides", docs) == "[a](../index.md)"  # MkDocs checks this one
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        linked("[a](../mrg_grpo/gone.py)", docs, docs)
        linked("[a](../../outside)", docs, docs)
    assert [record.args[0] for record in caplog.records] == ["../mrg_grpo/gone.py", "../../outside"]


def test_the_address_of_the_repository_stands_in_one_place():
    for page in [*ROOT.glob("*.*"), *(ROOT / ".github").rglob("*.*")]:
        if page.is_file() and page.name != "setup.py":
            assert repository() not in page.read_text(encoding="utf-8"), page


def test_docstrings_become_markdown():
    assert as_markdown("Choices\n* one\n  and on\n* two") == "Choices\n\n* one\n  and on\n* two"
    assert as_markdown("form     one of them\nsplit_file   by id,\n             or None") == (
        "* `form`: one of them\n* `split_file`: by id,\n             or None"
    )
    assert (
        as_markdown("name   numerator    denominator\nof a   sum")
        == "    name   numerator    denominator\n    of a   sum"
    )
    assert as_markdown("Inside <report>:\n\n    <code>  x") == "Inside &lt;report>:\n\n    <code>  x"

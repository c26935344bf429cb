"""README.md, its neighbours and the docs: the tree names every folder, commands, links, paths and versions are real."""

import json
import re
from pathlib import Path

import pytest

from experiments.benchmarks import performance_page
from mrg_grpo import __version__
from mrg_grpo.cli import parser
from mrg_grpo.commands import COMMANDS
from mrg_grpo.config import Config, apply_override
from mrg_grpo.toml import build


@pytest.fixture
def root(request) -> Path:
    return request.config.rootpath


def pages(root: Path) -> list[Path]:
    return [*sorted(root.glob("*.md")), *sorted((root / "docs").rglob("*.md"))]


def tree_of(text: str) -> list[str]:
    """The lines of the README's tree."""
    return text.split("## Tree\n")[1].split("\n## ")[0].strip("\n").splitlines()


def test_the_tree_names_every_folder_in_a_screen(root):
    lines = tree_of((root / "README.md").read_text(encoding="utf-8"))
    assert len(lines) <= 25
    top, named = "", set()
    for line in lines:
        inner = line.startswith("      ")
        for name in re.findall(r"(?:^ +|\s{4,})([\w.]+(?:/|\.py))(?=\s|$)", line):
            path = f"{top}{name}" if inner else name
            assert (root / path).exists(), path
            named.add(path)
            top = top if inner else name
    folders = {"tests/", "docs/", "mrg_grpo/", "experiments/"} | {
        f"{parent}/{path.name}/"
        for parent in ("mrg_grpo", "experiments")
        for path in (root / parent).iterdir()
        if path.is_dir() and path.name not in ("__pycache__", "huatuo_7b")
    }
    assert {name for name in named if name.endswith("/")} == folders


def test_every_command_is_in_the_readme(root):
    listed = re.findall(r"^    mrg-grpo (\w+)", (root / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


def test_links_lead_somewhere(root):
    for page in pages(root):
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_contributing_names_files_that_are_there(root):
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = {path for path in re.findall(r"`(\.?[\w-]+/[\w./-]+|\w+\.(?:md|txt))`", text) if "NAME" not in path}
    site = (root / "mkdocs.yml").read_text(encoding="utf-8")  # `make docs` holds its pages to be there
    missing = {path for path in named if not (root / path).exists() and path.removeprefix("docs/") not in site}
    assert len(named) > 30 and not missing
    for owner, name in re.findall(r"`(mrg_grpo/[a-z_0-9/]+\.py)`:[^`]*`(?:\w+\.)?(\w+)`", text):
        assert re.search(rf"\b{name}\b", (root / owner).read_text(encoding="utf-8")), f"{owner} has no {name}"


def test_the_version_is_the_same_everywhere(root):
    assert f"version: {__version__}\n" in (root / "CITATION.cff").read_text(encoding="utf-8")
    released = re.findall(r"^## \[([\d.]+)\]", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert released[0] == __version__
    assert f"{__version__.rpartition('.')[0]}.x" in (root / "SECURITY.md").read_text(encoding="utf-8")


def test_anchors_are_headings(root):
    for page in pages(root):
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(?<!\.png)#([^)]+)\)", page.read_text(encoding="utf-8")):
            headings = re.findall(r"^#+ (.*)$", (page.parent / target if target else page).read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{page.name}: {target}#{anchor}"


def test_ratios_beside_trl_are_those_of_the_record(root):
    """Wherever a page says how many times as fast as TRL's a step is, or how much of its memory it takes."""
    rows = json.loads((performance_page.RESULTS / "step_against_trl.json").read_text())["rows"]
    speeds, memory = ([row[name] for row in rows] for name in ("speed_ratio", "memory_ratio"))
    speed = f"{min(speeds):.1f} to {max(speeds):.1f}"
    percent = f"{min(memory):.0%} to {max(memory):.0%}"
    said = {page.name: page.read_text(encoding="utf-8") for page in pages(root)}
    assert speed in said["README.md"] and f"{1 / max(memory):.0f} to {1 / min(memory):.0f}" in said["README.md"]
    for name in ("performance.md", "shared-prefix.md"):
        assert f"{speed} times as fast" in said[name] and percent in said[name], name


def test_the_hand_written_pages_are_few_and_short(root):
    """Of the four groups: what is written by hand, without code and tables that programs write."""
    groups = [page for name in ("guides", "explanation", "reference") for page in (root / "docs" / name).glob("*.md")]
    assert len(groups) + 1 <= 15
    for page in [root / "docs" / "index.md", *groups]:
        if page.parent.name != "reference" and page.name != "grpo.md":
            assert len(page.read_text(encoding="utf-8").split()) <= 1500, page
    template = root / "experiments" / "docs" / "reading_the_loop.template.md"
    assert len(template.read_text(encoding="utf-8").split()) <= 1500
    assert len((root / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def commands(text: str) -> list[str]:
    """Lines of code, continued ones joined, that begin with one of our commands; without comments."""
    joined = re.sub(r"\\\n\s*", " ", text)
    code = re.findall(r"^(?:    )?((?:\.venv/bin/)?(?:mrg-grpo|python|make)\b .*)$", joined, re.MULTILINE)
    inline = re.findall(r"`((?:mrg-grpo|python|make) [^`\n]+)`", joined)
    return [re.split(r" #|    ", line.strip())[0] for line in code + inline]


def test_commands_of_the_docs_exist(root):
    """Every command line names a real sub-command with real options, a script that is there, a target of make."""
    makefile = (root / "Makefile").read_text()
    options = {
        name: {option for action in sub._actions for option in action.option_strings}
        for name, sub in next(iter(parser()._subparsers._group_actions)).choices.items()
    }
    seen = 0
    for page in pages(root):
        for line in commands(page.read_text(encoding="utf-8")):
            words = line.replace("[", " ").replace("]", " ").split(";")[0].split()
            program, first = words[0].removeprefix(".venv/bin/"), words[1]
            where = f"{page.name}: {line}"
            seen += 1
            if program == "mrg-grpo" or (words[1:3] == ["-m", "mrg_grpo"] and words[3:]):
                name = first if program == "mrg-grpo" else words[3]
                assert name in COMMANDS, where
                used = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)} - {"-m"}
                assert used <= options[name], f"{where}: no {used - options[name]}"
                tree: dict = {}
                for override in re.findall(r"--set (\S+=\S+)", line):
                    apply_override(tree, override)
                build(Config, tree, where)
            elif program == "make":
                target = next(word for word in words[1:] if "=" not in word)
                assert re.search(rf"^{re.escape(target.rstrip(','))}:", makefile, re.MULTILINE), where
            elif first == "-m" and words[2].startswith(("mrg_grpo", "experiments")):
                module = root / words[2].replace(".", "/")
                assert module.with_suffix(".py").exists() or (module / "__init__.py").exists(), where
            elif first == "-m":
                assert words[2] == "pytest" and all((root / w).exists() for w in words if w.startswith("tests/")), where
            elif first.startswith("experiments/") or first.endswith(".py"):
                assert (root / first).exists() or first == "to_r2gen.py", where
    assert seen > 30

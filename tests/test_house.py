"""The house: what a folder's first page says, and how long a file may be. `make lint` holds the imports."""

import ast

import pytest

LONGEST = 400


def test_every_folder_says_what_belongs_in_it(request):
    package = request.config.rootpath / "mrg_grpo"
    folders = {path.parent for path in package.rglob("*.py")} - {package}
    assert len(folders) > 8
    for folder in folders:
        words = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
        for part in ("Not here:", "May import:"):
            assert part in words, f"{folder.name}/__init__.py: no {part}"


@pytest.mark.parametrize("folder", ["mrg_grpo", "experiments"])
def test_no_file_is_too_long_to_be_read(request, folder):
    files = (request.config.rootpath / folder).rglob("*.py")
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert not {name: length for name, length in lengths.items() if length > LONGEST}

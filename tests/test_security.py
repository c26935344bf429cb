"""Nothing that is read can run: a scan of the source for calls that would let it, and links in a data folder."""

import ast
import json
from pathlib import Path

import pytest

from mrg_grpo.data import load_studies
from mrg_grpo.errors import UserError

FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv", "os.spawnv", "pickle.load",
    "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open", "dill.load", "dill.loads",
    "cloudpickle.load", "cloudpickle.loads", "joblib.load", "yaml.load", "yaml.unsafe_load", "pandas.read_pickle",
    "subprocess.getoutput", "subprocess.getstatusoutput", "torch.jit.load", "torch.hub.load",
    "asyncio.create_subprocess_shell", "runpy.run_path", "runpy.run_module", "tempfile.mktemp",
}  # fmt: skip
"""Calls that run code out of data, or hand text to a shell."""
MUST_BE = {"torch.load": ("weights_only", True)}
MUST_NOT_BE = {"shell": True, "allow_pickle": True, "trust_remote_code": True, "weights_only": False}


def dotted(node: ast.expr) -> str:
    """The name of what is called: "torch.load"; "" for anything that is no plain name."""
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value)
        return f"{owner}.{node.attr}" if owner else ""
    return node.id if isinstance(node, ast.Name) else ""


def imported(tree: ast.Module) -> dict[str, str]:
    """Local name -> what it stands for: {"np": "numpy", "load": "torch.load"}."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.asname: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return names


def dangerous(source: str) -> list[str]:
    """ "line: call" for each call that lets data run."""
    tree = ast.parse(source)
    names, found = imported(tree), []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        first, dot, rest = dotted(node.func).partition(".")
        name = names.get(first, first) + dot + rest
        given = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
        wrong = name in FORBIDDEN or any(key in given and given[key] is value for key, value in MUST_NOT_BE.items())
        if name in MUST_BE:
            key, value = MUST_BE[name]
            wrong = wrong or given.get(key) is not value
        if wrong:
            found.append(f"{node.lineno}: {name}")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "import torch as t\nt.load('x')",
        "from torch import load\nload('x')",
        "import pickle\npickle.loads(b'')",
        "from pickle import load as read\nread(f)",
        "eval('1')",
        "exec(text)",
        "import os\nos.system(name)",
        "import subprocess\nsubprocess.run(name, shell=True)",
        "import yaml\nyaml.load(text)",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
    ],
)
def test_the_scan_finds(source):
    assert len(dangerous(source)) == 1


def test_the_scan_lets_pass():
    assert not dangerous(
        "import torch\ntorch.load('x', weights_only=True)\nmodel.eval()\nre.compile('x')\nos.path.join('a')"
    )


def test_nothing_in_the_package_runs_what_it_reads(request):
    root = request.config.rootpath
    files = sorted([*(root / "mrg_grpo").rglob("*.py"), *(root / "experiments").rglob("*.py"), root / "setup.py"])
    assert len(files) > 80
    found = {str(path): dangerous(path.read_text(encoding="utf-8")) for path in files}
    assert not {path: calls for path, calls in found.items() if calls}


def test_the_package_starts_no_process(request):
    """Experiments do; `mrg_grpo` has no reason to, whatever the data say."""
    for path in (request.config.rootpath / "mrg_grpo").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
        modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not modules & {"subprocess", "pty", "marshal", "shelve", "dill", "cloudpickle", "joblib"}, path


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x.png", "a/../../x.png", "..", "a/..", "C:/x.png", "a\\..\\x.png", "~/x"]
)
@pytest.mark.parametrize("form", ["iu_xray_r2gen", "mimic_cxr_r2gen"])
def test_no_path_of_a_data_file_leaves_the_data_folder(tmp_path, form, name):
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    (tmp_path / "x.png").touch()
    entry = {"id": "a", "report": "Clear.", "image_path": [name]}
    (root / "annotation.json").write_text(json.dumps({"train": [entry], "val": [], "test": []}))
    if name == "~/x":  # a name like any other: nothing expands it
        assert load_studies(form, root, allow_missing=True)["train"][0].images == ()
        return
    with pytest.raises(UserError, match=r"annotation\.json"):
        load_studies(form, root, allow_missing=True)


def test_a_link_inside_the_data_folder_is_the_users_own(tmp_path):
    """Documented in mrg_grpo/data/records.py: links are followed, names that climb out through one are not."""
    root, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    (root / "images").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "0.png").touch()
    (root / "images" / "linked").symlink_to(elsewhere)

    def load(name: str):
        entry = {"id": "a", "report": "Clear.", "image_path": [name]}
        (root / "annotation.json").write_text(json.dumps({"train": [entry], "val": [], "test": []}))
        return load_studies("iu_xray_r2gen", root)["train"][0].images

    assert Path(load("linked/0.png")[0]).is_file()
    with pytest.raises(UserError, match="lies outside"):
        load("linked/../../../x.png")

"""Nothing that is read can run, by a scan of the source for calls that would let it; no path leaves the data folder."""

import ast
import json
import shutil
from pathlib import Path

import pytest
from fake_run import lines, write_run
from PIL import Image

from mrg_grpo.data import load_studies
from mrg_grpo.embedded import labeler_path
from mrg_grpo.errors import UserError
from mrg_grpo.labelers import CheXbert
from mrg_grpo.view import cases
from mrg_grpo.view.page import Page, build
from mrg_grpo.view.records import read_run

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


NO_CODE = {
    "GenerationConfig", "PeftModel", "PeftConfig", "Gemma3ImageProcessorPil", "GotOcr2ImageProcessorPil",
    "LlavaImageProcessorPil", "Qwen2VLImageProcessorPil",
}  # fmt: skip
"""Classes whose from_pretrained looks for no code beside the files; of every other it must be told what to do."""


def trusting(source: str) -> list[str]:
    """ "line: call" for each from_pretrained that does not say whether code may run, or says so by itself."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner = dotted(node.func.value)
        if node.func.attr != "from_pretrained" or owner in NO_CODE:
            continue
        said = next((k.value for k in node.keywords if k.arg == "trust_remote_code"), None)
        wish = dotted(said) if said is not None else ""
        never = isinstance(said, ast.Constant) and said.value is False
        if not (never or wish == "trust" or wish.endswith("model.trust_remote_code")):
            found.append(f"{node.lineno}: {owner}.from_pretrained")
    return found


def test_every_loader_is_told_whether_code_may_run(request):
    """Not at all, or as the user's own configuration says: a loader that is not told asks at the terminal."""
    assert trusting("AutoTokenizer.from_pretrained(p)") and trusting("kind.from_pretrained(p, trust_remote_code=x)")
    assert trusting("A.from_pretrained(p, trust_remote_code=True)")
    assert not trusting("A.from_pretrained(p, trust_remote_code=False)\nB.from_pretrained(p, trust_remote_code=trust)")
    files = [*(request.config.rootpath / "mrg_grpo").rglob("*.py")]
    found = {str(path): trusting(path.read_text(encoding="utf-8")) for path in files}
    assert not {path: calls for path, calls in found.items() if calls}


def test_code_beside_a_labelers_tokenizer_never_runs(tmp_path, monkeypatch):
    folder, ran = tmp_path / "labeler", tmp_path / "ran"
    shutil.copytree(labeler_path(), folder)
    (folder / "evil.py").write_text(
        f"open({str(ran)!r}, 'w')\nfrom transformers import PreTrainedTokenizerFast\n"
        "class Evil(PreTrainedTokenizerFast): pass\n"
    )
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    monkeypatch.setattr("builtins.input", lambda *_: "yes")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    try:
        CheXbert.load(folder)
    except UserError as error:
        assert "no tokenizer at" in str(error)
    assert not ran.exists()


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


@pytest.mark.parametrize("name", ["/etc/passwd", "../x.png", "a/../../x.png", "..", "a/..", "C:/x.png", "a\\..\\x.png"])
def test_no_path_of_a_table_leaves_the_data_folder(tmp_path, name):
    root = tmp_path / "data"
    root.mkdir()
    (tmp_path / "x.png").touch()
    for cell in (name, [name]):
        (root / "t.jsonl").write_text(json.dumps({"study": "a", "report": "Clear.", "image": cell}))
        with pytest.raises(UserError, match=r"t\.jsonl line 1 names the image"):
            load_studies("table", root, files="t.jsonl", allow_missing=True)


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


# ---- the run page: pictures that a run's records name


def page_with(run: Path, image: str, **settings) -> Page:
    """The page of a run of which every record names this picture."""
    write_run(run, **settings)
    for name in ("rollouts.jsonl", "followed.jsonl", "predictions_before.jsonl", "predictions.jsonl"):
        records = [json.loads(line) for line in (run / name).read_text().splitlines()]
        lines(run / name, [record | {"images": [image]} for record in records])
    return build(read_run(run), cases.Pictures(), None, stamp="1")


@pytest.fixture
def data(tmp_path) -> Path:
    """A data folder with a picture, and beside it a folder whose name begins alike, with one that is nobody's."""
    for name in ("data/images", "data-of-mine"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / name / "x.png")
    (tmp_path / "data" / "images" / "link.png").symlink_to(tmp_path / "data-of-mine" / "x.png")
    (tmp_path / "data" / "images" / "folder").symlink_to("../../data-of-mine")
    return tmp_path / "data"


OUTSIDE = {
    "absolute": "{data}-of-mine/x.png",
    "climbs": "{data}/images/../../data-of-mine/x.png",
    "a link": "{data}/images/link.png",
    "through a link": "{data}/images/folder/x.png",
    "climbs through a link": "{data}/images/folder/../data-of-mine/x.png",
    "relative to nothing": "x.png",
    "the folder itself": "{data}/images/..",
    "no path": "{data}/images/\0.png",
    "an address of another kind": "file://{data}-of-mine/x.png",
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_the_page_opens_no_picture_outside_the_data_folder(tmp_path, data, monkeypatch, kind):
    monkeypatch.chdir(tmp_path / "data-of-mine")
    opened = []
    monkeypatch.setattr(cases, "open_image", opened.append)
    image = OUTSIDE[kind].format(data=data)
    page = page_with(tmp_path / "run", image, data_form="iu_xray_r2gen", data_root=str(data))
    assert not opened and page.pictures == []
    shown = [*page.groups, *page.tests, *page.followed]
    assert len(shown) == 19 and {tuple(case.unseen) for case in shown} == {
        (f"image {image} lies outside the data folder {data} and was not opened",)
    }
    assert "1 pictures could not be opened" in page.notes[0]


@pytest.mark.parametrize("form", ["phantom", "phantom_rare"])
def test_the_page_of_a_phantom_run_opens_no_file(tmp_path, data, monkeypatch, form):
    """Its data.root is "", which is not the folder that the command runs in."""
    monkeypatch.chdir(data)
    page = page_with(tmp_path / "run", "images/x.png", data_form=form)
    assert page.pictures == [] and "images/x.png was not opened" in page.groups[0].unseen[0]


@pytest.mark.parametrize("root", ["{data}", "{data}/../data", "{data}-linked", "."])
@pytest.mark.parametrize("image", ["images/x.png", "images/../images/x.png"])
def test_the_page_opens_what_lies_inside(tmp_path, data, monkeypatch, root, image):
    """The data folder may be named by a link, or from where the command runs, as the run itself had it."""
    (tmp_path / "data-linked").symlink_to(data)
    monkeypatch.chdir(data)
    root = root.format(data=data)
    page = page_with(tmp_path / "run", f"{root}/{image}", data_form="iu_xray_r2gen", data_root=root)
    assert len(page.pictures) == 1 and page.groups[0].unseen == []


def test_a_phantom_address_is_a_picture_of_phantom_runs_alone(tmp_path, data):
    assert page_with(tmp_path / "run", "phantom:7/train/12", data_form="phantom").pictures
    page = page_with(tmp_path / "other", "phantom:7/train/12", data_form="iu_xray_r2gen", data_root=str(data))
    assert page.pictures == []


def test_a_picture_that_is_gone_is_said_in_its_place(tmp_path, data):
    page = page_with(tmp_path / "run", f"{data}/gone.png", data_form="iu_xray_r2gen", data_root=str(data))
    assert page.groups[0].unseen == [f"image {data}/gone.png is missing; check the data folder, or leave the study out"]

"""Shared fixtures. Real data lies beside the project in ../shared; without it those tests skip and say so."""

import os
import shutil
import signal
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several workers: one thread each, and so for all that it starts
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import pytest
import torch

# the numbers that tests hold are a CPU's, in fp32 or fp64; "auto" would take a GPU, in bf16. So there is none, for this
# process, which has not asked for one yet, and for all that it starts
os.environ["CUDA_VISIBLE_DEVICES"] = ""
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", min(2, os.cpu_count() or 1))))
if hasattr(signal, "SIGHUP"):  # tests started under nohup ignore it, and so would every command that they start
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def at_the_project_root(request, monkeypatch):
    """Relative paths are the project's, wherever pytest was started and whatever a test before has done."""
    monkeypatch.chdir(request.config.rootpath)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data; MRG_REQUIRE_SHARED=1 turns its absence from a skip into a failure."""
    if not SHARED.is_dir():
        if os.environ.get("MRG_REQUIRE_SHARED") == "1":
            pytest.fail(f"MRG_REQUIRE_SHARED=1 but {SHARED} is not there")
        pytest.skip(f"needs the real data in {SHARED}, which is not there")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def phantom_is_drawn_once():
    """Half a second of every command: 9,500 reports, always the same."""
    from mrg_grpo.data.phantom import dataset

    drawn, draw = {}, dataset.load

    def load(root="", **options):
        if "sizes" in options:  # a test of the drawing itself
            return draw(root, **options)
        key = repr((sorted(options.items()), sorted(dataset.SIZES.items())))
        if key not in drawn:
            drawn[key] = draw(root, **options)
        return {split: list(studies) for split, studies in drawn[key].items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "load", load)
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """A function: the options of tiny.write_checkpoint -> its folder, made once, for reading alone."""
    from tiny import write_checkpoint  # transformers is slow to import, and most tests need none of it

    made: dict[str, tuple[Path, dict]] = {}

    def folder(**options) -> Path:
        name = repr(sorted(options.items()))
        if name not in made:
            path = write_checkpoint(tmp_path_factory.mktemp("tiny"), **options)
            made[name] = path, written(path)
        return made[name][0]

    yield folder
    for path, before in made.values():
        assert written(path) == before, f"a test has changed the shared checkpoint {path}; take own_checkpoint"


def written(folder: Path) -> dict[str, int]:
    """When each file was last written."""
    return {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}


@pytest.fixture
def own_checkpoint(tiny_checkpoint, tmp_path) -> Path:
    """A copy of the tiny Qwen2.5-VL, to be damaged."""
    return Path(shutil.copytree(tiny_checkpoint(), tmp_path / "own_checkpoint"))


@pytest.fixture(scope="session")
def labeler():
    """The embedded labeler, for reading reports alone."""
    from mrg_grpo.labelers import embedded_labeler

    return embedded_labeler()


@pytest.fixture
def small_phantom(monkeypatch):
    """The phantom with few studies, where a test is not about their number: a command labels every training report."""
    monkeypatch.setattr("mrg_grpo.data.phantom.dataset.SIZES", {"train": 64, "val": 16, "test": 16})


@pytest.fixture(scope="session")
def studies(tmp_path_factory) -> list:
    """Six studies of one image each, of two sizes."""
    from PIL import Image

    from mrg_grpo.data.study import Study

    folder = tmp_path_factory.mktemp("images")
    made = []
    for i in range(6):
        pixels = torch.randint(0, 256, (56, 56 + 28 * (i % 2)), generator=torch.Generator().manual_seed(i))
        Image.fromarray(pixels.to(torch.uint8).numpy()).save(folder / f"{i}.png")
        made.append(Study(f"s{i}", (str(folder / f"{i}.png"),), "aei ou"[i % 3 :], "train"))
    return made

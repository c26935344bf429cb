"""Image files that cannot be read: found by their headers before a run, left out by name, and kept apart on resume."""

import json
from pathlib import Path

import pytest
from many import on_ranks
from PIL import Image

from mrg_grpo.data import images, load_studies, verify
from mrg_grpo.data.verify import image_faults
from mrg_grpo.errors import UserError


@pytest.fixture
def root(tmp_path) -> Path:
    """Six training and three test studies of two images each, of R2Gen's form."""
    tree: dict = {"train": [], "val": [], "test": []}
    (tmp_path / "images").mkdir()
    for split, count in (("train", 6), ("test", 3)):
        for n in range(count):
            names = [f"{split}{n}{side}.png" for side in "ab"]
            for name in names:
                Image.effect_noise((40, 40), 60).save(tmp_path / "images" / name)
            tree[split].append({"id": f"{split}{n}", "report": "Clear.", "image_path": names, "split": split})
    (tmp_path / "annotation.json").write_text(json.dumps(tree))
    return tmp_path


def load(root: Path, verify=("train", "test"), **options):
    return load_studies("iu_xray_r2gen", root, verify=verify, **options)


def cut(path: Path) -> None:
    """The header stays, what lies behind it does not."""
    path.write_bytes(path.read_bytes()[:200])


def test_headers_that_are_refused_are_counted_and_named_before_a_run(root):
    folder = root / "images"
    (folder / "train1a.png").write_bytes(b"")
    (folder / "train2b.png").write_bytes(b"<html>not found</html>")
    (folder / "test0a.png").unlink()
    cut(folder / "test1a.png")  # which no header shows
    with pytest.raises(UserError) as caught:
        load(root)
    message = str(caught.value)
    assert "1 of 18 images are missing from" in message and "2 of 18 images cannot be read" in message
    assert f"train1a.png, train2b.png (image {folder}/train1a.png is empty (0 bytes))" in message
    assert message.endswith("put them there, or set data.allow_missing = true to go on without them")

    studies = load(root, allow_missing=True)
    assert [len(study.images) for study in studies["train"]] == [2, 1, 1, 2, 2, 2]
    assert [len(study.images) for study in studies["test"]] == [1, 2, 2]
    assert studies.left_out == {"train1": [0], "train2": [1], "test0": [0]}
    assert any("2 of 18 images cannot be read" in note and "0 of 9 studies" in note for note in studies.notes)


def test_headers_are_read_of_the_splits_that_are_asked_for(root, monkeypatch):
    (root / "images" / "train1a.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 of 18 images cannot be read: train1a.png"):
        load(root, verify=["train"])
    assert not load(root, verify=["test"]).left_out
    monkeypatch.setattr(verify, "check_header", lambda path: pytest.fail("opened"))
    assert not load(root, verify=()).left_out


def test_a_run_that_goes_on_keeps_its_studies_whatever_has_become_of_their_files(root):
    (root / "images" / "train1a.png").unlink()
    began = load(root, allow_missing=True)
    (root / "images" / "train4a.png").unlink()
    (root / "images" / "train5b.png").write_bytes(b"")
    for allowed in (False, True):
        now = load(root, left_out=began.left_out, allow_missing=allowed)
        assert dict(now) == dict(began) and now.left_out == began.left_out
        lost = [note for note in now.notes if "leaves their studies out now" in note]
        assert len(lost) == 2 and "train4a.png" in lost[0] and "train5b.png" in lost[1]
        assert "train1a.png" not in "".join(lost)
    Image.effect_noise((40, 40), 60).save(root / "images" / "train1a.png")  # back again: the run began without it
    assert dict(load(root, left_out=began.left_out)) == dict(began)


def test_a_run_whose_folder_is_half_empty_does_not_go_on_by_itself(root):
    began = load(root)
    for n in range(2):
        (root / "images" / f"test{n}a.png").unlink()
    with pytest.raises(
        UserError, match=r"of more than half of the studies of test: put them back, or set data.allow_mi"
    ):
        load(root, left_out=began.left_out)
    assert dict(load(root, left_out=began.left_out, allow_missing=True)) == dict(began)


def test_files_are_decoded_whole_where_that_is_asked_for(root, monkeypatch):
    monkeypatch.setattr(verify, "BLOCK", 32)  # of decoded files two at a time
    paths = [str(path) for path in sorted((root / "images").iterdir())]
    cut(Path(paths[3]))
    assert image_faults(paths) == {}
    found = image_faults(paths, whole=True)
    assert list(found) == [paths[3]] and "truncated or damaged" in found[paths[3]]
    assert image_faults([]) == {}


def test_files_of_several_frames_are_counted_and_the_first_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(images, "_told", [])
    frame = Image.effect_noise((8, 8), 60)
    for name in ("a.tif", "b.tif", "c.tif"):
        frame.save(tmp_path / name, save_all=name != "b.tif", append_images=[] if name == "b.tif" else [frame])
    assert image_faults([str(tmp_path / name) for name in ("a.tif", "b.tif", "c.tif")]) == {}
    line = f"image {tmp_path / 'a.tif'} and 1 more have several frames; of such files the first frame is used\n"
    assert capsys.readouterr().err == line
    images.open_image(tmp_path / "c.tif")
    assert capsys.readouterr().err == ""


def test_a_line_says_what_takes_its_time(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(verify, "MANY", 2)
    assert len(image_faults([str(tmp_path / "x.png"), str(tmp_path / "y.png")])) == 2
    assert capsys.readouterr().err == "reads the headers of image files: 2\n"


def test_ranks_share_the_files_and_hear_of_all(root, tmp_path):
    paths = [str(path) for path in sorted((root / "images").iterdir())]
    for n in (0, 17):
        Path(paths[n]).write_bytes(b"")
    one, other = on_ranks(2, tmp_path, image_faults, paths)
    assert one == other == image_faults(paths) and len(one) == 2

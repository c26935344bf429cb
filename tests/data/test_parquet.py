"""Pictures inside parquet files: the same studies and pixels as from files, read when they are shown and not before."""

import io
import json
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import command_line
from PIL import Image
from tables import IMAGE, PICTURES, picture, write

from mrg_grpo.cli import main
from mrg_grpo.config import ColumnsConfig, load_config
from mrg_grpo.data import load_studies, packed, parquet
from mrg_grpo.data.credentialed import OTHER
from mrg_grpo.data.images import check_header, open_image
from mrg_grpo.data.records import inside
from mrg_grpo.data.verify import image_faults, missing_files
from mrg_grpo.errors import ImageError, UserError
from mrg_grpo.preflight import check, plan
from mrg_grpo.view import page as view_page
from mrg_grpo.view.cases import Pictures
from mrg_grpo.view.records import read_run


def png(seed: int, size: int = 40) -> bytes:
    file = io.BytesIO()
    values = np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def shards(root: Path, kind: str = "image", train: int = 8, group: int = 3) -> Path:
    """Three shards as the hub has them; study n has the picture of seed n."""
    number = 0
    for name, count in (("train-00000-of-00002", train), ("train-00001-of-00002", 2), ("validation-00000-of-00001", 2),
                        ("test-00000-of-00001", 3)):  # fmt: skip
        rows = []
        for _ in range(count):
            rows.append({"id": f"s{number}", "image": picture(kind, [png(number)]), "report": f"No effusion {number}."})
            number += 1
        write(root / "data" / f"{name}.parquet", rows, group, PICTURES[kind], "image")
    return root


def load(root: Path, files: str = "data/*.parquet", **options):
    return load_studies("table", root, files=files, **options)


def flat(studies) -> list:
    return [study for part in studies.values() for study in part]


@pytest.mark.parametrize("kind", PICTURES)
def test_real_studies_come_back_with_their_pixels(shared, tmp_path, kind):
    cases = shared / "data" / "case_reports"
    tree = json.loads((cases / "annotation.json").read_text())
    for split, entries in tree.items():
        rows = [
            {"id": one["id"], "report": one["report"],
             "images": picture(kind, [(cases / "images" / name).read_bytes() for name in one["image_path"]])}
            for one in entries
        ]  # fmt: skip
        write(tmp_path / f"{split}-0.parquet", rows, 20, PICTURES[kind])
    own, theirs = load(tmp_path, "*.parquet", verify=("train", "val", "test")), load_studies("iu_xray_r2gen", cases)
    assert [len(own[split]) for split in ("train", "val", "test")] == [143, 18, 31]
    for split in theirs:
        for one, other in zip(own[split], theirs[split], strict=True):
            assert (one.id, one.report, len(one.images)) == (other.id, other.report, len(other.images))
            for left, right in zip(one.images, other.images, strict=True):
                assert packed.read(left) == Path(right).read_bytes()
        for one, other in zip(own[split][::20], theirs[split][::20]):
            assert [open_image(name).tobytes() for name in one.images] == [
                open_image(n).tobytes() for n in other.images
            ]
    copies = [[note.count(" and ") for note in studies.notes if "copies" in note] for studies in (own, theirs)]
    assert copies[0] == copies[1] != []


@pytest.mark.parametrize("statistics", [True, False])
def test_cells_with_several_pictures_none_or_paths(tmp_path, statistics):
    (tmp_path / "c.png").write_bytes(png(9))
    one, two = {"bytes": png(1), "path": "x.png"}, {"bytes": png(2), "path": None}
    cells = [[one, two], [], None, [{"bytes": None, "path": "c.png"}, one], [None, two], [two], [one]]
    table = pa.table({
        "study": [f"s{n}" for n in range(len(cells))], "split": ["train"] * len(cells),
        "images": pa.array(cells, pa.list_(IMAGE)), "report": ["Clear."] * len(cells),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=5, write_statistics=statistics)
    found = [study.images for study in load(tmp_path, "t.parquet", allow_missing=True)["train"]]
    expected = [[1, 2], [], [], [9, 1], [2], [2], [1]]
    assert [[seed_of(name) for name in names] for names in found] == expected
    for kind, column in (("image", [one, None, two]), ("bytes", [png(1), None, png(2)]),
                         ("list of bytes", [[png(1)], [], [png(2)]])):  # fmt: skip
        columns = {"study": ["a", "b", "c"], "split": ["train"] * 3, "report": ["Clear."] * 3}
        table = pa.table(columns | {"images": pa.array(column, PICTURES[kind])})
        pq.write_table(table, tmp_path / "t.parquet", write_statistics=statistics)
        found = [study.images for study in load(tmp_path, "t.parquet", allow_missing=True)["train"]]
        assert [[seed_of(name) for name in names] for names in found] == [[1], [], [2]], kind


def seed_of(name: str) -> int:
    content = packed.read(name) if packed.is_packed(name) else Path(name).read_bytes()
    return next(seed for seed in (1, 2, 9) if png(seed) == content)


# ---- read when shown


@pytest.mark.parametrize("kind", ["image", "images", "bytes"])
def test_pictures_are_not_read_to_load_the_studies(tmp_path, monkeypatch, kind):
    """Neither as a whole column, nor one by one for what a size would say of files."""
    shards(tmp_path, kind)
    for name in ("validation", "test"):
        (tmp_path / "data" / f"{name}-00000-of-00001.parquet").unlink()
    parts, read = [], parquet._column
    monkeypatch.setattr(parquet, "_column", lambda *given: parts.append(given[2]) or read(*given))
    monkeypatch.setattr(packed, "_read_group", None)
    assert len(load(tmp_path)["train"]) == 10
    assert all(part.endswith(".path") for part in parts)


def test_in_their_order_pictures_cost_each_group_once_and_few_are_kept(tmp_path, monkeypatch):
    shards(tmp_path, train=30)
    names = [name for study in load(tmp_path)["train"] for name in study.images]
    reads, read = [], packed._read_group
    monkeypatch.setattr(packed, "_read_group", lambda *given: reads.append(given[1]) or read(*given))
    monkeypatch.setattr(packed, "_GROUPS", packed._Groups())
    monkeypatch.setattr(packed, "KEPT", 20_000)
    assert [packed.read(name) for name in names] == [png(n) for n in range(32)]
    assert len(reads) == 11  # of 3 rows
    assert sum(group.values.nbytes for group in packed._GROUPS.kept.values()) <= 20_000


def test_threads_get_the_pictures_that_they_ask_for(tmp_path, monkeypatch):
    shards(tmp_path, train=30)
    names = [name for study in load(tmp_path)["train"] for name in study.images]
    monkeypatch.setattr(packed, "KEPT", 10_000)
    wanted = random.Random(0).choices(range(32), k=300)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda n: packed.read(names[n]), wanted)) == [png(n) for n in wanted]


def test_a_file_that_is_written_anew_is_read_anew(tmp_path):
    shards(tmp_path)
    name = load(tmp_path)["train"][0].images[0]
    assert packed.read(name) == png(0)
    write(tmp_path / "data" / "train-00000-of-00002.parquet", [{"id": "s0", "image": picture("image", [png(77)])}],
          kind=IMAGE, column="image")  # fmt: skip
    assert packed.read(name) == png(77)


def test_deep_pictures_are_those_of_files(tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (20, 30, 3), dtype=np.uint16)
    header = b"P6 30 20 65535\n" + values.astype(">u2").tobytes()
    grey = io.BytesIO()
    Image.fromarray(values[..., 0]).save(grey, "PNG")
    for content in (header, grey.getvalue()):
        (tmp_path / "x").write_bytes(content)
        row = {"study": "s", "split": "train", "images": content, "report": "Clear."}
        write(tmp_path / "t.parquet", [row], kind=pa.binary())
        name = load(tmp_path, "t.parquet")["train"][0].images[0]
        assert open_image(name).tobytes() == open_image(tmp_path / "x").tobytes()


# ---- what is wrong with them


def test_damaged_pictures_are_named_by_their_place(tmp_path):
    dicom = b"\0" * 128 + b"DICM"
    contents = {"cut": png(1, 200)[:300], "none": b"", "text": b"hello", "dicom": dicom, "good": png(3)}
    rows = [{"study": name, "split": "train", "images": data, "report": "Clear."} for name, data in contents.items()]
    write(tmp_path / "t.parquet", rows, kind=pa.binary())
    with pytest.raises(UserError, match=r"3 of 5 images cannot be read: t\.parquet#row=1,image=0,column=2, .*row=3"):
        load(tmp_path, "t.parquet", verify=("train",))
    found = load(tmp_path, "t.parquet", verify=("train",), allow_missing=True)
    assert [len(study.images) for study in found["train"]] == [1, 0, 0, 0, 1]
    cut = found["train"][0].images[0]
    check_header(cut)
    with pytest.raises(ImageError, match=r"row=0,image=0,column=2 is truncated or damaged"):
        open_image(cut)
    assert list(image_faults([cut], whole=True)) == [cut]


def test_addresses_of_nothing(tmp_path):
    shards(tmp_path)
    file = f"{tmp_path}/data/train-00000-of-00002.parquet"
    (tmp_path / "text.parquet").write_text("hello")
    for name, reason in (
        (packed.address(file, 99, 0, 1), "the file has no row 99 or no column 1"),
        (packed.address(file, 0, 0, 99), "the file has no row 0 or no column 99"),
        (packed.address(file, 0, 5, 1), "there is no picture at this place"),
        (packed.address(file, 0, 0, 0), "there is no picture at this place"),
        (packed.address(f"{tmp_path}/gone.parquet", 0, 0, 1), "is missing"),
        (packed.address(f"{tmp_path}/text.parquet", 0, 0, 1), "cannot be read"),
        (packed.address(str(tmp_path), 0, 0, 1), "is a folder"),
    ):
        for look in (open_image, check_header):
            with pytest.raises(ImageError, match=reason) as caught:
                look(name)
            assert "\n" not in str(caught.value)


def test_pictures_are_missing_where_their_file_is(tmp_path):
    shards(tmp_path)
    gone, there = (packed.address(f"data/{name}-00000-of-00001.parquet", 0, 0, 1) for name in ("gone", "test"))
    assert missing_files(tmp_path, [gone, there]) == {gone}


def test_equal_bytes_in_two_splits_are_told(tmp_path):
    shards(tmp_path)
    (tmp_path / "data" / "validation-00000-of-00001.parquet").unlink()
    rows = [{"id": "v", "image": {"bytes": png(4), "path": None}, "report": "Clear."}]
    write(tmp_path / "data" / "validation-00000-of-00001.parquet", rows, kind=IMAGE, column="image")
    assert [note for note in load(tmp_path).notes if "copies" in note] == [
        "warning: 1 images are copies of an image of another split: data/train-00000-of-00002.parquet#row=4,image=0,"
        "column=1 (train) and data/validation-00000-of-00001.parquet#row=0,image=0,column=1 (val)"
    ]


def test_pictures_stay_in_the_data_folder(tmp_path):
    shards(tmp_path / "elsewhere")
    (tmp_path / "root").mkdir()
    with pytest.raises(UserError, match=r"holds pictures and lies outside data\.root"):
        load(tmp_path / "root", str(tmp_path / "elsewhere" / "data" / "*.parquet"))
    name = packed.address(f"{tmp_path}/elsewhere/data/test-00000-of-00001.parquet", 0, 0, 1)
    assert inside(name, str(tmp_path / "elsewhere")) == name
    with pytest.raises(UserError, match="lies outside the data folder"):
        inside(name, str(tmp_path / "root"))
    (tmp_path / "root" / "t.parquet").symlink_to(tmp_path / "elsewhere" / "data" / "test-00000-of-00001.parquet")
    with pytest.raises(UserError, match="lies outside the data folder"):
        inside(packed.address(f"{tmp_path}/root/t.parquet", 0, 0, 1), str(tmp_path / "root"))


def test_a_row_group_that_no_memory_should_hold_is_refused(tmp_path, monkeypatch):
    shards(tmp_path)
    monkeypatch.setattr(parquet, "LARGEST", 3000)
    with pytest.raises(UserError, match=r"row group 0 holds .* GiB of pictures.*; write the file anew with row_group_"):
        load(tmp_path)


# ---- commands


def settings(root: Path, output: Path, *more: str) -> list[str]:
    return ["data.form=table", f"data.root={root}", "data.table=data/*.parquet", f"run.output_dir={output}", *more]


def test_plan_counts_the_table_where_it_is(tmp_path):
    shards(tmp_path, "images")
    config = load_config(None, settings(tmp_path, tmp_path / "run"))
    assert plan.counts_of(config, None) == plan.Counts(1, 1.0, "counted", 3, 2, "counted")
    gone = load_config(None, settings(tmp_path / "gone", tmp_path / "run", "run.test_studies=50"))
    assert plan.counts_of(gone, 2.0) == plan.Counts(2.0, 2.0, "given", 50, 200, "assumed: as many as [run] allows")


def test_check_shows_three_studies_and_no_text_of_credentialed_data(tmp_path):
    shards(tmp_path)
    found = {}
    for more in ("run.seed=0", "data.credentialed=true", "run.keep_text=false"):
        config = load_config(None, settings(tmp_path, tmp_path / "run", more))
        splits, finding = check.check_splits(config)
        assert finding.status == "pass" and "published" not in str(finding), finding
        found[more] = check.check_studies(config, splits)
    assert found["run.seed=0"].found == (
        "s0 (train): 1 image (data/train-00000-of-00002.parquet#row=0,image=0,column=1), report 'No effusion 0.'; "
        "s10 (val): 1 image (data/validation-00000-of-00001.parquet#row=0,image=0,column=1), report 'No effusion 10.'; "
        "s12 (test): 1 image (data/test-00000-of-00001.parquet#row=0,image=0,column=1), report 'No effusion 12.'"
    )
    for more in ("data.credentialed=true", "run.keep_text=false"):
        assert found[more].found == "s0 (train): 1 image; s10 (val): 1 image; s12 (test): 1 image"


@pytest.mark.slow
def test_a_run_on_pictures_in_parquet_its_page_a_report_and_its_resume(tmp_path, capsys):
    root, run = shards(tmp_path / "data set"), tmp_path / "run"
    small = settings(root, run, "grpo.studies_per_step=2", "grpo.group_size=2", "sampling.max_tokens=8",
                     "run.save_every=1", "run.eval_every=1", "grpo.decay=false", "run.rollouts_every=1")  # fmt: skip
    assert main(command_line("train", [*small, "run.steps=2"])) == 0
    rollouts = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    assert len(rollouts) == 4
    assert all(packed.is_packed(name) for one in rollouts for name in one["images"])
    pictures = Pictures()
    made = view_page.build(read_run(run), pictures, None, "")
    assert made.pictures and not pictures.missing
    assert main(["view", str(run)]) == 0
    assert (run / "page.html").read_text().count("data:image/jpeg") >= 5
    capsys.readouterr()
    assert main(["report", rollouts[0]["images"][0], "--config", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == rollouts[0]["images"]

    assert main([*command_line("train", [*small, "run.steps=3", "data.columns.view=x"]), "--resume"]) == 2
    assert "data.columns.view" in capsys.readouterr().err
    kept = tmp_path / "kept"
    shutil.copytree(root, kept)
    rows = [{"id": f"s{n}", "image": picture("image", [png(n)]), "report": "Other."} for n in (8, 9)]
    write(root / "data" / "train-00001-of-00002.parquet", rows, kind=IMAGE, column="image")
    assert main([*command_line("train", [*small, "run.steps=3"]), "--resume"]) == 2
    assert "the studies of data.root (train) changed since the run began" in capsys.readouterr().err
    shutil.rmtree(root)
    shutil.copytree(kept, root)
    assert main([*command_line("train", [*small, "run.steps=3"]), "--resume"]) == 0
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]


@pytest.mark.slow
def test_a_run_on_credentialed_data_of_ones_own_is_marked_and_its_page_bare(tmp_path):
    root, run = shards(tmp_path / "set"), tmp_path / "run"
    small = settings(root, run, "grpo.studies_per_step=2", "grpo.group_size=2", "sampling.max_tokens=8", "run.steps=1",
                     "run.rollouts_every=1", "data.credentialed=true")  # fmt: skip
    assert main(command_line("train", small)) == 0
    assert (run / "CREDENTIALED.txt").read_text() == f"{OTHER}\n"
    for name in ("rollouts.jsonl", "predictions.jsonl"):
        assert all(json.loads(line)["credentialed"] == OTHER for line in (run / name).read_text().splitlines())
    assert main(["view", str(run)]) == 0
    page = (run / "page.html").read_text()
    assert "No effusion" not in page and "data:image/jpeg" not in page and "credentialed" in page


def test_columns_by_name(tmp_path):
    """A column whose name has a dot is not a part of another."""
    rows = [{"study": "a", "split": "train", "the.scan": png(1), "the": 3, "report": "Clear."}]
    write(tmp_path / "t.parquet", rows, kind=pa.binary(), column="the.scan")
    found = load(tmp_path, "t.parquet", columns=ColumnsConfig(images="the.scan"))
    assert packed.read(found["train"][0].images[0]) == png(1)

"""CheXbert: the checkpoint's form, strictness, batching, and labels equal to a plain transformers forward."""

import ctypes
import pickle
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from mrg_grpo.errors import UserError
from mrg_grpo.labelers.chexbert import CLASSES, CheXbert, CheXbertNet, _batches, clean

WORDS = ["heart", "size", "normal", "lungs", "clear", "no", "effusion", "pneumothorax", ".", ",", "##s", "is", "large"]
CONFIG = BertConfig(
    vocab_size=5 + len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
)
REPORTS = [
    "Heart size normal. Lungs clear.",
    "",
    "no effusion",
    "  Heart   size\nnormal. \t Lungs clear. ",
    "no effusions, no pneumothorax. " * 90,
    "heart is large",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tokenizer folder and a chexbert.pth of the published form at small size."""
    path = tmp_path_factory.mktemp("chexbert")
    (path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizerFast(str(path / "vocab.txt"), do_lower_case=True).save_pretrained(str(path))
    torch.manual_seed(0)
    net = CheXbertNet(CONFIG, pooler=True)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)  # far from the small default, so that reports differ in label
    write(path / "chexbert.pth", net.state_dict())
    return path


def write(path: Path, state: dict, **more) -> Path:
    torch.save({"epoch": 3, "model_state_dict": {f"module.{key}": value for key, value in state.items()}, **more}, path)
    return path


def load(folder: Path, name: str = "chexbert.pth") -> CheXbert:
    return CheXbert.load(folder / name, tokenizer=folder, config=CONFIG)


def plain_logits(folder: Path, reports: list[str]) -> list[torch.Tensor]:
    """One report at a time through transformers' own BertModel and 14 linear maps; no batch, no padding."""
    checkpoint = torch.load(folder / "chexbert.pth", weights_only=True)["model_state_dict"]
    bert = BertModel(CONFIG).eval()
    bert.load_state_dict({k[len("module.bert.") :]: v for k, v in checkpoint.items() if k.startswith("module.bert.")})
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=True)
    rows = []
    for report in reports:
        ids = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(" ".join(report.split())))
        ids = [2, *ids, 3]
        if len(ids) > 512:
            ids = [*ids[:511], 3]
        with torch.no_grad():
            hidden = bert(input_ids=torch.tensor([ids])).last_hidden_state[0, 0]
        rows.append(
            [
                hidden @ checkpoint[f"module.linear_heads.{i}.weight"].T + checkpoint[f"module.linear_heads.{i}.bias"]
                for i in range(14)
            ]
        )
    return [torch.stack(column) for column in zip(*rows)]


def test_logits_equal_a_plain_forward_one_report_at_a_time(folder):
    labeler = load(folder)
    expected = plain_logits(folder, REPORTS)
    for ours, theirs, classes in zip(labeler.logits(REPORTS), expected, CLASSES):
        assert ours.shape == (len(REPORTS), classes)
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)
    labels = labeler.label(REPORTS)
    assert labels.dtype == torch.long
    assert labels.tolist() == torch.stack([x.argmax(-1) for x in expected], -1).tolist()
    assert len(set(map(tuple, labels.tolist()))) > 2  # the random heads do tell the reports apart


def test_real_size_checkpoint_loads_with_default_sizes(tmp_path, folder):
    """bert-base-uncased's sizes are the default: 201 tensors of a random network, and none may be missing."""
    with torch.device("meta"):
        state = CheXbertNet(BertConfig(), pooler=True).state_dict()
    state = {key: torch.zeros(1).expand(value.shape) for key, value in state.items()}  # tiny on disk
    assert state["bert.embeddings.word_embeddings.weight"].shape == (30522, 768)
    labeler = CheXbert.load(write(tmp_path / "real.pth", state), tokenizer=folder)
    assert labeler.label(["heart size normal"]).tolist() == [[0] * 14]


def test_order_batching_and_duplicates_change_nothing(folder):
    labeler = load(folder)
    reports = [*REPORTS, *REPORTS[::-1], "lungs clear"]
    expected = torch.cat([labeler.label([report]) for report in reports])
    assert torch.equal(labeler.label(reports), expected)
    labeler.batch_tokens = 16  # nearly every report in a batch of its own
    assert torch.equal(labeler.label(reports), expected)
    calls = []
    padded = labeler._padded
    labeler._padded = lambda ids: calls.append(len(ids)) or padded(ids)
    labeler.label(reports)
    assert sum(calls) == 6  # five different texts of REPORTS and one more: equal reports are labelled once


def test_no_reports_and_clean_text(folder):
    assert load(folder).label([]).shape == (0, 14)
    assert clean("  a\n\n b\t c\r\n") == "a b c"
    with pytest.raises(UserError, match="float"):
        load(folder).label([float("nan")])


def test_batches_cover_all_rows_within_the_budget():
    lengths = sorted([2, 3, 3, 9, 40, 41, 41, 80, 200, 512])
    slices = _batches(lengths, 128)
    assert [row for start, stop in slices for row in range(start, stop)] == list(range(len(lengths)))
    for start, stop in slices:
        assert stop - start == 1 or (stop - start) * lengths[stop - 1] <= 128
    padded = sum((stop - start) * lengths[stop - 1] for start, stop in slices)
    assert padded < 1.2 * sum(lengths)


def test_position_ids_alone_are_tolerated(folder, tmp_path):
    state = load(folder).net.state_dict()
    write(tmp_path / "old.pth", state | {"bert.embeddings.position_ids": torch.arange(512)[None]})
    labeler = CheXbert.load(tmp_path / "old.pth", tokenizer=folder, config=CONFIG)
    assert torch.equal(labeler.label(REPORTS), load(folder).label(REPORTS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("linear_heads.13.weight"), r"1 missing \(linear_heads.13.weight\)"),
        (lambda s: s.update({"classifier.weight": torch.zeros(2, 2)}), r"1 unexpected \(classifier.weight\)"),
        (lambda s: s.update({"linear_heads.13.bias": torch.zeros(4)}), r"another size: linear_heads.13.bias"),
        (lambda s: [s.pop(k) for k in list(s) if k.startswith("linear_heads")], r"28 missing .*\.\.\."),
        (lambda s: s.update({"linear_heads.0.bias": "words"}), r"linear_heads.0.bias is str"),
    ],
)
def test_other_models_are_refused_by_name_and_count(folder, tmp_path, change, message):
    state = dict(load(folder).net.state_dict())
    change(state)
    write(tmp_path / "other.pth", state)
    with pytest.raises(UserError, match=message):
        CheXbert.load(tmp_path / "other.pth", tokenizer=folder, config=CONFIG)


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_code_in_a_checkpoint_is_never_run(folder, tmp_path):
    fuse = tmp_path / "exploded"
    torch.save({"model_state_dict": {}, "loss": Bomb(fuse)}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"model_state_dict": Bomb(fuse)}))
    for name in ("zip.pth", "plain.pth"):
        with pytest.raises(UserError, match="was not run"):
            CheXbert.load(tmp_path / name, tokenizer=folder, config=CONFIG)
    assert not fuse.exists()
    pickle.loads(pickle.dumps(Bomb(fuse)))  # the bomb itself works
    assert fuse.exists()


def test_numpy_scalars_beside_the_weights_are_read(folder, tmp_path):
    import numpy as np

    write(tmp_path / "scored.pth", load(folder).net.state_dict(), loss=np.float64(0.25), f1=torch.tensor(0.5))
    assert torch.equal(
        CheXbert.load(tmp_path / "scored.pth", tokenizer=folder, config=CONFIG).label(REPORTS),
        load(folder).label(REPORTS),
    )


def test_broken_files_end_in_one_line(folder, tmp_path):
    whole = (folder / "chexbert.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>404</html>")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"state_dict": {}}, tmp_path / "nostate.pth")
    for name in ("cut.pth", "empty.pth", "page.pth", "list.pth", "nostate.pth", "absent.pth"):
        with pytest.raises(UserError) as error:
            CheXbert.load(tmp_path / name, tokenizer=folder, config=CONFIG)
        assert name in str(error.value) and "\n" not in str(error.value)


def test_missing_or_wrong_tokenizer_is_named(folder, tmp_path):
    with pytest.raises(UserError, match=r"tokenizer .*nowhere: no such file or folder"):
        CheXbert.load(folder / "chexbert.pth", tokenizer=tmp_path / "nowhere", config=CONFIG)
    with pytest.raises(UserError, match="do not fit"):
        small = BertConfig(**CONFIG.to_diff_dict() | {"vocab_size": 7})
        write(tmp_path / "small.pth", CheXbertNet(small, pooler=True).state_dict())
        CheXbert.load(tmp_path / "small.pth", tokenizer=folder, config=small)


def test_a_bare_vocabulary_is_a_tokenizer(folder, tmp_path):
    (tmp_path / "vocab.txt").write_text((folder / "vocab.txt").read_text())
    labeler = CheXbert.load(folder / "chexbert.pth", tokenizer=tmp_path, config=CONFIG)
    assert torch.equal(labeler.label(REPORTS), load(folder).label(REPORTS))


def test_folder_round_trip_upcasts_and_agrees(folder, tmp_path):
    labeler = load(folder)
    labeler.save(tmp_path / "ours", torch.float32)
    again = CheXbert.load(tmp_path / "ours")
    for ours, theirs in zip(again.logits(REPORTS), labeler.logits(REPORTS)):
        torch.testing.assert_close(ours, theirs)
    labeler.save(tmp_path / "half")
    half = CheXbert.load(tmp_path / "half")
    assert all(parameter.dtype == torch.float32 for parameter in half.net.parameters())
    for ours, theirs in zip(half.logits(REPORTS), labeler.logits(REPORTS)):
        torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0.05)
    assert not any(parameter.requires_grad for parameter in half.net.parameters())


def test_broken_folders_end_in_one_line(folder, tmp_path):
    with pytest.raises(UserError, match=r"has no config.json"):
        CheXbert.load(tmp_path)
    load(folder).save(tmp_path / "ours")
    weights = tmp_path / "ours" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(UserError, match="cut short"):
        CheXbert.load(tmp_path / "ours")
    (tmp_path / "ours" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="not of a CheXbert folder"):
        CheXbert.load(tmp_path / "ours")


class Malloc(ctypes.Structure):
    """glibc's struct mallinfo2: ten counts, the eighth of bytes in use."""

    _fields_ = [(f"count_{i}", ctypes.c_size_t) for i in range(10)]


def test_batches_of_new_shapes_leave_nothing_behind(folder):
    """A run meets ever new ones; oneDNN's GELU would keep 27 KB of each."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        pytest.skip("needs glibc 2.33 or later, which counts what is in use")
    libc.mallinfo2.restype = Malloc
    labeler = load(folder)
    reports = [" ".join(["lungs clear ."] * words) for words in range(1, 161)]
    for report in (*reports[0::4], *reports[3::4]):  # what is kept once for all shapes
        labeler.label([report])
    before = libc.mallinfo2().count_7
    for report in (*reports[1::4], *reports[2::4]):
        labeler.label([report])
    assert libc.mallinfo2().count_7 - before < 200_000  # of 80 shapes


def test_heads_are_independent_as_in_chexbert(folder, monkeypatch):
    """A finding and No Finding may stand together: each head's largest logit counts, and nothing reconciles them."""
    labeler = load(folder)
    sure = tuple(torch.eye(classes)[1:2].repeat(2, 1) for classes in CLASSES)  # every head says class 1
    monkeypatch.setattr(labeler, "logits", lambda reports: sure)
    assert labeler.label(["a", "b"]).tolist() == [[1] * 14] * 2

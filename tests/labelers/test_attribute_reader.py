"""The reader of attributes: what its signs decode to, its file, and labels that it leaves alone."""

import json
import shutil

import pytest
import torch
from torch.nn import functional

from mrg_grpo import embedded
from mrg_grpo.attributes import BOTH, LARGE, LEFT, MODERATE, NOTHING, RIGHT, SMALL, Attributes, join
from mrg_grpo.errors import UserError
from mrg_grpo.labelers import CheXbert
from mrg_grpo.labelers.attribute_reader import (
    FILE,
    SIGNS,
    AttributeReader,
    Layer,
    ReaderSizes,
    decoded,
    load_reader,
    over_tokens,
    save_reader,
    signs,
)
from mrg_grpo.labels import NEGATIVE, POSITIVE, UNCERTAIN

SIZES = ReaderSizes(width=24, heads=2, layers=2, inner=32, reach=3)
REPORTS = [
    "Small left pleural effusion. No pneumothorax.",
    "",
    "The heart is enlarged. Right lower lobe atelectasis, possibly pneumonia. " * 9,
    "Lungs are clear.",
    "Small left pleural effusion.  No pneumothorax.",
]


def reader(seed: int = 0) -> AttributeReader:
    """A random one for the embedded trunk that says something of every report."""
    torch.manual_seed(seed)
    net = AttributeReader(SIZES)
    torch.nn.init.normal_(net.head.weight, std=1.0)
    torch.nn.init.normal_(net.layers[0].distance)
    torch.nn.init.zeros_(net.head.bias)
    return net


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    """The embedded labeler's folder without a reader."""
    folder = tmp_path_factory.mktemp("labeler") / "trunk"
    shutil.copytree(embedded.labeler_path(), folder, ignore=shutil.ignore_patterns(FILE))
    return folder


def one(name: int, side: int = 0, size: int = 0, malposition: int = 0):
    """The attributes of a report that speaks of one condition."""
    return tuple(side * (i == name) for i in range(13)), tuple(size * (i == name) for i in range(13)), malposition


def test_signs_decode_to_the_attributes_they_were_made_of():
    rows = [one(i, side, size, i % 3) for i in range(13) for side in range(4) for size in range(4)] + [NOTHING]
    made = Attributes.of(rows)
    again = decoded(signs(made).float() * 2 - 1)
    for kind in ("side", "size", "malposition"):
        assert torch.equal(getattr(again, kind), getattr(made, kind))
    assert signs(made).shape == (len(rows), SIGNS)


def test_what_two_tokens_say_joins_as_statements_do():
    """The largest logit over tokens is the rule of `join`, for all pairs of sides, sizes and positions."""
    values = [one(9, side, size, malposition) for side in range(4) for size in range(4) for malposition in range(3)]
    for first in values:
        for second in values:
            tokens = signs(Attributes.of([first, second])).float()[None] * 2 - 1  # (1, 2, 67)
            read = decoded(over_tokens(tokens, torch.ones(1, 2)))
            side, size, malposition = join(first, second)
            assert (read.side[0].tolist(), read.size[0].tolist()) == (list(side), list(size))
            assert read.malposition.item() == malposition


def test_golden_signs():
    logits = torch.full((1, 3, SIGNS), -3.0)
    logits[0, 0, 18] = 1.0  # left, of pleural effusion
    logits[0, 1, 19] = 2.0  # right
    logits[0, 0, 26 + 27] = 1.0  # small
    logits[0, 1, 26 + 28] = 1.0  # moderate
    logits[0, 2, 26 + 29] = 5.0  # large, on a token that is padding
    logits[0, 0, 66] = 1.0
    read = decoded(over_tokens(logits, torch.tensor([[1, 1, 0]])))
    assert read.side[0, 9] == BOTH and read.side.sum() == BOTH
    assert read.size[0, 9] == MODERATE and read.size.sum() == MODERATE
    assert read.malposition.item() == NEGATIVE
    logits[0, 1, 65] = 0.5
    assert decoded(over_tokens(logits, torch.tensor([[1, 1, 0]]))).malposition.item() == POSITIVE


def test_a_layer_is_attention_with_a_bias_by_distance():
    """Against a slow one, token by token and head by head."""
    torch.manual_seed(1)
    layer = Layer(SIZES).double()
    torch.nn.init.normal_(layer.distance)
    x, mask = torch.randn(1, 7, 24, dtype=torch.double), torch.tensor([[True] * 6 + [False]])
    q, k, v = layer.qkv(layer.norm(x))[0].chunk(3, -1)
    rows = []
    for i in range(7):
        parts = []
        for head in range(2):
            own = slice(12 * head, 12 * head + 12)
            scores = [
                q[i, own] @ k[j, own] / 12**0.5 + layer.distance[head, max(-3, min(3, j - i)) + 3] for j in range(6)
            ]
            parts.append(torch.softmax(torch.stack(scores), 0) @ v[:6, own])
        rows.append(torch.cat(parts))
    expected = x[0] + layer.out(torch.stack(rows))
    expected = expected + layer.down(functional.gelu(layer.up(layer.inner_norm(expected))))
    torch.testing.assert_close(layer(x, mask)[0], expected)


def test_labels_are_the_same_to_the_bit_with_a_reader_and_without(trunk, shared):
    plain = CheXbert.load(trunk)
    texts = [row["report"] for row in real_rows(shared)][:250] + REPORTS
    expected = plain.logits(texts)
    other = CheXbert(plain.net, plain.tokenizer, reader=reader())
    assert all(torch.equal(a, b) for a, b in zip(other.logits(texts), expected))
    labels, attributes = other.labels_and_attributes(texts)
    assert torch.equal(labels, plain.label(texts))
    claimed = (labels[:, :13] == POSITIVE) | (labels[:, :13] == UNCERTAIN)
    assert attributes.side.any() and not attributes.side[~claimed].any() and not attributes.size[~claimed].any()


def real_rows(shared):
    return json.loads((shared / "data" / "iu_xray" / "annotation.json").read_text())["val"]


def test_order_batching_and_duplicates_change_no_attribute(trunk):
    plain = CheXbert.load(trunk)
    labeler = CheXbert(plain.net, plain.tokenizer, reader=reader())
    whole = labeler.attributes(REPORTS)
    alone = [labeler.attributes([report]) for report in REPORTS]
    labeler.batch_tokens = 16
    for kind in ("side", "size", "malposition"):
        assert torch.equal(getattr(whole, kind), torch.cat([getattr(row, kind) for row in alone]))
        assert torch.equal(getattr(whole, kind), getattr(labeler.attributes(REPORTS), kind))
    assert labeler.attributes([]).side.shape == (0, 13)


def test_a_folder_without_the_file_has_no_attributes_and_says_so(trunk):
    labeler = CheXbert.load(trunk)
    assert labeler.label(["Left effusion."]).shape == (1, 14)
    with pytest.raises(UserError, match="no attributes") as error:
        labeler.attributes(["Left effusion."])
    assert "\n" not in str(error.value)


def test_the_file_is_read_back_with_the_folder(trunk, tmp_path):
    plain = CheXbert.load(trunk)
    first = CheXbert(plain.net, plain.tokenizer, reader=reader())
    first.save(tmp_path / "ours", torch.float32)
    again = CheXbert.load(tmp_path / "ours")
    assert again.reader is not None and again.reader.sizes == SIZES
    for kind in ("side", "size", "malposition"):
        assert torch.equal(getattr(again.attributes(REPORTS), kind), getattr(first.attributes(REPORTS), kind))
    save_reader(reader(), tmp_path / "ours")
    half = load_reader(tmp_path / "ours", 384)
    assert half is not None and all(parameter.dtype == torch.float32 for parameter in half.parameters())


def test_a_broken_or_foreign_file_ends_in_one_line(trunk, tmp_path):
    save_reader(reader(), tmp_path)
    with pytest.raises(UserError, match="reads states of 384 numbers, this labeler has 64"):
        load_reader(tmp_path, 64)
    whole = (tmp_path / FILE).read_bytes()
    for content in (whole[: len(whole) // 2], b"", (trunk / "model.safetensors").read_bytes()):
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(UserError, match="cannot be read as a reader of attributes") as error:
            load_reader(tmp_path, 384)
        assert "\n" not in str(error.value)


def test_where_sides_stand_in_a_token():
    """Left and right are 2i and 2i + 1, three sizes from 26, positions last: what training writes into them."""
    assert signs(Attributes.of([one(2, LEFT)])).nonzero()[:, 1].tolist() == [4]
    assert signs(Attributes.of([one(2, RIGHT)])).nonzero()[:, 1].tolist() == [5]
    assert signs(Attributes.of([one(2, 0, SMALL)])).nonzero()[:, 1].tolist() == [32]
    assert signs(Attributes.of([one(12, 0, LARGE, POSITIVE)])).nonzero()[:, 1].tolist() == [64, 65]

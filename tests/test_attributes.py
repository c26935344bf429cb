"""What attributes join to, and where they are none: golden values."""

import torch

from mrg_grpo.attributes import BOTH, LARGE, LEFT, MODERATE, NOTHING, RIGHT, SMALL, Attributes, join
from mrg_grpo.labels import NEGATIVE, POSITIVE, UNCERTAIN


def said(side: int, size: int, malposition: int = 0):
    return (side,) * 13, (size,) * 13, malposition


def test_left_and_right_are_both_and_the_larger_size_counts():
    assert join(said(LEFT, SMALL), said(RIGHT, LARGE)) == said(BOTH, LARGE)
    assert join(said(LEFT, MODERATE), said(LEFT, SMALL)) == said(LEFT, MODERATE)
    assert join(said(BOTH, 0), said(RIGHT, 0)) == said(BOTH, 0)
    assert join(NOTHING, said(RIGHT, SMALL)) == said(RIGHT, SMALL)
    assert join(NOTHING, NOTHING) == NOTHING


def test_one_badly_placed_device_is_enough():
    yes, no, none = POSITIVE, NEGATIVE, 0
    table = {(a, b): join(said(0, 0, a), said(0, 0, b))[2] for a in (none, yes, no) for b in (none, yes, no)}
    assert table == {
        (none, none): none, (none, yes): yes, (none, no): no, (yes, none): yes, (yes, yes): yes, (yes, no): yes,
        (no, none): no, (no, yes): yes, (no, no): no,
    }  # fmt: skip


def test_what_is_denied_or_not_named_has_no_attributes():
    attributes = Attributes.of([said(LEFT, LARGE, POSITIVE)] * 2)
    labels = torch.zeros(2, 14, dtype=torch.long)
    labels[0, 9], labels[0, 8], labels[0, 5], labels[1, 12] = POSITIVE, NEGATIVE, UNCERTAIN, POSITIVE
    kept = attributes.where_claimed(labels)
    assert kept.side.nonzero().tolist() == [[0, 5], [0, 9], [1, 12]] == kept.size.nonzero().tolist()
    assert kept.side[0, 9] == LEFT and kept.size[0, 9] == LARGE
    assert kept.malposition.tolist() == [0, POSITIVE]


def test_no_reports_have_no_rows():
    none = Attributes.of([])
    assert (none.side.shape, none.size.shape, none.malposition.shape) == ((0, 13), (0, 13), (0,))
    assert none.side.dtype == none.malposition.dtype == torch.long


def test_what_is_packed_is_unpacked():
    attributes = Attributes.of([said(LEFT, LARGE, POSITIVE), NOTHING, said(BOTH, SMALL)])
    again = Attributes.unpacked(attributes.packed())
    assert attributes.packed().shape == (3, 27)
    assert torch.equal(again.side, attributes.side) and torch.equal(again.size, attributes.size)
    assert torch.equal(again.malposition, attributes.malposition)

"""What the reader of attributes is taught: signs at the words that say them, and of whole reports the same."""

import itertools
import random

import torch

from experiments.embedded.language.grammar import Mark, parse_labels
from experiments.embedded.language.marks import said_by, statement
from experiments.embedded.train_attributes import (
    Lesson,
    Recipe,
    batch_loss,
    batches,
    collate,
    encode,
    mark_signs,
    phantom_lessons,
    stream,
    train,
)
from mrg_grpo.attributes import BOTH, LARGE, RIGHT, Attributes
from mrg_grpo.labelers.attribute_reader import AttributeReader, ReaderSizes, signs
from mrg_grpo.labels import NEGATIVE, POSITIVE


def encoded(lesson: Lesson, tokenizer):
    parts = tokenizer(list(lesson.sentences), add_special_tokens=False, return_offsets_mapping=True)
    return encode(lesson, list(zip(parts["input_ids"], parts["offset_mapping"])))


def test_a_mark_becomes_signs_of_its_conditions():
    assert mark_signs(Mark(0, 4, "side", RIGHT, (2, 9))) == [5, 19]
    assert mark_signs(Mark(0, 4, "side", BOTH, (2,))) == [4, 5]
    assert mark_signs(Mark(0, 4, "size", LARGE, (9,))) == [26 + 29]
    assert mark_signs(Mark(0, 4, "malposition", POSITIVE, (12,))) == [65]
    assert mark_signs(Mark(0, 4, "malposition", NEGATIVE, (12,))) == [66]


def test_signs_stand_at_the_tokens_of_their_words(labeler):
    own = statement("a <PE:small left effusion> and <ED:edema>", parse_labels("PE+ ED+")[0])
    lesson = Lesson((own.text,), (*own.labels, 0), said_by(own.marks), (own.marks,))
    ids, spoken, _ = encoded(lesson, labeler.tokenizer)
    words = labeler.tokenizer.convert_ids_to_tokens(ids)
    assert {(words[token], sign) for token, sign in spoken} == {("small", 26 + 27), ("left", 18)}


def test_what_the_tokens_say_is_what_the_report_says(labeler):
    """Of every report whose words are known; size, of which a report keeps the largest, at least that one."""
    lessons = [lesson for lesson in itertools.islice(stream(3, 0.1), 400) if lesson.marks is not None]
    batch = collate([encoded(lesson, labeler.tokenizer) for lesson in lessons])
    tokens = batch.token_signs.amax(dim=1)  # (B, 67)
    assert torch.equal(tokens[:, :26], batch.signs[:, :26])
    assert (tokens >= batch.signs)[:, 26:65].all()
    assert batch.signs[:, :26].sum() > 200 and batch.signs[:, 65:].sum() > 5


def test_training_ids_are_those_the_labeler_reads(labeler):
    for lesson in itertools.islice(stream(4, 0.2), 60):
        ids, _, _ = encoded(lesson, labeler.tokenizer)
        assert ids == labeler.tokenizer("".join(lesson.sentences), truncation=True, max_length=512)["input_ids"]


def test_phantom_reports_teach_whole_reports_alone(labeler):
    lessons = list(itertools.islice(phantom_lessons(1), 8))
    batch = collate([encoded(lesson, labeler.tokenizer) for lesson in lessons])
    assert not batch.known.any() and batch.signs.any()
    assert torch.equal(batch.signs.bool(), signs(Attributes.of([lesson.said for lesson in lessons])))
    torch.manual_seed(0)
    loss, report = batch_loss(labeler, AttributeReader(ReaderSizes()), batch, 10.0)
    assert torch.equal(loss.detach(), report)


def test_one_seed_gives_one_stream_and_one_reader(labeler):
    first = list(itertools.islice(stream(5, 0.3), 30))
    assert first == list(itertools.islice(stream(5, 0.3), 30)) != list(itertools.islice(stream(6, 0.3), 30))
    rng = random.Random(0)
    batch = next(batches(stream(5, 0.3), labeler.tokenizer, 256, rng))
    assert batch.ids.numel() <= 256 or len(batch.ids) == 1

    def weights(seed: int) -> torch.Tensor:
        reader = train(labeler, Recipe(seed=seed, steps=2, tokens=128), lambda reader: None)
        return torch.cat([parameter.detach().flatten() for parameter in reader.parameters()])

    before = [parameter.clone() for parameter in labeler.net.parameters()]
    one = weights(0)
    assert torch.equal(one, weights(0)) and torch.isfinite(one).all()
    assert all(torch.equal(a, b) for a, b in zip(before, labeler.net.parameters()))

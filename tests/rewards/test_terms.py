"""The terms that a configuration can name, through `Rewards`: the unsigned cosine, and MCCS with rarity weights."""

import json
import math
import sys

import pytest
import torch

from mrg_grpo.config import Config, load_config
from mrg_grpo.data.study import Study
from mrg_grpo.errors import UserError
from mrg_grpo.rewards import TERMS, Rewards, require_terms
from mrg_grpo.rewards.mccs import clinical_cosine, mccs, rarity_weights, unsigned_cosine
from mrg_grpo.run.rewards_of import rarity

TRAIN = ["n....", "n....", "n....", "np...", "un...", ".....", "..p..", "...nn"]


class DigitLabeler:
    """A stand-in: character i of the text is the label of condition i (p, n, u; anything else is blank)."""

    device = torch.device("cpu")

    def label(self, texts):
        classes = {"p": 1, "n": 2, "u": 3}
        return torch.tensor([[classes.get(c, 0) for c in text.ljust(14, ".")[:14]] for text in texts])


def slow_unsigned(a, b):
    said_a, said_b = ({i for i in range(13) if v[i] > 0} for v in (a, b))
    if not said_a and not said_b:
        return 1.0
    return len(said_a & said_b) / math.sqrt(len(said_a) * len(said_b)) if said_a and said_b else 0.0


def test_unsigned_cosine_against_sets():
    generator = torch.Generator().manual_seed(0)
    draw = lambda: torch.multinomial(torch.tensor([6.0, 1, 2, 1]), 300 * 14, True, generator=generator).view(300, 14)  # noqa: E731
    a, b = draw(), draw()
    a[:5] = 0
    b[3:8] = 0
    got = unsigned_cosine(a, b)
    assert (got - torch.tensor([slow_unsigned(x, y) for x, y in zip(a, b)])).abs().max() < 1e-6
    flipped = torch.tensor([0, 2, 1, 2])[b]
    assert (unsigned_cosine(flipped, b) == 1).all()  # the sign does not count
    assert (clinical_cosine(flipped, b)[(b[:, :13] > 0).any(1)] == -1).all()
    assert unsigned_cosine(a[3:4], b[3:4], zero_vectors=0.5).item() == 0.5


def score(weights, completions, references, weighting="none", **settings):
    config = Config().reward
    config.weights, config.mccs.weighting = weights, weighting
    labeler = DigitLabeler()
    weights = rarity_weights(labeler.label(TRAIN)) if weighting == "rarity" else None
    studies = [Study(str(i), (), text, "train") for i, text in enumerate(references)]
    ids = [[0]] * len(completions)
    return Rewards(config, labeler, rarity=weights, **settings).score(completions, studies, ids)


def test_terms_by_name():
    completions, references = ["pp", "nn", "n.", "u."], ["np", "n."]
    terms = score({"unsigned_cosine": 1.0, "ccs": 1.0}, completions, references).terms
    assert terms["unsigned_cosine"].tolist() == pytest.approx([1, 1, 1, 1])
    assert terms["ccs"].tolist() == pytest.approx([0, 0, 1, -1])


CLINICAL = 0.1**2 + 1  # k(r, r) of a finding and a denial


@pytest.mark.parametrize(
    ("settings", "expected"),
    [  # the reports "pp", "n.", "n.", "uu" of the studies "np" and "nn"
        ("", [0.9 / math.sqrt(2 * CLINICAL), 0.1 / math.sqrt(CLINICAL), 1.0, -1.0]),
        ("denial = 0.0", [1 / math.sqrt(2), 0.0, 1.0, 0.0]),
        ("denial = 0.0\nnormal = 'positive'", [1 / math.sqrt(2), 0.0, 1.0, 1.0]),
        ("denial = 0.0\ncontradiction = 0.5", [0.5 / math.sqrt(2), 0.0, 1.0, -1.0]),
        ("contradiction = 0.05", [0.9 / math.sqrt(2 * CLINICAL), 0.1 / math.sqrt(CLINICAL), 1.0, -1.0]),
        ("denial = 1.0\nnormal = 'none'", [0.0, 1 / math.sqrt(2), 1 / math.sqrt(2), -1.0]),
        ("denial = 1.0\nnormal = 'strict'", [0.0, 1 / math.sqrt(2), 1.0, -1.0]),
        ("denial = 1.0\nnormal = 'unhedged'", [0.0, 1 / math.sqrt(2), 1.0, -1.0]),
        ("denial = 0.1\nuncertain = 0.5\nnormal = 'none'",
         [0.9 / math.sqrt(2 * CLINICAL), 0.1 / math.sqrt(CLINICAL), 1 / math.sqrt(2), -0.1 / math.sqrt(0.5 * 0.02)]),
        ("denial = 0.0\ngate = 2.0", [((1 + 1 / math.sqrt(2)) / 2) ** 2, 0.25, 1.0, 0.25]),
    ],
)  # fmt: skip
def test_the_clinical_term_by_a_file_of_settings(tmp_path, settings, expected):
    file = tmp_path / "clinical.toml"
    file.write_text(f"[reward.weights]\nclinical = 0.5\n[reward.clinical]\n{settings}\n")
    studies = [Study("s", (), "np", "train"), Study("t", (), "nn", "train")]
    table = Rewards(load_config(file).reward, DigitLabeler()).score(["pp", "n.", "n.", "uu"], studies, [[0]] * 4)
    assert table.terms["clinical"].tolist() == pytest.approx(expected, abs=1e-6)
    assert table.total.tolist() == pytest.approx([0.5 * value for value in expected], abs=1e-6)


def test_a_function_gets_labels_and_images_beside_the_texts(tmp_path, monkeypatch):
    (tmp_path / "columns_for_test.py").write_text(
        "seen = {}\ndef look(completions, **columns):\n    seen.update(columns)\n    return [None, 0.0, 0.5, 1.0]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = Config().reward
    config.weights = {"columns_for_test:look": 0.5, "ccs": 1.0}
    studies = [Study("s", ("a.png", "b.png"), "np", "train"), Study("t", (), "n", "train")]
    table = Rewards(config, DigitLabeler(), prompt=lambda study: "Q?").score(
        ["pp", "nn", "n", "u"], studies, [[1], [2], [3], [4]]
    )
    seen = sys.modules["columns_for_test"].seen
    assert sorted(seen) == [
        "completion_ids", "images", "labels", "prompts", "reference", "reference_labels", "reports", "study_id",
    ]  # fmt: skip
    assert [row[:3] for row in seen["labels"]] == [[1, 1, 0], [2, 2, 0], [2, 0, 0], [3, 0, 0]]
    assert [row[:3] for row in seen["reference_labels"]] == [[2, 1, 0]] * 2 + [[2, 0, 0]] * 2
    assert all(isinstance(row, list) and len(row) == 14 for row in seen["labels"] + seen["reference_labels"])
    assert seen["images"] == [["a.png", "b.png"]] * 2 + [[]] * 2 and seen["study_id"] == ["s", "s", "t", "t"]
    own = table.terms["columns_for_test:look"]
    assert own.isnan().tolist() == [True, False, False, False]  # None adds nothing to the sum, as 0 does
    assert table.total.tolist() == pytest.approx((table.terms["ccs"] + torch.tensor([0, 0, 0.25, 0.5])).tolist())


def test_terms_are_looked_up_without_a_labeler():
    config = Config().reward
    for weights, words in (
        ({"mcss": 1.0}, r'unknown term "mcss"; did you mean "mccs"\? use mccs, ccs'),
        ({"omission": 1.0}, 'unknown term "omission"; use mccs, ccs'),
        ({"no_such_for_test:f": 1.0}, "cann"),
    ):
        config.weights = weights
        with pytest.raises(UserError, match=words):
            require_terms(config)
    config.weights = {"mcss": 0.0, "no_such_for_test:f": 0.0} | dict.fromkeys(TERMS, 1.0)  # no weight, no need
    require_terms(config)
    config.weights = dict.fromkeys(TERMS, 1.0)
    assert list(Rewards(config, DigitLabeler()).terms) == list(TERMS)


def test_the_format_term_follows_the_form_that_is_asked_for():
    completions = ["<think>a</think><report>n</report>", "<report>n</report>", "n", "<report>n</report> more"]
    assert score({"format": 1.0}, completions, ["n"]).terms["format"].tolist() == [1, 0, 0, 0]
    assert score({"format": 1.0}, completions, ["n"], think=False).terms["format"].tolist() == [0, 1, 0, 0]


def test_the_rarity_term_is_mccs_with_the_weights_of_the_training_references():
    completions, references = ["n....", ".p...", "np...", "u...."], ["np..."]
    labeler = DigitLabeler()
    table = score({"mccs": 0.75}, completions, references, "rarity")
    weights = rarity_weights(labeler.label(TRAIN))
    margin = Config().reward.mccs.margin
    reference = labeler.label(references).expand(4, 14)
    assert torch.equal(table.terms["mccs"], mccs(labeler.label(completions), reference, margin, weights))
    # by hand: of 8 reports condition 0 is denied in 4, condition 1 positive in 1
    common, rare = -math.log(5 / 10), -math.log(2 / 10)
    cosines = [common / math.hypot(common, rare), rare / math.hypot(common, rare), 1.0, 0.0]
    expected = [max((cosine - margin) / (1 - margin), 0) for cosine in cosines]
    assert table.terms["mccs"].tolist() == pytest.approx(expected, abs=1e-6)
    plain = score({"mccs": 0.75}, completions, references).terms["mccs"]
    assert plain[0] == plain[1] and table.terms["mccs"][0] < table.terms["mccs"][1]  # the rare finding counts more


def test_a_run_keeps_its_rarity_weights(tmp_path):
    config, labeler = Config(), DigitLabeler()
    config.reward.mccs.weighting = "rarity"
    train = [Study(str(i), (), text, "train") for i, text in enumerate(TRAIN)]
    first = rarity(config, train, labeler, tmp_path)
    assert torch.equal(first, rarity_weights(labeler.label(TRAIN)))
    # what a start that failed has left behind is not believed
    assert not torch.equal(rarity(config, train[:3], labeler, tmp_path), first)
    assert torch.equal(rarity(config, train, labeler, tmp_path), first)
    (tmp_path / "config.toml").write_text("# run of train\n")  # the run has begun
    # a resumed run asks no labeler, so its reward cannot change under way
    assert torch.equal(rarity(config, train, None, tmp_path), first)
    rows = [[1.0] * 13] * 2
    for spoiled in ("{", "[1, 2]", "[[1], [2, 3]]", json.dumps([[0.0, *rows[0][1:]], rows[1]]), json.dumps(rows * 2),
                    json.dumps(rows).replace("1.0", "NaN", 1), '{"a": 1}'):  # fmt: skip
        (tmp_path / "rarity_weights.json").write_text(spoiled)
        with pytest.raises(UserError, match=r"rarity_weights\.json: not two rows of 13 numbers above 0"):
            rarity(config, train, None, tmp_path)
    config.reward.mccs.weighting = "none"
    assert rarity(config, train, labeler, tmp_path) is None

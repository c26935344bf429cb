"""docs/reading-the-loop.md is what its script writes: text exactly, numbers to what another CPU's rounding changes."""

import re

import numpy as np
import pytest
from PIL import Image

from experiments.docs import reading_the_loop

NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?")


@pytest.fixture(scope="module")
def script():
    return reading_the_loop


def differences(written: str, expected: str) -> list[str]:
    """Where two pages differ in their words, or in a number by more than two units of its last place."""
    if NUMBER.split(written) != NUMBER.split(expected):
        pairs = zip(written.splitlines(), expected.splitlines())
        return [f"{a!r} is not {b!r}" for a, b in pairs if NUMBER.split(a) != NUMBER.split(b)] or ["other length"]
    numbers = zip(NUMBER.findall(written), NUMBER.findall(expected))
    return [f"{a} is not {b}" for a, b in numbers if abs(value(a) - value(b)) > 2.001 * last_place(b)]


def value(text: str) -> float:
    return float(text.replace(",", ""))


def last_place(text: str) -> float:
    """One unit of the last digit of a decimal number; 0 for a whole one, which must be equal."""
    mantissa, _, exponent = text.partition("e")
    return 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2])) if "." in mantissa or exponent else 0.0


def test_the_page_is_what_its_script_writes(script):
    written = script.PAGE.read_text(encoding="utf-8")
    index = int(re.search(r"study is `train-(\d+)`", written).group(1))
    study = script.phantom.load(sizes={"train": index + 1})["train"][index]
    remedy = "run python experiments/docs/reading_the_loop.py"
    grpo = script.engine(script.settings())
    sampling, labeling = script.margins(grpo, script.sample(grpo, study))
    assert sampling > script.SAMPLING_MARGIN and labeling > script.LABEL_MARGIN, f"a close call; {remedy}"
    assert not differences(written, script.page(grpo, study)), remedy
    picture, drawn = (np.asarray(i, int) for i in (Image.open(script.PICTURE), script.open_image(study.images[0])))
    assert np.abs(picture - drawn).mean() < 1, remedy


def test_differences_are_found():
    assert not differences("loss 0.1234, (4, 48)", "loss 0.1236, (4, 48)")
    assert differences("loss 0.1234", "loss 0.1237") == ["0.1234 is not 0.1237"]
    assert differences("shape (4, 48)", "shape (4, 49)") == ["48 is not 49"]
    assert differences("a 1", "b 1") and differences("-7.4e-05", "7.4e-05")
    assert differences("1 line", "1 line\nmore") == ["other length"]


def test_an_excerpt_that_is_gone_and_a_value_without_a_place_are_refused(script):
    with pytest.raises(script.UserError, match="has no lines from 'no such line'"):
        script.fill("<<code mrg_grpo/grpo.py: no such line ... return>>", {})
    with pytest.raises(script.UserError, match="has no place for P"):
        script.fill("nothing", {"P": "81"})

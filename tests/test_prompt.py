"""The parser: what is compliant, and what is read out of what is not."""

import time

import pytest

from mrg_grpo.labels import CONDITIONS
from mrg_grpo.prompt import (
    context_line,
    foreign_marks,
    foreign_note,
    has_tags,
    parse_completion,
    question,
    target_text,
    think_text,
)


@pytest.mark.parametrize(
    ("text", "think", "report", "compliant"),
    [
        ("<think>a</think><report>b</report>", "a", "b", True),
        (" \n<think> a\n</think>\n\n<report>\nb \n</report>\t", "a", "b", True),
        ("<think></think><report>b</report>", "", "b", False),
        ("<think>a</think><report> </report>", "a", "", False),
        ("<report>b</report>", "", "b", False),
        ("<report>b</report><think>a</think>", "a", "b", False),
        ("x<think>a</think><report>b</report>", "a", "b", False),
        ("<think>a</think>x<report>b</report>", "a", "b", False),
        ("<think>a</think><report>b</report>x", "a", "b", False),
        ("<think>a</think><report>b</report><report>c</report>", "a", "b", False),
        ("<think>a</think><think>a</think><report>b</report>", "a", "b", False),
        ("<think>a<report>b</report></think>", "a b", "b", False),
        ("<think>a</think><report>b", "a", "b", False),
        ("<think>a</think>b", "a", "b", False),
        ("<think>a b", "a b", "", False),
        ("<think>a b<report>c", "a b c", "c", False),
        ("a\n</think>\nb", "a", "b", False),
        ("a</think><report>b</report>", "a", "b", False),
        ("a <report>draft</report></think><report>b</report>", "a  draft", "b", False),
        ("<think>a</think>b</think>c", "a", "c", False),
        ("</think>b", "", "b", False),
        ("<report>b</report></think>", "b", "b", False),
        ("<Think>a</THINK>b", "", "b", False),
        ("<thinking>a</thinking>b", "", "b", False),
        ("<thinking>a", "", "", False),
        ("<reasoning>a</reasoning><answer>b</answer>", "", "b", False),
        ("◁think▷a◁/think▷b", "", "b", False),
        ("[THINK]a[/THINK]b", "", "b", False),
        ("<unused94>thought\na<unused95>b", "", "b", False),
        ("<|begin_of_thought|>a<|end_of_thought|><|begin_of_solution|>b<|end_of_solution|>", "", "b", False),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>",
            "",
            "b",
            False,
        ),
        ("analysisa assistantfinalb", "", "b", False),
        ("plain text", "", "plain text", False),
        ("", "", "", False),
        ("<Think>a</Think><report>b</report>", "", "b", False),
        ("<think>a</think><report>b</report></report>", "a", "b", False),
    ],
)
def test_parse(text, think, report, compliant):
    got = parse_completion(text)
    assert (got.think, got.report, got.compliant) == (think, report, compliant)


def test_without_think_the_report_stands_alone():
    assert parse_completion("<report>b</report>", think=False).compliant
    assert not parse_completion("<think>a</think><report>b</report>", think=False).compliant


def test_prompt_and_parser_agree_on_tags():
    labels = [0] * 14
    labels[CONDITIONS.index("Edema")] = 1
    labels[CONDITIONS.index("Pneumothorax")] = 2
    labels[CONDITIONS.index("Pleural Effusion")] = 3
    got = parse_completion(target_text("Edema.", labels))
    assert got.compliant and got.report == "Edema."
    assert got.think == "lungs: edema; pleura: no pneumothorax, possible pleural effusion"
    assert parse_completion(target_text("Clear.", None, think=False), think=False).compliant
    for tag in ("<think>", "</think>", "<report>", "</report>"):
        assert tag in question() and tag in target_text("x", labels)
    assert think_text([0] * 14) == "nothing"


def test_marks_of_other_families_are_counted_by_name():
    texts = [
        "<thinking>a</thinking>b",
        "<thinking>c",
        "◁think▷a◁/think▷b",
        "<think>a</think><report>b</report>",
        "plain",
    ]
    assert foreign_marks(texts) == {"<thinking>": 2, "</thinking>": 1, "◁think▷": 1, "◁/think▷": 1}
    assert [has_tags(text) for text in texts] == [True, True, True, True, False]
    assert "(<thinking> 2, " in foreign_note(texts) and foreign_note(texts[3:]) == ""


@pytest.mark.parametrize(
    "piece", ["<think>", "</think>", "<thinking>", "<|channel|>", "[", "<report>", "◁think▷a◁/think▷"]
)
def test_the_parser_takes_time_linear_in_the_text(piece):
    start = time.process_time()
    parse_completion(piece * 40_000)
    assert time.process_time() - start < 2


def test_what_is_known_stands_in_front_of_the_question():
    known = {
        "age": "67",
        "sex": "F",
        "indication": "Cough?",
        "comparison": "None",
        "history": "",
        "prior_images": ("a",),
    }
    asked = ["comparison", "indication", "history", "sex", "age"]
    assert context_line(known, asked) == "Context: Age: 67. Gender: F. Indication: Cough? Comparison: None.\n"
    assert context_line(known, ["history"]) == context_line({}, asked) == context_line(known, []) == ""
    told = "Context: Prior study: of the 3 images the last is from it.\n"
    assert context_line(known, ["prior_images", "prior_report"], images=2) == told
    several = context_line({"prior_images": ("a", "b")}, ["prior_images"], images=1)
    assert several == "Context: Prior study: of the 3 images the last 2 are from it.\n"

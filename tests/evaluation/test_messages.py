"""What chat models and their tools write, each in its real layout with invented text: read to the same rows."""

import json

import pytest

from mrg_grpo.errors import UserError
from mrg_grpo.evaluation.messages import SeveralAnswersError, answer
from mrg_grpo.evaluation.prediction_files import read_predictions

ROWS = [("s1", "Lungs are clear.", "Clear lungs."), ("s2", "Mild edema.", "No edema.")]
QUESTION = {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "Report?"}]}
TEXT = {"role": "user", "content": "<image>Report?"}


def said(text):
    return {"role": "assistant", "content": text}


def parts(text):
    return said([{"type": "text", "text": text}, {"type": "image", "image": "b.png"}])


def batch(study, text):
    """A line of OpenAI's and of vLLM's batch output."""
    choice = {"index": 0, "message": said(text), "logprobs": None, "finish_reason": "stop"}
    body = {"id": "chatcmpl-1", "object": "chat.completion", "model": "m", "choices": [choice], "usage": {}}
    answered = {"status_code": 200, "request_id": f"req-{study}", "body": body}
    return {"id": f"vllm-{study}", "custom_id": study, "response": answered, "error": None}


def swift(study, reference, text):
    """A line of `swift infer`: no id, the reference under labels, pictures as objects."""
    images = [{"bytes": None, "path": f"{study}.png"}]
    return {"response": text, "labels": reference, "logprobs": None, "messages": [TEXT, said(text)], "images": images}


ONE_FILE = {
    "ms-swift inference": [swift(*row) for row in ROWS],
    "LLaMA-Factory predictions": [{"prompt": "Report?", "predict": p, "label": r} for _, r, p in ROWS],
    "lm-eval samples": [
        {"doc_id": s, "doc": {"image": "a"}, "target": r, "arguments": [], "resps": [[p]], "filtered_resps": [p]}
        for s, r, p in ROWS
    ],
    "chat messages": [{"id": s, "reference": r, "messages": [QUESTION, said(p)]} for s, r, p in ROWS],
    "conversations": [
        {"id": s, "gt": r, "conversations": [{"from": "human", "value": "Report?"}, {"from": "gpt", "value": p}]}
        for s, r, p in ROWS
    ],
    "prompt and completion": [
        {"study_id": s, "ground_truth": r, "prompt": [TEXT], "completion": [said(p)]} for s, r, p in ROWS
    ],
}


@pytest.mark.parametrize("name", ONE_FILE)
def test_layouts_of_both_sides(tmp_path, name):
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, ONE_FILE[name])))
    result = read_predictions([tmp_path / "p.jsonl"])
    has_id = "no ids" not in result.layout
    expected = [(s if has_id else str(n), r, p) for n, (s, r, p) in enumerate(ROWS, start=1)]
    assert [(row.study_id, row.reference, row.prediction) for row in result.rows] == expected
    assert result.layout.startswith(f"jsonl, {name}, with")
    if name.startswith("ms-swift"):
        assert "labels as reference, response as prediction" in result.layout
        assert [row.images for row in result.rows] == [("s1.png",), ("s2.png",)]


OF_PREDICTIONS = {
    "batch output of OpenAI or vLLM": [batch(s, p) for s, _, p in ROWS],
    "batch output of Anthropic": [
        {"custom_id": s, "result": {"type": "succeeded", "message": {"id": "msg", "type": "message", **parts(p)}}}
        for s, _, p in ROWS
    ],
    "chat messages": [{"id": s, "messages": [TEXT, parts(p)]} for s, _, p in ROWS],
}


@pytest.mark.parametrize("name", OF_PREDICTIONS)
def test_layouts_of_predictions_alone(tmp_path, name):
    (tmp_path / "gt.csv").write_text("id,report\n" + "".join(f"{s},{r}\n" for s, r, _ in ROWS))
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, OF_PREDICTIONS[name])))
    result = read_predictions([tmp_path / "gt.csv", tmp_path / "p.jsonl"])
    assert [(row.study_id, row.reference, row.prediction) for row in result.rows] == ROWS
    assert f"predictions p.jsonl ({name}, " in result.layout


def test_messages_of_a_data_set_are_its_references(tmp_path):
    data = [{"id": s, "messages": [QUESTION, said(r)]} for s, r, _ in ROWS]
    (tmp_path / "data.json").write_text(json.dumps(data))
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps(batch(s, p)) for s, _, p in ROWS))
    result = read_predictions([tmp_path / "data.json", tmp_path / "p.jsonl"])
    assert [(row.study_id, row.reference, row.prediction) for row in result.rows] == ROWS


def test_a_request_that_failed_is_a_missing_prediction(tmp_path):
    lines = [batch(s, p) for s, _, p in ROWS]
    lines[0] |= {"response": None, "error": {"code": "timeout"}}
    failed = batch("s3", "")
    failed["response"] |= {"status_code": 400, "body": {"error": {"message": "too long"}}}
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, [*lines, failed])))
    (tmp_path / "gt.csv").write_text("id,report\ns1,Clear.\ns2,Edema.\ns3,Clear.\n")
    result = read_predictions([tmp_path / "gt.csv", tmp_path / "p.jsonl"])
    assert result.missing == ["s1", "s3"] and [row.prediction for row in result.rows] == ["", "No edema.", ""]


def test_named_columns_are_surer_than_messages(tmp_path):
    record = {"id": "s1", "label": "Truth.", "response": "Guess.", "messages": [TEXT, said("Other.")]}
    (tmp_path / "p.jsonl").write_text(json.dumps(record))
    assert read_predictions([tmp_path / "p.jsonl"]).rows[0].prediction == "Guess."


@pytest.mark.parametrize(
    ("record", "message"),
    [
        # the last turn may be the truth of a data set or an echo of the response
        ({"id": "a", "response": "p", "messages": [TEXT, said("r")]}, "no column for reference .*--columns reference="),
        ({"id": "a", "gt": "r", "messages": [TEXT]}, "no column for prediction .*--columns prediction="),
        ({"id": "a", "gt": "r", "choices": [{"text": "p"}, {"text": ""}]}, "choices is a list of 2 answers; .*--c"),
        ({"id": "a", "gt": "r", "filtered_resps": ["p", "q"]}, "filtered_resps is a list of 2 answers"),
        ({"id": "a", "gt": "r", "response": {"score": 1}}, "response is an object without an answer"),
        ({"id": "a", "gt": "r", "response": [1, 2]}, "response is a list, not a text"),
        ({"id": "a", "gt": "r", "messages": [TEXT, said("p")], "conversations": [said("q")]}, "messages, conv"),
    ],
)  # fmt: skip
def test_what_is_not_clear_is_refused(tmp_path, record, message):
    (tmp_path / "p.jsonl").write_text(json.dumps(record))
    with pytest.raises(UserError, match=message) as error:
        read_predictions([tmp_path / "p.jsonl"])
    assert "\n" not in str(error.value) and "p.jsonl" in str(error.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([said("old"), TEXT], None),  # an answer to another question
        ([{"role": "system", "content": "s"}, TEXT, said(None)], None),
        ([{"role": "model", "content": "p"}], "p"),
        (parts("p"), "p"),
        (said([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), "a\nb"),
        (said([{"type": "image", "image": "x"}]), None),
        ([{"type": "output_text", "text": "p"}], "p"),
        ({"output": [{"type": "reasoning"}, {"type": "message", **said("p")}]}, "p"),
        ({"role": "user", "content": "p"}, None),
        ({"choices": [{"text": "p", "index": 0}]}, "p"),
        ([["p"]], "p"),
        ([], None),
        ("p", "p"),
    ],
)
def test_answers(value, expected):
    assert answer(value) == expected


def test_several_answers_and_none():
    with pytest.raises(SeveralAnswersError):
        answer([["a", "b"]])
    for value in (5, [1], {}, {"score": 1}):
        with pytest.raises(ValueError, match="is a"):
            answer(value)


def test_nesting_without_end_is_one_line(tmp_path):
    deep = '{"body": ' * 800 + '"p"' + "}" * 800
    (tmp_path / "p.jsonl").write_text(f'{{"id": "a", "gt": "r", "response": {deep}}}')
    try:
        assert read_predictions([tmp_path / "p.jsonl"]).rows[0].prediction == "p"
    except UserError as error:
        assert "\n" not in str(error)

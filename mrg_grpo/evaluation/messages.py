"""The answer in what chat models leave behind: messages, batch outputs, samples of an evaluation harness.

    [{"role": "user", ...}, {"role": "assistant", "content": ...}]     Hugging Face, OpenAI, TRL
    [{"from": "human", ...}, {"from": "gpt", "value": ...}]            ShareGPT, LLaVA
    {"body": {"choices": [{"message": ...}]}}                          a response of OpenAI's or vLLM's batch
    {"message": {"content": [{"type": "text", "text": ...}]}}          a result of Anthropic's batch
    [["text"]]                                                         filtered responses of lm-eval and lmms-eval

Deliberate choices: the answer is the assistant's last turn, and a conversation that ends with a question has none: an
older turn would be an answer to something else. Text parts of one turn are joined, pictures are left out. Of several
answers none is chosen.
"""

from typing import Any

ASSISTANT = ("assistant", "gpt", "model")
"""What layouts call the one who answers."""

LAYOUTS: tuple[tuple[str, frozenset[str]], ...] = (
    ("ms-swift inference", frozenset(("response", "labels", "messages"))),
    ("LLaMA-Factory predictions", frozenset(("prompt", "predict", "label"))),
    ("batch output of OpenAI or vLLM", frozenset(("custom_id", "response"))),
    ("batch output of Anthropic", frozenset(("custom_id", "result"))),
    ("lm-eval samples", frozenset(("doc_id", "filtered_resps"))),
    ("chat messages", frozenset(("messages",))),
    ("conversations", frozenset(("conversations",))),
    ("prompt and completion", frozenset(("prompt", "completion"))),
)
"""What a record with these keys comes from, the surest first."""


class SeveralAnswersError(ValueError):
    """There is more than one answer, and nothing says which one counts."""


def layout_of(record: dict[str, Any]) -> str:
    """The name of a record's layout; "" where it is none of these."""
    return next((name for name, keys in LAYOUTS if keys <= record.keys()), "")


def answer(value: Any) -> str | None:
    """The text of the answer in a value of any of these forms; None where there is none.

    Raises ValueError, which says what the value is instead, and SeveralAnswersError.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, dict):
        return _of_object(value)
    if not isinstance(value, list):
        raise ValueError(f"is a {type(value).__name__}, not a text")
    if not value:
        return None
    if all(isinstance(item, dict) and ("role" in item or "from" in item) for item in value):
        return _of_object(value[-1])
    if all(isinstance(item, dict) and "type" in item for item in value):
        return _joined(value)
    if not all(isinstance(item, str | list | dict) for item in value):
        raise ValueError("is a list, not a text")
    if len(value) > 1:
        raise SeveralAnswersError(f"is a list of {len(value)} answers")
    return answer(value[0])


def has_answer(value: Any) -> bool:
    """Whether a value holds an answer, or several."""
    try:
        return answer(value) is not None
    except SeveralAnswersError:
        return True
    except (ValueError, RecursionError):
        return False


def _of_object(value: dict[str, Any]) -> str | None:
    speaker = value.get("role", value.get("from", ASSISTANT[0]))
    if speaker not in ASSISTANT or value.get("error"):
        return None
    for key in ("body", "choices", "message"):  # from the wrapping of a response down to a turn
        if key in value:
            return answer(value[key])
    if isinstance(value.get("output"), list):  # of the Responses API: thoughts and calls stand beside the message
        return answer([item for item in value["output"] if isinstance(item, dict) and "role" in item])
    for key in ("content", "value", "text"):
        if key in value:
            content = value[key]
            return _joined(content) if isinstance(content, list) else answer(content)
    raise ValueError("is an object without an answer")


def _joined(parts: list[Any]) -> str | None:
    """The text parts of one turn; None where it has pictures alone."""
    texts = [part if isinstance(part, str) else part.get("text") for part in parts if isinstance(part, str | dict)]
    found = [text for text in texts if isinstance(text, str)]
    return "\n".join(found) if found else None

"""One request to the hub before the libraries ask it: mistyped names, and a hub that cannot be reached."""

import httpx2
import pytest
from transformers.utils import hub as transformers_hub

from mrg_grpo import hub
from mrg_grpo.errors import UserError
from mrg_grpo.hub import require_there
from mrg_grpo.labelers import CheXbert, embedded_labeler


@pytest.fixture
def asked(monkeypatch):
    """The ids that the hub is asked for, and what it does then: an error to raise, or None."""
    seen, answer = [], []

    def model_info(self, path, revision=None, timeout=None):
        seen.append(path)
        if answer and answer[0]:
            raise answer[0]

    monkeypatch.setattr(hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    return seen, answer


def refusal(kind):
    return kind("404", response=httpx2.Response(404, request=httpx2.Request("GET", "https://hub")))


@pytest.mark.parametrize("path", ["/no/such", "./base", "~nobody/base", "a/b/c", "tests/none", "a b", "b\\c", "", "-x"])
def test_a_place_that_is_not_there_is_refused_and_the_hub_not_asked(path, asked):
    with pytest.raises(UserError, match="no such file or folder; name one that is there, or a hub id"):
        require_there(path, "adapter")
    assert asked[0] == []


def test_a_name_that_the_hub_refuses_is_one_line(asked):
    seen, answer = asked
    answer[:] = [refusal(transformers_hub.RepositoryNotFoundError)]
    with pytest.raises(UserError, match=r"model\.path org/typo: no such file or folder, and the hub has no such model"):
        require_there("org/typo", "model.path")
    answer[:] = [refusal(transformers_hub.RevisionNotFoundError)]
    with pytest.raises(UserError, match="no revision v9"):
        require_there("org/base", "model.path", "v9")
    assert seen == ["org/typo", "org/base"] and not hub.constants.HF_HUB_OFFLINE


def test_a_hub_out_of_reach_is_asked_once(asked):
    seen, answer = asked
    answer[:] = [refusal(transformers_hub.HfHubHTTPError)]  # there, with trouble of its own
    require_there("org/base", "model.path")
    assert not hub.constants.HF_HUB_OFFLINE
    answer[:] = [httpx2.ConnectError("Name or service not known")]
    for _ in range(3):
        require_there("org/base", "model.path")
    assert seen == ["org/base"] * 2 and hub.constants.HF_HUB_OFFLINE


def test_a_labelers_tokenizer_is_asked_for_like_every_other_path(tmp_path, asked):
    embedded_labeler().save(tmp_path / "labeler")
    with pytest.raises(UserError, match="labeler tokenizer a/b/c: no such file or folder"):
        CheXbert.load(tmp_path / "labeler", tokenizer="a/b/c")
    assert asked[0] == []

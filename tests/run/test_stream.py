"""A study that comes twice in a step draws other reports the second time, on one rank as on many."""

import torch

from mrg_grpo.data.study import Study
from mrg_grpo.model.batch import PromptBatch, stream_keys
from mrg_grpo.model.rollout import uniforms
from mrg_grpo.run.stream import StudyStream


def batch(ids: list[str]) -> PromptBatch:
    studies = [Study(i, (), "x", "train") for i in ids]
    return PromptBatch(studies, torch.zeros(len(ids), 1), torch.ones(len(ids), 1), {})


def test_the_first_time_a_study_has_its_own_id_and_then_a_key_of_its_own():
    assert stream_keys(["a", "b", "a", "a", "b"]) == ["a", "b", "a\n1", "a\n2", "b\n1"]
    assert batch(["a", "b", "a"]).to("cpu").keys == ["a", "b", "a\n1"]
    first, second = uniforms(0, 3, [(key, 0) for key in batch(["a", "a"]).keys], 8)
    assert torch.equal(first, uniforms(0, 3, [("a", 0)], 8)[0]) and not torch.equal(first, second)


def test_more_studies_a_step_than_there_are():
    studies = [Study(str(i), (), "x", "train") for i in range(3)]
    ids = [study.id for study in StudyStream(studies, 8, 0).batch(2)]
    assert len(set(ids)) == 3 and len(set(stream_keys(ids))) == 8


def test_a_rank_takes_its_share_of_the_keys_of_the_whole_step(monkeypatch):
    """The copy lies on the second rank: its key is that of a single process all the same."""
    studies = [Study(str(i), (), "x", "train") for i in range(2)]

    class Encoder:
        def encode(self, studies, filler=0, keys=None):
            return [study.id for study in studies], keys

    monkeypatch.setattr("mrg_grpo.distributed.all_gather", lambda value: [value])

    def of_ranks(count):
        monkeypatch.setattr("mrg_grpo.distributed.world_size", lambda: count)
        shares = []
        for rank in range(count):
            monkeypatch.setattr("mrg_grpo.distributed.rank", lambda rank=rank: rank)
            shares.append(next(StudyStream(studies, 4, 0).prompts(Encoder(), 1, 1))[1].prompts)
        return [study for own, _ in shares for study in own], [key for _, keys in shares for key in keys]

    assert of_ranks(1) == of_ranks(2) and len(set(of_ranks(2)[1])) == 4

"""The preflight: every check passes on the embedded default, and fails once what it guards is broken."""

import dataclasses
import json
from contextlib import nullcontext

import pytest
import torch
from PIL import Image

from mrg_grpo.cli import main
from mrg_grpo.config import Config, load_config
from mrg_grpo.data import load_studies
from mrg_grpo.errors import UserError
from mrg_grpo.labelers import load_labeler
from mrg_grpo.model.policy import Policy
from mrg_grpo.model.sampler import Sampler
from mrg_grpo.preflight import check, check_engine
from mrg_grpo.prompt import QUESTION

SMALL = [
    "grpo.group_size=4", "grpo.studies_per_step=2", "grpo.micro_batch=3", "sampling.max_tokens=60",
]  # fmt: skip


@pytest.fixture(scope="module")
def config(request) -> Config:
    return load_config(request.config.rootpath / "experiments" / "phantom.toml", SMALL)


@pytest.fixture(scope="module")
def studies():
    return load_studies("phantom", "")["train"][:6]


@pytest.fixture
def policy(config) -> Policy:
    return Policy.load(config)


def changed(config: Config, **tables) -> Config:
    """A copy with `grpo={"beta": 0.0}` changed."""
    parts = {name: dataclasses.replace(getattr(config, name), **values) for name, values in tables.items()}
    return dataclasses.replace(config, **parts)


@pytest.mark.slow
def test_the_embedded_default_passes(config, tmp_path, capsys, request):
    settings = [*SMALL, "sampling.max_tokens=150", f"run.output_dir={tmp_path / 'run'}"]
    path = str(request.config.rootpath / "experiments" / "phantom.toml")
    assert main(["check", path, *[part for setting in settings for part in ("--set", setting)]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "17 pass"
    names = [line[6:24].strip() for line in lines[:-1]]
    assert names == [
        "folder", "device", "splits", "images", "following", "labeler", "references",
        "model", "tags", "disk", "tokens", "targets",
        "log-probabilities", "KL", "pixels", "rewards", "longest step",
    ]  # fmt: skip
    assert not (tmp_path / "run").exists()  # looking leaves nothing behind


def test_a_folder_that_holds_a_run_fails_and_ends_with_2(config, tmp_path, capsys, request):
    (tmp_path / "config.toml").write_text("# run of train\n")
    path = str(request.config.rootpath / "experiments" / "phantom.toml")
    arguments = ["--set", f"run.output_dir={tmp_path}", "--set", "model.path=/nowhere"]
    assert main(["check", path, *arguments]) == 2
    printed = capsys.readouterr().out
    assert "already holds a run" in printed and "--resume" in printed
    (tmp_path / "config.toml").write_text("# my notes\n")
    assert main(["check", path, *arguments]) == 2 and "a config.toml that no run wrote" in capsys.readouterr().out
    assert "fail  model" in printed and "skip  all others" in printed and "2 fail" in printed


def test_a_folder_that_cannot_be_written_fails(config, tmp_path, monkeypatch):
    def refuse(dir):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    own = changed(config, run={"output_dir": str(tmp_path / "run")})  # `make train` may have left a run in the default
    finding = check.check_folder(own)
    assert finding.status == "fail" and "Read-only" in finding.found and "run.output_dir" in finding.remedy


@pytest.mark.parametrize("device", ["cuda:77", "nonsense"])
def test_a_device_that_is_not_there_fails(config, device):
    assert check.check_device(changed(config, model={"device": device})).status == "fail"


def test_splits_warn_of_other_sizes_and_fail_without_images(config, monkeypatch):
    whole = load_studies("phantom", "")
    monkeypatch.setattr(check, "read_splits", lambda *_, **__: {**whole, "test": whole["test"][:40]})
    _, finding = check.check_splits(changed(config, data={"form": "iu_xray_r2gen"}))  # whose sizes are published
    assert finding.status == "warn" and "40" in finding.found and "590" in finding.found
    bare = [dataclasses.replace(study, images=()) for study in whole["test"][:3]]
    monkeypatch.setattr(check, "read_splits", lambda *_, **__: {**whole, "test": bare})
    splits, finding = check.check_splits(config)
    assert splits is None and finding.status == "fail" and "3 of 3 studies have no image" in finding.found


def test_a_labeler_with_other_weights_fails(config, labeler, monkeypatch):
    wrong = load_labeler("", "", torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    for parameter in wrong.net.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    monkeypatch.setattr(check, "config_labeler", lambda _: wrong)
    assert check.check_labeler(config)[1].status == "fail"
    assert check.check_labeler(changed(config, labeler={"path": "/nowhere"}))[1].status == "fail"


def test_tags_that_the_tokenizer_swallows_fail(config, policy):
    assert check.check_tags(config, policy.tokenizer).status == "pass"
    policy.tokenizer.add_special_tokens({"additional_special_tokens": ["<report>", "</report>"]})
    finding = check.check_tags(config, policy.tokenizer)
    assert finding.status == "fail" and "<think>nothing</think>The lungs" in finding.found


def test_a_prompt_with_other_tags_is_warned_of(config, policy):
    other = changed(config, prompt={"text": f"{QUESTION} End with <answer></answer>."})
    finding = check.check_tags(other, policy.tokenizer)
    assert finding.status == "warn" and "<answer>" in finding.found


def test_a_full_disk_fails(config, policy):
    assert check.check_disk(config, policy, 100).status == "pass"
    adapter = sum(p.numel() * 4 for p in policy.trainable())
    assert check.check_disk(config, policy, 100, free=9 * adapter).status == "fail"


def test_prompts_beyond_the_models_positions_fail(config, policy, studies):
    longest, finding = check.check_tokens(config, policy, studies)
    assert finding.status == "pass" and ", 36 of them image tokens" in finding.found and len(longest) == len(studies)
    assert check.check_tokens(changed(config, sampling={"max_tokens": 2000}), policy, studies)[1].status == "fail"
    damaged = [dataclasses.replace(studies[0], images=("README.md",)), *studies[1:]]
    sample, finding = check.check_tokens(config, policy, damaged)  # a run leaves it out, and so do the other checks
    assert finding.status == "warn" and f"{studies[0].id} cannot be shown (image README.md is not an" in finding.found
    assert {study.id for study in sample} == {study.id for study in studies[1:]}
    assert check.check_tokens(config, policy, damaged[:1])[1].status == "fail"


def test_images_that_do_not_decode_are_told_where_that_is_asked_for(config, tmp_path):
    tree: dict = {"train": [], "val": [], "test": []}
    (tmp_path / "images").mkdir()
    paths = [tmp_path / "images" / f"{n}.png" for n in range(3)]
    for path, split in zip(paths, ("train", "train", "test")):
        Image.effect_noise((40, 40), 60).save(path)
        tree[split].append({"id": path.stem, "report": "Clear.", "image_path": [path.name], "split": split})
    (tmp_path / "annotation.json").write_text(json.dumps(tree))
    own = changed(config, data={"form": "iu_xray_r2gen", "root": str(tmp_path)})
    splits, finding = check.check_splits(own)
    assert finding.status == "warn"  # of the sizes alone
    assert "0 of 3 files do not decode" in check.check_images(own, splits, True).found
    for path, status in zip(paths, ("warn", "fail")):  # then no training study is left
        path.write_bytes(path.read_bytes()[:200])
        assert check.check_images(own, splits, False).status == "pass"
        whole = check.check_images(own, splits, True)
        assert whole.status == status and f"files do not decode: {paths[0]}" in whole.found
    assert f"(image {paths[0]} is truncated or damaged" in whole.found
    paths[0].write_bytes(b"")
    assert check.check_splits(own)[1].status == "fail"
    assert check.check_images(config, splits, True).found == "rendered on demand"


def test_references_beyond_the_length_limit_are_told(config, policy, labeler, studies):
    assert check.check_targets(changed(config, sampling={"max_tokens": 160}), policy, labeler, studies).status == "pass"
    finding = check.check_targets(changed(config, sampling={"max_tokens": 8}), policy, labeler, studies)
    assert finding.status == "fail" and "100%" in finding.remedy


def test_sampling_from_another_policy_fails(config, policy, studies, monkeypatch):
    before = [p.clone() for p in policy.trainable()]
    assert check_engine.check_logprobs(config, policy, studies[:2]).status == "pass"
    assert all(torch.equal(p, b) for p, b in zip(policy.trainable(), before))  # the nudge is put back

    def forgets_the_scale(policy):  # sampling with twice the LoRA update
        for module in policy.model.modules():
            if hasattr(module, "lora_B") and module.lora_B:
                module.scaling = dict.fromkeys(module.scaling, 4.0)
        return Sampler(policy)

    monkeypatch.setattr("mrg_grpo.model.rollout.Sampler", forgets_the_scale)
    decode_logps = check_engine.logps_of

    def training_scale(*arguments):
        for module in policy.model.modules():
            if hasattr(module, "lora_B") and module.lora_B:
                module.scaling = dict.fromkeys(module.scaling, 2.0)
        return decode_logps(*arguments)

    monkeypatch.setattr(check_engine, "logps_of", training_scale)
    assert check_engine.check_logprobs(config, policy, studies[:2]).status == "fail"


def test_a_reference_that_follows_the_policy_or_starts_elsewhere_fails(config, policy, labeler, studies, monkeypatch):
    sampled = check_engine.sample(config, policy, labeler, studies[:2])
    assert check_engine.check_kl(config, policy, sampled).status == "pass"
    assert check_engine.check_kl(changed(config, grpo={"beta": 0.0}), policy, sampled).status == "pass"
    with check_engine.nudged(policy):  # as if the reference were not the start
        assert check_engine.check_kl(config, policy, sampled).status == "fail"
    monkeypatch.setattr(policy, "reference", nullcontext)
    assert check_engine.check_kl(config, policy, sampled).status == "fail"


def test_a_policy_that_does_not_see_fails(config, policy, labeler, studies, monkeypatch):
    sampled = check_engine.sample(config, policy, labeler, studies)
    assert check_engine.check_pixels(config, policy, sampled).status == "pass"
    features = policy.family.vision_features
    monkeypatch.setattr(policy.family, "vision_features", lambda *a: torch.zeros_like(features(*a)))
    blind = check_engine.sample(config, policy, labeler, studies)
    assert check_engine.check_pixels(config, policy, blind).status == "fail"


def test_rewards_without_spread_fail_and_zero_rewards_are_told(config, policy, labeler, studies):
    sampled = check_engine.sample(config, policy, labeler, studies)
    assert check_engine.check_rewards(config, sampled).status == "pass"
    sampled.table.total[:] = 0.0
    finding = check_engine.check_rewards(config, sampled)
    assert finding.status == "fail" and "zero rewards 100%" in finding.found and "sft" in finding.remedy


def test_the_longest_step_is_a_whole_step_at_the_length_limit(config, policy, labeler, studies):
    before = [p.clone() for p in policy.trainable()]
    stops = policy.stop_ids
    finding = check_engine.check_longest_step(
        changed(config, sampling={"mask_truncated": True}), policy, labeler, studies
    )
    assert finding.status == "pass" and "2 studies x 4 reports of 60 tokens" in finding.found
    assert all(torch.equal(p, b) for p, b in zip(policy.trainable(), before)) and policy.stop_ids == stops


def test_a_step_that_does_not_fit_fails(config, policy, labeler, studies, monkeypatch):
    def no_room(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(policy, "backward", no_room)
    finding = check_engine.check_longest_step(config, policy, labeler, studies)
    assert finding.status == "fail" and "20 GiB" in finding.found and "micro_batch" in finding.remedy


def test_a_bad_image_in_a_later_check_is_a_finding(config):
    def bad():
        raise UserError("image x.png is empty")

    assert check.guarded("pixels", bad).status == "fail"


def test_trackers_and_the_metric_of_the_best_adapter_are_looked_at(monkeypatch):
    config = Config()
    assert (
        "keeps the best adapter by f1_micro_13_uncertain_positive; reports to no tracker"
        in check.check_following(config).found
    )
    config.run.keep_best, config.run.report_to = "", ["tensorboard"]
    assert "keeps the last adapter alone; reports to tensorboard" in check.check_following(config).found
    config.run.keep_best = "f1_micro"
    assert check.check_following(config).status == "fail"
    config.run.keep_best = ""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "not installed" in check.check_following(config).found

"""`mrg-grpo export`: weights against W + s B A by hand, the base's files as they are, what rounding takes, the card."""

import json
import shutil

import pytest
import torch
from fake_run import write_run
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

import mrg_grpo.hub as hub
from mrg_grpo.cli import main
from mrg_grpo.config import Config, load_config
from mrg_grpo.export import card, checkpoint
from mrg_grpo.model import adapters
from mrg_grpo.model.families import FAMILIES
from mrg_grpo.model.policy import Policy

LARGE, YOUNG = 0.1, 1e-4
"""Standard deviation of B: an adapter that has learned much, and one after a few steps."""


def a_run(folder, base, size=LARGE, **settings):
    """A finished run whose adapter has a B of this size."""
    write_run(folder, model_path=str(base), model_device="cpu", model_dtype="float32", **settings)
    torch.manual_seed(0)
    policy = Policy.load(load_config(folder))
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape).to(parameter) * size
    adapters.save(policy.model, folder / "adapter")
    return folder


@pytest.fixture(autouse=True)
def few_phantoms(monkeypatch):
    monkeypatch.setattr("mrg_grpo.data.phantom.dataset.SIZES", {"train": 4, "val": 4, "test": 4})


@pytest.fixture(scope="module")
def base(tiny_checkpoint):
    """With weights that bf16 holds, as every large checkpoint has them."""
    return tiny_checkpoint(scale=0.1, dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def run(base, tmp_path_factory):
    return a_run(tmp_path_factory.mktemp("runs") / "run", base)


def refused(capsys, *words):
    assert main(["export", *map(str, words)]) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def merged_by_hand(base, adapter):
    """Module -> W + s B A, from the two files."""
    weights = load_file(adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text())
    whole = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32).state_dict()
    for name in [name for name in weights if "lora_A" in name]:
        module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        update = weights[name.replace("lora_A", "lora_B")].double() @ weights[name].double()
        key = f"{module}.weight"
        whole[key] = (whole[key].double() + config["lora_alpha"] / config["r"] * update).float()
    return whole


# ---- weights and files


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("vision", [False, True])
def test_plain_transformers_loads_what_was_trained(tiny_checkpoint, tmp_path, family, vision, capsys):
    base = tiny_checkpoint(scale=0.1, family=family)
    run = a_run(tmp_path / "run", base, lora_vision=vision)
    assert main(["export", str(run), "--to", str(tmp_path / "out"), "--dtype", "float32"]) == 0
    assert "kept of what was trained: 1.000" in capsys.readouterr().out
    plain, found = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "out", dtype=torch.float32, output_loading_info=True
    )
    assert not found["missing_keys"] and not found["unexpected_keys"]
    expected, start = merged_by_hand(base, run / "adapter"), load_file(base / "model.safetensors")
    own = plain.state_dict()
    assert own.keys() == expected.keys() and load_file(tmp_path / "out" / "model.safetensors").keys() == start.keys()
    for name, weight in expected.items():
        assert torch.allclose(own[name], weight, rtol=1e-6, atol=1e-7), name
    for path in base.iterdir():  # the base's own files, byte for byte
        if path.suffix != ".safetensors" and path.name != "config.json":
            assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name
    assert {path.stat().st_mode for path in (tmp_path / "out").iterdir()} == {(base / "config.json").stat().st_mode}

    policy, again = Policy.load(load_config(run), str(run / "adapter"), trainable=False), load_config(run)
    again.model.path, again.model.adapter = str(tmp_path / "out"), ""
    studies = checkpoint.probes(again)[0]
    ours, theirs = (checkpoint.logprobs(one, studies) for one in (policy, Policy.load(again)))
    assert (ours - theirs).abs().max() < 1e-4 and ours.std() > 0.01


@pytest.mark.parametrize("named", ["dtype", "torch_dtype", ""])
def test_the_configuration_is_the_bases_with_the_type_that_is_stored(tmp_path, named):
    path = tmp_path / "config.json"
    inner = {named: "float16"} if named else {}
    path.write_text(json.dumps({**inner, "a": 1, "text_config": {**inner, "b": 2, "quantization_config": {}}}))
    checkpoint.set_dtype(path, torch.bfloat16)
    typed = {named: "bfloat16"} if named else {}
    top = typed or {"torch_dtype": "bfloat16"}
    assert json.loads(path.read_text()) == {**top, "a": 1, "text_config": {**typed, "b": 2}}


# ---- what rounding takes


def test_rounding_that_takes_a_young_adapter_is_refused(base, tmp_path, capsys):
    young = a_run(tmp_path / "young", base, YOUNG)
    line = refused(capsys, young, "--to", tmp_path / "out")
    assert "--dtype bfloat16: keeps 0." in line and "--dtype float32" in line
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out").exists()
    for more, low, high in ((["--lossy"], -0.2, 0.9), (["--dtype", "float32"], 0.99, 1.01)):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        assert main(["export", str(young), "--to", str(tmp_path / "out"), *more]) == 0
        kept = float(capsys.readouterr().out.split("kept of what was trained: ")[1].split()[0])
        assert low < kept < high
    assert f"kept in this checkpoint | {kept:.3f}" in (tmp_path / "out" / "README.md").read_text()


def test_a_grown_adapter_survives_bf16(run, tmp_path, capsys):
    assert main(["export", str(run), "--to", str(tmp_path / "out")]) == 0
    assert float(capsys.readouterr().out.split("kept of what was trained: ")[1].split()[0]) > 0.95
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    shutil.rmtree(tmp_path / "out")


def test_the_kept_share_is_a_projection():
    start, trained = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 5.0])
    for stored, share in ((trained, 1.0), (start, 0.0), ((start + trained) / 2, 0.5), (2 * start - trained, -1.0)):
        assert checkpoint.kept_share(start, trained, stored) == pytest.approx(share)
    assert checkpoint.kept_share(start, start, trained) == 1.0
    sideways = start + torch.tensor([0.0, 7.0, 0.0])  # what rounding does besides is no part of it
    assert checkpoint.kept_share(start, trained, sideways) == 0.0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_of_a_base_in_4_bits_its_values_are_exported(base, tmp_path, dtype, capsys):
    pytest.importorskip("bitsandbytes", reason="the extra `quant` is not installed")
    run = a_run(tmp_path / "run", base, model_quantize="nf4")
    config = load_config(run, [f"model.dtype={dtype}"])
    words = ["--to", str(tmp_path / "out"), "--dtype", "float32", "--set", f"model.dtype={dtype}"]
    assert main(["export", str(run), *words]) == 0
    policy, plain = Policy.load(config, str(run / "adapter"), trainable=False), load_config(run)
    plain.model.path, plain.model.quantize, plain.model.adapter = str(tmp_path / "out"), "none", ""
    studies = checkpoint.probes(plain)[0]
    ours, theirs = (checkpoint.logprobs(one, studies) for one in (policy, Policy.load(plain)))
    close = 1e-4 if dtype == "float32" else 0.1
    assert (ours - theirs).abs().max() < close


def test_where_the_data_are_gone_rendered_studies_measure(run, tmp_path):
    config = load_config(run, ["data.form=iu_xray_r2gen", f"data.root={tmp_path / 'gone'}"])
    studies, where = checkpoint.probes(config)
    assert len(studies) == 8 and "rendered studies, as the run's data are not here" in where
    assert checkpoint.probes(load_config(run))[1] == "4 studies of val"


# ---- the adapter alone, and the card


def test_the_adapter_alone_names_no_path_of_this_machine(run, base, tmp_path):
    assert main(["export", str(run), "--to", str(tmp_path / "out"), "--adapter-only", "--base-id", "org/model"]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    texts = [(tmp_path / "out" / name).read_text() for name in names if not name.endswith("safetensors")]
    assert not any(str(place) in text for text in texts for place in (tmp_path, base, run))
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/model"
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(model, tmp_path / "out").state_dict()
    (name,) = [name for name in adapted if "layers.0.self_attn.q_proj.lora_B" in name and "vis" not in name]
    assert adapted[name].std() == pytest.approx(LARGE, rel=0.2)
    assert str(base) not in (run / "adapter" / "README.md").read_text()  # PEFT's own card has it


def test_the_card_says_what_it_is_and_the_hub_reads_its_scores(run, tmp_path):
    config = load_config(run)
    found = ModelCard(card.card_of(run, config, "org/model", kept=0.987))
    assert found.data.base_model == "org/model" and found.data.pipeline_tag == "image-text-to-text"
    (result,) = found.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("clinical_cosine", 0.5, "test")
    for words in ("Not for clinical use", "0.500 [0.400, 0.600]", "0.987", "0.75 mccs + 0.25 format", "vllm serve",
                  "Write the findings of this chest X-ray study. First list"):  # fmt: skip
        assert words in found.content, words
    (tmp_path / "evaluation.json").write_text("[1]")
    assert "has recorded no comparison" in card.card_of(tmp_path, config)
    assert not card.clinical_rows(config)
    config.reward.weights = {"clinical": 1.0}
    assert card.clinical_rows(config)[0][1].startswith("denial 0.1, contradiction 0.0, uncertain 1.0, normal unhedged")


def test_the_card_of_the_best_adapter_has_its_scores(tmp_path):
    config = write_run(tmp_path)
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    better = json.loads(json.dumps(evaluation["sides"]).replace("0.5", "0.75"))
    best = {"step": 4, "metric": "clinical_cosine", "value": 0.7, "sides": better}
    (tmp_path / "evaluation.json").write_text(json.dumps({**evaluation, "step": 6, "best": best}))
    last, chosen = (card.card_of(tmp_path, config, best=one) for one in (False, True))
    assert "after step 6." in last and "after step 4, chosen by clinical_cosine 0.700 on validation." in chosen
    assert "0.750" in chosen and "0.750" not in last


# ---- the hub


class Hub:
    """Of huggingface_hub.HfApi what an upload uses."""

    private, broken, calls = True, False, ()

    def create_repo(self, name, private, exist_ok):
        if self.broken:
            raise ConnectionError("no route to host")
        self.calls.append(("create", name, private, exist_ok))

    def model_info(self, name):
        return type("Info", (), {"private": self.private})

    def upload_folder(self, repo_id, folder_path, commit_message):
        self.calls.append(("upload", repo_id, folder_path))


@pytest.fixture
def api(monkeypatch):
    fake = type("Fake", (Hub,), {"calls": []})
    monkeypatch.setattr(hub, "HfApi", fake)
    return fake


def test_an_upload_is_private(run, tmp_path, api, capsys):
    out = tmp_path / "out"
    assert main(["export", str(run), "--to", str(out), "--adapter-only", "--push", "me/it"]) == 0
    assert api.calls == [("create", "me/it", True, True), ("upload", "me/it", str(out))]
    assert "uploaded: https://huggingface.co/me/it" in capsys.readouterr().out


@pytest.mark.parametrize("change, said", [("private", "is public"), ("broken", "no route to host; the export lies in")])
def test_what_cannot_be_uploaded_privately_is_left_on_the_disk(run, tmp_path, api, capsys, change, said):
    setattr(api, change, change == "broken")
    assert said in refused(capsys, run, "--to", tmp_path / "out", "--adapter-only", "--push", "me/it")
    assert (tmp_path / "out" / "README.md").exists() and not [call for call in api.calls if call[0] == "upload"]


def test_what_learned_from_credentialed_data_is_uploaded_on_demand_alone(base, tmp_path, api, capsys):
    run = a_run(tmp_path / "run", base, data_credentialed=True)
    words = ["--to", tmp_path / "out", "--adapter-only", "--push", "me/it"]
    assert "learned from credentialed data" in refused(capsys, run, *words)
    assert not api.calls and not (tmp_path / "out").exists()
    assert main(["export", str(run), *map(str, words), "--credentialed"]) == 0
    assert (tmp_path / "out" / "CREDENTIALED.txt").exists() and api.calls[-1][0] == "upload"
    assert "credentialed data" in (tmp_path / "out" / "README.md").read_text()


# ---- what is refused


def test_what_cannot_be_exported_is_said_before_anything_is_loaded(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Policy, "load", lambda *_, **__: pytest.fail("the policy was loaded"))
    (tmp_path / "there").mkdir()
    bare = tmp_path / "bare"
    write_run(bare)
    for words, said in (
        ([tmp_path / "none", "--to", tmp_path / "out"], "holds no run"),
        ([run, "--to", tmp_path / "there"], "is already there"),
        ([run, "--to", tmp_path / "out", "--base-id", "/root/model"], "is no id of the hub"),
        ([run, "--to", tmp_path / "out", "--best"], "best_adapter is not there"),
        ([bare, "--to", tmp_path / "out"], "holds a run without an adapter"),
    ):
        assert said in refused(capsys, *words)
    assert not (tmp_path / "out").exists()


def test_an_adapter_on_shared_embeddings_is_no_checkpoint(tiny_checkpoint, tmp_path, capsys):
    base = tiny_checkpoint(scale=0.1, family="gemma3")
    run = a_run(tmp_path / "run", base, lora_targets=["q_proj", "embed_tokens"])
    assert "shares with its output projection" in refused(capsys, run, "--to", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_card_says_what_stood_in_front_of_the_question():
    config = Config()
    assert "what was known of a study" not in card.usage(config, "org/base", True)
    config.prompt.context = ["indication", "prior_images", "age"]
    line = "Context: Age: [age]. Indication: [indication]. Prior study: of the 2 images the last is from it."
    assert f"```text\n{line}\n```" in card.usage(config, "org/base", True)

"""What the package leans on: names of transformers, peft and torch that may go away, and what setup.py declares."""

import ast
import importlib
import re
import runpy
import sys
from functools import cache, reduce
from importlib.metadata import version
from pathlib import Path

import pytest
import setuptools

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mrg_grpo"

# each name by who uses it; no promise stands behind those of a second level, nor behind torch's that begin with "_"
NAMES = {
    "labelers/chexbert.py": [
        "transformers.AutoTokenizer", "transformers.BertConfig", "transformers.BertModel", "transformers.BertTokenizer",
        "transformers.PreTrainedTokenizerBase", "torch.backends.mkldnn",
    ],
    "model/attention.py": [
        "transformers.AttentionInterface", "transformers.AttentionInterface.register",
        "transformers.AttentionMaskInterface", "transformers.AttentionMaskInterface.register",
        "transformers.integrations.sdpa_attention.sdpa_attention_forward", "transformers.masking_utils.sdpa_mask",
    ],
    "export/checkpoint.py": ["peft.tuners.tuners_utils.BaseTunerLayer"],
    "hub.py": [
        "transformers.utils.logging", "transformers.utils.hub.HfApi", "transformers.utils.hub.HfHubHTTPError",
        "transformers.utils.hub.RepositoryNotFoundError", "transformers.utils.hub.RevisionNotFoundError",
        "transformers.utils.hub.constants", "transformers.utils.hub.is_offline_mode",
    ],
    "model/pretrained.py": [
        "transformers.AutoConfig", "transformers.AutoModelForImageTextToText", "transformers.AutoTokenizer",
        "transformers.GenerationConfig", "transformers.utils.cached_file",
    ],
    "model/families/__init__.py": ["transformers.PretrainedConfig"],
    "model/families/base.py": ["transformers.PretrainedConfig"],
    "model/families/gemma3.py": [
        "transformers.models.gemma3.image_processing_pil_gemma3.Gemma3ImageProcessorPil",
        "transformers.models.gemma3.modeling_gemma3.Gemma3Model.get_image_features",
    ],
    "model/families/projector_vl.py": [
        "transformers.PretrainedConfig",
        "transformers.models.llava.modeling_llava.LlavaModel.get_image_features",
        "transformers.models.internvl.modeling_internvl.InternVLModel.get_image_features",
    ],
    "model/families/llava.py": ["transformers.models.llava.image_processing_pil_llava.LlavaImageProcessorPil"],
    "model/families/internvl.py": [
        "transformers.models.got_ocr2.image_processing_pil_got_ocr2.GotOcr2ImageProcessorPil",
    ],
    "model/families/qwen_vl.py": [
        "transformers.models.qwen2_vl.modeling_qwen2_vl.Qwen2VLModel.get_rope_index",
        "transformers.models.qwen2_vl.modeling_qwen2_vl.Qwen2VLModel.get_vision_position_ids",
        "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl.Qwen2_5_VLModel.get_rope_index",
        "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl.Qwen2_5_VLModel.get_vision_position_ids",
        "transformers.models.qwen3_vl.modeling_qwen3_vl.Qwen3VLModel.get_rope_index",
        "transformers.models.qwen3_vl.modeling_qwen3_vl.Qwen3VLModel.get_vision_position_ids",
        "transformers.models.qwen2_vl.image_processing_pil_qwen2_vl.Qwen2VLImageProcessorPil",
        "transformers.vision_utils.get_vision_cu_seqlens", "transformers.vision_utils.get_vision_position_ids",
    ],
    "model/families/qwen2_vl.py": [
        "transformers.models.qwen2_vl.modeling_qwen2_vl.Qwen2VLModel",
    ],
    "model/families/qwen2_5_vl.py": [
        "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl.Qwen2_5_VLModel",
        "transformers.vision_utils.get_vision_window_index",
    ],
    "model/families/qwen3_vl.py": [
        "transformers.models.qwen3_vl.modeling_qwen3_vl.Qwen3VLTextModel._deepstack_process",
        "transformers.models.qwen3_vl.modeling_qwen3_vl.Qwen3VLModel",
        "transformers.vision_utils.get_vision_interpolation_indices_and_weights",
    ],
    "model/vision_attention.py": ["transformers.AttentionInterface", "transformers.AttentionInterface.register"],
    "model/adapters.py": [
        "peft.LoraConfig", "peft.PeftConfig", "peft.PeftModel", "peft.get_peft_model",
        "peft.get_peft_model_state_dict",
        "peft.load_peft_weights", "peft.tuners.lora.LoraLayer", "peft.tuners.lora.layer.ParamWrapper",
        "peft.tuners.tuners_utils.BaseTunerLayer",
    ],
    "model/decoder.py": [
        "peft.tuners.lora", "torch.ops.mkldnn._linear_pointwise.default", "torch.ops.mkldnn._reorder_linear_weight",
    ],
    "model/lora.py": [
        "peft.tuners.lora", "peft.tuners.lora.Linear", "peft.tuners.lora.Linear.active_adapters",
        "peft.tuners.lora.Linear.disable_adapters", "peft.tuners.lora.Linear.weight",
    ],
    "model/policy.py": ["peft.PeftModel"],
    "model/fsdp.py": [
        "torch.distributed.device_mesh.init_device_mesh", "torch.distributed.fsdp.fully_shard",
        "torch.distributed.tensor.DTensor", "torch.distributed.tensor.DTensor.to_local",
    ],
    "preflight/plan.py": [
        "peft.PeftConfig", "peft.get_peft_model", "peft.tuners.lora.Linear",
        "transformers.AutoModelForImageTextToText", "transformers.AutoTokenizer",
    ],
    "rewards/field.py": ["transformers.utils.hub.is_offline_mode"],
    "run/checkpoint.py": ["peft.set_peft_model_state_dict"],
    "run/folder.py": ["peft.__version__", "transformers.__version__"],
    "run/inputs.py": ["transformers.utils.cached_file"],
    "train.py": ["peft.LoraConfig"],
    "distributed.py": ["torch.distributed.distributed_c10d._get_default_store"],
}  # fmt: skip


def resolve(name: str):
    """The thing behind a dotted name: the longest part that is a module, then attributes."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        return reduce(getattr, parts[count:], found)
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize(("user", "name"), [(user, name) for user, names in NAMES.items() for name in names])
def test_a_name_is_there(user, name):
    try:
        resolve(name)
    except (AttributeError, ModuleNotFoundError) as error:
        package = name.partition(".")[0]
        pytest.fail(f"{package} {version(package)} has no {name}, which mrg_grpo/{user} uses ({error})")
    assert re.search(rf"\b{name.removesuffix('.default').rpartition('.')[2]}\b", (PACKAGE / user).read_text()), user


# ---- what the sources import


@cache
def sources() -> dict[str, ast.Module]:
    """Every file of the package by its name in it."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {str(path.relative_to(PACKAGE)): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def imports(tree, outermost=False):
    """Dotted names that are imported; outermost: not those within functions."""
    inside = {
        id(node)
        for function in ast.walk(tree)
        if outermost and isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if id(node) in inside:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not our way"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def private(tree):
    """Dotted names in the text, such as torch.ops.mkldnn._linear_pointwise, with a part that begins with "_"."""
    for node in ast.walk(tree):
        parts, inner = [], node
        while isinstance(inner, ast.Attribute):
            parts, inner = [inner.attr, *parts], inner.value
        if (
            isinstance(inner, ast.Name)
            and inner.id in ("torch", "dist")
            and re.match("_(?!_)", parts[-1] if parts else "")
        ):
            yield ".".join(["torch.distributed" if inner.id == "dist" else "torch", *parts])


def test_every_name_of_transformers_and_peft_and_every_private_one_of_torch_is_listed():
    missing = {}
    for user, tree in sources().items():
        used = {name for name in imports(tree) if name.startswith(("transformers.", "peft."))} | set(private(tree))
        listed = NAMES.get(user, ())
        missing[user] = [name for name in sorted(used) if not any(entry.startswith(name) for entry in listed)]
    assert not {user: names for user, names in missing.items() if names}, "put these into NAMES"


# ---- what setup.py declares


@pytest.fixture(scope="module")
def declared():
    """What `setup` is called with."""
    given = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **arguments: given.update(arguments))
        runpy.run_path(str(ROOT / "setup.py"))
    return given


def project(requirement: str) -> str:
    return re.split(r"[<>=!~ \[;]", requirement, maxsplit=1)[0].lower()


IMPORTED_AS = {"pillow": "pil", "scikit-learn": "sklearn"}
"""Projects whose package has another name."""


def packages(requirements) -> set[str]:
    return {IMPORTED_AS.get(project(r), project(r)) for r in requirements}


def test_the_core_is_what_it_is_said_to_be_each_with_a_bound_on_both_sides(declared):
    core = declared["install_requires"]
    assert [project(r) for r in core] == ["torch", "transformers", "peft", "safetensors", "numpy", "pillow", "tqdm"]
    assert all(re.fullmatch(r"[a-z]+>=[0-9.]+,<[0-9.]+", requirement) for requirement in core)


def test_the_versions_of_the_tests_lie_within_the_declared_ranges(declared):
    lines = (line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#"))
    pinned = {name.lower(): numbers(own) for name, _, own in (line.partition("==") for line in lines)}
    for requirement in declared["install_requires"]:
        name, least, below = re.fullmatch(r"([a-z]+)>=([0-9.]+),<([0-9.]+)", requirement).groups()
        assert numbers(least) <= pinned[name] < numbers(below), requirement


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def test_every_import_is_declared(declared):
    core = packages(declared["install_requires"]) | {"mrg_grpo"} | set(sys.stdlib_module_names)
    optional = ("eval", "quant", "tables", "xlsx", "tensorboard", "trackio", "wandb", "hub", "radeval")
    extras = packages(r for name in optional for r in declared["extras_require"][name])
    for user, tree in sources().items():
        for name in imports(tree):
            assert name.partition(".")[0].lower() in core | extras, f"mrg_grpo/{user} imports {name}, undeclared"
        for name in imports(tree, outermost=True):
            assert name.partition(".")[0].lower() in core, f"mrg_grpo/{user} imports {name}: only within a function"

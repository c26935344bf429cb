"""The configuration: one dataclass tree, read from TOML, unknown keys refused, every default stated here.

A docstring under each field gives unit and meaning; `ruled` gives the values it may have. Values the paper does not
state are choices; experiments/*.toml says where each came from. toml.py turns tables into dataclasses and back.
"""

import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mrg_grpo.errors import UserError
from mrg_grpo.files import at_home, open_file, read_text
from mrg_grpo.toml import build, check_rules, ruled

FORMS = ("phantom", "phantom_rare", "iu_xray_r2gen", "iu_xray_kaggle", "iu_xray_xml", "mimic_cxr_r2gen", "mimic_cxr")
"""What data.form can be; docs/data.md says what each looks like."""


@dataclass
class RunConfig:
    output_dir: str = "runs/phantom"
    """Folder of this run: config, metrics, rollouts, checkpoints, adapter, predictions, evaluation."""
    seed: int = ruled(0, least=0)
    """Seed of data order, adapter initialisation and sampling; below 2**32."""
    steps: int = ruled(200, above=0)
    """Optimisation steps: rollout batches in GRPO, batches in sft."""
    save_every: int = ruled(50, above=0)
    """Steps between checkpoints; the last two are kept."""
    eval_every: int = ruled(100, least=0)
    """Steps between evaluations on the validation split; 0 for none."""
    eval_studies: int = ruled(200, least=0)
    """Validation studies of a periodic evaluation."""
    test_studies: int = ruled(0, least=0)
    """Test studies of the before/after comparison; 0 is the whole split."""
    decode_batch: int = ruled(64, above=0)
    """Studies that evaluation decodes together."""
    rollouts_every: int = ruled(10, above=0)
    """Steps between sampled groups written to rollouts.jsonl."""
    keep_text: bool = True
    """False leaves report texts and image paths out of all that is written (credentialed data)."""
    follow_studies: int = ruled(8, least=0)
    """Validation studies whose report is kept at every periodic evaluation, to be read over time; 0 for none."""
    show_every: int = ruled(20, least=0)
    """Steps between sampled reports printed beside the progress bar; 0 for none. Never with keep_text = false."""
    tensorboard: bool = False
    """Write event files to output_dir/tensorboard; needs the extra `log`."""


@dataclass
class ModelConfig:
    path: str = ""
    """Checkpoint folder or hub id; "" is the embedded base policy."""
    revision: str = ""
    """Of a hub id: the branch, tag or commit; "" is the newest."""
    dtype: str = ruled("auto", "auto", "float32", "bfloat16", "float64")
    """Of the base weights: "float32", "bfloat16", "float64"; "auto" is bfloat16 on a GPU and float32 on the CPU."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:1" ...; "auto" takes the GPU if there is one."""
    adapter: str = ""
    """A PEFT adapter to continue, with its start frozen as the reference; its own rank counts, [lora] is not read.
    "" starts a fresh one."""
    shard: bool = False
    """True spreads the frozen base over the ranks (FSDP2), for one too large for a GPU; see docs/scaling.md."""
    trust_remote_code: bool = False
    """True lets code that lies in the checkpoint run; none of the supported families needs it."""

    def resolved_path(self) -> str:
        if self.path:
            return self.path
        from mrg_grpo.embedded import base_path

        return str(base_path())

    def resolved_device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.startswith("cuda:") and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1:
            raise UserError(f'model.device: {self.device} is one GPU for all ranks; set "cuda", each then has its own')
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise UserError(f'model.device: {self.device!r} is none; "auto", "cpu" or "cuda"') from error
        try:
            if device.type not in ("cpu", "cuda"):
                torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError, ImportError) as error:  # torch was built without it, or it is meta
            raise UserError(f'model.device: {self.device!r} holds no numbers here; "auto", "cpu" or "cuda"') from error
        if device.type == "cuda" and not torch.cuda.is_available():
            raise UserError(f'model.device: {self.device}, but torch {torch.__version__} sees no GPU here; take "cpu"')
        return device

    def resolved_dtype(self) -> torch.dtype:
        if self.dtype == "auto":
            return torch.bfloat16 if self.resolved_device().type == "cuda" else torch.float32
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}[self.dtype]


@dataclass
class LoraSettings:
    rank: int = ruled(16, above=0)
    """Rank of every LoRA pair."""
    alpha: int = ruled(32, above=0)
    """Scale of the update: alpha / rank."""
    targets: list[str] = field(default_factory=list)
    """Names of linear layers inside the language model, or embed_tokens; [] is all attention and MLP projections."""
    vision: bool = False
    """True puts LoRA into the vision tower too (all its attention and MLP projections), which then trains along."""


@dataclass
class DataConfig:
    form: str = ruled("phantom", *FORMS)
    """How the data set lies on disk: one of FORMS; the two phantoms are rendered on demand."""
    root: str = ""
    """The data set's folder; the phantom needs none."""
    sections: list[str] = field(default_factory=lambda: ["findings"])
    """Sections of the report that are the reference: findings, impression or both."""
    views: str = "all"
    """Images of a study: "all", "frontal", or a number k for the first k."""
    max_pixels: int = ruled(0, least=0)
    """Largest image handed to the vision tower, in pixels; 0 keeps the checkpoint's own limit."""
    allow_missing: bool = False
    """True goes on where image files are missing or no images: a study keeps the others, one with none is left out,
    counted and named. False refuses."""
    split_file: str = ""
    """For forms without a split of their own: a file that names the split of each id; "" derives one from the id."""
    keep_xxxx: bool = True
    """Keep the XXXX that stands for de-identified words in IU X-Ray."""
    incomplete: str = ruled("drop", "keep", "drop")
    """Studies without a report or a wished view: "drop" them, counted and named, or "keep" them."""

    @property
    def rendered(self) -> bool:
        """Whether pictures are rendered on demand, so that there are no files and no root."""
        return self.form.startswith("phantom")


@dataclass
class PromptConfig:
    text: str = ""
    """The question; "" is ours. The form of the answer is added to it."""
    think: bool = True
    """Ask for <think>...</think> before the report."""


@dataclass
class LabelerConfig:
    path: str = ""
    """chexbert.pth or a folder of ours; "" is the embedded labeler."""
    tokenizer: str = ""
    """Folder or hub id of chexbert.pth's tokenizer; "" is bert-base-uncased."""
    allow_unlabeled: bool = False
    """Go on where more than half of the references carry no label; any report without a finding agrees with those."""


MARGIN = 0.6
"""m of MCCS, which the paper does not state: of five the best on the phantom's validation split (docs/ablations.md)."""


@dataclass
class MccsConfig:
    margin: float = MARGIN
    """m in max((CCS - m) / (1 - m), 0)."""
    weighting: str = ruled("none", "none", "rarity")
    """"none" as in the paper, or "rarity": each signed entry weighted by -log of its share of the training split."""
    zero_vectors: float = 1.0
    """CCS where both reports mention nothing, 0 to 1."""


@dataclass
class RewardConfig:
    weights: dict[str, float] = field(default_factory=lambda: {"mccs": 0.75, "format": 0.25})
    """Weight by term: mccs, ccs, unsigned_cosine, format, ce_f1, bleu, rouge_l, or a path to a TRL function.

    A file with this table has the terms that it names and no others.
    """
    mccs: MccsConfig = field(default_factory=MccsConfig)
    """Settings of the clinical term."""


@dataclass
class SamplingConfig:
    temperature: float = ruled(1.0, above=0)
    """Of the distribution that is sampled and trained."""
    max_tokens: int = ruled(160, above=0)
    """Length limit of a completion, in tokens."""
    mask_truncated: bool = False
    """Leave reports that the length limit cut out of the loss."""
    batch: int = ruled(0, least=0)
    """Reports decoded together; 0 is all of the step. Bounds the memory of sampling."""
    fast_decode: bool = True
    """Sample by layers laid out for one token, in fp32 with LoRA folded into a copy of the weights: faster."""


@dataclass
class GrpoConfig:
    group_size: int = 8
    """G, reports per study."""
    studies_per_step: int = ruled(8, above=0)
    """N, studies per step over all ranks."""
    inner_passes: int = ruled(1, above=0)
    """mu, optimiser steps over the same rollouts."""
    clip_low: float = ruled(0.2, least=0)
    """The ratio is cut below 1 - clip_low."""
    clip_high: float = ruled(0.2, least=0)
    """The ratio is cut above 1 + clip_high."""
    beta: float = ruled(0.01, least=0)
    """Weight of the KL to the frozen start policy; 0 never runs the reference."""
    kl: str = ruled("k3", "k3", "k3_weighted")
    """Estimator of that KL: "k3" as GRPO has it, or "k3_weighted", whose gradient is unbiased, in later passes too."""
    aggregate: str = ruled("sequence", "sequence", "token", "constant")
    """"sequence", "token" or "constant": see mrg_grpo.objective.aggregate_tokens."""
    ratio: str = ruled("token", "token", "sequence")
    """"token" or "sequence" (GSPO)."""
    scale: str = ruled("group", "group", "batch", "none")
    """Advantages divided by the std of the "group", of the "batch", or "none"."""
    micro_batch: int = ruled(0, least=0)
    """Reports per forward pass in training; 0 is all of the step."""
    learning_rate: float = ruled(1e-4, above=0)
    """Of AdamW, reached after `warmup` steps."""
    decay: bool = False
    """True lets the learning rate fall linearly to 0 at the last step; False keeps it constant."""
    warmup: int = ruled(5, least=0)
    """Steps of linear warm-up."""
    max_grad_norm: float = ruled(1.0, above=0)
    """Gradients are scaled down to this norm."""


@dataclass
class SftConfig:
    batch_size: int = ruled(16, above=0)
    """Studies per optimiser step."""
    learning_rate: float = ruled(2e-4, above=0)
    """Of AdamW, cosine to 0; warm-up and clipping are grpo.warmup and grpo.max_grad_norm."""


@dataclass
class Config:
    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraSettings = field(default_factory=LoraSettings)
    data: DataConfig = field(default_factory=DataConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    labeler: LabelerConfig = field(default_factory=LabelerConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    sft: SftConfig = field(default_factory=SftConfig)


def load_config(path: str | Path | None, overrides: list[str] | None = None) -> Config:
    """A TOML file (None: the defaults) and `table.key=value` overrides -> a checked Config.

    UserError names file, key and remedy.
    """
    tree = {} if path is None else read_tree(Path(path))
    for override in overrides or []:
        apply_override(tree, override)
    config: Config = build(Config, tree, "--set" if path is None else str(path))
    for table, key in PATHS:
        setattr(getattr(config, table), key, at_home(getattr(getattr(config, table), key), f"{table}.{key}"))
    return check(config)


PATHS = (
    ("run", "output_dir"), ("model", "path"), ("model", "adapter"), ("data", "root"), ("data", "split_file"),
    ("labeler", "path"), ("labeler", "tokenizer"),
)  # fmt: skip
"""Settings that are paths: ~ is resolved in them, which a shell does not do behind an equals sign."""


RUN_HEADERS = ("# run of ", "# mrg_grpo ")
"""How the first line of a config.toml begins that a run wrote; the second is of the first versions."""


def written_by_run(path: Path) -> bool:
    """Whether this is the config.toml of a run, and not one that somebody wrote."""
    try:
        with open_file(path) as file:
            return path.name == "config.toml" and file.readline().decode().startswith(RUN_HEADERS)
    except (OSError, UnicodeDecodeError):
        return False


def read_tree(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The tables of a TOML file, or of the config.toml of a run's folder.

    `include = "other.toml"` on top takes that file's, changed by this one's. A run is its folder: run.output_dir in a
    file that a run wrote is where it began, and it may have been moved or copied, or be read from elsewhere.
    above: the files, outermost first, that include this one. UserError names a circle.
    """
    if path.is_dir():
        if not written_by_run(path / "config.toml"):
            raise UserError(f"config {path}: a folder without a run's config.toml; name a TOML file or a run's folder")
        path = path / "config.toml"
    try:
        tree = tomllib.loads(read_text(path))
    except FileNotFoundError:
        raise UserError(f"config {path}: no such file; experiments/phantom.toml is the embedded default") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config {path}: cannot be read ({error})") from error
    except (ValueError, RecursionError) as error:  # TOML, numbers of thousands of digits, tables nested for ever
        raise UserError(f"config {path}: not valid TOML ({error})") from error
    if written_by_run(path) and isinstance(tree.setdefault("run", {}), dict):
        tree["run"]["output_dir"] = str(path.parent)
    included = tree.pop("include", None)
    if included is None:
        return tree
    if not isinstance(included, str) or not included:
        raise UserError(f"config {path}: include = {included!r} must be one TOML file")
    chain, other = (*above, path), path.parent / included
    if other.resolve() in [one.resolve() for one in chain]:
        circle = " includes ".join(str(one) for one in (*chain, other))
        raise UserError(f"config {path}: include goes round in a circle ({circle}); take one of them out")
    return merged(read_tree(other, chain), tree)


WEIGHTS = "reward.weights"
"""The one table whose keys are not settings but a choice: a file that has it means these terms and no others."""


def merged(whole: dict[str, Any], change: dict[str, Any], table: str = "") -> dict[str, Any]:
    """`whole` with the keys of `change` in place of its own, table by table; reward.weights is replaced as a whole.

    table: the dotted name of the table that both are.
    """
    both = dict(whole)
    for key, value in change.items():
        name = f"{table}.{key}" if table else key
        by_key = isinstance(value, dict) and isinstance(both.get(key), dict) and name != WEIGHTS
        both[key] = merged(both[key], value, name) if by_key else value
    return both


def apply_override(tree: dict, override: str) -> None:
    """`--set grpo.group_size=16`: the value is TOML; a bare word is taken as a string.

    What follows `reward.weights.` is one key, the name of a term, dots and quotes included. As it changes one weight,
    a file without that table keeps the other terms of the defaults.
    """
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise UserError(f"--set {override}: write it as table.key=value, for example grpo.group_size=16")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except (ValueError, RecursionError):
        value = text
    *tables, key = keys_of(name.strip())
    if not key:
        raise UserError(f"--set {override}: the key before = is empty")
    for table in tables:
        tree = tree.setdefault(table, RewardConfig().weights if table == "weights" else {})
        if not isinstance(tree, dict):
            raise UserError(f"--set {override}: {table} is not a table")
    tree[key] = value


def keys_of(name: str) -> list[str]:
    """`grpo.group_size` -> its tables and its key. A term of the reward may have dots, and quotes around it."""
    term = name.removeprefix(f"{WEIGHTS}.")
    return name.split(".") if term == name else [*WEIGHTS.split("."), term.strip("\"' ")]


def check(config: Config) -> Config:
    """Values and combinations that cannot work, each refused with the remedy."""
    check_rules(config)
    if not config.run.output_dir.strip():
        raise UserError("run.output_dir: is empty; name a folder for the run")
    if config.run.seed >= 2**32:
        raise UserError(f"run.seed: {config.run.seed} must be below 2**32 = {2**32}")
    if config.grpo.group_size < 2:
        raise UserError("grpo.group_size: must be at least 2; a group of one has no advantage and nothing to learn")
    if config.grpo.clip_low >= 1:
        raise UserError(f"grpo.clip_low: {config.grpo.clip_low} must be below 1, usual is 0.2")
    if not 0 <= config.reward.mccs.margin < 1:
        raise UserError(f"reward.mccs.margin: {config.reward.mccs.margin} must be at least 0 and below 1")
    if not 0 <= config.reward.mccs.zero_vectors <= 1:
        raise UserError(f"reward.mccs.zero_vectors: {config.reward.mccs.zero_vectors} must be from 0 to 1, a cosine")
    if not any(config.reward.weights.values()):
        raise UserError("reward.weights: every weight is 0; give at least one term a weight, for example mccs = 0.75")
    if not (config.data.views.isascii() and config.data.views.isdigit()) and config.data.views not in (
        "all",
        "frontal",
    ):
        raise UserError(f'data.views: {config.data.views!r} must be "all", "frontal" or a number')
    if not set(config.data.sections) <= {"findings", "impression"} or not config.data.sections:
        raise UserError(f'data.sections: {config.data.sections} may name "findings" and "impression"')
    for name in ("root", "split_file") if config.data.rendered else ():
        if getattr(config.data, name):
            raise UserError(
                f"data.{name}: {config.data.form} renders its own studies; set data.form to what lies there"
            )
    if not config.data.rendered and not config.data.root:
        raise UserError(f"data.root: {config.data.form} needs the folder of the data set; add root under [data]")
    return config

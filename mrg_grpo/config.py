"""The configuration: one dataclass tree, read from TOML, unknown keys refused, every default stated here.

A docstring under each field gives unit and meaning; `ruled` gives the values it may have. The page
docs/reference/commands.md is made from both. Values the paper does not state are choices; experiments/*.toml says where
each came from. toml.py turns tables into dataclasses and back.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from mrg_grpo.config_check import check
from mrg_grpo.device import device_named
from mrg_grpo.errors import UserError
from mrg_grpo.files import at_home
from mrg_grpo.toml import build, parsed_override, read_tree, ruled

FORMS = ("phantom", "phantom_rare", "phantom_room", "phantom_hasty", "table", "iu_xray_r2gen", "iu_xray_kaggle",
         "iu_xray_xml", "mimic_cxr_r2gen", "mimic_cxr", "rexgradient", "chexpert_plus", "padchest_gr")  # fmt: skip
"""What data.form can be."""

CONTEXT = ("age", "sex", "indication", "history", "comparison", "prior_report", "prior_images")
"""What prompt.context can name, in the order in which the question says it."""

TRACKERS = ("tensorboard", "trackio", "wandb", "all", "none")
"""What run.report_to can name, as in transformers."""


@dataclass
class RunConfig:
    output_dir: str = "runs/phantom"
    """Folder of the run: configuration, metrics, rollouts, checkpoints, adapter, predictions, evaluation."""
    seed: int = ruled(0, least=0, below=2**32)
    """Seed of the data order, the adapter's initial weights and sampling."""
    steps: int = ruled(200, above=0)
    """Training steps: batches of rollouts in `train`, batches of studies in `sft`."""
    save_every: int = ruled(50, above=0)
    """Steps between checkpoints. The last two checkpoints are kept."""
    eval_every: int = ruled(100, least=0)
    """Steps between evaluations on the validation split; 0 turns them off."""
    eval_studies: int = ruled(200, least=0)
    """Validation studies in each of these evaluations."""
    keep_best: str = "micro_f1_13"
    """Keep the best adapter by this metric of validation beside the last one; "" keeps the last alone. A metric by its
    name in docs/reference/metrics.md, or in short: micro_f1_13 is f1_micro_13_uncertain_positive."""
    patience: int = ruled(0, least=0)
    """Stop early after this many validations in a row without a better one; 0 takes all steps."""
    test_studies: int = ruled(0, least=0)
    """Test studies in the comparison before and after training; 0 uses the whole split."""
    decode_batch: int = ruled(64, above=0)
    """Studies that evaluation decodes at once."""
    rollouts_every: int = ruled(10, above=0)
    """Steps between the sampled groups that are written to rollouts.jsonl."""
    keep_text: bool = True
    """False leaves report texts and image paths out of every file of the run, for credentialed data."""
    follow_studies: int = ruled(8, least=0)
    """Validation studies whose report is kept at every evaluation, to see how it changes; 0 keeps none."""
    show_every: int = ruled(20, least=0)
    """Steps between sampled reports printed with the progress bar; 0, or keep_text = false, prints none."""
    report_to: list[str] = field(default_factory=list, metadata={"choices": TRACKERS, "empty": True})
    """Trackers that get metrics, samples and the final table; each needs the extra of its name. "all" is those that are
    installed."""


@dataclass
class ModelConfig:
    path: str = ""
    """Checkpoint folder or Hugging Face hub id; "" is the embedded base policy."""
    revision: str = ""
    """Branch, tag or commit of a hub id; "" is the newest."""
    dtype: str = ruled("auto", "auto", "float32", "bfloat16", "float64")
    """Data type of the base weights; "auto" is bfloat16 on a GPU and float32 on a CPU."""
    device: str = "auto"
    """Device by torch's name, such as "cpu", "cuda" or "cuda:1"; "auto" takes a GPU if there is one."""
    adapter: str = ""
    """PEFT adapter to continue, with its start frozen as the reference; its own rank is used and [lora] is not read.
    "" starts a new adapter."""
    quantize: str = ruled("none", "none", "nf4")
    """Keep the linear layers of the frozen language model in 4 bits ("nf4", QLoRA). Needs the extra `quant`."""
    shard: bool = False
    """Spread the frozen base over the ranks (FSDP2), for a base too large for one GPU."""
    trust_remote_code: bool = False
    """Run Python code that comes with the checkpoint. None of the supported families needs it."""

    def resolved_path(self) -> str:
        if self.path:
            return self.path
        from mrg_grpo.embedded import base_path

        return str(base_path())

    def resolved_device(self) -> torch.device:
        return device_named(self.device)

    def resolved_dtype(self) -> torch.dtype:
        if self.dtype == "auto":
            return torch.bfloat16 if self.resolved_device().type == "cuda" else torch.float32
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}[self.dtype]


@dataclass
class LoraSettings:
    rank: int = ruled(16, above=0)
    """Rank of every LoRA pair."""
    alpha: int = ruled(32, above=0)
    """The update is multiplied by alpha / rank."""
    targets: list[str] = field(default_factory=list)
    """Linear layers of the language model by name, or embed_tokens; [] is all attention and MLP projections."""
    vision: bool = False
    """Train LoRA on the attention and MLP projections of the vision tower too."""


@dataclass
class ColumnsConfig:
    study: str = ""
    """Id of the study; rows of one id are joined. "none" makes every row a study of its own."""
    patient: str = ""
    """Id of the patient, who stays in one split."""
    images: str = ""
    """Images: a path relative to data.root, several, or in parquet the bytes themselves."""
    report: str = ""
    """The whole report. Without such a column: findings and impression, as data.sections says."""
    findings: str = ""
    """The section of the findings."""
    impression: str = ""
    """The section of the impression."""
    split: str = ""
    """Split. "none": a hash of the patient decides, whatever column or file name there is."""
    view: str = ""
    """View of each image, such as PA, AP, frontal or lateral, for data.views = "frontal"."""
    separators: str = ";|"
    """Characters that divide several images, or views, in one cell of text."""


@dataclass
class DataConfig:
    form: str = ruled("phantom", *FORMS)
    """Layout of the data set on disk. The two phantom sets are rendered on demand."""
    root: str = ""
    """Folder of the data set; the phantom sets have none."""
    table: str = ""
    """Of the form "table": its file (.csv, .tsv, .jsonl, or .parquet with the extra `tables`), or a pattern such as
    "data/*.parquet" for several, relative to data.root."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """Columns of the form "table"; "" is one with a usual name, "none" is no column."""
    credentialed: bool = False
    """Mark what a run writes as made from credentialed data. MIMIC-CXR, ReXGradient, CheXpert Plus, PadChest-GR are."""
    sections: list[str] = field(default_factory=lambda: ["findings"], metadata={"choices": ("findings", "impression")})
    """Sections of the report that make up the reference, joined in this order."""
    views: str = "all"
    """Images of a study: "all", "frontal", or a number k for the first k."""
    max_pixels: int = ruled(0, least=0)
    """Larger images are scaled down to this many pixels for the vision tower; 0 keeps the checkpoint's own limit."""
    allow_missing: bool = False
    """Continue where image files are missing or not readable: a study keeps the images it has, and a study with none is
    left out, counted and named. False stops the run."""
    split_file: str = ""
    """File that gives the split of each id, for layouts without splits; "" derives the split from the id."""
    keep_xxxx: bool = True
    """Keep XXXX, which stands for de-identified words in IU X-Ray."""
    workers: int = ruled(2, above=0)
    """Threads that read and encode pictures ahead of the step."""
    keep: str = ""
    """Train on the studies that `mrg-grpo probe` found to fit, for example "spread > 0.05"; "" trains on all."""
    probe: str = ""
    """The file of `mrg-grpo probe`; "" is the one that it writes for run.output_dir."""
    incomplete: str = ruled("drop", "keep", "drop")
    """Studies without a report or without an image of the wanted views: "drop" leaves them out, counted and named."""

    @property
    def rendered(self) -> bool:
        """Whether pictures are rendered on demand, so that there are no files and no root."""
        return self.form.startswith("phantom")


@dataclass
class PromptConfig:
    text: str = ""
    """The question; "" is the built-in one. Instructions for the form of the answer are added to it."""
    think: bool = True
    """Ask for a <think> block before the report."""
    context: list[str] = field(default_factory=list, metadata={"choices": CONTEXT, "empty": True})
    """What is known of a study beside its pictures and goes in front of the question, where the data set has it."""


@dataclass
class LabelerConfig:
    path: str = ""
    """chexbert.pth, or a folder made by `make embedded-labeler`; "" is the embedded labeler."""
    tokenizer: str = ""
    """Folder or hub id of the tokenizer of chexbert.pth; "" is bert-base-uncased."""
    allow_unlabeled: bool = False
    """Continue where over half of the references get no label; any report without a finding agrees with those."""


MARGIN = 0.6
"""m of MCCS. The paper does not state it; of five values this was best on the phantom's validation split. The
configurations for real reports take 0.2, which ties fewer of the pairs that radiologists rank."""


@dataclass
class MccsConfig:
    margin: float = ruled(MARGIN, least=0, below=1)
    """m in max((CCS - m) / (1 - m), 0)."""
    weighting: str = ruled("none", "none", "rarity")
    """"none" as in the paper, or "rarity": entries are weighted by -log of their share of the training reports."""
    zero_vectors: float = ruled(1.0, least=0, most=1)
    """CCS where neither report mentions any condition."""


@dataclass
class ClinicalConfig:
    denial: float = ruled(0.1, least=0, most=1)
    """What a denial weighs beside a finding: 1 as much, as in CCS; 0 nothing, as in CE-F1."""
    contradiction: float = ruled(0.0, least=0, most=1)
    """What a finding against a denial costs, where 1 is what an agreed finding earns; never less than `denial`, which
    is what 0 means."""
    uncertain: float = ruled(1.0, least=0, most=1)
    """What an uncertain finding weighs beside a positive one."""
    normal: str = ruled("unhedged", "none", "positive", "strict", "unhedged")
    """Two normal reports earn 1 whatever they deny: those without a "positive" finding, or without a positive or
    uncertain one ("strict"), or a report without either where the reference has no positive one ("unhedged", so that
    calling everything possible is not paid). "none" has no such rule."""
    gate: float = ruled(0.0, least=0)
    """p in ((1 + x) / 2) ** p, which pays little for little agreement x and keeps every difference; 0 pays x."""


@dataclass
class RewardConfig:
    weights: dict[str, float] = field(default_factory=lambda: {"mccs": 0.75, "format": 0.25})
    """Weight of each term: mccs, ccs, unsigned_cosine, clinical, format, ce_f1, bleu, rouge_l, repetition, overlong; by
    RadEval radgraph, ratescore, radcliq, green, bertscore, srr_bert; or the path of a function.

    A file with this table uses the terms in it and no others.
    """
    overlong_buffer: int = ruled(32, above=0)
    """Tokens before sampling.max_tokens in which the term `overlong` falls from 0 to -1."""
    mccs: MccsConfig = field(default_factory=MccsConfig)
    """The terms made from CCS, the cosine similarity of signed CheXbert vectors."""
    clinical: ClinicalConfig = field(default_factory=ClinicalConfig)
    """The term `clinical`: agreement of labels in which denials weigh little, from -1 to 1."""


@dataclass
class SamplingConfig:
    temperature: float = ruled(1.0, above=0)
    """Temperature of the distribution that is sampled, and trained."""
    max_tokens: int = ruled(160, above=0)
    """Longest completion, in tokens."""
    mask_truncated: bool = False
    """Leave completions that were cut at max_tokens out of the loss."""
    batch: int = ruled(0, least=0)
    """Reports decoded at once, which limits the memory of sampling; 0 is all reports of the step."""
    fast_decode: bool = True
    """Sample with layers written for one token at a time, and in fp32 with LoRA folded into a copy of the weights."""


@dataclass
class GrpoConfig:
    group_size: int = ruled(8, least=2)
    """G, reports per study. A group of one has no advantage."""
    studies_per_step: int = ruled(8, above=0)
    """N, studies per step over all ranks."""
    resample_flat: int = ruled(0, least=0)
    """Replace groups whose rewards are all equal by groups of other studies, at most so many times a step; 0 does not.
    Each time costs the sampling of as many reports."""
    inner_passes: int = ruled(1, above=0)
    """mu, optimiser updates on the same rollouts."""
    clip_low: float = ruled(0.2, least=0, below=1)
    """The ratio is clipped at 1 - clip_low from below."""
    clip_high: float = ruled(0.2, least=0)
    """The ratio is clipped at 1 + clip_high from above."""
    beta: float = ruled(0.01, least=0)
    """Weight of the KL divergence from the frozen start policy; 0 never runs the reference."""
    dual_clip: float = ruled(0.0, least=0)
    """c: a report worse than its group loses at most c times its advantage for a token, however much more probable that
    has become. Above 1; 0 turns it off. It only acts with several inner passes."""
    sampling_correction: float = ruled(0.0, least=0)
    """C: weigh each token by min(pi_train / pi_sample, C), since bf16 rounds differently in sampling; 0 does not."""
    kl: str = ruled("k3", "k3", "k3_weighted")
    """Estimator of that KL: "k3" as in GRPO, or "k3_weighted", whose gradient is unbiased in later passes too."""
    aggregate: str = ruled("sequence", "sequence", "token", "constant")
    """Mean of the loss: over each report, then over reports ("sequence", GRPO); over all tokens ("token", DAPO); or
    the sum over reports * max_tokens ("constant", Dr. GRPO)."""
    ratio: str = ruled("token", "token", "sequence")
    """One importance ratio per "token" (GRPO) or per "sequence" (GSPO)."""
    normalise: str = ruled("sum", "sum", "terms")
    """What advantages are made of: the weighted "sum" of the reward's terms (GRPO); or "terms", each normalised in its
    group, then weighted, summed and divided by the standard deviation of the batch (GDPO), without `scale`."""
    scale: str = ruled("group", "group", "batch", "none")
    """Divide advantages by the standard deviation of the "group" or of the "batch", or not at all ("none")."""
    studies_per_pass: int = ruled(0, least=0)
    """Studies whose prompts are held for training at once; 0 is all of the step. Fewer save memory, and cost one more
    run of each prompt. The gradient stays the same."""
    micro_batch: int = ruled(0, least=0)
    """Reports per forward pass in training; 0 is all that may be at once. A lower value saves memory."""
    recompute: str = ruled("none", "none", "prompt", "all")
    """Layers that keep their input alone and run again in the backward pass, here and in the warm start: those of
    prompts ("prompt"), or of reports too ("all"). Saves memory, costs a forward pass of them, changes no number."""
    learning_rate: float = ruled(1e-4, above=0)
    """Learning rate of AdamW after the warm-up."""
    decay: bool = False
    """Let the learning rate fall linearly to 0 at the last step. False keeps it constant."""
    warmup: int = ruled(5, least=0)
    """Steps of linear warm-up."""
    max_grad_norm: float = ruled(1.0, above=0)
    """Gradients with a larger norm are scaled down to this norm."""


@dataclass
class SftConfig:
    batch_size: int = ruled(16, above=0)
    """Studies per optimiser step."""
    micro_batch: int = ruled(0, least=0)
    """Studies per forward pass; 0 is all of the step. A lower value saves memory, the gradient stays the same."""
    learning_rate: float = ruled(2e-4, above=0)
    """Of AdamW; falls to 0 along a cosine. Warm-up and clipping are grpo.warmup and grpo.max_grad_norm."""


@dataclass
class Config:
    run: RunConfig = field(default_factory=RunConfig)
    """The run: its folder, its length, and how often it evaluates, saves and shows what it samples."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The base policy, and where it runs."""
    lora: LoraSettings = field(default_factory=LoraSettings)
    """LoRA, the only weights that train."""
    data: DataConfig = field(default_factory=DataConfig)
    """The data set: where it lies and what of it is used."""
    prompt: PromptConfig = field(default_factory=PromptConfig)
    """The question that the policy answers."""
    labeler: LabelerConfig = field(default_factory=LabelerConfig)
    """The labeler, for rewards and evaluation."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """The reward: a weighted sum of terms."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How reports are sampled."""
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    """The step of GRPO and its optimiser."""
    sft: SftConfig = field(default_factory=SftConfig)
    """The token-level warm start, `mrg-grpo sft`."""


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
    ("run", "output_dir"), ("model", "path"), ("model", "adapter"), ("data", "root"), ("data", "table"),
    ("data", "split_file"), ("data", "probe"), ("labeler", "path"), ("labeler", "tokenizer"),
)  # fmt: skip
"""Settings that are paths: ~ is resolved in them, which a shell does not do behind an equals sign."""


def apply_override(tree: dict, override: str) -> None:
    """`--set grpo.group_size=16`: the value is TOML; a bare word is taken as a string.

    What follows `reward.weights.` is one key, the name of a term, dots and quotes included. As it changes one weight,
    a file without that table keeps the other terms of the defaults.
    """
    tables, key, value = parsed_override(override)
    for table in tables:
        tree = tree.setdefault(table, RewardConfig().weights if table == "weights" else {})
        if not isinstance(tree, dict):
            raise UserError(f"--set {override}: {table} is not a table")
    tree[key] = value

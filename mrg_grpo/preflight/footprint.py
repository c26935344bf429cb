"""Memory of a GRPO step as formulas: which tensors are alive at each phase's peak, in bytes, by name.

N studies, G reports of one study, B = N * G reports, b reports of a micro-batch, P prompt tokens, T report tokens,
L layers, D hidden size, V vocabulary.

`resident` is alive in every phase; `prefill`, `sample`, `reference`, `train` and `evaluate` say what each adds. A
change of the engine is a change of one term here.

Deliberate choices:
* What autograd keeps of a layer is counted tensor by tensor (`kept_by_layer`) and held against what it really keeps;
  experiments/checks/plan_check.py holds the sum against measured peaks. The count is of Qwen's decoder layer; other
  families differ in their norms by a few per cent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mrg_grpo.model.logprobs import chunk_elements

RESERVED = 0.6e9
"""Bytes of a GPU that CUDA itself takes. Assumed."""
USABLE = 0.92
"""Share of the rest that tensors can fill before fragmentation ends it. Assumed."""
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight in 4 bits: the code, an 8-bit scale for 64 of them, an fp32 scale for 256 of those."""
BERT = 110e6
"""Parameters of chexbert.pth, kept in fp32 on the same device."""

GRAPH, MERGED = "prefill activations", "merged copy of adapted weights"

Bytes = dict[str, float]


@dataclass(frozen=True)
class Machine:
    """A GPU: memory in GB (1e9 bytes), arithmetic in 1e12 FLOP/s and traffic in GB/s as reached, not as advertised."""

    gpu_gb: float = 80.0
    tflops: float = 125.0
    bandwidth: float = 1300.0

    @property
    def room(self) -> float:
        return (self.gpu_gb * 1e9 - RESERVED) * USABLE


@dataclass(frozen=True)
class Model:
    """Sizes of a policy; parameters are counted on the meta device."""

    layers: int
    hidden: int
    queries: int  # width of all query heads
    keys: int  # width of all key heads
    heads: int
    inner: int
    vocabulary: int
    vision_hidden: int
    vision_inner: int
    vision: int  # parameters of the vision tower
    text: int  # of the decoder layers
    total: int  # of the base, embeddings and projection included
    adapter: int  # of LoRA
    adapted: int  # of the base weights that LoRA adapts
    rank: int
    targets: tuple[str, ...]  # names of the adapted linear layers
    size: int  # bytes of a base weight
    gpu: bool = True  # a GPU decodes over fixed buffers, and projects larger chunks
    packed4: int = 0  # base weights that lie in 4 bits; 0 where all are whole

    @property
    def base(self) -> float:
        """Bytes of the base."""
        return (self.total - self.packed4) * self.size + self.packed4 * NF4

    @property
    def written_out(self) -> float:
        """Bytes of the one weight in 4 bits that is in use; in bf16 with its LoRA beside it, which is a copy."""
        largest = self.hidden * max(self.inner, self.queries) * self.size
        return largest * (2 if self.size == 2 else 1) if self.packed4 else 0.0

    @property
    def packed(self) -> bool:
        """fp32 on a CPU: merging lays out every linear layer anew, adapted or not."""
        return not self.gpu and self.size == 4

    @property
    def cache(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        return self.layers * 2 * self.keys * self.size


@dataclass(frozen=True)
class Shape:
    """What one step is given."""

    studies: int  # N
    held: int  # of which the prompts are held for training at once
    group: int  # G
    micro: int  # b
    prompt: int  # P
    report: int  # T
    sampled: int  # reports decoded together while sampling
    decode: int  # studies that evaluation decodes together
    merged: bool  # sampling.fast_decode
    patches: int  # of all images of one study, before they are merged into tokens
    patch_width: int  # numbers of a patch
    padded: bool  # prompts of several lengths: masks, and keys repeated for every query head
    passes: int = 1  # inner passes over the same reports
    recompute: str = "none"  # or "prompt", "all"; see mrg_grpo.model.recompute

    @property
    def reports(self) -> int:
        return self.studies * self.group

    @property
    def parts(self) -> bool:
        """Whether the prompts are held in parts, so that sampling has a prefix of its own."""
        return self.held < self.studies

    def shared(self, reports: int) -> int:
        """Studies in a block of `reports`: whole groups, or a part of one."""
        return max(1, reports // self.group)


# ---- memory: what is alive


def resident(m: Model, s: Shape) -> Bytes:
    """Alive in every phase, from the second step on."""
    return {
        "base weights": m.base,
        "a weight written out": m.written_out,
        "adapter and its start": 2 * 4 * m.adapter,
        "B beside the weights": m.size * columns_beside(m) if m.size == 2 and not m.packed4 else 0,
        "optimiser": 2 * 4 * m.adapter,
        "adapter and optimiser as before the step": 3 * 4 * m.adapter if s.passes > 1 else 0,  # mrg_grpo.run.faults
        "labeler": 4 * BERT if m.size == 2 else 0,
        "pixels and features": s.studies * s.patches * (4 * s.patch_width + m.size * m.hidden / 4),
    }


def columns_beside(m: Model) -> float:
    """Numbers beside W in the matrices of mrg_grpo.model.lora.JoinedWeights: in a row the ranks of all its layers."""
    groups = (
        (("q_proj", "k_proj", "v_proj"), m.queries + 2 * m.keys), (("gate_proj", "up_proj"), 2 * m.inner),
        (("o_proj",), m.hidden), (("down_proj",), m.hidden),
    )  # fmt: skip
    return m.layers * m.rank * sum(rows * len({*names} & {*m.targets}) for names, rows in groups)


def prefix_cache(m: Model, s: Shape, studies: int) -> float:
    """Keys and values of the prompts of some studies."""
    return studies * s.prompt * m.cache


def kept_by_layer(m: Model, attention: float) -> float:
    """Bytes a token leaves in one decoder layer for the backward pass; `attention` is what keys and masks add."""
    norms = 2 * (4 * m.hidden + 4)  # two RMSNorms, in fp32, and their root
    queries = 2 * m.size * m.queries + 4 * m.heads  # queries, output, log-sum-exp
    gated = 3 * m.size * m.inner  # gate, its activation, up
    return norms + queries + gated + kept_by_lora(m) + attention


def kept_by_lora(m: Model) -> float:
    """Bytes a token leaves behind in one layer's LoRA: what its modules read, and the rank between A and B in fp32."""
    width = {"o_proj": m.queries, "down_proj": m.inner}
    # the same tensors for all that read them; attention's output is kept by attention itself
    shared = {"o_proj": "", "k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
    inputs = sum(width.get(name, m.hidden) for name in {shared.get(name, name) for name in m.targets} - {""})
    return m.size * inputs + 4 * len(m.targets) * m.rank


def prefill_graph(m: Model, s: Shape) -> float:
    """What prefill of the held prompts keeps for move 3; the prefix's keys and values are among it."""
    if s.recompute != "none":  # a layer's input, and the prefix
        return s.held * s.prompt * m.layers * m.size * (m.hidden + 2 * m.keys)
    return m.layers * prompt_layer(m, s)


def prompt_layer(m: Model, s: Shape) -> float:
    """What one layer keeps of the held prompts."""
    keys = 2 * m.size * (m.queries if s.padded else m.keys)
    mask = m.size * s.prompt if s.padded else 0
    prefix = 2 * m.size * m.keys if s.padded else 0  # with padding the repeated keys are kept beside the prefix's
    return s.held * s.prompt * (kept_by_layer(m, keys + mask) + prefix)


def continuation_graph(m: Model, s: Shape) -> float:
    """What b reports keep: in each layer their own tensors and their prompts' keys and values, and the projection's
    slopes."""
    tokens = s.micro * s.report
    layers = tokens * m.layers * m.hidden * m.size if s.recompute == "all" else m.layers * report_layer(m, s)
    return layers + 2 * tokens * m.hidden * m.size


def report_layer(m: Model, s: Shape) -> float:
    """What one layer keeps of b reports."""
    own = 2 * m.size * m.keys
    if "o_proj" in m.targets:  # attention's output in the order that the layer wants is a copy
        own += m.size * m.queries
    return s.micro * s.report * kept_by_layer(m, own) + s.shared(s.micro) * s.prompt * m.cache / m.layers


def working_prompt(m: Model, s: Shape, studies: int) -> float:
    """The one layer that is running on `studies` prompts."""
    return studies * max(prompt_scores(m, s), s.prompt * mlp(m))


def prompt_scores(m: Model, s: Shape) -> float:
    """Attention of a prompt: with padding, masks and keys for every query head."""
    return s.prompt * m.size * (4 * m.queries + s.prompt) if s.padded else 0.0


def working_reports(m: Model, s: Shape, reports: int, tokens: int) -> float:
    """The one layer that is running on `tokens` of each report."""
    return reports * max(scores(m, s, tokens), tokens * mlp(m))


def scores(m: Model, s: Shape, tokens: int) -> float:
    """Attention of `tokens` of a report: scores in fp32 and what is computed from them, and the own keys and values,
    made contiguous for the product."""
    return m.heads * tokens * 4 * (2 * s.prompt + s.report) + 2 * m.keys * s.report * m.size


def rerun(m: Model, tokens: float, kept: float, attention: float) -> float:
    """A recomputed layer in its backward pass, which frees as it goes: all that it keeps, with the gradients of the
    MLP, or without what the MLP keeps and with attention's working space."""
    gradients = tokens * m.inner * (2 * m.size + (4 if m.size == 2 else 0))  # LoRA's products are in fp32
    return max(kept + gradients, kept - tokens * 3 * m.size * m.inner + attention)


def mlp(m: Model) -> float:
    """Bytes of a token in the MLP that is running."""
    return m.size * 4 * m.inner + 4 * (m.inner + 2 * m.hidden)


def logits_chunk(m: Model, tokens: float) -> float:
    """Logits, probabilities and their products in fp32, of the tokens that are projected at once."""
    return 3 * 4 * min(tokens * m.vocabulary, max(chunk_elements("cuda" if m.gpu else "cpu"), m.vocabulary))


def vision_activations(m: Model, patches: float) -> float:
    """The one layer of the vision tower that is running, without gradient."""
    return patches * (m.size * (6 * m.vision_hidden + 3 * m.vision_inner) + 4 * 4 * m.vision_hidden)


def prefill(m: Model, s: Shape) -> Bytes:
    """Move 1: vision first, then the decoder. With gradient; in parts without, and then the parts are joined."""
    vision = vision_activations(m, s.held * s.patches)
    decoder = working_prompt(m, s, s.held)
    if s.parts:
        joined = prefix_cache(m, s, s.studies)
        return {"prompts of sampling": joined, "working space": max(vision, decoder, joined)}
    graph = prefill_graph(m, s)
    return {"vision activations": vision} if vision > graph + decoder else {GRAPH: graph, "working space": decoder}


def waiting(m: Model, s: Shape) -> Bytes:
    """What sampling continues from: the graph of move 1, which waits for move 3, or keys and values alone."""
    return {"prompts of sampling": prefix_cache(m, s, s.studies)} if s.parts else {GRAPH: prefill_graph(m, s)}


def sample(m: Model, s: Shape) -> Bytes:
    """Decoding of `sampled` reports, in fp32 with LoRA merged."""
    return {
        **waiting(m, s),
        MERGED: merged_copy(m, s),
        "decode cache": decode_cache(m, s, s.shared(s.sampled), s.sampled),
        "logits of one token": s.sampled * m.vocabulary * (m.size + 4 + 3 * 8),
        "working space": working_reports(m, s, s.sampled, 1),
    }


def merged_copy(m: Model, s: Shape) -> float:
    """The adapted weights once more, with LoRA folded in; packed ones of all layers and of the projection.

    Nothing in bf16, which could not hold the sum (mrg_grpo.model.decoder).
    """
    if not s.merged or m.size == 2 or m.packed4:
        return 0.0
    return (m.text + m.vocabulary * m.hidden if m.packed else m.adapted) * m.size


def decode_cache(m: Model, s: Shape, studies: int, reports: int) -> float:
    """The prompts' keys and values, and room for the reports'; on a CPU keys are in at least fp32."""
    key = m.size if m.gpu else max(4, m.size)
    return (studies * s.prompt + reports * s.report) * m.cache * (key + m.size) / (2 * m.size)


def reference(m: Model, s: Shape) -> Bytes:
    """The start policy on the same reports, without gradient: its own prefix, then micro-batches."""
    return {
        **({} if s.parts else {GRAPH: prefill_graph(m, s)}),
        "reference's prefix cache": prefix_cache(m, s, s.held),
        "working space": max(
            working_prompt(m, s, s.held),
            working_reports(m, s, s.micro, s.report),
            logits_chunk(m, s.micro * s.report),
        ),
    }


def train(m: Model, s: Shape) -> Bytes:
    """Moves 2 and 3 where they need most: a micro-batch whose forward pass ends and whose backward pass begins, with
    what earlier ones left, or the prompts' backward pass.

    Logits and the layer that is running are never alive together: of the logits only what exceeds it counts. A layer
    that is recomputed has all that it keeps in its working space.
    """
    layer = working_reports(m, s, s.micro, s.report)
    if s.recompute == "all":
        layer = rerun(m, s.micro * s.report, report_layer(m, s), s.micro * scores(m, s, s.report))
    reports = {
        "continuation activations": continuation_graph(m, s),
        "logits chunk": max(logits_chunk(m, s.micro * s.report) - layer, 0.0),
        "working space": layer,
    }
    prompts = {"working space": working_prompt(m, s, s.held)}
    if s.recompute != "none":
        prompts = {"working space": rerun(m, s.held * s.prompt, prompt_layer(m, s), s.held * prompt_scores(m, s))}
    return {
        GRAPH: prefill_graph(m, s),
        "gradients of the prefix": prefix_cache(m, s, s.held),
        "gradients of the adapter": 4 * m.adapter,
        **max(reports, prompts, key=lambda terms: sum(terms.values())),
    }


def evaluate(m: Model, s: Shape) -> Bytes:
    """Greedy decoding of `decode` studies together, one report each, without gradient."""
    one_layer = max(
        vision_activations(m, s.decode * s.patches),
        working_prompt(m, s, s.decode),
        decode_cache(m, s, s.decode, s.decode) + working_reports(m, s, s.decode, 1),
    )
    pixels = s.decode * s.patches * (4 * s.patch_width + m.size * m.hidden / 4)
    prefix = s.decode * s.prompt * m.cache
    return {MERGED: merged_copy(m, s), "working space": one_layer, "evaluated prompts": pixels + prefix}


PHASES = {"prefill": prefill, "sample": sample, "reference": reference, "train": train, "evaluate": evaluate}


def peaks(m: Model, s: Shape, beta: float = 1.0) -> dict[str, float]:
    """Bytes at the peak of each phase; without a reference if beta is 0."""
    alive = sum(resident(m, s).values())
    return {name: alive + sum(f(m, s).values()) for name, f in PHASES.items() if beta or name != "reference"}


def sft_peak(m: Model, s: Shape, batch: int, micro: int = 0) -> float:
    """Bytes at the peak of a warm-start step: every study with one report, `micro` (0: all) in one forward pass."""
    held = min(micro or batch, batch)
    return peaks(m, replace(s, studies=batch, held=held, group=1, micro=held))["train"]


def largest_micro_batch(m: Model, s: Shape, room: float, beta: float = 1.0) -> int:
    """The most reports per forward pass whose step fits into `room` bytes; 0 if not even one does."""
    fitting = [b for b in range(1, s.held * s.group + 1) if max(peaks(m, replace(s, micro=b), beta).values()) <= room]
    return max(fitting, default=0)

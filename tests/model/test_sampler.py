"""The step that a GPU records as one graph, held token by token to the step over growing views, on the CPU."""

import gc
import weakref
from itertools import pairwise

import pretend_graph
import pytest
import torch
from small_grpo import setting
from tiny import WINDOW
from torch.fx.experimental.proxy_tensor import make_fx

from mrg_grpo.model import attention
from mrg_grpo.model.attention import has_wide_product, key_dtype
from mrg_grpo.model.cuda_graph import GraphRecorder, LateFlags, arrival
from mrg_grpo.model.policy import Policy
from mrg_grpo.model.rollout import decode, uniforms
from mrg_grpo.model.sampler import Sampler, Writer

G, TOKENS = 3, 40
assert TOKENS > WINDOW  # own tokens fall out of Gemma's window


@pytest.fixture(scope="module", params=["gemma3", "qwen2_5_vl", "qwen3_vl"])
def checkpoint(request, tiny_checkpoint):
    return tiny_checkpoint(family=request.param, scale=0.1)


def load(checkpoint, dtype="float64") -> Policy:
    policy = Policy.load(setting(checkpoint, dtype))
    generator = torch.Generator().manual_seed(5)
    for parameter in policy.trainable():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter) * 0.05
    return policy.model.double() and policy if dtype == "float64" else policy


@torch.no_grad()
def prefix_of(policy, studies):
    return policy.prefill(policy.encoder.encode(studies))


def numbers(studies):
    return uniforms(0, 1, [(study.id, i) for study in studies for i in range(G)], TOKENS)


def writer_of(policy, prefix, studies, fixed, uniform=True):
    rows = torch.arange(len(studies))
    return Writer(Sampler(policy, fixed=fixed), prefix, rows, G, TOKENS, numbers(studies) if uniform else None)


def assert_close(logps, expected, bound=6e-15):
    """By some bits of fp64, which layers of random weights enlarge: sums of another order are not rounded alike."""
    assert (logps - expected).abs().max() < bound


def assert_same(one, other, bound=6e-15):
    assert torch.equal(one.tokens, other.tokens) and (one.uniform is None or len(one.tokens.unique()) > 5)
    assert_close(one.chances.log(), other.chances.log(), bound)


@pytest.mark.parametrize("sampled", [True, False])
@torch.no_grad()
def test_the_fixed_step_writes_what_the_growing_one_writes(checkpoint, studies, sampled):
    policy = load(checkpoint)
    policy.stop_ids = []
    prefix = prefix_of(policy, studies[:2])
    growing, fixed = (writer_of(policy, prefix, studies[:2], fixed, sampled) for fixed in (False, True))
    growing.write_on(TOKENS - 1)
    fixed.write_on(TOKENS - 1)
    assert_same(fixed, growing)


@torch.no_grad()
def test_one_recorded_step_writes_every_token(checkpoint, studies):
    """make_fx keeps shapes and Python numbers as they are at its recording, as a capture does."""
    policy = load(checkpoint)
    policy.stop_ids = []
    prefix = prefix_of(policy, studies[:2])
    growing, fixed = (writer_of(policy, prefix, studies[:2], fixed) for fixed in (False, True))
    growing.write_on(TOKENS - 1)

    def step():
        fixed.step()
        return fixed.cache.t

    recorded = make_fx(step)()  # which takes the step too
    for _ in range(TOKENS - 2):
        recorded()
    assert_same(fixed, growing)


def test_reports_decoded_by_graphs_are_those_decoded_without(checkpoint, studies, monkeypatch):
    """Some end early: the batch is halved, and recorded anew, in one pool of memory."""
    policy = load(checkpoint)
    policy.stop_ids = list(range(0, 200, 9))
    prefix = prefix_of(policy, studies[:4])
    plain = decode(Sampler(policy), prefix, TOKENS * 2, G, uniform=numbers(studies[:4]).repeat(1, 2))
    monkeypatch.setattr("mrg_grpo.model.rollout.CHECK_EVERY", 3)
    graphs = pretend_graph.pretend(monkeypatch)
    sampler = Sampler(policy, fixed=True)
    sampler.recorded = True
    graphed = decode(sampler, prefix, TOKENS * 2, G, uniform=numbers(studies[:4]).repeat(1, 2))
    assert graphed.texts == plain.texts and torch.equal(graphed.tokens, plain.tokens)
    assert torch.equal(graphed.finished, plain.finished)
    assert_close(graphed.logps, plain.logps)
    found = [
        [out for operation, _, _, out in g.recording.calls if "searchsorted" in str(operation)] for g in graphs.made
    ]
    sizes = [len(chosen) for (chosen,) in found]
    assert len(sizes) > 1 and all(later * 2 <= before for before, later in pairwise(sizes))
    assert all(graph.replays > 0 and graph.pool == "the pool" for graph in graphs.made)


@pytest.mark.parametrize("graphs", [False, True])
def test_a_decode_leaves_nothing_behind_for_the_garbage_collector(studies, tiny_checkpoint, monkeypatch, graphs):
    """Its caches are the largest tensors of sampling: a circle of references would keep them through training."""
    policy = load(tiny_checkpoint())
    prefix, made, plain = prefix_of(policy, studies[:1]), [], Writer.__init__

    def watched(self, *words):
        plain(self, *words)
        made.append(weakref.ref(self))
        self.record = GraphRecorder(policy.device) if graphs else None

    monkeypatch.setattr(Writer, "__init__", watched)
    pretend_graph.pretend(monkeypatch).made = []
    gc.disable()
    try:
        decode(Sampler(policy, fixed=True), prefix, TOKENS)
        pretend_graph.Graph.made = []
        assert [writer() for writer in made] == [None]
    finally:
        gc.enable()


def test_a_step_that_asks_the_device_for_a_number_cannot_be_recorded(studies, tiny_checkpoint, monkeypatch):
    policy = load(tiny_checkpoint())
    pretend_graph.pretend(monkeypatch)
    with torch.no_grad():
        writer = writer_of(policy, prefix_of(policy, studies[:1]), studies[:1], fixed=True)
        writer.record = GraphRecorder(policy.device)
        plain = writer.cache.advance
        writer.cache.advance = lambda: plain() if writer.cache.t.item() >= 0 else None
        with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
            writer.write_on(4)


def test_late_flags_are_those_of_the_look_before(monkeypatch):
    flags, late = torch.zeros(3, dtype=torch.bool), LateFlags()
    assert late.look(flags) is None
    flags[1] = True
    assert late.look(flags).tolist() == [False, False, False]
    flags[2] = True
    assert late.look(flags).tolist() == [False, True, False]
    pretend_graph.pretend(monkeypatch)
    assert arrival(torch.device("cpu")) is None
    monkeypatch.setattr("mrg_grpo.model.cuda_graph.arrival", lambda _: arrival(torch.device("cuda")))
    late, before = LateFlags(), pretend_graph.Event.recorded
    assert late.look(flags) is None and late.look(flags) is not None
    assert pretend_graph.Event.recorded - before == 2 and pretend_graph.Event.waited == 1


@pytest.fixture
def wide_product():
    """A CPU that multiplies bf16 matrices to an fp32 result, as CUDA does."""
    library = torch.library.Library("aten", "IMPL")

    def product(self, left, right, out_dtype, *, beta=1, alpha=1, out):
        return out.copy_(alpha * (left.to(out_dtype) @ right.to(out_dtype)) + (beta * self if beta else 0.0))

    library.impl("baddbmm.dtype_out", product, "CPU")
    has_wide_product.cache_clear()
    yield
    library._destroy()
    has_wide_product.cache_clear()


def test_keys_stay_in_bf16_where_the_device_has_a_wide_product(checkpoint, studies, wide_product):
    cpu = torch.device("cpu")
    assert key_dtype(torch.bfloat16, cpu) == torch.bfloat16
    policy = load(checkpoint, "bfloat16")
    policy.stop_ids = []
    prefix = prefix_of(policy, studies[:2])
    with torch.no_grad():
        narrow = writer_of(policy, prefix, studies[:2], fixed=True)
        assert narrow.cache.keys[0].dtype == torch.bfloat16
        narrow.write_on(TOKENS - 1)
        has_wide_product.cache_clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(attention, "has_wide_product", lambda *_: False)
            wide = writer_of(policy, prefix, studies[:2], fixed=True)
            assert wide.cache.keys[0].dtype == torch.float32
            wide.write_on(TOKENS - 1)
    assert_same(narrow, wide, 0.01)


def test_without_it_keys_are_converted_once():
    has_wide_product.cache_clear()
    cpu = torch.device("cpu")
    assert key_dtype(torch.bfloat16, cpu) == torch.float32 and key_dtype(torch.float64, cpu) == torch.float64

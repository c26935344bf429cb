"""Quickened layers against PEFT's and torch's own: values, gradients, what is kept, and when they step aside."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from mrg_grpo.model.decoder import FusedLinear
from mrg_grpo.model.lora import LoraLinear, PatchProjection, patch_lora

BOUND = {torch.float32: 2e-6, torch.float64: 1e-14, torch.bfloat16: 2e-2}


class Two(nn.Module):
    """One layer that gets LoRA, one that stays frozen."""

    def __init__(self, bias):
        super().__init__()
        self.first, self.second = nn.Linear(24, 40, bias=bias), nn.Linear(40, 24, bias=bias)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def pair(bias=True, dtype=torch.float32, wide=False, **settings):
    """The same model with PEFT's layers and with those of lora.py; B is not 0, which would hide the gradient of A.

    wide: the adapter is in fp32, as PEFT has it beside a base in bf16.
    """
    torch.manual_seed(0)
    lora = LoraConfig(r=4, lora_alpha=12, target_modules=["first"], **settings)
    slow = get_peft_model(Two(bias), lora).to(dtype).eval()
    for name, parameter in slow.named_parameters():
        if "lora" in name:
            parameter.data = torch.randn(parameter.shape).to(torch.float32 if wide else dtype) * 0.3
    quick = copy.deepcopy(slow)
    patch_lora(quick)
    return slow, quick


def results(model, x):
    x = x.clone().requires_grad_()
    out = model(x)
    out.float().square().sum().backward()
    return [out.detach(), x.grad, *(p.grad for p in model.parameters() if p.requires_grad)]


def close(got, want, dtype):
    return (got - want).abs().max() <= BOUND[dtype] * want.abs().max()


@pytest.mark.parametrize("dtype, wide", [*((dtype, False) for dtype in BOUND), (torch.bfloat16, True)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(24,), (1, 24), (70, 24), (3, 5, 24), (0, 24)])
def test_values_and_gradients_are_pefts(dtype, wide, bias, shape):
    slow, quick = pair(bias, dtype, wide)
    inner = quick.get_base_model()
    assert type(inner.first) is LoraLinear and type(inner.second) is nn.Linear
    assert [type(layer) for layer in (*inner.first.lora_A.values(), *inner.first.lora_B.values())] == [nn.Linear] * 2
    x = torch.randn(shape, dtype=dtype)
    for got, want in zip(results(quick, x), results(slow, x), strict=True):
        assert got.shape == want.shape and (got.numel() == 0 or close(got, want, dtype))
    with torch.no_grad():
        assert x.numel() == 0 or close(quick(x), slow(x), dtype)


def test_rows_that_do_not_lie_together():
    slow, quick = pair()
    for x in (torch.randn(24, 6).t(), torch.randn(4, 48)[:, ::2], torch.randn(1, 24).expand(5, 24)):
        for got, want in zip(results(quick, x), results(slow, x), strict=True):
            assert close(got, want, torch.float32)


def test_gradients_by_differences():
    _, quick = pair(dtype=torch.float64)
    parameters = [p for p in quick.parameters() if p.requires_grad]
    x = torch.randn(3, 24, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *_: quick(x), (x, *parameters))


def test_an_input_without_gradient():
    slow, quick = pair()
    for model in (slow, quick):
        model(torch.ones(7, 24)).sum().backward()
    for one, other in zip(quick.parameters(), slow.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        assert one.grad is None or close(one.grad, other.grad, torch.float32)


@pytest.mark.parametrize("wide", [False, True])
def test_kept_are_the_rows_as_they_came_and_the_rank_between(wide):
    _, quick = pair(bias=False, dtype=torch.bfloat16 if wide else torch.float32, wide=wide)
    layer, kept = quick.get_base_model().first, []
    x = torch.randn(64, 24, requires_grad=True).to(layer.base_layer.weight.dtype)
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda _: None):
        layer(x)
    weights = {p.data_ptr() for p in quick.parameters()}
    alive = [t for t in kept if t.data_ptr() not in weights]
    assert [t.data_ptr() == x.data_ptr() for t in alive] == [True, False]
    assert [(t.shape, t.dtype) for t in alive] == [((64, 24), x.dtype), ((64, 4), torch.float32)]


def test_dropout_disabling_and_a_second_adapter_are_left_to_peft():
    slow, quick = pair(lora_dropout=0.5)
    x = torch.randn(9, 24)
    torch.manual_seed(1)
    want = slow.train()(x)
    torch.manual_seed(1)
    assert torch.allclose(quick.train()(x), want, atol=1e-5)
    slow.eval(), quick.eval()
    with slow.disable_adapter(), quick.disable_adapter():
        assert torch.allclose(quick(x), slow(x), atol=1e-5)
    for model in (slow, quick):
        torch.manual_seed(2)
        model.add_adapter("other", LoraConfig(r=2, target_modules=["first"], init_lora_weights=False))
        model.base_model.set_adapter(["default", "other"])
    assert torch.allclose(quick(x), slow(x), atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", BOUND)
def test_patches_are_projected_as_by_the_convolution(bias, dtype):
    torch.manual_seed(0)
    slow = nn.Sequential(nn.Conv3d(3, 10, kernel_size=(2, 4, 4), stride=(2, 4, 4), bias=bias)).to(dtype)
    quick = copy.deepcopy(slow)
    patch_lora(quick)
    assert type(quick[0]) is PatchProjection and list(quick.state_dict()) == list(slow.state_dict())
    for shape in ((7, 3, 2, 4, 4), (2, 3, 4, 8, 8)):  # one patch each; several
        pixels = torch.randn(shape, dtype=dtype)
        for got, want in zip(results(quick, pixels), results(slow, pixels), strict=True):
            assert got.shape == want.shape and close(got, want, dtype)


@pytest.mark.parametrize("setting", [{"padding": 1}, {"padding": "same"}, {"groups": 2}])
def test_a_convolution_that_is_more_than_one_product_is_left_alone(setting):
    model = nn.Sequential(nn.Conv3d(4, 10, kernel_size=2, **setting))
    patch_lora(model)
    assert type(model[0]) is nn.Conv3d


class Attention(nn.Module):
    """Three layers with one input and one of its own, named as in transformers."""

    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(24, 32), nn.Linear(24, 16), nn.Linear(24, 16)
        self.o_proj = nn.Linear(64, 24)

    def forward(self, x):
        return self.o_proj(torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], -1).tanh())


@pytest.mark.parametrize("targets", [["q_proj", "k_proj", "v_proj", "o_proj"], ["q_proj", "v_proj"], ["k_proj"]])
def test_layers_of_one_input_lie_in_one_matrix(targets):
    torch.manual_seed(0)
    lora = LoraConfig(r=5, lora_alpha=12, target_modules=targets, rank_pattern={"v_proj": 3})
    slow = get_peft_model(Attention(), lora).bfloat16().eval()
    for name, parameter in slow.named_parameters():
        if "lora" in name:
            parameter.data = torch.randn(parameter.shape) * 0.3
    quick = copy.deepcopy(slow)
    patch_lora(quick)
    inner = quick.get_base_model()
    layers = [inner.q_proj, inner.k_proj, inner.v_proj]
    matrix = layers[0].joined.matrix
    assert matrix.shape[0] == 64 and matrix.shape[1] % 8 == 0
    start = 0
    for layer in layers:  # nothing is stored twice
        assert layer.weight.data_ptr() == matrix[start:].data_ptr() and layer.weight.shape[1] == 24
        start += len(layer.weight)
    x = torch.randn(7, 24).bfloat16()
    for got, want in zip(results(quick, x), results(slow, x), strict=True):
        assert close(got, want, torch.bfloat16)
    for parameter in quick.parameters():  # the optimiser has moved B
        if parameter.requires_grad:
            parameter.data += 0.1
    with torch.no_grad():
        apart = torch.cat([layer(x) for layer in layers], -1)
        assert close(FusedLinear(*layers)(x), apart, torch.bfloat16)
        assert close(FusedLinear(layers[1])(x), layers[1](x), torch.bfloat16)

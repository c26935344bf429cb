"""Attention to a shared prompt against plain attention over the whole sequence, report by report."""

import pytest
import torch

from mrg_grpo.model.attention import at_least_fp32, attend_once, prefix_attention

N, G, H, KV, P, D = 2, 3, 4, 2, 7, 8


def plain(query, key, value, prefix_key, prefix_value, scale, real, window):
    """One report and one head at a time, the prompt repeated, softmax over all that is seen."""
    b, heads, tokens, _ = query.shape
    rows = []
    for i in range(b):
        n, g = divmod(i, G)
        for head in range(heads):
            kv = head // (heads // KV)
            keys = torch.cat([prefix_key[n, kv][real[n]], key[n, kv, g]])
            values = torch.cat([prefix_value[n, kv][real[n]], value[n, kv, g]])
            before = len(keys) - tokens
            for t in range(tokens):
                low = max(0, before + t + 1 - window) if window else 0
                seen = slice(low, before + t + 1)
                weights = torch.softmax(keys[seen] @ query[i, head, t] * scale, 0)
                rows.append(weights @ values[seen])
    return torch.stack(rows).view(b, heads, tokens, -1).transpose(1, 2)


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("window", [None, 4, 9])
@pytest.mark.parametrize(("tokens", "own"), [(5, 5), (1, 5), (1, 1)])
def test_equals_plain_attention_with_gradients(tokens, own, window, padding):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)  # noqa: E731
    tensors = [
        draw(N * G, H, tokens, D),
        draw(N, KV, G, own, D),
        draw(N, KV, G, own, D),
        draw(N, KV, P, D),
        draw(N, KV, P, D),
    ]
    real = torch.ones(N, P, dtype=torch.bool)
    if padding:
        real[0, :3] = False
    mask = real.unsqueeze(1) if padding else None
    if window:  # a prompt token is seen while it is less than the window away
        place = real.long().cumsum(1) - 1
        at = real.sum(1, keepdim=True) + torch.arange(own - tokens, own)
        mask = (at.unsqueeze(2) - place.unsqueeze(1) < window) & real.unsqueeze(1)
    ours = prefix_attention(*tensors, 0.3, mask, window)
    theirs = plain(*tensors, 0.3, real, window)
    assert (ours - theirs).abs().max() < 1e-12
    with torch.no_grad():
        assert (prefix_attention(*tensors, 0.3, mask, window) - theirs).abs().max() < 1e-12  # as sampling runs it
    weight = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    for got, want in zip(
        torch.autograd.grad((ours * weight).sum(), tensors), torch.autograd.grad((theirs * weight).sum(), tensors)
    ):
        assert (got - want).abs().max() < 1e-12


def test_large_scores_do_not_overflow():
    tensors = [
        torch.full((1, 1, 1, 4), 300.0),
        torch.ones(1, 1, 1, 1, 4),
        torch.ones(1, 1, 1, 1, 4) * 2,
        torch.ones(1, 1, 3, 4),
        torch.ones(1, 1, 3, 4),
    ]
    assert prefix_attention(*tensors, 1.0).flatten().tolist() == [1.25] * 4


def flash(query, key, value, prefix_key, prefix_value, scale):
    """torch's own attention over the repeated prompt."""
    keys, values = (
        torch.cat([prompt.repeat_interleave(G, 0), own.transpose(1, 2).flatten(0, 1)], 2).repeat_interleave(H // KV, 1)
        for prompt, own in ((prefix_key, key), (prefix_value, value))
    )
    return torch.nn.functional.scaled_dot_product_attention(query, keys, values, scale=scale).transpose(1, 2)


@pytest.mark.parametrize("offset", [0.0, 60.0, 200.0])
def test_bf16_keeps_small_differences_of_large_scores(offset):
    """As exact as torch's own attention, whose scores are in fp32, output and gradients.

    Keys have a large part in common, as the biases of Qwen2 make them: scores near `offset` that differ by a few.
    """
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    query = draw(N * G, H, 1, 128)
    query += 1 - query.mean(-1, keepdim=True)  # a common part of `offset` / 128 in each number of a key adds `offset`
    key, prefix_key = (draw(*shape) * 0.2 + offset / 128 for shape in ((N, KV, G, 1, 128), (N, KV, 300, 128)))
    tensors = [
        t.bfloat16() for t in (query, key, draw(N, KV, G, 1, 128), prefix_key, draw(N, KV, 300, 128))
    ]  # fmt: skip
    weight = draw(N * G, 1, H, 128)

    def results(function, dtype):
        leaves = [t.to(dtype).requires_grad_() for t in tensors]
        out = function(*leaves, 1.0)
        return [out, *torch.autograd.grad((out * weight).sum(), leaves)]

    true = results(prefix_attention, torch.float64)
    error = lambda got, want: ((got.double() - want).norm() / want.norm()).item()  # noqa: E731
    for ours, theirs, want in zip(
        results(prefix_attention, torch.bfloat16), results(flash, torch.bfloat16), true, strict=True
    ):
        assert error(ours, want) < 1.5 * error(theirs, want) + 1e-4
    query, key, value, prefix_key, prefix_value = tensors
    one = attend_once(  # as a Decoder samples
        query.view(N, G, H, 128), at_least_fp32(key).flatten(0, 2), value.flatten(0, 2),
        at_least_fp32(prefix_key).flatten(0, 1).transpose(1, 2), prefix_value.flatten(0, 1), 1.0,
    )  # fmt: skip
    assert error(one.view(true[0].shape), true[0]) < 0.004

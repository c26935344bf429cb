"""Attention to a shared prompt against plain attention over the whole sequence, report by report."""

import pytest
import torch

from mrg_grpo.attention import prefix_attention

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

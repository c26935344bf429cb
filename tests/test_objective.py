"""The objective against golden fp64 values, against a slow loop, and against what must never be NaN."""

import itertools
import json
import math
import statistics

import pytest
import torch

from mrg_grpo.objective import (
    dual_clipped,
    group_advantages,
    grpo_loss,
    k3,
    k3_weighted,
    sampling_weights,
    term_advantages,
    terms_without_spread,
)


@pytest.fixture(scope="module")
def golden(shared):
    return json.loads((shared / "golden" / "grpo.json").read_text())


def tensor(values):
    return None if values is None else torch.tensor(values, dtype=torch.float64)


def test_golden_losses_and_gradients(golden):
    for case in golden["loss"]:
        logps = tensor(case["logps"]).requires_grad_()
        loss, metrics = grpo_loss(
            logps,
            tensor(case["advantages"]),
            tensor(case["mask"]),
            old_logps=tensor(case["old_logps"]),
            ref_logps=tensor(case["ref_logps"]),
            clip_low=case["clip_low"],
            clip_high=case["clip_high"],
            beta=case["beta"],
            aggregate=case["aggregate"],
            max_length=case["max_length"],
            ratio=case["ratio"],
        )
        loss.backward()
        assert abs(loss.item() - case["loss"]) < 1e-9
        assert (logps.grad - tensor(case["grad_logps"])).abs().max() < 1e-9
        if case["kl"] is not None:
            assert abs(metrics["kl"].item() - case["kl"]) < 1e-9
        for side in ("low", "high"):
            assert abs(metrics[f"clip_fraction_{side}"].item() - case[f"clip_fraction_{side}"]) < 1e-6


def test_golden_advantages(golden):
    for case in golden["advantages"]:
        for scale in ("group", "batch", "none"):
            got = group_advantages(tensor(case["rewards"]), scale=scale)
            assert (got - tensor(case[scale])).abs().max() < 1e-9


def slow_loss(logps, adv, mask, old, ref, low, high, beta, aggregate, max_length):
    """The formula as one would write it on paper: a loop over reports and tokens."""
    per_report, total, tokens = [], 0.0, 0
    for b in range(len(adv)):
        terms = []
        for t in range(logps.shape[1]):
            if not mask[b, t]:
                continue
            rho = math.exp(logps[b, t] - old[b, t])
            clipped = min(max(rho, 1 - low), 1 + high)
            d = ref[b, t] - logps[b, t]
            terms.append(-min(rho * adv[b], clipped * adv[b]) + beta * (math.exp(d) - d - 1))
        per_report.append(sum(terms) / max(len(terms), 1))
        total, tokens = total + sum(terms), tokens + len(terms)
    return {
        "sequence": sum(per_report) / len(per_report),
        "token": total / tokens,
        "constant": total / (len(adv) * max_length),
    }[aggregate]


@pytest.mark.parametrize("aggregate", ["sequence", "token", "constant"])
def test_loss_equals_the_slow_loop(aggregate):
    torch.manual_seed(0)
    logps, old, ref = (-torch.rand(6, 9, dtype=torch.float64) for _ in range(3))
    mask = torch.arange(9) < torch.tensor([[9], [3], [1], [0], [7], [5]])
    adv = torch.randn(6, dtype=torch.float64)
    loss, _ = grpo_loss(
        logps, adv, mask, old_logps=old, ref_logps=ref, clip_high=0.28, beta=0.1, aggregate=aggregate, max_length=11
    )
    slow = slow_loss(logps, adv, mask, old, ref, 0.2, 0.28, 0.1, aggregate, 11)
    assert abs(loss.item() - float(slow)) < 1e-12


@pytest.mark.parametrize("aggregate", ["sequence", "token", "constant"])
def test_micro_batches_add_up_to_the_step(aggregate):
    torch.manual_seed(1)
    mask = torch.arange(8) < torch.tensor([[8], [2], [0], [5], [6]])
    adv, old = torch.randn(5), -torch.rand(5, 8)
    normalizer = {"sequence": 5, "token": int(mask.sum()), "constant": 5 * 8}[aggregate]

    def gradient(parts):
        logps = (-torch.rand(5, 8, generator=torch.Generator().manual_seed(2))).requires_grad_()
        for rows in parts:
            grpo_loss(
                logps[rows], adv[rows], mask[rows], old_logps=old[rows], aggregate=aggregate, normalizer=normalizer
            )[0].backward()
        return logps.grad

    whole = gradient([slice(0, 5)])
    assert torch.allclose(gradient([slice(0, 1), slice(1, 4), slice(4, 5)]), whole, atol=1e-7)
    logps = (-torch.rand(5, 8, generator=torch.Generator().manual_seed(2))).requires_grad_()
    grpo_loss(logps, adv, mask, old_logps=old, aggregate=aggregate, max_length=8)[0].backward()
    assert torch.allclose(logps.grad, whole, atol=1e-7)


def test_on_policy_value_is_minus_mean_advantage_but_gradient_is_not_zero():
    logps = torch.tensor([[-1.0, -2.0], [-0.5, -0.1]], requires_grad=True)
    loss, metrics = grpo_loss(logps, torch.tensor([1.0, -1.0]), torch.ones(2, 2))
    loss.backward()
    assert loss.item() == 0.0 and metrics["ratio_mean"].item() == 1.0
    assert torch.allclose(logps.grad, torch.tensor([[-0.25, -0.25], [0.25, 0.25]]))


def test_groups_without_spread_are_exactly_zero():
    same = torch.full((1, 7), 0.1 + 0.2)
    assert (group_advantages(same) == 0).all()
    assert (group_advantages(torch.rand(3, 1)) == 0).all()
    assert (group_advantages(torch.rand(1, 1), scale="batch") == 0).all()
    mixed = group_advantages(torch.tensor([[0.3, 0.3], [0.0, 1.0]]), scale="batch")
    assert (mixed[0] == 0).all() and mixed[1, 1] > 0
    assert (group_advantages(torch.ones(1, 4), eps=0.0) == 0).all()


def test_minus_infinity_and_full_masks_give_no_nan():
    logps = torch.tensor([[-1.0, -torch.inf], [-torch.inf, -torch.inf]], requires_grad=True)
    masks = torch.tensor([[[1, 0], [0, 0]], [[1, 1], [1, 1]]])  # -inf behind the mask, and in front of it
    for aggregate, ratio, mask in itertools.product(("sequence", "token", "constant"), ("token", "sequence"), masks):
        for old in (logps.detach(), None):
            logps.grad = None
            loss, metrics = grpo_loss(
                logps, torch.tensor([1.0, 1.0]), mask, old_logps=old, ref_logps=logps.detach(),
                beta=0.1, aggregate=aggregate, max_length=2, ratio=ratio,
            )  # fmt: skip
            loss.backward()
            assert torch.isfinite(loss) and torch.isfinite(logps.grad).all()
            assert all(torch.isfinite(value) for value in metrics.values())
    empty, _ = grpo_loss(logps, torch.ones(2), torch.zeros(2, 2), aggregate="token")
    assert empty.item() == 0


def test_k3_is_not_negative_and_zero_only_at_equality():
    a = torch.linspace(-3, 0, 50, dtype=torch.float64)
    assert (k3(a, a.flip(0)) >= 0).all() and (k3(a, a) == 0).all()


@pytest.mark.parametrize("bad", [{"aggregate": "mean"}, {"ratio": "word"}, {"aggregate": "constant"}])
def test_unknown_choices_are_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        grpo_loss(torch.zeros(1, 1), torch.zeros(1), torch.ones(1, 1), **bad)
    with pytest.raises(ValueError, match="scale"):
        group_advantages(torch.zeros(1, 2), scale="std")


@pytest.mark.parametrize("on_policy", [True, False])
def test_the_gradient_of_each_kl_estimator_is_what_its_docstring_says(on_policy):
    """Expectations over a whole vocabulary, tokens weighted by the policy that sampled them, not by samples."""
    generator = torch.Generator().manual_seed(2)
    logits, old, ref = (torch.randn(7, generator=generator, dtype=torch.float64) for _ in range(3))
    logits.requires_grad_()
    logp, ref_logp = logits.log_softmax(0), ref.log_softmax(0)
    old_logp = logp.detach() if on_policy else old.log_softmax(0)
    forward = (logp.exp() * (logp - ref_logp)).sum()  # KL(policy || reference)
    reverse = (ref_logp.exp() * (ref_logp - logp)).sum()  # KL(reference || policy)
    slope = {"forward": gradient_of(forward, logits), "reverse": gradient_of(reverse, logits)}
    plain = (old_logp.exp() * k3(logp, ref_logp)).sum()
    weighted = (old_logp.exp() * k3_weighted(logp, old_logp, ref_logp)).sum()
    assert weighted.item() == pytest.approx(forward.item(), abs=1e-12)  # unbiased in value, whoever sampled
    assert torch.allclose(gradient_of(weighted, logits), slope["forward"], atol=1e-12)
    assert (plain.item() == pytest.approx(forward.item(), abs=1e-12)) == on_policy
    assert torch.allclose(gradient_of(plain, logits), slope["reverse"], atol=1e-12) == on_policy
    assert not torch.allclose(gradient_of(plain, logits), slope["forward"], atol=1e-3)


def gradient_of(value, leaf):
    return torch.autograd.grad(value, leaf, retain_graph=True)[0]


def test_golden_values_of_the_weighted_kl_by_hand():
    """Three tokens of one report: rho * (exp(d) - d - 1), d = log ref - log policy, worked out on paper."""
    logps, old, ref = (
        torch.tensor([row]).log() for row in ([0.5, 0.25, 0.2], [0.25, 0.25, 0.4], [0.25, 0.5, 0.2])
    )  # fmt: skip
    ln2 = math.log(2)
    by_hand = [2 * (0.5 + ln2 - 1), 1 * (2 - ln2 - 1), 0.5 * 0.0]
    assert k3_weighted(logps, old, ref)[0].tolist() == pytest.approx(by_hand, abs=1e-6)
    mask = torch.ones(1, 3)
    loss, metrics = grpo_loss(
        logps, torch.zeros(1), mask, old_logps=old, ref_logps=ref, beta=0.5, kl="k3_weighted", aggregate="token"
    )
    assert metrics["kl"].item() == pytest.approx(sum(by_hand) / 3, abs=1e-6)
    assert loss.item() == pytest.approx(0.5 * sum(by_hand) / 3, abs=1e-6)
    with pytest.raises(ValueError, match=r"it must be .k3. or .k3_weighted."):
        grpo_loss(logps, torch.zeros(1), mask, old_logps=old, ref_logps=ref, beta=0.5, kl="k4")


def test_golden_values_of_the_dual_clip_by_hand():
    """Ratios 1/2, 1, 2, 8 with A = -1, clip range 0.2, c = 3: the loss of a token is max(rho, 0.8), but at most 3."""
    logps = torch.tensor([[0.1, 0.2, 0.4, 0.8]], dtype=torch.float64).log().requires_grad_()
    old = torch.tensor([[0.2, 0.2, 0.2, 0.1]], dtype=torch.float64).log()
    mask, one = torch.ones(1, 4), torch.ones(1, dtype=torch.float64)
    bounded, _ = grpo_loss(logps, -one, mask, old_logps=old, dual_clip=3.0, aggregate="token")
    assert bounded.item() == pytest.approx((0.8 + 1 + 2 + 3) / 4, abs=1e-12)
    # slopes: clipped from below, rho, rho, bounded
    assert gradient_of(bounded, logps)[0].tolist() == pytest.approx([0, 1 / 4, 2 / 4, 0], abs=1e-12)
    plain, _ = grpo_loss(logps, -one, mask, old_logps=old, aggregate="token")
    assert plain.item() == pytest.approx((0.8 + 1 + 2 + 8) / 4, abs=1e-12)
    for with_it in (0.0, 3.0):  # a positive advantage is never touched
        good, _ = grpo_loss(logps, one, mask, old_logps=old, dual_clip=with_it, aggregate="token")
        assert good.item() == pytest.approx(-(0.5 + 1 + 1.2 + 1.2) / 4, abs=1e-12)
    gain = torch.tensor([[-2.0], [2.0]])
    assert dual_clipped(torch.full((2, 1), -9.0), gain, 3.0).tolist() == [[-6.0], [-9.0]]


def test_golden_values_of_the_sampling_correction_by_hand():
    """Training gives 0.3, 0.2, 0.6 where sampling had 0.2, 0.4, 0.1: ratios 3/2, 1/2 and 6, which C = 2 cuts."""
    logps = torch.tensor([[0.3, 0.2, 0.6, 0.5]], dtype=torch.float64).log().requires_grad_()
    sampled = torch.tensor([[0.2, 0.4, 0.1, 0.0]], dtype=torch.float64).log()
    mask = torch.tensor([[1, 1, 1, 0]])
    assert sampling_weights(logps, sampled, 2.0)[0, :3].tolist() == pytest.approx([1.5, 0.5, 2.0], abs=1e-12)
    two = torch.full((1,), 2.0, dtype=torch.float64)
    loss, metrics = grpo_loss(
        logps, two, mask, sampling_logps=sampled, sampling_correction=2.0, aggregate="token", ref_logps=logps.detach(),
        beta=0.5,
    )  # fmt: skip
    assert loss.item() == pytest.approx(-2 * (1.5 + 0.5 + 2.0) / 3, abs=1e-12)  # the KL of equal policies is 0
    assert gradient_of(loss, logps)[0].tolist() == pytest.approx([-1.0, -1 / 3, -4 / 3, 0], abs=1e-12)
    assert metrics["sampling_ratio"].item() == pytest.approx((1.5 + 0.5 + 6) / 3, abs=1e-12)
    off, metrics = grpo_loss(logps, two, mask, sampling_logps=sampled, aggregate="token")
    assert off.item() == pytest.approx(-2.0, abs=1e-12) and metrics["sampling_ratio"].item() == pytest.approx(8 / 3)


def test_the_correction_makes_the_gradient_that_of_the_policy_that_trains():
    """Expectations over a vocabulary: tokens drawn by one distribution, weighted, have the other's gradient."""
    generator = torch.Generator().manual_seed(4)
    logits, other, reward = (torch.randn(9, generator=generator, dtype=torch.float64) for _ in range(3))
    logits.requires_grad_()
    logp, sampled = logits.log_softmax(0), (logits.detach() + 0.3 * other).log_softmax(0)
    want = gradient_of((logp.exp() * reward).sum(), logits)
    for cap, exact in ((100.0, True), (0.9, False)):
        terms = [
            sampled[i].exp()
            * grpo_loss(
                logp[i].view(1, 1), reward[i].view(1), torch.ones(1, 1), sampling_logps=sampled[i].view(1, 1),
                sampling_correction=cap,
            )[0]
            for i in range(9)
        ]  # fmt: skip
        got = -gradient_of(torch.stack(terms).sum(), logits)
        assert torch.allclose(got, want, atol=1e-12) == exact


def slow_term_advantages(terms, weights, eps=1e-4):
    """GDPO by loops over numbers."""
    sums = [[0.0] * len(terms[0][0]) for _ in terms[0]]
    for term, weight in zip(terms, weights):
        for n, group in enumerate(term):
            present = [x for x in group if not math.isnan(x)]
            if len(set(present)) < 2:
                continue
            spread, mean = statistics.stdev(present), statistics.mean(present)
            for i, x in enumerate(group):
                sums[n][i] += 0.0 if math.isnan(x) else weight * (x - mean) / (spread + eps)
    spread = statistics.stdev([x for row in sums for x in row])
    return [[x / (spread + eps) for x in row] for row in sums]


def test_terms_are_normalised_apart_then_summed_and_scaled_over_the_batch():
    generator = torch.Generator().manual_seed(0)
    terms = torch.rand(3, 5, 4, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 1e-3, 9.0]).view(3, 1, 1)
    terms[0, 1], terms[1, 2, 0], terms[2, 3, 1:], terms[2, 4] = 0.1 + 0.2, math.nan, math.nan, math.nan
    weights = [0.75, 0.25, 0.1]
    found = term_advantages(terms, torch.tensor(weights, dtype=torch.float64))
    assert torch.allclose(found, torch.tensor(slow_term_advantages(terms.tolist(), weights), dtype=torch.float64))


def test_terms_golden():
    """Two terms of one group, 0 and 1 in both and in opposite order: with equal weights they cancel."""
    terms = torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]])
    assert (term_advantages(terms, torch.tensor([0.5, 0.5])) == 0).all()
    # each is -0.7071, 0.7071 of its group; 0.75 - 0.25 of it is left, and its own standard deviation divides it again
    whole = term_advantages(terms, torch.tensor([0.75, 0.25]), eps=0.0)
    assert whole.flatten().tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5])
    flat = torch.full((2, 3, 5), 0.1 + 0.2)
    assert (term_advantages(flat, torch.ones(2)) == 0).all() and terms_without_spread(flat).all()
    assert terms_without_spread(
        torch.tensor([[[math.nan, 1.0, 1.0], [math.nan] * 3, [0.0, math.nan, 1.0]]])
    ).tolist() == [[True, True, False]]

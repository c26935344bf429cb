"""The objective of GRPO: tensors in, tensors out. No model, no configuration, torch alone.

Shapes: N studies, G reports of one study, B = N * G reports, T tokens of a report.

Group Relative Policy Optimisation (DeepSeekMath, arXiv 2402.03300) in three lines:

    A    = (r - mean of its group) / (std of its group + eps)          advantage of a report
    rho  = exp(log pi - log pi_old)                                    ratio of each of its tokens
    loss = mean of  -min(rho A, clip(rho, 1 - low, 1 + high) A)  +  beta * k3(pi, pi_ref)

Deliberate choices:
* The sample standard deviation (ddof 1), as TRL has it. A group without spread gets exactly 0: the
  difference of equal floats divided by eps would be rounding noise that looks like a lesson.
* On policy (`old_logps=None`) the ratio is exp(x - x.detach()): 1 in value, the policy gradient in gradient.
* Masked positions, and tokens to which any of the distributions gives -inf (suppressed ones), are replaced before
  any arithmetic: no -inf - -inf, no -inf * 0. A suppressed token still counts as a token: ratio 1, KL 0, no gradient.
"""

import torch
from torch import Tensor


def without_spread(rewards: Tensor) -> Tensor:
    """Rewards (N, G) -> (N,): True for a group whose largest reward equals its smallest, which has nothing to teach."""
    return rewards.amax(dim=1) == rewards.amin(dim=1)


def group_advantages(rewards: Tensor, scale: str = "group", eps: float = 1e-4) -> Tensor:
    """Rewards (N, G) -> advantages (N, G): each reward against the mean of its own group.

    scale: "group" divides by the group's sample standard deviation (GRPO), "batch" by that of all N * G
    rewards, "none" not at all (Dr. GRPO, arXiv 2503.20783). A group of one, and a group whose largest reward
    equals its smallest, has nothing to teach: exactly 0.
    Rewards must be finite; integers are taken as floats.
    """
    rewards = rewards if rewards.is_floating_point() else rewards.float()
    flat = without_spread(rewards).unsqueeze(1)  # (N, 1)
    centred = (rewards - rewards.mean(dim=1, keepdim=True)).masked_fill(flat, 0.0)  # (N, G)
    if scale == "none":
        return centred
    if scale == "batch":
        spread = rewards.std() if rewards.numel() > 1 else rewards.new_zeros(())
    elif scale == "group":
        spread = rewards.std(dim=1, keepdim=True) if rewards.shape[1] > 1 else torch.zeros_like(centred)
    else:
        raise ValueError(f'scale is {scale!r}; it must be "group", "batch" or "none"')
    return (centred / (spread + eps)).masked_fill(flat, 0.0)  # 0 / 0 with eps 0


def terms_without_spread(terms: Tensor) -> Tensor:
    """Terms of the reward (K, N, G), NaN where one has no value -> (K, N): True where no two values differ."""
    missing = terms.isnan()
    return terms.masked_fill(missing, -torch.inf).amax(dim=2) <= terms.masked_fill(missing, torch.inf).amin(dim=2)


def term_advantages(terms: Tensor, weights: Tensor, eps: float = 1e-4) -> Tensor:
    """Terms of the reward (K, N, G) and their weights (K,) -> advantages (N, G): each term against its own group, by
    that group's standard deviation; then weighted, summed, and divided by the standard deviation of all N * G sums.

    GDPO (arXiv 2601.05242): a term whose values lie close together counts as much as its weight says. NaN is a report
    for which a term has no value: 0 there, and the others are normalised without it.
    """
    present = ~terms.isnan()  # (K, N, G)
    count = present.sum(dim=2, keepdim=True)
    mean = terms.nansum(dim=2, keepdim=True) / count.clamp(min=1)
    centred = (terms - mean).masked_fill(~present, 0.0)
    spread = (centred.square().sum(dim=2, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    flat = terms_without_spread(terms).unsqueeze(2)
    whole = ((centred / (spread + eps)).masked_fill(flat, 0.0) * weights.view(-1, 1, 1)).sum(dim=0)  # (N, G)
    return whole / (whole.std() + eps) if whole.any() else whole


def k3(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """Per-token estimate of KL(policy || reference): exp(d) - d - 1 with d = log pi_ref - log pi.

    Never negative; unbiased in value under the policy's own samples (Schulman, "Approximating KL divergence", 2020).
    Its gradient is another's: that of KL(reference || policy), since the samples do not follow the policy's gradient.
    """
    difference = ref_logps - logps
    return torch.expm1(difference) - difference


def k3_weighted(logps: Tensor, old_logps: Tensor, ref_logps: Tensor) -> Tensor:
    """k3 times the ratio of policy to sampling policy, with gradient through both (DeepSeek-V3.2, arXiv 2512.02556).

    Unbiased in value and in gradient for KL(policy || reference), also in later inner passes, where the reports are
    those of an earlier policy.
    """
    return (logps - old_logps).exp() * k3(logps, ref_logps)


def kl_per_token(kind: str, logps: Tensor, old_logps: Tensor, ref_logps: Tensor) -> Tensor:
    """The configured estimate of KL(policy || reference), (B, T)."""
    if kind == "k3":
        return k3(logps, ref_logps)
    if kind == "k3_weighted":
        return k3_weighted(logps, old_logps, ref_logps)
    raise ValueError(f'kl is {kind!r}; it must be "k3" or "k3_weighted"')


def log_ratios(logps: Tensor, old_logps: Tensor, mask: Tensor, ratio: str = "token") -> Tensor:
    """log rho: (B, T), one per token, or for "sequence" (B, 1), the report's mean (GSPO, arXiv 2507.18071)."""
    difference = logps - old_logps  # (B, T), 0 where masked
    if ratio == "token":
        return difference
    if ratio == "sequence":
        return difference.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)  # (B, 1)
    raise ValueError(f'ratio is {ratio!r}; it must be "token" or "sequence"')


def dual_clipped(surrogate: Tensor, gain: Tensor, bound: float) -> Tensor:
    """The clipped surrogate, for a negative advantage (gain) never below bound * gain (arXiv 1912.09729).

    PPO's clip leaves min(rho A, ...) = rho A without a limit where A < 0 and the ratio rho has grown. bound: above 1.
    """
    return torch.where(gain < 0, torch.maximum(surrogate, bound * gain), surrogate)


def sampling_weights(logps: Tensor, sampling_logps: Tensor, cap: float) -> Tensor:
    """Truncated importance weights min(pi_train / pi_sample, cap) of sampled tokens, (B, T), detached (Ionides,
    "Truncated Importance Sampling", 2008).

    Both are log-probabilities of the policy that sampled: as training computes them, and as sampling did. Where these
    differ by rounding, the weights make up for it, and the cap keeps their variance finite.
    """
    return (logps - sampling_logps).detach().exp().clamp(max=cap)


def aggregate_tokens(
    values: Tensor,
    mask: Tensor,
    aggregate: str,
    max_length: int | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    """Per-token values (B, T), 0 where masked -> one scalar.

    aggregate            numerator                    denominator unless `normalizer` replaces it
    "sequence" (GRPO)    sum of per-report means      number of reports
    "token"    (DAPO)    sum over tokens              number of tokens
    "constant" (Dr. GRPO) sum over tokens             number of reports * max_length
    A fully masked report counts as a report and contributes 0.
    """
    reports, tokens = values.shape[0], mask.sum()
    if aggregate == "sequence":
        total = (values.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).sum()
        denominator: float | Tensor = reports
    elif aggregate == "token":
        total, denominator = values.sum(), tokens.clamp(min=1)
    elif aggregate == "constant":
        if max_length is None and normalizer is None:
            raise ValueError('aggregate="constant" needs max_length')
        total, denominator = values.sum(), reports * (max_length or 1)
    else:
        raise ValueError(f'aggregate is {aggregate!r}; it must be "sequence", "token" or "constant"')
    return total / (denominator if normalizer is None else normalizer)


def grpo_loss(
    logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    old_logps: Tensor | None = None,
    ref_logps: Tensor | None = None,
    sampling_logps: Tensor | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 0.0,
    sampling_correction: float = 0.0,
    beta: float = 0.0,
    aggregate: str = "sequence",
    max_length: int | None = None,
    ratio: str = "token",
    normalizer: float | Tensor | None = None,
    kl: str = "k3",
) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped GRPO loss and what to log of it.

    logps (B, T): log-probabilities of the report tokens under the policy, with gradient.
    advantages (B,): one per report. mask (B, T): 1 or True on tokens that train.
    old_logps (B, T): those at sampling time; None means on-policy. ref_logps (B, T): the frozen reference;
    used for the loss only where beta > 0, and for the `kl` metric whenever given. sampling_logps (B, T): what sampling
    itself computed, for `sampling_ratio` and the correction.
    dual_clip: the bound of `dual_clipped`; sampling_correction: the cap of `sampling_weights`, on all but the KL term;
    0 turns either off.
    normalizer: the denominator of the whole step (reports, tokens, or reports * max_length), so that the losses of
    micro-batches add up to exactly the loss of the whole; see `aggregate_tokens`.
    kl: the estimator in the loss, "k3" (GRPO) or "k3_weighted"; the `kl` metric is of that one.

    Returns (loss, metrics). metrics are detached: clip_fraction_low and _high (share of ratios that are cut where the
    cut matters) and ratio_mean, over tokens, or over reports for ratio="sequence"; over tokens kl, with ref_logps, and
    sampling_ratio, with sampling_logps: the mean of pi_train / pi_sample before any cap.
    """
    mask = mask.bool()
    old_logps = logps.detach() if old_logps is None else old_logps
    dead = ~mask | logps.isneginf() | old_logps.isneginf()
    for other in (ref_logps, sampling_logps):
        if other is not None:
            dead |= other.isneginf()
    logps, old_logps = logps.masked_fill(dead, 0.0), old_logps.masked_fill(dead, 0.0)

    rho = log_ratios(logps, old_logps, mask, ratio).exp()  # (B, T) or (B, 1)
    gain = advantages.to(logps.dtype).unsqueeze(1)  # (B, 1)
    surrogate = torch.minimum(rho * gain, rho.clamp(1.0 - clip_low, 1.0 + clip_high) * gain)
    if dual_clip > 0:
        surrogate = dual_clipped(surrogate, gain, dual_clip)
    per_token = -surrogate.expand_as(logps)  # (B, T)

    tokens = mask.sum().clamp(min=1)
    metrics: dict[str, Tensor] = {}
    if sampling_logps is not None:
        sampled = sampling_logps.masked_fill(dead, 0.0)
        metrics["sampling_ratio"] = (old_logps - sampled).detach().exp().masked_fill(~mask, 0.0).sum() / tokens
        if sampling_correction > 0:
            per_token = per_token * sampling_weights(old_logps, sampled, sampling_correction)
    if ref_logps is not None:
        estimate = kl_per_token(kl, logps, old_logps, ref_logps.masked_fill(dead, 0.0))  # (B, T)
        metrics["kl"] = estimate.detach().masked_fill(~mask, 0.0).sum() / tokens
        if beta > 0:
            per_token = per_token + beta * estimate
    loss = aggregate_tokens(per_token.masked_fill(~mask, 0.0), mask, aggregate, max_length, normalizer)

    with torch.no_grad():
        counted = mask if ratio == "token" else torch.ones_like(rho, dtype=torch.bool)
        total = counted.sum().clamp(min=1)
        metrics["clip_fraction_low"] = ((rho < 1.0 - clip_low) & (gain < 0) & counted).sum() / total
        metrics["clip_fraction_high"] = ((rho > 1.0 + clip_high) & (gain > 0) & counted).sum() / total
        metrics["ratio_mean"] = (rho * counted).sum() / total
    return loss, metrics

"""Every metric of a step: its name, its meaning, its healthy range, what to do where it is not in it.

The one source of docs/metrics.md's table (a test compares them) and of what the run page says of a curve:
`python -m mrg_grpo.glossary` prints the table.
"""

# ruff: noqa: E501  (rows of a table are easier to compare in long lines)

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One row. A name may hold <term> or <phase>, which stands for any name of that kind."""

    names: tuple[str, ...]
    meaning: str
    healthy: str = ""
    otherwise: str = ""

    def is_named(self, name: str) -> bool:
        return any(re.fullmatch(re.sub(r"<\w+>", ".+", re.escape(own)), name) for own in self.names)


METRICS = (
    Metric(("reward", "reward_std"), "mean and standard deviation of the weighted sum over the B reports", "rises over tens of steps; std stays above 0", "flat: see `groups_without_spread`; falling: lower the learning rate"),
    Metric(("reward/<term>", "reward/<term>_std"), "the same for one term, before its weight; reports for which a function returned None do not count", "each term that has a weight rises or holds", "one term rises while another falls: change the weights"),
    Metric(("groups_without_spread",), "share of studies whose G rewards are all equal: these teach nothing", "below 0.3", "raise `sampling.temperature` or `grpo.group_size`; a lower margin brings back reports that MCCS cuts to 0"),
    Metric(("zero_reward",), "share of reports whose total reward is exactly 0", "falling", "lower `reward.mccs.margin`; check the answer's form"),
    Metric(("loss",), "the GRPO loss of the first inner pass", "near 0: on policy the surrogate is minus the mean advantage, which is 0, plus beta * KL", "**0 is not broken.** Its gradient is not 0: look at `grad_norm` and `reward`"),
    Metric(("grad_norm",), "norm of the adapter's gradient before clipping, of the last inner pass", "steady, same order of magnitude", "0: no group has spread. Spikes: lower the learning rate or `max_grad_norm`"),
    Metric(("kl",), "k3 estimate of KL(policy, frozen start) per token; only with `beta` above 0", "0 at the first step, then slowly up, below about 1", "growing fast: raise `beta` or lower the learning rate"),
    Metric(("clip_fraction_low", "clip_fraction_high"), "share of tokens (of reports, with `ratio = \"sequence\"`) whose ratio is cut where the cut matters", "0 with one inner pass; below 0.2 with several", "fewer inner passes, lower learning rate"),
    Metric(("ratio_mean",), "mean ratio of policy to sampling policy", "1 with one inner pass, near 1 with several", "as above"),
    Metric(("entropy",), "mean entropy of the token distribution in nats, over the whole vocabulary; like the ratios and gaps it is of the reports that are run again to learn from, and not there where no group has spread", "falls slowly", "near 0: sampling has collapsed; raise `beta` or the temperature"),
    Metric(("sampling_gap",), "largest difference of a token's log-probability between sampling and training", "below 1e-4 in fp32; in bf16 rounding, a few tenths", "in fp32 larger: a bug, please report it"),
    Metric(("sampling_gap_mean",), "mean of it over tokens", "below 1e-5 in fp32; a few 1e-3 to 1e-2 in bf16", "larger: a bug, please report it"),
    Metric(("tokens",), "report tokens of the step, stop tokens included"),
    Metric(("length", "length_max"), "mean and largest length of a completion in tokens", "steady", "shrinking to nothing or growing to the limit: the reward is being hacked; read `rollouts.jsonl`"),
    Metric(("truncated",), "share of completions that the length limit cut", "below 0.05", "raise `sampling.max_tokens`, or set `sampling.mask_truncated = true`"),
    Metric(("mentioned", "uncertain"), "conditions a report mentions, and calls uncertain, of 13", "steady", '"everything is possible": the policy hedges'),
    Metric(("skipped",), "1 where the step was not taken because logits, rewards, loss or gradient were not finite ([resume.md](resume.md)); such a line has no other metric", "0", "read the file in `RUN_DIR/faults`; lower the learning rate; five in a row end the run"),
    Metric(("seconds/<phase>",), "prefill, sample, reward, reference, train, and the whole step", "", "the largest one is where to look"),
    Metric(("memory_gb",), "peak memory so far (1e9 bytes): of the GPU, or the process's resident set", "flat once the longest prompts and reports have come up", "growing on and on: please report it"),
)  # fmt: skip


def find(name: str) -> Metric | None:
    """The row of a metric as metrics.jsonl names it; None for a name that is not ours."""
    return next((metric for metric in METRICS if metric.is_named(name)), None)


def table() -> str:
    """The Markdown table of docs/metrics.md."""
    lines = ["| name | what it is | healthy | when it is not |", "|---|---|---|---|"]
    for metric in METRICS:
        cells = (", ".join(f"`{name}`" for name in metric.names), metric.meaning, metric.healthy, metric.otherwise)
        lines.append("|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())

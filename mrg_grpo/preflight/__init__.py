"""What can be known before a long run: `mrg-grpo check` runs the engine on a few studies, `plan` computes its size.

Here: checks, each a small function that returns a `CheckResult`, and formulas of memory and time. Not here: code that a
run calls; checks call the run's own. May import: everything but train, view and cli.
"""

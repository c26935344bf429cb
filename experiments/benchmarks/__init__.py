"""How fast a step, a reward and a start are, and how much memory they take. Page: docs/results/performance.md."""

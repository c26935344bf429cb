"""Arms that differ in a few settings, run with several seeds: what each reward teaches (docs/results/ablations.md)."""

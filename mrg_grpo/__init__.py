"""mrg_grpo: a from-scratch GRPO engine in plain PyTorch for clinically aligned medical report generation."""

__version__ = "0.1.0"

"""What a run keeps and how it survives: its folder, checkpoints, skipped steps, order of studies, progress, signals.

Here: everything around a step that is about files and processes. Not here: the step (grpo.py), what is decoded and
scored (evaluation/). May import: grpo, model, rewards, labelers, data and what those stand on.
"""

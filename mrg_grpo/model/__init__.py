"""The policy and everything that makes it fast: checkpoints, LoRA, the shared prefix, sampling, log-probabilities.

Here: tensors in, tensors out, of one vision-language model. policy.py has the three moves. Not here: rewards,
advantages, the optimiser (grpo.py), files of a run (run/). May import: data, config, prompt, distributed, errors.
"""

"""mrg_grpo: a from-scratch GRPO engine in plain PyTorch for clinically aligned medical report generation.

Here: the step (grpo.py, on objective.py), the warm start (sft.py), the run around them (train.py), the command line,
and what every folder stands on (config, toml, prompt, labels, distributed, files, errors, step_metrics). Everything
else has a folder. experiments/ imports this package, never the other way round.
"""

import logging

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # PEFT imports it, and it warns of kernels nobody asked for

__version__ = "0.2.0"

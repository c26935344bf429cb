"""How good reports are: decoded, scored under every convention of the field, with intervals and baselines.

Here: `evaluate` (a policy on a split), `score` (anybody's prediction file), `report` (one X-ray), the table before and
after training, and the metrics they share. Not here: rewards that train (rewards/). May import: model, rewards,
labelers, data, run/folder.py and what those stand on; never grpo.py or train.py.
"""

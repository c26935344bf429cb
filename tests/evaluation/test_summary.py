"""Every metric of the evaluator is explained, once."""

import torch

from mrg_grpo.evaluation import clinical, language
from mrg_grpo.evaluation.summary import LANGUAGE_METRICS, METRICS


def test_every_metric_of_the_evaluator_is_explained_by_one_row():
    words = language.language_from_sums(torch.ones(37))
    assert set(words) == set(LANGUAGE_METRICS)
    for name in (*clinical.metrics_from_sums(torch.ones(clinical.WIDTH)), *words):
        assert sum(metric.is_named(name) for metric in METRICS) == 1, name

"""Studies: what a radiology report was written about, read from the forms in which data sets lie on disk.

Here: `Study`, one reader per form, splits, images, the phantom, the marks of credentialed data. Not here: prompts and
tensors (model/), labels of reports (labelers/). May import: config, labels, errors, files, distributed; never a model.
"""

from mrg_grpo.data.load import load_studies
from mrg_grpo.data.splits import PUBLISHED, Studies, describe_splits
from mrg_grpo.data.study import Study

__all__ = ["PUBLISHED", "Studies", "Study", "describe_splits", "load_studies"]

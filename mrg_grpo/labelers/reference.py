"""Labels of reference reports: each text is labelled once per run, however often its study comes up."""

import torch
from torch import Tensor


class ReferenceLabels:
    """texts -> class ids (B, 14), kept by the text, which is the study's own string.

    Deliberate choice: kept as bytes, one a label. Small tensors that stay alive lie between the large ones of a step
    and keep the heap from shrinking.
    """

    def __init__(self, labeler) -> None:
        self.labeler = labeler
        self.rows: dict[str, bytes] = {}
        self.device = torch.device("cpu")

    def __call__(self, texts: list[str]) -> Tensor:
        new = list(dict.fromkeys(text for text in texts if text not in self.rows))
        if new:
            labels = self.labeler.label(new)
            self.device = labels.device
            self.rows.update(zip(new, map(bytes, labels.tolist())))
        return torch.tensor([list(self.rows[text]) for text in texts], device=self.device).view(-1, 14)

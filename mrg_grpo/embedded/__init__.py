"""The embedded default: a small base policy and a small labeler, so that `make train` needs no hub."""

from pathlib import Path

from mrg_grpo.labelers.chexbert import CheXbert

HERE = Path(__file__).resolve().parent


def base_path() -> Path:
    """The folder of the embedded base policy, laid out as the hub lays out a Qwen2.5-VL checkpoint."""
    return HERE / "base"


def labeler_path() -> Path:
    """The folder of the embedded labeler; its CheXbert architecture is small, its labels are CheXbert's."""
    return HERE / "labeler"


def labeler(device: str = "cpu") -> CheXbert:
    """The embedded labeler. docs/labeler.md says what it can and cannot read."""
    return CheXbert.load(labeler_path(), device)

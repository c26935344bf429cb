"""The weights of the embedded default: a small base policy and a small labeler. With them `make train` needs no hub.

Here: files, and where they lie. Not here: the recipes that made them (experiments/embedded), and loading them.
May import: the standard library alone.
"""

from pathlib import Path

HERE = Path(__file__).resolve().parent


def base_path() -> Path:
    """The folder of the embedded base policy, laid out as the hub lays out a Qwen2.5-VL checkpoint."""
    return HERE / "base"


def labeler_path() -> Path:
    """The folder of the embedded labeler; its CheXbert architecture is small, its labels are CheXbert's."""
    return HERE / "labeler"

"""The embedded default: a small base policy and a small labeler, so that `make train` needs no hub."""

from pathlib import Path

HERE = Path(__file__).resolve().parent


def base_path() -> Path:
    """The folder of the embedded base policy, laid out as the hub lays out a Qwen2.5-VL checkpoint."""
    return HERE / "base"

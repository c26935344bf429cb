"""Colour pictures of 16 bits a channel, of which Pillow keeps the high bytes alone: 12-bit values come out black.

Pillow's decoders unpack each pixel by a raw mode. Unpacked a second time with the raw mode of the other byte order, the
same file gives the low bytes. Nothing else is decoded by hand but PPM, whose pixels stand in the file as they are.
"""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mrg_grpo.errors import ImageError

OTHER_ORDER = {"N": "B", "L": "B", "B": "L"}
"""On the little-endian machines that this runs on, N is L."""
SIZ = re.compile(rb"\xff\x4f\xff\x51.{36}(..)(.)", re.DOTALL)
"""Number of components and depth of the first in a JPEG 2000 codestream."""


def is_deep(image: Image.Image) -> bool:
    """Whether an image that is opened and not yet loaded has colours, or grey with alpha, of more than 8 bits."""
    if image.mode.startswith("I") or image.mode in ("F", "L", "1", "P"):
        return False
    if image.format == "PPM":
        return any(tile.codec_name.startswith("ppm") and tile.args[-1] > 255 for tile in _tiles(image))
    return _deep_jpeg2000(image) or any(";16" in _raw_mode(tile) for tile in _tiles(image)) or _deep_planes(image)


def deep_values(source: str | io.BytesIO, formats: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray | None]:
    """Colours (H, W, 1 or 3) and alpha (H, W) or None, as uint16, of an image that `require_read` lets pass.

    source: its path, or its content.
    """
    with Image.open(source, formats=formats) as image:
        tiles, key = _tiles(image), image.info.get("transparency")
        raw = _raw_mode(tiles[0]) if tiles else ""
        if image.format == "PPM":
            return _ppm(source, image, tiles[0]), None
    if raw.startswith("LA"):  # four bytes a pixel: high and low of grey, high and low of alpha
        four = _unpacked(source, formats, "RGBA").astype(np.uint16)
        both = four[..., 0::2] << 8 | four[..., 1::2]
        return both[..., :1], both[..., 1]
    # premultiplied alpha: the colours as they are lie on black
    plain = raw.replace("RGBa", "RGBA")
    high, low = (_unpacked(source, formats, mode) for mode in (plain, plain[:-1] + OTHER_ORDER[plain[-1]]))
    values = high.astype(np.uint16) << 8 | low
    if isinstance(key, tuple):  # the colour that stands for transparent
        return values[..., :3], np.where((values[..., :3] == np.array(key)).all(axis=-1), 0, 65535).astype(np.uint16)
    return values[..., :3], values[..., 3] if raw.startswith("RGBA") else None


def require_read(name: str, image: Image.Image) -> None:
    """ImageError for an image of deep colours, opened and not loaded, in a form that is not decoded."""
    tiles = _tiles(image)
    if _deep_jpeg2000(image) or _deep_planes(image) or (tiles and _raw_mode(tiles[0]).startswith("CMYK")):
        raise ImageError(
            f"image {name} has colours of more than 8 bits a channel in a form that is not read ({image.format}, "
            f"{image.mode})",
            "convert it to a PNG of 8 or 16 bits",
        )


def _unpacked(source: str | io.BytesIO, formats: tuple[str, ...], raw: str) -> np.ndarray:
    """The file's pixels, unpacked by this raw mode in place of Pillow's choice."""
    with Image.open(source, formats=formats) as image:
        opened: Any = image
        opened.tile = [tile._replace(args=_with_raw(tile.args, raw)) for tile in _tiles(image)]
        image.load()
        return np.asarray(image)


def _with_raw(args: Any, raw: str) -> Any:
    return raw if isinstance(args, str) else (raw, *args[1:])


def _tiles(image: Any) -> list[Any]:
    return list(getattr(image, "tile", []))


def _raw_mode(tile: Any) -> str:
    first = tile.args if isinstance(tile.args, str) else (tile.args or ("",))[0]
    return first if isinstance(first, str) else ""


def _deep_planes(image: Any) -> bool:
    """A TIFF of 16 bits whose colours lie in planes, which Pillow takes for 8 bits."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    return tags.get(284) == 2 and max(tags.get(258, (8,))) > 8


def _deep_jpeg2000(image: Any) -> bool:
    if image.format != "JPEG2000" or image.fp is None:
        return False
    place = image.fp.tell()
    image.fp.seek(0)
    found = SIZ.search(image.fp.read(65_536))
    image.fp.seek(place)
    return found is not None and (found.group(2)[0] & 0x7F) + 1 > 8


def _ppm(source: str | io.BytesIO, image: Image.Image, tile: Any) -> np.ndarray:
    """The numbers of a colour PPM, binary or written out."""
    content = source.getvalue() if isinstance(source, io.BytesIO) else Path(source).read_bytes()
    raw = content[tile.offset :]
    count = image.width * image.height * 3
    if tile.codec_name == "ppm_plain":
        values = np.array(re.sub(rb"#[^\n]*", b"", raw).split()[:count], dtype=np.uint16)
    else:
        values = np.frombuffer(raw, dtype=">u2", count=count).astype(np.uint16)
    return values.reshape(image.height, image.width, 3)

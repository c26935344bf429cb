"""Image files to RGB pictures.

Deliberate choices:
1. Only decoders of common raster formats are tried. Pillow would otherwise guess among formats whose decoder
   starts an outside program (EPS), and a data file must not be able to ask for that.
2. Sixteen-bit, 32-bit and floating-point greys, and colours of 16 bits a channel, are scaled from their own minimum
   and maximum to 0..255, as the makers of MIMIC-CXR-JPG did: many such files hold 12-bit values, and dividing by 65,535
   would turn them black. Colours share one range over all channels; what is transparent does not count for it.
3. Transparent pixels become black, the colour of air on a radiograph. Dropping the alpha channel would show whatever
   colour lies hidden under them.
4. Nothing is flipped and nothing is cropped, beyond the orientation that the EXIF tag asks for: left and right are
   part of a report's meaning.
5. Of a file of several frames the first is used, and such files are named.
"""

import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from mrg_grpo.data import packed
from mrg_grpo.data.deep_colour import deep_values, is_deep, require_read
from mrg_grpo.errors import ImageError
from mrg_grpo.files import open_file

PHANTOM_SCHEME = "phantom:"
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000")
# The largest radiograph detectors give about 20 megapixels; Pillow itself only warns between 89 and 179.
MAX_PIXELS = 80_000_000
# Our own limit is lower and ends in an error, so Pillow's warning would only be a second voice.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# What Pillow warns of is not lost: it raises an error, which is told, or gives the picture.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

EXIF_ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(path_or_address: str | os.PathLike[str]) -> Image.Image:
    """The picture at a file path, at a `phantom:` address or at one in a parquet file (packed.py), upright, in RGB, 8
    bits a channel, fully decoded.

    Raises ImageError for a file that is missing, empty, truncated, too large, a DICOM file or no image.
    """
    name = os.fspath(path_or_address)
    if name.startswith(PHANTOM_SCHEME):
        from mrg_grpo.data.phantom import dataset as phantom  # rendered on demand; runs on real images never import it

        return phantom.image_of(name).convert("RGB")
    with _opened(name) as image:
        if not _told and _several_frames(image):
            tell_frames([name])
        deep = None
        if is_deep(image):
            require_read(name, image)
            source = io.BytesIO(packed.read(name)) if packed.is_packed(name) else name
            deep = deep_to_rgb(*deep_values(source, FORMATS))
        image.load()
        turn = UPRIGHT.get(image.getexif().get(EXIF_ORIENTATION, 1))
        picture = to_rgb(image) if deep is None else deep
    return picture if turn is None else picture.transpose(turn)


def check_header(name: str) -> bool:
    """Whether the file has several frames, by its header alone. Raises ImageError for what a header shows: all that
    `open_image` refuses but damage behind it."""
    with _opened(name) as image:
        if is_deep(image):
            require_read(name, image)
        return _several_frames(image)


@contextmanager
def _opened(name: str) -> Iterator[Image.Image]:
    """The file as Pillow opens it, by its header; ImageError for that, and for what is done with it within."""
    try:
        with _image_file(name) as file, Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
            yield image
    except (ImageError, MemoryError):  # a machine that is full says nothing about the picture
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"image {name} would decode to more than {MAX_PIXELS:,} pixels ({error})", "downscale it or leave it out"
        ) from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(
            f"image {name} is not an image in a known format ({', '.join(FORMATS)})", "convert it to PNG"
        ) from error
    except Exception as error:  # on damaged bytes, decoders raise whatever their parsers happen to trip over
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(
            f"image {name} is truncated or damaged ({reason})", "fetch it again or leave it out"
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB: wide greys scaled by their own range, transparency laid on black."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        key = image.info.get("transparency")
        shown = np.ones(values.shape, dtype=bool) if not isinstance(key, int) else values != key
        # the grey that stands for transparent has no part in the range
        scaled = scale_to_bytes(values if shown.all() else np.where(shown, values, np.nan))
        return Image.fromarray(scaled * shown).convert("RGB")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        coloured = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, (0, 0, 0, 255)), coloured).convert("RGB")
    return image.convert("RGB")


def deep_to_rgb(colours: np.ndarray, alpha: np.ndarray | None) -> Image.Image:
    """uint16 colours (H, W, 1 or 3), alpha (H, W) -> RGB: one range over all channels, transparency laid on black."""
    seen = colours if alpha is None else colours[alpha > 0]
    low, high = (int(seen.min()), int(seen.max())) if seen.size else (0, 0)
    scale = 255.0 / (high - low) if high > low else 0.0
    table = np.rint(np.clip(np.arange(65536.0) - low, 0, high - low) * scale).astype(np.uint8)
    shown = table[colours]
    if alpha is not None:
        shown = np.rint(shown * (alpha[..., None] / 65535.0)).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(shown, (*shown.shape[:2], 3))))


def scale_to_bytes(values: np.ndarray) -> np.ndarray:
    """(H, W) of any real type -> (H, W) uint8: the smallest finite value becomes 0, the largest 255.

    Infinities clip to that range and NaN becomes 0. A constant picture has no range of its own and becomes black.
    """
    wide = values.astype(np.float64)
    finite = np.isfinite(wide)
    if not finite.any():
        return np.zeros(wide.shape, dtype=np.uint8)
    low, high = wide[finite].min(), wide[finite].max()
    if high == low:
        return np.zeros(wide.shape, dtype=np.uint8)
    wide = np.nan_to_num(wide, nan=low, posinf=high, neginf=low)
    return np.rint((wide - low) * (255.0 / (high - low))).astype(np.uint8)


_told: list[str] = []
"""The files of several frames that this process has named."""


def tell_frames(names: list[str]) -> None:
    """One line, once in a process, that names files of several frames."""
    if names and not _told:
        _told.extend(names)
        have, more = ("have", f" and {len(names) - 1:,} more") if len(names) > 1 else ("has", "")
        print(f"image {names[0]}{more} {have} several frames; of such files the first frame is used", file=sys.stderr)


def _several_frames(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # a second frame that is damaged is none
        return False


def _image_file(name: str) -> IO[bytes]:
    """The file, opened; ImageError for what no image decoder should be asked to open."""
    try:
        file: IO[bytes] = io.BytesIO(packed.read(name)) if packed.is_packed(name) else open_file(name)
        head = file.read(132)
    except FileNotFoundError as error:
        raise ImageError(f"image {name} is missing", "check the data folder, or leave the study out") from error
    except IsADirectoryError as error:
        raise ImageError(f"image {name} is a folder", "name an image file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"image {name!r} cannot be read ({reason})", "check the name and its permissions") from error
    if not head:
        file.close()
        raise ImageError(f"image {name} is empty (0 bytes)", "fetch it again or leave it out")
    if head[128:132] == b"DICM" or Path(name).suffix.lower() in (".dcm", ".dicom"):
        file.close()
        raise ImageError(
            f"image {name} is a DICOM file",
            "convert it first, for example with DCMTK: "
            f"`dcmj2pnm --write-png --min-max-window {name} image.png`, then name the PNG",
        )
    file.seek(0)
    return file

"""Every kind of image file, good and bad, against values worked out by hand or by numpy."""

import io
import os
import socket
import struct
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from mrg_grpo.data import images
from mrg_grpo.data.deep_colour import deep_values
from mrg_grpo.data.images import open_image
from mrg_grpo.data.phantom import dataset
from mrg_grpo.data.prefetch import prefetch
from mrg_grpo.errors import ImageError, UserError

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def save(tmp_path: Path, image: Image.Image, name: str = "x.png", **options) -> str:
    image.save(tmp_path / name, **options)
    return str(tmp_path / name)


def pixels(path: str) -> np.ndarray:
    image = open_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_grey_and_rgb_keep_their_values(tmp_path):
    np.testing.assert_array_equal(pixels(save(tmp_path, Image.fromarray(GREY))), np.stack([GREY] * 3, -1))
    colour = np.stack([GREY, 255 - GREY, GREY // 2], -1)
    np.testing.assert_array_equal(pixels(save(tmp_path, Image.fromarray(colour))), colour)


def test_sixteen_bit_is_scaled_by_its_own_range(tmp_path):
    """A 12-bit detector's values from 100 to 4,000 span black to white; dividing by 65,535 would give at most 15."""
    values = np.array([[100, 1075, 2050], [3025, 4000, 100]], dtype=np.uint16)
    for name in ("x.png", "x.tif"):
        got = pixels(save(tmp_path, Image.fromarray(values), name))
        np.testing.assert_array_equal(got[..., 0], [[0, 64, 128], [191, 255, 0]])
        assert (got == got[..., :1]).all()


def test_float_and_constant_pictures(tmp_path):
    values = np.array([[-1.0, np.nan, 0.0], [1.0, np.inf, 0.0]], dtype=np.float32)
    np.testing.assert_array_equal(
        pixels(save(tmp_path, Image.fromarray(values), "x.tif"))[..., 0], [[0, 0, 128], [255, 255, 128]]
    )
    assert pixels(save(tmp_path, Image.fromarray(np.full((2, 2), 900, np.uint16)))).max() == 0


def test_palette_follows_its_colours_not_its_indices(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 210, 220])
    np.testing.assert_array_equal(
        pixels(save(tmp_path, image)), [[[10, 20, 30], [200, 210, 220]], [[200, 210, 220], [10, 20, 30]]]
    )


def test_transparency_shows_black_and_not_the_hidden_colour(tmp_path):
    rgba = np.array([[[255, 255, 255, 0], [200, 100, 50, 255], [200, 100, 50, 128]]], dtype=np.uint8)
    got = pixels(save(tmp_path, Image.fromarray(rgba)))
    np.testing.assert_array_equal(got[0, :2], [[0, 0, 0], [200, 100, 50]])
    np.testing.assert_allclose(got[0, 2], np.array([200, 100, 50]) * 128 / 255, atol=1)
    hidden = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "P")
    hidden.putpalette([255, 255, 255, 7, 8, 9])
    np.testing.assert_array_equal(pixels(save(tmp_path, hidden, transparency=0)), [[[0, 0, 0], [7, 8, 9]]])


@pytest.mark.parametrize("mode", ["1", "LA", "CMYK"])
def test_other_modes_equal_pillow(tmp_path, mode):
    image = Image.fromarray(GREY).convert(mode)
    path = save(tmp_path, image, "x.tif")
    np.testing.assert_array_equal(pixels(path), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_picture_upright(tmp_path, orientation):
    """What each orientation means, written as numpy turns (EXIF 2.3, tag 0x0112)."""
    upright = np.kron(np.array([[0, 90, 180], [250, 60, 120]], dtype=np.uint8), np.ones((16, 16), dtype=np.uint8))
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, Image.fromarray(np.ascontiguousarray(stored)), "x.jpg", exif=exif, quality=100)
    np.testing.assert_allclose(pixels(path)[..., 0].astype(int), upright, atol=6)


def huge_png(side: int) -> bytes:
    """A PNG that declares side x side grey pixels: 17 kB unpack to `side` squared bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def png_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "PNG")
    return buffer.getvalue()


BAD = {
    "empty.png": (b"", "is empty"),
    "text.png": (b"not an image at all", "not an image"),
    "truncated.png": (png_bytes()[:600], "truncated or damaged"),
    "flipped.png": (png_bytes()[:300] + b"\xff\x00\xff" + png_bytes()[303:], "truncated or damaged"),
    "bomb.png": (huge_png(30_000), "more than 80,000,000 pixels"),
    "large.png": (huge_png(9_200), "more than 80,000,000 pixels"),  # Pillow itself would let this one pass
    "vector.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
    "hidden.png": (b"\0" * 128 + b"DICM" + b"\0" * 64, "DICOM"),
    "plain.dcm": (b"\x08\x00\x05\x00", "DICOM"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file_ends_in_one_line_that_names_it(tmp_path, name):
    content, reason = BAD[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        open_image(path)
    assert reason in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_dicom_refusal_says_how_to_convert(tmp_path):
    (tmp_path / "x.dcm").write_bytes(b"\0" * 128 + b"DICM")
    with pytest.raises(UserError, match=r"convert it first.*dcmj2pnm .*PNG"):
        open_image(tmp_path / "x.dcm")


def test_missing_file_folder_and_impossible_name(tmp_path):
    for path, reason in (
        (tmp_path / "no.png", "is missing"),
        (tmp_path, "is a folder"),
        ("a\0b.png", "cannot be read"),
    ):
        with pytest.raises(UserError, match=reason):
            open_image(path)


def test_phantom_addresses_go_to_the_phantom(monkeypatch):
    monkeypatch.setattr(dataset, "image_of", lambda address: Image.new("L", (3, 2), len(address)))
    image = open_image("phantom:12/7")
    assert image.mode == "RGB" and image.size == (3, 2) and image.getpixel((0, 0)) == (12, 12, 12)


def test_real_radiographs_of_every_size_open(shared):
    files = sorted((shared / "data" / "cxr_images").glob("*.*"))
    opened = [(path, open_image(path)) for path in files if path.suffix in (".png", ".jpg", ".jpeg")]
    assert len(opened) >= 10
    for path, image in opened:
        with Image.open(path) as stored:
            np.testing.assert_array_equal(np.asarray(image), np.asarray(stored.convert("RGB")))


def test_prefetch_keeps_order_while_threads_overlap():
    """Later items finish first, and still come later; four sleeping threads take a quarter of the time."""

    def load(n: int) -> int:
        time.sleep(0.02 * (n % 4))
        return n

    start = time.perf_counter()
    assert list(prefetch(range(20), load, workers=4, ahead=8)) == list(range(20))
    assert time.perf_counter() - start < 0.8 * 20 * 0.03


def test_prefetch_stays_within_its_bound_and_works_ahead():
    started: list[int] = []

    def load(n: int) -> int:
        started.append(n)
        return n

    results = prefetch(range(100), load, workers=2, ahead=5)
    assert started == []
    assert next(results) == 0
    deadline = time.monotonic() + 5
    while len(started) < 6 and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.02)
    assert sorted(started) == [0, 1, 2, 3, 4, 5]  # one taken, five ahead
    results.close()
    assert len(started) == 6 and not [t for t in threading.enumerate() if t.name.startswith("prefetch")]


def test_prefetch_raises_in_its_place_and_ends():
    def load(n: int) -> int:
        if n == 3:
            raise UserError("image 3 is missing")
        return n

    results = prefetch(range(10), load)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(UserError, match="image 3"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_prefetch_refuses_no_workers():
    with pytest.raises(ValueError, match="at least one worker"):
        next(prefetch([1], str, workers=0))


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
@pytest.mark.slow
def test_decoding_in_threads_overlaps_with_the_step(tmp_path):
    """Decoding 24 pictures beside 24 sleeping steps takes clearly less than one after the other."""
    path = save(tmp_path, Image.effect_noise((2000, 2000), 80))

    def spend(source) -> float:
        start = time.perf_counter()
        for _ in source:
            time.sleep(0.05)
        return time.perf_counter() - start

    inline = spend(images.open_image(path) for _ in range(24))
    ahead = spend(prefetch([path] * 24, images.open_image))
    assert ahead < 0.8 * inline


RAMP = np.add.outer(np.arange(9), np.arange(7)).astype(np.uint16) * 270 + 100  # 100 to 3,880: 12 bits
COLOURS = np.stack([RAMP, RAMP[::-1], RAMP // 2 + 500], -1)


def by_hand(colours: np.ndarray, alpha: np.ndarray | None = None) -> np.ndarray:
    """Scaled by the range of what is seen, over all channels; then on black."""
    seen = colours if alpha is None else colours[alpha > 0]
    low, high = int(seen.min()), int(seen.max())
    scaled = np.rint(np.clip((colours.astype(float) - low) / (high - low), 0, 1) * 255)
    return scaled if alpha is None else np.rint(scaled * (alpha[..., None] / 65535))


ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""The seven passes of an interlaced PNG: first row and column, and the steps between rows and columns (PNG, 8.2)."""


def png16(
    path: Path, values: np.ndarray, kind: int, filtered: int = 0, key: tuple[int, ...] = (), interlaced: bool = False
) -> str:
    """A PNG of 16 bits a channel; filtered: the type of each line's filter, 0 none, 1 left, 2 up."""
    step, body = 2 * values.shape[-1], b""
    for row, column, down, right in ADAM7 if interlaced else ((0, 0, 1, 1),):
        part = np.ascontiguousarray(values[row::down, column::right]).astype(">u2")
        lines = part.view(np.uint8).reshape(len(part), step * part.shape[1]).astype(int)
        if filtered == 1:
            lines = np.concatenate([lines[:, :step], lines[:, step:] - lines[:, :-step]], 1)
        elif filtered == 2:
            lines = np.concatenate([lines[:1], lines[1:] - lines[:-1]])
        body += b"".join(bytes([filtered]) + (line % 256).astype(np.uint8).tobytes() for line in lines if line.size)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", values.shape[1], len(values), 16, kind, 0, 0, int(interlaced))
    hidden = chunk(b"tRNS", np.array(key, ">u2").tobytes()) if key else b""
    content = chunk(b"IHDR", head) + hidden + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return str(path)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("filtered", [0, 1, 2])
@pytest.mark.parametrize("kind", ["rgb", "rgba", "grey with alpha"])
def test_colours_of_sixteen_bits_are_scaled_by_one_range(tmp_path, kind, filtered, interlaced):
    alpha = np.full(RAMP.shape, 65535, np.uint16)
    alpha[0], alpha[1] = 0, 20000
    colours = RAMP[..., None] if kind == "grey with alpha" else COLOURS.copy()
    colours = colours.copy()
    colours[0] = 65535 if kind != "rgb" else colours[0]  # hidden, and not of the range
    values = colours if kind == "rgb" else np.concatenate([colours, alpha[..., None]], -1)
    code = {"rgb": 2, "rgba": 6, "grey with alpha": 4}[kind]
    path = png16(tmp_path / "x.png", values, code, filtered, interlaced=interlaced)
    expected = by_hand(colours, None if kind == "rgb" else alpha)
    got = pixels(path)
    np.testing.assert_allclose(got, np.broadcast_to(expected, got.shape), atol=1)
    assert got.max() > 200


def test_the_colour_that_stands_for_transparent_is_black(tmp_path):
    colours = COLOURS.copy()
    colours[2, 3] = (65535, 7, 9)
    got = pixels(png16(tmp_path / "x.png", colours, 2, key=(65535, 7, 9)))
    shown = np.full(RAMP.shape, 65535)
    shown[2, 3] = 0
    np.testing.assert_allclose(got, by_hand(colours, shown), atol=1)
    grey = RAMP.copy()
    grey[2, 3] = 65535
    got = pixels(png16(tmp_path / "y.png", grey[..., None], 0, key=(65535,)))
    assert got[2, 3].max() == 0 and got.max() == 255


def test_interlaced_grey_and_pictures_smaller_than_its_passes(tmp_path):
    """A picture of one pixel, row or column has passes without a pixel, of which the file holds nothing."""
    assert pixels(png16(tmp_path / "x.png", RAMP[..., None], 0, interlaced=True))[..., 0].tolist() == by_hand(
        RAMP[..., None]
    )[..., 0].astype(int).tolist()  # fmt: skip
    for rows, columns in ((1, 7), (9, 1), (5, 3), (1, 1)):
        part = COLOURS[:rows, :columns]
        values, _ = deep_values(png16(tmp_path / "y.png", part, 2, interlaced=True), images.FORMATS)
        np.testing.assert_array_equal(values, part)


def test_a_header_is_looked_at_without_decoding(tmp_path, monkeypatch):
    """What open_image refuses is refused by the header alone, but for damage that lies behind it."""
    path = save(tmp_path, Image.fromarray(GREY))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    assert images.check_header(path) is False
    for name, (content, reason) in BAD.items():
        (tmp_path / name).write_bytes(content)
        if name in ("truncated.png", "flipped.png"):
            assert images.check_header(str(tmp_path / name)) is False
            continue
        with pytest.raises(ImageError, match=reason):
            images.check_header(str(tmp_path / name))
    with pytest.raises(ImageError, match="in a form that is not read"):
        images.check_header(tiff16(tmp_path / "planes.tif", COLOURS, planes=True))
    monkeypatch.undo()
    path = save(tmp_path, Image.fromarray(GREY), "two.tif", save_all=True, append_images=[Image.fromarray(GREY)])
    assert images.check_header(path) is True


def test_a_full_memory_is_not_taken_for_a_damaged_picture(tmp_path, monkeypatch):
    def full(self):
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", full)
    with pytest.raises(MemoryError):
        open_image(save(tmp_path, Image.fromarray(GREY)))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "y.png"))
        for path, kind in ((tmp_path / "x.png", "a pipe"), ("/dev/zero", "a device"), (tmp_path / "y.png", "a socket")):
            for look in (open_image, images.check_header):
                with pytest.raises(ImageError, match=rf"image '{path}' cannot be read \(it is {kind}, not a file\)"):
                    look(str(path))


def tiff16(path: Path, values: np.ndarray, order: str = "<", packed: bool = False, planes: bool = False, **tags) -> str:
    """A TIFF of 16 bits a channel, in one strip; tags: photometric 2 is RGB, extra the kind of a fourth channel."""
    height, width, channels = values.shape
    data = (np.moveaxis(values, -1, 0) if planes else values).astype(f"{order}u2").tobytes()
    data = zlib.compress(data) if packed else data
    entries = [
        (256, width), (257, height), (258, None), (259, 8 if packed else 1), (262, tags.get("photometric", 2)),
        (273, 0), (277, channels), (278, height), (279, len(data)), (284, 2 if planes else 1),
    ]  # fmt: skip
    entries += [(338, tags["extra"])] if "extra" in tags else []
    at = 8 + 2 + 12 * len(entries) + 4
    out = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    for tag, value in entries:
        if tag == 258:
            out += struct.pack(f"{order}HHII", tag, 3, channels, at)
        else:
            out += struct.pack(f"{order}HHII", tag, 4, 1, at + 2 * channels if tag == 273 else value)
    out += struct.pack(f"{order}I", 0) + struct.pack(f"{order}{channels}H", *[16] * channels)
    path.write_bytes(out + data)
    return str(path)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [False, True])
def test_colour_tiff_of_sixteen_bits(tmp_path, order, packed):
    np.testing.assert_allclose(pixels(tiff16(tmp_path / "x.tif", COLOURS, order, packed)), by_hand(COLOURS), atol=1)
    alpha = np.full((*RAMP.shape, 1), 65535)
    alpha[4] = 30000
    for extra in (1, 2):  # premultiplied, plain
        values = np.concatenate([COLOURS, alpha], -1)
        expected = by_hand(COLOURS, alpha[..., 0] if extra == 2 else None)
        np.testing.assert_allclose(
            pixels(tiff16(tmp_path / "y.tif", values, order, packed, extra=extra)), expected, atol=1
        )


def test_colours_in_a_form_that_is_not_read_end_in_one_line(tmp_path):
    cmyk = np.concatenate([COLOURS, COLOURS[..., :1]], -1)
    path = save(tmp_path, Image.fromarray(np.zeros((64, 64, 3), np.uint8)), "x.j2k")
    raw = bytearray(Path(path).read_bytes())
    raw[raw.index(b"\xff\x4f\xff\x51") + 42] = 11  # the depth of its first channel, less one
    Path(path).write_bytes(raw)
    for refused in (
        path,
        tiff16(tmp_path / "planes.tif", COLOURS, planes=True),
        tiff16(tmp_path / "cmyk.tif", cmyk, photometric=5),
    ):
        with pytest.raises(
            UserError, match=r"more than 8 bits a channel in a form that is not read .*convert it to a PNG"
        ):
            open_image(refused)


def test_ppm_of_sixteen_bits(tmp_path):
    head = b"P6\n# a comment\n7 9\n65535\n"
    (tmp_path / "x.ppm").write_bytes(head + COLOURS.astype(">u2").tobytes())
    np.testing.assert_allclose(pixels(str(tmp_path / "x.ppm")), by_hand(COLOURS), atol=1)
    (tmp_path / "y.ppm").write_bytes(b"P3\n7 9\n4095\n" + " ".join(map(str, COLOURS.ravel())).encode())
    np.testing.assert_allclose(pixels(str(tmp_path / "y.ppm")), by_hand(COLOURS), atol=1)
    (tmp_path / "x.ppm").write_bytes(head + COLOURS.astype(">u2").tobytes()[:-1])
    with pytest.raises(UserError, match="truncated or damaged"):
        open_image(tmp_path / "x.ppm")
    save(tmp_path, Image.fromarray(GREY), "z.ppm")
    assert pixels(str(tmp_path / "z.ppm"))[..., 0].tolist() == GREY.tolist()


def test_of_several_frames_the_first_is_used_and_the_first_file_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(images, "_told", [])
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    for name in ("x.tif", "y.tif"):
        path = save(tmp_path, frames[0], name, save_all=True, append_images=frames[1:])
        np.testing.assert_array_equal(pixels(path)[..., 0], GREY)
    pixels(save(tmp_path, frames[0], "z.gif", save_all=True, append_images=frames[1:]))
    said = capsys.readouterr().err
    assert said == f"image {tmp_path / 'x.tif'} has several frames; of such files the first frame is used\n"

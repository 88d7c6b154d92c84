"""PNGs by libspng: Pillow's pixels and Pillow's refusals, for every kind of PNG and for damaged ones."""

import io
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.png_kinds import KINDS, chunk, png

from n2s_dist.images import fast_png
from n2s_dist.images.eight_bit import decode_image
from n2s_dist.images.formats import png as png_format
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.utils.errors import UserError

SIZE = 23, 19
pytest.importorskip("imagecodecs")


@pytest.fixture
def by_libspng(monkeypatch) -> list[np.ndarray]:
    """What libspng decoded, as it goes on."""
    decoded, decode = [], fast_png.decode_png

    def recording(stream, opened):
        if (pixels := decode(stream, opened)) is not None:
            decoded.append(pixels)
        return pixels

    monkeypatch.setattr(png_format, "decode_png", recording)
    return decoded


def outcome(data: bytes) -> str | tuple:
    """Of decoding: the pixels with their shape, or what was said of the file."""
    try:
        pixels = decode_image(io.BytesIO(data), Path("a.png"))
    except UserError as error:
        return str(error)
    return pixels.shape, pixels.tobytes()


def by_pillow(data: bytes) -> str | tuple:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(png_format, "decode_png", lambda stream, opened: None)
        return outcome(data)


@pytest.mark.parametrize("clear", [False, True])
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("color, bits", KINDS)
def test_every_kind_is_what_pillow_makes_of_it(by_libspng, color, bits, interlaced, clear):
    clear = clear and color in (0, 2, 3)
    data = png(SIZE, color, bits, interlaced=interlaced, clear=clear, parts=3)
    assert outcome(data) == by_pillow(data)
    assert len(by_libspng) == (color in (0, 2) and bits == 8 and not interlaced and not clear)


ORIENTED = b"MM\0\x2a\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
SAYINGS = {
    "gamma": chunk(b"gAMA", struct.pack(">I", 100_000)),
    "significant bits": chunk(b"sBIT", b"\5\5\5"),
    "background": chunk(b"bKGD", struct.pack(">3H", 1, 2, 3)),
    "resolution": chunk(b"pHYs", struct.pack(">IIB", 3000, 3000, 1)),
    "orientation": chunk(b"eXIf", ORIENTED),
    "text": chunk(b"tEXt", b"Comment\0" + b"x" * 2**17),
    "unknown": chunk(b"prVt", b"abc"),
    "one frame": chunk(b"acTL", struct.pack(">II", 1, 0))
    + chunk(b"fcTL", struct.pack(">5I2H2B", 0, *SIZE[::-1], 0, 0, 1, 1, 0, 0)),
}


@pytest.mark.parametrize("saying", SAYINGS)
def test_what_a_file_says_besides_changes_no_pixel(by_libspng, saying):
    data = png(SIZE, 2, 8, chunks=SAYINGS[saying])
    found = outcome(data)
    assert found == by_pillow(data) and not isinstance(found, str)
    assert found[0] == ((19, 23, 3) if saying == "orientation" else (23, 19, 3))
    assert len(by_libspng) == (saying != "one frame")


@pytest.mark.parametrize("color", [0, 2])
def test_damaged_files_are_refused_as_pillow_refuses_them(color):
    """Bytes changed, with right checksums of their chunks and with wrong ones, and files that were cut short."""
    size = 13, 11
    data = png(size, color, 8, parts=2)
    rng = np.random.default_rng(0)
    damaged = [data[:end] for end in range(33, len(data), 5)]
    for at in rng.integers(8, len(data), 400).tolist():
        damaged.append(data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :])
    begin = data.index(b"IDAT")
    length = int.from_bytes(data[begin - 4 : begin], "big")
    body = data[begin + 4 : begin + 4 + length]
    for at in rng.integers(0, length, 200).tolist():
        changed = body[:at] + bytes([body[at] ^ 1 << int(rng.integers(8))]) + body[at + 1 :]
        damaged.append(data[: begin - 4] + chunk(b"IDAT", changed) + data[begin + 8 + length :])
    outcomes = [outcome(each) for each in damaged]
    assert outcomes == [by_pillow(each) for each in damaged]
    refused = sum(isinstance(each, str) for each in outcomes)
    assert 100 < refused < len(damaged)


def test_without_the_package_pillow_decodes(monkeypatch, by_libspng):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    fast_png.imagecodecs.cache_clear()
    try:
        assert not isinstance(outcome(png(SIZE, 2, 8)), str)
    finally:
        monkeypatch.undo()
        fast_png.imagecodecs.cache_clear()
    assert by_libspng == []


@pytest.mark.parametrize("gray", [False, True])
def test_shards_are_byte_for_byte_those_of_pillow(tmp_path, monkeypatch, by_libspng, gray):
    source = tmp_path / "source"
    source.mkdir()
    for number, (color, bits) in enumerate([(0, 8), (2, 8), (0, 1), (3, 8), (0, 16), (2, 8)]):
        (source / f"{number}.png").write_bytes(png((90 + number, 70), color, bits, seed=number))
    with Image.open(source / "1.png") as opened:
        opened.save(source / "optimized.png", optimize=True)
    options = BuildOptions(tile_size=32, gray=gray, validation_fraction=0.2)
    build_shards([str(source)], tmp_path / "fast", options, workers=1)
    assert len(by_libspng) >= 4
    monkeypatch.setattr(png_format, "decode_png", lambda stream, opened: None)
    build_shards([str(source)], tmp_path / "pillow", options, workers=1)
    names = sorted(path.name for path in (tmp_path / "fast").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "pillow").iterdir()) and len(names) >= 5
    for name in names:
        assert (tmp_path / "fast" / name).read_bytes() == (tmp_path / "pillow" / name).read_bytes(), name

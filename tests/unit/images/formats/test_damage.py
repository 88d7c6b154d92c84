"""Damaged files of instruments: one line that names the file, or the image; never another error.

Each is cut at many places, and bytes of its words are changed.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.microscope_files import write_czi, write_lif, write_nd2
from support.raw_files import write_dng
from support.tiff_layouts import values

from n2s_dist.images.files import image_at
from n2s_dist.images.user_files import open_file
from n2s_dist.utils.errors import UserError

STACK = values(np.uint16, 2, 2, 3, 40, 56) // 16


def write_exr(path: Path) -> Path:
    OpenEXR = pytest.importorskip("OpenEXR")
    said = {"compression": OpenEXR.PIZ_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(said, {name: values(np.float16, 40, 56) for name in "RGBA"}).write(str(path))
    return path


# How to write a file, the package that reads it, and where its words are: the first and the last so many bytes.
FILES: dict[str, tuple[Callable[[Path], Path], str, tuple[int, int]]] = {
    "a.dng": (lambda path: write_dng(path, STACK[0, 0, 0]), "rawpy", (600, 0)),
    "a.exr": (write_exr, "OpenEXR", (600, 0)),
    "a.czi": (lambda path: write_czi(path, STACK, "TCZ", tile=20, compression="zstd1:"), "pylibCZIrw", (1500, 12000)),
    "a.lif": (lambda path: write_lif(path, {"one": (STACK, "TCZYX"), "two": (STACK[0, 0, 0], "YX")}, 12), "liffile",
              (6000, 0)),
    "a.nd2": (lambda path: write_nd2(path, STACK.swapaxes(1, 2), "TZC", 12), "nd2", (13000, 1000)),
}  # fmt: skip


def damaged(whole: bytes, ends: tuple[int, int]) -> list[bytes]:
    """The file cut off at many places, and with one to eight of its words' bytes changed at many others."""
    found = [whole[: len(whole) * part // 20] for part in range(20)] + [whole[:-1]]
    rng = np.random.default_rng(0)
    places = np.r_[0 : ends[0], len(whole) - ends[1] : len(whole)]
    for number in range(60):
        changed = bytearray(whole)
        first = rng.choice(places)
        for place in range(first, min(first + (1, 1, 4, 8)[number % 4], len(whole))):
            changed[place] = (rng.integers(256), 0, 255, changed[place] ^ 64)[number % 4]
        found.append(bytes(changed))
    return found


@pytest.mark.parametrize("name", FILES)
def test_damage_is_one_line(tmp_path, capfd, name):
    write, package, ends = FILES[name]
    pytest.importorskip(package)
    path = write(tmp_path / name)
    whole, lines = path.read_bytes(), []
    for data in damaged(whole, ends):
        path.write_bytes(data)
        try:
            with open_file(image_at(path)) as file:
                for number, image in enumerate(file.images()):  # what was changed may not matter, or be a value
                    assert image.pixels.shape == (*file.contents.size_of(number), file.contents.channels)
        except UserError as error:
            lines.append(str(error))
    assert len(lines) > 20
    assert [line for line in lines if not line.startswith(str(path)) or "\n" in line] == []
    assert capfd.readouterr() == ("", "")  # libraries print nothing themselves


def test_a_list_of_tiles_that_would_crash_the_library_is_refused(tmp_path):
    """More dimensions than there is room for, and a tile that is longer than the file."""
    pytest.importorskip("pylibCZIrw")
    whole = write_czi(tmp_path / "a.czi", STACK, "TCZ").read_bytes()
    entries = [place for place in range(len(whole)) if whole.startswith(b"DV\x01\0\0\0", place)]
    for place, change in ((entries[-2] + 28, b"\x47"), (entries[3] - 8, b"\xff" * 8), (entries[3] - 8, b"\xff" * 7)):
        (tmp_path / "a.czi").write_bytes(whole[:place] + change + whole[place + len(change) :])
        line = r"a\.czi is not a readable image \((its list|a tile)"
        with pytest.raises(UserError, match=line), open_file(image_at(tmp_path / "a.czi")):
            pass

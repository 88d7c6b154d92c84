"""OpenEXR: colors and layers come back with their names and types, all else as it was, and white is asked for."""

import numpy as np
import pytest
from support.arrays import change, rewritten
from support.tiff_layouts import values

from n2s_dist.images.files import image_at
from n2s_dist.images.scale import Scale
from n2s_dist.images.user_files import open_file
from n2s_dist.utils.errors import UserError

OpenEXR = pytest.importorskip("OpenEXR")


def planes(names: list[str], dtype: str) -> dict[str, np.ndarray]:
    """A channel by each name, all of them different."""
    return {name: values(dtype, 24, 37 + place)[:, place:].copy() for place, name in enumerate(names)}


def write(path, channels, **header):
    said = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage, **header}
    OpenEXR.File(said, dict(channels)).write(str(path))


def load(path) -> list[dict[str, np.ndarray]]:
    """The channels of each part."""
    file = OpenEXR.File(str(path), separate_channels=True)
    return [{name: channel.pixels for name, channel in part.channels.items()} for part in file.parts]


@pytest.mark.parametrize("dtype", ["f2", "f4"])
@pytest.mark.parametrize(
    "names, images",
    [
        (["R", "G", "B"], [["R", "G", "B"]]),
        (["R", "G", "B", "A"], [["R", "G", "B"]]),
        (["Y"], [["Y"]]),
        (["R", "G", "B", "Z", "light.R", "light.G", "light.B"], [["R", "G", "B"], ["light.R", "light.G", "light.B"]]),
        (["red", "near infrared"], [["near infrared"], ["red"]]),
    ],
)
def test_channels_come_back_with_their_names_and_types(tmp_path, dtype, names, images):
    channels = planes(names, dtype)
    write(tmp_path / "a.exr", channels, comment="of a test", compression=OpenEXR.PIZ_COMPRESSION)
    contents, found = rewritten(tmp_path / "a.exr", tmp_path / "b.exr")
    assert (contents.dtype, contents.images) == (np.dtype(dtype), len(images))
    for image, own in zip(found, images, strict=True):
        np.testing.assert_array_equal(image.pixels, np.stack([channels[name] for name in own], axis=-1))
    denoised = {name for own in images for name in own}
    (again,) = load(tmp_path / "b.exr")
    assert again.keys() == channels.keys()
    for name, plane in channels.items():
        assert again[name].dtype == plane.dtype
        np.testing.assert_array_equal(again[name], change(plane) if name in denoised else plane)
    header = OpenEXR.File(str(tmp_path / "b.exr")).header()
    assert header["comment"] == "of a test" and header["compression"] == OpenEXR.PIZ_COMPRESSION
    assert contents.notes == (("its other channels (Z) are kept as they are",) if "Z" in names else ())


def test_parts_and_windows_come_back(tmp_path):
    left, right = planes(["R", "G", "B"], "f2"), planes(["R", "G", "B"], "f2")
    tiles = OpenEXR.TileDescription()
    window = (np.array([3, 4], np.int32), np.array([39, 27], np.int32))
    parts = [
        OpenEXR.Part({"type": OpenEXR.tiledimage, "tiles": tiles}, dict(left), "left"),
        OpenEXR.Part({"type": OpenEXR.scanlineimage, "dataWindow": window}, dict(right), "right"),
    ]
    OpenEXR.File(parts).write(str(tmp_path / "a.exr"))
    contents, _ = rewritten(tmp_path / "a.exr", tmp_path / "b.exr")
    assert contents.images == 2
    before, after = (OpenEXR.File(str(tmp_path / name), separate_channels=True) for name in ("a.exr", "b.exr"))
    assert [part.name() for part in after.parts] == ["left", "right"]
    for old, new in zip(before.parts, after.parts, strict=True):
        assert old.type() == new.type()
        np.testing.assert_array_equal(old.header["dataWindow"], new.header["dataWindow"])
        for name in "RGB":
            np.testing.assert_array_equal(new.channels[name].pixels, change(old.channels[name].pixels))


def test_compression_that_loses_becomes_one_that_does_not(tmp_path):
    write(tmp_path / "a.exr", planes(["R", "G", "B"], "f2"), compression=OpenEXR.B44_COMPRESSION)
    contents, (image,) = rewritten(tmp_path / "a.exr", tmp_path / "b.exr")
    assert contents.is_lossy and contents.notes == ("its compression (B44) becomes ZIP",)
    (again,) = load(tmp_path / "b.exr")
    np.testing.assert_array_equal(np.stack([again[name] for name in "RGB"], axis=-1), change(image.pixels))


def test_white_is_asked_for_where_values_exceed_1(tmp_path):
    channels = planes(["R", "G", "B"], "f4")
    write(tmp_path / "unit.exr", channels)
    write(tmp_path / "hdr.exr", {name: 8 * plane for name, plane in channels.items()})
    with open_file(image_at(tmp_path / "unit.exr")) as file:
        assert file.find_scale(None, None) is None
        assert file.scale_of(file.image(0), None, None) == Scale(0, 1)
    with open_file(image_at(tmp_path / "hdr.exr")) as file:
        assert file.find_scale(8, None) == Scale(0, 8)
        for find in (lambda: file.find_scale(None, None), lambda: file.scale_of(file.image(0), None, None)):
            with pytest.raises(
                UserError, match=r"hdr\.exr has values up to 7.9.* no word on white: name it, as --white"
            ):
                find()


@pytest.mark.parametrize("dtype", ["f2", "f4"])
@pytest.mark.parametrize("shape, names", [((24, 37), "Y"), ((24, 37, 3), "RGB"), ((24, 37, 4), "RGBA")])
def test_images_of_other_formats_become_exr(tmp_path, dtype, shape, names):
    array = values(dtype, *shape)
    np.save(tmp_path / "a.npy", array)
    rewritten(tmp_path / "a.npy", tmp_path / "b.exr", "YXS"[: len(shape)])
    (again,) = load(tmp_path / "b.exr")
    planes = array.reshape(24, 37, -1)
    for place, name in enumerate(names):
        wanted = planes[:, :, place] if name == "A" else change(planes[:, :, place])
        np.testing.assert_array_equal(again[name], wanted)
        assert again[name].dtype == array.dtype


def test_what_can_not_be_held_is_refused_in_a_line(tmp_path):
    whole = {name: plane.astype(np.uint32) for name, plane in planes(["id"], "f4").items()}
    write(tmp_path / "ids.exr", whole)
    mixed = planes(["R", "G", "B"], "f2") | {f"a.{name}": plane for name, plane in planes([*"RGB"], "f4").items()}
    write(tmp_path / "mixed.exr", mixed)
    write(tmp_path / "tiles.exr", planes(["Y"], "f4"), type=OpenEXR.tiledimage, tiles=OpenEXR.TileDescription())
    tiled = (tmp_path / "tiles.exr").read_bytes()
    mode = tiled.index(b"tiles\0tiledesc\0") + len(b"tiles\0tiledesc\0") + 4 + 8
    (tmp_path / "copies.exr").write_bytes(tiled[:mode] + b"\1" + tiled[mode + 1 :])
    (tmp_path / "deep.exr").write_bytes(tiled[:5] + bytes([tiled[5] | 8]) + tiled[6:])
    words = {
        "deep": "is deep",
        "ids": "has no channel of halfs or floats",
        "mixed": "has layers of several types",
        "copies": "holds smaller copies",
    }
    for name, said in words.items():
        with pytest.raises(UserError, match=rf"{name}\.exr {said}"), open_file(image_at(tmp_path / f"{name}.exr")):
            pass
    np.save(tmp_path / "a.npy", values(np.uint16, 24, 37))
    np.save(tmp_path / "stack.npy", values(np.float32, 5, 24, 37))
    for name, said in {"a.npy": "values of type uint16", "stack.npy": "5 images"}.items():
        with pytest.raises(UserError, match=rf"b\.exr can't hold {said}"):
            rewritten(tmp_path / name, tmp_path / "b.exr")

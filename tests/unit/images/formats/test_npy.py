""".npy and .npz: numbers of every type and order come back in the same one; no folder is taken for images by chance."""

import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.arrays import change, rewritten
from support.tiff_layouts import values

from n2s_dist.images.decoded import NUMBERS
from n2s_dist.images.files import ImageFile, image_at, list_images
from n2s_dist.images.user_files import open_file, write_file
from n2s_dist.utils.errors import UserError


@pytest.mark.parametrize("dtype", [*NUMBERS, ">u2", ">f4"])
def test_every_type_comes_back(tmp_path, dtype):
    array = values(np.dtype(dtype).newbyteorder("="), 5, 20, 30).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    contents, found = rewritten(tmp_path / "a.npy", tmp_path / "b.npy")
    assert contents.images == 5 and contents.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(np.stack([image.pixels[:, :, 0] for image in found]), array)
    again = np.load(tmp_path / "b.npy")
    assert again.dtype == array.dtype
    np.testing.assert_array_equal(again, change(array).astype(dtype))


@pytest.mark.parametrize(
    "names, shape",
    [("YXS", (20, 30, 4)), ("SYX", (3, 20, 30)), ("TCZYX", (2, 3, 2, 20, 30)), ("YXT", (20, 30, 5)), ("XY", (30, 20))],
)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_axes_that_are_named(tmp_path, names, shape, order, suffix):
    array = np.asarray(values(np.uint16, *shape), order=order)
    source, target = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    np.save(source, array) if suffix == "npy" else np.savez(source, a=array)
    contents, _ = rewritten(source, target, names)
    counts = [length for name, length in zip(names, shape, strict=True) if name not in "YXS"]
    assert (contents.images, contents.size) == (np.prod(counts), (20, 30))
    again = np.load(target) if suffix == "npy" else np.load(target)["a"]
    assert again.flags.f_contiguous == array.flags.f_contiguous
    wanted = change(array)
    if contents.has_alpha:
        wanted[:, :, 3] = array[:, :, 3]
    np.testing.assert_array_equal(again, wanted)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_keeps_its_other_arrays_and_its_compression(tmp_path, save):
    arrays = {"a": values(np.uint16, 5, 20, 30), "wave": np.linspace(4e-7, 7e-7, 9), "b": values(np.uint16, 33, 17)}
    save(tmp_path / "a.npz", **arrays)
    contents, found = rewritten(tmp_path / "a.npz", tmp_path / "b.npz")
    assert contents.images == 6 and contents.sizes == ((20, 30),) * 5 + ((33, 17),)
    assert [image.pixels.shape[:2] for image in found] == list(contents.sizes)
    again = np.load(tmp_path / "b.npz")
    assert again.files == ["a", "wave", "b"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array if name == "wave" else change(array))
    with zipfile.ZipFile(tmp_path / "a.npz") as one, zipfile.ZipFile(tmp_path / "b.npz") as other:
        assert [i.compress_type for i in one.infolist()] == [i.compress_type for i in other.infolist()]


def _records() -> np.ndarray:
    return np.zeros((20, 30), [("a", "u1"), ("b", "f4")])


@pytest.mark.parametrize(
    "array, words",
    [
        (np.full((20, 30), None), "holds Python objects"),
        (_records(), "holds records"),
        (np.zeros((20, 30), complex), "has values of type complex128"),
        (np.zeros((20, 30), np.int64), "has values of type int64"),
        (np.zeros((20, 30), bool), "has values of type bool"),
        (np.zeros((0, 20, 30), np.uint8), "holds no values"),
        (np.zeros((3, 20, 30), np.uint8), "--axes"),
        (np.zeros(20, np.uint8), "--axes"),
    ],
)
def test_what_can_not_be_read_is_refused_in_a_line(tmp_path, array, words):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match=rf"a\.npy .*{words}") as caught, open_file(image_at(tmp_path / "a.npy")):
        pass
    assert "\n" not in str(caught.value)


def test_no_pickle_is_loaded(tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return Path.touch, (marker,)

    np.save(tmp_path / "a.npy", np.array([[Evil()]], object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", a=np.array([[Evil()]], object))
    for name in ("a.npy", "b.npz"):
        with pytest.raises(UserError, match="Python objects"), open_file(image_at(tmp_path / name)):
            pass
    assert not marker.exists()


@pytest.mark.parametrize("axes", ["TYX", "YXT"])
def test_a_file_cut_short_is_damaged(tmp_path, axes):
    np.save(tmp_path / "a.npy", values(np.uint16, 20, 20, 30))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-10])
    image = ImageFile(tmp_path, "a.npy", 0, axes=axes)
    with open_file(image) as file, pytest.raises(UserError, match=r"can't be decoded.*before its values do"):
        list(file.images())


def test_arrays_of_several_kinds_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", image=values(np.uint16, 20, 30), mask=values(np.uint8, 20, 30))
    with (
        pytest.raises(UserError, match=r"several kinds \(image: uint16, mask: uint8\)"),
        open_file(image_at(tmp_path / "a.npz")),
    ):
        pass
    np.savez(tmp_path / "b.npz", wave=np.arange(9.0))
    with pytest.raises(UserError, match="holds no array of 16 x 16 values"), open_file(image_at(tmp_path / "b.npz")):
        pass


def test_pages_become_arrays_and_arrays_pages(tmp_path):
    array = values(np.uint16, 5, 20, 30)
    np.save(tmp_path / "a.npy", array)
    rewritten(tmp_path / "a.npy", tmp_path / "b.tif")
    rewritten(tmp_path / "b.tif", tmp_path / "c.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "c.npy"), array // 4)
    Image.fromarray(values(np.uint8, 20, 30, 3)).save(tmp_path / "d.png")
    rewritten(tmp_path / "d.png", tmp_path / "e.npz")
    assert np.load(tmp_path / "e.npz")["image"].shape == (20, 30, 3)
    with pytest.raises(UserError, match=r"f\.png can't hold 5 images"):
        rewritten(tmp_path / "a.npy", tmp_path / "f.png")


# --- what a folder holds ------------------------------------------------------------------------------------


def saved(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".npy"):
            np.save(folder / name, values(np.uint8, 20, 30))
        elif name.endswith(".png"):
            Image.fromarray(values(np.uint8, 20, 30)).save(folder / name)
        else:
            (folder / name).write_text("words")
    return folder


def test_arrays_count_where_they_are_named_or_alone(tmp_path):
    alone = saved(tmp_path / "alone", "a.npy", "sub/b.npy", ".hidden")
    assert [image.name for image in list_images(alone)] == ["a.npy", "sub/b.npy"]
    assert [image.name for image in list_images(alone / "a.npy")] == ["a.npy"]
    beside = saved(tmp_path / "beside", "a.npy", "b.png")
    assert [image.name for image in list_images(beside)] == ["b.png"]
    results = saved(tmp_path / "results", "a.npy", "log.txt")
    with pytest.raises(UserError, match=r"holds no images .*\.npy and \.npz count where they are named"):
        list_images(results)


def test_no_shard_is_an_archive_of_images(tmp_path, shards):
    """Nor is one that was unpacked."""
    tar = next(shards.glob("*.tar"))
    with pytest.raises(UserError, match="holds no images"):
        list_images(tar)
    with tarfile.open(tar) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    with pytest.raises(UserError, match="holds no images"):
        list_images(tmp_path / "unpacked")
    stream = io.BytesIO()
    np.save(stream, values(np.uint8, 20, 30))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.npy", stream.getvalue())
    with pytest.raises(UserError, match="holds no images"):
        list_images(tmp_path / "a.zip")
    shutil.copy(tmp_path / "a.zip", tmp_path / "b.npz")  # which such an archive is, where it is named so
    assert [image.name for image in list_images(tmp_path / "b.npz")] == ["b.npz"]


def test_axes_are_for_arrays_alone(tmp_path):
    saved(tmp_path, "a.png")
    image = ImageFile(tmp_path, "a.png", 0, axes="YX")
    with (
        pytest.raises(UserError, match=r"a PNG, which says itself what its axes are: leave --axes out"),
        open_file(image),
    ):
        pass


def test_images_of_several_sizes_are_no_array(tmp_path):
    np.savez(tmp_path / "a.npz", a=values(np.uint8, 20, 30), b=values(np.uint8, 30, 20))
    with open_file(image_at(tmp_path / "a.npz")) as file:
        with pytest.raises(UserError, match=r"b\.npy can't hold images of several sizes"):
            write_file(tmp_path / "b.npy", file.images(), file.contents)
        write_file(tmp_path / "b.tif", file.images(), file.contents)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.tif"]

"""Files of several images: each page is an image of its own in the shards."""

import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from support.archives import contents

from n2s_dist.images import user_files
from n2s_dist.shards.build.build_group import BuildGroup
from n2s_dist.shards.build.builder import build_shards, read_skipped
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.shards.reader import ShardSet
from n2s_dist.shards.verify import repair_shards, verify_shards
from n2s_dist.utils.errors import UserError

OPTIONS = BuildOptions(tile_size=32, gray=True, validation_fraction=0, seed=3)
NOISY = BuildOptions(32, True, 0, noise="gaussian:12", already_noisy=True)
PAGES = np.random.default_rng(0).integers(0, 256, (12, 40, 48), np.uint8)


def write_stack(path: Path, pages: np.ndarray = PAGES, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pages, photometric="minisblack", **options)
    return path


def images_of(out: Path) -> dict[str, np.ndarray]:
    """What shards hold of each image, put together from its tiles as they are stored."""
    shards, found = ShardSet(out), {}
    for tile in (shards[i] for i in range(len(shards))):
        image = found.setdefault(tile.image, np.zeros((512, 512), tile.tile.dtype))
        height, width, _ = tile.tile.shape
        image[tile.row : tile.row + height, tile.column : tile.column + width] = tile.tile[:, :, 0]
    return found


@pytest.mark.parametrize("layout", [{}, {"truncate": True, "imagej": True}, {"compression": "zlib"}, {"bigtiff": True}])
def test_each_page_is_an_image(tmp_path, layout):
    write_stack(tmp_path / "in/z.tif", **layout)
    manifest = build_shards([str(tmp_path / "in")], tmp_path / "out", OPTIONS, workers=1)
    found = images_of(tmp_path / "out")
    assert sorted(found) == [f"z.tif/page-{number:03d}" for number in range(12)]
    for number, page in enumerate(PAGES):
        np.testing.assert_array_equal(found[f"z.tif/page-{number:03d}"][:40, :48], page)
    assert manifest.splits["train"].images == 12


def test_a_file_folder_zip_and_tar_give_the_same_shards(tmp_path):
    stack = write_stack(tmp_path / "in/z.tif")
    with zipfile.ZipFile(tmp_path / "in.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(stack, "z.tif")
    with tarfile.open(tmp_path / "in.tar", "w") as archive:
        archive.add(stack, "z.tif")
    for number, source in enumerate((stack, stack.parent, tmp_path / "in.zip", tmp_path / "in.tar")):
        build_shards([str(source)], tmp_path / f"out{number}", OPTIONS, workers=1)
    assert all(contents(tmp_path / f"out{number}") == contents(tmp_path / "out0") for number in (1, 2, 3))


def test_pages_have_noise_of_their_own_and_a_share_of_them_is_set_apart(tmp_path):
    write_stack(tmp_path / "in/z.tif", np.full((12, 64, 64), 99, np.uint8))
    options = BuildOptions(64, True, 0.25, noise="gaussian:25")
    manifest = build_shards([str(tmp_path / "in")], tmp_path / "out", options, workers=1)
    assert (manifest.splits["train"].images, manifest.splits["validation"].images) == (9, 3)
    first, *others = images_of(tmp_path / "out").values()
    correlations = [np.corrcoef(first[:64, :64].ravel(), other[:64, :64].ravel())[0, 1] for other in others]
    assert np.abs(correlations).max() < 0.1


def test_one_scale_serves_all_pages_of_a_file(tmp_path):
    """The first page is dark: alone it would not say what white is."""
    pages = np.stack([np.arange(1024, dtype=np.uint16).reshape(32, 32) + 64 * k for k in (0, 1, 1000)])
    write_stack(tmp_path / "in/z.tif", pages)
    build_shards([str(tmp_path / "in")], tmp_path / "out", OPTIONS, workers=1)
    for name, image in images_of(tmp_path / "out").items():
        np.testing.assert_array_equal(image[:32, :32], np.round(pages[int(name[-3:])] / 257))
    build_shards([str(tmp_path / "in")], tmp_path / "noisy", NOISY, workers=1)
    stored = ShardSet(tmp_path / "noisy")
    for tile in (stored[i] for i in range(len(stored))):
        values = tile.tile.astype(float) * (1 + 16 * 12 / 255) / 65535 - 8 * 12 / 255
        assert np.abs(values[:, :, 0] - pages[int(tile.image[-3:])] / 65535).max() < 1e-4


@pytest.mark.parametrize("options", [BuildOptions(32, True, 0), NOISY])
def test_a_stack_of_dark_pages_alone_is_refused_once(tmp_path, options):
    write_stack(tmp_path / "in/z.tif", np.arange(3 * 1024, dtype=np.uint16).reshape(3, 32, 32))
    with pytest.raises(UserError, match=r"z\.tif.*values lie between"):
        build_shards([str(tmp_path / "in")], tmp_path / "out", options, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_floats_and_named_ends(tmp_path):
    floats = np.random.default_rng(1).normal(0.5, 0.1, (3, 32, 32)).astype(np.float32)
    write_stack(tmp_path / "floats/z.tif", floats)
    write_stack(tmp_path / "twelve/z.tif", np.round(100 + floats * 3995).astype(np.uint16))
    ends = BuildOptions(32, True, 0, noise="gaussian:12", already_noisy=True, white=4095, black=100)
    found = []
    for name, options in {"floats": NOISY, "twelve": ends}.items():
        build_shards([str(tmp_path / name)], tmp_path / f"{name}-out", options, workers=1)
        found.append(images_of(tmp_path / f"{name}-out"))
    for name, image in found[0].items():
        assert np.abs(image.astype(int) - found[1][name]).max() <= 65535 / 3995 / 1.75
    with pytest.raises(UserError, match=r"z\.tif has values of type float32"):
        build_shards([str(tmp_path / "floats")], tmp_path / "out", OPTIONS, workers=1)


def test_pages_of_several_sizes(tmp_path):
    (tmp_path / "in").mkdir()
    sizes = [(40, 50), (33, 20), (64, 64)]
    with tifffile.TiffWriter(tmp_path / "in/z.tif") as writer:
        for size in sizes:
            writer.write(np.full(size, 7, np.uint8), metadata=None)
    build_shards([str(tmp_path / "in")], tmp_path / "out", OPTIONS, workers=1)
    for name, image in images_of(tmp_path / "out").items():
        height, width = sizes[int(name[-3:])]
        assert (image > 0).sum() == height * width and image[height - 1, width - 1] == 7


def test_a_page_that_is_damaged_is_skipped_alone(tmp_path):
    stack = write_stack(tmp_path / "in/z.tif", compression="zlib")
    with tifffile.TiffFile(stack) as file:
        place = file.pages[4].dataoffsets[0]
    damaged = bytearray(stack.read_bytes())
    damaged[place + 20 : place + 60] = bytes(40)
    stack.write_bytes(damaged)
    with pytest.raises(UserError, match=r"z\.tif can't be decoded at image 5 of 12"):
        build_shards([str(tmp_path / "in")], tmp_path / "out", OPTIONS, workers=1)
    build_shards([str(tmp_path / "in")], tmp_path / "out", OPTIONS, workers=1, on_error="skip")
    assert list(read_skipped(tmp_path / "out")) == ["z.tif/page-004"]
    assert len(images_of(tmp_path / "out")) == 11
    (tmp_path / "out/train-000000.tar").write_bytes(b"")
    faults = verify_shards(tmp_path / "out", 1)
    assert repair_shards(tmp_path / "out", [str(tmp_path / "in")], faults, workers=1) == ["train-000000.tar"]
    assert verify_shards(tmp_path / "out", 1) == []


def test_shards_of_another_stack_are_found_out(tmp_path, capsys):
    stack = write_stack(tmp_path / "in/z.tif")
    build_shards([str(tmp_path / "in")], tmp_path / "out", OPTIONS, workers=1)
    build_shards([str(tmp_path / "in")], tmp_path / "out", OPTIONS, workers=1)
    assert "nothing to do" in capsys.readouterr().out
    size = stack.stat().st_size
    write_stack(stack, PAGES[::-1])
    assert stack.stat().st_size == size
    with pytest.raises(UserError, match="shards of other images of the same names and sizes"):
        build_shards([str(tmp_path / "in")], tmp_path / "out", OPTIONS, workers=1)


def test_nodes_that_build_together_share_the_pages(tmp_path):
    """By what they exchange: a group whose other node brings what this one would."""
    write_stack(tmp_path / "in/z.tif")
    build_shards([str(tmp_path / "in")], tmp_path / "one", OPTIONS, workers=1)

    class Mirrored(BuildGroup):
        """Whatever is brought goes through JSON, as between nodes."""

        def exchange(self, phase, mine):
            return [json.loads(json.dumps(mine))]

    build_shards([str(tmp_path / "in")], tmp_path / "two", OPTIONS, workers=1, group=Mirrored())
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_the_list_of_pages_is_read_once_by_a_worker(tmp_path, monkeypatch):
    """Else a stack of N pages would take N x N readings of a page's header."""
    write_stack(tmp_path / "in/z.tif")
    asked, probe = [], user_files.probe
    monkeypatch.setattr(user_files, "probe", lambda *words: asked.append(words) or probe(*words))
    build_shards([str(tmp_path / "in")], tmp_path / "out", OPTIONS, workers=1)
    assert len(asked) == 2  # for the sizes, and for all tiles

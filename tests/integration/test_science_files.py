"""Files of instruments through the commands: stacks come back as they were, and what is lacking is said in a line."""

import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from support.arrays import Instant, change
from support.microscope_files import write_czi, write_lif, write_nd2
from support.raw_files import write_dng
from support.tiff_layouts import values

from n2s_dist import denoise
from n2s_dist.commands import adapt, build_shards, calibrate, inspect_noise
from n2s_dist.shards.manifest import read_manifest
from n2s_dist.shards.reader import ShardSet

pytestmark = pytest.mark.usefixtures("cpu")

STACK = values(np.uint16, 6, 40, 48)


@pytest.fixture
def instant(monkeypatch) -> Instant:
    """A denoiser that takes no time."""
    found = Instant()
    monkeypatch.setattr(denoise, "load_denoiser", lambda *_, **__: found)
    return found


def write(path: Path, array: np.ndarray = STACK) -> Path:
    """A file of the kind that its name says."""
    if path.suffix == ".zarr":
        pytest.importorskip("zarr").create_array(path, data=array, chunks=(1, 40, 48))
    elif path.suffix == ".fits":
        pytest.importorskip("astropy.io.fits").PrimaryHDU(array).writeto(path)
    else:
        np.save(path, array) if path.suffix == ".npy" else np.savez(path, a=array)
    return path


def load(path: Path) -> np.ndarray:
    if path.suffix == ".zarr":
        return pytest.importorskip("zarr").open_array(path, mode="r")[:]
    if path.suffix == ".fits":
        return pytest.importorskip("astropy.io.fits").getdata(path)
    return np.load(path) if path.suffix == ".npy" else np.load(path)["a"]


@pytest.mark.parametrize("suffix", ["npy", "npz", "zarr", "fits"])
def test_a_stack_is_denoised_image_by_image(cli, tmp_path, instant, suffix):
    source, target = write(tmp_path / f"a.{suffix}"), tmp_path / "out" / f"b.{suffix}"
    done = cli(denoise.main, "--noise=gaussian:20", source, target)
    assert done.code == 0, done.err
    assert instant.shapes == [(40, 48, 1)] * 6
    np.testing.assert_array_equal(load(target), change(STACK))
    assert [path.name for path in target.parent.iterdir()] == [target.name]


@pytest.mark.parametrize("suffix", ["npy", "zarr"])
def test_a_folder_and_axes(cli, tmp_path, instant, suffix):
    (tmp_path / "in").mkdir()
    for name in "ab":
        write(tmp_path / f"in/{name}.{suffix}", STACK.transpose(1, 2, 0))
    words = ["--noise=gaussian:20", tmp_path / "in", tmp_path / "out"]
    assert "--axes" in cli(denoise.main, *words).error()
    assert not any((tmp_path / "out").glob("*"))
    done = cli(denoise.main, *words, "--axes=yxt")
    assert done.code == 0, done.err
    for name in "ab":
        np.testing.assert_array_equal(load(tmp_path / f"out/{name}.{suffix}"), change(STACK).transpose(1, 2, 0))


def test_what_would_overwrite_a_zarr_is_refused(cli, tmp_path, instant):
    source = write(tmp_path / "a.zarr")
    assert "would be overwritten" in cli(denoise.main, source, source).error()
    assert "lies in" in cli(denoise.main, source, source / "b.zarr").error()
    assert cli(denoise.main, source, tmp_path / "b.zarr").code == 0
    assert cli(denoise.main, source, tmp_path / "b.zarr").code == 0  # again
    np.testing.assert_array_equal(load(tmp_path / "b.zarr"), change(STACK))


@pytest.mark.parametrize("suffix", ["npy", "npz", "zarr", "fits"])
def test_shards_hold_each_image(cli, tmp_path, suffix):
    source, out = write(tmp_path / f"a.{suffix}"), tmp_path / "out"
    words = [f"--out={out}", "--gray", "--tile-size=64", "--workers=1", "--validation-fraction=0"]
    done = cli(build_shards.main, source, *words)
    assert done.code == 0, done.err
    shards = ShardSet(out)
    assert {shards[i].image for i in range(6)} == {f"a.{suffix}/page-{i:03d}" for i in range(6)}
    for tile in (shards[i] for i in range(6)):
        np.testing.assert_array_equal(tile.tile[:, :, 0], np.round(STACK[int(tile.image[-3:])] / 257))
    assert "nothing to do" in cli(build_shards.main, source, *words).out


def test_shards_of_a_folder_that_changed_are_found_out(cli, tmp_path):
    zarr = pytest.importorskip("zarr")
    source, words = (
        tmp_path / "a.zarr",
        [f"--out={tmp_path / 'out'}", "--gray", "--workers=1", "--validation-fraction=0"],
    )
    for number, said in enumerate(("1 images", "nothing to do", "of the same names and sizes")):
        array = STACK[0] + np.uint16(number == 2)
        zarr.create_array(source, data=array, chunks=(40, 48), compressors=None, overwrite=True)
        done = cli(build_shards.main, source, *words)
        assert said in done.out + done.err
    shards = ShardSet(tmp_path / "out")
    assert shards[0].image == "a.zarr" and "axes" not in (tmp_path / "out/manifest.json").read_text()
    np.testing.assert_array_equal(shards[0].tile[:, :, 0], np.round(STACK[0] / 257))


def test_shards_remember_the_axes(cli, tmp_path):
    """So that they can be repaired."""
    source, out = write(tmp_path / "a.npy", STACK.transpose(1, 2, 0)), tmp_path / "out"
    words = [source, f"--out={out}", "--gray", "--tile-size=64", "--workers=1", "--validation-fraction=0"]
    assert "--axes" in cli(build_shards.main, *words).error()
    assert cli(build_shards.main, *words, "--axes=YXT").code == 0
    manifest = read_manifest(out)
    assert manifest.axes == "YXT" and manifest.splits["train"].images == 6
    assert "other images or options" in cli(build_shards.main, *words, "--axes=YXZ").error()


def test_other_commands_take_axes(cli, tmp_path):
    frames = np.random.default_rng(0).normal(1000, 20, (40, 48, 6)).round().astype(np.uint16)
    dark, flat = (write(tmp_path / name, array) for name, array in (("d.npy", frames), ("f.npy", 9 * frames)))
    camera = tmp_path / "camera.yaml"
    words = ["--dark", dark, "--flat", flat, f"--out={camera}", "--white=65535"]
    assert "--axes" in cli(calibrate.main, *words).error()
    assert cli(calibrate.main, *words, "--axes=YXT").code == 0 and camera.exists()
    assert [len(adapt.choose_images(flat, "YXT").training), len(adapt.choose_images(flat, "YXT").held_out)] == [5, 1]
    image = write(tmp_path / "image.npy", np.stack([STACK[0]] * 3))
    words = [image, f"--out={tmp_path / 'noise.png'}", "--no-network"]
    assert "--axes" in cli(inspect_noise.main, *words).error()
    assert "too few places with noise" in cli(inspect_noise.main, *words, "--axes=SYX").error()  # so it was read


# Of formats that are only read: what writes a file of six images, the package that reads it, and its extra.
ONLY_READ = {
    "a.czi": (lambda path: write_czi(path, STACK, "T"), "pylibCZIrw", "microscopes"),
    "a.lif": (lambda path: write_lif(path, {"one": (STACK, "TYX")}, 16), "liffile", "microscopes"),
    "a.nd2": (lambda path: write_nd2(path, STACK, "T", 16), "nd2", "microscopes"),
}


@pytest.mark.parametrize("name", ONLY_READ)
def test_what_is_only_read_becomes_an_ome_tiff(cli, tmp_path, instant, name):
    write_one, package, _ = ONLY_READ[name]
    pytest.importorskip(package)
    (tmp_path / "in").mkdir()
    source, suffix = write_one(tmp_path / "in" / name), Path(name).suffix
    line = cli(denoise.main, "--noise=gaussian:20", source, tmp_path / f"b{suffix}").error()
    assert f"b{suffix}: {suffix} files are read here and not written: end it in .ome.tif or .npy" in line
    assert instant.shapes == []
    for given, out in ((source.parent, tmp_path / "out"), (source, tmp_path / "out"), (source, tmp_path / "c.ome.tif")):
        done = cli(denoise.main, "--noise=gaussian:20", given, out)
        assert done.code == 0, done.err
        assert done.out.splitlines()[0] == f"{suffix} files are only read here: denoised ones end in .ome.tif"
    for target in (tmp_path / "out/a.ome.tif", tmp_path / "c.ome.tif"):
        with tifffile.TiffFile(target) as file:
            assert file.series[0].axes == "TYX"
            np.testing.assert_array_equal(file.asarray(), change(STACK))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.ome.tif"]
    assert cli(denoise.main, "--noise=gaussian:20", source, tmp_path / "b.npy").code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), change(STACK))


@pytest.mark.parametrize("name", ONLY_READ)
def test_shards_and_adapting_find_microscopes_files(cli, tmp_path, name):
    write_one, package, _ = ONLY_READ[name]
    pytest.importorskip(package)
    (tmp_path / "in").mkdir()
    write_one(tmp_path / "in" / name)
    words = [f"--out={tmp_path / 'out'}", "--gray", "--tile-size=64", "--workers=1", "--validation-fraction=0"]
    done = cli(build_shards.main, tmp_path / "in", *words)
    assert done.code == 0, done.err
    shards = ShardSet(tmp_path / "out")
    for tile in (shards[i] for i in range(6)):
        np.testing.assert_array_equal(tile.tile[:, :, 0], np.round(STACK[int(tile.image[-3:])] / 257))
    chosen = adapt.choose_images(tmp_path / "in")
    assert (len(chosen.training), len(chosen.held_out), chosen.channels) == (5, 1, 1)


def test_raw_photographs(cli, tmp_path, instant):
    """Four planes each, on the scale of the file's black and white."""
    pytest.importorskip("rawpy")
    mosaic = (64 + STACK.reshape(120, 96) // 16 * 0.9).astype(np.uint16)
    (tmp_path / "in").mkdir()
    for name in "ab":
        write_dng(tmp_path / f"in/{name}.dng", mosaic, white=4000)
    done = cli(denoise.main, "--noise=gaussian:20", tmp_path / "in", tmp_path / "out")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == ".dng files are only read here: denoised ones end in .ome.tif"
    assert done.out.count("its 4 images are R, G1, G2, B; black is 64 and white 4000") == 2
    assert instant.shapes == [(60, 48, 1)] * 8 and instant.scales == {(64, 4000)}
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out/b.ome.tif")[3], change(mosaic[1::2, 1::2]))
    words = [f"--out={tmp_path / 'shards'}", "--gray", "--tile-size=128", "--workers=1", "--validation-fraction=0"]
    done = cli(build_shards.main, tmp_path / "in", *words)
    assert done.code == 0, done.err
    shards = ShardSet(tmp_path / "shards")
    tiles = {tile.image: tile.tile[:, :, 0] for tile in (shards[i] for i in range(len(shards)))}
    assert tiles.keys() == {f"{name}.dng/page-{i:03d}" for name in "ab" for i in range(4)}
    wanted = np.round(np.clip((mosaic[1::2, ::2] - 64.0) / (4000 - 64), 0, 1) * 255)
    np.testing.assert_array_equal(tiles["a.dng/page-002"], wanted)
    assert len(adapt.choose_images(tmp_path / "in").training) == 7


def test_openexr(cli, tmp_path, instant):
    OpenEXR = pytest.importorskip("OpenEXR")
    planes = {name: 4 * values(np.float16, 40, 48 + place)[:, place:] for place, name in enumerate("RGB")}
    OpenEXR.File({"type": OpenEXR.scanlineimage}, dict(planes)).write(str(tmp_path / "a.exr"))
    words = ["--noise=gaussian:20", tmp_path / "a.exr", tmp_path / "b.exr"]
    assert "a.exr has values up to 3.994 and no word on white: name it" in cli(denoise.main, *words).error()
    assert instant.shapes == [] and not (tmp_path / "b.exr").exists()
    done = cli(denoise.main, *words, "--white=4")
    assert done.code == 0, done.err
    again = OpenEXR.File(str(tmp_path / "b.exr"), separate_channels=True).channels()
    for name, plane in planes.items():
        assert again[name].pixels.dtype == np.float16
        np.testing.assert_array_equal(again[name].pixels, change(plane))
    line = cli(build_shards.main, tmp_path / "a.exr", f"--out={tmp_path / 'out'}", "--validation-fraction=0").error()
    assert "a.exr has values of type float16: convert it" in line


MISSING = {
    "a.zarr": (write, "zarr", "science"),
    "a.fits": (write, "astropy", "science"),
    "a.dcm": (lambda path: path.write_bytes(bytes(128) + b"DICM" + bytes(64)), "pydicom", "science"),
    "a.exr": (lambda path: path.write_bytes(b"\x76\x2f\x31\x01" + bytes(64)), "OpenEXR", "raw"),
    "a.dng": (lambda path: write_dng(path, STACK[0]), "rawpy", "raw"),
    **ONLY_READ,
}


@pytest.mark.parametrize("name", [*ONLY_READ, "a.dng"])
def test_a_file_that_was_cut_off_is_one_line(cli, tmp_path, instant, name):
    write_one, package, _ = MISSING[name]
    pytest.importorskip(package)
    path, target = write_one(tmp_path / name), tmp_path / "b.ome.tif"
    path.write_bytes(path.read_bytes()[:-1000])
    line = cli(denoise.main, "--noise=gaussian:20", path, target).error()
    assert f"{path} is not a readable image" in line or f"{path} can't be decoded" in line
    assert [each.name for each in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", MISSING)
def test_a_package_that_is_missing_is_named_with_its_extra(cli, tmp_path, monkeypatch, instant, name):
    write_one, package, extra = MISSING[name]
    write_one(tmp_path / name)
    for module in [each for each in sys.modules if each.split(".")[0] == package] + [package]:
        monkeypatch.setitem(sys.modules, module, None)
    target = tmp_path / ("b.tif" if name in ONLY_READ or name == "a.dng" else f"b{name[1:]}")
    line = cli(denoise.main, tmp_path / name, target).error()
    assert f"{name} takes the package {package}: pip install n2s_dist[{extra}]" in line
    assert [path.name for path in tmp_path.iterdir()] == [name]

"""Folders that become benchmarks: well-known ones are what they say, noisy and clean files are pairs."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from n2s_dist.datasets.catalogue import find_dataset, known_names
from n2s_dist.evaluation.benchmarks import KNOWN, Benchmark, parse_folders
from n2s_dist.utils.errors import UserError

COLORS = {1: "gray", 3: "color"}


def blanks(folder: Path, count: int, width: int, height: int, mode: str = "RGB") -> Path:
    """Black images: only their headers are looked at."""
    folder.mkdir()
    Image.new(mode, (width, height)).save(folder / "00.png")
    for number in range(1, count):
        shutil.copy(folder / "00.png", folder / f"{number:02d}.png")
    return folder


@pytest.mark.parametrize(
    ("name", "count", "width", "height", "mode"),
    [
        ("kodak24", 24, 500, 500, "RGB"),
        ("kodak_full", 24, 512, 768, "RGB"),
        ("bsd68", 68, 48, 32, "L"),
        ("set12", 12, 25, 25, "L"),
    ],
)
def test_well_known_benchmarks_open_under_their_names(tmp_path, name, count, width, height, mode):
    found = Benchmark.open(name, blanks(tmp_path / "a", count, width, height, mode), None, "float")
    assert len(found.tasks) == count and {task.size for task in found.tasks} == {(height, width)}
    assert found.channels == KNOWN[name].channels and found.protocol == "float"


@pytest.mark.parametrize(
    ("name", "count", "width", "height", "mode", "words"),
    [
        ("kodak24", 24, 768, 512, "RGB", "is color, 768 x 512, as in kodak_full"),
        ("kodak24", 24, 512, 768, "RGB", "is color, 512 x 768, as in kodak_full"),
        ("kodak_full", 24, 500, 500, "RGB", "is color, 500 x 500, as in kodak24"),
        ("kodak24", 23, 500, 500, "RGB", "it has 23 images"),
        ("set12", 14, 25, 25, "L", "it has 14 images"),
        ("cbsd68", 68, 48, 32, "L", "is gray, 48 x 32"),
        ("bsd68", 68, 48, 32, "RGB", "is color, 48 x 32"),
        ("cbsd68", 5, 48, 32, "RGB", "which has 68 color images: it has 5 images; give other images another name"),
    ],
)
def test_a_folder_under_another_benchmarks_name_is_refused_in_one_line(
    tmp_path, name, count, width, height, mode, words
):
    folder = blanks(tmp_path / "a", count, width, height, mode)
    with pytest.raises(UserError) as refusal:
        Benchmark.open(name, folder, None, "float")
    assert f"{folder} is not {name}" in str(refusal.value) and words in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert len(Benchmark.open("mine", folder, None, "float").tasks) == count


@pytest.mark.parametrize("name", sorted(KNOWN.keys() & set(known_names())))
def test_what_is_known_of_them_is_what_their_descriptions_say(name):
    described = find_dataset(name)
    assert (described.images, described.color) == (KNOWN[name].images, COLORS[KNOWN[name].channels])
    if KNOWN[name].size:
        assert described.sizes == (KNOWN[name].size,)


# --- noisy files ------------------------------------------------------------------------------------------


@pytest.fixture
def pair(photographs, tmp_path) -> tuple[Path, Path]:
    """Two clean images, and two of the same names, one with another suffix."""
    clean, noisy = tmp_path / "clean", tmp_path / "noisy"
    for folder in (clean, noisy):
        folder.mkdir()
        for name in ("coffee.png", "rocket.png"):
            shutil.copy(photographs / name, folder / name)
    Image.open(noisy / "coffee.png").save(noisy / "coffee.tif")
    (noisy / "coffee.png").unlink()
    return clean, noisy


def test_noisy_files_go_with_the_clean_ones_of_their_names(pair):
    found = Benchmark.open("a", *pair, "float")
    assert [(task.image.name, task.noisy.name) for task in found.tasks if task.noisy] == [
        ("coffee.png", "coffee.tif"),
        ("rocket.png", "rocket.png"),
    ]
    assert all(task.has_truth for task in found.tasks) and found.protocol == "uint8_input"


def test_noisy_files_alone_have_no_truth(pair):
    found = Benchmark.open("a", None, pair[1], "float")
    assert [task.has_truth for task in found.tasks] == [False, False] and found.protocol == "uint8_input"


def test_missing_and_extra_noisy_files_are_named(pair):
    clean, noisy = pair
    (noisy / "rocket.png").rename(noisy / "socket.png")
    with pytest.raises(UserError, match=r"only one of them has rocket, socket"):
        Benchmark.open("a", clean, noisy, "float")
    (noisy / "socket.png").unlink()
    with pytest.raises(UserError, match=r"only one of them has rocket$"):
        Benchmark.open("a", clean, noisy, "float")


def test_noisy_files_that_differ_in_their_suffix_alone_are_refused(pair):
    clean, noisy = pair
    shutil.copy(clean / "coffee.png", noisy / "coffee.png")
    with pytest.raises(UserError, match="differ in their suffix alone"):
        Benchmark.open("a", clean, noisy, "float")


def test_a_noisy_file_of_another_size_or_color_is_named(pair):
    clean, noisy = pair
    for picture in (Image.new("RGB", (10, 10)), Image.open(clean / "rocket.png").convert("L")):
        picture.save(noisy / "rocket.png")
        with pytest.raises(UserError, match=r"noisy/rocket.png and .*clean/rocket.png differ in size or in color"):
            Benchmark.open("a", clean, noisy, "float")


# --- names and contents ----------------------------------------------------------------------------------


def test_the_digest_is_of_names_pixels_and_protocol_but_not_of_where_they_lie(photographs, tmp_path):
    def digest(folder: Path, name: str = "a", protocol: str = "float") -> str:
        return Benchmark.open(name, folder, None, protocol).digest()

    moved = shutil.copytree(photographs, tmp_path / "moved")
    first = digest(photographs)
    assert digest(moved) == first
    assert len({first, digest(moved, "b"), digest(moved, protocol="uint8_input")}) == 3
    pixels = np.array(Image.open(moved / "coffee.png"))
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(moved / "coffee.png")
    assert digest(moved) != first


@pytest.mark.parametrize("word", ["cbsd68", "=folder", "cbsd68=", "", "../x=folder", ".x=folder"])
def test_what_is_no_pair_of_name_and_folder_is_refused(word):
    with pytest.raises(UserError, match=r"--benchmark .*NAME"):
        parse_folders([word], "--benchmark")


def test_a_folder_may_have_an_equals_sign_and_a_name_comes_once():
    assert parse_folders(["a=b=c"], "--noisy") == {"a": Path("b=c")}
    with pytest.raises(UserError, match="--noisy a is given twice"):
        parse_folders(["a=b", "a=c"], "--noisy")


@pytest.mark.parametrize(
    "pair", [("noisy/1.png", "clean/1.png"), ("raw/1.png", "gt/1.png"), ("1_real.png", "1_mean.png")]
)
def test_photographs_and_their_truth_are_found_below_one_folder(tmp_path, pair):
    for shade, name in enumerate(pair):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (512, 512), shade).save(path)
    found = Benchmark.open_photographs("fmd", tmp_path)
    (task,) = found.tasks
    assert found.protocol == "uint8_input" and task.has_truth and task.noisy
    assert (task.noisy.path, task.image.path) == (tmp_path / pair[0], tmp_path / pair[1])


@pytest.mark.parametrize("names", [["1.png"], ["1_real.png"], ["1_real.png", "2_mean.png"]])
def test_photographs_without_their_truth_are_refused(tmp_path, names):
    for name in names:
        Image.new("L", (512, 512)).save(tmp_path / name)
    with pytest.raises(UserError, match="does not hold noisy photographs and their truth"):
        Benchmark.open_photographs("fmd", tmp_path)

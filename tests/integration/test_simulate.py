"""n2s simulate: pairs of noisy images and truth in files, the same again, and one line for mistakes."""

import numpy as np
import pytest
import tifffile
from PIL import Image
from support.paths import ROOT

from n2s_dist.commands.simulate import main, read_instrument
from n2s_dist.images.eight_bit import to_uint8


def pixels(path) -> np.ndarray:
    return tifffile.imread(path) if path.suffix == ".tif" else np.asarray(Image.open(path))


def test_a_camera_writes_pairs_that_repeat(photographs, cli, tmp_path):
    for out in ("a", "b"):
        done = cli(main, "full_frame", photographs, "--iso", 6400, "--out", tmp_path / out)
        assert done.code == 0, done.err
    names = sorted(path.stem for path in photographs.iterdir())
    camera = read_instrument(str(ROOT / "configs/cameras/full_frame.yaml"))
    for name in names:
        noisy, truth = (pixels(tmp_path / "a" / kind / f"{name}.png") for kind in ("noisy", "truth"))
        for kind, image in (("noisy", noisy), ("truth", truth)):
            np.testing.assert_array_equal(image, pixels(tmp_path / "b" / kind / f"{name}.png"))
        clean = np.asarray(Image.open(photographs / f"{name}.png")) / 255
        expected, same = camera.simulate(clean, 6400, 0, name)
        np.testing.assert_array_equal(noisy, expected)
        np.testing.assert_array_equal(truth, same)
    assert len(list((tmp_path / "a/noisy").iterdir())) == len(names)


def test_options_of_a_camera_count(photographs, cli, tmp_path):
    image = next(photographs.iterdir())
    for out, options in (("a", []), ("b", ["--demosaicing=malvar"]), ("c", ["--jpeg=80"]), ("d", ["--seed=1"])):
        assert cli(main, "phone", image, "--iso=1600", "--out", tmp_path / out, *options).code == 0
    plain, sharp, jpeg, other = (pixels(tmp_path / out / "noisy" / f"{image.stem}.png") for out in "abcd")
    truths = [pixels(tmp_path / out / "truth" / f"{image.stem}.png") for out in "abcd"]
    assert (plain != sharp).any() and (plain != jpeg).any() and (plain != other).any()
    assert (truths[0] != truths[1]).any() and (truths[0] == truths[2]).all() and (truths[0] == truths[3]).all()


def test_a_microscope_writes_stacks_of_frames_and_their_truth(photographs, cli, tmp_path):
    image = next(photographs.iterdir())
    assert cli(main, "scmos", image, "--electrons=500", "--frames=6", "--out", tmp_path).code == 0
    noisy, truth = (pixels(tmp_path / kind / f"{image.stem}.tif") for kind in ("noisy", "truth"))
    assert noisy.shape == (6, *truth.shape) and noisy.dtype == truth.dtype == np.uint16
    microscope = read_instrument("scmos")
    clean = np.asarray(Image.fromarray(to_uint8(np.asarray(Image.open(image)) / 255)).convert("L")) / 255
    frame, same = microscope.simulate(clean, 0, image.stem, frame=5, electrons=500)
    np.testing.assert_array_equal(noisy[5], frame)
    np.testing.assert_array_equal(truth, same)


MISTAKES = [
    (("full_fram", "--iso=100"), "there is no camera 'full_fram', did you mean 'full_frame'?"),
    (("full_frame",), "--iso is missing: the camera has 100, 400"),
    (("full_frame", "--iso=123"), "--iso is 123: the camera has 100, 400"),
    (("full_frame", "--iso=100", "--frames=2"), "--frames is given, but full_frame is a camera"),
    (("full_frame", "--iso=100", "--jpeg=0"), "--jpeg is 0: give a quality from 1 to 100"),
    (("scmos", "--iso=100"), "--iso is given, but scmos is a microscope"),
    (("scmos", "--electrons=-1"), "--electrons is -1.0: give 0, for the dark, or more"),
    (("scmos", "--seed=-1"), "--seed is -1"),
]


@pytest.mark.parametrize(("words", "said"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_mistakes_get_one_line_and_nothing_is_written(words, said, photographs, cli, tmp_path):
    assert said in cli(main, words[0], photographs, *words[1:], "--out", tmp_path / "out").error()
    assert not (tmp_path / "out").exists()


FILES = [
    ("kind: telescope\n", "its kind is telescope, not camera or microscope"),
    ("- 1\n", "its kind is None"),
    ("kind: microscope\nmodel: a\ngian: 1\n", "a microscope has no 'gian', did you mean 'gain'?"),
    ("kind: microscope\nmodel: a\ngain: 1\n", "the microscope has no 'read_noise': give it"),
    ("kind: microscope\nmodel: a\ngain: high\nread_noise: 1\noffset: 1\nelectrons: 1\n", "gain is high: give a number"),
    ("kind: microscope\nmodel: a\ngain: 1\nread_noise: .inf\noffset: 1\nelectrons: 1\n", "read_noise is inf: give a"),
    ("kind: microscope\nmodel: a\ngain: -1\nread_noise: 1\noffset: 1\nelectrons: 1\n", "gain is above 0"),
    ("kind: microscope\nmodel: a\ngain: 1\nread_noise: 1\noffset: 1\nelectrons: 1\nbits: 8.5\n", "give a whole number"),
]


@pytest.mark.parametrize(("text", "said"), FILES)
def test_a_file_that_is_no_instrument_is_named(text, said, photographs, cli, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    error = cli(main, path, photographs, "--out", tmp_path / "out").error()
    assert str(path) in error and said in error and not (tmp_path / "out").exists()


def test_two_images_of_one_name_are_refused(photographs, cli, tmp_path):
    image = next(photographs.iterdir())
    (tmp_path / "more").mkdir()
    Image.open(image).save(tmp_path / "more" / f"{image.stem}.bmp")
    done = cli(main, "phone", photographs, tmp_path / "more", "--iso=50", "--out", tmp_path / "out")
    assert "would be written to one file: rename one of them" in done.error() and not (tmp_path / "out").exists()


def test_clean_images_are_not_overwritten(photographs, cli, tmp_path):
    image = next(photographs.iterdir())
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / image.name).write_bytes(image.read_bytes())
    done = cli(main, "phone", tmp_path / "truth", "--iso=50", "--out", tmp_path)
    assert "would be overwritten: choose another --out" in done.error()
    assert (tmp_path / "truth" / image.name).read_bytes() == image.read_bytes()

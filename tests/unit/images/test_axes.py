"""Axes of arrays: what a shape says by itself, what it leaves open, and how images lie in an array."""

from pathlib import Path

import numpy as np
import pytest

from n2s_dist.images.axes import Axes, check_axes, find_axes
from n2s_dist.utils.errors import UserError

PATH = Path("a.npy")


@pytest.mark.parametrize(
    "shape, names",
    [
        ((40, 50), "YX"),
        ((5, 5), "YX"),
        ((100, 512, 512), "QYX"),
        ((2, 40, 50), "QYX"),
        ((600, 480, 512), "QYX"),
        ((40, 50, 3), "YXS"),
        ((40, 50, 1), "YXS"),
        ((7, 40, 50, 3), "QYXS"),
        ((5, 6, 40, 50), "QPYX"),
        ((2, 5, 6, 40, 50), "QPOYX"),
    ],
)
def test_shapes_that_can_be_but_one_thing(shape, names):
    assert find_axes(PATH, shape, None) == Axes(names, shape)


@pytest.mark.parametrize(
    "shape",
    [
        (3, 40, 50),  # color first, or three images
        (4, 40, 50),
        (40, 50, 4),  # color with opacity, or four channels
        (40, 50, 2),
        (512, 512, 100),  # images behind each other
        (10, 3, 40, 50),
        (64, 64, 20, 30),
        (7,),
        (2, 2, 2, 2, 2, 2, 40, 50),
    ],
)
def test_shapes_that_can_be_several_things_are_refused_by_the_flag(shape):
    with pytest.raises(UserError, match=r"a\.npy has axes of lengths .*--axes [A-Z]+ \(Y rows, X columns"):
        find_axes(PATH, shape, None)


@pytest.mark.parametrize("names", ["TZCYX", "YXS", "SYX", "TYXZ", "XYT", "YTX", "CYXS"])
def test_each_image_is_its_slice_whatever_the_order(names):
    lengths = {"T": 2, "Z": 3, "C": 4, "Y": 5, "X": 6, "S": 3}
    array = np.arange(np.prod([lengths[name] for name in names])).reshape([lengths[name] for name in names])
    axes = Axes(names, array.shape)
    counting = [name for name in names if name not in "YXS"]
    order = [names.index(name) for name in (*counting, "Y", "X", *("S" if "S" in names else ""))]
    wanted = array.transpose(order).reshape(-1, 5, 6, 3 if "S" in names else 1)
    back = np.zeros_like(array)
    assert axes.images == len(wanted)
    for number, truth in enumerate(wanted):
        image = axes.to_image(array[axes.place(number)])
        np.testing.assert_array_equal(image.pixels, truth)
        back[axes.place(number)] = axes.to_plane(image)
    np.testing.assert_array_equal(back, array)


def test_opacity_is_the_last_of_two_or_four():
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    axes = Axes("YXS", array.shape)
    image = axes.to_image(array)
    assert image.pixels.shape == (2, 3, 3) and image.alpha is not None
    np.testing.assert_array_equal(image.alpha[:, :, 0], array[:, :, 3])
    np.testing.assert_array_equal(axes.to_plane(image), array)


def test_what_a_user_names_is_checked():
    assert check_axes("tzyx") == "TZYX" and check_axes(None) is None
    for wrong in ("TZY", "YXX", "Y X", ""):
        with pytest.raises(UserError, match="--axes is"):
            check_axes(wrong)
    with pytest.raises(UserError, match=r"has 3 axes, of lengths \[4, 5, 6\], and --axes TZYX 4"):
        find_axes(PATH, (4, 5, 6), "TZYX")
    assert find_axes(PATH, (4, 5, 6), "YXC", "CYX").names == "YXC"  # before the file's own word
    with pytest.raises(UserError, match="color of 7 values"):
        Axes("YXS", (5, 6, 7)).contents("npy", "array", np.dtype(np.uint8), PATH)

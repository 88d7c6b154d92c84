"""What black and white are in an image's values: the type's range, the user's word, or a refusal in one line."""

import numpy as np
import pytest

from n2s_dist.images.decoded import to_eight_bits
from n2s_dist.images.scale import Scale, find_scale, value_range
from n2s_dist.utils.errors import UserError

RNG = np.random.default_rng(0)
CAMERA = RNG.normal(140, 15, (64, 80)).clip(100, 180).astype(np.uint16)  # 7 bits above an offset of 100


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(np.uint8, (0, 255)), (np.int8, (-128, 127)), (np.uint16, (0, 65535)), (np.int16, (-32768, 32767)),
     (np.uint32, (0, 2**32 - 1)), (">u2", (0, 65535)), (np.float32, None), (np.float64, None)],
)  # fmt: skip
def test_a_type_that_is_filled_has_its_own_range(dtype, expected):
    kind = np.dtype(dtype)
    ends = (0, 1) if kind.kind == "f" else (np.iinfo(kind).min, np.iinfo(kind).max)
    values = RNG.uniform(*ends, (64, 80)).astype(kind)
    assert find_scale(values) == expected


@pytest.mark.parametrize("hot", [0, 1, 4])
def test_data_that_fill_a_part_of_16_bits_are_refused_however_hot_a_pixel_is(hot):
    values = CAMERA.copy()
    values.flat[:hot] = 65535
    with pytest.raises(UserError, match=r"between 10\d and 18\d, but those of uint16 go up to 65535: .*--white 4095"):
        find_scale(values)
    assert find_scale(values, white=4095) == Scale(0, 4095)
    assert find_scale(values, white=300, black=100) == Scale(100, 300)
    assert find_scale(values, word=Scale(0, 1023)) == Scale(0, 1023)  # the file's own word
    assert find_scale(values, word=Scale(64, 1023), white=4095) == Scale(64, 4095)


def test_a_quarter_of_the_range_is_the_most_that_is_refused():
    for bits in (8, 10, 12, 14):
        with pytest.raises(UserError, match="--white"):
            find_scale(RNG.integers(0, 2**bits, (64, 80)).astype(np.uint16))
    assert find_scale(RNG.integers(0, 2**15, (64, 80)).astype(np.uint16)) == Scale(0, 65535)
    assert find_scale(np.zeros((64, 80), np.uint16)) == Scale(0, 65535)  # nothing to harm


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, np.uint32, np.uint64])
def test_types_of_no_known_range_are_settled_by_white_and_black(dtype):
    values = CAMERA.astype(dtype)
    with pytest.raises(UserError, match="say what white is"):
        find_scale(values)
    assert find_scale(values, white=255, black=100) == Scale(100, 255)
    if np.dtype(dtype).kind == "i":
        assert find_scale(values - 1000, white=0, black=-1000) == Scale(-1000, 0)
        with pytest.raises(UserError, match="say what white is"):
            find_scale(values - 1000)


def test_what_can_not_be_is_refused():
    for given, message in (
        ({"white": 100, "black": 100}, "give two numbers"),
        ({"white": float("nan")}, "give two numbers"),
        ({"white": 70_000}, "--white is 70000, but values lie between 0 and 65535"),
        ({"white": 4095, "black": -5}, "--black is -5, but values lie between 0 and 65535"),
        ({"white": 60}, "more than twice --white 60"),
        ({"white": 4095, "black": 200}, "which is below --black 200"),
    ):
        with pytest.raises(UserError, match=message):
            find_scale(CAMERA, **given)
    floats = RNG.uniform(0, 1, (64, 80))
    with pytest.raises(UserError, match=r"go up to \S+, as on the 0-1 scale, but --black is 0 and --white 4095: l"):
        find_scale(floats, white=4095)
    assert find_scale(1000 * floats, white=4095) == Scale(0, 4095) and find_scale(floats, white=2) == Scale(0, 2)
    with pytest.raises(UserError, match="of type bool have no known range"):
        find_scale(CAMERA > 3, white=1)


def test_the_range_of_values_leaves_out_what_is_not_there():
    values = np.arange(1000.0)
    values[:10], values[10:20] = np.nan, np.inf
    assert value_range(values) == (21, 998)
    assert value_range(np.ma.masked_less(np.arange(1000), 500)) == (500, 999)
    assert value_range(np.ma.masked_all((4, 4), np.uint8)) == (0, 0)
    large = np.zeros((1200, 1201, 3), np.uint16)  # one channel must not stand for all
    large[..., 1] = 60_000
    assert value_range(large)[1] == 60_000


def test_values_below_black_do_not_wrap_around():
    values = np.array([90, 100, 4095], np.uint16)
    np.testing.assert_allclose(Scale(100, 4095).to_unit(values), [-10 / 3995, 0, 1])
    signed = np.array([-128, -1, 0, 127], np.int8)
    assert to_eight_bits(signed, find_scale(signed)).tolist() == [0, 127, 128, 255]

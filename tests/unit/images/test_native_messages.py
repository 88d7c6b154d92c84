"""What packages print: kept from the screen, and an error where it tells of damage."""

import os
import sys

import pytest

from n2s_dist.images.native_messages import damage_printed


@pytest.mark.parametrize("is_native", [True, False])
def test_damage_that_is_printed_is_an_error(capfd, is_native):
    with pytest.raises(ValueError, match="data corrupted at 5"), damage_printed("corrupted"):
        if is_native:
            os.write(2, b"unknown file: data corrupted at 5\nand more\n")
        else:
            print("unknown file: data corrupted at 5")
    assert capfd.readouterr() == ("", "")


def test_all_else_is_kept_from_the_screen_and_errors_come_through(capfd):
    with damage_printed("corrupted"):
        os.write(2, b"a remark\n")
        print("another")
    with pytest.raises(KeyError), damage_printed("corrupted"):
        os.write(2, b"data corrupted\n")
        raise KeyError
    print("shown", file=sys.stderr)
    assert capfd.readouterr() == ("", "shown\n")

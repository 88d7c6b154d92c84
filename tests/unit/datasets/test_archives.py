"""Archives that mean harm, or were damaged on the way."""

import io
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support.archives import IMAGES, contents, tarred, zipped

from n2s_dist.datasets.archives import _copy, unpack
from n2s_dist.utils.errors import UserError


@pytest.mark.parametrize("pack", [zipped, tarred], ids=["zip", "tar"])
@pytest.mark.parametrize("name", ["../evil.png", "/tmp/evil.png", "a/../../evil.png", "..\\evil.png", "../../evil.txt"])
def test_members_that_point_outside_are_refused(tmp_path, pack, name):
    (tmp_path / "set").write_bytes(pack({"1.png": IMAGES["1.png"], name: b"evil"}))
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="don't trust this archive"):
        unpack(tmp_path / "set", tmp_path / "in", lambda member: True)
    assert {path.name for path in tmp_path.rglob("*")} <= {"set", "in", "1.png"} and not Path("/tmp/evil.png").exists()


def test_links_and_devices_stay_in_the_archive(tmp_path):
    def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        return info

    members = {
        "link.png": special("link.png", tarfile.SYMTYPE, "/etc/passwd"),
        "hard.png": special("hard.png", tarfile.LNKTYPE, "/etc/passwd"),
        "char.png": special("char.png", tarfile.CHRTYPE),
        "block.png": special("block.png", tarfile.BLKTYPE),
        "fifo.png": special("fifo.png", tarfile.FIFOTYPE),
        "folder.png": special("folder.png", tarfile.DIRTYPE),
        "out": special("out", tarfile.SYMTYPE, ".."),
        "out/1.png": IMAGES["1.png"],
    }
    (tmp_path / "in").mkdir()
    (tmp_path / "set").write_bytes(tarred(members, "w:gz"))
    assert unpack(tmp_path / "set", tmp_path / "in", lambda member: member.endswith(".png")) == 1
    assert contents(tmp_path / "in") == {"1.png": IMAGES["1.png"]} and not (tmp_path / "1.png").exists()

    with zipfile.ZipFile(tmp_path / "set", "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    assert unpack(tmp_path / "set", tmp_path / "in", lambda member: True) == 0


@pytest.mark.parametrize("pack", [zipped, lambda members: tarred(members, "w:gz")], ids=["zip", "tar.gz"])
def test_what_unpacks_to_too_much_is_refused_unread(tmp_path, pack):
    (tmp_path / "set").write_bytes(pack({"1.png": IMAGES["1.png"], "2.png": bytes(2**22)}))
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="unpacks to more than 1 MiB"):
        unpack(tmp_path / "set", tmp_path / "in", lambda member: True, most_bytes=2**20)
    assert set(contents(tmp_path / "in")) == {"1.png"}


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_claims_a_terabyte(tmp_path, kind):
    info = tarfile.TarInfo("1.png")
    info.size, info.type = 2**40, kind
    (tmp_path / "set").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError):
        unpack(tmp_path / "set", tmp_path / "in", lambda member: True)
    assert not contents(tmp_path / "in")


def test_a_member_that_holds_more_than_it_declares(tmp_path):
    data = bytearray(zipped({"1.png": bytes(2**20)}))
    for signature, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):  # both headers: the size after inflating
        struct.pack_into("<I", data, data.index(signature) + offset, 1000)
    (tmp_path / "set").write_bytes(data)
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError):
        unpack(tmp_path / "set", tmp_path / "in", lambda member: True)
    assert all(len(content) <= 1000 for content in contents(tmp_path / "in").values())


@pytest.mark.parametrize("size", [9, 11])
def test_members_are_copied_to_the_byte_or_refused(tmp_path, size):
    with pytest.raises((UserError, EOFError)):
        _copy(io.BytesIO(bytes(10)), tmp_path / "1.png", size, tmp_path / "set")
    assert (tmp_path / "1.png").stat().st_size <= size


def test_an_impossible_offset_is_damage(tmp_path):
    data = bytearray(zipped({"1.png": IMAGES["1.png"]}))
    place = data.index(b"PK\5\6") + 16
    struct.pack_into("<I", data, place, struct.unpack_from("<I", data, place)[0] + 5)  # members begin at -5
    (tmp_path / "set").write_bytes(data)
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="damaged"):
        unpack(tmp_path / "set", tmp_path / "in", lambda member: True)


def test_two_images_of_one_name_and_encrypted_ones_are_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "set").write_bytes(zipped({"a/1.png": IMAGES["1.png"], "b/1.png": IMAGES["2.png"]}))
    with pytest.raises(UserError, match=r"two images with the name 1\.png"):
        unpack(tmp_path / "set", tmp_path / "in", lambda member: True)
    data = bytearray(zipped({"2.png": IMAGES["2.png"]}))
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + offset] |= 1
    (tmp_path / "set").write_bytes(data)
    with pytest.raises(UserError, match="encrypted"):
        unpack(tmp_path / "set", tmp_path / "in", lambda member: True)


@pytest.mark.parametrize(
    "pack",
    [zipped, lambda m: zipped(m, zipfile.ZIP_BZIP2), tarred, lambda m: tarred(m, "w:gz")],
    ids=["zip", "bzip2", "tar", "tar.gz"],
)
def test_damaged_archives_are_named_whatever_is_wrong(tmp_path, pack):
    """Cut or changed anywhere: one UserError, or (where a plain tar has no checksum) images all the same."""
    whole, rng = pack({name: data[:300] for name, data in IMAGES.items()}), np.random.default_rng(0)
    refused = 0
    for trial in range(120):
        data = bytearray(whole[: rng.integers(len(whole))] if trial % 2 else whole)
        for place in rng.integers(0, max(1, len(data)), 3 if trial % 2 == 0 else 0):
            data[place] ^= int(rng.integers(1, 256))
        (tmp_path / "set").write_bytes(data)
        folder = tmp_path / f"in{trial}"
        folder.mkdir()
        try:
            unpack(tmp_path / "set", folder, lambda member: member.endswith(".png"))
        except UserError as error:
            refused += 1
            assert str(tmp_path / "set") in str(error)
    assert refused > 20

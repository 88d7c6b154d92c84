"""Many damaged tars, indexes and manifests: clear words, no crash, no hang, little memory, nothing outside."""

import json
import random
import shutil
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.patience import SOON_SEC

from n2s_dist.shards import tar_format, verify
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.shards.manifest import read_manifest
from n2s_dist.shards.reader import ShardSet
from n2s_dist.utils import tar_members
from n2s_dist.utils.errors import UserError

NAME = "train-000000"
MUTANTS = 160  # 25 times as many with --thorough
HUGE = (2**33 - 1, 8_000_000_000, 2**62, 2**31)


@pytest.fixture(scope="module")
def whole(random_images) -> Path:
    """A small set: eight tiles of 16 x 16."""
    source = random_images(2, 32, 32)
    build_shards([str(source)], source.with_name("shards"), BuildOptions(16, validation_fraction=0), workers=1)
    return source.with_name("shards")


# --- mutations --------------------------------------------------------------------------------------


def with_checksum(header: bytes) -> bytes:
    """A tar header made to look right again."""
    blank = header[:148] + b" " * 8 + header[156:]
    return blank[:148] + f"{sum(blank):06o}\0 ".encode() + blank[156:]


def flip_bytes(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 10, 100))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def extend(data: bytes, rng: random.Random) -> bytes:
    return data + rng.randbytes(rng.choice((1, 511, 512, 5000)))


def swap_parts(data: bytes, rng: random.Random) -> bytes:
    a, b = sorted(rng.randrange(len(data)) for _ in range(2))
    return data[b:] + data[a:b] + data[:a]


def repeat_part(data: bytes, rng: random.Random) -> bytes:
    """Duplicate keys, when the part is one of whole samples."""
    unit = rng.choice((1, 512)) if len(data) > 2048 else 1
    a, b = sorted(rng.randrange(len(data) // unit) * unit for _ in range(2))
    return data[:b] + data[a:]


def tar_header(data: bytes, rng: random.Random) -> bytes:
    """One field of one header, the header's checksum made right: names, types and sizes a reader may believe."""
    starts = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    at = rng.choice(starts)
    header = bytearray(data[at : at + 512])
    kind = rng.randrange(4)
    if kind == 0:
        size = rng.choice((*HUGE, 0, 1, 511, rng.randrange(len(data))))
        field = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
        header[124:136] = field
    elif kind == 1:
        names = (
            b"../../../../etc/passwd.npy",
            b"/etc/passwd.npy",
            b"000000001.npy",
            b"a b.npy",
            b"\xff\xfe.npy",
            b"",
            b"x",
        )
        header[:100] = rng.choice(names).ljust(100, b"\0")
    elif kind == 2:
        header[156:157] = rng.choice((b"1", b"2", b"3", b"5", b"x", b"g", b"L", b"K", b"S", b"V", b"\0"))
        header[157:257] = b"/etc/passwd".ljust(100, b"\0")
    else:
        header[rng.randrange(512)] = rng.randrange(256)
    return data[:at] + with_checksum(bytes(header)) + data[at + 512 :]


def npy_header(data: bytes, rng: random.Random) -> bytes:
    shapes = (
        b"(99999999999, 16, 3)",
        b"(-16, -16, 3)      ",
        b"(16, 16, 3, 1)",
        b"()",
        b"(0, 0, 3)",
        b"(" * 200,
        b"(1" + b"0" * 60,
    )
    old = b"(16, 16, 3), }"
    at = rng.choice([i for i in range(len(data)) if data[i : i + len(old)] == old])
    new = rng.choice(shapes)[:40].ljust(len(old)) if rng.random() < 0.7 else b"object, pickle"
    return data[:at] + new[: len(old)].ljust(len(old)) + data[at + len(old) :]


def a_number(data: bytes, rng: random.Random) -> bytes:
    """A number of a text in place of another: huge, negative, fractional, none at all."""
    words = data.split(b" ")
    places = [i for i, word in enumerate(words) if word.strip(b",\n").isdigit()]
    words[rng.choice(places)] = str(
        rng.choice((*HUGE, -1, 0, 10**30, 1.5, "NaN", "1e400", "null", '"3"', "[]"))
    ).encode()
    return b" ".join(words)


def manifest_value(data: bytes, rng: random.Random) -> bytes:
    """A wrong value of the right or a wrong type somewhere in the tree."""
    tree = json.loads(data)
    node = tree
    while True:
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if isinstance(node[key], dict | list) and node[key] and rng.random() < 0.8:
            node = node[key]
            continue
        values = (
            "../../etc/passwd.tar",
            "/etc/passwd",
            "..",
            "a/b.tar",
            "",
            None,
            -1,
            2**70,
            1.5,
            True,
            [],
            {},
            [[]],
            "x" * 9999,
        )
        node[key] = rng.choice(values)
        return json.dumps(tree).encode()


def nested(data: bytes, rng: random.Random) -> bytes:
    return rng.choice((b"[" * 100_000, b'{"a":' * 50_000, b"[" * 100_000 + b"]" * 100_000))


ANY = (flip_bytes, truncate, extend, swap_parts, repeat_part)
MUTATIONS: dict[str, tuple[Callable[[bytes, random.Random], bytes], ...]] = {
    f"{NAME}.tar": (*ANY, tar_header, tar_header, tar_header, npy_header),
    f"{NAME}.idx": (*ANY, a_number, a_number),
    "manifest.json": (*ANY, a_number, manifest_value, manifest_value, nested),
}


def mutant(folder: Path, originals: dict[str, bytes], rng: random.Random) -> str:
    """Damage one file of a set, and half the time let the manifest's size and checksum believe it."""
    name = rng.choice(list(MUTATIONS))
    for other, data in originals.items():
        (folder / other).write_bytes(data)
    damaged = rng.choice(MUTATIONS[name])(originals[name], rng)
    (folder / name).write_bytes(damaged)
    if name.endswith(".tar") and rng.random() < 0.5:
        manifest = json.loads(originals["manifest.json"])
        manifest["splits"]["train"]["shards"][0]["bytes"] = len(damaged)
        manifest["splits"]["train"]["shards"][0]["sha256"] = verify.sha256_file(folder / name)
        (folder / "manifest.json").write_text(json.dumps(manifest))
    return name


def use(folder: Path) -> str:
    """What every program does with shards, in this process. Returns what was found."""
    try:
        manifest = read_manifest(folder)
        faults = [
            fault
            for split in manifest.splits.values()
            for entry in split.shards
            for fault in verify.check_shard(folder, manifest.channels, (entry, split.dtype))
        ]
        opened = ShardSet(folder)
        for index in range(min(len(opened), 100)):
            tile, image, _, row, column = opened[index]
            assert tile.dtype == np.uint8 and tile.ndim == 3 and isinstance(image, str) and min(row, column) >= 0
    except UserError as error:
        return str(error)
    return "; ".join(map(str, faults))


def index_anew(folder: Path) -> None:
    """Take the damaged tar for one of another program."""
    (folder / "manifest.json").unlink(missing_ok=True)
    try:
        verify.write_index(folder)
    except UserError:
        return
    use(folder)


# --- what must hold ---------------------------------------------------------------------------------


@pytest.fixture
def opened_paths():
    """Paths that the interpreter opens while the test runs."""
    paths: list[str] = []
    state = {"on": True}

    def hook(event: str, args: tuple) -> None:
        if state["on"] and event == "open" and isinstance(args[0], str):
            paths.append(args[0])

    sys.addaudithook(hook)
    yield paths
    state["on"] = False


def test_mutants_are_refused_or_harmless(whole, tmp_path, opened_paths, monkeypatch, pytestconfig):
    count = MUTANTS * (25 if pytestconfig.getoption("thorough") else 1)
    monkeypatch.setattr(verify, "tqdm", lambda items, *_, **__: items)
    folder = tmp_path / "mutant"
    shutil.copytree(whole, folder)
    originals = {path.name: path.read_bytes() for path in whole.iterdir()}
    use(folder)  # imports are done
    opened_paths.clear()
    found, slowest = 0, 0.0
    for number in range(count):
        rng = random.Random(number)
        name = mutant(folder, originals, rng)
        start = time.perf_counter()
        said = use(folder)
        slowest = max(slowest, time.perf_counter() - start)
        found += bool(said)
        changed = {
            other
            for other, data in originals.items()
            if (folder / other).exists() and (folder / other).read_bytes() != data
        }
        if changed in ({f"{NAME}.tar"}, {f"{NAME}.idx"}):  # the manifest has not been made to agree
            assert said, (number, name)
        if number % 5 == 0:
            index_anew(folder)
    assert slowest < SOON_SEC
    assert found > 0.9 * count  # the rest: bytes that mean nothing, such as a tar's padding of a manifest made to match
    outside = {path for path in opened_paths if not Path(path).resolve().is_relative_to(folder.resolve())}
    assert not outside


def test_a_header_that_promises_gigabytes_costs_nothing(whole, tmp_path):
    folder = tmp_path / "mutant"
    shutil.copytree(whole, folder)
    originals = {path.name: path.read_bytes() for path in whole.iterdir()}
    tar = originals[f"{NAME}.tar"] = bytearray(originals[f"{NAME}.tar"])
    use(folder)
    for kind in (b"0", b"x", b"L", b"g"):
        for size in HUGE:
            header = bytearray(tar[:512])
            header[156:157] = kind
            header[124:136] = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
            (folder / f"{NAME}.tar").write_bytes(with_checksum(bytes(header)) + tar[512:])
            tracemalloc.start()
            buffer = 2**18  # of hashlib.file_digest
            said = use(folder)
            with pytest.raises(tar_members.BrokenTar):
                list(tar_format.walk(folder / f"{NAME}.tar"))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert said and peak < 2 * len(tar) + buffer + 100_000, (kind, size, peak)

"""The shard format: plain POSIX tars of raw tiles, an index beside each, one manifest for the set.

    DIR/manifest.json             what is here: counts, tile size, channels, bytes and sha256 of each shard
    DIR/train-000000.tar          per sample KEY.npy (uint8 [H, W, C]) and KEY.json (source image, row, column)
    DIR/train-000000.idx          where each component lies, in the form that DALI's webdataset reader takes
    DIR/validation-000000.tar     tiles of images that training never sees

shards/README.md specifies it in full.
"""

import hashlib
import io
import json
import math
import mmap
import tarfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from typing import NamedTuple

import numpy as np

from n2s_dist.errors import UserError
from n2s_dist.order import name_key

FORMAT = "n2s_dist shards"
FORMAT_VERSION = 1
INDEX_VERSION = "v1.2"
SPLITS = ("train", "validation")
_BLOCK = 512
_MOST_DESCRIBED = 10_000  # samples of a shard whose description is kept in memory
_RECORD = 10240  # tar pads archives to whole records of 20 blocks


# --- what one sample looks like in a tar ------------------------------------------------------------


def tar_header(name: str, size: int) -> bytes:
    """A ustar header with nothing in it that depends on when, where or by whom the shard is built."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, 0
    return info.tobuf(tarfile.USTAR_FORMAT)


def npy_header(shape: Sequence[int]) -> bytes:
    """The header of a .npy file of uint8 in C order, padded by NumPy to a multiple of 64 bytes."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|u1", "fortran_order": False, "shape": tuple(int(n) for n in shape)}
    )
    return stream.getvalue()


def padded(size: int, unit: int = _BLOCK) -> int:
    return -(-size // unit) * unit


def sample_parts(key: str, shape: Sequence[int], description: dict) -> list[tuple[str, bytes, int]]:
    """Members of one sample as (name, leading bytes, total size); the pixels follow the first's header."""
    text = json.dumps(description, sort_keys=True, separators=(",", ":")).encode()
    header = npy_header(shape)
    return [
        (f"{key}.npy", header, len(header) + int(np.prod(shape))),
        (f"{key}.json", text, len(text)),
    ]


def sample_bytes(key: str, tile: np.ndarray, description: dict) -> bytes:
    """One sample exactly as it lies in the tar. tile: uint8 [H, W, C]."""
    out = []
    (npy_name, header, npy_size), (json_name, text, json_size) = sample_parts(key, tile.shape, description)
    for name, content, size in ((npy_name, header + tile.tobytes(), npy_size), (json_name, text, json_size)):
        out += [tar_header(name, size), content, b"\0" * (padded(size) - size)]
    return b"".join(out)


def index_line(offset: int, parts: list[tuple[str, bytes, int]]) -> tuple[str, int]:
    """The index's line for a sample that starts at `offset` of its tar, and the offset where the next one starts."""
    words = []
    for name, _, size in parts:
        offset += _BLOCK
        words.append(f"{name.split('.', 1)[1]} {offset} {size} {name}")
        offset += padded(size)
    return " ".join(words), offset


def tar_size(end_of_samples: int) -> int:
    """Bytes of a whole tar: two zero blocks, then padding to a whole record."""
    return padded(end_of_samples + 2 * _BLOCK, _RECORD)


def sha256_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# --- the manifest -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ShardEntry:
    name: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Split:
    images: int
    samples: int
    min_height: int
    min_width: int
    shards: tuple[ShardEntry, ...]


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds. `noise` is null: the tiles are clean, noise is added by the loader."""

    tile_size: int
    channels: int
    noise: str | None
    seed: int
    source_fingerprint: str
    splits: dict[str, Split]

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, "version": FORMAT_VERSION, **asdict(self)}, indent=1) + "\n"

    @staticmethod
    def from_json(text: str, where: Path) -> "Manifest":
        try:
            data = json.loads(text)
            if data.pop("format") != FORMAT:
                raise KeyError("format")
            version = data.pop("version")
            if version != FORMAT_VERSION:
                raise UserError(f"{where} has format version {version}; this program reads {FORMAT_VERSION}")
            splits = {
                name: Split(**{**split, "shards": tuple(ShardEntry(**entry) for entry in split["shards"])})
                for name, split in data.pop("splits").items()
            }
            for split in splits.values():
                sum(entry.samples + entry.bytes for entry in split.shards)  # TypeError unless they are numbers
            return Manifest(**data, splits=splits)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise UserError(f"{where} is not a manifest of shards ({error!r}): build the shards again") from None


def read_manifest(folder: str | Path) -> Manifest:
    path = Path(folder) / "manifest.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no manifest.json: build shards with tools/build_shards.py SOURCE --out DIR")
    return Manifest.from_json(path.read_text(errors="replace"), path)


# --- reading ----------------------------------------------------------------------------------------


class Sample(NamedTuple):
    """A tile and where in its source image it lies."""

    tile: np.ndarray  # uint8 [H, W, C], a read-only view of the memory-mapped tar
    image: str
    image_key: int  # 64-bit hash of the image's name: noise is keyed by it
    row: int
    column: int


class Shard:
    """One tar, memory-mapped when first touched. Pixels are views of the page cache, never copies."""

    def __init__(self, folder: Path, entry: ShardEntry) -> None:
        self.path, self.entry = folder / entry.name, entry
        self._described: dict[int, tuple[int, tuple[int, ...], tuple[str, int, int, int]]] = {}
        if not self.path.is_file():
            raise UserError(f"{self.path} is missing, but the manifest names it: build the shards again")
        if self.path.stat().st_size != entry.bytes:
            raise UserError(
                f"{self.path} has {self.path.stat().st_size} bytes, the manifest says {entry.bytes}: "
                "build the shards again"
            )

    @cached_property
    def _map(self) -> mmap.mmap:
        with self.path.open("rb") as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

    @cached_property
    def _spans(self) -> np.ndarray:
        """int64 [samples, 4]: offset and size of the .npy, offset and size of the .json."""
        path = self.path.with_suffix(".idx")
        broken = UserError(f"{path} does not match its shard: build the shards again")
        try:
            head, *lines = path.read_text().splitlines()
            words = [line.split(" ") for line in lines]
            spans = np.array([(w[1], w[2], w[5], w[6]) for w in words], np.int64).reshape(-1, 4)
        except (OSError, ValueError, IndexError, OverflowError):
            raise broken from None
        ends = spans[:, [0, 2]] + spans[:, [1, 3]]
        if head != f"{INDEX_VERSION} {self.entry.samples}" or len(spans) != self.entry.samples:
            raise broken
        if (spans < 0).any() or (ends > self.entry.bytes).any():
            raise broken
        return spans

    def __getitem__(self, index: int) -> Sample:
        offset, shape, about = self._describe(index)
        return Sample(np.frombuffer(self._map, np.uint8, math.prod(shape), offset).reshape(shape), *about)

    def _describe(self, index: int) -> tuple[int, tuple[int, ...], tuple[str, int, int, int]]:
        """Where a tile's pixels begin, their shape, and image, image_key, row and column; remembered once parsed."""
        if index not in self._described:
            try:
                described = self._parse(index)
            except (ValueError, KeyError, TypeError, SyntaxError, TokenError) as error:
                raise UserError(f"{self.path}, sample {index} is damaged ({error}): build the shards again") from None
            if len(self._described) >= _MOST_DESCRIBED:
                self._described.clear()
            self._described[index] = described
        return self._described[index]

    def _parse(self, index: int) -> tuple[int, tuple[int, ...], tuple[str, int, int, int]]:
        npy_offset, npy_size, json_offset, json_size = self._spans[index].tolist()
        buffer = self._map
        header_size = 10 + int.from_bytes(buffer[npy_offset + 8 : npy_offset + 10], "little")
        shape, dtype = _parse_npy_header(buffer[npy_offset : npy_offset + header_size])
        if dtype != np.uint8 or len(shape) != 3 or header_size + int(np.prod(shape)) != npy_size:
            raise UserError(f"{self.path}, sample {index}: expected a uint8 tile [H, W, C], found {dtype} {shape}")
        text = json.loads(buffer[json_offset : json_offset + json_size])
        about = (text["image"], name_key(text["image"]), text["row"], text["column"])
        return npy_offset + header_size, shape, about


_npy_headers: dict[bytes, tuple[tuple[int, ...], np.dtype]] = {}


def _parse_npy_header(header: bytes) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype; remembered, since tiles of one size share one header and parsing takes longer than reading."""
    if header not in _npy_headers:
        try:
            stream = io.BytesIO(header)
            np.lib.format.read_magic(stream)
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
        except ValueError as error:
            raise UserError(f"a shard holds a broken .npy header ({error}): build the shards again") from None
        if fortran_order:
            raise UserError("a shard holds a tile in Fortran order: write it in C order")
        _npy_headers[header] = (shape, dtype)
    return _npy_headers[header]


class ShardSet:
    """All samples of one split, by index in [0, len)."""

    def __init__(self, folder: str | Path, split: str = "train") -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(folder)
        if self.manifest.noise is not None:
            raise UserError(f"{folder} holds noisy tiles ({self.manifest.noise}); this program reads clean ones")
        if split not in self.manifest.splits:
            raise UserError(f"{folder} has no '{split}' split; its manifest names {list(self.manifest.splits)}")
        self.split = self.manifest.splits[split]
        self._shards = [Shard(self.folder, entry) for entry in self.split.shards]
        self._ends = np.cumsum([entry.samples for entry in self.split.shards])
        if len(self) != self.split.samples:
            raise UserError(f"{folder}/manifest.json counts {self.split.samples} samples, its shards hold {len(self)}")

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Sample:
        assert 0 <= index < len(self)
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return self._shards[shard][index - (int(self._ends[shard - 1]) if shard else 0)]

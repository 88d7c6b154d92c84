"""The manifest of a set of shards: what is there, how it was made, and the checksum of each shard."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from n2s_dist.shards import tar_format
from n2s_dist.utils.errors import UserError

FORMAT = "n2s_dist shards"
FORMAT_VERSION = 1
SPLITS = ("train", "validation")
_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.tar")


@dataclass(frozen=True)
class ShardEntry:
    name: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Split:
    """dtype: of the tiles; uint8 is clean, the others hold noise (noise/stored.py)."""

    images: int
    samples: int
    min_height: int
    min_width: int
    dtype: str
    shards: tuple[ShardEntry, ...]


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds, and the options it was built with.

    noise: null when the training tiles are clean and the loader adds noise; "gaussian:25" when they
    were stored with noise. validation_fraction and shard_mib are 0 when another program wrote the tars.
    already_noisy, white, black: whether that noise is the images' own, and values that became 1 and 0 (build/plan.py).
    levels: null, or the parts of `noise`'s ranges outside which training images were left out.
    axes: of arrays, as the user named them; null for none.
    source_fingerprint: of the options and the images' names and sizes. source_contents: of the images' bytes; null in
    sets that were built before there was such a thing, and for other programs' tars.
    """

    tile_size: int
    channels: int
    noise: str | None
    seed: int
    validation_fraction: float
    shard_mib: int
    skipped: int
    source_fingerprint: str
    splits: dict[str, Split]
    already_noisy: bool = False
    white: int | None = None
    levels: str | None = None
    source_contents: str | None = None
    black: int | None = None
    axes: str | None = None

    @property
    def identities(self) -> list[str]:
        """What a run calls the set that it is trained on: by all that is known of its origin, or as runs once did."""
        if self.source_contents is None:
            return [self.source_fingerprint]
        origin = f"{self.source_fingerprint} {self.source_contents}"
        return [hashlib.sha256(origin.encode()).hexdigest(), self.source_fingerprint]

    def to_json(self) -> str:
        said = asdict(self)
        if self.axes is None:  # so that sets without arrays are those of programs that knew none
            del said["axes"]
        return json.dumps({"format": FORMAT, "version": FORMAT_VERSION, **said}, indent=1) + "\n"

    @staticmethod
    def from_json(text: str, where: Path | str) -> "Manifest":
        """Raises UserError for anything that is not a manifest of this version with sound figures."""
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
            manifest = Manifest(**data, splits=splits)
            manifest.check()
            return manifest
        except UserError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            reason = str(error)[:200] or type(error).__name__
            raise UserError(f"{where} is not a manifest of shards ({reason}): build the shards again") from None

    def check(self) -> None:
        """ValueError or TypeError when a figure can't be right; names are plain, so that nothing outside is read."""
        whole = [self.tile_size, self.channels, self.seed, self.shard_mib, self.skipped]
        names: list[str] = []
        for split in self.splits.values():
            whole += [split.images, split.samples, split.min_height, split.min_width]
            if split.dtype not in tar_format.DTYPES:
                raise ValueError(f"dtype {split.dtype!r}")
            for entry in split.shards:
                if not _SHARD_NAME.fullmatch(entry.name):
                    raise ValueError(f"a shard with the name {entry.name!r}")
                if not re.fullmatch("[0-9a-f]{64}", entry.sha256):
                    raise ValueError(f"{entry.name}: sha256 {entry.sha256!r}")
                names.append(entry.name)
                whole += [entry.samples, entry.bytes]
            if sum(entry.samples for entry in split.shards) != split.samples:
                raise ValueError(f"it counts {split.samples} samples, its shards' counts add up to another number")
        if self.white is not None:
            whole.append(self.white)
        if type(self.black or 0) is not int:
            raise ValueError("a black that is not a whole number")
        if type(self.already_noisy) is not bool:
            raise ValueError("already_noisy that is neither true nor false")
        if not all(type(number) is int and 0 <= number < 2**63 for number in whole):
            raise ValueError("a count that is not a whole number")
        if self.channels not in (1, 3) or len(set(names)) < len(names) or not set(self.splits) <= set(SPLITS):
            raise ValueError("channels, splits or names of shards that can't be")
        if not isinstance(self.source_fingerprint, str) or not isinstance(self.noise, str | None):
            raise ValueError("a fingerprint or noise that is not text")
        if not isinstance(self.axes, str | None):
            raise ValueError("axes that are not text")
        if not isinstance(self.levels, str | None) or not isinstance(self.source_contents, str | None):
            raise ValueError("levels or a fingerprint of contents that are not text")


def read_manifest(folder: str | Path) -> Manifest:
    path = Path(folder) / "manifest.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no manifest.json: build shards with n2s build-shards SOURCE --out DIR")
    return Manifest.from_json(path.read_text(errors="replace"), path)

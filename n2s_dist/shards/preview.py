"""What a folder of shards holds, for a person to look at: a summary in words, and a contact sheet of random tiles."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from n2s_dist.images.eight_bit import to_uint8
from n2s_dist.images.files import KINDS
from n2s_dist.noise import frozen
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.specification import format_noise, parse_training_noise
from n2s_dist.shards.manifest import Manifest, Split
from n2s_dist.shards.reader import ShardSet
from n2s_dist.utils import hashing
from n2s_dist.utils.errors import UserError

_LINE = 80  # columns of a terminal
_MAX_SHARDS, _MAX_SOURCES, _MAX_SIZES = 12, 5, 6
_MAX_READ = 10_000  # tiles whose descriptions are read
_GAP = 8  # pixels between tiles of the contact sheet
_PAPER, _INK = "#f5f5f5", "#282828"


# --- in words ---------------------------------------------------------------------------------------


def summary(folder: str | Path, split: str) -> list[str]:
    """Lines of at most 80 columns: what the set is, its splits, and one split's shards, tile sizes and sources.

    Raises UserError where ShardSet does, and for a damaged sample among those that are read.
    """
    shards = ShardSet(folder, split)
    manifest = shards.manifest
    kind, side = KINDS[manifest.channels], manifest.tile_size
    return [
        _shortened(str(folder), _LINE),
        f"  {manifest.noise or 'clean'}, {kind} ({manifest.channels} channel{'s' * (manifest.channels > 1)}), "
        f"tiles of {side} x {side}, built with seed {manifest.seed}",
        "",
        *_split_table(manifest),
        "",
        *_shard_table(split, shards.split),
        "",
        *_tile_tables(shards),
    ]


def _split_table(manifest: Manifest) -> list[str]:
    lines = ["split         images       tiles  shards         MiB  smallest tile"]
    for name, split in manifest.splits.items():
        smallest = f"{split.min_height} x {split.min_width}"
        lines.append(
            f"{name:<12}{split.images:>8,}{split.samples:>12,}{len(split.shards):>8,}"
            f"{_mib(split):>12,.1f}  {smallest:>13}"
        )
    return lines


def _mib(split: Split) -> float:
    return sum(entry.bytes for entry in split.shards) / 2**20


def _shard_table(name: str, split: Split) -> list[str]:
    """One line a shard; the middle of a long list is left out, and counted."""
    rows = [
        f"{_shortened(entry.name, 32):<32}{entry.samples:>10,}{entry.bytes / 2**20:>12,.1f}  {entry.sha256[:16]}"
        for entry in split.shards
    ]
    if len(rows) > _MAX_SHARDS:
        hidden = len(rows) - _MAX_SHARDS + 1
        rows[_MAX_SHARDS - 2 : -1] = [f"... {hidden:,} more"]
    return [f"{f'shards of {name}':<32}{'tiles':>10}{'MiB':>12}  sha256", *rows]


def _tile_tables(shards: ShardSet) -> list[str]:
    """Tile sizes and sources; of a very large split, those of tiles spread evenly over it."""
    count = min(len(shards), _MAX_READ)
    samples = [shards[index] for index in np.linspace(0, len(shards) - 1, count).astype(int).tolist()]
    sizes = Counter(sample.tile.shape[:2] for sample in samples)
    sources = Counter(sample.image for sample in samples)
    among = "" if count == len(shards) else f" (of {count:,} tiles spread over the split)"
    lines = [f"tile sizes{among}"]
    common = sizes.most_common(_MAX_SIZES)
    lines += [f"{f'  {height} x {width}':<32}{tiles:>10,}" for (height, width), tiles in common]
    if len(sizes) > len(common):
        lines.append(f"  ... {len(sizes) - len(common):,} more sizes")
    lines += ["", f"sources{among}"]
    names = sorted(sources)[:_MAX_SOURCES]
    lines += [f"  {_shortened(name, 58):<58}{sources[name]:>10,} tile{'s' * (sources[name] > 1)}" for name in names]
    if shards.split.images > len(names):
        lines.append(f"  ... {shards.split.images - len(names):,} more images")
    return lines


def _shortened(text: str, length: int) -> str:
    """The end of a text tells more than its beginning: folders go first."""
    return text if len(text) <= length else "..." + text[3 - length :]


# --- in pictures ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ContactSheet:
    """A contact sheet, and where on it each tile's clean and noisy pixels begin."""

    pixels: np.ndarray  # uint8 [H, W, C]
    indices: list[int]  # of the tiles in their ShardSet
    clean_corners: list[tuple[int, int]]  # row, column
    noisy_corners: list[tuple[int, int]]


def contact_sheet(shards: ShardSet, count: int, noise: NoiseModel, seed: int) -> ContactSheet:
    """Random tiles, pixel for pixel, each clean and beside it with the frozen noise that training sees under `seed`.

    For display alone, noisy tiles are clamped to what 8 bits hold. Of tiles that are stored with noise there
    is no clean version to show.
    """
    if count < 1:
        raise UserError(f"--tiles is {count}: show at least 1")
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed is {seed}: give a whole number, not negative and below 2^63")
    everything = np.arange(len(shards))
    indices = hashing.permute(everything[:count], len(shards), hashing.hash64(seed)).tolist()
    samples = [shards[index] for index in indices]
    height, width = (max(sample.tile.shape[axis] for sample in samples) for axis in (0, 1))
    small = int(np.clip(width / 16, 10, 16))  # sizes of letters
    cell_height, cell_width = height + 2 * small + _GAP, 2 * width + 4 * _GAP
    across = min(len(samples), max(1, round(np.sqrt(1.4 * len(samples) * cell_height / cell_width))))
    down = -(-len(samples) // across)
    large = int(np.clip(across * cell_width / 60, 13, 28))

    size = (across * cell_width + 2 * _GAP, 2 * large + _GAP + down * cell_height)
    canvas = Image.new("L" if shards.manifest.channels == 1 else "RGB", size, _PAPER)
    draw = ImageDraw.Draw(canvas)
    what = f"with {shards.noise} in them" if shards.noise else f"clean and {format_noise(noise)}"
    title = f"{Path(shards.folder).name}: {len(samples):,} of {len(shards):,} tiles, {what}"
    _write(draw, (2 * _GAP, large // 2), f"{title}, seed {seed}", size[0] - 4 * _GAP, large)
    clean_corners, noisy_corners = [], []
    for place, sample in enumerate(samples):
        row, column = divmod(place, across)
        top, left = 2 * large + _GAP + row * cell_height, 2 * _GAP + column * cell_width
        clean_corners.append((top, left))
        noisy_corners.append((top, left + width + _GAP))
        if shards.noise:
            pair = [to_uint8(parse_training_noise(shards.noise).encoding.decode(sample.tile))]
        else:
            noisy = frozen.corrupt_tile(noise, sample.tile, sample.image_key, sample.row, sample.column, seed)
            pair = [sample.tile, to_uint8(noisy)]
        for pixels, (y, x) in zip(pair, (clean_corners[-1], noisy_corners[-1]), strict=False):
            canvas.paste(Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels), (x, y))
        caption = f"{sample.image}  ({sample.row}, {sample.column})"
        _write(draw, (left, top + height + small // 4), caption, 2 * width + _GAP, small)
    drawn = np.asarray(canvas)
    return ContactSheet(drawn[:, :, None] if drawn.ndim == 2 else drawn, indices, clean_corners, noisy_corners)


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, width: int, size: int) -> None:
    """Text that loses its beginning where it would be wider than `width` pixels."""
    font = ImageFont.load_default(size)
    length = len(text)
    while length > 4 and draw.textlength(_shortened(text, length), font=font) > width:
        length -= 1
    draw.text(place, _shortened(text, length), fill=_INK, font=font)

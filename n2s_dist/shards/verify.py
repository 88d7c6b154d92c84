"""Check shards against their manifest, mend what is damaged, and take in the tars of other programs.

manifest ──► each shard: size, sha256, tar, index, samples ──► faults, by shard and sample
                                                                 └─► repair: damaged shards alone, from the source
tars without a manifest ──► indexes and a manifest
"""

import hashlib
import json
import shutil
import zlib
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from n2s_dist.images.eight_bit import measure_image
from n2s_dist.shards import tar_format
from n2s_dist.shards.build.builder import fingerprint, read_skipped
from n2s_dist.shards.build.collection import Collection
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.shards.build.sources import gather
from n2s_dist.shards.build.staging import Layout
from n2s_dist.shards.build.workspace import begin, workspace
from n2s_dist.shards.manifest import Manifest, ShardEntry, Split, read_manifest
from n2s_dist.shards.shard import Shard
from n2s_dist.utils import tar_members
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import atomic_write, sha256_file, sync
from n2s_dist.utils.process_pool import Workers


class Fault(NamedTuple):
    """Something wrong with a file of a set: with all of it, or with one sample."""

    file: str
    sample: str | None
    reason: str

    def __str__(self) -> str:
        return f"{self.file}{f', sample {self.sample}' if self.sample else ''}: {self.reason}"


def verify_shards(folder: str | Path, workers: int | None = None) -> list[Fault]:
    """Everything that is wrong with a folder of shards; an empty list means that all is well.

    Raises UserError when there is no manifest to check against.
    """
    folder = Path(folder)
    try:
        manifest = read_manifest(folder)
    except UserError as error:
        if not (folder / "manifest.json").is_file():
            raise
        return [Fault("manifest.json", None, str(error))]
    work = [(entry, split.dtype) for split in manifest.splits.values() for entry in split.shards]
    listed = {entry.name for entry, _ in work}
    strangers = sorted(path.name for path in folder.glob("*.tar") if path.name not in listed)
    faults = [Fault(name, None, "is not in the manifest") for name in strangers]
    with Workers(workers) as pool:
        done = pool.map(partial(check_shard, folder, manifest.channels), work)
        for _, found in tqdm(done, "shards", total=len(work), unit="shard", leave=False):
            faults += found
    return faults


def check_shard(folder: Path, channels: int, work: tuple[ShardEntry, str]) -> list[Fault]:
    """What is wrong with one shard: as a whole, and where its bytes differ, with which samples."""
    entry, dtype = work
    path = folder / entry.name
    try:
        shard = Shard(path, entry, channels, dtype)
    except UserError as error:
        return [Fault(entry.name, None, str(error))]
    faults = []
    if sha256_file(path) != entry.sha256:
        faults.append(Fault(entry.name, None, "its sha256 is not the manifest's"))
    try:
        samples = list(tar_format.walk(path))
        if len(samples) != entry.samples:
            faults.append(Fault(entry.name, None, f"holds {len(samples)} samples, the manifest says {entry.samples}"))
        if path.with_suffix(".idx").read_text(errors="replace") != tar_format.index_text(samples):
            faults.append(Fault(path.with_suffix(".idx").name, None, "does not say what its tar holds"))
            return faults
    except (tar_members.BrokenTar, OSError) as error:
        faults.append(Fault(entry.name, None, f"is not a whole tar ({error})"))
    return faults + check_samples(shard)


def check_samples(shard: Shard) -> list[Fault]:
    """Which samples of a shard don't parse, or hold other pixels than their own checksum says."""
    faults = []
    for index in range(shard.entry.samples):
        try:
            crc32 = shard.describe(index).crc32
            tile = shard[index].tile
            if crc32 is not None and f"{zlib.crc32(tile.tobytes()):08x}" != crc32:
                faults.append(Fault(shard.entry.name, str(index), "its pixels are not those that were written"))
        except IndexError:
            break  # the index names fewer samples, which has been said
        except UserError as error:
            faults.append(Fault(shard.entry.name, str(index), str(error)))
            if shard.path.with_suffix(".idx").name in str(error):
                break  # without an index there are no samples to look at
    return faults


# --- repair -----------------------------------------------------------------------------------------


def repair_shards(folder: str | Path, sources: list[str], faults: list[Fault], workers: int | None = None) -> list[str]:
    """Build the damaged shards anew from the images the set was built from; returns their names.

    The others are not touched. Raises UserError when the images are not the same, or the result is not
    what the manifest says.
    """
    folder = Path(folder).absolute()
    manifest = read_manifest(folder)
    options = BuildOptions(
        manifest.tile_size,
        manifest.channels == 1,
        manifest.validation_fraction,
        manifest.seed,
        manifest.shard_mib or 1,
        manifest.noise,
        manifest.already_noisy,
        manifest.white,
        manifest.levels,
        manifest.black,
        manifest.axes,
    )
    images = gather(sources, manifest.axes)
    if not manifest.shard_mib or fingerprint(images, options) != manifest.source_fingerprint:
        raise UserError(f"{folder} was not built from these images: give the same sources as then")
    expected = {entry.name: entry for split in manifest.splits.values() for entry in split.shards}
    damaged = frozenset(str(Path(fault.file).with_suffix(".tar")) for fault in faults) & expected.keys()
    with workspace(folder) as partial_folder, Workers(workers) as pool:
        collection = Collection(images, options, "stop", read_skipped(folder))
        collection.measure(pool)
        parent = begin(partial_folder, folder, "repair")
        layout = Layout(collection.kept(), collection.sizes(), options, parent, damaged)
        layout.create()
        collection.skip(layout.write(pool)[0])
        for split in layout.splits:
            for entry in layout.finish(pool, split):
                if entry != expected[entry.name]:
                    shutil.rmtree(parent)  # of use to nobody
                    raise UserError(f"{entry.name} came out differently: the images are not those of the first build")
                for name in (entry.name, Path(entry.name).with_suffix(".idx").name):
                    (layout.folder / name).replace(folder / name)
        sync(folder)
    return sorted(damaged)


# --- tars of other programs -------------------------------------------------------------------------


def write_index(folder: str | Path) -> Manifest:
    """Write indexes and a manifest for tars that another program wrote, so that they can be trained on.

    Samples hold an image each: .npy (uint8 [H, W] or [H, W, C]), .png or .jpg. Tars whose names begin
    with "validation" become that split. Raises UserError for what can't be read for training.
    """
    folder = Path(folder)
    if (folder / "manifest.json").exists():
        raise UserError(f"{folder} has a manifest already: check it without --write-index")
    paths = sorted(folder.glob("*.tar"))
    if not paths:
        raise UserError(f"{folder} holds no tars")
    indexes = {path: _index(path) for path in tqdm(paths, "tars", unit="tar", leave=False)}
    shapes = {path: [shape for _, shape in index] for path, index in indexes.items()}
    channels = {shape[2] for found in shapes.values() for shape in found}
    if raw := {shape[2] for index in indexes.values() for sample, shape in index if _image(sample).suffix == "npy"}:
        channels = raw
    if len(raw) > 1 or not channels <= {1, 3}:
        raise UserError(f"{folder} holds tiles of {sorted(channels)} channels: a set has 1 or 3, all tiles the same")
    splits = {}
    for name in ("train", "validation"):
        chosen = [path for path in paths if path.name.startswith("validation") == (name == "validation")]
        if not chosen:
            continue
        entries = []
        for path in chosen:
            entries.append(ShardEntry(path.name, len(indexes[path]), path.stat().st_size, sha256_file(path)))
        heights, widths = ([shape[axis] for path in chosen for shape in shapes[path]] for axis in (0, 1))
        splits[name] = Split(len(heights), len(heights), min(heights), min(widths), "uint8", tuple(entries))
    origin = hashlib.sha256(json.dumps([e.sha256 for s in splits.values() for e in s.shards]).encode()).hexdigest()
    largest = max(max(shape[:2]) for found in shapes.values() for shape in found)
    manifest = Manifest(largest, max(channels), None, 0, 0.0, 0, 0, origin, splits)
    try:
        manifest.check()
    except ValueError as error:
        raise UserError(f"{folder} can't become a set of shards ({error}): rename it") from None
    for path, index in indexes.items():
        with atomic_write(path.with_suffix(".idx")) as unfinished:
            unfinished.write_text(tar_format.index_text(sample for sample, _ in index))
    with atomic_write(folder / "manifest.json") as unfinished:
        unfinished.write_text(manifest.to_json())
    return manifest


def _image(sample: tar_format.TarSample) -> tar_members.Component:
    return next(part for part in sample.components if part.suffix in tar_format.IMAGE_SUFFIXES)


def _index(path: Path) -> list[tuple[tar_format.TarSample, tuple[int, int, int]]]:
    """Samples and the shapes of their images, from headers alone."""
    try:
        samples = list(tar_format.walk(path))
    except tar_members.BrokenTar as error:
        raise UserError(f"{path} is not a whole tar ({error})") from None
    if not samples:
        raise UserError(f"{path} holds no samples")
    found = []
    with path.open("rb") as stream, tar_members.mapped(stream) as content:
        for sample in samples:
            where = f"{path}, sample {sample.key}"
            if not any(part.suffix in tar_format.IMAGE_SUFFIXES for part in sample.components):
                raise UserError(f"{where} holds no image ({', '.join(tar_format.IMAGE_SUFFIXES)})")
            part = _image(sample)
            try:
                if part.suffix == "npy":
                    _, shape, dtype = tar_format.parse_npy(content, part.offset, part.size)
                    if dtype != "uint8":
                        raise ValueError(f"its tile is {dtype}, not uint8")
                else:
                    shape = measure_image(tar_format.component_stream(content, part), Path(part.name))
            except ValueError as error:
                raise UserError(f"{where}: {error}") from None
            found.append((sample, shape))
    return found

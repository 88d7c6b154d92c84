"""Turn images into shards.

    list ──► sizes (headers only) ──► plan ──► decode, cut, write ──► index and checksums ──► publish

Every byte's place is known from the image sizes alone (plan.py), so each image is decoded once and its
tiles are written straight to their shuffled places, by any number of worker processes, with one image
a worker in memory. The result does not depend on the number of workers, nor on how often the build
was killed: a journal names the images whose tiles are written, with a checksum each, and the same
command goes on after them. Several nodes may build together (build_group.py), with the same bytes again.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from n2s_dist.shards.build.build_group import ALONE, BuildGroup
from n2s_dist.shards.build.collection import Collection, OnError, measured
from n2s_dist.shards.build.plan import BuildOptions, make_plan, split_images
from n2s_dist.shards.build.sources import Measured, Source, digest, expanded, gather
from n2s_dist.shards.build.staging import Layout, fingerprint_of_all, fingerprint_of_content
from n2s_dist.shards.build.workspace import begin, clear, locate_out, shared_workspace, workspace
from n2s_dist.shards.manifest import Manifest, ShardEntry, Split, read_manifest
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.process_pool import Workers
from n2s_dist.utils.publishing import holds_others, place_beside, publish


def fingerprint(images: list[Source], options: BuildOptions) -> str:
    """Identifies what shards were built from: the images' names and sizes, and the options."""
    listing = [[source.name, source.file.num_bytes] for source in images]
    return hashlib.sha256(json.dumps([listing, _chosen(options)], sort_keys=True).encode()).hexdigest()


def _chosen(options: BuildOptions) -> dict:
    later = (
        "already_noisy",
        "white",
        "levels",
        "black",
        "axes",
    )  # options that came later, which shards built before lack
    return {key: value for key, value in vars(options).items() if value or key not in later}


def _images_of(source: Source, size: Measured) -> list[Source]:
    """A file's images; the file itself where its header can't be read."""
    return [source] if isinstance(size, str) else [image for image, _ in expanded(source, size)]


def have_changed(images: list[Source], options: BuildOptions, out: Path, manifest: Manifest, pool: Workers) -> bool:
    """Whether images of the right names and sizes hold other bytes than the shards were built from.

    False where the manifest does not know these. Raises UserError for an image that can't be read.
    """
    if manifest.source_contents is None:
        return False
    left_out = read_skipped(out)
    files = [source for source in images if source.name not in left_out]
    sizes = {name: size for part in measured(files, options, pool) for name, size in part.items()}
    every = [image for source in files for image in _images_of(source, sizes[source.name])]
    kept = [image for image in every if image.name not in left_out]
    splits = split_images([source.name for source in kept], options)
    wanted = [kept[i] for places in splits.values() for i in places]
    done = tqdm(pool.map(digest, wanted), "images", total=len(wanted), unit="image", leave=False)
    total = sum(fingerprint_of_content(source.name, sha256) for source, sha256 in done)
    return fingerprint_of_all(total) != manifest.source_contents


def build_shards(
    sources: list[str],
    out: str | Path,
    options: BuildOptions,
    workers: int | None = None,
    on_error: OnError = "stop",
    group: BuildGroup = ALONE,
    leave_out: frozenset[str] = frozenset(),
) -> Manifest:
    """Build the shards of `sources` in `out`, go on with them, or reuse them.

    sources: folders, zip or tar archives, or names of data sets that n2s fetch has fetched.
    group: this node of those that build together, each by the same call.
    leave_out: names of images that are not wanted, of files of several.

    on_error "skip" leaves out images that can't be read and lists them in skipped.jsonl. Raises UserError
    for anything the user can mend. Whatever ends it, a kill included, the same call goes on with what was finished.
    """
    out = locate_out(out)
    images = gather(sources, options.axes)
    origin = fingerprint(images, options)
    if (out / "manifest.json").is_file():
        manifest = read_manifest(out)
        if manifest.source_fingerprint != origin:
            raise UserError(f"{out} holds shards of other images or options: delete it or choose another --out")
        if group.is_leader:
            with Workers(workers) as pool:
                if have_changed(images, options, out, manifest, pool):
                    raise UserError(
                        f"{out} holds shards of other images of the same names and sizes: delete it or choose another "
                        "--out"
                    )
        print(f"{out} already holds these shards: nothing to do")
        if group.is_leader:
            clear(out)
        return manifest
    if holds_others(out, place_beside(out)):
        raise UserError(f"{out} exists and holds no shards: choose another --out")

    with _place_to_work(out, origin, options, group) as (group, work, parent), Workers(workers) as pool:
        collection = Collection(images, options, on_error, group=group, leave_out=leave_out)
        collection.measure(pool)
        layout, contents, failures = None, 0, None
        while failures != {}:  # unreadable images that are skipped change the place of every tile: lay out the rest
            layout = Layout(collection.kept(), collection.sizes(), options, parent, group=group)
            layout.create()
            written = group.exchange(f"{layout.folder.name}-written", layout.write(pool))
            failures = {name: reason for part, _ in written for name, reason in part.items()}
            contents = sum(part for _, part in written)
            collection.skip(failures)
        assert layout is not None
        mine = {split.name: [vars(entry) for entry in layout.finish(pool, split)] for split in layout.splits}
        if not group.is_leader:  # who may remove the folder where they meet once all have brought their parts
            group.bring("finished", mine)
            there = out / "manifest.json"
            group.wait_for(0, lambda: there.is_file() or None, "publishing")
            return read_manifest(out)
        finished = group.exchange("finished", mine)
        splits = {
            split.name: Split(
                len(split.images),
                len(split.tiles),
                split.min_height,
                split.min_width,
                split.dtype,
                tuple(sorted((ShardEntry(**e) for part in finished for e in part[split.name]), key=_name)),
            )
            for split in layout.splits
        }
        manifest = Manifest(
            options.tile_size,
            options.channels,
            options.noise,
            options.seed,
            options.validation_fraction,
            options.shard_mib,
            len(collection.skipped),
            origin,
            splits,
            options.already_noisy,
            options.white,
            options.levels,
            fingerprint_of_all(contents),
            options.black,
            options.axes,
        )
        write_skipped(layout.folder, collection.skipped)
        (layout.folder / "manifest.json").write_text(manifest.to_json())
        publish(layout.folder, out, work)
    return manifest


def _name(entry: ShardEntry) -> str:
    return entry.name


@contextlib.contextmanager
def _place_to_work(
    out: Path, origin: str, options: BuildOptions, group: BuildGroup
) -> Iterator[tuple[BuildGroup, Path, Path]]:
    """The group in the workspace where it meets, the workspace, and the folder there that this build writes in."""
    # Named by the options alone: where one image was mended or left out, all others are the same.
    word = hashlib.sha256(json.dumps(_chosen(options), sort_keys=True).encode()).hexdigest()[:16]
    if group.alone:
        with workspace(out) as folder:
            yield group, folder, begin(folder, out, word)
        return
    with shared_workspace(out, group.node) as folder:
        group = replace(group, place=folder)
        with group.heartbeat():
            for node, other in enumerate(group.exchange("origin", origin)):
                if other != origin:
                    raise UserError(
                        f"node {group.node} sees other images or options than node {node}: give all the same"
                    )
            if group.is_leader:
                begin(folder, out, word)
            group.exchange("begun", True)
            yield group, folder, folder / word
    if group.is_leader:
        shutil.rmtree(folder, ignore_errors=True)


def write_skipped(folder: Path, skipped: dict[str, str]) -> None:
    """List what was left out and why, a line of JSON for each image."""
    if skipped:
        lines = (json.dumps({"image": name, "reason": reason}) for name, reason in sorted(skipped.items()))
        (folder / "skipped.jsonl").write_text("\n".join(lines) + "\n")


def read_skipped(folder: Path) -> dict[str, str]:
    """What write_skipped wrote: reasons by name. Raises UserError when the list is damaged."""
    path = folder / "skipped.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return {str(line["image"]): str(line["reason"]) for line in lines}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error})") from None


def preview(
    sources: list[str], out: str | Path, options: BuildOptions, workers: int | None = None, on_error: OnError = "stop"
) -> None:
    """Print what build_shards would write: counts and sizes. Reads headers alone; writes nothing."""
    collection = Collection(gather(sources, options.axes), options, on_error)
    with Workers(workers) as pool:
        collection.measure(pool)
    need = 0
    for split in make_plan([source.name for source in collection.kept()], collection.sizes(), options):
        size = sum(shard.bytes for shard in split.shards)
        need += size
        print(
            f"{split.name:>10}: {len(split.images)} images, {len(split.tiles)} tiles of {split.dtype}, "
            f"{len(split.shards)} shards, {size / 2**20:.0f} MiB"
        )
    parent = next(p for p in Path(out).absolute().parents if p.exists())
    print(f"{'needs':>10}: {need / 2**20:.0f} MiB; {parent} has {shutil.disk_usage(parent).free / 2**20:.0f} MiB free")
    for name, reason in collection.skipped.items():
        print(f"{'skipped':>10}: {name}: {reason}")

"""Other loaders that yield batches of random crops, each set up as its own documentation recommends for images.

All of them read the same images with one worker process a core, and each yields float32 [B, 3, S, S]
without end. Bytes go from worker to trainer as uint8, a quarter of the size, and a batch becomes
floats at once: the quickest of the usual ways.
"""

import importlib.metadata
import importlib.util
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from n2s_dist.shards.reader import ShardSet


@dataclass(frozen=True)
class Job:
    """What every loader is given: whole PNGs, the same images as raw tiles, and a folder of its own to write in."""

    images: list[Path]
    tiles: ShardSet
    scratch: Path
    crop_size: int
    batch_size: int
    workers: int


def random_crop(tile: np.ndarray, size: int) -> np.ndarray:
    """A view of a random square of a tile [H, W, C]."""
    row, column = (random.randrange(tile.shape[axis] - size + 1) for axis in (0, 1))
    return tile[row : row + size, column : column + size]


def stack(crops: list[np.ndarray]) -> Tensor:
    """uint8 [B, S, S, C] of crops [S, S, C]."""
    return torch.from_numpy(np.stack(crops))


def to_floats(batches: Iterator[Tensor]) -> Iterator[Tensor]:
    """uint8 [B, S, S, C] to float32 [B, C, S, S] on the 0-1 scale."""
    for batch in batches:
        yield batch.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).mul_(1 / 255)


def endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


# --- torch's DataLoader on whole images -------------------------------------------------------------


class PngCrops(Dataset):
    """A random crop of a freshly decoded PNG for each index."""

    def __init__(self, job: Job) -> None:
        self.paths, self.size = job.images, job.crop_size

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> np.ndarray:
        return random_crop(np.asarray(Image.open(random.choice(self.paths))), self.size)


def png_dataloader(job: Job) -> Iterator[Tensor]:
    """As most training code reads: an index is an image, decoded for one crop."""
    return to_floats(iter(DataLoader(PngCrops(job), job.batch_size // 4, num_workers=job.workers, collate_fn=stack)))


# --- webdataset -------------------------------------------------------------------------------------


def webdataset(job: Job) -> Iterator[Tensor]:
    """PNG tiles in tars, several for each worker, drawn with replacement and shuffled in a buffer."""
    import webdataset as wds

    folder = job.scratch / "webdataset"
    folder.mkdir()
    names = [str(folder / f"{number:06d}.tar") for number in range(4 * job.workers)]
    for number, name in enumerate(names):
        with wds.TarWriter(name) as tar:
            for index in range(number, len(job.tiles), len(names)):
                tar.write({"__key__": f"{index:09d}", "png": job.tiles[index].tile})
    return _webdataset(job, names, "png")


def webdataset_raw(job: Job) -> Iterator[Tensor]:
    """This project's own shards, read by webdataset."""
    return _webdataset(job, [str(path) for path in sorted(Path(job.tiles.folder).glob("train-*.tar"))], "npy")


def _webdataset(job: Job, names: list[str], member: str) -> Iterator[Tensor]:
    import webdataset as wds

    dataset = (
        wds.WebDataset(names, resampled=True, shardshuffle=False)
        .shuffle(500)
        .decode("rgb8")
        .to_tuple(member)
        .map_tuple(CropOf(job.crop_size))
        .batched(job.batch_size, collation_fn=stack_tuples)
    )
    return to_floats(iter(wds.WebLoader(dataset, batch_size=None, num_workers=job.workers)))


def stack_tuples(samples: list[tuple[np.ndarray]]) -> Tensor:
    return stack([crop for (crop,) in samples])


class CropOf:
    """random_crop with its size fixed, as a thing that can be sent to a worker."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, tile: np.ndarray) -> np.ndarray:
        return random_crop(tile, self.size)


# --- litdata ----------------------------------------------------------------------------------------


class TileBytes:
    """A tile's pixels by index, which litdata stores as they are; opened in the process that it starts for this."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def tiles(self) -> ShardSet:
        return ShardSet(self.folder)

    def __call__(self, index: int) -> bytes:
        return self.tiles[index].tile.tobytes()


class CropOfBytes:
    """A random crop of what TileBytes stored."""

    def __init__(self, size: int, shape: tuple[int, ...]) -> None:
        self.size, self.shape = size, shape

    def __call__(self, stored: bytes) -> np.ndarray:
        return random_crop(np.frombuffer(stored, np.uint8).reshape(self.shape), self.size)


def first(samples: tuple[np.ndarray]) -> np.ndarray:
    return samples[0]


def litdata(job: Job) -> Iterator[Tensor]:
    """Raw tiles in its chunks of 64 MB. As bytes, which it copies less often than arrays or tensors."""
    import litdata as ld

    folder = str(job.scratch / "litdata")
    ld.optimize(
        TileBytes(Path(job.tiles.folder)),
        list(range(len(job.tiles))),
        folder,
        chunk_bytes="64MB",
        num_workers=1,
        verbose=False,
    )
    transform = CropOfBytes(job.crop_size, job.tiles[0].tile.shape)
    tiles = ld.StreamingDataset(folder, shuffle=True, transform=transform)
    loader = ld.StreamingDataLoader(
        ld.ParallelStreamingDataset([tiles], length=200_000, transform=first),
        batch_size=job.batch_size,
        num_workers=job.workers,
        collate_fn=stack,
        persistent_workers=True,
    )
    return to_floats(endless(loader))


# --- mosaicml-streaming -----------------------------------------------------------------------------


class StackCropsOf:
    """Crops tiles where they are stacked, in the worker."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, samples: list[dict[str, np.ndarray]]) -> Tensor:
        return stack([random_crop(sample["tile"], self.size) for sample in samples])


def mosaicml(job: Job) -> Iterator[Tensor]:
    """Raw tiles in MDS shards with a column of fixed shape; long epochs, since each begins with a pause."""
    import streaming

    folder = str(job.scratch / "mosaicml")
    shape = ",".join(map(str, job.tiles[0].tile.shape))
    with streaming.MDSWriter(out=folder, columns={"tile": f"ndarray:uint8:{shape}"}) as writer:
        for index in range(len(job.tiles)):
            writer.write({"tile": job.tiles[index].tile})
    stream = streaming.Stream(local=folder, repeat=200_000 / len(job.tiles))
    loader: DataLoader = DataLoader(
        streaming.StreamingDataset(streams=[stream], shuffle=True, batch_size=job.batch_size),
        job.batch_size,
        num_workers=job.workers,
        collate_fn=StackCropsOf(job.crop_size),
        persistent_workers=True,
        drop_last=True,
    )
    return to_floats(endless(loader))


# --- all of them ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rival:
    """How to open a loader, which module and package it needs, and how to install that where it is no part of ours."""

    open: Callable[[Job], Iterator[Tensor]]
    module: str
    package: str
    hint: str = ""

    @property
    def version(self) -> str | None:
        """None where it is not installed."""
        return importlib.metadata.version(self.package) if importlib.util.find_spec(self.module) else None


RIVALS = {
    "png_dataloader": Rival(png_dataloader, "torch", "torch"),
    "webdataset": Rival(webdataset, "webdataset", "webdataset"),
    "webdataset_raw": Rival(webdataset_raw, "webdataset", "webdataset"),
    "litdata": Rival(litdata, "litdata", "litdata", "pip install -c constraints.txt -e '.[bench]'"),
    # Newer versions refuse NumPy 2.2 and later; this one replaces packages of ours that are not pinned.
    "mosaicml": Rival(
        mosaicml,
        "streaming",
        "mosaicml-streaming",
        "in an environment of its own, pip install -c constraints.txt mosaicml-streaming==0.10.0",
    ),
}

"""What one rank measures on its pieces, and how pieces become the row of an image.

    piece ──► corrupt its image, denoise its box ──► sums of errors ──► (over all ranks) ──► PSNR, SSIM of the image

An image's noise is drawn for all of it at once, so a tile costs reading and corrupting its image as well; a rank
does that once for all tiles that it has of an image.
"""

import math
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from n2s_dist.denoise import Box, check_channels, denoise_box
from n2s_dist.images import read_image, to_uint8, write_image
from n2s_dist.metrics import SSIM_RADIUS, psnr_of_error, squared_error, ssim_map
from n2s_dist.noise import NoiseModel, frozen_rng
from n2s_dist.order import name_key
from n2s_dist.score import ScoreModel
from n2s_dist.shares import Piece, Task

MEASURES = ("psnr_noisy_db", "psnr_db", "psnr_uint8_db", "ssim")


class Sheet:
    """An image and its noisy version, made by the first of its pieces and dropped after the last."""

    def __init__(self, make: Callable[[], tuple[np.ndarray, np.ndarray]], pieces: int) -> None:
        self._make, self._left, self._lock = make, pieces, threading.Lock()
        self._content: tuple[np.ndarray, np.ndarray] | None = None

    def take(self) -> tuple[np.ndarray, np.ndarray]:
        """uint8 and float32 [H, W, C]; called once by each piece."""
        with self._lock:
            content = self._content = self._content or self._make()
            self._left -= 1
            if not self._left:
                self._content = None
            return content


class Bench:
    """Measures the pieces of one rank, from several threads. pictures: a folder to write images to, if any."""

    def __init__(
        self, model: ScoreModel, noise: NoiseModel, channels: int, seed: int, pictures: Path | None, pieces: list[Piece]
    ) -> None:
        self.model, self.noise, self.channels, self.seed, self.pictures = model, noise, channels, seed, pictures
        tasks = [piece.task for piece in pieces]
        self._sheets = {
            task.name: Sheet(lambda task=task: self._corrupt(task), tasks.count(task))  # type: ignore[misc]
            for task in dict.fromkeys(tasks)
        }

    def _corrupt(self, task: Task) -> tuple[np.ndarray, np.ndarray]:
        pixels = read_image(task.image)
        check_channels(self.channels, task.image, pixels)
        rng = frozen_rng(self.seed, *map(name_key, task.name))
        return pixels, self.noise.corrupt(pixels / 255.0, rng).astype(np.float32)

    def measure(self, piece: Piece) -> dict[str, Any]:
        """Denoise one piece; its sums, by which image and where."""
        task, box = piece.task, piece.box
        pixels, all_noisy = self._sheets[task.name].take()
        wide = box.grown(SSIM_RADIUS, task.size)  # windows of the box's pixels reach so far
        around = np.clip(denoise_box(self.model, all_noisy, self.noise, wide), 0, 1)
        clean, noisy, estimate = wide.of_array(pixels) / 255.0, box.of_array(all_noisy), box.of_array(around, wide)
        inside = _counted(box, task)
        similarity = inside.of_array(ssim_map(clean, around), wide).sum() if inside.pixels else 0.0
        clean = box.of_array(clean, wide)
        if self.pictures:
            self._keep(piece, to_uint8(noisy), to_uint8(estimate))
        return {
            "benchmark": task.benchmark,
            "name": task.image.name,
            "box": tuple(box),
            "noisy": squared_error(clean, noisy),
            "estimate": squared_error(clean, estimate),
            "uint8": squared_error(clean, to_uint8(estimate) / 255.0),
            "ssim": float(similarity),
        }

    def _keep(self, piece: Piece, noisy: np.ndarray, denoised: np.ndarray) -> None:
        """Write an image's pictures, or keep what a tile has of them until all ranks are done."""
        if piece.is_whole:
            self._write(piece.task, noisy, denoised)
            return
        path = self._kept(piece)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.stack([noisy, denoised]), allow_pickle=False)

    def _kept(self, piece: Piece) -> Path:
        assert self.pictures is not None
        folder = self.pictures / piece.task.benchmark / f".{piece.task.image.name}.tiles"
        return folder / f"{piece.box.top}-{piece.box.left}.npy"

    def join(self, pieces: list[Piece]) -> None:
        """Write the pictures of one image from its tiles, which other ranks may have kept in the same folder."""
        task = pieces[0].task
        both = np.empty((2, *task.size, self.channels), np.uint8)
        for piece in pieces:
            for whole, tile in zip(both, np.load(self._kept(piece), allow_pickle=False), strict=True):
                piece.box.of_array(whole)[:] = tile
        self._write(task, *both)
        shutil.rmtree(self._kept(pieces[0]).parent)

    def _write(self, task: Task, noisy: np.ndarray, denoised: np.ndarray) -> None:
        assert self.pictures is not None
        stem = task.image.name.rsplit(".", 1)[0]
        for kind, picture in (("clean", read_image(task.image)), ("noisy", noisy), ("denoised", denoised)):
            write_image(self.pictures / task.benchmark / f"{stem}-{kind}.png", picture)


def _counted(box: Box, task: Task) -> Box:
    """The part of a box whose SSIM counts: windows there lie inside the image. Empty for images narrower than one."""
    height, width = task.size
    top, left = max(box.top, SSIM_RADIUS), max(box.left, SSIM_RADIUS)
    bottom, right = min(box.bottom, height - SSIM_RADIUS), min(box.right, width - SSIM_RADIUS)
    return Box(top, left, max(top, bottom), max(left, right))


def image_row(task: Task, channels: int, pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """PSNR in dB and SSIM of an image from the sums of its pieces, added in one order whoever measured them."""
    ordered = sorted(pieces, key=lambda piece: piece["box"])
    total = {key: math.fsum(piece[key] for piece in ordered) for key in ("noisy", "estimate", "uint8", "ssim")}
    values = task.height * task.width * channels
    counted = _counted(Box.of(task.size), task).pixels * channels
    return {
        "name": task.image.name,
        "benchmark": task.benchmark,
        "height": task.height,
        "width": task.width,
        "psnr_noisy_db": psnr_of_error(total["noisy"], values),
        "psnr_db": psnr_of_error(total["estimate"], values),
        "psnr_uint8_db": psnr_of_error(total["uint8"], values),
        "ssim": total["ssim"] / counted if counted else None,
    }

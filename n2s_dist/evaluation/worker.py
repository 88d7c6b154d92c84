"""What one rank measures on its units, and how units become the row of an image.

    unit ──► corrupt its image, estimate its level where that is unknown, denoise its box
          ──► sums of each metric ──► (over all ranks) ──► its value of the image

An image's noise is drawn for all of it at once, so a tile costs reading and corrupting its image as well; a rank
does that once for all units that it has of an image at one noise.
"""

import contextlib
import math
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from n2s_dist.evaluation.benchmarks import Task
from n2s_dist.evaluation.deviations import compare_deviations
from n2s_dist.evaluation.methods import Estimator
from n2s_dist.evaluation.partition import WorkUnit
from n2s_dist.evaluation.protocols import ImagePair, clean_picture, read_pair
from n2s_dist.evaluation.published import PAPERS_OWN
from n2s_dist.evaluation.results import picture_name
from n2s_dist.evaluation.suite import Cell
from n2s_dist.images.eight_bit import to_uint8, write_image
from n2s_dist.images.files import ImageFile
from n2s_dist.inference.tiling import Box
from n2s_dist.inference.uncertainty import std_picture
from n2s_dist.metrics.base import measures, metrics, reach
from n2s_dist.metrics.metric import Metric, PixelMetric
from n2s_dist.noise.base import UNKNOWN, NoiseModel
from n2s_dist.noise.specification import format_noise
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import fitting_name


class NoisyImageCache:
    """An image and its noisy version, made by the first of its units and dropped after the last."""

    def __init__(self, make: Callable[[], ImagePair], units: int) -> None:
        self._make, self._left, self._lock = make, units, threading.Lock()
        self._content: ImagePair | None = None

    def take(self) -> ImagePair:
        """Called once by each unit."""
        with self._lock:
            content = self._content = self._content or self._make()
            self._left -= 1
            if not self._left:
                self._content = None
            return content


class EvaluationWorker:
    """Measures the units of one rank, from several threads.

    estimator: for cells of unknown level. pictures: a folder for images of the cells at the places `shown`.
    """

    def __init__(
        self,
        cells: list[Cell],
        seed: int,
        units: list[WorkUnit],
        estimator: Estimator | None,
        pictures: Path,
        shown: set[int],
    ) -> None:
        self.cells, self.seed, self.estimator, self.pictures, self.shown = cells, seed, estimator, pictures, shown
        self._metrics, self._reach = metrics(), reach() or 0
        # Cells of one noise see the same noisy images.
        counts = Counter(map(self._noisy_key, units))
        first = {self._noisy_key(unit): unit for unit in units}
        self._noisy_images = {
            key: NoisyImageCache(partial(self._corrupt, first[key]), count) for key, count in counts.items()
        }

    def _noisy_key(self, unit: WorkUnit) -> tuple:
        return self.cells[unit.cell].noise, unit.task.name

    def _corrupt(self, unit: WorkUnit) -> ImagePair:
        cell = self.cells[unit.cell]
        assert cell.source
        return read_pair(unit.task, cell.noise_model, self.seed, cell.source)

    def measure(self, unit: WorkUnit) -> dict[str, Any]:
        """Denoise one unit; its sums, by which cell, image and where."""
        task, box, cell = unit.task, unit.box, self.cells[unit.cell]
        assert cell.denoiser
        pair = self._noisy_images[self._noisy_key(unit)].take()
        all_noisy, channels = pair.noisy, pair.noisy.shape[2]
        assert cell.denoiser.channels in (None, channels)
        wide = box.grown(self._reach, task.size)
        unclamped, std, noise, network = self._denoised(cell, task, all_noisy, wide)
        around = np.clip(unclamped, 0, 1)
        noisy, estimate = box.of_array(all_noisy), box.of_array(around, wide)
        if unit.cell in self.shown:
            further = {} if std is None else {"std": (std_picture(std) >> 8).astype(np.uint8)}
            if cell.denoiser.samples:
                samples = cell.denoiser.samples(all_noisy, noise, unclamped)
                further |= {f"sample-{number}": to_uint8(each) for number, each in enumerate(samples, 1)}
            self._keep(unit, to_uint8(noisy), to_uint8(estimate), further)
        row = {"cell": unit.cell, "name": task.image.name, "box": list(box), "channels": channels}
        row |= {"estimated": format_noise(noise) if cell.level == UNKNOWN else None, "kept": unit.cell in self.shown}
        row |= {} if network is None else {"network": network}
        if not task.has_truth:
            return row | {"sums": dict.fromkeys(measure.key for measure in measures())}
        clean = pair.scale.to_unit(wide.of_array(pair.clean)).astype(np.float64)
        if std is not None:
            row |= compare_deviations(box.of_array(clean, wide), unclamped, std)
        versions = {"noisy": wide.of_array(all_noisy), "estimate": around, "uint8": to_uint8(around) / 255.0}
        return row | {"sums": measure_versions(self._metrics, clean, versions, wide, box, task)}

    def _denoised(
        self, cell: Cell, task: Task, noisy: np.ndarray, wide: Box
    ) -> tuple[np.ndarray, np.ndarray | None, NoiseModel, str | None]:
        """The estimate of a box, its standard deviation where it is wanted, and what noise and which network it is of.

        The network is named where it was chosen for the image.
        """
        method = cell.denoiser
        assert method and cell.source
        if method.of_file:
            assert task.noisy and wide == Box.of(task.size)
            with _named(task.noisy):
                return method.of_file(task.noisy, cell.source.scale)
        noise = self._estimate(cell, task, noisy) if cell.level == UNKNOWN else cell.noise_model
        assert noise
        if method.posterior:
            return *method.posterior(noisy, noise), noise, None
        assert method.denoise
        return method.denoise(noisy, noise, wide), None, noise, None

    def _estimate(self, cell: Cell, task: Task, noisy: np.ndarray) -> NoiseModel:
        method = cell.denoiser
        assert method and cell.source
        if method.noise_of_file:
            assert task.noisy
            with _named(task.noisy):
                return method.noise_of_file(task.noisy, cell.source.scale)
        assert self.estimator and method.noise_reader
        with _named(task.image):
            return self.estimator.estimate(method.noise_reader.model, noisy, cell.family)

    def _keep(self, unit: WorkUnit, noisy: np.ndarray, denoised: np.ndarray, further: dict[str, np.ndarray]) -> None:
        """Write an image's pictures, or keep what a tile has of them until all ranks are done."""
        if unit.is_whole:
            self._write(unit, noisy, denoised, further)
            return
        assert not further, "these take whole images"
        path = self._kept(unit)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.stack([noisy, denoised]), allow_pickle=False)

    def _folder(self, unit: WorkUnit) -> Path:
        return self.pictures / self.cells[unit.cell].folder

    def _kept(self, unit: WorkUnit) -> Path:
        folder = fitting_name(f".{unit.task.image.name}", ".tiles")
        return self._folder(unit) / folder / f"{unit.box.top}-{unit.box.left}.npy"

    def join(self, units: list[WorkUnit]) -> None:
        """Write the pictures of one image from its tiles, which other ranks may have kept in the same folder.

        Without all tiles that was done already, by a run that then ended.
        """
        first = units[0]
        if first.cell not in self.shown or not all(self._kept(unit).is_file() for unit in units):
            return
        tiles = [np.load(self._kept(unit), allow_pickle=False) for unit in units]
        both = np.empty((2, *first.task.size, tiles[0].shape[-1]), np.uint8)
        for unit, tile in zip(units, tiles, strict=True):
            for whole, part in zip(both, tile, strict=True):
                unit.box.of_array(whole)[:] = part
        self._write(first, both[0], both[1], {})
        shutil.rmtree(self._kept(first).parent)

    def _write(self, unit: WorkUnit, noisy: np.ndarray, denoised: np.ndarray, further: dict[str, np.ndarray]) -> None:
        kinds = {"noisy": noisy, "denoised": denoised, **further}
        if unit.task.has_truth:
            source = self.cells[unit.cell].source
            assert source
            kinds["clean"] = clean_picture(unit.task, source)
        for kind, picture in kinds.items():
            write_image(self._folder(unit) / picture_name(unit.task.image.name, kind), picture)


@contextlib.contextmanager
def _named(image: ImageFile) -> Iterator[None]:
    """Errors name the image."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{image.path}: {error}") from None


def shown_cells(cells: list[Cell]) -> set[int]:
    """Places of the cells whose pictures are written: one for each noise, level and benchmark, Noise2Score's if any."""
    ranked = sorted(enumerate(cells), key=lambda pair: pair[1].method != PAPERS_OWN)
    chosen: dict[str, int] = {}
    for number, cell in ranked:
        if cell.denoiser:
            chosen.setdefault(cell.folder, number)
    return set(chosen.values())


def has_pictures(cell: Cell, folder: Path) -> bool:
    """Whether an evaluation has written those of all of a cell's images."""
    assert cell.source
    names = (picture_name(task.image.name, "denoised") for task in cell.source.tasks)
    return all((folder / cell.folder / name).is_file() for name in names)


def measure_versions(
    metrics: list[Metric], clean: np.ndarray, versions: dict[str, np.ndarray], wide: Box, box: Box, task: Task
) -> dict[str, float | None]:
    """Of each figure the sum over the values of a box, or its value where the metric takes the image whole.

    clean, versions: [h, w, C] of `wide`, which is the box and what metrics see around it. Raises UserError for a metric
    that gives something else than one number, or one a value.
    """
    sums: dict[str, float | None] = {}
    for metric in metrics:
        for measure in metric.measures:
            image = versions[measure.version]
            if not isinstance(metric, PixelMetric):
                sums[measure.key] = _number(metric, metric.of_image(clean, image))
                continue
            seen, counted = box.grown(metric.margin, task.size), _counted(box, task, metric.margin)
            if not counted.pixels:
                sums[measure.key] = 0.0
                continue
            truth = seen.of_array(clean, wide)
            values = np.asarray(metric.of_pixels(truth, seen.of_array(image, wide)), np.float64)
            if values.shape != truth.shape:
                raise UserError(
                    f"metric {metric.name} gives an array of shape {values.shape}: of_pixels has to give a number "
                    f"for each value, {truth.shape}"
                )
            sums[measure.key] = float(counted.of_array(values, seen).sum())
    return sums


def _number(metric: Metric, value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        raise UserError(
            f"metric {metric.name} gives a {type(value).__name__}: of_image has to give a number or None"
        ) from None


def _counted(box: Box, task: Task, margin: int) -> Box:
    """The part of a box whose values lie `margin` pixels inside the image; empty where there are none."""
    height, width = task.size
    top, left = max(box.top, margin), max(box.left, margin)
    bottom, right = min(box.bottom, height - margin), min(box.right, width - margin)
    return Box(top, left, max(top, bottom), max(left, right))


def image_row(task: Task, sums: list[dict[str, Any]]) -> dict[str, Any]:
    """All figures of an image from what its units gave, added in one order whoever measured them.

    None where no clean image is known, where a metric has no value (PSNR without any error, SSIM of images narrower
    than its window) and where its value is not finite.
    """
    ordered = sorted(sums, key=lambda row: row["box"])
    row: dict[str, Any] = {"name": task.image.name, "height": task.height, "width": task.width}
    row |= dict.fromkeys(measure.key for measure in measures()) | {"estimated": ordered[0]["estimated"]}
    row |= {key: ordered[0][key] for key in ("network",) if key in ordered[0]}  # where it was chosen for the image
    if not task.has_truth:
        return row
    for metric in metrics():
        for measure in metric.measures:
            parts = [unit["sums"][measure.key] for unit in ordered]
            value = parts[0]
            if isinstance(metric, PixelMetric):
                count = _counted(Box.of(task.size), task, metric.margin).pixels * ordered[0]["channels"]
                value = metric.of_sum(math.fsum(parts), count) if count else None
            row[measure.key] = value if value is not None and math.isfinite(value) else None
    return row

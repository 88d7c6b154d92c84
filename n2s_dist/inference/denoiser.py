"""The Python API: denoise arrays, pictures and tensors with a trained or a shipped network.

from n2s_dist import load_denoiser

denoise = load_denoiser()                                   # or load_denoiser("universal-color"), or a run of your own
denoise = load_denoiser("hf://OWNER/REPO")                  # a network that somebody shares
x_hat, info = denoise(noisy)                                # the noise is estimated
x_hat, info = denoise(noisy, noise="gaussian:25", uncertainty=True, ensemble=True)
x_hat, info = denoise(camera, white=4095, black=100)        # data that fill a part of 16 bits
x_hat, info = denoise(noisy, noise="gaussian:25", samples=8)   # info.samples: eight images that may lie behind it
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from n2s_dist.images.files import KINDS
from n2s_dist.images.scale import AlreadyOnUnitScale
from n2s_dist.inference import arrays
from n2s_dist.inference.hot_pixels import with_repairs
from n2s_dist.inference.noise_estimation import estimate_noise
from n2s_dist.inference.posterior_samples import check_can_sample, check_wanted, draw_samples
from n2s_dist.inference.restraint import share_to_take, taken
from n2s_dist.inference.tiling import TILE, denoise_tiled
from n2s_dist.inference.uncertainty import posterior_tiled
from n2s_dist.models import checkpoint, pretrained
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.models.self_ensemble import SelfEnsemble
from n2s_dist.noise.base import UNKNOWN, NoiseModel, families
from n2s_dist.noise.calibration import calibration_of, on_scale_of
from n2s_dist.noise.specification import format_noise, format_training_noise, parse_noise
from n2s_dist.utils.errors import UserError

_NEGLIGIBLE = 0.29 / 255  # the standard deviation of rounding
_BYTES_PER_SAMPLE = 8  # and value, as a float and as it is given back
_SUFFIXES = {1: "gray", 3: "color"}  # of shipped networks


@dataclass(frozen=True)
class Info:
    """What a denoiser did.

    Args:
        noise: the noise it took the images to have; a list, one an image, where a batch's was estimated
        estimated: whether that was estimated from the images themselves
        std: the posterior's standard deviation at each value on the 0-1 scale, where it was asked for: float32, a
            tensor for tensors and an array for all else, of the image's shape without transparency
        samples: of the posterior, where they were asked for, of the kind and type of x_hat: an array or a tensor
            [S, ...], or a list of PIL images
        seconds: that it took
        network: what did it: its path or name, where it was downloaded from, configuration and model
        one_plane: whether color images held one gray image each (arrays.one_plane)
        repaired: how many pixels were hot or dead, and denoised from their neighbors; None where nobody asked
    """

    noise: NoiseModel | list[NoiseModel]
    estimated: bool
    std: Any
    seconds: float
    network: checkpoint.Loaded
    one_plane: bool = False
    repaired: int | None = None
    samples: Any = None


@dataclass(frozen=True)
class Wish:
    """What a caller wants besides denoised images, and when they asked."""

    uncertainty: bool
    ensemble: bool
    progress: Callable[[int], Any] | None
    started: float
    samples: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check_wanted(self.samples, self.seed)


class Denoiser:
    """A network, ready to denoise; `load_denoiser` makes one."""

    def __init__(self, loaded: checkpoint.Loaded, tile: int = TILE) -> None:
        self.loaded, self.tile = loaded, tile
        self._ensemble = SelfEnsemble(loaded.model)

    @property
    def channels(self) -> int:
        """Of the images it takes: 1 (gray) or 3 (color)."""
        return self.loaded.channels

    def serves(self, noise: NoiseModel) -> bool:
        """Whether it can denoise such noise (ScoreModel.serves)."""
        return self.loaded.model.serves(noise)

    def __call__(
        self,
        noisy: Any,
        noise: str | NoiseModel | None = None,
        *,
        uncertainty: bool = False,
        ensemble: bool = False,
        white: float | None = None,
        black: float | None = None,
        chroma_subsampled: bool | None = None,
        repair_hot_pixels: bool = False,
        progress: Callable[[int], Any] | None = None,
        samples: int = 0,
        seed: int = 0,
    ) -> tuple[Any, Info]:
        """Denoise one image or several of one size; returns x_hat, of the kind and type given, and what was done.

        noisy: a NumPy array (H, W), (H, W, C) or (N, H, W, C); a PIL image; a tensor [C, H, W] or [B, C, H, W] on any
            device. uint8, uint16, or floats on the 0-1 scale, which noise may exceed. A further channel is
            transparency, and comes back as it was; so do NaN and masked values, which nothing else depends on.
            Floats come back unclamped, integers rounded and clamped.
        noise: such as "gaussian:25" (sigma in 8-bit levels), "poisson:0.01" (zeta) or "gamma:50" (k), or
            noise.gaussian's Gaussian(25 / 255); "unknown" to estimate it, "gaussian" to estimate that family's level;
            "camera:FILE.yaml" for a camera that n2s calibrate measured, whose white and black then hold as well; of its
            stripes and its correlations what the network knows.
            None takes what the network was trained on, or, if that is a range, an estimate.
        uncertainty: compute info.std as well, at five times the cost.
        ensemble: the mean over the 8 flips and transposes, at eight times the cost; for a symmetric network, over 4
            shifts, at four times (models/self_ensemble.py).
        white, black: the values that are 1 and 0 on the 0-1 scale, for other types and for data that fill a part of
            theirs, such as those of a camera of 12 bits. Values beyond twice white are hot pixels: they stay.
        repair_hot_pixels: denoise hot and dead pixels from their neighbors (hot_pixels.py), those beyond twice white as
            well; info.repaired counts them, and info.std is NaN there. For images as a sensor gave them.
        chroma_subsampled: whether color went through JPEG at half its resolution, as most JPEGs' did; None asks a PIL
            image. The noise is then estimated from luma.
        progress: called with the number of pixels of each tile that is done.
        samples: how many images to draw from the posterior, info.samples (inference/posterior_samples.py), at 20 times
            the cost each. They take the memory of so many images. The same image and seed give the same samples.

        Memory is bounded by the image's own and a tile's. Raises UserError, a ValueError, for what is no image of this
        network's channels, for values that are infinite or of another scale, for negative ones where Poisson
        or Gamma noise is named, which has none, and for noise of a family that the network was not trained on.
        """
        wish = Wish(uncertainty, ensemble, progress, time.perf_counter(), samples, seed)
        images, noise = opened_with(noisy, noise, white, black, chroma_subsampled, repair_hot_pixels, self.serves)
        plane = arrays.one_plane(images)
        images = plane if plane and self.channels == 1 else images
        self._check_channels(images.channels)
        images, (noises, estimated) = with_repairs(images, lambda those: self.noises_of(those, noise))
        x_hat, info = self.denoise_with(images, noises, estimated, wish)
        return x_hat, replace(info, one_plane=plane is not None)

    def denoise_with(
        self, images: arrays.ImageBatch, noises: list[NoiseModel], estimated: bool, wish: Wish
    ) -> tuple[Any, Info]:
        """What a call returns for opened images and their noises."""
        for one in dict.fromkeys(noises):
            if not estimated:
                _check_negative(images, one)
            if wish.samples:
                check_can_sample(self.loaded, one)
        model = self._ensemble if wish.ensemble else self.loaded.model
        estimate, std = np.empty_like(images.pixels), None
        if wish.uncertainty:
            std = np.empty_like(images.pixels)
            for number, (image, one) in enumerate(zip(images.pixels, noises, strict=True)):
                estimate[number], std[number] = posterior_tiled(model, image, one, self.tile, progress=wish.progress)
        else:
            for part, one in self._portions(images.pixels.shape, noises):
                if estimated and is_negligible(one):
                    estimate[part] = images.pixels[part]
                else:
                    estimate[part] = denoise_tiled(model, images.pixels[part], one, self.tile, wish.progress)
        for number, (image, one, missing) in enumerate(zip(images.pixels, noises, images.gaps, strict=True)):
            share = share_to_take(self.loaded.model, image, one, missing)
            estimate[number] = taken(image, estimate[number], share)
        if std is not None and images.repaired is not None:
            std[images.repaired] = np.nan  # nothing was measured there
        drawn = self._samples(model, images.pixels, noises, estimate, wish)
        return images.restore(estimate), Info(
            noise=noises if estimated and images.several else noises[0],
            estimated=estimated,
            std=None if std is None else images.plain(std),
            seconds=time.perf_counter() - wish.started,
            network=self.loaded,
            samples=arrays.stacked([images.restore(sample) for sample in drawn]),
            repaired=None if images.repaired is None else int(images.repaired.any(axis=-1).sum()),
        )

    def _samples(
        self, model: ScoreModel, pixels: np.ndarray, noises: list[NoiseModel], estimate: np.ndarray, wish: Wish
    ) -> Any:
        """Samples of each image, float32 [S, N, H, W, C]; nothing where none were asked for."""
        if not wish.samples:
            return []
        arrays.check_fits(pixels.size * wish.samples, _BYTES_PER_SAMPLE)
        each = [
            draw_samples(model, *one, wish.samples, wish.seed, self.tile, wish.progress)
            for one in zip(pixels, noises, estimate, strict=True)
        ]
        return each[0][:, None] if len(each) == 1 else np.stack(each, axis=1)

    def _check_channels(self, channels: int) -> None:
        if channels == self.channels:
            return
        twin = f"{self.loaded.path.name.rpartition('-')[0]}-{_SUFFIXES[channels]}"  # gaussian-gray's is gaussian-color
        there = [name for name in (twin, f"universal-{_SUFFIXES[channels]}") if name in pretrained.offered()]
        take = there[0] if there else f"a {KINDS[channels]} network"
        raise UserError(
            f"the image is {KINDS[channels]}, but {self.loaded.called} was trained on {KINDS[self.channels]} images: "
            f"load {take}, or convert the image"
        )

    def noises_of(self, images: arrays.ImageBatch, noise: str | NoiseModel | None) -> tuple[list[NoiseModel], bool]:
        """Each image's noise, and whether it was estimated."""
        model = self.loaded.model
        if noise is None and model.noise.is_single:
            return [model.noise.single] * len(images.pixels), False
        if noise is None or noise == UNKNOWN or noise in families():
            family = noise if noise in families() else None
            each = zip(images.pixels, images.gaps, strict=True)
            return [estimate_noise(model, image, family, missing) for image, missing in each], True
        named = choose_noise(self.loaded, noise if isinstance(noise, str) else format_noise(noise))
        return [named if isinstance(noise, str) else noise] * len(images.pixels), False

    def _portions(self, shape: tuple[int, ...], noises: list[NoiseModel]) -> Iterator[tuple[slice, NoiseModel]]:
        """Images that go through together: of one noise, and no more pixels than a tile has."""
        most = max(1, self.tile**2 // (shape[1] * shape[2]))
        start = 0
        for number in range(1, len(noises) + 1):
            if number == len(noises) or noises[number] != noises[start] or number - start == most:
                yield slice(start, number), noises[start]
                start = number


def opened_with(
    noisy: Any,
    noise: str | NoiseModel | None,
    white: float | None,
    black: float | None,
    chroma_subsampled: bool | None,
    repair_hot_pixels: bool,
    serves: Callable[[NoiseModel], bool],
) -> tuple[arrays.ImageBatch, str | NoiseModel | None]:
    """Images on the 0-1 scale, and their noise on that scale; see Denoiser.__call__. Raises UserError as that does.

    serves: whether a network does; a calibrated camera's noise that none serves is taken plainly.
    """
    check_noise(noise)
    camera = calibration_of(noise)
    noise, white, black = on_scale_of(noise, white, black, serves)
    try:
        return arrays.opened(noisy, white, black, chroma_subsampled, repair_hot_pixels), noise
    except AlreadyOnUnitScale as error:
        if camera is None:
            raise
        reason = str(error).rpartition(": ")[0]
        on_unit_scale = format_noise(camera.noise())
        raise UserError(f"{reason} by the camera's file: name its noise on the 0-1 scale, {on_unit_scale}") from None


def is_negligible(noise: NoiseModel) -> bool:
    """Whether noise is weaker than what rounding to 8 bits leaves, everywhere: images are then left as they are."""
    return all(float(np.max(noise.std(np.full((1, 1, 3), x)))) < _NEGLIGIBLE for x in (0.0, 0.25, 0.5, 0.75, 1.0))


def check_noise(noise: Any) -> None:
    """UserError for what is neither text, nor a noise, nor None."""
    if noise is None or isinstance(noise, str | NoiseModel):
        return
    number = isinstance(noise, int | float) and not isinstance(noise, bool)
    example = f"gaussian:{noise:g}" if number else "gaussian:25"
    raise UserError(f"noise={noise!r} is not understood: write '{example}' (sigma in 8-bit levels), or another family")


def _check_negative(images: arrays.ImageBatch, noise: NoiseModel) -> None:
    if images.has_offset or not noise.is_nonnegative:
        return
    pixels = images.pixels
    negative = int(np.count_nonzero(pixels < 0))
    if negative:
        raise UserError(
            f"{negative} of {pixels.size} values are negative, which {format_noise(noise)} noise never makes them: "
            "clamp them at 0, or name a Gaussian noise"
        )


def choose_noise(loaded: checkpoint.Loaded, text: str | None) -> NoiseModel:
    """The noise that a user names, or the one trained on. UserError for a family that was not trained on."""
    trained = loaded.model.noise
    known = f"{loaded.called} was trained on {format_training_noise(trained)}"
    if text is None and not trained.is_single:
        raise UserError(f"--noise is missing: {known}, so say which one the images have")
    chosen = trained.single if text is None else parse_noise(text)
    if not loaded.model.serves(chosen):
        raise UserError(f"--noise is {text}, but {known}")
    return chosen

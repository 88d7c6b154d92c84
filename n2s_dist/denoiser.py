"""The Python API: denoise arrays, pictures and tensors with a trained or a shipped network.

from n2s_dist import load_denoiser

denoise = load_denoiser()                                   # or load_denoiser("universal-color"), or a run of your own
x_hat, info = denoise(noisy)                                # the noise is estimated
x_hat, info = denoise(noisy, noise="gaussian:25", uncertainty=True, ensemble=True)
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from n2s_dist import kinds
from n2s_dist.denoise import TILE, choose_noise, denoise_tiled
from n2s_dist.images.files import KINDS
from n2s_dist.models import checkpoint, pretrained
from n2s_dist.models.self_ensemble import SelfEnsemble
from n2s_dist.noise.base import FAMILIES, UNKNOWN, NoiseModel
from n2s_dist.noise.gamma import Gamma
from n2s_dist.noise.mixtures import Mixture
from n2s_dist.noise.poisson import Poisson
from n2s_dist.noise.specification import format_noise
from n2s_dist.uncertainty import posterior_tiled
from n2s_dist.utils.errors import UserError

_SUFFIXES = {1: "gray", 3: "color"}  # of shipped networks


@dataclass(frozen=True)
class Info:
    """What a denoiser did.

    Args:
        noise: the noise it took the images to have; a list, one an image, where a batch's was estimated
        estimated: whether that was estimated from the images themselves
        std: the posterior's standard deviation at each value on the 0-1 scale, where it was asked for: float32, a
            tensor for tensors and an array for all else, of the image's shape without transparency
        seconds: that it took
        network: what did it: its path or name, configuration and model
    """

    noise: NoiseModel | list[NoiseModel]
    estimated: bool
    std: Any
    seconds: float
    network: checkpoint.Loaded


class Denoiser:
    """A network, ready to denoise; `load_denoiser` makes one."""

    def __init__(self, loaded: checkpoint.Loaded, tile: int = TILE) -> None:
        self.loaded, self.tile = loaded, tile
        self._ensemble = SelfEnsemble(loaded.model)

    @property
    def channels(self) -> int:
        """Of the images it takes: 1 (grey) or 3 (colour)."""
        return self.loaded.channels

    def __call__(
        self, noisy: Any, noise: str | NoiseModel | None = None, *, uncertainty: bool = False, ensemble: bool = False
    ) -> tuple[Any, Info]:
        """Denoise one image or several of one size; returns x_hat, of the kind and type given, and what was done.

        noisy: a NumPy array (H, W), (H, W, C) or (N, H, W, C); a PIL image; a tensor [C, H, W] or [B, C, H, W] on any
            device. uint8, uint16, or floats on the 0-1 scale, which noise may exceed. A further channel is
            transparency, and comes back as it was. Floats come back unclamped, integers rounded and clamped.
        noise: such as "gaussian:25" (sigma in 8-bit levels), "poisson:0.01" (zeta) or "gamma:50" (k), or
            n2s_dist.noise's Gaussian(25 / 255); "unknown" to estimate it, "gaussian" to estimate that family's level.
            None takes what the network was trained on, or, if that is a range, an estimate.
        uncertainty: compute info.std as well, at five times the cost.
        ensemble: the mean over the 8 flips and transposes, at eight times the cost; for a symmetric network, over 4
            shifts, at four times (ensemble.py).

        Memory is bounded by the image's own and a tile's. Raises UserError, a ValueError, for what is no image of this
        network's channels, for values that are not finite or of another scale, for negative ones under Poisson or
        Gamma noise, which has none, and for noise of a family that the network was not trained on.
        """
        started = time.perf_counter()
        images = kinds.opened(noisy)
        self._check_channels(images.pixels.shape[-1])
        noises, estimated = self._noises(images.pixels, noise)
        return self._denoise(images, noises, estimated, uncertainty, ensemble, started)

    def _denoise(
        self,
        images: kinds.Images,
        noises: list[NoiseModel],
        estimated: bool,
        uncertainty: bool,
        ensemble: bool,
        started: float,
    ) -> tuple[Any, Info]:
        for one in dict.fromkeys(noises):
            _check_negative(images.pixels, one)
        model = self._ensemble if ensemble else self.loaded.model
        estimate, std = np.empty_like(images.pixels), None
        if uncertainty:
            std = np.empty_like(images.pixels)
            for number, (image, one) in enumerate(zip(images.pixels, noises, strict=True)):
                estimate[number], std[number] = posterior_tiled(model, image, one, self.tile)
        else:
            for part, one in self._portions(images.pixels.shape, noises):
                estimate[part] = denoise_tiled(model, images.pixels[part], one, self.tile)
        return images.restore(estimate), Info(
            noise=noises if estimated and images.several else noises[0],
            estimated=estimated,
            std=None if std is None else images.plain(std),
            seconds=time.perf_counter() - started,
            network=self.loaded,
        )

    def _check_channels(self, channels: int) -> None:
        if channels == self.channels:
            return
        twin = f"{self.loaded.path.name.rpartition('-')[0]}-{_SUFFIXES[channels]}"  # gaussian-gray's is gaussian-color
        there = [name for name in (twin, f"universal-{_SUFFIXES[channels]}") if name in pretrained.offered()]
        take = there[0] if there else f"a {KINDS[channels]} network"
        raise UserError(
            f"the image is {KINDS[channels]}, but {self.loaded.path} was trained on {KINDS[self.channels]} images: "
            f"load {take}, or convert the image"
        )

    def _noises(self, pixels: np.ndarray, noise: str | NoiseModel | None) -> tuple[list[NoiseModel], bool]:
        """Each image's noise, and whether it was estimated."""
        families = {family.family for family in FAMILIES}
        model = self.loaded.model
        if noise is None and not isinstance(model.noise, Mixture):
            return [model.noise] * len(pixels), False
        if noise is None or noise == UNKNOWN or noise in families:
            from n2s_dist.levels import estimate_noise

            family = noise if noise in families else None
            return [estimate_noise(model, image, family) for image in pixels], True
        named = choose_noise(self.loaded, noise if isinstance(noise, str) else format_noise(noise))
        return [named if isinstance(noise, str) else noise] * len(pixels), False

    def _portions(self, shape: tuple[int, ...], noises: list[NoiseModel]) -> Iterator[tuple[slice, NoiseModel]]:
        """Images that go through together: of one noise, and no more pixels than a tile has."""
        most = max(1, self.tile**2 // (shape[1] * shape[2]))
        start = 0
        for number in range(1, len(noises) + 1):
            if number == len(noises) or noises[number] != noises[start] or number - start == most:
                yield slice(start, number), noises[start]
                start = number


def _check_negative(pixels: np.ndarray, noise: NoiseModel) -> None:
    negative = int(np.count_nonzero(pixels < 0)) if isinstance(noise, Poisson | Gamma) else 0
    if negative:
        raise UserError(
            f"{negative} of {pixels.size} values are negative, which {format_noise(noise)} noise never makes them: "
            "clamp them at 0, or name a Gaussian noise"
        )


class ShippedDenoiser:
    """The shipped networks, each image being denoised by the one for its channels and its noise.

    That is the network of the fewest families and the narrowest range of levels that was trained for the noise of all
    images of a call. Noise that is not named is estimated by the network of the most families, and an unknown level of
    a family by the one of the fewest.
    """

    def __init__(self, device: torch.device | str | None = None, tile: int = TILE) -> None:
        self._all = cache(lambda: [_load(name, device, tile) for name in pretrained.offered()])

    def __call__(
        self, noisy: Any, noise: str | NoiseModel | None = None, *, uncertainty: bool = False, ensemble: bool = False
    ) -> tuple[Any, Info]:
        """As Denoiser's. Raises UserError also where no network for the image's channels is there."""
        started = time.perf_counter()
        images = kinds.opened(noisy)
        networks = self._networks(images.pixels.shape[-1])
        whole = [each for each in networks if each.loaded.is_universal] or networks
        family = noise.partition(":")[0] if isinstance(noise, str) else noise.family if noise else ""
        asked = next((each for each in whole if family in each.loaded.model.families), whole[-1])
        noises, estimated = asked._noises(images.pixels, noise)
        fitting = (each for each in networks if all(map(each.loaded.is_for, noises)))
        able = (each for each in whole if all(one.family in each.loaded.model.families for one in noises))
        chosen = next(chain(fitting, able, [asked]))
        return chosen._denoise(images, noises, estimated, uncertainty, ensemble, started)

    def _networks(self, channels: int) -> list[Denoiser]:
        """For grey (1) or colour (3) images, the narrowest first. Raises UserError where none is there."""
        found = [each for each in self._all() if each.channels == channels]
        if not found:
            raise UserError(
                f"no network for {KINDS[channels]} images comes with this installation: give one you trained"
            )
        return sorted(found, key=lambda each: each.loaded.breadth)


def load_denoiser(
    checkpoint_or_name: str | Path | None = None, device: torch.device | str | None = None, tile: int = TILE
) -> Denoiser | ShippedDenoiser:
    """A denoiser from a run directory, one of its checkpoints, or the name of a shipped network.

    None takes shipped networks, for each image the one for its channels and its noise.
    device: where to compute; None takes a GPU if there is one. tile: side of the pieces that large images go through
    in, which bounds memory, in pixels; results do not depend on it.

    Raises UserError where there is no such network.
    """
    if checkpoint_or_name is None:
        return ShippedDenoiser(device, tile)
    return _load(checkpoint_or_name, device, tile)


def _load(checkpoint_or_name: str | Path, device: torch.device | str | None, tile: int) -> Denoiser:
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Denoiser(checkpoint.load(checkpoint.locate(checkpoint_or_name), chosen), tile)

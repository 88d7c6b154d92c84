"""Which network denoises an image: the one that a user names, or the shipped one that fits its channels and noise."""

import time
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from n2s_dist.images.files import KINDS
from n2s_dist.inference import arrays
from n2s_dist.inference.denoiser import Denoiser, Info
from n2s_dist.inference.tiling import TILE
from n2s_dist.models import checkpoint, pretrained
from n2s_dist.noise.base import NoiseModel
from n2s_dist.utils.errors import UserError


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
        images = arrays.opened(noisy)
        networks = self._networks(images.pixels.shape[-1])
        whole = [each for each in networks if each.loaded.is_universal] or networks
        family = noise.partition(":")[0] if isinstance(noise, str) else noise.family if noise else ""
        asked = next((each for each in whole if family in each.loaded.model.families), whole[-1])
        noises, estimated = asked.noises_of(images.pixels, noise)
        fitting = (each for each in networks if all(map(each.loaded.is_for, noises)))
        able = (each for each in whole if all(map(each.loaded.model.serves, noises)))
        chosen = next(chain(fitting, able, [asked]))
        return chosen.denoise_with(images, noises, estimated, uncertainty, ensemble, started)

    def _networks(self, channels: int) -> list[Denoiser]:
        """For gray (1) or color (3) images, the narrowest first. Raises UserError where none is there."""
        found = [each for each in self._all() if each.channels == channels]
        if not found:
            raise UserError(
                f"no network for {KINDS[channels]} images comes with this installation: give one you trained"
            )
        return sorted(found, key=lambda each: each.loaded.specificity)


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

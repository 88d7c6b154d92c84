"""Which network denoises an image: the one that a user names, or the shipped one that fits its channels and noise."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from n2s_dist.images.files import KINDS
from n2s_dist.inference import arrays
from n2s_dist.inference.denoiser import Denoiser, Info, Wish, opened_with
from n2s_dist.inference.hot_pixels import with_repairs
from n2s_dist.inference.noise_estimation import checked_noise, color_from_luma
from n2s_dist.inference.tiling import TILE
from n2s_dist.models import checkpoint, pretrained
from n2s_dist.noise.base import UNKNOWN, NoiseModel
from n2s_dist.noise.specification import parse_noise
from n2s_dist.utils.errors import UserError


class Candidate(NamedTuple):
    """A shipped network that may be taken for an image."""

    name: str
    is_withdrawn: bool
    denoiser: Denoiser


class ShippedDenoiser:
    """The shipped networks, each image being denoised by the one for its channels and its noise.

    That is the network of the fewest families and the narrowest range of levels that was trained for the noise of all
    images of a call, or else for noise that looks alike in stable coordinates. Withdrawn networks
    (models/pretrained.py) come last: they are taken for noise that no other serves, such as correlated noise, and for
    curves where no other is told maps. Noise that is not named is estimated by the network of the most families among
    those that are told families, and checked by one that knows correlated noise; an unknown level of a family by the
    network of the fewest. Samples take one that was trained for all of some ranges of levels.
    """

    def __init__(self, device: torch.device | str | None = None, tile: int = TILE) -> None:
        offered, names = pretrained.offered(), pretrained.names()
        self._all = cache(lambda: [Candidate(name, name not in offered, _load(name, device, tile)) for name in names])

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
        """As Denoiser's; gray images in color files or arrays are denoised as gray ones.

        Raises UserError also where no network for the image's channels is there.
        """
        wish = Wish(uncertainty, ensemble, progress, time.perf_counter(), samples, seed)
        images, noise = opened_with(noisy, noise, white, black, chroma_subsampled, repair_hot_pixels, self.serves)
        return self.denoise_opened(images, noise, wish)

    def denoise_opened(self, images: arrays.ImageBatch, noise: str | NoiseModel | None, wish: Wish) -> tuple[Any, Info]:
        """What a call returns for opened images, and their noise as opened_with gives it."""
        plane = arrays.one_plane(images)
        images = plane or images
        images, (noises, estimated, asked) = with_repairs(images, lambda those: self.noises_of(those, noise))
        chosen = self._chosen(images.channels, noises, bool(wish.samples)) or asked
        x_hat, info = chosen.denoise_with(images, noises, estimated, wish)
        return x_hat, replace(info, one_plane=plane is not None)

    def _chosen(self, channels: int, noises: list[NoiseModel], only_whole: bool) -> Denoiser | None:
        """The network for some noises. only_whole: one that was trained for all of some ranges of levels."""
        networks, offered = (self._networks(channels, with_withdrawn) for with_withdrawn in (True, False))
        whole = self._whole(networks)

        def for_all(those: list[Denoiser], fits: Callable[[Denoiser, NoiseModel], bool]) -> list[Denoiser]:
            return [each for each in those if all(fits(each, noise) for noise in noises)]

        able = for_all(whole, Denoiser.serves)
        able.sort(key=lambda each: max(_strangeness(each, noise) for noise in noises))
        ranked = chain(
            for_all(self._whole(offered) if only_whole else offered, lambda each, noise: each.loaded.is_for(noise)),
            for_all(self._whole(offered), _knows_alike),
            for_all(whole if only_whole else networks, lambda each, noise: each.loaded.is_for(noise)),
            able,
        )
        return next(ranked, None)

    @property
    def candidates(self) -> list[Candidate]:
        """All that may be taken, sorted by name; loaded when first asked for."""
        return self._all()

    def serves(self, noise: NoiseModel) -> bool:
        """Whether one of the networks can denoise such noise."""
        return any(each.denoiser.serves(noise) for each in self.candidates)

    def noises_of(
        self, images: arrays.ImageBatch, noise: str | NoiseModel | None
    ) -> tuple[list[NoiseModel], bool, Denoiser]:
        """Each image's noise, whether it was estimated, and the network that was asked."""
        asked = self._asked(images.channels, noise)
        noises, estimated = asked.noises_of(images, noise)
        told_maps = asked.loaded.model.condition_kind == "map"  # which finds what JPEG left by itself
        if estimated and images.chroma_subsampled and images.channels == 3 and not told_maps:
            gray = self._asked(1, noise)
            of_luma, _ = gray.noises_of(arrays.luma(images), noise)
            noises = [color_from_luma(found, gray.loaded.model, asked.loaded.model) for found in of_luma]
        if estimated and noise in (None, UNKNOWN) and not told_maps:
            noises = self._of_instruments(images, noises, asked)
        return noises, estimated, asked

    def _of_instruments(self, images: arrays.ImageBatch, plain: list[NoiseModel], asked: Denoiser) -> list[NoiseModel]:
        """Each image's noise, of formulas or as instruments make it.

        plain: what is likeliest of the formulas that `asked` knows. A network that knows correlated noise, and is told
        maps, says where it does not fit. At an end of its range it does not hold.
        """
        able = (each.loaded.model for each in self._whole(self._networks(images.channels)))
        finder = next((model for model in able if model.condition_kind == "map" and model.noise.is_correlated), None)
        if finder is None:
            return plain
        return [
            checked_noise(finder, image, own, not asked.loaded.model.noise.is_end(own), missing)
            for image, missing, own in zip(images.pixels, images.gaps, plain, strict=True)
        ]

    def _whole(self, networks: list[Denoiser]) -> list[Denoiser]:
        return [each for each in networks if each.loaded.is_universal] or networks

    def _asked(self, channels: int, noise: str | NoiseModel | None) -> Denoiser:
        """The network that estimates noise, of a family if that is named, or that reads a noise's text."""
        named = parse_noise(noise) if isinstance(noise, str) and ":" in noise else noise
        if named in (None, UNKNOWN):
            return self._formulas_reader(channels)
        family = named.family if isinstance(named, NoiseModel) else named
        if isinstance(named, NoiseModel):
            whole = self._whole(self._networks(channels))
            whole = [each for each in whole if each.serves(named)] or whole
        else:
            whole = self._whole(self._networks(channels, with_withdrawn=False))
        trained = (each for each in whole if family in each.loaded.model.noise.families)
        alike = (each for each in whole if family in each.loaded.model.families)
        return next(chain(trained, alike), whole[-1])

    def _formulas_reader(self, channels: int) -> Denoiser:
        """The network that tells formulas of noise apart: of the most families that are told to it as families.

        A withdrawn one does as well, since it denoises nothing here. Networks that are told maps have another estimate,
        which serves where there is no such network.
        """
        told_families = [
            each for each in self._whole(self._networks(channels)) if each.loaded.model.condition_kind == "families"
        ]
        return max(
            told_families or self._whole(self._networks(channels, with_withdrawn=False)),
            key=lambda each: each.loaded.specificity,
        )

    def _networks(self, channels: int, with_withdrawn: bool = True) -> list[Denoiser]:
        """For gray (1) or color (3) images, the narrowest first. UserError where none is there.

        Withdrawn ones come last, the widest first: they serve where others know too little.
        """
        able = [each for each in self.candidates if each.denoiser.channels == channels]
        found = [each for each in able if with_withdrawn or not each.is_withdrawn] or able
        if not found:
            raise UserError(
                f"no network for {KINDS[channels]} images comes with this installation: give one you trained"
            )
        narrowest = sorted(found, key=lambda each: each.denoiser.loaded.specificity)
        offered = [each.denoiser for each in narrowest if not each.is_withdrawn]
        withdrawn = [each.denoiser for each in narrowest if each.is_withdrawn]
        return [*offered, *reversed(withdrawn)]


def _knows_alike(network: Denoiser, noise: NoiseModel) -> bool:
    """Whether a network was trained for noise of such levels that looks like this one in stable coordinates.

    Of a curve a map tells more than a level does.
    """
    ranges = network.loaded.model.noise.ranges
    stds = [float(np.max(end.std(0.5))) for each in ranges for end in (each.low, each.high)]
    is_known = network.serves(noise) and not noise.text_form
    return is_known and min(stds) <= float(np.max(noise.std(0.5))) <= max(stds)


def _strangeness(network: Denoiser, noise: NoiseModel) -> tuple[bool, bool, float]:
    """How far noise is from what a network was trained on: another family, or levels beyond the widest range.

    Of another family's noise a map tells more than the nearest level of an own family.
    """
    own = network.loaded.model.noise.range_of(noise.family)
    told_maps = network.loaded.model.condition_kind == "map"
    return own is None, own is None and not told_maps, -own.breadth if own else 0.0


def load_denoiser(
    checkpoint_or_name: str | Path | None = None, device: torch.device | str | None = None, tile: int = TILE
) -> Denoiser | ShippedDenoiser:
    """A denoiser from a run directory, one of its checkpoints, the name of a shipped network, or hf://OWNER/REPO.

    None takes shipped networks, for each image the one for its channels and its noise.
    device: where to compute; None takes a GPU if there is one. tile: side of the pieces that large images go through
    in, which bounds memory, in pixels; results do not depend on it.

    hf://OWNER/REPO@REVISION takes a branch, tag or commit; info.network.source says which commit it was.

    Raises UserError where there is no such network.
    """
    if checkpoint_or_name is None:
        return ShippedDenoiser(device, tile)
    return _load(checkpoint_or_name, device, tile)


def _load(checkpoint_or_name: str | Path, device: torch.device | str | None, tile: int) -> Denoiser:
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Denoiser(checkpoint.load(checkpoint.locate(checkpoint_or_name), chosen), tile)

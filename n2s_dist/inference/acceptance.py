"""What a network must do before it is shipped: leave alone what has no noise, whatever level it is told.

    flat areas       every brightness and told level, with 0, 0.2 and 0.4 of the noise that is told: they stay flat
    spectrum         the estimate for a flat area has no peak where pixel_unshuffle and downsampling fold frequencies
    parts            zero padding, a saturated area and a mosaic in a noisy photograph come out as they went in
    patterns         clean ramps and checkerboards come out as they went in

Differences are counted in 8-bit levels, as a person looks at them. A network that fails paints structure into images
that have less noise than their owner believes, which no figure on evenly noisy images shows.

Limits grow in proportion with strong noise. What counts is its density at low frequencies, since correlated noise takes
that many times the area to average: a kernel of unit energy multiplies the deviation by its taps' sum.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from n2s_dist.inference.reference_photographs import PHOTOGRAPHS, photograph
from n2s_dist.noise.blurred import coarse_strength
from n2s_dist.noise.distribution import NoiseDistribution
from n2s_dist.noise.model import NoiseModel
from n2s_dist.noise.specification import format_noise
from n2s_dist.utils.hashing import frozen_rng

Denoise = Callable[[np.ndarray, NoiseModel], np.ndarray]

MAX_DEVIATION = 1.0  # of a flat area's estimate, in 8-bit levels, up to _STRONG
MAX_CHANGE = 2.0  # root mean square of what changes where nothing should, in 8-bit levels, up to _STRONG
MAX_PATTERN = 0.5  # amplitude of a wave at a folded frequency, in 8-bit levels, up to _STRONG
_STRONG = 25 / 255  # white noise of this deviation; limits grow in proportion from here on
_SIDE = 96
_SHARES = (0.0, 0.2, 0.4)
_BRIGHTNESS = (0.0, 0.1, 0.5, 0.9, 1.0)
_MARGIN = 8  # pixels at the border of a noiseless area, which noise beside it may reach


def problems(denoise: Denoise, channels: int, aim: NoiseDistribution) -> list[str]:
    """What a denoiser does that it must not, a sentence each; empty for one that may be shipped.

    denoise: noisy, float [H, W, channels] on the 0-1 scale, and the noise that is told, to the estimate, of that shape.
    aim: the noise that it is for.
    """
    found = []
    for told in aim.spread(3):
        for check in (_flat, _spectrum, _parts, _patterns):
            found += [f"told {format_noise(told)}: {problem}" for problem in check(denoise, channels, told)]
    return found


def _noisy(clean: np.ndarray, told: NoiseModel, share: float, *key: int) -> np.ndarray:
    """With noise of a share of the standard deviation that is told."""
    return told.scaled(share).corrupt(clean, frozen_rng(0, *key)) if share else clean.astype(np.float64)


def _leniency(told: NoiseModel, value: float) -> float:
    """How many times as large as for weak noise a limit is at a brightness."""
    return max(1.0, told.std(value) * coarse_strength(told.width) / _STRONG)


def _flat(denoise: Denoise, channels: int, told: NoiseModel) -> Iterator[str]:
    for value in _BRIGHTNESS:
        limit = MAX_DEVIATION * _leniency(told, value)
        for share in _SHARES:
            clean = np.full((_SIDE, _SIDE, channels), value)
            estimate = denoise(_noisy(clean, told, share, int(255 * share)), told)
            deviation = float((estimate - estimate.mean((0, 1))).std()) * 255
            if deviation > limit:
                yield (
                    f"a flat area of brightness {value} with {share} of the noise comes out with a deviation of "
                    f"{deviation:.2f} levels; {limit:.2f} is the most"
                )


def _spectrum(denoise: Denoise, channels: int, told: NoiseModel) -> Iterator[str]:
    clean = np.full((2 * _SIDE, 2 * _SIDE, channels), 0.5)
    limit = MAX_PATTERN * _leniency(told, 0.5)
    for share in (*_SHARES, 1.0):
        estimate = denoise(_noisy(clean, told, share, 1), told)
        waves = 2 * np.abs(np.fft.fft2(estimate.mean(2))) / estimate.shape[0] ** 2 * 255
        for fold in (2, 4, 8):
            step = len(waves) // fold
            amplitude = max(waves[step, 0], waves[0, step], waves[step, step])
            if amplitude > limit:
                yield (
                    f"a flat area with {share} of the noise comes out with a pattern of period {fold} pixels and an "
                    f"amplitude of {amplitude:.2f} levels; {limit:.2f} is the most"
                )


def _parts(denoise: Denoise, channels: int, told: NoiseModel) -> Iterator[str]:
    for number, name in enumerate(PHOTOGRAPHS):
        clean = photograph(name, channels)[_SIDE // 2 : -_SIDE // 2, _SIDE // 2 : -_SIDE // 2]
        noisy = told.corrupt(clean, frozen_rng(0, number))
        area = slice(_SIDE // 2, _SIDE)
        blocks = noisy[area, area].reshape(_SIDE // 16, 8, _SIDE // 16, 8, -1).mean((1, 3), keepdims=True)
        mosaic = np.broadcast_to(blocks, (_SIDE // 16, 8, _SIDE // 16, 8, channels)).reshape(noisy[area, area].shape)
        for what, part in (("zero padding", 0.0), ("a saturated area", 1.0), ("a mosaic", mosaic)):
            image = noisy.copy()
            image[area, area] = part
            inner = (slice(_SIDE // 2 + _MARGIN, None),) * 2
            yield from _changed(f"{what} in a noisy photograph", image[inner], denoise(image, told)[inner], told)


def _patterns(denoise: Denoise, channels: int, told: NoiseModel) -> Iterator[str]:
    across, down = np.meshgrid(np.arange(_SIDE), np.arange(_SIDE))
    patterns = {
        "a ramp": (across + down) / (2 * _SIDE),
        "a checkerboard of 8 pixels": 0.2 + 0.6 * ((across // 8 + down // 8) % 2),
        "a checkerboard of 32 pixels": 0.2 + 0.6 * ((across // 32 + down // 32) % 2),
    }
    for what, pattern in patterns.items():
        clean = np.repeat(pattern[..., None], channels, 2)
        yield from _changed(what, clean, denoise(clean, told), told)


def _changed(what: str, before: np.ndarray, after: np.ndarray, told: NoiseModel) -> Iterator[str]:
    """A sentence where more changes than the exact unbiased inverse alone does, which takes values for noisy ones."""
    expected = told.posterior_mean(torch.from_numpy(before), torch.zeros(before.shape, dtype=torch.float64)).numpy()
    limit = MAX_CHANGE * _leniency(told, 0.5)
    rms = float(np.sqrt(np.square(np.clip(after, 0, 1) - np.clip(expected, 0, 1)).mean())) * 255
    if rms > limit:
        yield f"{what} changes by {rms:.2f} levels; {limit:.2f} is the most"

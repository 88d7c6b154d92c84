"""Samples of the posterior held to the clean image: their mean, their spread, the truth's rank, their spectrum.

Of a true posterior with mean m, independent samples x_1 to x_S and the clean image x behave alike, so

    rank       of x among x_1 ... x_S is uniform at each value
    spread     the samples' variance is the posterior's, and the error of m
    mean       of S samples has 1 + 1/S times the squared error of m: 0.26 dB less PSNR for 16 samples. Without what S
               accounts for, the variance over S, it has that of m
    spectrum   of a sample is that of clean images, where m has lost what the noise hides
"""

from typing import Any, NamedTuple

import numpy as np

from n2s_dist.inference.uncertainty import Posterior

OCTAVES = tuple((1 / 2**number, 1 / 2 ** (number - 1)) for number in range(5, 1, -1))  # cycles a pixel


class SampleFigures(NamedTuple):
    """Of one image, or summed over several: sums of squares over values, float64, and histograms.

    error, error_of_mean: of the posterior mean, and of the samples' mean. variance, claimed: of the samples, and what
    the uncertainty says. values: how many. ranks: of the truth, [S + 1]. power: of the clean image, the posterior mean
    and the samples (on average) in each of OCTAVES, [3, 4].
    """

    error: float
    error_of_mean: float
    variance: float
    claimed: float
    values: int
    ranks: np.ndarray
    power: np.ndarray

    @classmethod
    def of_image(cls, clean: np.ndarray, posterior: Posterior, samples: np.ndarray) -> "SampleFigures":
        """clean: [H, W, C]; samples: [S, H, W, C], all on the 0-1 scale, not clamped."""
        mean, ranks = samples.mean(0, dtype=np.float64), (samples < clean).sum(0)
        sampled = np.mean([octave_powers(sample) for sample in samples], axis=0)
        return cls(
            float(np.square(posterior.estimate - clean).sum()),
            float(np.square(mean - clean).sum()),
            float(samples.var(0, ddof=1, dtype=np.float64).sum()),
            float(np.square(posterior.std, dtype=np.float64).sum()),
            clean.size,
            np.bincount(ranks.ravel(), minlength=len(samples) + 1),
            np.stack([octave_powers(clean), octave_powers(posterior.estimate), sampled]),
        )

    @staticmethod
    def summed(parts: list["SampleFigures"]) -> "SampleFigures":
        """Over several images."""
        return SampleFigures(*(sum(each[1:], each[0]) for each in zip(*parts, strict=True)))  # type: ignore[arg-type]

    def summary(self) -> dict[str, Any]:
        """What to print: PSNR in dB, ratios of deviations, ranks and powers with 1 being what they should be."""
        samples = len(self.ranks) - 1
        endless = self.error_of_mean - self.variance / samples
        psnr = [-10 * np.log10(error / self.values) for error in (self.error, self.error_of_mean, endless)]
        return {
            "psnr_mean_db": psnr[0],
            "psnr_of_samples_mean_db": psnr[1],
            "psnr_of_endless_samples_mean_db": psnr[2],
            "spread_over_uncertainty": (self.variance / self.claimed) ** 0.5,
            "spread_over_error": (self.variance / self.error) ** 0.5,
            "ranks": (self.ranks / self.ranks.mean()).tolist(),
            "power_of_mean": (self.power[1] / self.power[0]).tolist(),
            "power_of_samples": (self.power[2] / self.power[0]).tolist(),
        }


def octave_powers(image: np.ndarray) -> np.ndarray:
    """Power of an image [H, W, C] in each of OCTAVES, summed over channels, under a Hann window: float64 [4]."""
    window = np.hanning(image.shape[0])[:, None, None] * np.hanning(image.shape[1])[:, None]
    spectrum = np.square(np.abs(np.fft.fft2((image - image.mean((0, 1))) * window, axes=(0, 1)))).sum(-1)
    frequency = np.hypot(np.fft.fftfreq(image.shape[0])[:, None], np.fft.fftfreq(image.shape[1]))
    return np.array([spectrum[(low <= frequency) & (frequency < high)].sum() for low, high in OCTAVES])

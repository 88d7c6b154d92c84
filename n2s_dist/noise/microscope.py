"""A simulated microscope with a scientific camera: gray frames in ADU, with noise and without.

    clean ──► optics' blur ──► electrons ──► hot pixels ──► Poisson and read noise ──► row noise ──► 16 bits or floats

The truth is the blurred signal in ADU, without hot pixels. One tunes by such frames, since their truth is known; they
are no benchmark.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from n2s_dist.noise.correlated import WIDTH, blurred
from n2s_dist.noise.model import NoiseModel
from n2s_dist.noise.poisson_gaussian import PoissonGaussian
from n2s_dist.utils.hashing import STREAM_CAMERA, frozen_rng, name_key

_HOT = name_key("hot pixels")


@dataclass(frozen=True)
class Microscope:
    """A microscope's figures, as a YAML file has them.

    Args:
        kind: "microscope"
        model: what it is like, for people
        gain: ADU per electron
        read_noise: ADU, the standard deviation of each value without light
        offset: ADU without light
        electrons: in a pixel that is white in the clean image
        bits: of whole values, the highest of which is white; 0 for floats
        row_noise: ADU, the standard deviation of what all pixels of a row have in common
        hot_pixels: the share of pixels that are hot, in the same places in each frame of one size
        hot_electrons: mean of what a hot pixel has more than light gives it
        optics_blur: standard deviation of the signal's blur, in pixels
        noise_blur: width of the noise's own correlation, in pixels, as scanning or resampling leaves it
    """

    kind: str
    model: str
    gain: float
    read_noise: float
    offset: float
    electrons: float
    bits: int = 16
    row_noise: float = 0.0
    hot_pixels: float = 0.0
    hot_electrons: float = 0.0
    optics_blur: float = 0.0
    noise_blur: float = 0.0

    def __post_init__(self) -> None:
        rules = {
            "gain is above 0": self.gain > 0,
            "bits are 0, or lie from 8 to 16": self.bits == 0 or self.bits in range(8, 17),
            "hot_pixels is a share, from 0 to below 1": 0 <= self.hot_pixels < 1,
            f"noise_blur is at most {WIDTH.high:g}": self.noise_blur <= WIDTH.high,
            "offset is below white": not self.bits or self.offset < self.white_level,
        }
        for name in ("read_noise", "offset", "electrons", "row_noise", "hot_electrons", "optics_blur", "noise_blur"):
            rules[f"{name} is 0 or more"] = getattr(self, name) >= 0
        for rule, holds in rules.items():
            if not holds:
                raise ValueError(rule)

    @property
    def white_level(self) -> int:
        """The highest whole value; 0 for floats."""
        return 2**self.bits - 1 if self.bits else 0

    @property
    def noise(self) -> NoiseModel:
        """Of each value, in ADU, without row noise and rounding."""
        white = PoissonGaussian(self.gain, self.read_noise, self.offset)
        return blurred(white, self.noise_blur) if self.noise_blur else white

    def signal(self, clean: np.ndarray, electrons: float | None = None) -> np.ndarray:
        """What pixels would have without noise: ADU, float64 [H, W]. clean: [H, W] in 0-1. electrons: None for own."""
        soft = gaussian_filter(clean.astype(float), self.optics_blur, mode="mirror") if self.optics_blur else clean
        return self.offset + self.gain * (self.electrons if electrons is None else electrons) * soft

    def hot_signal(self, shape: tuple[int, int], seed: int) -> np.ndarray:
        """What hot pixels add to the signal: ADU, float64 [H, W], mostly 0. The same in each frame of one seed."""
        rng = frozen_rng(seed, STREAM_CAMERA, _HOT)
        is_hot = rng.random(shape) < self.hot_pixels
        return np.where(is_hot, self.gain * rng.exponential(self.hot_electrons, shape), 0)

    def simulate(
        self, clean: np.ndarray, seed: int, name: str, *, frame: int = 0, electrons: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """A frame of a clean image [H, W] in 0-1, and its truth: [H, W] each, uint16, or float32 where bits are 0.

        The noise is a function of seed, name and the frame's number alone. electrons: at white; None for its own.
        """
        signal = self.signal(clean, electrons)
        rng = frozen_rng(seed, STREAM_CAMERA, name_key(name), frame)
        exposed = signal + self.hot_signal(signal.shape, seed)
        noisy = self.noise.corrupt(exposed[..., None], rng)[..., 0]
        noisy = noisy + self.row_noise * rng.standard_normal((len(noisy), 1))
        return self._stored(noisy), self._stored(signal)

    def _stored(self, values: np.ndarray) -> np.ndarray:
        if not self.bits:
            return values.astype(np.float32)
        return np.clip(np.rint(values), 0, self.white_level).astype(np.uint16)

"""A simulated camera: what it makes of a clean image, with noise and without.

    clean sRGB ──► linear light ──► camera color ──► sensor ──► Bayer mosaic ──► noise at an ISO, rounded     (raw)
    raw ──► demosaicing ──► white balance ──► color matrix ──► denoising (if it has any) ──► tone curve ──► sharpening
        (if it has any) ──► 8 bits ──► JPEG (if wanted)

The same chain without noise, rounding of the raw and JPEG gives the truth. So both have what demosaicing, the camera's
own denoising and sharpening do to edges, and what a camera can't hold is clipped in both. Taking an image apart follows
Brooks et al. 2019 ("Unprocessing images for learned raw denoising"). One tunes by such images, since their truth is
known; they are no benchmark.
"""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from n2s_dist.noise import camera_processing, demosaicing
from n2s_dist.noise.poisson_gaussian import PoissonGaussian
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.hashing import STREAM_CAMERA, frozen_rng, name_key

_STRONGEST, _WIDEST = 10, 16  # denoising and sharpening; their radii, in pixels
_LINEAR_BELOW = 0.0031308  # of sRGB's curve (IEC 61966-2-1), in linear light


def to_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light to sRGB's curve, both in 0-1."""
    return np.where(linear <= _LINEAR_BELOW, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def from_srgb(shown: np.ndarray) -> np.ndarray:
    """The inverse of `to_srgb`."""
    return np.where(shown <= 12.92 * _LINEAR_BELOW, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)


def add_contrast(shown: np.ndarray) -> np.ndarray:
    """A curve shaped like an S, 3 x^2 - 2 x^3, as cameras put on top of sRGB's."""
    return shown**2 * (3 - 2 * shown)


def remove_contrast(shown: np.ndarray) -> np.ndarray:
    """The inverse of `add_contrast` in 0-1."""
    return 0.5 - np.sin(np.arcsin(1 - 2 * shown) / 3)


TONE_CURVES = {
    "srgb": (to_srgb, from_srgb),
    "srgb-contrast": (lambda x: add_contrast(to_srgb(x)), lambda y: from_srgb(remove_contrast(y))),
}


@dataclass(frozen=True)
class Camera:
    """A camera's figures, as a YAML file has them. Raw values are in ADU, the sensor's own numbers.

    Args:
        kind: "camera"
        model: what it is like, for people
        bits: of raw values; white is the highest
        black_level: ADU without light
        bayer: the filters of the upper left 2 x 2 pixels, such as RGGB
        iso: by ISO a gain, in ADU per electron, and a read noise, in ADU
        white_balance: what red, green and blue are multiplied by, 1 or more
        color_matrix: from the camera's red, green and blue, balanced, to linear sRGB's; each row adds up to 1
        tone_curve: "srgb" or "srgb-contrast"
        demosaicing: "malvar" or "bilinear"
        luma_denoising: strength of a guided filter of linear luma, in standard deviations of the noise there at the
            ISO: structure of less contrast is smoothed; 0 for none
        luma_radius: of its square windows, in pixels
        chroma_smoothing: standard deviation of the Gaussian that linear chroma is blurred by, in pixels; 0 for none
        sharpening: how many times what an unsharp mask takes from luma is added to it, after the tone curve; 0 for none
        sharpening_radius: standard deviation of the mask's Gaussian, in pixels
    """

    kind: str
    model: str
    bits: int
    black_level: float
    bayer: str
    iso: Mapping[int, Mapping[str, float]]
    white_balance: tuple[float, ...]
    color_matrix: tuple[tuple[float, ...], ...]
    tone_curve: str = "srgb"
    demosaicing: str = "malvar"
    luma_denoising: float = 0.0
    luma_radius: int = 1
    chroma_smoothing: float = 0.0
    sharpening: float = 0.0
    sharpening_radius: float = 1.0

    def __post_init__(self) -> None:
        matrix, balance = np.array(self.color_matrix, float), np.array(self.white_balance, float)
        rules = {
            "bits lie from 8 to 16": self.bits in range(8, 17),
            "black_level lies from 0 to below white": 0 <= self.black_level < self.white_level,
            f"bayer is one of {', '.join(demosaicing.PATTERNS)}": self.bayer in demosaicing.PATTERNS,
            "iso has a table of gain (above 0) and read_noise (0 or more)": _is_table(self.iso),
            "white_balance has three numbers, each 1 or more": balance.shape == (3,) and bool((balance >= 1).all()),
            "color_matrix has three rows of three numbers, each adding up to 1, and an inverse": _is_color_matrix(
                matrix
            ),
            f"tone_curve is one of {', '.join(TONE_CURVES)}": self.tone_curve in TONE_CURVES,
            f"demosaicing is one of {', '.join(demosaicing.METHODS)}": self.demosaicing in demosaicing.METHODS,
            f"luma_denoising lies from 0 to {_STRONGEST}": 0 <= self.luma_denoising <= _STRONGEST,
            f"luma_radius lies from 1 to {_WIDEST}": self.luma_radius in range(1, _WIDEST + 1),
            f"chroma_smoothing lies from 0 to {_WIDEST}": 0 <= self.chroma_smoothing <= _WIDEST,
            f"sharpening lies from 0 to {_STRONGEST}": 0 <= self.sharpening <= _STRONGEST,
            f"sharpening_radius is above 0 and at most {_WIDEST}": 0 < self.sharpening_radius <= _WIDEST,
        }
        for rule, holds in rules.items():
            if not holds:
                raise ValueError(rule)

    @property
    def white_level(self) -> int:
        """The highest raw value."""
        return 2**self.bits - 1

    @cached_property
    def _matrix(self) -> np.ndarray:
        return np.array(self.color_matrix, float)

    def noise_at(self, iso: int) -> PoissonGaussian:
        """The noise of raw values, in ADU. Raises UserError for an ISO that the camera does not have."""
        if iso not in self.iso:
            raise UserError(f"--iso is {iso}: the camera has {', '.join(map(str, self.iso))}")
        row = self.iso[iso]
        return PoissonGaussian(row["gain"], row["read_noise"], self.black_level)

    # --- to the sensor --------------------------------------------------------------------------------------

    def unprocess(self, clean: np.ndarray) -> np.ndarray:
        """A clean sRGB image [H, W, 3] in 0-1 as the sensor's pixels would see it: ADU in all three channels.

        Colors that the camera can't hold are clipped.
        """
        _, inverse_tone = TONE_CURVES[self.tone_curve]
        balanced = inverse_tone(np.clip(clean, 0, 1)) @ np.linalg.inv(self._matrix).T
        light = np.clip(balanced / np.array(self.white_balance), 0, 1)
        return self.black_level + light * (self.white_level - self.black_level)

    def expose(self, seen: np.ndarray, iso: int, rng: np.random.Generator) -> np.ndarray:
        """Raw values with noise, rounded: float64 [H, W]. seen: ADU [H, W], as `mosaic` of `unprocess` has them."""
        noisy = self.noise_at(iso).corrupt(seen, rng)
        return np.clip(np.rint(noisy), 0, self.white_level)

    # --- from the sensor ------------------------------------------------------------------------------------

    def develop(self, raw: np.ndarray, iso: int, method: str | None = None) -> np.ndarray:
        """Raw values [H, W] in ADU to an sRGB image: uint8 [H, W, 3].

        iso: which the camera's denoising goes by. method: of demosaicing; None for its own. Raises UserError for an ISO
        that the camera does not have.
        """
        light = (raw - self.black_level) / (self.white_level - self.black_level)
        color = demosaicing.METHODS[method or self.demosaicing](light, self.bayer)
        balanced = np.clip(color * np.array(self.white_balance), 0, 1)
        tone, _ = TONE_CURVES[self.tone_curve]
        shown = tone(np.clip(self._denoise(balanced @ self._matrix.T, color, iso), 0, 1))
        if self.sharpening:
            shown = camera_processing.with_luma(
                shown,
                lambda luma: camera_processing.unsharp_mask(luma, self.sharpening, self.sharpening_radius),
            )
        return np.rint(255 * np.clip(shown, 0, 1)).astype(np.uint8)

    def _denoise(self, linear: np.ndarray, light: np.ndarray, iso: int) -> np.ndarray:
        """Its own denoising of linear sRGB [H, W, 3]. light: the camera's colors in 0-1 that this was made of."""
        if self.luma_denoising:
            epsilon = self.luma_denoising**2 * self._luma_variance(light, iso)
            linear = camera_processing.with_luma(
                linear, lambda luma: camera_processing.guided_filter(luma, self.luma_radius, epsilon)
            )
        return camera_processing.smooth_chroma(linear, self.chroma_smoothing) if self.chroma_smoothing else linear

    def _luma_variance(self, light: np.ndarray, iso: int) -> np.ndarray:
        """Of the noise of linear luma, [H, W], as if each pixel of the camera's colors [H, W, 3] had its own."""
        scale = self.white_level - self.black_level
        smooth = gaussian_filter(light, (self.luma_radius, self.luma_radius, 0), mode="mirror").clip(0, 1)
        raw_variance = self.noise_at(iso).std(self.black_level + scale * smooth) ** 2 / scale**2
        return raw_variance @ (camera_processing.LUMA @ self._matrix * np.array(self.white_balance)) ** 2

    def simulate(
        self, clean: np.ndarray, iso: int, seed: int, name: str, *, method: str | None = None, jpeg: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """What it makes of a clean image [H, W, 3] in 0-1, and the truth: uint8 [H, W, 3] each.

        The noise is a function of seed and name alone. jpeg: the quality, 1 to 100, at which the noisy one is a JPEG.
        Raises UserError for an ISO that it does not have and for an image that is too small.
        """
        if min(clean.shape[:2]) < demosaicing.SMALLEST_SIDE:
            raise UserError(f"{name} has less than {demosaicing.SMALLEST_SIDE} pixels a side: give a larger image")
        seen = demosaicing.mosaic(self.unprocess(clean), self.bayer)
        raw = self.expose(seen, iso, frozen_rng(seed, STREAM_CAMERA, name_key(name)))
        noisy = self.develop(raw, iso, method)
        return noisy if jpeg is None else through_jpeg(noisy, jpeg), self.develop(seen, iso, method)


def through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """What is left of an image after JPEG, its color at half the resolution: uint8 [H, W, 3]."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality, subsampling="4:2:0")
    return np.array(Image.open(stream))


def _is_table(iso: Any) -> bool:
    return (
        isinstance(iso, Mapping)
        and bool(iso)
        and all(
            isinstance(number, int)
            and isinstance(row, Mapping)
            and set(row) == {"gain", "read_noise"}
            and all(isinstance(value, int | float) and math.isfinite(value) for value in row.values())
            and row["gain"] > 0 <= row["read_noise"]
            for number, row in iso.items()
        )
    )


def _is_color_matrix(matrix: np.ndarray) -> bool:
    return matrix.shape == (3, 3) and np.allclose(matrix.sum(axis=1), 1) and abs(np.linalg.det(matrix)) > 1e-3

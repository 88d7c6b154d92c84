"""Who denoises in an evaluation: a checkpoint's network, or a classical method, told apart by data alone."""

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import NamedTuple

import numpy as np

from n2s_dist.config.schema import to_dict
from n2s_dist.evaluation.noisy_files import NamedScale
from n2s_dist.images.files import KINDS, ImageFile
from n2s_dist.inference.noise_estimation import estimate_noise
from n2s_dist.inference.posterior_samples import STEPS, draw_samples
from n2s_dist.inference.restraint import share_to_take, taken
from n2s_dist.inference.tiling import TILE, Box, ReceptiveField, denoise_box, denoise_tiled
from n2s_dist.inference.uncertainty import PROBES, Posterior, posterior_tiled
from n2s_dist.losses.base import table_key
from n2s_dist.models.checkpoint import Loaded
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.models.self_ensemble import SelfEnsemble
from n2s_dist.noise.base import NoiseModel

# Settings that came later, at the values that networks trained before had: results of these are found as they are.
_LATER = (("condition", "families"), ("overstated", 0.0), ("constant", 0.0))


class DenoisedFile(NamedTuple):
    """What a method that takes files made of one.

    estimate: float32 [H, W, C] on the 0-1 scale, not clamped. std: its standard deviation, of that shape, where it is
    wanted. noise: what the network was told. network: what results call it.
    """

    estimate: np.ndarray
    std: np.ndarray | None
    noise: NoiseModel
    network: str


@dataclass(frozen=True, eq=False)
class EvaluatedMethod:
    """What a cell of the table is computed by.

    Args:
        method: its name in results
        denoise: the estimate [h, w, C], not clamped, for a box of an image float32 [H, W, C] on the 0-1 scale; None
            where `of_file` does it
        digest: SHA-256 of all that estimates depend on besides the noisy image, or another text that is as telling
        passes: what it costs, in passes of a network over the image
        reach: how far it sees; None where it needs all of an image at once
        loaded: the network, where there is one
        checkpoint: what results call that network
        smallest_side: of the images that it takes, in pixels
        kinds: how many channels these may have
        posterior: the estimate of a whole image with its standard deviation, where that is wanted; instead of denoise
        samples: of the posterior [S, H, W, C], where they are wanted, of a noisy image, its noise and its estimate
        reader: of a method that is no network, the network that estimates unknown noise for it
        of_file: of a method that takes noisy files alone, and finds out their noise: all that it makes of one
        noise_of_file: how that method estimates a file's noise, also for methods that are no networks
    """

    method: str
    denoise: Callable[[np.ndarray, NoiseModel, Box], np.ndarray] | None
    digest: str
    passes: float = 1.0
    receptive_field: ReceptiveField | None = None
    loaded: Loaded | None = None
    reader: Loaded | None = None
    checkpoint: str | None = None
    smallest_side: int = 1
    kinds: frozenset[int] = frozenset(KINDS)
    posterior: Callable[[np.ndarray, NoiseModel], Posterior] | None = None
    samples: Callable[[np.ndarray, NoiseModel, np.ndarray], np.ndarray] | None = None
    of_file: Callable[[ImageFile, NamedScale], DenoisedFile] | None = None
    noise_of_file: Callable[[ImageFile, NamedScale], NoiseModel] | None = None

    @property
    def channels(self) -> int | None:
        """Of the images it takes; None for all."""
        return self.loaded.channels if self.loaded else None

    @property
    def specificity(self) -> tuple[int, float]:
        """Loaded.specificity; 0 without training."""
        return self.loaded.specificity if self.loaded else (0, 0.0)

    @property
    def is_universal(self) -> bool:
        """Whether training has not told it an unknown level (Loaded.is_universal)."""
        return self.loaded is not None and self.loaded.is_universal

    @property
    def noise_reader(self) -> Loaded | None:
        """The network that estimates unknown noise: its own, or another one."""
        return self.loaded or self.reader

    @property
    def reads_noise(self) -> bool:
        """Whether it finds out the noise of photographs that nobody names, of itself."""
        return self.is_universal or self.of_file is not None

    def reading_noise_with(self, other: "EvaluatedMethod") -> "EvaluatedMethod":
        """A method without a network that is told what another one finds."""
        assert self.loaded is None and other.reads_noise
        of_both = f"{self.digest} {other.digest}"
        return replace(self, reader=other.loaded, noise_of_file=other.noise_of_file, digest=of_both)

    def takes(self, channels: int) -> bool:
        """Whether it is for images of so many channels; one without training takes all."""
        return self.channels in (channels, None) and channels in self.kinds

    def is_for(self, noise: NoiseModel) -> bool:
        """Whether it was trained for this noise, alone or among others; one without training is for all."""
        return self.loaded is None or self.loaded.is_for(noise)


def of_network(loaded: Loaded, uncertainty: bool = False, samples: int = 0) -> EvaluatedMethod:
    """A checkpoint's network in one pass, or in more for the posterior's standard deviation or samples as well."""
    field = ReceptiveField.of(loaded.model)
    usual = EvaluatedMethod(
        table_key(loaded.config.method),
        _with(loaded.model),
        digest(loaded),
        receptive_field=None if field.radius is None else field,
        loaded=loaded,
        checkpoint=str(loaded.path),
    )
    if uncertainty:
        usual = replace(
            usual,
            digest=f"{usual.digest} {PROBES} probes",
            passes=usual.passes + PROBES,
            receptive_field=None,
            posterior=lambda noisy, noise: posterior_tiled(loaded.model, noisy, noise),
        )
    if samples:
        usual = replace(
            usual,
            digest=f"{usual.digest} {samples} samples",
            passes=usual.passes + STEPS * samples,
            receptive_field=None,
            samples=lambda noisy, noise, mean: draw_samples(loaded.model, noisy, noise, mean, samples),
        )
    return usual


def self_ensemble(loaded: Loaded) -> EvaluatedMethod:
    """The same asked for each view of the image, and the mean of its answers."""
    usual, ensemble = of_network(loaded), SelfEnsemble(loaded.model).eval()
    return replace(
        usual,
        method=f"{usual.method}+ensemble",
        denoise=_with(ensemble),
        digest=f"{usual.digest} mean of {len(ensemble.views)} views",
        passes=float(len(ensemble.views)),
    )


class _ShareOfTiles:
    """share_to_take of a network for the tiles of an image, which come one after the other: asked once for all of them.

    The threads that wait for it are at the same image.
    """

    def __init__(self, model: ScoreModel) -> None:
        self._model, self._lock = model, threading.Lock()
        self._last: tuple[weakref.ref[np.ndarray], NoiseModel, float] | None = None

    def __call__(self, noisy: np.ndarray, noise: NoiseModel) -> float:
        with self._lock:
            if self._last is None or self._last[0]() is not noisy or self._last[1] != noise:
                self._last = weakref.ref(noisy), noise, share_to_take(self._model, noisy, noise)
            return self._last[2]


def _with(model: ScoreModel) -> Callable[[np.ndarray, NoiseModel, Box], np.ndarray]:
    share_of_tiles = _ShareOfTiles(model)

    def denoise(noisy: np.ndarray, noise: NoiseModel, box: Box) -> np.ndarray:
        is_whole = box == Box.of(noisy.shape[:2])
        if is_whole and box.pixels > TILE**2:
            estimate = denoise_tiled(model, noisy, noise)  # an image that had to stay whole, in bounded memory
        else:
            estimate = denoise_box(model, noisy, noise, box)
        share = share_to_take(model, noisy, noise) if is_whole else share_of_tiles(noisy, noise)
        return taken(box.of_array(noisy), estimate, share)

    return denoise


def digest(loaded: Loaded) -> str:
    """SHA-256 of a network's weights and of what else its estimates depend on."""
    config = to_dict(loaded.config)
    sections = [{k: v for k, v in config[key].items() if (k, v) not in _LATER} for key in ("ardae", "network")]
    total = sha256(repr([config["noise"], *sections]).encode())
    if loaded.model.condition_kind == "map":
        total.update(b"restrained where noise is weak")  # restraint.py; results of before are another method's
    for name, tensor in sorted(loaded.model.state_dict().items()):
        total.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


@dataclass(frozen=True)
class Estimator:
    """Finds an unknown level: estimate(model, noisy float32 [H, W, C], family) is the noise; family None: any.

    pixels: what it costs, in pixels that go through the network, whatever the image's size.
    """

    estimate: Callable[[ScoreModel, np.ndarray, str | None], NoiseModel]
    pixels: int


SCORE_ESTIMATOR = Estimator(estimate_noise, 7 * 256 * 256)

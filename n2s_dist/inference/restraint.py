"""How much of what a network takes from weak noise to take: as much as Stein's unbiased risk estimate says.

    x_hat = y + a r(y)                                     r: what the network adds, its posterior mean less y
    E|x_hat - x|^2 = E|n|^2 + a^2 E|r|^2 + 2 a E[v . dr]   v: like the noise, dr: the derivative of r along v

(Stein 1981; the derivative by a random direction, Ramani, Blu & Unser 2008.) The error is least at a = -E[v . dr] /
E|r|^2, which is 1 for the true posterior mean. Where noise is weak against an image's detail a network has learned less
well what is noise; taking all that it says could leave the image worse than it was.
"""

import numpy as np

from n2s_dist.inference.pieces import choose_pieces
from n2s_dist.inference.tiling import denoise_whole
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.base import NoiseModel
from n2s_dist.utils.hashing import frozen_rng

_WEAK = 5 / 255  # standard deviation at middle gray below which it is looked for; above it is 1 within a hundredth
_STEP = 0.1  # of a finite difference, in draws of the noise
_SIDE = 160  # of the pieces that it is measured on, in pixels
_SEED = 0x737465696E


def share_to_take(model: ScoreModel, noisy: np.ndarray, noise: NoiseModel, missing: np.ndarray | None = None) -> float:
    """a for one image: 0 to 1, and 1 where it is not looked for: strong noise, and networks that are not told maps.

    noisy: float32 [H, W, C] on the 0-1 scale. missing: bool [H, W, C], pixels that are only filled in. Costs two passes
    over at most 4 x 160 x 160 pixels. Deterministic.
    """
    if model.condition_kind != "map" or float(np.max(noise.std(0.5))) >= _WEAK:
        return 1.0
    pixels, counted = choose_pieces(noisy, missing, _SIDE)
    y = np.ascontiguousarray(np.moveaxis(pixels.numpy(), 1, -1))
    seen = np.ones(y.shape, bool) if counted is None else np.moveaxis(counted.numpy(), 1, -1)
    clean = y.clip(0, 1).astype(np.float64)
    v = (noise.corrupt(clean, frozen_rng(_SEED, 0)) - clean).astype(np.float32)
    ahead = y + _STEP * v
    taken, taken_ahead = (denoise_whole(model, each, noise) - each for each in (y, ahead))
    slope = np.mean((v * (taken_ahead - taken))[seen], dtype=np.float64) / _STEP
    energy = np.mean(np.square(taken)[seen], dtype=np.float64)
    return float(np.clip(-slope / energy, 0, 1)) if energy > 0 else 1.0


def taken(noisy: np.ndarray, estimate: np.ndarray, share: float) -> np.ndarray:
    """x_hat, float32 [h, w, C], from the posterior mean of an image, or of a part of it.

    share: share_to_take of the whole image.
    """
    return estimate if share == 1 else noisy + np.float32(share) * (estimate - noisy)

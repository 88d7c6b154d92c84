"""How training is doing on held-out tiles: the method's own loss, and the PSNR of the denoised image.

The tiles come from images that are neither trained on nor part of a benchmark. Their clean pixels
are compared with, for a person to read; nothing is learned from them.
"""

import numpy as np
import torch

from n2s_dist.distributed.ranks import Ranks
from n2s_dist.images.eight_bit import to_uint8
from n2s_dist.losses.base import draw, loss_of, method_loss
from n2s_dist.losses.loss import Batch
from n2s_dist.metrics.psnr import psnr_db
from n2s_dist.models.image_batches import to_batch
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.distribution import NoiseDistribution
from n2s_dist.shards.reader import ShardSet
from n2s_dist.utils import hashing
from n2s_dist.utils.hashing import frozen_rng


@torch.no_grad()
def validate(
    method: str,
    model: ScoreModel,
    shards: ShardSet,
    num_tiles: int,
    seed: int,
    ranks: Ranks,
    aim: NoiseDistribution,
) -> tuple[dict[str, float], np.ndarray]:
    """Measure on the first num_tiles tiles, shared out over the ranks; noise and draws are always the same.

    aim: the noise that tiles are to have, or the range that each one's is drawn from.
    Returns val_psnr_db, val_psnr_noisy_db and val_loss (of the method; AR-DAE's at one fixed sigma_a), and a
    picture of the first tile: noisy, denoised, clean side by side, uint8 [H, 3 W, C] (rank 0 alone).
    """
    loss, sums = loss_of(method), [0.0, 0.0, 0.0, 0.0]
    triptych = np.zeros((1, 1, 3), np.uint8)
    for index in range(ranks.rank, min(num_tiles, len(shards)), ranks.world_size):
        sample = shards[index]
        noise = aim.of_image(sample.image_key, seed)
        clean, rng = sample.tile / 255.0, frozen_rng(seed, sample.image_key, sample.row, sample.column)
        noisy = noise.corrupt(clean, rng)
        y = to_batch(noisy, ranks.device)
        with ranks.autocast():
            estimate = model.denoise(y, noise)[0].clamp(0, 1).permute(1, 2, 0).cpu().numpy()
            key = hashing.hash64(index) >> np.array([1], np.uint64)
            if loss.extra_view == "clean":
                aux = to_batch(clean, ranks.device)
            elif loss.extra_view == "noisy":
                aux = to_batch(noise.corrupt(clean, rng), ranks.device)
            else:
                kernels = aim.kernels(np.array([sample.image_key], np.uint64), seed)
                aux = draw(method, seed, key, y.shape, ranks.device, kernels)
            scale = _probe_sigma_a(model) if loss.is_perturbed else 0.0
            sigma_a = torch.full((1, 1, 1, 1), scale, device=ranks.device)
            (value,) = method_loss(method, model, model, Batch(key, y, noise, aux, sigma_a)).tolist()
        sums = [a + b for a, b in zip(sums, [psnr_db(clean, estimate), psnr_db(clean, noisy), value, 1.0], strict=True)]
        if index == 0:
            triptych = np.concatenate([to_uint8(noisy), to_uint8(estimate), sample.tile], axis=1)
    psnr, psnr_noisy, value, count = ranks.sum(sums)
    return {"val_psnr_db": psnr / count, "val_psnr_noisy_db": psnr_noisy / count, "val_loss": value / count}, triptych


def _probe_sigma_a(model: ScoreModel) -> float:
    """The one perturbation scale at which validation losses are compared: inside either law's range."""
    if model.coordinates == "stable":
        return 0.5
    ends = model.noise.paper_sigma_a
    assert ends, "the configuration's checks refuse noise without natural coordinates"
    return sum(ends) / 2

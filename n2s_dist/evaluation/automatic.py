"""Nothing named: each noisy file is denoised as `n2s denoise` and load_denoiser() do it, as a method of the evaluator.

    noisy file ──► its noise, estimated ──► the shipped network for it (inference/network_choice.py) ──► estimate

The file's own values go in, so that pixels are the same to the last bit. The estimate comes back before it is rounded.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

import numpy as np
import torch

from n2s_dist.evaluation.methods import DenoisedFile, EvaluatedMethod, digest
from n2s_dist.evaluation.noisy_files import NO_SCALE, NamedScale, is_deep
from n2s_dist.images.files import ImageFile
from n2s_dist.images.scale import Scale
from n2s_dist.images.user_files import open_file
from n2s_dist.inference import arrays
from n2s_dist.inference.denoiser import Wish
from n2s_dist.inference.files import what_is_known
from n2s_dist.inference.network_choice import ShippedDenoiser
from n2s_dist.inference.uncertainty import PROBES
from n2s_dist.models.self_ensemble import SelfEnsemble
from n2s_dist.noise.base import NoiseModel

AUTOMATIC = "automatic"  # the method's name in results


def automatic_methods(
    device: torch.device | str, uncertainty: bool = False, ensemble: bool = False
) -> list[EvaluatedMethod]:
    """What naming nothing gives, and by self-ensemble where that is wanted too. uncertainty: of the first, as well.

    The shipped networks are loaded here. Raises UserError for a damaged one.
    """
    shipped = ShippedDenoiser(device)
    parts = [(each.name, each.is_withdrawn, digest(each.denoiser.loaded)) for each in shipped.candidates]
    models = [each.denoiser.loaded.model for each in shipped.candidates]
    usual = EvaluatedMethod(
        AUTOMATIC,
        denoise=None,
        digest=sha256(repr(parts).encode()).hexdigest(),
        kinds=frozenset(each.denoiser.channels for each in shipped.candidates),
        of_file=_denoising(shipped),
        noise_of_file=_estimating(shipped),
    )
    found = [usual]
    if ensemble:
        views = max((len(SelfEnsemble(model).views) for model in models), default=1)
        found.append(
            replace(
                usual,
                method=f"{AUTOMATIC}+ensemble",
                of_file=_denoising(shipped, ensemble=True),
                digest=f"{usual.digest} mean of views",
                passes=float(views),
            )
        )
    if uncertainty:
        found[0] = replace(
            usual,
            of_file=_denoising(shipped, uncertainty=True),
            digest=f"{usual.digest} {PROBES} probes",
            passes=usual.passes + PROBES,
        )
    return found


def _denoising(
    shipped: ShippedDenoiser, uncertainty: bool = False, ensemble: bool = False
) -> Callable[[ImageFile, NamedScale], DenoisedFile]:
    def of_file(image: ImageFile, scale: NamedScale) -> DenoisedFile:
        wish = Wish(uncertainty, ensemble, None, time.perf_counter())
        estimate, info = shipped.denoise_opened(_opened(image, scale), None, wish)
        assert isinstance(info.noise, NoiseModel)  # one image
        # Where a value is missing nothing was measured.
        std = None if info.std is None else np.nan_to_num(info.std)
        return DenoisedFile(estimate, std, info.noise, info.network.called)

    return of_file


def _estimating(shipped: ShippedDenoiser) -> Callable[[ImageFile, NamedScale], NoiseModel]:
    def noise_of_file(image: ImageFile, scale: NamedScale) -> NoiseModel:
        images = _opened(image, scale)
        (noise,), _, _ = shipped.noises_of(arrays.one_plane(images) or images, None)
        return noise

    return noise_of_file


def _opened(image: ImageFile, named: NamedScale) -> arrays.ImageBatch:
    """A file's only image, opaque, as denoise_file opens it; restored to float32 [H, W, C] on the 0-1 scale.

    A palette counts as the colors that a viewer shows. Values beyond twice the white that is known stay as they are.
    """
    white, black = named if is_deep(image) else NO_SCALE
    with open_file(image) as file:
        values, scale = next(file.images()).shown(), file.find_scale(white, black)
        images = arrays.opened(values, **what_is_known(file.contents, scale, white, black))

    def on_unit_scale(pixels: np.ndarray) -> np.ndarray:
        if images.missing is not None:
            pixels = np.where(images.missing, (scale or Scale(0, 1)).to_unit(values), pixels).astype(np.float32)
        return pixels[0]

    return replace(images, restore=on_unit_scale)

"""A network as a package of BioImage.IO, a zip that programs for image analysis open: for one noise.

rdf.yaml             what the network takes and gives, and how that is scaled
denoise.onnx         the network and Tweedie's formula for this noise, on the 0-1 scale
test-input.npy       a noisy scene in the user's units, and what PyTorch makes of it
test-output.npy
README.md            what it is, for people
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from n2s_dist.images.files import KINDS
from n2s_dist.images.scale import Scale
from n2s_dist.inference.export import DENOISED, NOISY, PosteriorMean, check_exportable, exported
from n2s_dist.inference.tiling import ReceptiveField, denoise_whole
from n2s_dist.models import checkpoint
from n2s_dist.noise.model import NoiseModel
from n2s_dist.noise.specification import format_noise, format_training_noise
from n2s_dist.utils.files import atomic_write
from n2s_dist.utils.hashing import frozen_rng

_FORMAT = "0.5.4"  # the oldest that has all of what is written here
_HALO = 32  # pixels from a tile's border, beyond which what was cut off changes a quarter of an 8-bit level at most
_TEST_SIDE = 128  # pixels, at least
_SEED = 0x62696F
_DIFFERENCE = 1e-4  # of test outputs on the 0-1 scale; what onnxruntime rounds otherwise is a tenth of that
_UNIT = Scale(0, 1)
_METHOD = {
    "text": "Kim and Ye: Noise2Score: Tweedie's Approach to Self-Supervised Image Denoising without Clean Images, 2021",
    "url": "https://arxiv.org/abs/2106.07009",
}
_PAGE = """\
# {name}

Removes {noise} noise from {color} images. The result is the mean of the clean image, given the noisy one.
Made by n2s_dist from the network `{network}`, which was trained on {trained}.

- {scale}
- Both sides are multiples of {multiple}, and at least {least}.
- The noise belongs to this package; another noise takes another one. In its text sigma is in 8-bit levels. zeta, the
  intensity of one photon, and k, the shape of Gamma noise, are on the scale where black is 0 and white is 1.

## Validation

Compare denoised images with known truth, such as the mean of many frames, by PSNR and by eye. What was taken, noisy
minus denoised, should show noise alone. Where noise hides texture, the result is smoother than the truth. On images
unlike those that the network was trained on, it may remove or invent structure.
"""


@dataclass(frozen=True)
class Told:
    """What only the user knows. authors: names. license: an SPDX identifier. scale: black and white of the images."""

    authors: Sequence[str] = ()
    license: str | None = None
    scale: Scale = _UNIT


class AtOneLevel(nn.Module):
    """PosteriorMean for one noise at its level."""

    def __init__(self, inner: PosteriorMean) -> None:
        super().__init__()
        self.inner = inner
        self.values = [torch.full((1, 1, 1, 1), value) for value in inner.noise.values]

    def forward(self, noisy: Tensor) -> Tensor:
        """noisy: [1, C, H, W] on the 0-1 scale."""
        return self.inner.at(noisy, self.values)


def export_bioimageio(loaded: checkpoint.Loaded, noise: NoiseModel, path: Path, told: Told) -> str:
    """Write a package for one noise; returns the name that it gives itself.

    Raises UserError where a package is missing, and for networks in image coordinates.
    """
    check_exportable(loaded, path)
    program, multiple = exported(AtOneLevel(PosteriorMean(loaded.model, noise)).eval(), loaded, {})
    halo = halo_of(loaded)
    least = 2 * halo + multiple
    network = _named(loaded)
    name = f"n2s_dist {network.rpartition('/')[2].partition('@')[0]} {format_noise(noise)}".replace(":", " ")
    page = _page(name, network, loaded, noise, told.scale, multiple, least)
    versions = {package: str(version) for package, version in checkpoint.versions().items()}
    described = {
        "type": "model",
        "format_version": _FORMAT,
        "name": name,
        "description": page.split("\n")[2],
        "documentation": "README.md",
        "authors": [{"name": author} for author in told.authors],
        **({"license": told.license} if told.license else {}),
        "cite": [_METHOD],
        "tags": ["denoising", "image-restoration", "noise2score", "self-supervised", "2d"],
        "inputs": [_input(loaded, told.scale, multiple, least)],
        "outputs": [_output(loaded, told.scale, halo)],
        "weights": {"onnx": {"source": "denoise.onnx", "opset_version": program.model.opset_imports[""]}},
        "config": {
            "bioimageio": {"reproducibility_tolerance": [_tolerance(told.scale)]},
            "n2s_dist": {"network": network, "noise": format_noise(noise), "versions": versions},
        },
    }
    with TemporaryDirectory() as folder:
        place = Path(folder)
        program.save(place / "denoise.onnx", external_data=False)
        _write_test(loaded, noise, told.scale, place, -(-max(_TEST_SIDE, least) // multiple) * multiple)
        (place / "README.md").write_text(page, encoding="utf-8")
        text = yaml.safe_dump(described, sort_keys=False, allow_unicode=True)
        (place / "rdf.yaml").write_text(text, encoding="utf-8")
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(place.iterdir()):
                archive.write(file, file.name)
    return name


def _named(loaded: checkpoint.Loaded) -> str:
    """What a network is called elsewhere: its address, or its own or its run's name without this machine's folders."""
    if loaded.source:
        return loaded.source
    return loaded.path.parents[1].name if loaded.path.parent.name == "checkpoints" else loaded.path.name


def halo_of(loaded: checkpoint.Loaded) -> int:
    """How many pixels at a tile's border programs are told to drop: all that a small network sees, on its grid."""
    field = ReceptiveField.of(loaded.model)
    return field.on_grid(_HALO if field.radius is None else min(_HALO, field.radius))


def _input(loaded: checkpoint.Loaded, scale: Scale, multiple: int, least: int) -> dict[str, Any]:
    sides = [{"type": "space", "id": side, "size": {"min": least, "step": multiple}} for side in "yx"]
    to_unit = {"id": "scale_linear", "kwargs": {"gain": 1 / scale.span, "offset": -scale.black / scale.span}}
    return _tensor(loaded, scale, NOISY, "noisy images", sides) | {"preprocessing": [] if scale == _UNIT else [to_unit]}


def _output(loaded: checkpoint.Loaded, scale: Scale, halo: int) -> dict[str, Any]:
    sides = [
        {"type": "space", "id": side, "halo": halo, "size": {"tensor_id": NOISY, "axis_id": side}} for side in "yx"
    ]
    back = {"id": "scale_linear", "kwargs": {"gain": scale.span, "offset": scale.black}}
    tensor = _tensor(loaded, scale, DENOISED, "their clean images' means", sides)
    return tensor | {"postprocessing": [] if scale == _UNIT else [back]}


def _tensor(
    loaded: checkpoint.Loaded, scale: Scale, name: str, words: str, sides: list[dict[str, Any]]
) -> dict[str, Any]:
    channels = ["gray"] if loaded.channels == 1 else ["red", "green", "blue"]
    file = "test-input.npy" if name == NOISY else "test-output.npy"
    return {
        "id": name,
        "description": f"{words}; black is {scale.black:g}, white {scale.white:g}, and noise may exceed these",
        "axes": [{"type": "batch", "size": 1}, {"type": "channel", "channel_names": channels}, *sides],
        "data": {"type": "float32"},
        "test_tensor": {"source": file},
    }


def _write_test(loaded: checkpoint.Loaded, noise: NoiseModel, scale: Scale, folder: Path, side: int) -> None:
    """A noisy scene of disks on a slope, and what PyTorch makes of it: float32 [1, C, H, W] in the user's units."""
    rows, columns = np.mgrid[:side, :side] / side
    clean = np.repeat((0.15 + 0.3 * rows)[:, :, None], loaded.channels, axis=2)
    for row, column, radius, value in ((0.3, 0.3, 0.18, 0.8), (0.7, 0.6, 0.22, 0.55), (0.25, 0.8, 0.1, 0.05)):
        clean[np.hypot(rows - row, columns - column) < radius] = value
    noisy = noise.corrupt(clean, frozen_rng(_SEED)).astype(np.float32)
    for name, image in (("input", noisy), ("output", denoise_whole(loaded.model, noisy, noise))):
        pixels = image.transpose(2, 0, 1)[None] * np.float32(scale.span) + np.float32(scale.black)
        np.save(folder / f"test-{name}.npy", pixels.astype(np.float32), allow_pickle=False)


def _page(
    name: str, network: str, loaded: checkpoint.Loaded, noise: NoiseModel, scale: Scale, multiple: int, least: int
) -> str:
    unit = "Images are on the 0-1 scale: divide those of 8 bits by 255, those of 16 by 65535."
    own = f"Images are taken as they are: black is {scale.black:g}, white {scale.white:g}."
    return _PAGE.format(
        name=name,
        noise=format_noise(noise),
        color=KINDS[loaded.channels],
        network=network,
        trained=format_training_noise(loaded.model.noise).replace(",", ", "),
        scale=unit if scale == _UNIT else own,
        multiple=multiple,
        least=least,
    )


def _tolerance(scale: Scale) -> dict[str, float]:
    return {"absolute_tolerance": _DIFFERENCE * scale.span, "relative_tolerance": _DIFFERENCE}

"""A network and Tweedie's formula as one ONNX file, for programs without PyTorch."""

import logging
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from n2s_dist.models import checkpoint
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.batch import NoiseBatch
from n2s_dist.noise.model import NoiseModel
from n2s_dist.noise.specification import format_noise
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import atomic_write

NOISY, LEVEL, DENOISED = "noisy", "level", "denoised"
_PACKAGES = ("onnx", "onnxscript")


class PosteriorMean(nn.Module):
    """The posterior mean of an image whose noise is of one family, the levels being an input."""

    def __init__(self, model: ScoreModel, noise: NoiseModel) -> None:
        super().__init__()
        self.model, self.noise = model, noise

    def forward(self, noisy: Tensor, level: Tensor) -> Tensor:
        """noisy: [1, C, H, W] on the 0-1 scale. level: [N], the family's parameters in NoiseModel.values' units."""
        return self.at(noisy, [each.view(1, 1, 1, 1) for each in level.split(1)])

    def at(self, noisy: Tensor, values: Sequence[Tensor]) -> Tensor:
        """The same for the family's parameters one by one, [1, 1, 1, 1] each."""
        kind = self.noise.with_values(*values)
        batch = NoiseBatch((kind,), torch.zeros(1, 1, 1, 1, dtype=torch.int64, device=noisy.device))
        condition = self.model.conditioning.encode(batch, noisy.device)
        return kind.posterior_mean(noisy, self.model.unperturbed(batch.stabilize(noisy), condition))


def export_onnx(loaded: checkpoint.Loaded, noise: NoiseModel, path: Path) -> dict[str, str]:
    """Write a network for one family of noise; returns what the file says of itself.

    The file has the inputs `noisy`, float32 [1, C, H, W] on the 0-1 scale, both sides multiples of what it says is
    `multiple`, and `level`, float32 [N], the family's parameters; its output is `denoised`, of the image's shape.
    Raises UserError where a package is missing, and for networks in image coordinates.
    """
    check_exportable(loaded, path)
    module = PosteriorMean(loaded.model, noise).eval()
    program, multiple = exported(module, loaded, {LEVEL: torch.tensor(noise.values)})
    said = {
        "network": Path(loaded.called).name,
        "family": noise.family,
        "level": ", ".join(f"{one.name} {value:g}" for one, value in zip(noise.parameters, noise.values, strict=True)),
        "noise": format_noise(noise),
        "multiple": str(multiple),
    }
    program.model.metadata_props.update(said)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        program.save(partial, external_data=False)
    return said


def check_exportable(loaded: checkpoint.Loaded, path: Path) -> None:
    """UserError where a package is missing, and for a network that can't be written to `path`."""
    if lacking := [name for name in _PACKAGES if find_spec(name) is None]:
        raise UserError(f"{path} takes the package {lacking[0]}: pip install n2s_dist[export]")
    if loaded.model.coordinates != "stable":
        raise UserError(f"{loaded.called} works in image coordinates: give a network in stable ones, the default")


def exported(module: nn.Module, loaded: checkpoint.Loaded, more: dict[str, Tensor]) -> tuple[Any, int]:
    """A module of an image and of `more` inputs as an ONNX program, and what the image's sides are multiples of."""
    multiple = int(loaded.model.network.multiple)  # type: ignore[arg-type]
    noisy = torch.zeros(1, loaded.channels, 4 * multiple, 5 * multiple)
    height, width = (torch.export.Dim(name, min=2) for name in ("height", "width"))
    sides = {2: multiple * height, 3: multiple * width} if multiple > 1 else {2: height, 3: width}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # which names packages that nothing here takes
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        program = torch.onnx.export(
            module, (noisy, *more.values()), input_names=[NOISY, *more], output_names=[DENOISED], dynamo=True,
            verbose=False, dynamic_shapes={NOISY: sides, **dict.fromkeys(more)},
        )  # fmt: skip
    return program, multiple

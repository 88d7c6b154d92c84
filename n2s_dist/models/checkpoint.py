"""Checkpoints that are whole or not there, and that no loader can be made to run code by.

    RUN_DIR/checkpoints/samples-000160000/
        model.safetensors     the averaged weights: what is evaluated and shipped
        model.json            configuration, channels, samples_seen, versions, validation PSNR
        training_state.pt     raw weights, optimizer, loss scale: what resuming needs besides
        COMPLETE              sha256 of each of the others; written last

checkpoint_writing.py writes and removes them.
"""

import importlib.metadata
import json
import math
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_safetensors
from torch import Tensor

import n2s_dist
from n2s_dist.config.schema import Config, from_dict
from n2s_dist.models import hub, pretrained
from n2s_dist.models.base import network_options
from n2s_dist.models.score_model import ScoreModel, build_score_model
from n2s_dist.noise.base import NoiseModel
from n2s_dist.utils import plugins
from n2s_dist.utils.errors import UserError, print_rank0
from n2s_dist.utils.files import sha256_file

if TYPE_CHECKING:  # who only loads a network meets nobody
    from n2s_dist.distributed.meeting import Meeting

WEIGHTS, ABOUT, STATE, MARKER = "model.safetensors", "model.json", "training_state.pt", "COMPLETE"
FORMAT = 2  # of model.json, and of what the network is given
_NAME = re.compile(r"samples-\d{9,}")


@dataclass(frozen=True)
class Loaded:
    """A checkpoint's averaged model and what is known about it.

    path: its folder, or its name if it is shipped. source: where that folder was downloaded from, with the commit.
    """

    path: Path
    config: Config
    channels: int
    shards_fingerprint: str
    samples_seen: int
    model: ScoreModel
    source: str = ""

    @property
    def called(self) -> str:
        """What people know it by."""
        return self.source or str(self.path)

    @property
    def specificity(self) -> tuple[int, float]:
        """How much it is to be good at, least first (NoiseDistribution.specificity)."""
        return self.config.aim.specificity

    @property
    def is_universal(self) -> bool:
        """Whether it was trained for all of some ranges of levels, so that training has not told it an unknown one."""
        return not self.model.noise.is_single and self.config.aim == self.model.noise

    def is_for(self, noise: NoiseModel) -> bool:
        """Whether it was trained for this noise, alone or among others."""
        return self.config.aim.holds(noise)


def versions() -> dict[str, str]:
    """What figures depend on besides data and settings: versions, and digests of the files of extensions."""
    return {
        "n2s_dist": n2s_dist.__version__,
        "torch": torch.__version__,
        "accelerate": importlib.metadata.version("accelerate"),
        "numpy": np.__version__,
        "python": platform.python_version(),
        **plugins.digests(),
    }


def inspect(path: Path) -> tuple[str | None, bool]:
    """What is wrong with a checkpoint, or None when every file is as it was written; and whether that is certain.

    What can't be read may be whole.
    """
    try:
        hashes = json.loads((path / MARKER).read_text())
        broken = [name for name in (WEIGHTS, ABOUT, STATE) if hashes[name] != sha256_file(path / name)]
    except (FileNotFoundError, NotADirectoryError) as error:
        return f"incomplete: {Path(error.filename).name} is missing", True
    except OSError as error:
        return f"can't be read ({error.strerror})", False
    except (ValueError, KeyError, TypeError):
        return f"its list of checksums, {MARKER}, is damaged", True
    return (f"{broken[0]} does not match its checksum" if broken else None), True


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None when every file is as it was written."""
    return inspect(path)[0]


def newest_first(run_dir: Path) -> list[Path]:
    folder = run_dir / "checkpoints"
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=samples_of, reverse=True)


def samples_of(path: Path) -> int:
    """How many samples a checkpoint has seen, by its name."""
    return int(path.name.split("-")[1])


def newest_valid(run_dir: Path, may_go_on: Callable[[Config, int], bool] = lambda *_: True) -> Path | None:
    """The newest checkpoint that is whole. Damaged ones are named on the terminal and passed over.

    may_go_on: of the configuration and samples_seen of a checkpoint, whether it is one to look at.
    """
    for path in newest_first(run_dir):
        problem = damage(path)
        if problem is None and may_go_on(*_standing(path)):
            return path
        if problem is not None:
            print_rank0(f"passing over {path}: {problem}")
    return None


def _standing(path: Path) -> tuple[Config, int]:
    """The configuration that a whole checkpoint was made with, and how far its run had come."""
    about = json.loads((path / ABOUT).read_text())
    return from_dict(about["config"], str(path)), about["samples_seen"]


def psnr_db_of(path: Path) -> float:
    """A checkpoint's validation PSNR; minus infinity where none was measured."""
    try:
        psnr = json.loads((path / ABOUT).read_text())["val_psnr_db"]
    except (OSError, ValueError, KeyError, TypeError):
        psnr = None
    return -math.inf if psnr is None else psnr


def best(run_dir: Path) -> Path | None:
    """The whole checkpoint with the best validation PSNR; the newest one where none was measured."""
    ranked = sorted(newest_first(run_dir), key=psnr_db_of, reverse=True)  # stable: equals stay newest first
    return next((path for path in ranked if damage(path) is None), None)


def locate(path: str | Path, which: str = "last") -> Path:
    """The checkpoint that a user means by a run directory (its last or best one), by a checkpoint's own folder, by the
    address of a repository (hub.py), which is downloaded, or by the name of a shipped network, which then stands for
    its path.
    """
    if hub.is_address(path):
        return hub.fetch(path)
    path = Path(path)
    if pretrained.is_shipped(path):
        problem = pretrained.damage(path.name)
        if problem:
            raise UserError(f"the shipped {path} is damaged: {problem}: install the package again")
        return path
    if (path / ABOUT).is_file():
        problem = damage(path)
        if problem:
            raise UserError(f"{path} is damaged: {problem}")
        return path
    found = best(path) if which == "best" else newest_valid(path)
    if found is None:
        raise UserError(
            f"{path} holds no checkpoint: give a run directory, a folder like "
            f"RUN_DIR/checkpoints/samples-000040000{pretrained.known()}"
        )
    return found


def identity(path: Path) -> str:
    """A digest of a checkpoint, as locate() names it, that another one has otherwise. UserError when damaged."""
    if pretrained.is_shipped(path):
        return sha256_file(pretrained.files(path.name)[0])[:12]
    is_of_hub = bool(hub.source_of(path))
    if problem := hub.damage(path) if is_of_hub else damage(path):
        raise UserError(f"{path} can't be used here: {problem}")
    return sha256_file(path / (WEIGHTS if is_of_hub else MARKER))[:12]


def compare(meeting: "Meeting", paths: list[Path]) -> None:
    """UserError on all ranks when one of these is missing, damaged or another one on some of them."""
    meeting.compare(
        "checkpoints",
        lambda: {str(path): identity(path) for path in paths},
        "keep runs on a file system that all nodes share",
    )


def load(path: Path, device: torch.device | str = "cpu") -> Loaded:
    """Load the averaged model of one checkpoint, as locate() names it, in evaluation mode and float32."""
    weights_file, about_file = (
        pretrained.files(path.name) if pretrained.is_shipped(path) else (path / WEIGHTS, path / ABOUT)
    )
    try:
        about = json.loads(about_file.read_text())
        if "config" in about and about.get("format") != FORMAT:
            raise UserError(f"{path} was written by another version of n2s_dist: train it again with this one")
        config, channels = _config_of(about, about_file), about["channels"]
        fingerprint, samples_seen = about["shards_fingerprint"], about["samples_seen"]
        model = build_score_model(config, channels)
        weights = read_safetensors(weights_file.read_bytes())  # its own reader takes no names that are not UTF-8
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not a readable checkpoint ({type(error).__name__}: {error})") from None
    load_weights(model, weights, path)
    model = model.to(device).eval()
    return Loaded(path, config, channels, fingerprint, samples_seen, model, hub.source_of(path))


def _config_of(about: dict[str, Any], path: Path) -> Config:
    """A checkpoint's configuration; UserError that names the version that wrote it, if this one can't read it."""
    try:
        config = from_dict(about["config"], str(path))
        network_options(config.network, str(path))
        return config
    except UserError as error:
        versions = about.get("versions")
        wrote = versions.get("n2s_dist") if isinstance(versions, dict) else None
        if wrote in (None, n2s_dist.__version__):
            raise
        raise UserError(f"{error}; version {wrote} wrote it and this is {n2s_dist.__version__}: use that one") from None


def load_weights(model: ScoreModel, weights: dict[str, Tensor], path: Path) -> None:
    """Fill a model; UserError when the weights are those of another network."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise UserError(
                f"{path} holds another network's weights: {name} is {found.get(name, 'missing')} there, "
                f"{expected.get(name, 'unknown')} in this configuration"
            )
    model.load_state_dict(weights)


def load_training_state(path: Path) -> dict[str, Any]:
    """Raw weights, optimizer and loss scale. weights_only keeps torch from unpickling anything but tensors."""
    with (path / STATE).open("rb") as stream:
        return torch.load(stream, map_location="cpu", weights_only=True)

"""Denoisers whose estimates are known in advance, a network that was never trained, and benchmarks made on the spot."""

import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from n2s_dist.config.schema import ArdaeConfig, Config, NetworkConfig
from n2s_dist.evaluation.benchmarks import Benchmark
from n2s_dist.evaluation.deviations import compare_deviations, posterior_figures
from n2s_dist.evaluation.methods import EvaluatedMethod, of_network
from n2s_dist.evaluation.suite import Cell
from n2s_dist.inference.uncertainty import Posterior
from n2s_dist.models import checkpoint, checkpoint_writing
from n2s_dist.models.score_model import build_score_model
from n2s_dist.noise.base import NoiseModel

UNIVERSAL = "gaussian:5-55,poisson:0.005-0.1,gamma:20-200"


class Spy:
    """A method that counts its calls and keeps what it was given. Its estimate: `answer` of the noisy image."""

    def __init__(self, answer: Callable[[np.ndarray], np.ndarray] = lambda noisy: noisy) -> None:
        self.answer, self.seen, self._lock = answer, [], threading.Lock()
        self.stop_after: int | None = None

    def denoise(self, noisy: np.ndarray, noise: NoiseModel, box) -> np.ndarray:
        with self._lock:
            if self.stop_after is not None and len(self.seen) >= self.stop_after:
                raise KeyboardInterrupt
            self.seen.append((noisy, noise))
        return box.of_array(self.answer(noisy))

    def as_method(self, name: str = "n2s", like: EvaluatedMethod | None = None) -> EvaluatedMethod:
        """like: a network to pass for."""
        return replace(like or EvaluatedMethod(name, self.denoise, "spy"), method=name, denoise=self.denoise)


def save_network(
    run_dir: Path,
    noise: str = UNIVERSAL,
    channels: int = 3,
    seed: int = 0,
    method: str = "ardae",
    focus: str = "",
    condition: str = "families",
) -> Path:
    """A run directory with a checkpoint of fresh weights."""
    ardae = ArdaeConfig(whole_range=bool(focus), focus=focus)
    shape = NetworkConfig(options={"widths": [12, 24], "blocks": 1}, condition=condition)
    config = Config(noise=noise, method=method, ardae=ardae, network=shape)
    torch.manual_seed(seed)
    weights = build_score_model(config, channels).state_dict()
    checkpoint_writing.save(run_dir, config, channels, "", 8, weights, {}, None)
    return run_dir


def ship_network(folder: Path, name: str, run_dir: Path, **words: str) -> None:
    """Put a run's network among the pretrained ones, which are those in `folder`. words: more to say of it."""
    source = checkpoint.locate(run_dir)
    weights = folder / f"{name}.safetensors"
    shutil.copy(source / checkpoint.WEIGHTS, weights)
    about = json.loads((source / checkpoint.ABOUT).read_text())
    about |= {"sha256": hashlib.sha256(weights.read_bytes()).hexdigest(), **words}
    (folder / f"{name}.json").write_text(json.dumps(about))


def network(tmp_path: Path, noise: str = UNIVERSAL, channels: int = 3, focus: str = "") -> EvaluatedMethod:
    run_dir = save_network(tmp_path / f"{noise}-{channels}{focus}".replace(":", "_"), noise, channels, focus=focus)
    return of_network(checkpoint.load(checkpoint.locate(run_dir)))


def cell(source: Benchmark, denoiser: EvaluatedMethod, noise: str = "gaussian:25", level: str = "known") -> Cell:
    return Cell(noise, level, denoiser.method, source.name, source, denoiser, protocol=source.protocol)


def calibration(clean: np.ndarray, posterior: Posterior) -> dict[str, float]:
    """What an evaluation says of the deviations of one image."""
    figures = posterior_figures([{"name": "one", **compare_deviations(clean, posterior.estimate, posterior.std)}])
    assert figures is not None
    return figures

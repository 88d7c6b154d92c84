"""A noise family in one file outside the package goes all the way: shards, training, evaluation, report."""

import json
import os
import sys
from pathlib import Path

import pytest

from n2s_dist import evaluate, report
from n2s_dist import train as training
from n2s_dist.models import checkpoint
from n2s_dist.noise import base
from n2s_dist.noise.specification import format_noise, format_training_noise, noise_title, parse_noise
from n2s_dist.shards.manifest import read_manifest
from n2s_dist.utils import plugins
from n2s_dist.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("cpu")

LAPLACE = '''
"""Laplace noise: heavy tails, the same at every intensity."""

from dataclasses import dataclass

import numpy as np

from n2s_dist.noise.base import register
from n2s_dist.noise.frozen import shuffled
from n2s_dist.noise.model import NoiseModel, Parameter


@register
@dataclass(frozen=True)
class Laplace(NoiseModel):
    sigma: float
    family = "laplace"
    parameters = (Parameter("sigma", 0, 255, scale=255, power=0.5, positive=True),)
    title = "Laplace, σ = {}"

    def std(self, x):
        return self.sigma

    def corrupt(self, clean, rng):
        return clean + rng.laplace(0, self.sigma / 2**0.5, clean.shape)

    def draw(self, clean, bits, arrays):
        share = (np.arange(65536) + 0.5) / 65536
        side = np.sign(share - 0.5)
        quantiles = -side * np.log1p(-2 * np.abs(share - 0.5)) * (-1) * self.sigma / 2**0.5
        word, _ = bits.halves()
        return clean * arrays.f32(1 / 255) + arrays.lookup(word, shuffled(quantiles, 5).astype(np.float32))

    def stabilize(self, y):
        return y / self.sigma

    def posterior_mean(self, y, score):
        return y + self.sigma * score

    def std_at(self, z):
        return z * 0 + self.sigma
'''


@pytest.fixture
def laplace(tmp_path, monkeypatch) -> None:
    """The family, for this process and for those that it starts."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins/laplace_noise.py").write_text(LAPLACE)
    monkeypatch.syspath_prepend(tmp_path / "plugins")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "plugins"), *sys.path]))
    monkeypatch.setenv(plugins.VARIABLE, "laplace_noise")
    monkeypatch.setattr(plugins, "_imported", set())
    monkeypatch.setattr(base, "_FAMILIES", dict(base._FAMILIES))
    yield
    sys.modules.pop("laplace_noise", None)


@pytest.mark.parametrize("noise", ["laplace:10-40", "laplace:20"])
def test_shards_training_evaluation_and_report(laplace, noise, photographs, tiny, cli, load_tool, tmp_path: Path):
    sources, run, results = tmp_path / "shards", tmp_path / "run", tmp_path / "results"
    stored = ["--noise", noise] if "-" in noise else []
    done = cli(load_tool("build_shards").main, photographs, "--out", sources, "--tile-size=64", "--workers=1", *stored)
    assert done.code == 0, done.err
    assert read_manifest(sources).noise == (noise if stored else None)
    options = [f"--noise={noise}", f"--run_dir={run}", f"--data.shards={sources}", "--train.total_samples=32"]
    done = cli(training.main, *tiny, *options, "--network.condition=map")
    assert done.code == 0, done.err
    model = checkpoint.load(checkpoint.locate(run)).model
    assert format_training_noise(model.noise) == noise and model.families == {"laplace"}
    (tmp_path / "images").mkdir()
    os.link(photographs / "coffee.png", tmp_path / "images/coffee.png")
    told = ["--noise=laplace:20"] if stored else []
    done = cli(
        evaluate.main, "--checkpoint", run, "--benchmark", f"mine={tmp_path / 'images'}", "--out", results, *told
    )
    assert done.code == 0, done.err
    (cell,) = json.loads((results / "results.json").read_text())["cells"]
    assert cell["noise"] == "laplace:20" and abs(cell["psnr_noisy_db"] - 22.1) < 0.3
    done = cli(report.main, "--run_dir", run, "--results", results, "--out", tmp_path / "report")
    assert done.code == 0, done.err
    assert "Laplace, σ = 20" in (tmp_path / "report/report.html").read_text()


def test_its_text_is_read_and_written(laplace):
    assert format_noise(parse_noise("laplace:20")) == "laplace:20" and noise_title("laplace") == "Laplace"
    with pytest.raises(UserError, match=r"laplace:SIGMA with SIGMA in \(0, 255\]"):
        parse_noise("laplace:0")


def test_unknown_levels_and_old_conditions_are_refused(laplace, tiny, cli):
    done = cli(training.main, *tiny, "--noise=laplace:10-40", "--run_dir=run")
    assert "network.condition families tells gaussian, poisson, gamma apart: give map for laplace:10-40" in done.error()
    with pytest.raises(UserError, match="laplace noise can't be estimated"):
        parse_noise("laplace:20").first_guess(None)


def test_mistakes_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(plugins, "_imported", set())
    monkeypatch.setenv(plugins.VARIABLE, " no_such_module_here ")
    with pytest.raises(UserError, match="N2S_PLUGINS names no_such_module_here, which can't be imported"):
        base.families()
    monkeypatch.setenv(plugins.VARIABLE, "")
    with pytest.raises(UserError, match="noise family 'gaussian' is there already"):
        base.register(type("Mine", (base.NoiseModel,), {"family": "gaussian"}))
    with pytest.raises(UserError, match="letters, digits and hyphens"):
        base.register(type("Mine", (base.NoiseModel,), {"family": "my_noise"}))

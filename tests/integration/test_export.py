"""n2s export: the ONNX file computes what the network does, at other sizes and levels, by onnxruntime."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.denoisers import UNIVERSAL, save_network

from n2s_dist.commands import export
from n2s_dist.models import checkpoint
from n2s_dist.noise.specification import parse_noise

pytestmark = pytest.mark.usefixtures("cpu")

MAPS = "gaussian:1-75,poisson-gaussian:0.0025-0.1:1-25"


@pytest.mark.parametrize(
    "trained, channels, condition, noise, other",
    [
        (UNIVERSAL, 3, "families", "poisson:0.01", "poisson:0.03"),
        (MAPS, 1, "map", "poisson-gaussian:0.01:5", "poisson-gaussian:0.02:9"),
    ],
)
def test_the_file_computes_what_the_network_does(tmp_path, cli, trained, channels, condition, noise, other):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run, out = save_network(tmp_path / "run", trained, channels=channels, condition=condition), tmp_path / "a/n.onnx"
    done = cli(export.main, run, f"--noise={noise}", f"--out={out}")
    assert done.code == 0, done.err
    assert done.out.startswith(f"wrote {out}") and [path.name for path in out.parent.iterdir()] == ["n.onnx"]
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    said = session.get_modelmeta().custom_metadata_map
    assert said["family"] == noise.partition(":")[0] and said["noise"] == noise
    model, multiple = checkpoint.load(checkpoint.locate(run)).model, int(said["multiple"])
    for named, height, width in ((noise, 3, 7), (other, 8, 4)):
        shape = (1, channels, height * multiple, width * multiple)
        noisy = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        chosen = parse_noise(named)
        with torch.no_grad():
            truth = model.denoise(noisy, chosen).numpy()
        level = np.array(chosen.values, np.float32)
        (found,) = session.run(None, {"noisy": noisy.numpy(), "level": level})
        assert np.abs(found - truth).max() < 1e-5 < np.abs(found - noisy.numpy()).max()


@pytest.mark.parametrize(
    "words, said",
    [
        (["--noise=gaussian:20", "--out=a.png"], "should end with .onnx"),
        (["--out=a.onnx"], "--noise is missing"),
        (["--noise=gausian:20", "--out=a.onnx"], "gausian"),
    ],
)
def test_mistakes_are_named(tmp_path, cli, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    assert said in cli(export.main, "universal-gray", *words).error()
    assert not list(Path().iterdir())


def test_a_package_that_is_missing_is_named_with_its_extra(tmp_path, cli, monkeypatch):
    monkeypatch.setattr("n2s_dist.inference.export.find_spec", lambda name: None)
    line = cli(export.main, "universal-gray", "--noise=gaussian:20", f"--out={tmp_path / 'a.onnx'}").error()
    assert "takes the package onnx: pip install n2s_dist[export]" in line and not list(tmp_path.iterdir())

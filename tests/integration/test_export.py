"""n2s export: files compute what the network does, at other sizes and levels, by onnxruntime; packages are valid."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from support.denoisers import UNIVERSAL, save_network

from n2s_dist.commands import export
from n2s_dist.inference.bioimageio import halo_of
from n2s_dist.inference.tiling import denoise_whole
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


def scaled(pixels: np.ndarray, steps: list[dict]) -> np.ndarray:
    """What a program does by a package's pre- or postprocessing."""
    assert [step["id"] for step in steps] == ["scale_linear"]
    return (pixels * steps[0]["kwargs"]["gain"] + steps[0]["kwargs"]["offset"]).astype(np.float32)


def test_a_package_of_bioimage_io_is_valid_and_computes_what_the_network_does(tmp_path, cli):
    """Of camera values with black and white, as other programs read it: by its rdf.yaml alone."""
    onnxruntime = pytest.importorskip("onnxruntime")
    spec = pytest.importorskip("bioimageio.spec")
    run, out = save_network(tmp_path / "run"), tmp_path / "a/package.zip"
    words = ["--noise=gaussian:20", "--format=bioimageio", "--white=4095", "--black=95", "--author=A", "--license=MIT"]
    done = cli(export.main, run, *words, f"--out={out}")
    assert done.code == 0, done.err
    assert done.out == f"wrote {out}: n2s_dist run gaussian 20\n" and [*out.parent.iterdir()] == [out]
    found = spec.load_description(out, perform_io_checks=True)
    assert found.validation_summary.status == "valid-format", found.validation_summary.format()
    assert type(found).__name__ == "ModelDescr" and found.name == "n2s_dist run gaussian 20"
    with zipfile.ZipFile(out) as package:
        package.extractall(tmp_path / "unpacked")
    described = yaml.safe_load((tmp_path / "unpacked/rdf.yaml").read_text())
    assert str(tmp_path) not in "".join(path.read_text() for path in (tmp_path / "unpacked").glob("*[dl]"))
    (given,), (told,) = described["inputs"], described["outputs"]
    session = onnxruntime.InferenceSession(
        tmp_path / "unpacked" / described["weights"]["onnx"]["source"], providers=["CPUExecutionProvider"]
    )

    def by_the_package(pixels: np.ndarray) -> np.ndarray:
        (result,) = session.run([told["id"]], {given["id"]: scaled(pixels, given["preprocessing"])})
        return scaled(result, told["postprocessing"])

    test_input, test_output = (
        np.load(tmp_path / "unpacked" / tensor["test_tensor"]["source"]) for tensor in (given, told)
    )
    (limits,) = described["config"]["bioimageio"]["reproducibility_tolerance"]
    difference = np.abs(by_the_package(test_input) - test_output)
    assert difference.max() < limits["absolute_tolerance"] < 1 < np.abs(test_input - test_output).max()
    model, sides = checkpoint.load(checkpoint.locate(run)).model, [axis["size"] for axis in given["axes"][2:]]
    height, width = (each["min"] + steps * each["step"] for each, steps in zip(sides, (0, 3), strict=True))
    image = np.random.default_rng(0).uniform(95, 4095, (height, width, 3)).astype(np.float32)
    truth = 95 + 4000 * denoise_whole(model, (image - 95) / 4000, parse_noise("gaussian:20"))
    other = by_the_package(image.transpose(2, 0, 1)[None])
    assert np.abs(other[0].transpose(1, 2, 0) - truth).max() < 0.4  # of 4,000


def test_the_halo_of_a_package_is_where_a_tile_differs_from_the_whole(tmp_path, cli):
    """What a shipped network gives beside a cut: nearer to it than the halo other values, beyond it the same to a
    quarter of an 8-bit level, in noise of 25.
    """
    loaded, noise = checkpoint.load(checkpoint.locate("universal-gray")), parse_noise("gaussian:25")
    halo = halo_of(loaded)
    clean = np.random.default_rng(1).uniform(0.2, 0.8, (16, 16, 1)).repeat(12, axis=0).repeat(12, axis=1)
    noisy = noise.corrupt(clean, np.random.default_rng(0)).astype(np.float32)
    whole, part = (denoise_whole(loaded.model, pixels, noise) for pixels in (noisy, noisy[:, 96:]))
    difference = np.abs(whole[:, 96:] - part)
    assert difference[:, halo:].max() < 1e-3 and difference[:, :4].max() > 0.02


@pytest.mark.parametrize(
    "words, said",
    [
        (["--noise=gaussian:20", "--format=bioimageio", "--out=a.onnx"], "should end with .zip"),
        (["--noise=gaussian:20", "--out=a.onnx", "--white=255"], "--white is given, which only packages have"),
        (["--noise=gaussian:20", "--format=bioimageio", "--out=a.zip", "--black=9"], "white has to be the higher one"),
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

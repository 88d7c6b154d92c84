"""Extensions in one file outside the package go all the way: shards, training, evaluation, report, denoising."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from support.paths import TOYS

from n2s_dist import denoise, evaluate, report
from n2s_dist import train as training
from n2s_dist.config.schema import to_dict
from n2s_dist.evaluation.benchmarks import Benchmark
from n2s_dist.evaluation.protocols import read_pair
from n2s_dist.images.formats import base as formats
from n2s_dist.inference.network_choice import load_denoiser
from n2s_dist.inference.tiling import denoise_whole
from n2s_dist.losses import base as losses
from n2s_dist.metrics import base as metrics
from n2s_dist.metrics.metric import Metric
from n2s_dist.models import base as networks
from n2s_dist.models import checkpoint
from n2s_dist.models.network import Network
from n2s_dist.noise import base
from n2s_dist.noise.specification import format_noise, format_training_noise, noise_title, parse_noise
from n2s_dist.shards.manifest import read_manifest
from n2s_dist.training.command_line import read_config
from n2s_dist.utils import plugins
from n2s_dist.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("cpu", "no_layout")
DNCNN = ["--network.name=dncnn", "--network.depth=3", "--network.features=8"]


@pytest.fixture
def quick(tiny) -> list[str]:
    """A run of four steps of any network; the last options count."""
    return [*(word for word in tiny if not word.startswith("--network.")), "--train.total_samples=32"]


@pytest.fixture
def coffee(photographs, tmp_path) -> Path:
    """A benchmark of one image."""
    folder = tmp_path / "images"
    folder.mkdir()
    os.link(photographs / "coffee.png", folder / "coffee.png")
    return folder


def computed(cli, run: Path, images: Path, out: Path, *options: str) -> dict:
    """The results of an evaluation of one network on one benchmark, and what it printed as `printed`."""
    done = cli(evaluate.main, "--checkpoint", run, "--benchmark", f"mine={images}", "--out", out, *options)
    assert done.code == 0, done.err
    return json.loads((out / "results.json").read_text()) | {"printed": done.out}


def reported(cli, run: Path, results: Path, out: Path) -> str:
    done = cli(report.main, "--run-dir", run, "--results", results, "--out", out)
    assert done.code == 0, done.err
    return (out / "report.html").read_text()


def denoised(cli, run: Path, noisy: Path, target: Path, *options: str) -> np.ndarray:
    done = cli(denoise.main, "--checkpoint", run, *options, noisy, target)
    assert done.code == 0, done.err
    return np.asarray(Image.open(target)).astype(float)


# --- a noise family -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", ["laplace:10-40", "laplace:20"])
def test_a_family(plug_in, noise, photographs, coffee, quick, cli, load_tool, tmp_path: Path):
    plug_in("laplace_noise")
    sources, run = tmp_path / "shards", tmp_path / "run"
    stored = ["--noise", noise] if "-" in noise else []
    done = cli(load_tool("build_shards").main, photographs, "--out", sources, "--tile-size=64", "--workers=1", *stored)
    assert done.code == 0, done.err
    assert read_manifest(sources).noise == (noise if stored else None)
    options = [f"--noise={noise}", f"--run_dir={run}", f"--data.shards={sources}", "--network.widths=[8,16]"]
    done = cli(training.main, *quick, *options, "--network.condition=map")
    assert done.code == 0, done.err
    model = checkpoint.load(checkpoint.locate(run)).model
    assert format_training_noise(model.noise) == noise and model.families == {"laplace"}
    told = ["--noise=laplace:20"] if stored else []
    (cell,) = computed(cli, run, coffee, tmp_path / "results", *told)["cells"]
    assert cell["noise"] == "laplace:20" and abs(cell["psnr_noisy_db"] - 22.1) < 0.3
    assert "Laplace, σ = 20" in reported(cli, run, tmp_path / "results", tmp_path / "report")
    pixels = denoised(cli, run, coffee / "coffee.png", tmp_path / "out.png", "--noise=laplace:20")
    assert np.abs(pixels - np.asarray(Image.open(coffee / "coffee.png"))).mean() < 40


def test_its_text_is_read_and_written(plug_in):
    plug_in("laplace_noise")
    assert format_noise(parse_noise("laplace:20")) == "laplace:20" and noise_title("laplace") == "Laplace"
    with pytest.raises(UserError, match=r"laplace:SIGMA with SIGMA in \(0, 255\]"):
        parse_noise("laplace:0")


def test_unknown_levels_and_old_conditions_are_refused(plug_in, tiny, cli):
    plug_in("laplace_noise")
    done = cli(training.main, *tiny, "--noise=laplace:10-40", "--run_dir=run")
    assert "network.condition families tells gaussian, poisson, gamma apart: give map for laplace:10-40" in done.error()
    with pytest.raises(UserError, match="laplace noise can't be estimated"):
        parse_noise("laplace:20").first_guess(None)


# --- a network ----------------------------------------------------------------------------------------------


def test_a_network(plug_in, quick, coffee, cli, tmp_path, monkeypatch):
    plug_in("dncnn_network")
    run, file = tmp_path / "run", tmp_path / "given.yaml"
    file.write_text("network:\n  name: dncnn\n  depth: 3\n  features: 8\n")
    done = cli(training.main, "--config", file, *quick, f"--run_dir={run}", "--optimizer.name=muon")
    assert done.code == 0 and "dncnn, 0.00 M parameters" in done.out, done.err
    frozen = yaml.safe_load((run / "config.yaml").read_text())["network"]
    assert frozen == {"name": "dncnn", "depth": 3, "features": 8, "condition": "families"}
    done = cli(training.main, *quick, *DNCNN, f"--run_dir={run}", "--optimizer.name=muon")
    assert done.code == 0 and "nothing to do" in done.out, done.err
    done = cli(training.main, *quick, *DNCNN, f"--run_dir={run}", "--optimizer.name=muon", "--network.depth=4")
    assert "was trained with network.depth 3, not 4" in done.error()

    loaded = checkpoint.load(checkpoint.locate(run))
    assert loaded.model.network.receptive_radius == 3 and len(loaded.model.network.layers) == 3
    assert [weight.shape[:2] for weight in loaded.model.network.hidden_weights()] == [(8, 8)]
    (cell,) = computed(cli, run, coffee, tmp_path / "results")["cells"]
    assert cell["checkpoint"] == str(loaded.path) and cell["psnr_db"] > 10
    assert "features: 8" in reported(cli, run, tmp_path / "results", tmp_path / "report")
    whole = denoised(cli, run, coffee / "coffee.png", tmp_path / "whole.png")
    tiles = denoised(cli, run, coffee / "coffee.png", tmp_path / "tiles.png", "--tile=16")
    assert np.abs(whole - tiles).max() <= 1

    monkeypatch.setenv(plugins.VARIABLE, "")
    monkeypatch.setattr(networks, "_NETWORKS", {"resunet": networks._NETWORKS["resunet"]})
    assert "unknown key 'network.depth'" in (line := cli(training.main, "--config", file).error())
    assert line.endswith("a network from elsewhere is named by N2S_PLUGINS")
    done = cli(denoise.main, "--checkpoint", run, coffee / "coffee.png", tmp_path / "out.png")
    assert "network.name is dncnn" in done.error() and "N2S_PLUGINS" in done.error()
    assert not (tmp_path / "out.png").exists()


def test_its_options_are_shown_and_checked(plug_in, cli, tmp_path):
    plug_in("dncnn_network")
    shown = " ".join(cli(training.main, "--help").out.split())
    assert "{resunet,unet_n2n,dncnn}" in shown and "of dncnn: number of convolutions" in shown
    assert "dncnn (Convolutions in a row (Zhang et al. 2017))" in shown
    for words, said in {
        ("--network.depth=1",): "network.depth is 1 and network.features 8: give 2 and 1 or more",
        ("--network.depth=deep",): "network.depth is deep on the command line: it takes a whole number",
        ("--network.depht=4",): "did you mean 'network.depth'?",
        ("--network.widths=[8]",): "network.name is dncnn: this option is for resunet",
        ("--network.symmetric=true",): "network.name is dncnn: this option is for resunet",
        ("--network.name=resunet",): "network.name is resunet: this option is for dncnn",
    }.items():
        done = cli(training.main, *DNCNN, *words)
        assert said in done.error(), words
    assert yaml.safe_load(cli(training.main, "--print_config").out) == to_dict(read_config([]))
    # A file's options of a network go when a later word names another one.
    file = tmp_path / "given.yaml"
    file.write_text("network: {name: resunet, widths: [8, 16], condition: map}\n")
    network = read_config(["--config", str(file), *DNCNN]).network
    assert (network.options, network.condition) == ({"depth": 3, "features": 8}, "map")
    file.write_text("network: {name: dncnn, widths: [8, 16]}\n")
    assert "this option is for resunet" in cli(training.main, "--config", file).error()


def test_a_network_that_sees_all_of_an_image_gets_it_whole(plug_in, quick, photographs, cli, tmp_path):
    """Its mean is that of the whole image, whatever the tile."""

    class Mean(Network):
        """The image's mean, and one weight."""

        name = "mean"

        def __init__(self, in_channels, out_channels):
            super().__init__()
            self.weight = networks.ResUNet(in_channels, out_channels, [8], 1).head.weight

        def forward(self, x):
            return x[:, :3].mean((2, 3), keepdim=True).expand(-1, -1, *x.shape[2:]) + 0 * self.weight.sum()

    plug_in()
    networks.register(Mean)
    run = tmp_path / "run"
    assert cli(training.main, *quick, f"--run_dir={run}", "--network.name=mean").code == 0
    model = checkpoint.load(checkpoint.locate(run)).model
    noisy = np.asarray(Image.open(photographs / "coffee.png")) / 255
    noise = parse_noise("gaussian:25")
    expected = denoise_whole(model, noisy, noise)
    found, _ = load_denoiser(run, tile=32)(noisy.astype(np.float32), noise="gaussian:25")
    np.testing.assert_allclose(found, expected, atol=1e-6)
    mean = noisy.mean((0, 1))  # d(z) = z - its mean
    np.testing.assert_allclose(expected, noisy - mean, atol=1e-5)


# --- a loss -------------------------------------------------------------------------------------------------


def test_a_loss(plug_in, quick, coffee, cli, tmp_path, monkeypatch):
    plug_in("charbonnier_loss")
    run, small = tmp_path / "run", ["--network.widths=[8,16]", "--network.blocks=1"]
    options = [*quick, *small, f"--run_dir={run}", "--method=charbonnier", "--train.total_samples=480"]
    assert cli(training.main, *options).code == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses_seen = [row["loss"] for row in rows if "loss" in row]
    assert losses_seen[-1] < losses_seen[0] and "sigma_a" not in rows[0]
    validation = [row for row in rows if "val_loss" in row][-1]
    # sqrt(1 + e^2) - 1 is at most e^2 / 2, and the mean of e^2 follows from PSNR
    assert 0 < validation["val_loss"] < 10 ** (-validation["val_psnr_db"] / 10) / (25 / 255) ** 2
    results = computed(cli, run, coffee, tmp_path / "results")
    assert [cell["method"] for cell in results["cells"]] == ["charbonnier"] and "charbonnier" in results["printed"]
    assert "charbonnier" in reported(cli, run, tmp_path / "results", tmp_path / "report")

    monkeypatch.setenv(plugins.VARIABLE, "")  # denoising asks for no loss
    monkeypatch.delitem(losses._LOSSES, "charbonnier")
    assert denoised(cli, run, coffee / "coffee.png", tmp_path / "out.png").shape == (160, 192, 3)
    assert "method is charbonnier on the command line: it takes one of ardae" in cli(training.main, *options).error()


def test_a_loss_is_checked_like_the_packages_own(plug_in, quick, cli, photographs, load_tool, tmp_path):
    plug_in("charbonnier_loss")
    method = ["--method=charbonnier", f"--run_dir={tmp_path / 'run'}", "--network.widths=[8,16]"]
    assert "method charbonnier takes one noise level" in cli(training.main, *method, "--noise=gaussian:5-55").error()
    assert "is for method ardae" in cli(training.main, *method, "--ardae.coordinates=image").error()
    build, noisy = load_tool("build_shards").main, tmp_path / "noisy"
    assert cli(build, photographs, "--out", noisy, "--tile-size=64", "--workers=1", "--noise=gaussian:25").code == 0
    assert "charbonnier sees clean pixels" in cli(training.main, *quick, *method, f"--data.shards={noisy}").error()


def test_a_loss_that_gives_one_number_for_all_is_named(plug_in, quick, cli, tmp_path):
    plug_in()

    @losses.register
    class Averaged(losses.Loss):
        name = "averaged"

        def values(self, model, run, batch):
            w, condition = model.given(batch.noisy, batch.noise)
            return run(w, batch.sigma_a, condition).square().mean()

    done = cli(training.main, *quick, "--method=averaged", f"--run_dir={tmp_path / 'run'}", "--network.widths=[8]")
    assert "its loss has to give one value a sample" in done.error()


def test_a_loss_that_looks_at_values_is_trained_without_a_count_of_flops(plug_in, quick, cli, tmp_path):
    plug_in()

    @losses.register
    class Looking(losses.Loss):
        name = "looking"

        def values(self, model, run, batch):
            w, condition = model.given(batch.noisy, batch.noise)
            scale = float(w.abs().mean())
            return run(w / scale, batch.sigma_a, condition).square().flatten(1).mean(1)

    done = cli(training.main, *quick, "--method=looking", f"--run_dir={tmp_path / 'run'}", "--network.widths=[8]")
    assert done.code == 0 and "FLOPs can't be counted" in done.out, done.err
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all("mfu" not in row for row in rows) and any("loss" in row for row in rows)


# --- a metric -----------------------------------------------------------------------------------------------


def test_a_metric(plug_in, trained, coffee, cli, tmp_path, monkeypatch):
    out = tmp_path / "results"
    (before,) = computed(cli, trained, coffee, out, "--no-wandb")["cells"]
    assert "mae" not in before
    plug_in("mae_metric")
    results = computed(cli, trained, coffee, out, "--no-wandb")  # which lacked it, and is measured again
    (cell,) = results["cells"]
    assert results["measures"][-1] == {
        "key": "mae", "title": "MAE", "digits": 3, "unit": "levels", "higher_is_better": False,
    }  # fmt: skip
    source = Benchmark.open("mine", coffee, None, "float")
    pixels, _, noisy = read_pair(source.tasks[0], parse_noise("gaussian:25"), 0, source)
    estimate = denoise_whole(checkpoint.load(checkpoint.locate(trained)).model, noisy, parse_noise("gaussian:25"))
    expected = np.abs(255.0 * np.clip(estimate, 0, 1) - pixels).mean()
    assert cell["mae"] == cell["images"][0]["mae"] == pytest.approx(expected, rel=1e-6)
    assert "plugin mae_metric" in results["versions"]
    assert {key: cell[key] for key in before if key not in ("images", "fingerprint")} == {
        key: value for key, value in before.items() if key not in ("images", "fingerprint")
    }
    table = results["printed"].splitlines()
    assert max(map(len, table[:8])) <= 80 and f"{expected:.3f}" in "\n".join(table) and "MAE" in results["printed"]
    assert "taken from" in computed(cli, trained, coffee, out, "--no-wandb")["printed"]  # all is there now

    monkeypatch.setenv(plugins.VARIABLE, "")  # results say what they hold
    monkeypatch.delitem(metrics._METRICS, "mae")
    page = reported(cli, trained, out, tmp_path / "report")
    data = json.loads(page.partition('<script type="application/json" id="data">')[2].partition("</script>")[0])
    assert [each["title"] for each in data["measures"]] == ["noisy", "PSNR", "8-bit", "SSIM", "MAE"]
    assert data["cells"][0]["images"][0]["figures"]["mae"] == pytest.approx(expected, abs=1e-3)
    assert (out / "table.csv").read_text().splitlines()[0].split(",")[6:11][-1] == "mae"


def test_a_metric_of_whole_images_keeps_them_whole(plug_in, trained, cli, tmp_path, monkeypatch):
    """Also of images that would go through in tiles."""
    plug_in()

    @metrics.register
    class Largest(Metric):
        name = title = "largest"
        higher_is_better = False

        def of_image(self, clean, estimate):
            return np.abs(clean - estimate).max()

    from n2s_dist.evaluation import partition

    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(folder / "a.png")
    monkeypatch.setattr(partition.cut, "__defaults__", (16, 1.0, 0))  # tiles of 16 pixels
    results = computed(cli, trained, folder, tmp_path / "results", "--no-wandb")
    assert "1 images in 1 pieces" in results["printed"]
    assert 0 < results["cells"][0]["largest"] <= 1
    monkeypatch.delitem(metrics._METRICS, "largest")
    again = computed(cli, trained, folder, tmp_path / "again", "--no-wandb")
    assert "1 images in 12 pieces" in again["printed"]
    assert again["cells"][0]["psnr_db"] == pytest.approx(results["cells"][0]["psnr_db"], abs=1e-6)


# --- a file format ------------------------------------------------------------------------------------------


def test_a_format(plug_in, photographs, quick, cli, load_tool, tmp_path):
    plug_in("pnm_format")
    images, sources, run = tmp_path / "ppm", tmp_path / "shards", tmp_path / "run"
    images.mkdir()
    for path in photographs.glob("*.png"):
        Image.open(path).save(images / f"{path.stem}.ppm")
    arguments = [images, "--out", sources, "--tile-size=64", "--workers=2"]  # which know the format as well
    assert cli(load_tool("build_shards").main, *arguments).code == 0
    from_png = tmp_path / "from_png"
    assert (
        cli(load_tool("build_shards").main, photographs, "--out", from_png, "--tile-size=64", "--workers=1").code == 0
    )
    assert read_manifest(sources).splits["train"].images == read_manifest(from_png).splits["train"].images
    options = [f"--data.shards={sources}", f"--run_dir={run}", "--network.widths=[8,16]"]
    assert cli(training.main, *quick, *options).code == 0
    (cell,) = computed(cli, run, images, tmp_path / "results", "--pictures")["cells"]
    assert cell["num_images"] == 5 and {row["name"][-4:] for row in cell["images"]} == {".ppm"}
    assert "coffee.ppm" in reported(cli, run, tmp_path / "results", tmp_path / "report")
    ppm = denoised(cli, run, images / "coffee.ppm", tmp_path / "out.ppm")
    png = denoised(cli, run, photographs / "coffee.png", tmp_path / "out.png")
    assert (tmp_path / "out.ppm").read_bytes().startswith(b"P6\n192 160\n255\n")
    np.testing.assert_array_equal(ppm, png)


# --- mistakes -----------------------------------------------------------------------------------------------


def test_ranks_compare_the_files_of_extensions(plug_in):
    plug_in("mae_metric")
    digest = hashlib.sha256((TOYS / "mae_metric.py").read_bytes()).hexdigest()
    assert plugins.digests() == {"plugin mae_metric": digest[:12]}


def test_options_that_a_configuration_can_not_hold_are_refused(plug_in):
    plug_in()
    for name, kind, default, said in (
        ("condition", str, "", "the name of a setting of all networks"),
        ("widths", int, 3, "but that of 'resunet' is list"),
        ("shape", dict[str, int], None, "options are int, float, bool, str"),
        ("depth", int, dataclasses.MISSING, "has no default"),
    ):
        own = dataclasses.field() if default is dataclasses.MISSING else dataclasses.field(default=default)
        options = dataclasses.make_dataclass("Options", [(name, kind, own)], frozen=True)
        with pytest.raises(UserError, match=said):
            networks.register(type("Mine", (Network,), {"name": "mine", "options": options}))
    assert "mine" not in networks.networks()


def test_mistakes_are_named(plug_in, monkeypatch):
    plug_in(" no_such_module_here ")
    for registry in (base.families, networks.networks, losses.losses, metrics.metrics, formats.formats):
        with pytest.raises(UserError, match="N2S_PLUGINS names no_such_module_here, which can't be imported"):
            registry()
    monkeypatch.setenv(plugins.VARIABLE, "")
    with pytest.raises(UserError, match="noise family 'gaussian' is there already"):
        base.register(type("Mine", (base.NoiseModel,), {"family": "gaussian"}))
    with pytest.raises(UserError, match="letters, digits and hyphens"):
        base.register(type("Mine", (base.NoiseModel,), {"family": "my_noise"}))
    for register, kind, named in (
        (networks.register, Network, "network"),
        (losses.register, losses.Loss, "method"),
        (metrics.register, Metric, "metric"),
    ):
        taken = {"network": "resunet", "method": "sure", "metric": "psnr"}[named]
        own = {"title": "mine", "of_image": None}
        with pytest.raises(UserError, match=f"{named} '{taken}' is there already"):
            register(type("Mine", (kind,), {**own, "name": taken}))
        with pytest.raises(UserError, match=f"{named} '1 two': a name has letters"):
            register(type("Mine", (kind,), {**own, "name": "1 two"}))

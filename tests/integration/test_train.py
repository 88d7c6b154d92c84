"""Training from end to end: it learns, repeats to the last bit, survives kills and stops with reason."""

import errno
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support.forked_ranks import INTERRUPTED, TOTAL_SAMPLES
from torch import Tensor
from tqdm import tqdm

from n2s_dist import train as training
from n2s_dist.config.schema import Config
from n2s_dist.loading.crop_loader import CropLoader
from n2s_dist.models import checkpoint
from n2s_dist.models.score_model import build_score_model
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.training import step
from n2s_dist.training.batches import micro_batches, open_batches
from n2s_dist.training.command_line import read_config
from n2s_dist.training.loop import loop, train
from n2s_dist.training.setup import choose_micro_batch_size, load_first_weights, start
from n2s_dist.training.telemetry import CLOCKS
from n2s_dist.training.tracking import NullTracker
from n2s_dist.utils.errors import RunFailed, UserError
from n2s_dist.utils.locks import alone_in

pytestmark = pytest.mark.usefixtures("cpu")


@pytest.fixture
def configure(tiny, tmp_path):
    """A tiny run's configuration with some options of its own; runs in tmp_path/NAME."""

    def configured(*options: str, name: str = "run") -> Config:
        return read_config([*tiny, "--run_dir", str(tmp_path / name), *options])

    return configured


def metrics(run_dir: str | Path) -> list[dict]:
    return [json.loads(line) for line in (Path(run_dir) / "metrics.jsonl").read_text().splitlines()]


def weights(path: Path) -> bytes:
    return (path / "model.safetensors").read_bytes()


def flat_weights(path: Path) -> Tensor:
    """All averaged weights of a checkpoint in one vector."""
    return torch.cat([tensor.flatten() for tensor in checkpoint.load(path).model.state_dict().values()])


# --- it learns ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "coordinates", "samples", "least_gain_db"),
    [
        ("gaussian:25", "stable", 480, 3.5),
        ("poisson:0.05", "stable", 480, 3.5),
        ("gamma:50", "stable", 480, 2.5),
        ("gaussian:25", "image", 800, 0.8),
    ],
)
def test_a_short_run_lowers_the_loss_and_denoises(configure, noise, coordinates, samples, least_gain_db):
    """On images it never saw, from noisy images alone."""
    learned = [f"--noise={noise}", f"--ardae.coordinates={coordinates}", f"--train.total_samples={samples}"]
    seen = [f"--train.log_every_samples={samples // 4}", "--train.validation_tiles=9", "--optimizer.learning_rate=6e-3"]
    rarely = ["--train.validate_every_samples=9999", "--train.checkpoint_every_samples=9999"]
    train(configure(*learned, *seen, *rarely))
    rows = metrics(configure().run_dir)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 4 and min(losses[1:]) < losses[0] and min(losses) < 1
    assert rows[-1]["val_psnr_db"] > rows[-1]["val_psnr_noisy_db"] + least_gain_db


# --- it repeats -----------------------------------------------------------------------------------------


def test_one_seed_gives_one_result_and_another_another(configure):
    few = "--train.total_samples=40"
    first, again, other = (
        weights(train(configure(few, f"--seed={seed}", name=name))) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == again != other


def test_gradient_accumulation_changes_rounding_alone(configure):
    """3 does not divide the batch of 8, so micro-batches of 2 are taken. Relative to how far the weights moved.

    Of a plain network: of a symmetric one this small, one layer with gradients of 2e-5 moves 2e-4 apart, the others
    less than 1e-6.
    """
    few = ["--train.total_samples=40", "--network.symmetric=false"]
    whole = flat_weights(train(configure(*few, name="whole")))
    begin = torch.cat([tensor.flatten() for tensor in start(configure(*few, name="begin")).model.state_dict().values()])
    for most in (4, 3, 1):
        parts = flat_weights(train(configure(*few, f"--train.device_batch_size={most}", name=f"parts-of-{most}")))
        assert (parts - whole).norm() < 1e-4 * (whole - begin).norm(), most


def test_portions_divide_the_share_of_the_batch(configure):
    sizes = [choose_micro_batch_size(configure(f"--train.device_batch_size={most}"), 2) for most in (100, 4, 3, 2, 1)]
    assert sizes == [4, 4, 2, 2, 1]
    with pytest.raises(UserError, match=r"train\.global_batch_size 8 does not divide over 3 ranks"):
        choose_micro_batch_size(configure(), 3)


def test_total_samples_is_rounded_up_to_whole_batches(configure):
    last = train(configure("--train.total_samples=17"))
    assert last.name == "samples-000000024"
    assert metrics(configure().run_dir)[-1]["samples_seen"] == 24


def test_without_an_average_the_weights_themselves_are_kept(configure):
    """At every checkpoint, also between two moments at which an average would have moved."""
    few = ["--train.total_samples=24", "--train.checkpoint_every_samples=16", "--train.keep_checkpoints=9"]
    run_dir = Path(train(configure("--optimizer.ema_halflife_samples=0", *few))).parents[1]
    found = checkpoint.newest_first(run_dir)
    assert [path.name for path in found] == ["samples-000000024", "samples-000000016"]
    for path in found:
        raw, averaged = checkpoint.load_training_state(path)["weights"], checkpoint.load(path).model.state_dict()
        assert all(torch.equal(raw[name], averaged[name]) for name in raw)


# --- it goes on -----------------------------------------------------------------------------------------


def test_a_run_killed_again_and_again_ends_as_if_nothing_had_happened(configure, fleet, tiny, tmp_path):
    """Killed twice at random moments and once while a checkpoint is being written."""
    undisturbed = train(configure(*INTERRUPTED, name="undisturbed"))
    run_dir, chance = tmp_path / "killed", random.Random()
    arguments = [*tiny, *INTERRUPTED, "--run_dir", run_dir]
    for span in ((20, 120), (140, 200)):  # samples_seen
        killed = fleet(1, arguments, fault="is_held", at=span[1] // 8 * 8 + 32)
        killed.wait_for(chance.randrange(*span))
        time.sleep(chance.uniform(0, 0.05))
        killed.signal(signal.SIGKILL, 0)
        assert killed.wait() == [-signal.SIGKILL]
    assert fleet(1, arguments, fault="dies_while_saving", at=320).wait() == [-signal.SIGKILL]
    assert list((run_dir / "checkpoints").glob(".samples-000000320*.partial"))
    done = fleet(1, arguments)
    assert done.wait() == [0] and "going on from" in done.text()

    last = checkpoint.locate(run_dir)
    assert last.name == undisturbed.name == f"samples-{TOTAL_SAMPLES:09d}"
    assert weights(last) == weights(undisturbed)
    raw, expected = (checkpoint.load_training_state(path)["weights"] for path in (last, undisturbed))
    assert all(torch.equal(raw[name], expected[name]) for name in expected)

    def timeless(path: Path) -> list[dict]:
        return [{key: row[key] for key in row if key not in CLOCKS} for row in metrics(path)]

    assert timeless(run_dir) == timeless(tmp_path / "undisturbed")
    logged = [row["samples_seen"] for row in metrics(run_dir) if "loss" in row]
    assert logged == list(range(40, TOTAL_SAMPLES + 1, 40))


def test_ctrl_c_ends_with_one_line(fleet, tiny, tmp_path):
    ranks = fleet(1, [*tiny, "--train.total_samples=800000", "--run_dir", tmp_path / "run"])
    ranks.wait_for(40)
    ranks.signal(signal.SIGINT, 0)
    assert ranks.wait() == [130]
    err = ranks.text("err")
    assert err.splitlines()[-1] == "error: interrupted" and "Traceback" not in err


def test_a_finished_run_started_again_changes_nothing_and_says_so(trained, tiny, cli, tmp_path):
    run_dir = Path(shutil.copytree(trained, tmp_path / "again"))
    files = [path for path in run_dir.rglob("*") if path.is_file() and path.name != "config.yaml"]
    before = {path: path.read_bytes() for path in files}
    done = cli(training.main, *tiny, "--run_dir", run_dir)
    assert done.code == 0 and "nothing to do" in done.out and "samples-000000160" in done.out
    assert {path: path.read_bytes() for path in files} == before
    assert sorted(p for p in run_dir.rglob("*") if p.is_file()) == sorted([*files, run_dir / "config.yaml"])


@pytest.mark.parametrize(
    "option",
    [
        "--noise=gaussian:50",
        "--noise=gamma:100",
        "--method=sure",
        "--seed=1",
        "--network.widths=[16,40]",
        "--network.symmetric=false",
        "--network.name=unet_n2n --network.symmetric=false",
        "--ardae.coordinates=image",
        "--optimizer.learning_rate=1e-4",
        "--train.global_batch_size=16",
        "--train.total_samples=320",
        "--data.crop_size=48",
        "--data.resample_noise=true",
    ],
)
def test_another_run_in_the_same_place_is_refused(trained, tiny, cli, option):
    before = (trained / "config.yaml").read_bytes()
    line = cli(training.main, *tiny, "--run_dir", trained, *option.split()).error(2)
    assert option[2:].split("=")[0] in line and str(trained) in line
    assert (trained / "config.yaml").read_bytes() == before


def test_other_shards_are_refused(trained, tiny, cli, photographs, tmp_path):
    build_shards([str(photographs)], tmp_path / "gray", BuildOptions(tile_size=64, gray=True), workers=1)
    line = cli(training.main, *tiny, "--run_dir", trained, f"--data.shards={tmp_path / 'gray'}").error(2)
    assert "shards" in line and str(trained) in line


def test_what_does_not_change_the_result_may_change(trained, tiny, cli, tmp_path):
    run_dir = shutil.copytree(trained, tmp_path / "run")
    options = ["--train.device_batch_size=2", "--train.keep_checkpoints=5", "--train.log_every_samples=8"]
    assert cli(training.main, *tiny, "--run_dir", run_dir, *options, "--tracking.project=other").code == 0


# --- it stops with reason ---------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_and_names_its_place(tiny, cli, tmp_path, monkeypatch):
    calls = []

    def broken(*arguments) -> Tensor:
        losses = true_loss(*arguments)
        calls.append(len(losses))
        if len(calls) == 12:  # positions 88 to 95
            losses = losses + torch.tensor([0.0] * 5 + [float("nan")] + [0.0] * 2)
        return losses

    true_loss = step.method_loss
    monkeypatch.setattr(step, "method_loss", broken)
    # validation measures through its own name of the loss
    line = cli(training.main, *tiny, "--run_dir", tmp_path / "run").error(1)
    assert "position 93 (rank 0)" in line and "samples-000000080" in line
    assert [path.name for path in checkpoint.newest_first(tmp_path / "run")] == ["samples-000000080"]


def test_weights_that_explode_stop_the_run(tiny, cli, tmp_path):
    line = cli(training.main, *tiny, "--run_dir", tmp_path / "run", "--optimizer.learning_rate=1e30").error(1)
    assert "position" in line and "rank 0" in line and "newest checkpoint is none" in line


def test_a_gradient_that_is_not_finite_is_never_saved(configure, monkeypatch):
    """The loss of the very step that breaks the weights is still finite."""
    run = start(configure("--train.checkpoint_every_samples=16", "--train.log_every_samples=16"))
    true_norm, calls = run.ranks.gradient_norm, []

    def broken(model, clip_norm: float) -> Tensor:
        calls.append(1)
        if len(calls) == 6:  # the step that ends at 48, where a checkpoint is due
            next(iter(model.parameters())).grad.fill_(float("inf"))
        return true_norm(model, clip_norm)

    monkeypatch.setattr(run.ranks, "gradient_norm", broken)
    with pytest.raises(RunFailed):
        loop(run, open_batches(run), NullTracker(), tqdm(disable=True), 160)
    found = checkpoint.newest_first(run.run_dir)
    assert found
    for path in found:
        raw = checkpoint.load_training_state(path)["weights"]
        assert flat_weights(path).isfinite().all() and all(w.isfinite().all() for w in raw.values()), path.name


def test_a_full_disk_is_named_and_the_same_command_goes_on(trained, tiny, cli, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"

    def full(descriptor: int) -> None:
        if (run_dir / "checkpoints" / "samples-000000080").exists():
            raise OSError(errno.ENOSPC, "No space left on device", str(run_dir))

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        line = cli(training.main, *tiny, "--run_dir", run_dir).error(2)
    assert "the disk is full" in line and str(run_dir) in line
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["samples-000000080"]
    assert cli(training.main, *tiny, "--run_dir", run_dir).code == 0
    assert weights(checkpoint.locate(run_dir)) == weights(checkpoint.locate(trained))


@pytest.mark.parametrize(
    ("missing", "named"), [("--run_dir", "--run-dir is missing"), ("--data.shards", "--data.shards is missing")]
)
def test_missing_folders_are_named(tiny, cli, tmp_path, missing, named):
    arguments = [word for word in [*tiny, f"--run_dir={tmp_path / 'run'}"] if not word.startswith(missing)]
    assert named in cli(training.main, *arguments).error(2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--data.shards=/nowhere/shards", "/nowhere/shards"),
        ("--data.crop_size=65", "data.crop_size is 65"),
        ("--train.mixed_precision=fp16", "fp16 needs a GPU"),
    ],
)
def test_what_can_not_be_trained_on_is_named(tiny, cli, tmp_path, option, named):
    assert named in cli(training.main, *tiny, f"--run_dir={tmp_path / 'run'}", option).error(2)


def test_a_run_starts_from_the_weights_of_another(configure, trained):
    """Its averaged ones, also in a run of another noise level; going on, it is a run like any other."""
    given = checkpoint.load(checkpoint.locate(trained)).model.state_dict()
    source = shutil.copytree(trained, Path(configure().run_dir).with_name("source"))
    config = configure("--noise=gaussian:50", f"--train.start_from={source}", "--train.total_samples=40")
    torch.testing.assert_close(start(config).model.state_dict(), given, rtol=0, atol=0)
    last = checkpoint.load(train(config))
    moved = [float((last.model.state_dict()[name] - tensor).norm() / tensor.norm()) for name, tensor in given.items()]
    assert 0 < max(moved) < 0.5  # those of another draw are 1.4 away
    shutil.rmtree(source)  # a run that goes on needs it no more
    again = start(config)
    assert again.samples_seen == config.train.total_samples
    torch.testing.assert_close(again.ema.state_dict(), last.model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["gray", "color"])
def test_a_network_told_maps_starts_from_one_told_families(configure, kind):
    """Of Gaussian noise they say the same."""
    source = checkpoint.load(checkpoint.locate(f"gaussian-{kind}"))
    config = configure(
        "--network.widths=[48,96,160]", "--network.blocks=2", "--network.symmetric=true", "--network.condition=map",
        "--noise=gaussian:5-55,poisson:0.01-0.1",
    )  # fmt: skip
    model = build_score_model(config, source.channels)
    load_first_weights(model, checkpoint.locate(f"gaussian-{kind}"))
    noisy, noise = torch.rand(1, source.channels, 32, 24), Gaussian(30 / 255)
    with torch.no_grad():
        torch.testing.assert_close(model.denoise(noisy, noise), source.model.denoise(noisy, noise), rtol=0, atol=1e-5)


@pytest.mark.parametrize("symmetric", ["true", "false"])
def test_a_larger_network_starts_as_the_function_of_a_smaller_one_and_learns_with_what_is_new(
    configure, trained, symmetric
):
    larger = ("--network.widths=[24,40]", "--network.blocks=2", f"--network.symmetric={symmetric}")
    config = configure(*larger, f"--train.start_from={trained}", "--train.total_samples=40")
    begin, source = start(config).model.network, checkpoint.load(checkpoint.locate(trained)).model.network
    end = checkpoint.load(train(config)).model.network
    x = torch.randn(1, begin.head.in_channels // 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(begin(x), source(x), rtol=1e-5, atol=1e-5)
        assert (end(x) - source(x)).std() > 1e-3 * source(x).std()
    assert begin.tail.weight[:, 16:].abs().max() == 0 < end.tail.weight[:, 16:].abs().max()
    assert begin.head.weight[16:].abs().min() > 0


def test_a_plain_network_starts_from_a_symmetric_one_and_leaves_symmetry(configure, trained):
    config = configure("--network.symmetric=false", f"--train.start_from={trained}", "--train.total_samples=40")
    begin, source = start(config).model.network, checkpoint.load(checkpoint.locate(trained)).model.network
    end = checkpoint.load(train(config)).model.network
    x = torch.randn(1, begin.head.in_channels // 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(begin(x), source(x), rtol=0, atol=0)
        flipped = begin(x.flip(3))
        torch.testing.assert_close(flipped, begin(x).flip(3), rtol=1e-4, atol=1e-4)
        assert (end(x.flip(3)) - end(x).flip(3)).std() > 1e-3 * end(x).std()
    assert sum(p.numel() for p in end.parameters()) == 8 * sum(p.numel() for p in source.parameters())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--train.start_from=/nowhere"], "/nowhere holds no checkpoint"),
        (["--train.start_from={run}", "--network.widths=[8,40]"], "another network's weights"),
        (
            ["--train.start_from={run}", "--ardae.coordinates=image"],
            "network.head.parametrizations.weight.original is (2, 20, 3, 3) there",
        ),
    ],
)
def test_weights_that_can_not_be_started_from_are_named(trained, tiny, cli, tmp_path, options, named):
    options = [option.format(run=trained) for option in options]
    assert named in cli(training.main, *tiny, f"--run_dir={tmp_path / 'run'}", *options).error(2)


# --- what it sees -----------------------------------------------------------------------------------------


def test_training_sees_no_clean_pixel(configure, monkeypatch):
    """Every batch differs from the clean crops at its positions by noise of the right size, and no pixel is spared."""
    asked = []

    class Recorded(CropLoader):
        def __init__(self, *arguments, **options) -> None:
            asked.append(arguments[4])
            super().__init__(*arguments, **options)

    monkeypatch.setattr("n2s_dist.training.batches.CropLoader", Recorded)
    run = start(configure())
    batches, clean = open_batches(run), CropLoader(run.shards, micro_batches(run), 8, 32, None, 0)
    residual = torch.stack([next(batches).noisy - next(clean) for _ in range(10)])
    assert asked == [Gaussian(25 / 255)]
    assert residual.std() == pytest.approx(25 / 255, rel=0.01)
    assert residual.mean() == pytest.approx(0, abs=4 * 25 / 255 / residual.numel() ** 0.5)
    assert (residual.abs() < 1e-6).float().mean() < 1e-4


@pytest.mark.parametrize("resample", [False, True])
def test_each_image_has_one_noisy_version_unless_asked_otherwise(configure, resample):
    """Crops as large as the tiles: flips aside, the second epoch shows the same noisy pixels as the first."""
    options = ["--data.crop_size=64", "--train.global_batch_size=6", "--train.device_batch_size=6"]
    run = start(configure(*options, f"--data.resample_noise={str(resample).lower()}"))
    batches, epoch = open_batches(run), len(run.shards) // 6
    assert len(run.shards) == 6 * epoch == 36
    seen = [next(batches).noisy.flatten(1).sort().values.numpy() for _ in range(2 * epoch)]
    first, second = (np.concatenate(part) for part in (seen[:epoch], seen[epoch:]))
    shared = {row.tobytes() for row in first} & {row.tobytes() for row in second}
    assert len(shared) == (0 if resample else 36)


def test_a_second_training_in_one_folder_is_refused(configure):
    """It would remove what the first is writing."""
    config = configure("--train.total_samples=8")
    with alone_in(Path(config.run_dir)), pytest.raises(UserError, match=f"process {os.getpid()} on .* works in"):
        train(config)
    train(config)
    assert not (Path(config.run_dir) / "lock").exists()

"""Train a network on your own noisy images alone, beginning with one that ships.

n2s adapt my-noisy-images/ --out runs/mine --minutes 10
n2s denoise --checkpoint runs/mine my-noisy-images/ denoised/

For images unlike the photographs that shipped networks learned from, whose noise is not cut off at black. The noise is
estimated over the images, or named. A tenth of the images is held out: the AR-DAE loss on these, before and after, says
without a clean image whether the network got better. Interrupted in any way, the same command goes on.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from n2s_dist.config.schema import ArdaeConfig, Config, DataConfig, OptimizerConfig, TrackingConfig, TrainConfig
from n2s_dist.images.axes import AXES_HELP, check_axes
from n2s_dist.images.files import KINDS, is_image
from n2s_dist.inference.denoiser import is_negligible
from n2s_dist.inference.instrument_estimation import find_noise, noise_of_all
from n2s_dist.inference.own_images import CROP, Images, choose_images, choose_unclipped, held_out_crops
from n2s_dist.inference.pieces import Pieces
from n2s_dist.losses.ardae import ardae_loss
from n2s_dist.losses.draws import perturbations
from n2s_dist.models import checkpoint, pretrained
from n2s_dist.models.image_batches import to_batch
from n2s_dist.models.score_model import ScoreModel
from n2s_dist.noise.base import NoiseModel
from n2s_dist.noise.calibration import on_scale_of
from n2s_dist.noise.distribution import NoiseDistribution
from n2s_dist.noise.specification import format_noise, parse_noise
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.training.loop import train
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import atomic_write, path_option, path_text

_BATCH = 4
_SPEED_STEPS = 12  # of a run that only tells how long a step takes
_SIGMA_A = 0.5  # of the loss on held-out crops, in noise standard deviations
_SEED = 0
_PRECISION: Final = "auto"
_PLAN = "adapt.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("images", type=path_option, metavar="IMAGES", help="noisy images of one instrument, as it wrote them: a folder "
        "or a file of several")  # fmt: skip
    add("--out", required=True, type=path_option, metavar="RUN", help="the run directory: shards, checkpoints, curves")
    add("--minutes", type=float, default=10, help="how long to train (%(default)g)")
    add(
        "--network",
        type=path_text,
        metavar="NAME",
        help="what to begin with: a shipped network or a run (instrument-gray or instrument-color)",
    )
    add("--noise", metavar="FAMILY:LEVEL", help="the images' noise (default: estimated over them)")
    add("--white", type=int, metavar="VALUE", help="what white is in the files, such as 4095 for 12 bits")
    add("--black", type=int, metavar="VALUE", help="what the files have without light")
    add("--axes", metavar="LETTERS", help=AXES_HELP)
    args = parser.parse_args()
    if not 0 < args.minutes < 1e5:
        raise UserError(f"--minutes is {args.minutes:g}: give a number above 0")
    named, white, black = on_scale_of(args.noise, args.white, args.black)
    noise_named = parse_noise(named) if isinstance(named, str) else named
    folder, out = args.images, args.out
    if not folder.is_dir() and not is_image(folder):
        raise UserError(f"{folder} is neither a folder nor an image: give the folder of your noisy images")
    images = choose_images(folder, check_axes(args.axes))
    name = args.network or f"instrument-{KINDS[images.channels]}"
    network = checkpoint.load(checkpoint.locate(name))
    check_network(network, images, name)
    began = time.monotonic()
    plan = read_plan(out, folder, name)
    if plan is None:
        parts = choose_unclipped(images, white, black)
        noise = noise_named or estimate(network.model, parts)
        if is_negligible(noise):
            raise UserError(f"hardly any noise was found ({format_noise(noise)}): name it, such as --noise gaussian:20")
        print(f"noise: {format_noise(noise)}{'' if noise_named else ' (estimated)'}")
        build(images, folder, out, noise, white, black)
        config = configure(network, name, out, noise, images)
        steps = count_steps(config, args.minutes * 60 - (time.monotonic() - began))
        plan = write_plan(out, folder, name, noise, steps)
    noise, steps = plan
    crops = held_out_crops(images, white, black)
    before = losses_on(network.model, crops, noise)
    path = train(lasting(configure(network, name, out, noise, images), steps))
    after = losses_on(checkpoint.load(path).model, crops, noise)
    print(verdict(before, after, name, out, len(images.held_out)))


def check_network(network: checkpoint.Loaded, images: Images, name: str) -> None:
    """UserError for a network of other channels, or one that is not told maps."""
    if network.channels != images.channels:
        raise UserError(f"the images are {KINDS[images.channels]}, but {name} is for {KINDS[network.channels]} images")
    if network.model.condition_kind != "map":
        raise UserError(
            f"{name} is told families of noise: adapt begins with a network that is told a map of its strength "
            f"(network.condition: map), such as instrument-{KINDS[images.channels]}"
        )


def estimate(model: ScoreModel, parts: list[Pieces]) -> NoiseModel:
    """One noise of all training images, from parts of some of them."""
    return noise_of_all(model, [find_noise(model, part) for part in tqdm(parts, "noise", leave=False)])


def build(images: Images, folder: Path, out: Path, noise: NoiseModel, white: float | None, black: float | None) -> None:
    """Shards of the training images as they are, in OUT/shards; links to these images lie in OUT/images meanwhile."""
    options = BuildOptions(
        gray=images.channels == 1, validation_fraction=0.0, noise=format_noise(noise), already_noisy=True,
        white=None if white is None else round(white), black=None if black is None else round(black),
        axes=images.training[0].file.axes,
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out, prefix=".images-") as links:
        source = Path(links) / folder.resolve().stem
        for file in dict.fromkeys(frame.file for frame in images.training):
            link = source / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.path.resolve())
        held_out = frozenset(frame.name for frame in images.held_out)
        build_shards([str(source)], str(out / "shards"), options, leave_out=held_out)


def configure(network: checkpoint.Loaded, name: str, out: Path, noise: NoiseModel, images: Images) -> Config:
    """A run of two steps; lasting() says how many."""
    crop = min(CROP, images.smallest // 8 * 8)
    shipped = pretrained.is_shipped(name)
    return Config(
        run_dir=str(out),
        noise=format_noise(noise),
        seed=_SEED,
        data=DataConfig(shards=str(out / "shards"), crop_size=crop),
        ardae=ArdaeConfig(sigma_a=[0.0, 1.7320508]),
        network=network.config.network,
        optimizer=OptimizerConfig(
            name="muon", learning_rate=5e-4, schedule="cosine", warmup_samples=20 * _BATCH, ema_halflife_samples=500
        ),
        train=TrainConfig(
            start_from=name if shipped else str(network.path), total_samples=2 * _BATCH, global_batch_size=_BATCH,
            device_batch_size=_BATCH, mixed_precision=_PRECISION, channels_last=True, log_every_samples=100 * _BATCH,
            checkpoint_every_samples=250 * _BATCH, validate_every_samples=10**9,
        ),
        tracking=TrackingConfig(wandb=False),
    )  # fmt: skip


def lasting(config: Config, steps: int) -> Config:
    """The same over so many steps."""
    return replace(config, train=replace(config.train, total_samples=steps * config.train.global_batch_size))


def count_steps(config: Config, seconds: float) -> int:
    """How many steps fit into that time, as a short run of its own tells; at least one."""
    with TemporaryDirectory(dir=config.run_dir, prefix=".speed-") as folder:
        short = lasting(replace(config, run_dir=folder), _SPEED_STEPS)
        train(replace(short, train=replace(short.train, log_every_samples=_SPEED_STEPS * _BATCH)))
        (line,) = (Path(folder) / "metrics.jsonl").read_text().splitlines()
        step_sec = json.loads(line)["step_ms_p50"] / 1000
    return max(1, round(seconds / step_sec))


def write_plan(out: Path, folder: Path, name: str, noise: NoiseModel, steps: int) -> tuple[NoiseModel, int]:
    """Keep what a continued run has to repeat."""
    written = format_noise(noise)
    plan = {"images": str(folder.resolve()), "network": name, "noise": written, "steps": steps}
    with atomic_write(out / _PLAN) as partial:
        partial.write_text(json.dumps(plan, indent=1) + "\n")
    return parse_noise(written), steps  # rounded as it is written


def read_plan(out: Path, folder: Path, name: str) -> tuple[NoiseModel, int] | None:
    """What write_plan kept; None where nothing was begun. Raises UserError for a folder with something else in it."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: --out is the folder of the run")
    if not (out / _PLAN).exists():
        if (out / "checkpoints").exists():
            raise UserError(f"{out} holds another run: choose another --out")
        return None
    try:
        plan = json.loads((out / _PLAN).read_text())
        plan = {key: plan[key] for key in ("images", "network", "noise", "steps")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{out / _PLAN} can't be read ({error}): choose another --out") from None
    if (plan["images"], plan["network"]) != (str(folder.resolve()), name):
        raise UserError(f"{out} was begun with {plan['network']} on {plan['images']}: choose another --out")
    return parse_noise(plan["noise"]), plan["steps"]


@torch.no_grad()
def losses_on(model: ScoreModel, crops: np.ndarray, noise: NoiseModel) -> Tensor:
    """AR-DAE's loss on each crop at one sigma_a, [N]; for every model with the same perturbations."""
    losses = []
    for place, crop in enumerate(crops):
        w, condition = model.given(to_batch(crop, torch.device("cpu")), noise)
        key = np.array([place], np.uint64)
        u = perturbations(_SEED, key, w.shape, w.device, NoiseDistribution.of(noise).kernels(key, _SEED))
        losses.append(ardae_loss(model, w, u, torch.full((1, 1, 1, 1), _SIGMA_A), condition))
    return torch.cat(losses).double()


def verdict(before: Tensor, after: Tensor, name: str, out: Path, held_out: int) -> str:
    """What held-out crops say. A loss has a part that no network can remove, so small changes count."""
    change = after - before
    mean, error = float(change.mean()), float(change.std() / len(change) ** 0.5) if len(change) > 1 else 0.0
    figures = f"held-out AR-DAE loss {float(before.mean()):.4f} before, {float(after.mean()):.4f} after"
    spread = f"{mean:+.4f}, standard error {error:.4f}, {held_out} image(s)"
    if mean < -error:
        return f"{figures} ({spread}): better. Denoise with: n2s denoise --checkpoint {out} IN OUT"
    return f"{figures} ({spread}): no better than {name}, so keep that one: --checkpoint {name}"

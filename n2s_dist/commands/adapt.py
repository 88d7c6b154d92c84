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
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from n2s_dist.config.schema import ArdaeConfig, Config, DataConfig, OptimizerConfig, TrackingConfig, TrainConfig
from n2s_dist.images.axes import AXES_HELP, check_axes
from n2s_dist.images.files import KINDS, ImageFile, is_image, list_images
from n2s_dist.images.user_files import check_measured, keep_open, open_file
from n2s_dist.inference.denoiser import is_negligible
from n2s_dist.inference.instrument_estimation import find_level_function, noise_of_all
from n2s_dist.inference.noise_estimation import SMALLEST_SIDE
from n2s_dist.inference.pieces import Pieces, choose_pieces
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
from n2s_dist.shards.build.sources import page_ending
from n2s_dist.training.loop import train
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import as_utf8, atomic_write, path_option, path_text

_EVERY = 10  # one in so many images is held out
_MOST_READ = 6  # images that the noise is estimated from
_CROP, _BATCH = 96, 4
_SPEED_STEPS = 12  # of a run that only tells how long a step takes
_HELD_CROPS = 64
_SIGMA_A = 0.5  # of the loss on held-out crops, in noise standard deviations
_SEED = 0
_MOST_CLIPPED = 0.02  # of an image's values
_PRECISION: Final = "auto"
_PLAN, _FEWEST = "adapt.json", 2


class Frame(NamedTuple):
    """One image of a file, counted from 0, and what shards call it."""

    file: ImageFile
    number: int
    name: str


class Images(NamedTuple):
    """A user's images: those to train on, those held out; 1 or 3 channels; the smallest side of all in pixels."""

    training: list[Frame]
    held_out: list[Frame]
    channels: int
    smallest: int


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


def choose_images(folder: Path, axes: str | None = None) -> Images:
    """Read all headers. Raises UserError for too few images, too small ones, and a mixture of gray and color."""
    channels, sides, frames = {}, [], []
    for listed in sorted(list_images(folder), key=lambda image: image.name):
        image = replace(listed, axes=axes)
        with open_file(image) as file:
            channels[file.contents.channels] = image
            for number in range(file.contents.images):
                ending = page_ending(number) if file.contents.images > 1 else ""
                frames.append(Frame(image, number, as_utf8(image.name) + ending))
                sides.append(min(file.contents.size_of(number)))
    if len(frames) < _FEWEST:
        raise UserError(f"{folder} holds {len(frames)} image: give {_FEWEST} or more, for one of them is held out")
    if len(channels) > 1:
        what = ", ".join(f"{image.path} is {KINDS[count]}" for count, image in channels.items())
        raise UserError(f"{folder} must hold gray images or color ones, not both: {what}")
    if min(sides) < SMALLEST_SIDE:
        raise UserError(f"{folder} holds an image with a side of {min(sides)} pixels: {SMALLEST_SIDE} are the fewest")
    held = frames[_EVERY // 2 :: _EVERY] or frames[-1:]
    names = {frame.name for frame in held}
    first = keep_open(frames[0].file).image(frames[0].number).measured()  # gray images may be stored as color
    return Images([frame for frame in frames if frame.name not in names], held, first.shape[2], min(sides))


def check_network(network: checkpoint.Loaded, images: Images, name: str) -> None:
    """UserError for a network of other channels, or one that is not told maps."""
    if network.channels != images.channels:
        raise UserError(f"the images are {KINDS[images.channels]}, but {name} is for {KINDS[network.channels]} images")
    if network.model.condition_kind != "map":
        raise UserError(
            f"{name} is told families of noise: adapt begins with a network that is told a map of its strength "
            f"(network.condition: map), such as instrument-{KINDS[images.channels]}"
        )


def read_unit(frame: Frame, channels: int, white: float | None, black: float | None) -> np.ndarray:
    """An image's pixels, float32 [H, W, C] on the 0-1 scale. Raises UserError by name, also for other channels."""
    file, path = keep_open(frame.file), frame.file.path
    picture = file.image(frame.number)
    scale = file.scale_of(picture, white, black)
    check_measured(picture, file.contents.nodata, scale, path)
    pixels = picture.measured() if channels == 1 else picture.pixels
    if pixels.shape[2] != channels:
        place = f": image {frame.number + 1} of it" if file.contents.images > 1 else ""
        raise UserError(f"{path}{place} is {KINDS[pixels.shape[2]]}, unlike the first image: leave it out")
    return np.asarray(scale.to_unit(pixels), np.float32)


def choose_unclipped(images: Images, white: float | None, black: float | None) -> list[Pieces]:
    """Parts of some of the training images, to estimate noise from. Raises UserError for clipped images."""
    step = max(1, len(images.training) // _MOST_READ)
    parts = []
    for frame in images.training[::step][:_MOST_READ]:
        pixels = read_unit(frame, images.channels, white, black)
        check_clipping(frame, pixels)
        parts.append(choose_pieces(pixels))
    return parts


def check_clipping(frame: Frame, pixels: np.ndarray) -> None:
    """UserError for an image whose noise is cut off at black or at white in many pixels.

    There it is not what the loss takes it for: a network that learned it was 6 dB worse, at a better loss.
    """
    for name, end in (("lowest", pixels.min()), ("highest", pixels.max())):
        share = float(np.mean(pixels == end))
        if share > _MOST_CLIPPED:
            raise UserError(
                f"{frame.file.path}: {100 * share:.1f} % of the values are the {name} one. Noise is cut off there "
                "and a network would learn that: give images that are not clipped, such as a camera's raw values"
            )


def estimate(model: ScoreModel, parts: list[Pieces]) -> NoiseModel:
    """One noise of all training images, from parts of some of them."""
    return noise_of_all(model, [find_level_function(model, part) for part in tqdm(parts, "noise", leave=False)])


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
    crop = min(_CROP, images.smallest // 8 * 8)
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


def held_out_crops(images: Images, white: float | None, black: float | None) -> np.ndarray:
    """Squares of held-out images, evenly spread, float32 [N, S, S, C] on the 0-1 scale."""
    side = min(_CROP, images.smallest)
    each = max(1, _HELD_CROPS // len(images.held_out))
    crops = []
    for image in images.held_out[:_HELD_CROPS]:
        pixels = read_unit(image, images.channels, white, black)
        rows, columns = (length - side for length in pixels.shape[:2])
        places = np.random.default_rng(_SEED).random((each, 2)) * (rows + 1, columns + 1)
        crops += [pixels[row : row + side, column : column + side] for row, column in places.astype(int)]
    return np.stack(crops)


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

"""Denoise users' own images with a trained score model.

n2s-denoise --checkpoint runs/gaussian25 noisy.png denoised.png
n2s-denoise --checkpoint runs/gaussian25 noisy/ denoised/
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from n2s_dist import checkpoint
from n2s_dist.errors import UserError, run_command
from n2s_dist.images import SUFFIXES, ImageFile, list_images, read_image, to_uint8, write_image
from n2s_dist.noise import NoiseModel, format_noise, parse_noise
from n2s_dist.score import ScoreModel

_TILE = 768


def choose_noise(loaded: checkpoint.Loaded, text: str | None) -> NoiseModel:
    """The noise that a user names, or the one trained on. UserError when the families differ."""
    trained = loaded.model.noise
    chosen = parse_noise(text) if text else trained
    if chosen.family != trained.family:
        raise UserError(f"--noise is {text}, but {loaded.path} was trained on {format_noise(trained)}")
    return chosen


def check_channels(channels: int, image: ImageFile, pixels: np.ndarray) -> None:
    """UserError when a colour image meets a grey model or the reverse."""
    kinds = {1: "grey", 3: "colour"}
    if pixels.shape[2] != channels:
        raise UserError(
            f"{image.path} is {kinds[pixels.shape[2]]}, but the checkpoint was trained on "
            f"{kinds[channels]} images: take a {kinds[pixels.shape[2]]} checkpoint or convert the image"
        )


@torch.no_grad()
def denoise_whole(model: ScoreModel, noisy: np.ndarray) -> np.ndarray:
    """Posterior mean of one image in one piece. noisy: float [H, W, C] on the 0-1 scale; returns float32, unclamped."""
    device = next(model.parameters()).device
    batch = torch.from_numpy(noisy.astype(np.float32)).permute(2, 0, 1)[None].to(device)
    return model.denoise(batch)[0].permute(1, 2, 0).cpu().numpy()


def denoise_tiled(model: ScoreModel, noisy: np.ndarray, tile: int = _TILE) -> np.ndarray:
    """The same as denoise_whole to rounding, in memory bounded by the tile.

    Each tile is computed with a margin as wide as the network's receptive field, so that what it keeps
    never saw the tile's border, and from a corner on the network's own grid.
    """
    network = model.network
    grid: int = network.multiple  # type: ignore[assignment]
    margin = -(-network.receptive_radius // grid) * grid  # type: ignore[operator]
    tile = -(-tile // grid) * grid
    height, width, _ = noisy.shape
    out = np.empty(noisy.shape, np.float32)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            above, before = max(0, top - margin), max(0, left - margin)
            bottom, right = min(height, top + tile), min(width, left + tile)
            below, after = min(height, bottom + margin), min(width, right + margin)
            part = denoise_whole(model, noisy[above:below, before:after])
            out[top:bottom, left:right] = part[top - above : bottom - above, left - before : right - before]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(prog="n2s-denoise", description="Denoise an image or a folder of images.")
    parser.add_argument(
        "--checkpoint", required=True, metavar="RUN_DIR", help="a run directory or one of its checkpoints"
    )
    parser.add_argument("--noise", metavar="FAMILY:LEVEL", help="noise of the images (default: what was trained on)")
    parser.add_argument("--tile", type=int, default=_TILE, help="side of the tiles for large images (%(default)s)")
    parser.add_argument("input", type=Path, metavar="IN", help="a noisy image, or a folder or zip of them")
    parser.add_argument("output", type=Path, metavar="OUT", help="where the denoised image or folder goes")
    args = parser.parse_args()
    if args.tile < 16:
        raise UserError(f"--tile is {args.tile}: tiles have at least 16 pixels a side")

    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = checkpoint.load(checkpoint.locate(args.checkpoint), device)
    loaded.model.noise = choose_noise(loaded, args.noise)
    single = args.input.is_file() and args.input.suffix.lower() in SUFFIXES
    if single:
        images = [ImageFile(args.input.parent, args.input.name, args.input.stat().st_size)]
        target = args.output / args.input.name if args.output.is_dir() else args.output
        if target.suffix.lower() not in SUFFIXES:
            raise UserError(f"{target} has no image suffix: end it in one of {', '.join(SUFFIXES)}")
        targets = [target]
    else:
        images = list_images(args.input)
        # Denoised images are written losslessly, whatever the noisy ones were.
        targets = [(args.output / image.name).with_suffix(".png") for image in images]
        if args.output.is_file():
            raise UserError(f"{args.output} is a file: {args.input} holds several images, so OUT is a folder")
    if len(set(targets)) < len(targets):
        raise UserError(f"{args.input} holds images that differ only in their suffix: rename one of them")
    for image, target in tqdm(list(zip(images, targets, strict=True)), unit="image", disable=single):
        pixels = read_image(image)
        check_channels(loaded.channels, image, pixels)
        write_image(target, to_uint8(denoise_tiled(loaded.model, pixels / np.float32(255), args.tile)))
    print(f"wrote {args.output}")


def command() -> None:
    """Console entry point."""
    run_command(main)


if __name__ == "__main__":
    command()

"""Make noisy images of known truth: by a simulated camera or microscope, from clean images.

    n2s simulate full_frame PHOTOGRAPHS --iso 3200 --out simulated
    n2s simulate scmos IMAGES --electrons 200 --frames 8 --out simulated

Writes DIR/noisy/NAME and DIR/truth/NAME, PNGs of a camera and TIFFs of a microscope. The first word is a YAML file, or
the name of one that comes with the package. One tunes by such images; they are no benchmark.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from n2s_dist.images.decoded import Contents, DecodedImage
from n2s_dist.images.eight_bit import read_image, write_image
from n2s_dist.images.files import ImageFile, list_images
from n2s_dist.images.formats.base import format_of
from n2s_dist.images.user_files import write_file
from n2s_dist.noise.camera import Camera
from n2s_dist.noise.demosaicing import METHODS
from n2s_dist.noise.microscope import Microscope
from n2s_dist.utils.errors import UserError, nearest
from n2s_dist.utils.files import path_option
from n2s_dist.utils.shared_files import shared_folder
from n2s_dist.utils.strict_yaml import read_record, read_yaml

_KINDS: dict[str, type[Camera] | type[Microscope]] = {"camera": Camera, "microscope": Microscope}


def read_instrument(text: str) -> Camera | Microscope:
    """The camera or microscope of a YAML file, or of the package by name. Raises UserError for what is none."""
    path, folder = Path(text), shared_folder("configs") / "cameras"
    if path.name == text and not path.exists():
        path = folder / f"{text}.yaml"
    if not path.exists():
        names = sorted(each.stem for each in folder.glob("*.yaml"))
        hint = nearest(text, names) or f": give a YAML file, or one of {', '.join(names)}"
        raise UserError(f"there is no camera '{text}'{hint}")
    data = read_yaml(path)
    kind = data.get("kind") if isinstance(data, dict) else None
    if kind not in _KINDS:
        raise UserError(f"{path}: its kind is {kind}, not {' or '.join(_KINDS)}, so it can't be simulated")
    return read_record(path, _KINDS[kind], kind)


def list_clean(sources: list[Path]) -> dict[str, ImageFile]:
    """Images by their names without suffixes. Raises UserError where two would be written to one file."""
    named: dict[str, ImageFile] = {}
    for source in sources:
        if source.is_file() and format_of(source.name):
            images = [ImageFile(source.parent, source.name, source.stat().st_size)]
        else:
            images = list_images(source)
        for image in images:
            name = str(Path(image.name).with_suffix(""))
            if name in named:
                raise UserError(f"{named[name].path} and {image.path} would be written to one file: rename one of them")
            named[name] = image
    return named


def spare_sources(images: dict[str, ImageFile], out: Path, suffix: str) -> None:
    """UserError where a clean image would be overwritten. suffix: of what is written."""
    sources = {image.path.resolve() for image in images.values()}
    for name in images:
        for folder in ("noisy", "truth"):
            target = out / folder / f"{name}{suffix}"
            if target.resolve() in sources:
                raise UserError(f"{target} is a clean image, and would be overwritten: choose another --out")


def simulate_camera(camera: Camera, images: dict[str, ImageFile], args: argparse.Namespace) -> None:
    """Write DIR/noisy/NAME.png and DIR/truth/NAME.png of each image."""
    for name, image in tqdm(images.items(), unit="image", disable=len(images) == 1):
        clean = read_image(image, channels=3) / 255
        pair = camera.simulate(clean, args.iso, args.seed, name, method=args.demosaicing, jpeg=args.jpeg)
        for folder, pixels in zip(("noisy", "truth"), pair, strict=True):
            write_image(args.out / folder / f"{name}.png", pixels)


def simulate_microscope(microscope: Microscope, images: dict[str, ImageFile], args: argparse.Namespace) -> None:
    """Write DIR/noisy/NAME.tif, with a page a frame, and DIR/truth/NAME.tif of each image."""
    for name, image in tqdm(images.items(), unit="image", disable=len(images) == 1):
        clean = read_image(image, channels=1)[:, :, 0] / 255

        def frame(number: int, clean: np.ndarray = clean, name: str = name) -> tuple[np.ndarray, np.ndarray]:
            return microscope.simulate(clean, args.seed, name, frame=number, electrons=args.electrons)

        noisy = (DecodedImage(frame(number)[0][..., None]) for number in range(args.frames))
        _, truth = frame(0)
        contents = Contents("", "stack", truth.shape, 1, truth.dtype, args.frames)
        write_file(args.out / "noisy" / f"{name}.tif", noisy, contents)
        contents = Contents("", "array", truth.shape, 1, truth.dtype)
        write_file(args.out / "truth" / f"{name}.tif", [DecodedImage(truth[..., None])], contents)


def check_options(args: argparse.Namespace, instrument: Camera | Microscope) -> None:
    """UserError for options of the other kind of instrument, and for figures that can't be."""
    others = ("electrons", "frames") if isinstance(instrument, Camera) else ("iso", "demosaicing", "jpeg")
    for option in others:
        if getattr(args, option) is not None:
            raise UserError(f"--{option} is given, but {args.instrument} is a {instrument.kind}: leave it out")
    if isinstance(instrument, Camera):
        if args.iso is None:
            raise UserError(f"--iso is missing: the camera has {', '.join(map(str, instrument.iso))}")
        instrument.noise_at(args.iso)
    args.frames = 1 if args.frames is None else args.frames
    for wrong, words in _limits(args):
        if wrong:
            raise UserError(words)


def _limits(args: argparse.Namespace) -> Iterator[tuple[bool, str]]:
    yield args.seed < 0, f"--seed is {args.seed}: it can't be negative"
    yield args.frames < 1, f"--frames is {args.frames}: give 1 or more"
    yield args.jpeg is not None and not 1 <= args.jpeg <= 100, f"--jpeg is {args.jpeg}: give a quality from 1 to 100"
    electrons = args.electrons
    yield (
        electrons is not None and not 0 <= electrons < 1e9,
        f"--electrons is {electrons}: give 0, for the dark, or more",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("instrument", metavar="CAMERA", help="a YAML file of a camera or microscope, or the name of one")
    add("clean", nargs="+", type=path_option, metavar="CLEAN", help="a clean image, or a folder or archive of them")
    add("--out", required=True, type=path_option, metavar="DIR", help="where the folders noisy and truth go")
    add("--seed", type=int, default=0, help="of the noise (%(default)s)")
    add("--iso", type=int, help="of a camera: a row of its table")
    add("--demosaicing", choices=list(METHODS), help="of a camera (what its file says)")
    add("--jpeg", type=int, metavar="QUALITY", help="of a camera: noisy images go through JPEG, truth does not")
    add(
        "--electrons", type=float, metavar="N", help="of a microscope: in a white pixel; 0 for dark frames (its file's)"
    )
    add("--frames", type=int, metavar="N", help="of a microscope: noisy frames of each image, pages of one TIFF (1)")
    args = parser.parse_args()

    instrument = read_instrument(args.instrument)
    check_options(args, instrument)
    images = list_clean(args.clean)
    spare_sources(images, args.out, ".png" if isinstance(instrument, Camera) else ".tif")
    if isinstance(instrument, Camera):
        simulate_camera(instrument, images, args)
    else:
        simulate_microscope(instrument, images, args)
    print(f"wrote {len(images)} noisy images and their truth to {args.out}")

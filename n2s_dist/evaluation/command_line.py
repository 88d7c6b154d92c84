"""What the command line of an evaluation asks for: benchmarks, methods and the cells of its table."""

import argparse
from pathlib import Path
from typing import Any

import torch

from n2s_dist.evaluation.automatic import automatic_methods
from n2s_dist.evaluation.benchmarks import Benchmark, parse_folders
from n2s_dist.evaluation.bm3d import bm3d
from n2s_dist.evaluation.methods import EvaluatedMethod, of_network, self_ensemble
from n2s_dist.evaluation.noisy_files import NO_SCALE, NamedScale
from n2s_dist.evaluation.protocols import MADE
from n2s_dist.evaluation.suite import LEVELS, SUITES, Cell, automatic_cells, check_images, product_cells, suite_cells
from n2s_dist.inference.posterior_samples import check_can_sample, check_wanted
from n2s_dist.models import checkpoint, pretrained
from n2s_dist.noise.base import UNKNOWN
from n2s_dist.noise.calibration import calibration_of, on_scale_of
from n2s_dist.noise.model import NoiseModel
from n2s_dist.noise.specification import format_noise, parse_cell_noise
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import path_option, path_text
from n2s_dist.utils.programs import program_name


def open_benchmarks(args: argparse.Namespace) -> dict[str, Benchmark | str]:
    """What is evaluated on, by name; of a suite's benchmarks those that are nowhere, with a word on it."""
    clean, noisy = parse_folders(args.benchmark, "--benchmark"), parse_folders(args.noisy, "--noisy")
    sources: dict[str, Benchmark | str] = {}
    if not args.suite:
        if args.data:
            raise UserError("--data goes with --suite: name benchmarks one by one with --benchmark NAME=DIR")
        if not clean and not noisy:
            raise UserError("--benchmark is missing: write NAME=DIR, such as cbsd68=data/cbsd68, or --suite table2")
        scales = dict.fromkeys(noisy, named_scale(args))
        return {
            n: Benchmark.open(n, clean.get(n), noisy.get(n), args.protocol, scales.get(n, NO_SCALE))
            for n in dict.fromkeys([*clean, *noisy])
        }
    suite = SUITES[args.suite]
    names = suite.benchmarks
    unknown = [name for name in [*clean, *noisy] if name not in names]
    if unknown or noisy:
        what = f"--benchmark {unknown[0]}" if unknown else "--noisy"
        own = "whose folders hold noisy images as well" if suite.has_own_noise else "and makes its own noise"
        raise UserError(f"{what} is not part of --suite {args.suite}, which has {', '.join(names)} {own}")
    if args.data and not args.data.is_dir():
        raise UserError(f"{args.data} is not a folder: --data holds benchmarks, such as {args.data}/cbsd68")
    for name in names:
        folder = clean.get(name) or (args.data / name if args.data else None)
        if folder and (name in clean or folder.exists()):
            sources[name] = (
                Benchmark.open_photographs(name, folder)
                if suite.has_own_noise
                else Benchmark.open(name, folder, None, args.protocol)
            )
        else:
            sources[name] = f"no folder of images: {folder} does not exist" if folder else f"no --benchmark {name}=DIR"
    if not any(isinstance(source, Benchmark) for source in sources.values()):
        at = f"{args.data} holds none" if args.data else "--data is missing: name the folder"
        raise UserError(f"{at} of --suite {args.suite}'s benchmarks: {', '.join(names)}")
    return sources


def is_automatic(args: argparse.Namespace) -> bool:
    """Whether nothing is named: noisy files, for each of which the network is chosen as n2s denoise does."""
    if args.checkpoint:
        return False
    return SUITES[args.suite].has_own_noise if args.suite else bool(args.noisy) and set(args.noise) <= {UNKNOWN}


def list_checkpoints(args: argparse.Namespace) -> list[str]:
    """The networks that the table may depend on."""
    if args.checkpoint:
        return args.checkpoint
    if is_automatic(args):
        return pretrained.names()
    return pretrained.offered() if args.suite else []


def open_denoisers(args: argparse.Namespace, paths: list[Path], device: torch.device) -> list[EvaluatedMethod]:
    """The networks of the checkpoints at `paths`, or what naming nothing takes, and what options add."""
    if is_automatic(args):
        denoisers = automatic_methods(device, args.uncertainty, args.ensemble)
    else:
        networks = [checkpoint.load(path, device) for path in paths]
        denoisers = [of_network(loaded, args.uncertainty, args.samples) for loaded in networks]
        if args.ensemble:
            denoisers += [self_ensemble(loaded) for loaded in networks]
    return [*denoisers, bm3d()] if args.bm3d else denoisers


def choose_cells(
    args: argparse.Namespace, sources: dict[str, Benchmark | str], denoisers: list[EvaluatedMethod]
) -> list[Cell]:
    """The table that a command line asks for. Raises UserError for an image that is none of its benchmark's kind."""
    if args.suite:
        levels = (args.level,) if args.level in LEVELS else SUITES[args.suite].levels
        cells = suite_cells(args.suite, sources, denoisers, levels, args.protocol)
    else:
        folders = [source for source in sources.values() if isinstance(source, Benchmark)]
        cells = automatic_cells(folders, denoisers) if is_automatic(args) else _named_cells(args, folders, denoisers)
    check_images(cells)
    check_samples(cells)
    return cells


def _named_cells(args: argparse.Namespace, folders: list[Benchmark], denoisers: list[EvaluatedMethod]) -> list[Cell]:
    """Every method at every noise that is named, or was trained on, on every benchmark of its kind."""
    levels = LEVELS if args.level == "both" else (args.level or "known",)
    written = [_camera_read(noise, args, denoisers) for noise in args.noise]
    noises = list(dict.fromkeys(map(parse_cell_noise, written))) or None
    return product_cells(folders, denoisers, noises, levels)


def check_samples(cells: list[Cell]) -> None:
    """UserError where samples are wanted of noise or of a network that has none."""
    for cell in cells:
        if cell.denoiser and cell.denoiser.samples and cell.denoiser.loaded and cell.noise_model:
            check_can_sample(cell.denoiser.loaded, cell.noise_model)


def named_scale(args: argparse.Namespace) -> NamedScale:
    """What white and black are in noisy files; of a calibrated camera the one that is not named is its own."""
    scale = NamedScale(args.white, args.black)
    for noise in args.noise if scale != NO_SCALE else ():
        scale = NamedScale(*on_scale_of(noise, *scale)[1:])
    return scale


def _camera_read(noise: str, args: argparse.Namespace, denoisers: list[EvaluatedMethod]) -> str:
    """A calibrated camera's noise on the scale of noisy files, or its own for clean ones; other text as it is.

    Where none is named it begins at 0: the camera's black level is still in photographs, and never was in clean images.
    It is taken plainly where not all networks know it.
    """
    if calibration_of(noise) is None:
        return noise
    scale = named_scale(args)
    scale = NamedScale(None, 0) if args.noisy and scale == NO_SCALE else scale
    models = [each.loaded.model for each in denoisers if each.loaded]
    found, *_ = on_scale_of(noise, *scale, lambda found: all(model.serves(found) for model in models))
    return format_noise(found) if isinstance(found, NoiseModel) else found


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        prog=program_name("python -m n2s_dist.evaluate"),
        description="Evaluate checkpoints on benchmarks beside published figures.",
    )
    add = out.add_argument
    again: dict[str, Any] = {"action": "append", "default": []}
    add(
        "--checkpoint",
        type=path_text,
        metavar="RUN_DIR",
        help="a run, a checkpoint of one or a shipped network (default: for noisy files what n2s denoise takes for "
        "each; for --suite table2 the shipped ones)",
        **again,
    )
    add("--which", choices=["last", "best"], default="last", help="checkpoint of a run (%(default)s)")
    add(
        "--suite",
        choices=list(SUITES),
        help="table2: all cells of the paper's table, each by the checkpoint that fits it best; real: photographs and "
        "micrographs whose noise nobody knows",
    )
    add(
        "--data",
        type=path_option,
        metavar="DIR",
        help="of a suite: holds a folder for each benchmark, such as DIR/cbsd68",
    )
    add("--benchmark", metavar="NAME=DIR", help="clean images; may be repeated", **again)
    add("--noisy", metavar="NAME=DIR", help="noisy images as they are, with or without clean ones", **again)
    add("--white", type=float, metavar="VALUE", help="what white is in noisy files, and their clean ones, of 16 bits")
    add("--black", type=float, metavar="VALUE", help="what these files have without light (what the file says, or 0)")
    add(
        "--noise",
        metavar="FAMILY:LEVEL",
        help="may be repeated (default: what was trained on, or what is found)",
        **again,
    )
    add(
        "--level",
        choices=[*LEVELS, "both"],
        help="whether methods are told it (known; a suite: both; unknown where nothing is named)",
    )
    add("--protocol", choices=MADE, default="float", help="uint8_input clips and rounds noisy images")
    add("--ensemble", action="store_true", help="also denoise by self-ensemble, in rows of its own")
    add("--uncertainty", action="store_true", help="also compare the posterior's deviation with the errors")
    add(
        "--samples",
        type=int,
        default=0,
        metavar="N",
        help="with --pictures: also draw so many samples of each posterior",
    )
    add("--bm3d", action="store_true", help="also denoise by BM3D, told the level")
    add("--out", type=path_option, required=True, metavar="DIR", help="where results.json, table.md and table.csv go")
    add("--device", choices=["auto", "gpu", "cpu"], default="auto", help="auto: GPUs where there are any (%(default)s)")
    add("--seed", type=int, default=0, help="of the benchmarks' noise (%(default)s)")
    add("--pictures", action="store_true", help="write clean, noisy and denoised images to DIR/pictures")
    add("--fresh", action="store_true", help="measure all again, also what DIR has of the same evaluation")
    add("--no-wandb", action="store_true", help="do not log the table, even if training did")
    return out


def check_options(args: argparse.Namespace) -> None:
    """UserError for options that contradict each other or name nothing to denoise with."""
    if args.seed < 0:
        raise UserError(f"--seed is {args.seed}: it can't be negative")
    if args.suite and args.level == "known" and "known" not in SUITES[args.suite].levels:
        raise UserError(f"--level is known, but nobody knows the noise of --suite {args.suite}: leave it out")
    if args.suite and args.noise:
        raise UserError(f"--noise is given, but --suite {args.suite} has its own: leave one of them out")
    check_wanted(args.samples, args.seed)
    if args.samples and not args.pictures:
        raise UserError("--samples draws pictures: give --pictures as well")
    if args.samples and (args.noisy or (args.suite and SUITES[args.suite].has_own_noise)):
        raise UserError("--samples is for noise that is put on here: n2s denoise --samples draws those of photographs")
    if (args.white is not None or args.black is not None) and not args.noisy:
        raise UserError("--white and --black go with --noisy: clean images have 8 bits or fill 16")
    if is_automatic(args) and not args.suite:
        return _check_automatic(args)
    has_network = args.checkpoint or (args.suite and pretrained.offered())
    if not has_network and not (args.bm3d and (args.suite or args.noise)):
        raise UserError("--checkpoint is missing: give a run directory, or --bm3d with --noise or --suite")


def _check_automatic(args: argparse.Namespace) -> None:
    """UserError for what can't be where nothing is named."""
    if not pretrained.names():
        raise UserError("--checkpoint is missing: no network comes with this installation, so give a run directory")
    noisy = parse_folders(args.noisy, "--noisy")
    for name in parse_folders(args.benchmark, "--benchmark"):
        if name not in noisy:
            raise UserError(f"--checkpoint is missing: {name} has clean images alone, so name a network and a --noise")
    if args.level not in (None, UNKNOWN):
        raise UserError(f"--level is {args.level}, but no --noise and no --checkpoint is named: leave --level out")


def list_digests(sources: dict[str, Benchmark | str]) -> dict[str, str]:
    """Of all images of all benchmarks, by their paths; "missing" where there is no benchmark."""
    digests = {name: "missing" for name, source in sources.items() if isinstance(source, str)}
    for source in sources.values():
        if isinstance(source, Benchmark):
            digests |= {str(image.path): digest[:12] for image, digest in source.image_digests}
    return digests

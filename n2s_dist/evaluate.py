"""Evaluate checkpoints on benchmarks: corrupt, denoise by Tweedie's formula, measure.

    accelerate launch -m n2s_dist.evaluate --checkpoint runs/a --benchmark cbsd68=data/cbsd68 --out runs/a/evaluation
    accelerate launch -m n2s_dist.evaluate --suite table2 --checkpoint runs/a --data data --out runs/a/table2

Each image's noise depends on (seed, benchmark, file name) alone, how a large one is cut into tiles on its size and
the network alone, and each tile is computed by one thread, so the table is the same to the last bit on any number of
ranks and cores.
"""

if __name__ == "__main__":  # what comes next takes seconds to import, in which an interrupt counts as well
    from n2s_dist import stopping

    stopping.listen(remember=())

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

import torch

from n2s_dist import checkpoint, exhibits, journal, shipped
from n2s_dist.benchmarks import Benchmark, parse_folders
from n2s_dist.bm3d_baseline import bm3d
from n2s_dist.cells import LEVELS, SUITES, Cell, parse_cell_noise, product_cells, suite_cells
from n2s_dist.consistency import compare_program
from n2s_dist.distributed import Ranks, lost_ranks_named
from n2s_dist.errors import UserError, run_command
from n2s_dist.locks import alone_in
from n2s_dist.meeting import Meeting
from n2s_dist.methods import SCORE_ESTIMATOR, Denoiser, of_network, self_ensemble
from n2s_dist.protocols import PROTOCOLS
from n2s_dist.sweep import sweep
from n2s_dist.tables import format_table, to_csv, to_markdown
from n2s_dist.tracking import log_results


def open_benchmarks(args: argparse.Namespace) -> dict[str, Benchmark | str]:
    """What is evaluated on, by name; of a suite's benchmarks those that are nowhere, with a word on it."""
    clean, noisy = parse_folders(args.benchmark, "--benchmark"), parse_folders(args.noisy, "--noisy")
    sources: dict[str, Benchmark | str] = {}
    if not args.suite:
        if args.data:
            raise UserError("--data goes with --suite: name benchmarks one by one with --benchmark NAME=DIR")
        if not clean and not noisy:
            raise UserError("--benchmark is missing: write NAME=DIR, such as cbsd68=data/cbsd68, or --suite table2")
        return {
            n: Benchmark.open(n, clean.get(n), noisy.get(n), args.protocol) for n in dict.fromkeys([*clean, *noisy])
        }
    names = SUITES[args.suite]["benchmarks"]
    unknown = [name for name in [*clean, *noisy] if name not in names]
    if unknown or noisy:
        what = f"--benchmark {unknown[0]}" if unknown else "--noisy"
        raise UserError(
            f"{what} is not part of --suite {args.suite}, which has {', '.join(names)} and makes its own noise"
        )
    if args.data and not args.data.is_dir():
        raise UserError(f"{args.data} is not a folder: --data holds benchmarks, such as {args.data}/cbsd68")
    for name in names:
        folder = clean.get(name) or (args.data / name if args.data else None)
        if folder and (name in clean or folder.exists()):
            sources[name] = Benchmark.open(name, folder, None, args.protocol)
        else:
            sources[name] = f"no folder of images: {folder} does not exist" if folder else f"no --benchmark {name}=DIR"
    if not any(isinstance(source, Benchmark) for source in sources.values()):
        at = f"{args.data} holds none" if args.data else "--data is missing: name the folder"
        raise UserError(f"{at} of --suite {args.suite}'s benchmarks: {', '.join(names)}")
    return sources


def open_denoisers(args: argparse.Namespace, paths: list[Path], device: torch.device) -> list[Denoiser]:
    """The networks of the checkpoints at `paths`, and what options add."""
    networks = [checkpoint.load(path, device) for path in paths]
    denoisers = [of_network(loaded, args.uncertainty) for loaded in networks]
    if args.ensemble:
        denoisers += [self_ensemble(loaded) for loaded in networks]
    return [*denoisers, bm3d()] if args.bm3d else denoisers


def choose_cells(
    args: argparse.Namespace, sources: dict[str, Benchmark | str], denoisers: list[Denoiser]
) -> list[Cell]:
    """The table that a command line asks for."""
    if args.suite:
        levels = (args.level,) if args.level in LEVELS else LEVELS
        return suite_cells(args.suite, sources, denoisers, levels, args.protocol)
    levels = LEVELS if args.level == "both" else (args.level or "known",)
    noises = list(dict.fromkeys(map(parse_cell_noise, args.noise))) or None
    folders = [source for source in sources.values() if isinstance(source, Benchmark)]
    return product_cells(folders, denoisers, noises, levels)


def write(out: Path, results: dict[str, Any]) -> list[Path]:
    """results.json, table.md and table.csv, each whole or not there."""
    texts = {
        "table.md": to_markdown(results),
        "table.csv": to_csv(results),
        "results.json": json.dumps(results, indent=1, allow_nan=False) + "\n",
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        partial_file = out / f".{name}.partial"
        partial_file.write_text(text)
        partial_file.replace(out / name)
    return [out / name for name in texts]


def check_options(args: argparse.Namespace) -> None:
    """UserError for options that contradict each other or name nothing to denoise with."""
    if args.seed < 0:
        raise UserError(f"--seed is {args.seed}: it can't be negative")
    if args.suite and args.noise:
        raise UserError(f"--noise is given, but --suite {args.suite} has its own: leave one of them out")
    if not (args.checkpoint or (args.suite and shipped.offered())) and not (args.bm3d and (args.suite or args.noise)):
        raise UserError("--checkpoint is missing: give a run directory, or --bm3d with --noise or --suite")


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        prog="python -m n2s_dist.evaluate", description="Evaluate checkpoints on benchmarks beside published figures."
    )
    add = out.add_argument
    again: dict[str, Any] = {"action": "append", "default": []}
    add(
        "--checkpoint",
        metavar="RUN_DIR",
        help="a run, a checkpoint of one or a shipped network",
        **again,
    )
    add("--which", choices=["last", "best"], default="last", help="checkpoint of a run (%(default)s)")
    add(
        "--suite", choices=list(SUITES), help="all cells of a published table, each by the checkpoint that fits it best"
    )
    add("--data", type=Path, metavar="DIR", help="of a suite: holds a folder for each benchmark, such as DIR/cbsd68")
    add("--benchmark", metavar="NAME=DIR", help="clean images; may be repeated", **again)
    add("--noisy", metavar="NAME=DIR", help="noisy images as they are, with or without clean ones", **again)
    add("--noise", metavar="FAMILY:LEVEL", help="may be repeated (default: what was trained on)", **again)
    add("--level", choices=[*LEVELS, "both"], help="whether methods are told it (known; a suite: both)")
    add("--protocol", choices=list(PROTOCOLS), default="float", help="uint8_input clips and rounds noisy images")
    add("--ensemble", action="store_true", help="also denoise by self-ensemble, in rows of its own")
    add("--uncertainty", action="store_true", help="also compare the posterior's deviation with the errors")
    add("--bm3d", action="store_true", help="also denoise by BM3D, told the level")
    add("--out", type=Path, required=True, metavar="DIR", help="where results.json, table.md and table.csv go")
    add("--seed", type=int, default=0, help="of the benchmarks' noise (%(default)s)")
    add("--pictures", action="store_true", help="write clean, noisy and denoised images to DIR/pictures")
    add("--fresh", action="store_true", help="measure all again, also what DIR has of the same evaluation")
    add("--no-wandb", action="store_true", help="do not log the table, even if training did")
    return out


def list_digests(sources: dict[str, Benchmark | str]) -> dict[str, str]:
    """Of all images of all benchmarks, by their paths; "missing" where there is no benchmark."""
    digests = {name: "missing" for name, source in sources.items() if isinstance(source, str)}
    for source in sources.values():
        if isinstance(source, Benchmark):
            digests |= {str(image.path): digest[:12] for image, digest in source.image_digests}
    return digests


def evaluate(args: argparse.Namespace, meeting: Meeting) -> None:
    """Measure what a command line asks for and write it to its folder."""
    chosen = args.checkpoint or (shipped.offered() if args.suite else [])
    # A run that is still training may have another last checkpoint a moment later.
    located = meeting.from_main(lambda: [str(checkpoint.locate(text, args.which)) for text in chosen])
    paths = [Path(path) for path in dict.fromkeys(located)]
    checkpoint.compare(meeting, paths)
    sources = open_benchmarks(args)
    meeting.compare("benchmarks", lambda: list_digests(sources), "give all nodes the same images")
    ranks = Ranks(meeting=meeting)
    denoisers = open_denoisers(args, paths, ranks.device)
    cells = choose_cells(args, sources, denoisers)
    meeting.ready()
    meeting.close()
    results = sweep(cells, args.seed, ranks, args.out, SCORE_ESTIMATOR, args.pictures, args.fresh)
    if ranks.is_main:
        written = write(args.out, results)
        journal.forget(args.out)
        print(format_table(results))
        print(f"wrote {', '.join(map(str, written))}")
        for loaded in {each.loaded.path: each.loaded for each in denoisers if each.loaded}.values():
            if loaded.path.is_dir() and not args.no_wandb:  # a shipped network has no run
                mine = [cell for cell in results["cells"] if cell.get("checkpoint") == str(loaded.path)]
                shown = [each for each in exhibits.choose(args.out, results["cells"]) if each.cell in mine]
                pictures = [(exhibits.caption(each), exhibits.strip(each)) for each in shown]
                log_results(loaded.config, loaded.path.parent.parent, mine, pictures)
    ranks.close()


def main() -> None:
    with Meeting() as meeting, lost_ranks_named():
        args = parser().parse_args()
        compare_program(meeting, vars(args), checkpoint.versions())
        check_options(args)
        with alone_in(args.out, name=".evaluating") if meeting.launch.is_main else contextlib.nullcontext():
            evaluate(args, meeting)


if __name__ == "__main__":
    run_command(main)

"""Evaluate checkpoints on benchmarks: corrupt, denoise by Tweedie's formula, measure.

    accelerate launch -m n2s_dist.evaluate --checkpoint runs/a --benchmark cbsd68=data/cbsd68 --out runs/a/evaluation
    accelerate launch -m n2s_dist.evaluate --suite table2 --checkpoint runs/a --data data --out runs/a/table2
    accelerate launch -m n2s_dist.evaluate --suite real --data data --out runs/real

Each image's noise depends on (seed, benchmark, file name) alone, how a large one is cut into tiles on its size and
the network alone, and each tile is computed by one thread, so the table is the same to the last bit on any number of
ranks and cores.
"""

if __name__ == "__main__":  # what comes next takes seconds to import, in which an interrupt counts as well
    from n2s_dist.distributed import stop_signals
    from n2s_dist.utils import streams

    streams.guard()  # first: what is opened next must not become a stream that was closed
    stop_signals.listen(remember=())

import argparse
import contextlib
from pathlib import Path

from n2s_dist.distributed.consistency import compare_program
from n2s_dist.distributed.meeting import Meeting
from n2s_dist.distributed.ranks import Ranks, lost_ranks_named
from n2s_dist.evaluation import resume
from n2s_dist.evaluation.command_line import (
    check_options,
    choose_cells,
    list_checkpoints,
    list_digests,
    open_benchmarks,
    open_denoisers,
    parser,
)
from n2s_dist.evaluation.methods import SCORE_ESTIMATOR
from n2s_dist.evaluation.results import measures_of
from n2s_dist.evaluation.runner import sweep
from n2s_dist.models import checkpoint
from n2s_dist.reporting import examples
from n2s_dist.reporting.image_lists import format_image_lists
from n2s_dist.reporting.result_files import write
from n2s_dist.reporting.tables import format_table
from n2s_dist.reporting.wandb_results import log_results
from n2s_dist.utils.errors import run_command
from n2s_dist.utils.locks import alone_in


def evaluate(args: argparse.Namespace, meeting: Meeting) -> None:
    """Measure what a command line asks for and write it to its folder."""
    chosen = list_checkpoints(args)
    # A run that is still training may have another last checkpoint a moment later.
    located = meeting.from_main(lambda: [str(checkpoint.locate(text, args.which)) for text in chosen])
    paths = [Path(path) for path in dict.fromkeys(located)]
    checkpoint.compare(meeting, paths)
    sources = open_benchmarks(args)
    meeting.compare("benchmarks", lambda: list_digests(sources), "give all nodes the same images")
    ranks = Ranks(meeting=meeting, device=args.device)
    denoisers = open_denoisers(args, paths, ranks.device)
    cells = choose_cells(args, sources, denoisers)
    meeting.ready()
    meeting.close()
    results = sweep(cells, args.seed, ranks, args.out, SCORE_ESTIMATOR, args.pictures, args.fresh)
    if ranks.is_main:
        written = write(args.out, results)
        resume.forget(args.out)
        print(format_table(results))
        if listed := format_image_lists(results):
            print(f"\n{listed}\n")
        print(f"wrote {', '.join(map(str, written))}")
        for loaded in {each.loaded.path: each.loaded for each in denoisers if each.loaded}.values():
            if loaded.path.is_dir() and not loaded.source and not args.no_wandb:  # others have no run
                mine = [cell for cell in results["cells"] if cell.get("checkpoint") == str(loaded.path)]
                shown = [each for each in examples.choose(args.out, results["cells"]) if each.cell in mine]
                pictures = [(examples.caption(each), examples.strip(each)) for each in shown]
                log_results(loaded.config, loaded.path.parent.parent, mine, measures_of(results), pictures)
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

"""Evaluate checkpoints on benchmarks: corrupt, denoise by Tweedie's formula, measure.

    accelerate launch -m n2s_dist.evaluate --checkpoint runs/a --benchmark cbsd68=data/cbsd68 --out runs/a/evaluation
    accelerate launch -m n2s_dist.evaluate --suite table2 --checkpoint runs/a --data data --out runs/a/table2

Each image's noise depends on (seed, benchmark, file name) alone, how a large one is cut into tiles on its size and
the network alone, and each tile is computed by one thread, so the table is the same to the last bit on any number of
ranks and cores.
"""

from n2s_dist.distributed.ranks import Ranks
from n2s_dist.evaluation import resume
from n2s_dist.evaluation.command_line import choose_cells, open_benchmarks, open_denoisers, parser
from n2s_dist.evaluation.methods import SCORE_ESTIMATOR
from n2s_dist.evaluation.runner import sweep
from n2s_dist.models import checkpoint, pretrained
from n2s_dist.reporting import examples
from n2s_dist.reporting.result_files import write
from n2s_dist.reporting.tables import format_table
from n2s_dist.reporting.wandb_results import log_results
from n2s_dist.utils.errors import UserError, run_command


def main() -> None:
    args = parser().parse_args()
    if args.seed < 0:
        raise UserError(f"--seed is {args.seed}: it can't be negative")
    if args.suite and args.noise:
        raise UserError(f"--noise is given, but --suite {args.suite} has its own: leave one of them out")
    chosen = args.checkpoint or (pretrained.offered() if args.suite else [])
    if not chosen and not (args.bm3d and (args.suite or args.noise)):
        raise UserError("--checkpoint is missing: give a run directory, or --bm3d with --noise or --suite")
    # What is missing, empty or not what it says is found before ranks start.
    paths = list(dict.fromkeys(checkpoint.locate(text, args.which) for text in chosen))
    sources = open_benchmarks(args)
    ranks = Ranks()
    denoisers = open_denoisers(args, paths, ranks.device)
    cells = choose_cells(args, sources, denoisers)
    results = sweep(cells, args.seed, ranks, args.out, SCORE_ESTIMATOR, args.pictures, args.fresh)
    if ranks.is_main:
        written = write(args.out, results)
        resume.forget(args.out)
        print(format_table(results))
        print(f"wrote {', '.join(map(str, written))}")
        for loaded in {each.loaded.path: each.loaded for each in denoisers if each.loaded}.values():
            if loaded.path.is_dir() and not args.no_wandb:  # a shipped network has no run
                mine = [cell for cell in results["cells"] if cell.get("checkpoint") == str(loaded.path)]
                shown = [each for each in examples.choose(args.out, results["cells"]) if each.cell in mine]
                pictures = [(examples.caption(each), examples.strip(each)) for each in shown]
                log_results(loaded.config, loaded.path.parent.parent, mine, pictures)
    ranks.close()


if __name__ == "__main__":
    run_command(main)

"""An evaluation on one page: the tables, curves and pictures in an HTML file that opens from disk without a network.

    n2s report --results runs/demo/evaluation --run-dir runs/demo --out runs/demo

Writes OUT/report.html, and the same as PNG for a paper into OUT/figures.
"""

import argparse
import sys

from n2s_dist.evaluation.results import read_results
from n2s_dist.reporting import examples, figures
from n2s_dist.reporting.curves import run_names
from n2s_dist.reporting.page import TrainingRun, render
from n2s_dist.utils.errors import run_command
from n2s_dist.utils.files import atomic_write, path_option
from n2s_dist.utils.programs import dashed, program_name


def main() -> None:
    parser = argparse.ArgumentParser(
        prog=program_name("python -m n2s_dist.report"), description="Write an evaluation's report."
    )
    parser.add_argument(
        "--results", type=path_option, required=True, metavar="DIR", help="the evaluation's --out folder"
    )
    parser.add_argument("--run-dir", type=path_option, nargs="+", action="extend", default=[], metavar="RUN",
                        help="training runs, for their curves and configurations; may be repeated")  # fmt: skip
    parser.add_argument(
        "--out", type=path_option, required=True, metavar="DIR", help="where report.html and figures/ go"
    )
    args = parser.parse_args([dashed(word) for word in sys.argv[1:]])

    results = read_results(args.results)
    folders = list(dict.fromkeys(args.run_dir))
    runs = [TrainingRun(folder, name) for folder, name in zip(folders, run_names(folders), strict=True)]
    shown = examples.choose(args.results, results["cells"])
    args.out.mkdir(parents=True, exist_ok=True)
    page = args.out / "report.html"
    with atomic_write(page) as partial:
        partial.write_text(render(results, runs, shown), encoding="utf-8", errors="surrogateescape")
    written = figures.draw_all(args.out / "figures", results["cells"], {run.name: run.metrics for run in runs}, shown)
    print(f"report:  {page} ({page.stat().st_size / 2**20:.1f} MiB)")
    for path in written:
        print(f"figure:  {path}")


if __name__ == "__main__":
    run_command(main)

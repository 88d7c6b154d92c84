#!/usr/bin/env python3
"""The wandb dashboard of training runs, as code: panels of training, throughput and evaluation.

    tools/wandb_workspace.py --entity TEAM --project n2s_dist

With a wandb key it saves the workspace and prints its address. Without one, or with --print, it prints the
workspace as JSON and changes nothing. Needs the extra `dashboard`: pip install -e '.[dashboard]'.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from n2s_dist.config.schema import TrackingConfig
from n2s_dist.reporting.curves import SECTIONS, benchmark_measures
from n2s_dist.training.tracking import has_key
from n2s_dist.utils.errors import UserError, run_command

_X = "samples_seen"
_BENCHMARKS = ("cbsd68", "kodak24", "set12", "bsd68")


def build(entity: str, project: str, benchmarks: Sequence[str] = _BENCHMARKS) -> Any:
    """The workspace; nothing is sent anywhere."""
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError:
        raise UserError("wandb-workspaces is missing: pip install -e '.[dashboard]'") from None

    def line(title: str, keys: tuple[str, ...], log: bool) -> Any:
        if keys == ("step_ms_by_rank",):  # a key for each rank, however many there are
            return wr.LinePlot(title=title, x=_X, y=[], metric_regex="step_ms_by_rank/.*")
        return wr.LinePlot(title=title, x=_X, y=list(keys), log_y=log)

    sections = {name: [line(*panel) for panel in panels] for name, panels in SECTIONS.items()}
    evaluation = sections.pop("validation")
    for measure in benchmark_measures():
        metrics: list = [wr.SummaryMetric(f"{name}/{measure}") for name in benchmarks]
        evaluation.append(wr.BarPlot(title=f"{measure}, means over benchmarks", metrics=metrics))
    evaluation += [wr.WeavePanelSummaryTable(table_name=name) for name in ("cells", "results")]
    for title, key in (("noisy, denoised, clean", "validation"), ("clean, noisy, denoised, uncertainty", "pictures")):
        evaluation.append(wr.MediaBrowser(title=title, media_keys=[key]))
    sections["evaluation"] = evaluation
    return ws.Workspace(
        entity=entity,
        project=project,
        name="n2s_dist",
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections.items()],
        settings=ws.WorkspaceSettings(x_axis=_X),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entity", default=os.environ.get("WANDB_ENTITY", ""), help="team or user ($WANDB_ENTITY)")
    parser.add_argument("--project", default=TrackingConfig.project, help="wandb project (%(default)s)")
    parser.add_argument("--benchmark", action="append", metavar="NAME", help=f"may repeat ({', '.join(_BENCHMARKS)})")
    parser.add_argument("--print", action="store_true", help="print the workspace as JSON, save nothing")
    args = parser.parse_args()

    workspace = build(args.entity or "ENTITY", args.project, args.benchmark or _BENCHMARKS)
    if args.print or not has_key():
        print(to_json(workspace))
        if not args.print:
            print("not saved: no wandb key; run `wandb login` or set WANDB_API_KEY first", file=sys.stderr)
        return
    if not args.entity:
        raise UserError("--entity is missing: name the wandb team or user whose project this is")
    print(workspace.save().url)


def to_json(workspace: Any) -> str:
    """What would be saved."""
    return workspace._to_model().model_dump_json(by_alias=True, exclude_none=True, indent=1)


if __name__ == "__main__":
    run_command(main)

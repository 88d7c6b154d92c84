"""The dashboard and the PNG of curves: what they show is what training and evaluation really log."""

import errno
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from support import sample_results

from n2s_dist.config.schema import Config
from n2s_dist.metrics.base import BUILT_IN
from n2s_dist.reporting import wandb_results
from n2s_dist.reporting.curves import OPTIONAL, SECTIONS, benchmark_measures, curve, training_hours
from n2s_dist.training import tracking

pytestmark = pytest.mark.usefixtures("no_layout")

KEYS = {key for panels in SECTIONS.values() for panel in panels for key in panel.keys}


def rows(run_dir) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_panels_show_all_that_training_logs_and_nothing_else(trained):
    logged = set().union(*rows(trained)) - {"samples_seen"}
    assert logged == KEYS - OPTIONAL


# --- the dashboard ----------------------------------------------------------------------------------------


def panels_of(workspace: dict) -> list[dict]:
    sections = workspace["spec"]["section"]["panelBankConfig"]["sections"]
    return [panel for section in sections for panel in section["panels"]]


@pytest.fixture
def dashboard(load_tool, cli, monkeypatch):
    """Run the program without a key, a home or a network."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(tracking, "_has_netrc_entry", lambda host: False)
    tool = load_tool("wandb_workspace")
    return lambda *arguments: cli(tool.main, *arguments)


def test_without_a_key_the_workspace_is_printed_and_one_line_says_so(dashboard):
    done = dashboard("--entity=team", "--project=denoise")
    assert done.code == 0
    assert done.err.splitlines() == ["not saved: no wandb key; run `wandb login` or set WANDB_API_KEY first"]
    workspace = json.loads(done.out)
    sections = workspace["spec"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections if section["panels"]] == ["training", "throughput", "evaluation"]
    assert (workspace["entity"], workspace["project"]) == ("team", "denoise")


def test_the_dashboards_panels_show_keys_that_are_really_logged(dashboard, trained, tmp_path):
    """Of a training run and of an evaluation, as each hands them to wandb."""
    logged = set().union(*(tracking.one_value_a_key(row) for row in rows(trained))) | OPTIONAL
    benchmarks = ("cbsd68", "set12")
    logged |= wandb_results.summary_of(sample_results.write(tmp_path)["cells"], list(BUILT_IN), Config()).keys()
    done = dashboard("--print", *(f"--benchmark={name}" for name in benchmarks))
    assert done.code == 0 and done.err == ""
    shown = set()
    for panel in panels_of(json.loads(done.out)):
        config = panel["config"]
        assert config.get("xAxis", "samples_seen") == "samples_seen"
        shown |= {name.removeprefix("summary_metrics.") for name in config.get("metrics", [])}
        shown |= {key for key in logged if "metricRegex" in config and re.fullmatch(config["metricRegex"], key)}
    assert {f"{name}/{key}" for name in benchmarks for key in benchmark_measures()} <= shown
    assert (KEYS - {"step_ms_by_rank"}) | {"step_ms_by_rank/0"} <= shown <= logged


def test_a_key_without_a_team_is_asked_for_one(dashboard, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.delenv("WANDB_ENTITY", raising=False)
    assert "--entity is missing" in dashboard().error(2)


def test_wandb_gets_one_value_a_key_and_the_file_the_list(tmp_path):
    sent = []

    class Wandb:
        def log(self, row: dict) -> None:
            sent.append(row)

        def finish(self) -> None: ...

    tracker = tracking.Tracker(tmp_path, 0, Wandb())
    tracker.log(8, {"loss": 1.0, "step_ms_by_rank": [5.0, float("nan")]})
    tracker.close()
    assert rows(tmp_path) == [{"samples_seen": 8, "loss": 1.0, "step_ms_by_rank": [5.0, None]}]
    assert sent[0].keys() == {"samples_seen", "loss", "step_ms_by_rank/0", "step_ms_by_rank/1"}
    assert Config().tracking.wandb


# --- curves without wandb -----------------------------------------------------------------------------------


@pytest.fixture
def plot(load_tool, cli):
    tool = load_tool("plot_run")
    return lambda *arguments: cli(tool.main, *arguments)


def test_several_runs_are_drawn_in_one_picture(plot, trained, tmp_path):
    """Each in its own color: what the second adds is in its color, which the first's picture lacks."""
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(trained / "metrics.jsonl", other)
    with (other / "metrics.jsonl").open("a") as stream:
        stream.write('{"samples_seen": 320, "loss": 0.5, "val_psnr_db": 3')  # being written just now
    for name, runs in {"one": [trained], "two": [trained, other]}.items():
        out = tmp_path / "pictures" / f"{name}.png"
        done = plot(*runs, f"--out={out}")
        assert (done.code, done.out) == (0, f"wrote {out}\n")
    one, two = (np.asarray(Image.open(tmp_path / "pictures" / f"{n}.png").convert("RGB")) for n in ("one", "two"))
    orange = (255, 127, 14)
    assert (two == orange).all(-1).sum() > 500 > (one == orange).all(-1).sum()


def test_every_panel_that_has_data_is_drawn_with_that_data(load_tool, trained):
    figure = load_tool("plot_run").draw({"a": rows(trained)})
    axes = {axes.get_title(): axes for axes in figure.get_axes() if axes.get_title()}
    wanted = {panel for panels in SECTIONS.values() for panel in panels if not OPTIONAL.issuperset(panel.keys)}
    assert axes.keys() == {panel.title for panel in wanted}
    for panel in wanted:
        for line, key in zip(axes[panel.title].get_lines(), panel.keys, strict=True):
            seen, values = curve(rows(trained), key)
            np.testing.assert_array_equal(line.get_xdata(), seen)
            np.testing.assert_array_equal(np.ravel(line.get_ydata()), np.ravel(values))


def test_a_run_that_changed_its_number_of_ranks_is_drawn(plot, load_tool, tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    ranks = [[5.0, 6.0], [5.0, 6.0], [3.0, 4.0, 5.0, 6.0], [9.0]]
    logged = [{"samples_seen": 40 * i, "loss": 1.0, "step_ms_by_rank": ms} for i, ms in enumerate(ranks)]
    (run_dir / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in logged))
    assert plot(run_dir, f"--out={tmp_path / 'a.png'}").code == 0
    axes = {axes.get_title(): axes for axes in load_tool("plot_run").draw({"a": logged}).get_axes()}
    lines = axes["each rank's own time a step (ms)"].get_lines()
    assert [np.asarray(line.get_ydata())[~np.isnan(line.get_ydata())].tolist() for line in lines] == [
        [5, 5, 3, 9], [6, 6, 4], [5], [6]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "named"),
    [(None, "is not readable"), ("", "nothing was logged yet"), ("[1, 2\n", "is damaged in line 1")]
    + [
        (f'{{"samples_seen": 40}}\n{line}\n', "is damaged in line 2")
        for line in ("3", "[1]", "null", '"a"', "{}", "\0")
    ],
    ids=["missing", "empty", "damaged", "number", "list", "null", "text", "no-samples", "zeros"],
)
def test_runs_without_curves_are_named(plot, tmp_path, content, named):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    if content is not None:
        (run_dir / "metrics.jsonl").write_text(content)
    line = plot(run_dir, f"--out={tmp_path / 'a.png'}").error(2)
    assert named in line and str(run_dir) in line
    assert not (tmp_path / "a.png").exists()


def test_other_formats_than_png_are_refused(plot, trained, tmp_path):
    assert "should end with .png" in plot(trained, f"--out={tmp_path / 'a.pdf'}").error(2)


# --- quality over time --------------------------------------------------------------------------------------


def test_hours_are_those_of_each_sample_once():
    """The run was killed at 30 and went on from 20; 40 samples at 10, 5, 20 and 20 a second."""
    logged = [(10, 10.0), (20, 5.0), (30, 20.0), (30, 99.0), (40, 20.0)]
    lines = [{"samples_seen": seen, "samples_per_sec": speed} for seen, speed in logged] + [{"samples_seen": 40}]
    assert training_hours(lines) * 3600 == pytest.approx(1 + 2 + 0.5 + 0.5)
    assert training_hours(lines, 20) * 3600 == pytest.approx(3)


def test_hours_until_a_quality_lie_between_checkpoints(load_tool):
    tool = load_tool("quality_over_time")
    curve = tool.Curve([1.0, 2.0, 4.0], [25.0, 28.0, 29.0], "gaussian:25")
    assert [tool.hours_until(curve, level) for level in (24, 26.5, 28, 28.5, 30)] == [1, 1.5, 2, 3, None]


def test_every_checkpoint_is_evaluated_as_the_evaluator_does(load_tool, cli, trained, evaluated, photographs, tmp_path):
    """Of one image, the first, whose noise is that of the first of all photographs."""
    (tmp_path / "one").mkdir()
    shutil.copy(photographs / "astronaut.png", tmp_path / "one")
    run_dir, out = Path(shutil.copytree(trained, tmp_path / "run")), tmp_path / "pictures" / "quality.png"
    tool = load_tool("quality_over_time")
    arguments = [run_dir, f"--benchmark=photographs={tmp_path / 'one'}", f"--out={out}"]
    done = cli(tool.main, *arguments)
    assert done.code == 0, done.err
    folders = [run_dir / "quality" / f"samples-{seen:09d}" for seen in (80, 160)]
    early, last = (json.loads((folder / "results.json").read_text())["cells"][0] for folder in folders)
    (photographed,) = (
        cell
        for cell in json.loads((evaluated / "results.json").read_text())["cells"]
        if cell["benchmark"] == "photographs"
    )
    whole = next(image for image in photographed["images"] if image["name"] == "astronaut.png")
    assert last["psnr_db"] == whole["psnr_db"] > early["psnr_db"]
    assert f"{whole['psnr_db']:.2f} dB after" in done.out and done.out.endswith(f"wrote {out}\n")
    assert Image.open(out).size == (1050, 630)
    assert cli(tool.main, *arguments).out.count("taken from") == 2
    assert "should end with .png" in cli(tool.main, *arguments[:2], "--out=a.pdf").error(2)
    other = cli(tool.main, *arguments, "--noise=gaussian:50")
    rows = [json.loads((run_dir / f"quality/gaussian-50/{folder.name}/results.json").read_text()) for folder in folders]
    assert [row["cells"][0]["noise"] for row in rows] == ["gaussian:50"] * 2
    assert f"{rows[1]['cells'][0]['psnr_db']:.2f} dB after" in other.out
    assert rows[1]["cells"][0]["psnr_db"] < last["psnr_db"]
    assert "loud" in cli(tool.main, *arguments, "--noise=loud").error(2)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "metrics.jsonl").touch()
    assert "holds no whole checkpoint" in cli(tool.main, tmp_path / "empty", *arguments[1:]).error(2)


def test_a_full_disk_leaves_the_earlier_picture_as_it_was(plot, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.jsonl").write_text('{"samples_seen": 8, "loss": 1.0}\n')
    (tmp_path / "out.png").write_bytes(b"earlier")

    def savefig(_: Figure, path: Path, **options: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Figure, "savefig", savefig)
    assert "the disk is full" in plot(tmp_path / "run", "--out", tmp_path / "out.png").error()
    assert (tmp_path / "out.png").read_bytes() == b"earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.png", "run"]

"""The report: one file that needs no network, with all of the evaluation in it, and its figures as PNG."""

import base64
import contextlib
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import sample_results

from n2s_dist import report
from n2s_dist.reporting import comparison, examples, figures
from n2s_dist.reporting.curves import run_names
from n2s_dist.reporting.page import TrainingRun, render

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that tags nest, and collects rows of cells, tags, references, text, and the data of the page's script."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.text = self.data = ""

    def handle_starttag(self, tag, attributes) -> None:
        self.tags.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if self.open and self.open[-1] == "script":
            self.data = self.data or data
        else:
            self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def results_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    sample_results.write(folder)
    return folder


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Of a run that was killed while it wrote a line."""
    folder = tmp_path_factory.mktemp("runs") / "my-run"
    folder.mkdir()
    rows = [{"samples_seen": 100 * n, "loss": 1 / n, "samples_per_sec": 2.0} for n in range(1, 21)]
    rows.append({"samples_seen": 2000, "val_psnr_db": 27.5, "val_psnr_noisy_db": 20.2, "val_loss": 0.1})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"samples_seen": 21')
    (folder / "config.yaml").write_text("crop_size: 32 # <b>\n")
    return folder


@pytest.fixture(scope="module")
def written(results_dir, run_dir, tmp_path_factory):
    """What the program wrote, into a folder that another evaluation's figure lies in; and what it printed."""
    out = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        arguments = [f"--results={results_dir}", f"--run_dir={run_dir}", f"--out={out}"]
        patch.setattr(sys, "argv", ["program", *arguments])
        patch.setattr("matplotlib.layout_engine.ConstrainedLayoutEngine.execute", lambda *_: None)  # as no_layout does
        report.main()
    return out, printed.getvalue()


@pytest.fixture(scope="module")
def page(written):
    return parse((written[0] / "report.html").read_text(encoding="utf-8"))


def parse(text: str) -> tuple[Page, dict]:
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    return page, json.loads(page.data)


def words(row: list[str]) -> list[str]:
    return [" ".join(cell.split()) for cell in row]


def test_the_page_needs_nothing_from_outside(written, page):
    page, data = page
    text = (written[0] / "report.html").read_text(encoding="utf-8")
    assert page.references == [] and not {"link", "iframe", "object", "base"} & set(page.tags)
    assert "@import" not in text and "url(" not in text and "default-src 'none'" in text
    for uri in data["pictures"]:
        kind, _, content = uri.partition(",")
        assert kind == "data:image/jpeg;base64"
        Image.open(io.BytesIO(base64.b64decode(content, validate=True))).load()


def test_the_table_holds_the_evaluations_and_the_papers_figures(written, page, results_dir):
    out, printed = written
    page, _ = page
    rows = [words(row) for row in page.rows]
    cells = json.loads((results_dir / "results.json").read_text())["cells"]
    assert ["method", "Set12", "CBSD68"] in rows
    for level in ("known", "unknown"):
        mine = {
            c["benchmark"]: c for c in cells if (c["noise"], c["level"], c["method"]) == ("gaussian:25", level, "n2s")
        }
        shown = [
            f"{cell['psnr_db']:.2f} {cell['psnr_db'] - cell['paper_db']:+.2f}".replace("-", "−")
            for cell in (mine["set12"], mine["cbsd68"])
        ]
        assert [f"Noise2Score {level} level", *shown] in rows
    assert ["Noise2Score paper, known level", "30.13", "30.85"] in rows
    assert ["public reproduction", "22.96", "23.04"] in rows
    assert sample_results.MISSING in page.text and "2 cells not computed" in page.text
    assert str(out / "report.html") in printed


def test_estimates_and_uncertainty_have_their_tables(page):
    rows = [words(row) for row in page[0].rows]
    estimated = next(row for row in rows if row[0] == "Gaussian, σ = 25 Noise2Score, unknown level")
    assert all(each.startswith("2.0 % ") for each in estimated[1:]) and len(estimated) == 3
    assert ["Poisson, ζ = 0.05 Noise2Score, known level", "1.03 70 %"] in [row[:2] for row in rows]


def test_networks_that_were_chosen_by_image_are_told(results_dir):
    results = json.loads((results_dir / "results.json").read_text())
    of_one, chosen = results["cells"][0], dict(results["cells"][1])
    names = ["gaussian-color", "instrument-color", "gaussian-color", "gaussian-color", "gaussian-color"]
    images = [row | {"network": name} for row, name in zip(of_one["images"], names, strict=True)]
    images[1]["estimated"] = "curve:0=0.02_1=0.06"
    cells = [of_one, chosen | {"method": "automatic", "noise": "unknown", "checkpoint": None, "images": images}]
    page = Page()
    page.feed(render(results | {"cells": cells}, [], []))
    data = json.loads(page.data)["cells"]
    assert [row["network"] for row in data[1]["images"]] == names
    assert data[1]["images"][1]["estimated"] == "Curve, 10.2 at middle gray"
    assert {row["network"] for row in data[0]["images"]} == {None}
    assert "gaussian-color: chosen for 4 images" in page.text and "instrument-color: chosen for 1 image" in page.text
    assert "none: " not in page.text


def test_training_configuration_and_machine_are_told(page):
    page, data = page
    rows = [words(row) for row in page.rows]
    assert ["my-run", "2,000", "16 min 40 s", "2 crops/s", "27.50 dB"] in rows  # 2000 crops at 2 a second
    assert "crop_size: 32 # <b>" in page.text
    assert ["processor", "a <i>processor</i>"] in rows and ["n2s_dist", "0.1.0"] in rows
    loss = data["curves"][0]["lines"]
    assert [line["name"] for line in loss] == ["training", "held out"]
    assert loss[0]["points"][0] == [100, 1.0] and loss[0]["points"][-1] == [2000, 0.05] and len(loss[0]["points"]) == 20


def test_long_curves_are_thinned_and_keep_their_ends(tmp_path):
    lines = [json.dumps({"samples_seen": n, "loss": float(n)}) + "\n" for n in range(1, 5001)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    points = TrainingRun(tmp_path, "a").curve("loss")
    assert len(points) == 600 and points[0] == [1, 1.0] and points[-1] == [5000, 5000.0]


def test_pictures_on_the_page_are_the_evaluations(page, results_dir):
    """Up to what JPEG changes, far less than the noise; and the clean one, the same at every noise, is there once."""
    _, data = page
    folder = results_dir / "pictures" / "gaussian_25-known" / "cbsd68"
    shown = next(e for e in data["cells"][0]["exhibits"] if e["name"] == "coffee.png")
    for kind in ("clean", "noisy", "denoised"):
        stream = io.BytesIO(base64.b64decode(data["pictures"][shown["pictures"][kind]].partition(",")[2]))
        given, found = (
            np.asarray(Image.open(folder / f"coffee-{kind}.png"), float),
            np.asarray(Image.open(stream), float),
        )
        assert ((given - found) ** 2).mean() < 6**2  # the noise: 25**2
    assert "std" in shown["pictures"]
    clean = {
        example["pictures"].get("clean")
        for cell in data["cells"]
        for example in cell["exhibits"]
        if example["name"] == "coffee.png"
    }
    assert len(clean) == 1
    assert [cell["exhibits"][0]["pictures"].keys() for cell in data["cells"] if "real" in cell["title"]] == [
        {"noisy", "denoised"}
    ]


def test_names_can_not_break_the_page(page):
    page, data = page
    names = [row["name"] for row in data["cells"][0]["images"]]
    assert {sample_results.HOSTILE, sample_results.ENDING} <= set(names)
    assert page.tags.count("script") == 2 and "b" not in page.tags and "i" not in page.tags


def test_the_figures_are_pictures_for_a_page_of_paper(written):
    out, printed = written
    for name in ("comparison", "images", "curves", "pictures"):
        path = out / "figures" / f"{name}.png"
        with Image.open(path) as figure:
            figure.load()
            assert figure.size[0] == pytest.approx(1400, abs=60) and figure.size[1] > 300  # 7 inches of 200 dots
        assert str(path) in printed


def test_results_alone_make_a_page_and_no_figure_of_another_evaluation_stays(results_dir, tmp_path):
    results = json.loads((results_dir / "results.json").read_text())
    results["cells"] = [cell for cell in results["cells"] if cell.get("missing") or cell["benchmark"] == "real"]
    text = render(results, [], examples.choose(tmp_path, results["cells"]))
    page, data = parse(text)
    assert data["pictures"] == [] and "Training" not in page.text and len(text) < 60_000
    (tmp_path / "pictures.png").write_bytes(b"of another")
    assert figures.draw_all(tmp_path, results["cells"], {}, []) == [] and not (tmp_path / "pictures.png").exists()


def test_runs_of_the_same_name_are_told_apart(run_dir, tmp_path):
    twin = tmp_path / run_dir.name
    assert run_names([run_dir, twin, tmp_path]) == [str(run_dir), str(twin), tmp_path.name]


@pytest.fixture
def run(cli, tmp_path):
    return lambda results, *more: cli(report.main, f"--results={results}", f"--out={tmp_path / 'out'}", *more)


def test_what_the_evaluator_writes_makes_a_page_with_its_pictures(run, evaluated, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "draw_all", lambda *_: [])  # which others look at
    done = run(evaluated, f"--run_dir={trained}")
    assert done.code == 0, done.err
    page, data = parse((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    cells = [cell for cell in json.loads((evaluated / "results.json").read_text())["cells"] if not cell.get("missing")]
    shown = {cell["title"]: {each["name"] for each in cell["exhibits"]} for cell in data["cells"]}
    assert list(shown) == [comparison.cell_title(cell) for cell in cells]
    assert shown[comparison.cell_title(cells[0])] == {row["name"] for row in cells[0]["images"]}
    assert all(f"{cell['psnr_db']:.2f}" in page.text for cell in cells)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "holds no results.json"),
        ("{", "not readable as JSON"),
        ("[]", "not an evaluation's"),
        ('{"benchmarks": {}}', "not an evaluation's"),
        ('{"seed": 0, "versions": {}, "hardware": {}, "protocol": "", "cells": [{"noise": "gaussian:25"}]}', "cell 0"),
    ],
)
def test_missing_or_broken_results_are_named(run, tmp_path, content, named):
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    if content:
        (wrong / "results.json").write_text(content)
    line = run(wrong).error()
    assert named in line and str(wrong) in line


def test_a_run_that_is_none_is_named(run, results_dir, tmp_path):
    assert str(tmp_path / "nothing") in run(results_dir, f"--run_dir={tmp_path / 'nothing'}").error()


def test_uncertainty_is_colored_from_zero_to_its_largest_value():
    colors = examples.heat(np.array([[0, 10], [20, 40]], np.uint8)).astype(int).sum(-1)
    assert colors[0, 0] < 10 and colors[1, 1] > 600 and (np.diff(colors.ravel()) > 0).all()
    assert (examples.heat(np.zeros((2, 2), np.uint8)) < 10).all()


def test_the_script_names_only_elements_that_the_page_has():
    folder = Path(report.__file__).parent / "reporting"
    script = "".join(path.read_text() for path in folder.glob("report*.js"))
    template = (folder / "report.html").read_text()
    names = set(re.findall(r'\$\("([a-z-]+)"\)', script))
    assert len(names) > 15 and all(f'id="{name}"' in template for name in names)

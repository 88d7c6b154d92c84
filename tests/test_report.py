"""The report: one file that needs no network, with the figures of the evaluation in it."""

import base64
import json
import shutil
from html.parser import HTMLParser

import pytest
from PIL import Image

from n2s_dist import report

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that tags nest, and collects cells, references and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.text = ""

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
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def parse(path) -> Page:
    page = Page()
    page.feed(path.read_text())
    page.close()
    assert page.open == []
    return page


@pytest.fixture
def run(cli, trained, evaluated, tmp_path):
    def reported(run_dir=trained, results=evaluated, out=tmp_path / "report"):
        return cli(report.main, f"--run_dir={run_dir}", f"--results={results}", f"--out={out}")

    return reported


def test_the_page_needs_nothing_from_outside(run, tmp_path):
    assert run().code == 0
    page, text = parse(tmp_path / "report" / "report.html"), (tmp_path / "report" / "report.html").read_text()
    assert page.references and all(reference.startswith("data:image/png;base64,") for reference in page.references)
    for reference in page.references:
        assert base64.b64decode(reference.partition(",")[2], validate=True).startswith(b"\x89PNG")
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert "@import" not in text and "url(" not in text and text.startswith("<!doctype html>")


def test_the_page_and_the_terminal_show_the_evaluations_figures(run, evaluated, tmp_path):
    done = run()
    expected = [
        [row["name"], f"{row['psnr_noisy_db']:.2f}", f"{row['psnr_db']:.2f}", f"{row['ssim']:.4f}"]
        for name, benchmark in json.loads((evaluated / "results.json").read_text())["benchmarks"].items()
        for row in [*benchmark["images"], {**benchmark, "name": f"mean of {name}"}]
    ]
    assert len(expected) == 9 and parse(tmp_path / "report" / "report.html").rows[1:] == expected
    shown = [line.split() for line in done.out.splitlines()]
    assert all([*row[0].split(), *row[1:]] in shown for row in expected)
    assert str(tmp_path / "report" / "report.html") in done.out


def test_the_page_shows_configuration_and_curves(run, tmp_path):
    run()
    page = parse(tmp_path / "report" / "report.html")
    assert "gaussian:25" in page.text and "crop_size: 32" in page.text and "160 crops seen" in page.text
    assert page.tags.count("img") == 2  # the comparison and the curves


def test_the_comparison_is_a_picture(run, tmp_path):
    run()
    with Image.open(tmp_path / "report" / "comparison.png") as picture:
        picture.load()
        assert min(picture.size) > 500


def test_without_pictures_and_curves_there_is_still_a_page(run, evaluated, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(evaluated / "results.json", bare)
    assert run(run_dir=tmp_path / "no-run", results=bare).code == 0
    page = parse(tmp_path / "report" / "report.html")
    assert "img" not in page.tags and any(row[0] == "mean of cbsd68" for row in page.rows)
    assert not (tmp_path / "report" / "comparison.png").exists()


def test_names_can_not_break_the_page(run, evaluated, tmp_path):
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    text = (evaluated / "results.json").read_text().replace("coffee.png", "<script src='http://x'>&.png")
    (hostile / "results.json").write_text(text)
    assert run(results=hostile).code == 0
    page = parse(tmp_path / "report" / "report.html")
    assert "script" not in page.tags and any(row[0] == "<script src='http://x'>&.png" for row in page.rows)


def test_a_metrics_line_that_a_kill_cut_short_does_no_harm(run, trained, tmp_path):
    """A report may be wanted of a run that was killed and not resumed."""
    run_dir = shutil.copytree(trained, tmp_path / "run")
    with (run_dir / "metrics.jsonl").open("a") as stream:
        stream.write('{"samples_seen": 200, "lo')
    assert run(run_dir=run_dir).code == 0


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_missing_or_broken_results_are_named(run, tmp_path, content):
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    if content:
        (wrong / "results.json").write_text(content)
    assert str(wrong) in run(results=wrong).error()

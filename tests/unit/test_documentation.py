"""The documentation: its length, links, figures, example and notebook. `make docs` checks the site's own links."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from support.paths import TOYS

from n2s_dist.noise.frozen import corrupt_tile
from n2s_dist.noise.specification import parse_noise

ROOT = next(path for path in Path(__file__).resolve().parents if (path / "setup.cfg").is_file())
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "launch" / "README.md", ROOT / "shards" / "README.md",
         *sorted((ROOT / "docs").glob("*.md"))]  # fmt: skip
BENCHMARKS = ("cbsd68", "kodak24", "set12", "bsd68")
NOISES = {"Gaussian, sigma": "gaussian", "Poisson, zeta": "poisson", "Gamma, k": "gamma"}


def test_the_readme_takes_five_minutes():
    assert len((ROOT / "README.md").read_text()) <= 9_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_files_lead_somewhere(page):
    prose = re.sub(r"```python\n.*?```", "", page.read_text(), flags=re.S)
    targets = re.findall(r"\]\(([^)\s#]+)[^)\s]*\)", prose)
    local = [target for target in targets if "://" not in target]
    assert not [target for target in local if not (page.parent / target).exists()]


def readme_table() -> dict[tuple[str, str], tuple[float, float | None]]:
    """PSNR and distance to the paper, by noise and benchmark, as the README prints them."""
    rows = re.findall(r"^\| ([^|]+) ([\d.]+) \| (\d.+) \|$", (ROOT / "README.md").read_text(), re.M)
    found = {}
    for family, level, cells in rows:
        for benchmark, cell in zip(BENCHMARKS, cells.split(" | "), strict=True):
            psnr, _, distance = cell.partition(" ")
            figures = float(psnr), float(distance.strip("()")) if distance else None
            found[f"{NOISES[family]}:{level}", benchmark] = figures
    return found


def test_the_readme_s_figures_are_those_of_the_model_cards():
    cards = "\n".join(path.read_text() for path in sorted((ROOT / "n2s_dist/weights").glob("*.md")))
    rows = re.findall(r"^\| (\S+) \| known \| (\S+) \| ([\d.]+) \|", cards, re.M)
    recorded = {(noise, benchmark, float(psnr)) for noise, benchmark, psnr in rows}
    shown = {(*cell, psnr) for cell, (psnr, _) in readme_table().items()}
    assert len(shown) == 24 and shown <= recorded


def test_the_readme_s_distances_are_those_to_the_paper():
    (published,) = (ROOT / "n2s_dist").rglob("paper.yaml")
    paper = yaml.safe_load(published.read_text())["methods"]["n2s"]["known"]
    for (noise, benchmark), (psnr, distance) in readme_table().items():
        figure = paper[noise][benchmark]
        assert distance == (None if figure is None else pytest.approx(psnr - figure, abs=0.0051))


def test_the_notebook_holds_the_outputs_of_one_whole_run():
    path = ROOT / "docs" / "notebook.ipynb"
    code = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"]
    assert path.stat().st_size < 500_000


def test_documented_extensions_are_those_that_are_tested():
    """tests/integration/test_toys.py runs these files as they stand."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(), re.S)
    assert sorted(blocks) == sorted(path.read_text() for path in TOYS.glob("*.py"))
    assert len(blocks) == 5


def test_the_documented_noise_family_has_the_law_that_it_says(plug_in):
    plug_in("laplace_noise")
    noise, clean = parse_noise("laplace:20"), np.full((128, 128, 1), 128, np.uint8)
    drawn = noise.corrupt(clean / 255, np.random.default_rng(0)) - clean / 255
    frozen = corrupt_tile(noise, clean, image_key=1, row=0, column=0, seed=0) - clean / 255
    for sample in (drawn, frozen):  # mean |n| over the deviation: 0.707 for Laplace's law, 0.798 for a normal one
        assert sample.std() == pytest.approx(20 / 255, rel=0.03)
        assert np.abs(sample).mean() / sample.std() == pytest.approx(0.707, abs=0.015)
    y = torch.tensor(0.5)
    assert noise.posterior_mean(y, torch.tensor(-1.0)) == pytest.approx(0.5 - 20 / 255)
    assert noise.std_at(noise.stabilize(y)) == pytest.approx(20 / 255)

"""tools/measure_levels.py and tools/measure_estimates.py: what estimated noise is off by, and what it costs."""

import json

import numpy as np
import pytest
from PIL import Image
from support.paths import ROOT

from n2s_dist.inference.noise_estimation import estimate_noise
from n2s_dist.models import checkpoint
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.noise.specification import parse_noise
from n2s_dist.utils.hashing import frozen_rng, name_key

TRAINED = ROOT / "tests/data/written_before/runs/gaussian25"


def test_the_program_measures_errors_and_families(cli, load_tool, photographs, tmp_path):
    tool, out = load_tool("measure_levels"), tmp_path / "figures.json"
    done = cli(tool.main, f"--checkpoint={TRAINED}", f"--images={photographs}", "--noise", "gaussian:25", "--every=3",
               "--scan", "--family", f"--json={out}")  # fmt: skip
    assert done.code == 0 and "taken for gaussian 2" in done.out
    rows = json.loads(out.read_text())["gaussian:25"]
    assert [row["name"] for row in rows] == ["astronaut.png", "immunohistochemistry.png"]
    rng = frozen_rng(0, name_key(photographs.name), name_key("astronaut.png"))  # the evaluator's noise
    noisy = Gaussian(25 / 255).corrupt(np.asarray(Image.open(photographs / "astronaut.png")) / 255.0, rng)
    found = estimate_noise(checkpoint.load(checkpoint.locate(TRAINED)).model, noisy.astype(np.float32))
    assert rows[0]["error"] == pytest.approx(found.level * 255 / 25 - 1, abs=1e-5)
    figures = done.out.split("gaussian:25")[1].split()
    assert float(figures[0]) == pytest.approx(100 * np.mean([abs(row["error"]) for row in rows]), abs=0.01)
    assert "--every is 0" in cli(tool.main, f"--checkpoint={TRAINED}", f"--images={photographs}", "--every=0").error()


def test_the_program_measures_what_naming_nothing_costs(cli, load_tool, photographs, tmp_path):
    tool, out = load_tool("measure_estimates"), tmp_path / "figures.json"
    words = (f"--images={photographs}", "--count=1", "--crop=64", f"--json={out}")
    assert cli(tool.main, *words, "--noise", "poisson-gaussian:0.02:5+blur:0.7").code == 0
    (row,) = json.loads(out.read_text())
    assert row["named_db"] > row["white_db"] > row["noisy_db"]  # white noise is told too little of this
    found = parse_noise("poisson-gaussian:0.022:5.5+blur:0.6")
    clean = np.linspace(0, 1, 32).reshape(4, 8, 1)
    errors = tool.errors(found, parse_noise("poisson-gaussian:0.02:5+blur:0.7"), clean)
    assert errors["gain"] == pytest.approx(0.1) and errors["read_noise"] == pytest.approx(0.1)
    assert errors["width"] == pytest.approx(0.1)
    assert "holds no images" in cli(tool.main, f"--images={tmp_path}").error()

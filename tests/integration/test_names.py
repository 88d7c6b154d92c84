"""File names as people have them: not UTF-8, as long as a file system takes, and not ASCII in a locale that is."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import skimage.data
from PIL import Image
from support.denoisers import save_network

from n2s_dist import denoise, evaluate, report
from n2s_dist import train as training
from n2s_dist.commands import (
    adapt,
    build_shards,
    calibrate,
    inspect_noise,
    inspect_shards,
    plot,
    simulate,
    verify_shards,
)
from n2s_dist.evaluation.results import picture_name, read_results
from n2s_dist.models import checkpoint
from n2s_dist.reporting import examples
from n2s_dist.shards.reader import ShardSet
from n2s_dist.utils.files import LONGEST_NAME, atomic_write, fitting_name

pytestmark = pytest.mark.usefixtures("cpu")

LATIN = os.fsdecode(b"caf\xe9.png")
NAMES = [LATIN, "ünï日本.png", "x" * 251 + ".png", "é" * 125 + ".png"]
BROKEN = [os.fsdecode(b"bro\xe9ken.png"), "bröken.png", "y" * 251 + ".png"]


def fill(folder: Path, names: list[str], broken: Sequence[str] = ()) -> Path:
    folder.mkdir()
    for number, name in enumerate(names):
        pixels = skimage.data.astronaut()[number * 64 : number * 64 + 64, 100:180]
        with (folder / name).open("wb") as stream:
            Image.fromarray(pixels).save(stream, "PNG")
    for name in broken:
        (folder / name).write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    return save_network(tmp_path_factory.mktemp("network") / "run", "gaussian:25")


@pytest.fixture
def odd(tmp_path) -> Path:
    """A folder whose name is not UTF-8."""
    folder = tmp_path / os.fsdecode(b"fol\xe9der")
    folder.mkdir()
    return folder


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_denoise(cli, network, tmp_path):
    source = fill(tmp_path / "in", NAMES, BROKEN)
    done = cli(denoise.main, f"--checkpoint={network}", "--on-error=skip", source, tmp_path / "out")
    assert done.code == 0 and done.out.count("skipped: ") == 3, done.err
    assert listed(tmp_path / "out") == sorted(NAMES)
    for number, name in enumerate(NAMES):  # each is the one of its own name
        one = tmp_path / f"{number}.png"
        assert cli(denoise.main, f"--checkpoint={network}", source / name, one).code == 0
        assert one.read_bytes() == (tmp_path / "out" / name).read_bytes()
    for name in BROKEN:
        assert "is not a readable image" in cli(denoise.main, f"--checkpoint={network}", source / name, one).error()


def test_names_that_would_grow_too_long_are_refused_first(cli, network, tmp_path):
    source = fill(tmp_path / "in", ["x" * 251 + ".png"])
    said = cli(denoise.main, f"--checkpoint={network}", "--uncertainty", source, tmp_path / "out").error()
    assert "-std.png would have a name of more than 255 bytes" in said
    long = tmp_path / f"{'z' * 252}.png"
    said = cli(denoise.main, f"--checkpoint={network}", source / listed(source)[0], long).error()
    assert f"{long} can't be used (File name too long)" in said
    assert listed(tmp_path) == ["in"]


def test_build_shards(cli, tmp_path):
    source = fill(tmp_path / "in", NAMES, BROKEN)
    out = tmp_path / "shards"
    options = (source, f"--out={out}", "--tile-size=64", "--workers=1", "--validation-fraction=0.3", "--on-error=skip")
    done = cli(build_shards.main, *options)
    assert done.code == 0 and "3 images skipped" in done.out, done.err
    assert "nothing to do" in cli(build_shards.main, *options).out
    skipped = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert sorted(line["image"] for line in skipped) == sorted(BROKEN)
    sets = [ShardSet(out, split) for split in ("train", "validation")]
    assert {shards[i].image for shards in sets for i in range(len(shards))} == set(NAMES)
    assert cli(verify_shards.main, out).code == 0
    shown = cli(inspect_shards.main, out, f"--out={tmp_path / 'sheet.png'}")
    assert shown.code == 0 and (tmp_path / "sheet.png").is_file(), shown.err


def test_evaluate_and_report(cli, network, tmp_path):
    source = fill(tmp_path / "in", NAMES)
    out = tmp_path / "evaluation"
    options = (f"--checkpoint={network}", f"--benchmark=names={source}", f"--out={out}", "--device=cpu", "--no-wandb")
    done = cli(evaluate.main, *options, "--pictures")
    assert done.code == 0, done.err
    cells = read_results(out)["cells"]
    assert [row["name"] for row in cells[0]["images"]] == sorted(NAMES)
    assert examples.find(out, cells[0]).keys() == set(NAMES)
    assert "taken from" in cli(evaluate.main, *options, "--pictures").out
    done = cli(report.main, f"--results={out}", f"--out={tmp_path / 'page'}")
    assert done.code == 0 and (tmp_path / "page" / "report.html").stat().st_size > 10_000, done.err
    fill(tmp_path / "broken", NAMES, BROKEN[:1])
    said = cli(evaluate.main, f"--checkpoint={network}", f"--benchmark=a={tmp_path / 'broken'}", f"--out={out}").error()
    assert "is not a readable image" in said


def test_an_ascii_locale_makes_the_same_files(network, environment, cli, tmp_path):
    """Python without its UTF-8 mode takes other letters for single bytes there."""
    source = fill(tmp_path / "in", NAMES[:2])
    build = ("--tile-size=64", "--workers=1", "--validation-fraction=0", "--noise=gaussian:25")
    assert cli(build_shards.main, source, f"--out={tmp_path / 'shards'}", *build).code == 0
    assert cli(denoise.main, f"--checkpoint={network}", source, tmp_path / "out").code == 0
    ascii_locale = {**environment, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "OMP_NUM_THREADS": "1"}
    for words in (
        ["n2s_dist.denoise", f"--checkpoint={network}", source, tmp_path / "ascii-out"],
        ["n2s_dist.cli", "build-shards", source, f"--out={tmp_path / 'ascii-shards'}", *build],
    ):
        start = [sys.executable, "-m", *map(str, words)]
        if words[0] == "n2s_dist.cli":  # which is a console command, not a module to run
            start[1:3] = ["-c", "from n2s_dist.cli import main; main()"]
        done = subprocess.run(start, env=ascii_locale, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
    for one, other in (("out", "ascii-out"), ("shards", "ascii-shards")):
        assert listed(tmp_path / one) == listed(tmp_path / other)
        for name in listed(tmp_path / one):
            if name != "manifest.json":  # which says what listing the shards were built from
                assert (tmp_path / one / name).read_bytes() == (tmp_path / other / name).read_bytes()


def test_temporary_names_fit(tmp_path):
    for name in ("x" * LONGEST_NAME, "é" * 125 + ".png"):
        with atomic_write(tmp_path / name) as partial:
            partial.write_text("whole")
        assert (tmp_path / name).read_text() == "whole"
    assert len(listed(tmp_path)) == 2


def test_names_that_get_longer_stay_apart(tmp_path):
    long = ["x" * 250 + letter for letter in "ab"]
    fitting = [fitting_name(f"folder/{stem}", "-denoised.png") for stem in long]
    assert len(set(fitting)) == 2 and all(name.startswith("folder/xxx") for name in fitting)
    assert all(len(os.fsencode(Path(name).name)) <= LONGEST_NAME for name in fitting)
    assert picture_name("a.b.png", "std") == "a.b-std.png"


def test_train_and_plot(cli, tiny, odd):
    done = cli(training.main, *tiny, f"--run_dir={odd / 'run'}", "--train.total_samples=8")
    assert done.code == 0, done.err
    assert checkpoint.load(checkpoint.locate(odd / "run")).samples_seen == 8
    assert checkpoint.load_training_state(checkpoint.locate(odd / "run"))  # to go on from
    assert cli(plot.main, odd / "run", "--out", odd / "curves.png").code == 0 and (odd / "curves.png").exists()


def test_simulate_calibrate_and_inspect_noise(cli, odd):
    source = fill(odd / "in", NAMES)
    for name, electrons in (("dark", 0), ("flat", 2000)):
        words = [f"--electrons={electrons}", "--frames=3", "--out", odd / name]
        done = cli(simulate.main, "scmos", source, *words)
        assert done.code == 0, done.err
        assert listed(odd / name / "noisy") == sorted(f"{each.removesuffix('.png')}.tif" for each in NAMES)
    flat = odd / "flat/noisy" / LATIN.replace(".png", ".tif")
    words = [f"--dark={odd / 'dark/noisy' / flat.name}", f"--stack={flat}", f"--out={odd / 'camera.yaml'}"]
    assert cli(calibrate.main, *words).code == 0 and (odd / "camera.yaml").exists()
    done = cli(inspect_noise.main, source / LATIN, "--out", odd / LATIN, "--no-network")
    assert done.code == 0 or "too few places" in done.error()


def test_adapt(odd, monkeypatch):
    monkeypatch.setattr(adapt, "build_shards", partial(adapt.build_shards, workers=1))
    images = adapt.choose_images(fill(odd / "in", NAMES))
    adapt.build(images, odd / "in", odd / "run", adapt.parse_noise("gaussian:20"), None, None)
    assert len(ShardSet(odd / "run/shards")) == 3
    adapt.write_plan(odd / "run", odd / "in", "a", adapt.parse_noise("gaussian:20"), 4)
    assert adapt.read_plan(odd / "run", odd / "in", "a") == (adapt.parse_noise("gaussian:20"), 4)

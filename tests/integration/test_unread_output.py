"""Every command does its work, and says so by its exit code, whoever reads its output or not."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from support.patience import HANG_SEC

PROGRAM = """
import json, sys
from n2s_dist.cli import main

if __name__ == "__main__":  # worker processes import this file as well
    where, commands = sys.argv[1], json.loads(sys.argv[2])
    ended = []
    for words in commands:
        sys.argv = ["n2s", *words]
        try:
            main()
            ended.append(0)
        except SystemExit as end:
            ended.append(end.code or 0)
        except BaseException as error:
            ended.append(repr(error))
    open(where, "w").write(json.dumps(ended))
"""


def run(environment: dict[str, str], folder: Path, commands: list[list[object]]) -> list[object]:
    """What each of the commands ended with, all of them in one process, whose imports take seconds.

    Standard output goes to a reader that is gone, standard error to a full disk.
    """
    (folder / "program.py").write_text(PROGRAM)
    words = json.dumps([[str(word) for word in command] for command in commands])
    shell = '"$0" "$1" "$2" "$3" 2>/dev/full | true'
    arguments = [sys.executable, str(folder / "program.py"), str(folder / "ended.json"), words]
    subprocess.run(["bash", "-c", shell, *arguments], env=environment, cwd=folder, timeout=HANG_SEC, check=False)
    return json.loads((folder / "ended.json").read_text())


def test_help_and_work_that_nobody_hears_of(environment, tmp_path, tiny, photographs, trained):
    rng = np.random.default_rng(0)
    for name, level in (("dark", 0), ("flat", 500)):
        frames = rng.poisson(level + 100, (4, 64, 64)).astype(np.uint16)
        tifffile.imwrite(tmp_path / f"{name}.tif", frames, photometric="minisblack")
    Image.fromarray(np.uint8(rng.normal(120, 20, (128, 128)).clip(0, 255))).save(tmp_path / "noisy.png")
    benchmark = tmp_path / "benchmark"
    benchmark.mkdir()
    Image.open(photographs / "coffee.png").crop((0, 0, 64, 48)).save(benchmark / "coffee.png")
    run_dir, results = tmp_path / "run", tmp_path / "evaluation"
    helps: list[list[object]] = [["train", "--help"], ["fetch", "--help"], ["--help"], ["--version"]]
    work: list[list[object]] = [
        ["build-shards", photographs, "--out=shards", "--tile-size=64", "--workers=1", "--validation-fraction=0.2"],
        ["verify-shards", "shards", "--workers=1"],
        ["inspect-shards", "shards", "--out=sheet.png"],
        ["train", *tiny, "--data.shards=shards", f"--run-dir={run_dir}"],
        ["plot", run_dir, "--out=curves.png"],
        ["evaluate", f"--checkpoint={trained}", f"--benchmark=own={benchmark}", f"--out={results}", "--no-wandb"],
        ["report", f"--results={results}", f"--run-dir={run_dir}", "--out=page"],
        ["denoise", f"--checkpoint={trained}", benchmark / "coffee.png", "denoised.png"],
        ["calibrate", "--dark=dark.tif", "--flat=flat.tif", "--white=4095", "--out=camera.yaml"],
        ["inspect-noise", "noisy.png", "--out=noise.png", "--no-network"],
        ["simulate", "scmos", benchmark / "coffee.png", "--out=simulated"],
    ]
    commands = [*helps, *work]
    ended = run(environment, tmp_path, commands)
    assert [(command, end) for command, end in zip(commands, ended, strict=True) if end != 0] == []
    written = ["shards/manifest.json", "sheet.png", "run/metrics.jsonl", "curves.png", "evaluation/results.json"]
    written += ["page/report.html", "denoised.png", "camera.yaml", "noise.png", "simulated/noisy/coffee.tif"]
    assert [name for name in written if not (tmp_path / name).exists()] == []

"""The command n2s: quick to answer, one line for mistakes, the same programs as before behind it."""

import subprocess
import sys

import pytest
from support.paths import ROOT
from support.patience import HANG_SEC

from n2s_dist.cli import COMMANDS, usage
from n2s_dist.training.command_line import read_config
from n2s_dist.utils.programs import dashed, hyphenated, underscored

HEAVY = ("torch", "numpy", "accelerate", "nvidia", "wandb", "matplotlib")


def n2s(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from n2s_dist.cli import main; main()", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG_SEC)


def test_help_shows_the_way_from_images_to_a_report_and_imports_nothing_heavy():
    assert max(map(len, usage().splitlines())) <= 80
    code = (
        "import sys; from n2s_dist.cli import main; sys.argv = ['n2s', '--help']; main();"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n") and "      | build-shards\n    shards" in done.stdout
    assert all(f"\n    {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_says_what_it_takes_under_its_own_name(helps, command):
    assert f"n2s {command}" in helps[command]
    assert not [word for word in helps[command].split() if word.startswith("--") and "_" in word.split("=")[0]]


def test_a_command_that_is_none_gets_one_line():
    done = n2s("trian")
    assert done.returncode == 2 and done.stderr == "error: n2s has no command 'trian', did you mean 'train'?\n"


def test_a_mistake_behind_a_command_gets_one_line():
    done = n2s("verify-shards", "nowhere")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_options_are_spelled_with_hyphens_or_underscores():
    assert underscored("--data.cache-dir=a-b") == "--data.cache_dir=a-b" and underscored("a-b") == "a-b"
    assert dashed("--run_dir=a_b") == "--run-dir=a_b" and dashed("a_b") == "a_b"
    assert hyphenated("--data.cache_dir DIR_A") == "--data.cache-dir DIR_A"
    for spelling in ("--train.total-samples=7", "--train.total_samples=7"):
        assert read_config([spelling]).train.total_samples == 7


def test_the_tools_are_the_same_commands(photographs, tmp_path):
    """With worker processes, which import the program's file again."""
    command = [sys.executable, ROOT / "tools/build_shards.py", photographs, "--out", tmp_path / "shards", "--workers=2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HANG_SEC)
    assert done.returncode == 0 and "tiles" in done.stdout, done.stderr


def test_a_mistake_is_one_line_and_code_2(run_module):
    """Through the real program, where jsonargparse, argparse and accelerate could each have their say."""
    done = run_module("n2s_dist.train", "--config", "configs/gaussian25.yaml", "--data.crop_sise", 3)
    assert done.err.splitlines() == [done.error()]
    assert "data.crop_sise" in done.error() and "data.crop_size" in done.error()

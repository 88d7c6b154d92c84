"""An evaluation with pictures, made once for many tests."""

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from n2s_dist import evaluate


def evaluate_run(trained: Path, photographs: Path, folder: Path) -> None:
    """Fill FOLDER/evaluation with results.json and pictures of the trained run on two benchmarks.

    These are photographs, and FOLDER/small, which is made.
    """
    small = folder / "small"
    small.mkdir()
    for name, box in {"coffee": (0, 0, 101, 67), "rocket": (50, 40, 123, 131)}.items():  # left, top, right, bottom
        Image.open(photographs / f"{name}.png").crop(box).save(small / f"{name}.png")
    arguments = [f"--benchmark=photographs={photographs}", f"--benchmark=small={small}", "--pictures", "--no-wandb"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(sys, "argv", ["program", f"--checkpoint={trained}", f"--out={folder / 'evaluation'}", *arguments])
        evaluate.main()

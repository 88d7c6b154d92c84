"""An evaluation with pictures, made once for many tests."""

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from n2s_dist import evaluate


def evaluate_run(trained: Path, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results.json and pictures of the trained run on two benchmarks, photographs and small."""
    out = tmp_path_factory.mktemp("evaluated") / "evaluation"
    small = tmp_path_factory.mktemp("benchmark") / "small"
    small.mkdir()
    for name, box in {"coffee": (0, 0, 101, 67), "rocket": (50, 40, 123, 131)}.items():  # left, top, right, bottom
        Image.open(photographs / f"{name}.png").crop(box).save(small / f"{name}.png")
    arguments = [f"--benchmark=photographs={photographs}", f"--benchmark=small={small}", "--pictures", "--no-wandb"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(sys, "argv", ["program", f"--checkpoint={trained}", f"--out={out}", *arguments])
        evaluate.main()
    return out

"""Denoising needs no more than a few packages, and nothing that Linux alone has."""

import numpy as np
from PIL import Image
from support.distributions import INFERENCE, modules_of_others
from support.paths import ROOT

from n2s_dist import load_denoiser

NETWORK = ROOT / "tests/data/written_before/runs/symmetric"
PROGRAM = """
import sys
import numpy as np
from PIL import Image
from n2s_dist import load_denoiser
from n2s_dist.cli import main

network, noisy, out = sys.argv[1:]
x_hat, info = load_denoiser(network)(np.asarray(Image.open(noisy)), noise="gaussian:20", uncertainty=True)
np.savez(f"{out}/arrays.npz", x_hat=x_hat, std=info.std)
sys.argv = ["n2s", "denoise", "--checkpoint", network, "--noise", "gaussian:20", noisy, f"{out}/denoised.png"]
main()
"""


def test_denoising_takes_few_packages_and_any_platform(elsewhere, tmp_path):
    """The same pixels as here, through the Python API and the command."""
    noisy = np.random.default_rng(0).integers(60, 200, (40, 32), np.uint8)
    Image.fromarray(noisy).save(tmp_path / "noisy.png")
    (tmp_path / "program.py").write_text(PROGRAM)
    others = modules_of_others(INFERENCE)
    assert {"accelerate", "nvidia", "wandb", "skimage", "webdataset", "jsonargparse", "matplotlib"} <= set(others)
    elsewhere(others, tmp_path / "program.py", NETWORK, tmp_path / "noisy.png", tmp_path)
    x_hat, info = load_denoiser(NETWORK)(noisy, noise="gaussian:20", uncertainty=True)
    there = np.load(tmp_path / "arrays.npz")
    np.testing.assert_array_equal(there["x_hat"], x_hat)
    np.testing.assert_array_equal(there["std"], info.std)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "denoised.png")), x_hat)

"""Memory while images are denoised or cut into tiles: their own, and not that of the file that they are in.

In a process of its own a small stack of each format is gone through, then one of four times as many images. The peak of
the process's memory may then have risen by some images, but not by what the files have more.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from support.paths import ROOT
from support.patience import HANG_SEC

SIDE, FEW, MANY = 512, 16, 64
PAGE_MIB = 2 * SIDE**2 / 2**20
BOUND_MIB = 8  # of the 24 that the larger file has more

DENOISE = """
import resource, sys
from support.arrays import Instant
from n2s_dist import denoise

denoise.load_denoiser = lambda *_, **__: Instant()
for source in sys.argv[1:]:
    sys.argv = ["denoise", "--noise=gaussian:20", source, source.replace("in-", "out-")]
    denoise.main()
    print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

BUILD = """
import resource, sys
from support.inline_pool import one_worker_inline
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions

options = BuildOptions(512, gray=True, validation_fraction=0, noise="gaussian:12", already_noisy=True)
for source in sys.argv[1:]:
    with one_worker_inline():
        build_shards([source], source + ".shards", options, workers=1)
    print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def pages(count: int):
    page = np.random.default_rng(0).integers(0, 65536, (SIDE, SIDE), np.uint16)
    for number in range(count):
        yield page + np.uint16(number)


def write(path: Path, count: int) -> str:
    """A stack of the kind that its name says, page by page."""
    shape = (count, SIDE, SIDE)
    if path.suffix == ".zarr":
        array = pytest.importorskip("zarr").create_array(path, shape=shape, chunks=(2, SIDE, SIDE), dtype="u2")
        for number, page in enumerate(pages(count)):
            array[number] = page
    elif path.suffix == ".tif":
        with tifffile.TiffWriter(path, bigtiff=True) as writer:
            for page in pages(count):
                writer.write(page, photometric="minisblack", metadata=None)
    elif path.suffix == ".fits":
        pytest.importorskip("astropy.io.fits").PrimaryHDU(np.stack(list(pages(count)))).writeto(path)
    else:
        np.save(path, np.stack(list(pages(count))))
    return str(path)


def peaks_mib(environment: dict[str, str], code: str, sources: list[str]) -> list[float]:
    """What the process had at most, after each stack."""
    environment = {**environment, "PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{environment['PYTHONPATH']}"}
    command = [sys.executable, "-c", code, *sources]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=HANG_SEC)
    assert done.returncode == 0, done.stderr
    return [int(line.split()[1]) / 1024 for line in done.stdout.splitlines() if line.startswith("PEAK")]


@pytest.mark.parametrize("code", [DENOISE, BUILD], ids=["denoise", "build-shards"])
def test_memory_does_not_grow_with_the_number_of_images(tmp_path, environment, code):
    names = ["a.tif", "a.zarr", "a.fits", "a.npy"][: 4 if code == DENOISE else 2]
    small = [write(tmp_path / f"in-few-{name}", FEW) for name in names]
    large = [write(tmp_path / f"in-many-{name}", MANY) for name in names]
    assert (MANY - FEW) * PAGE_MIB == 3 * BOUND_MIB
    peaks = peaks_mib(environment, code, small + large)
    assert peaks[-1] - peaks[len(names) - 1] < BOUND_MIB, dict(zip(names * 2, peaks, strict=True))


IMAGE = """
import json, resource, sys
import numpy as np
import torch
from n2s_dist import load_denoiser
torch.set_num_threads(1)
denoise = load_denoiser(sys.argv[1], tile=256)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
denoise(np.zeros((400, 400, 3), np.uint8))  # several tiles: what the network itself takes
before = peak()
found, _ = denoise(np.zeros((1200, 1200, 3), np.uint8))
print(json.dumps([before, peak(), found.nbytes]))
"""


def test_memory_is_the_images_own(environment):
    """At most 36 bytes a pixel of a color image: 40 megapixels then take 1.4 GB and what the network takes."""
    network = ROOT / "tests/data/written_before/runs/gaussian25"
    done = subprocess.run(
        [sys.executable, "-c", IMAGE, str(network)], env=environment, capture_output=True, text=True, check=True
    )
    before, after, size = json.loads(done.stdout)
    assert size == 3 * 1_440_000 and (after - before) / 1_440_000 < 36

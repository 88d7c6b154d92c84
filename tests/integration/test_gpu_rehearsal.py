"""What training and inference would do on a GPU, told without one: fake CUDA tensors go through the real code.

Not rehearsed: DALI's operators, kernels, NCCL, streams, CUDA graphs. tests marked `gpu` run these where there is a GPU.
"""

import json
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from support.paths import ROOT

from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions

# Without those whose steps are another's but for the number of channels.
CONFIGS = [path.stem for path in sorted((ROOT / "configs").glob("*.yaml")) if not path.stem.endswith("_gray")]
CASES = [*CONFIGS, "float32", "fp16", "accumulation", "adamw, poisson", "adam, gamma", "wide"]
# Of these a step is rehearsed alone: what may be due after it is that of another case.
STEP_ALONE = ["float32", "adam, gamma", "wide", "r2r25", "sure25", "supervised25", "white_color"]
INFERENCE = "inference by gaussian-color"
PORTIONS = {"accumulation": 4}
FLOAT32 = ("float32", "n2score_paper")
FAULTS = {
    "a tensor of the CPU in the loss": "error",
    "the norm is looked at": "host_reads",
    "perturbations are drawn on the CPU": "copies",
    "perturbations are drawn one by one": "operations",
    "convolutions in float32": "convolutions",
    "weights with channels first": "convolutions",
}

# How small things come from the host to the GPU, and the functions that may fetch from it beside a step.
TO_GPU = ("to the GPU", "queued", "noise.transfer:to_device")
TO_HOST = {
    "metrics": {"training.checkpointing:stop_if_not_finite", "training.metrics:write_metrics"},
    "validation": {"training.validation:validate"},
    "checkpoint": {"training.checkpoint_writer:_copied"},
    "comparison of ranks": set(),
}
# The most operations that a step may take: each is at least one kernel, which takes some 5 microseconds to launch.
LIMITS = {
    "n2score_paper": 145, "adamw, poisson": 230, "adam, gamma": 230, "wide": 325,
    **dict.fromkeys(("demo", "gaussian", "gaussian25_symmetric"), 360), "accumulation": 920,
    **dict.fromkeys(("instrument", "white_color"), 620),
}  # fmt: skip


def faults_of(case: str, step: dict) -> dict[str, object]:
    """What is wrong with a training step, by its kind."""
    wrong: dict[str, object] = {}
    if step["error"]:
        wrong["error"] = step["error"]
    reads = [(what, where) for what, where in step["host_reads"]]
    if case == "fp16":  # the loss scale decides on the host whether a step is taken
        reads = [read for read in reads if read != ("item", "training.step:train_step")]
    if reads:
        wrong["host_reads"] = reads
    copies = [tuple(copy) for copy in step["copies"] if tuple(copy) != TO_GPU]
    if copies:
        wrong["copies"] = copies
    if step["operations"] > LIMITS.get(case, 300):
        wrong["operations"] = step["operations"]
    dtype = "float32" if case in FLOAT32 else "float16" if case == "fp16" else "bfloat16"
    convolutions = [what for what in step["convolutions"] if what.split(": ")[0].split()[1] != dtype]
    if case != "n2score_paper":  # which does not ask for train.channels_last
        convolutions += [what for what in step["convolutions"] if "weight NCHW" in what or "output NCHW" in what]
        # The image itself, on the way in and as its gradient, comes with channels first.
        inner = [what for what in step["convolutions"] if "input NCHW" in what]
        if any(step["convolutions"][what] > PORTIONS.get(case, 1) for what in inner):
            convolutions += inner
    if convolutions:
        wrong["convolutions"] = convolutions
    return wrong


@pytest.fixture(scope="module")
def report(photographs, tmp_path_factory, environment, pytestconfig) -> dict[str, dict[str, dict]]:
    """Of all cases: what was seen in each part."""
    if not torch.version.cuda and not shutil.which("g++"):
        pytest.skip("no g++, which compiles the device that does nothing")
    folder = tmp_path_factory.mktemp("rehearsal")
    noises = {"gaussian": "gaussian:5-55", "universal": "gaussian:5-55,poisson:0.005-0.1,gamma:20-200"}
    for kind, config in (("instrument", "instrument"), ("white", "white_color")):
        noises[kind] = yaml.safe_load((ROOT / f"configs/{config}.yaml").read_text())["noise"]
    for kind, noise in {"clean": None, **noises}.items():
        options = BuildOptions(tile_size=96, validation_fraction=0.2, noise=noise)
        build_shards([str(photographs)], folder / kind, options, workers=1)
    library = pytestconfig.cache.mkdir("fake_cuda")
    command = [sys.executable, str(ROOT / "tests/support/gpu_rehearsal.py"), *CASES, INFERENCE]
    command += [f"fault: {fault}" for fault in FAULTS]
    command += ["--library", str(library), "--shards", str(folder), "--out", str(folder / "report.json")]
    command += ["--step-alone", *STEP_ALONE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "report.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_a_step_on_a_gpu_waits_for_nothing_and_copies_little(report, case):
    assert next(iter(report[case])) == "step", report[case]["start"]["error"]
    assert faults_of(case, report[case]["step"]) == {}


@pytest.mark.parametrize("case", [case for case in CASES if case not in STEP_ALONE])
@pytest.mark.parametrize("part", TO_HOST)
def test_what_may_be_due_after_a_step_works_on_a_gpu(report, case, part):
    seen = report[case][part]
    assert seen["error"] == ""
    assert {where for way, _, where in seen["copies"] if way == "to the host"} <= TO_HOST[part]


@pytest.mark.parametrize("way", ["whole", "tiled", "posterior", "estimate", "ensemble", "denoiser"])
def test_inference_mixes_no_devices(report, way):
    seen = report[INFERENCE][way]
    assert seen["error"] == ""
    assert all("float32" in what for what in seen["convolutions"])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(report, fault):
    parts = report[f"fault: {fault}"]
    found = faults_of("gaussian25", parts["step"]) if "step" in parts else parts["start"]
    assert found.get(FAULTS[fault])
    if fault == "a tensor of the CPU in the loss":
        assert "two devices" in found["error"]

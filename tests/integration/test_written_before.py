"""Files that version 0.1.0 wrote are read and gone on with, and what it computed is what is computed.

tests/data/written_before/README.md says what there is. The last bits of a sum depend on the processor and on
libraries: what was recorded is met to the last bit where these are those of the record, elsewhere to a tolerance.
"""

import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import safetensors.numpy
import torch
from PIL import Image
from support.scripts import import_script

from n2s_dist import evaluate, report, train
from n2s_dist.distributed.stop_signals import StopCoordinator, StopStatus
from n2s_dist.utils.errors import EX_TEMPFAIL

pytestmark = pytest.mark.usefixtures("cpu")

RUNS = ["gaussian25", "symmetric", "unet_n2n", "noise2void"]
TOTAL = 240  # samples that each run sees
BATCH_SIZE = 8


@pytest.fixture(scope="session")
def frozen(pytestconfig) -> Path:
    """The folder of the files."""
    return pytestconfig.rootpath / "tests/data/written_before"


@pytest.fixture(scope="session")
def script(frozen) -> Callable[[str], ModuleType]:
    """A script beside the files, imported."""

    return lambda name: import_script(frozen / f"{name}.py")


@pytest.fixture(scope="session")
def made(frozen, script) -> dict:
    """What made.json says; "same": whether the files were made on such a processor with these libraries."""
    found = json.loads((frozen / "made.json").read_text())
    libraries = {"torch": torch.__version__, "numpy": np.__version__}
    same = found["processor"] == script("make").processor() and found["versions"].items() >= libraries.items()
    return {**found, "same": same}


@pytest.fixture
def written(frozen, tmp_path, monkeypatch) -> Path:
    """A copy that a test may change, as the working folder: the files name each other by relative paths."""
    folder = tmp_path / "written"
    shutil.copytree(frozen, folder)
    monkeypatch.chdir(folder)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def largest_difference(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """Of arrays of the same names, shapes and types."""
    assert [(key, a[key].shape, a[key].dtype) for key in sorted(a)] == [
        (key, b[key].shape, b[key].dtype) for key in sorted(b)
    ]
    return max(float(np.abs(a[key].astype(np.float64) - b[key]).max()) for key in a)


# --- shards ---------------------------------------------------------------------------------------------

BUILDS = {
    "color": ["images", "--validation-fraction=0.2"],
    "noisy": ["images", "--gray", "--validation-fraction=0.2", "--noise=gaussian:5-55,poisson:0.005-0.1,gamma:20-200"],
    "measured": ["measured", "--gray", "--noise=gaussian:25", "--already-noisy"],
}


@pytest.mark.parametrize("name", BUILDS)
def test_shards_are_whole_and_the_command_that_built_them_changes_nothing(name, written, cli, load_tool):
    before = files(written / "shards" / name)
    done = cli(load_tool("verify_shards").main, f"shards/{name}", "--workers=1")
    assert done.code == 0, done.out
    arguments = [*BUILDS[name], "--tile-size=48", "--workers=1", f"--out=shards/{name}"]
    done = cli(load_tool("build_shards").main, *arguments)
    assert done.code == 0 and files(written / "shards" / name) == before, done.err


@pytest.mark.parametrize("name", BUILDS)
def test_shards_built_today_hold_the_same_bytes(name, written, cli, load_tool, made):
    """Noise is drawn in float32, whose last bits may differ by processor, so stored values by one step."""
    arguments = [*BUILDS[name], "--tile-size=48", "--workers=1", "--out=new"]
    assert cli(load_tool("build_shards").main, *arguments).code == 0
    before, after = files(written / "shards" / name), files(written / "new")
    assert after.keys() == before.keys()
    old, new = (json.loads(content.pop("manifest.json")) for content in (before, after))
    shards = [split.pop("shards") for manifest in (old, new) for split in manifest["splits"].values()]
    assert {key: new[key] for key in old} == old  # later versions may say more
    if name != "noisy" or made["same"]:
        assert after == before and shards[: len(shards) // 2] == shards[len(shards) // 2 :]
        return
    for key, content in before.items():
        old_bytes, new_bytes = (np.frombuffer(bytes_, np.uint8) for bytes_ in (content, after[key]))
        assert new_bytes.size == old_bytes.size and (new_bytes != old_bytes).mean() < (0.01 if "tar" in key else 1e-9)


def test_a_build_that_was_killed_ends_with_the_bytes_of_an_undisturbed_one(written, cli, load_tool):
    """Later versions keep another journal: whether they take over what is finished or begin anew is theirs."""
    assert len(list((written / "shards/.stopped.partial").glob("*/*.journal"))) == 1
    arguments = ["images", "--gray", "--tile-size=48", "--validation-fraction=0.2", "--seed=1", "--workers=1"]
    for out in ("stopped", "whole"):
        done = cli(load_tool("build_shards").main, *arguments, f"--out=shards/{out}")
        assert done.code == 0, done.err
    assert files(written / "shards/stopped") == files(written / "shards/whole")
    assert not (written / "shards/.stopped.partial").exists()


# --- training -------------------------------------------------------------------------------------------


def weights(run_dir: Path, samples_seen: int = TOTAL) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(run_dir / f"checkpoints/samples-{samples_seen:09d}/model.safetensors")


def state(run_dir: Path, samples_seen: int) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint's training state, by the keys that lead to them; numbers as well."""
    path = run_dir / f"checkpoints/samples-{samples_seen:09d}/training_state.pt"
    found = {}

    def collect(value: object, name: str) -> None:
        if isinstance(value, dict | list):
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                collect(inner, f"{name}/{key}")
        elif isinstance(value, torch.Tensor):
            found[name] = value.numpy()
        elif isinstance(value, int | float):
            found[name] = np.array(float(value))
        else:
            found[f"{name}={value}"] = np.zeros(())

    collect(torch.load(path, weights_only=True), "")
    return found


@pytest.mark.parametrize("name", RUNS)
def test_a_stopped_run_goes_on_and_ends_as_if_nothing_had_happened(name, written, cli, made, monkeypatch):
    """The same as a run of today's code from beginning to end, and as the one that was recorded.

    Today's run of the U-Net, whose steps take long, ends where the other was stopped: the rest is the same twice.
    """
    is_long = name == "unet_n2n"
    if is_long:
        shutil.unpack_archive(written / "unet_n2n.tar.xz", written, filter="data")
    run_dir = written / "runs" / name
    stopped_at = max(int(path.name.split("-")[1]) for path in (run_dir / "checkpoints").iterdir())
    before = (run_dir / "metrics.jsonl").read_text().splitlines()
    at_stop = state(run_dir, stopped_at)
    config = f"--config=runs/{name}/config.yaml"

    saved = [f"--train.checkpoint_every_samples={stopped_at}", "--train.keep_checkpoints=2"]
    with monkeypatch.context() as patch:
        if is_long:
            looks = iter([StopStatus()] * (stopped_at // BATCH_SIZE - 1) + [StopStatus("SIGUSR1")])
            patch.setattr(StopCoordinator, "after_step", lambda *_, **__: next(looks))
        whole = cli(train.main, config, "--run_dir=whole", *saved)
    assert whole.code == (EX_TEMPFAIL if is_long else 0), whole.err
    resumed = cli(train.main, config)
    assert resumed.code == 0, resumed.err

    recorded = dict(np.load(f"final/{name}.npz", allow_pickle=False))
    undisturbed = run_dir if is_long else written / "whole"  # the recorded one is undisturbed as well
    differences = {
        "state at the stop": largest_difference(at_stop, state(written / "whole", stopped_at)),
        "resumed and undisturbed": largest_difference(weights(run_dir), weights(undisturbed)),
        "undisturbed and recorded": largest_difference(weights(undisturbed), recorded),
    }
    print(name, "largest differences:", differences)
    assert max(differences.values()) <= (0 if made["same"] else 1e-4)
    last = undisturbed / f"checkpoints/samples-{TOTAL:09d}/model.safetensors"
    assert hashlib.sha256(last.read_bytes()).hexdigest() == made["final_sha256"][name] or not made["same"]

    rows = (run_dir / "metrics.jsonl").read_text().splitlines()
    kept = [line for line in before if json.loads(line)["samples_seen"] <= stopped_at]
    assert rows[: len(kept)] == kept and len(rows) > len(kept)
    seen = [json.loads(line)["samples_seen"] for line in rows if "loss" in json.loads(line)]
    assert seen == sorted(set(seen)) and seen[-1] == TOTAL


def test_the_last_and_the_best_checkpoint_of_a_stopped_run_are_found(written, cli):
    """It was stopped after 176 of 240 samples; after 120 it was validated last."""
    for which, samples_seen in (("last", 176), ("best", 120)):
        arguments = ["--checkpoint=runs/gaussian25", f"--which={which}", "--benchmark=a=benchmarks/color", "--no-wandb"]
        done = cli(evaluate.main, *arguments, f"--out={which}")
        assert done.code == 0, done.err
        (cell,) = results(written / which)["cells"]
        assert cell["samples_seen"] == samples_seen


# --- evaluation -----------------------------------------------------------------------------------------

NETWORKS = [f"--checkpoint=runs/{name}/checkpoints/samples-000000176" for name in ("gaussian25", "symmetric")]
FINISHED = [*NETWORKS, "--benchmark=color=benchmarks/color", "--benchmark=gray=benchmarks/gray", "--noise=gaussian:25",
            "--ensemble", "--uncertainty", "--pictures", "--no-wandb"]  # fmt: skip
STOPPED = [NETWORKS[1], "--benchmark=gray=benchmarks/gray", "--noise=gaussian:15", "--noise=poisson:0.02",
           "--noise=gamma:50", "--level=both", "--no-wandb"]  # fmt: skip


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def same_figures(a: object, b: object, tolerance: float) -> bool:
    """Whether nested JSON is the same, but for a difference of numbers and of levels such as "gaussian:12.87"."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_figures(a[key], b[key], tolerance) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same_figures(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, str) and isinstance(b, str) and re.fullmatch(r"[a-z]+:[0-9.]+", a):
        (family, level), (other_family, other_level) = a.split(":"), b.split(":")
        return family == other_family and math.isclose(float(level), float(other_level), rel_tol=tolerance)
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=0, abs_tol=tolerance)
    return a == b


def check_results(after: dict, before: dict, made: dict) -> None:
    """Figures in dB may move by what rounding one pixel the other way does; fingerprints only with versions.

    Those of an unknown level may move by what a better estimate of it does.
    """
    assert after.keys() == {*before, "measures"} and len(after["cells"]) == len(before["cells"])
    for new, old in zip(after["cells"], before["cells"], strict=True):
        assert new["fingerprint"] == old["fingerprint"] or after["versions"] != before["versions"]
        exact = 0 if made["same"] else 2e-3
        tolerance = exact if old["level"] == "known" else 0.05
        assert same_figures({**new, "fingerprint": ""}, {**old, "fingerprint": ""}, tolerance)


def test_an_evaluation_gives_the_recorded_results_and_pictures(written, cli, made):
    done = cli(evaluate.main, *FINISHED, "--out=new")
    assert done.code == 0, done.err
    check_results(results(written / "new"), results(written / "evaluation"), made)
    before, after = (
        {str(path.relative_to(out)): path for path in Path(out).rglob("*.png")} for out in ("evaluation", "new")
    )
    assert before.keys() == after.keys() and len(before) == 24
    for name, path in before.items():
        old, new = (np.asarray(Image.open(each)).astype(int) for each in (path, after[name]))
        assert np.abs(old - new).max() <= (0 if made["same"] else 1)


def test_cells_of_an_evaluation_that_ended_are_taken_over(written, cli):
    """They carry the fingerprint of all that they depend on, of versions too: here they get today's first."""
    assert cli(evaluate.main, *FINISHED, "--out=new").code == 0
    before, after = results(written / "evaluation"), results(written / "new")
    for cell, today in zip(before["cells"], after["cells"], strict=True):
        cell["fingerprint"] = today["fingerprint"]
        cell["psnr_db"] = cell["images"][0]["psnr_db"] = 77.0  # which none would have that is measured again
    (written / "evaluation/results.json").write_text(json.dumps(before))
    assert cli(evaluate.main, *FINISHED, "--out=evaluation").code == 0
    assert results(written / "evaluation")["cells"] == before["cells"]


def test_an_evaluation_that_was_killed_goes_on_with_what_it_had(written, cli, made):
    """What it had is worth 3 dB less here, which an image measured again would not be."""
    whole = cli(evaluate.main, *STOPPED, "--out=whole")
    assert whole.code == 0, whole.err
    after, before = results(written / "whole"), json.loads((written / "final/evaluation.json").read_text())
    check_results(after, before, made)
    today = {old["fingerprint"]: new["fingerprint"] for old, new in zip(before["cells"], after["cells"], strict=True)}
    (journal,) = (written / "evaluation-stopped/.pieces").iterdir()
    rows = [json.loads(line) for line in journal.read_text().splitlines() if line]
    rows = [{**row, "cell": today[row["cell"]], "estimate": 2 * row["estimate"]} for row in rows]
    journal.write_text("".join(json.dumps(row) + "\n" for row in rows))

    done = cli(evaluate.main, *STOPPED, "--out=evaluation-stopped")
    assert done.code == 0, done.err
    taken, images = {(row["cell"], row["name"]) for row in rows}, 0
    for cell, expected in zip(results(written / "evaluation-stopped")["cells"], after["cells"], strict=True):
        for row, other in zip(cell["images"], expected["images"], strict=True):
            less_db = 10 * math.log10(2) if (cell["fingerprint"], row["name"]) in taken else 0.0
            assert row["psnr_db"] == pytest.approx(other["psnr_db"] - less_db, abs=0.05)
            images += 1
    assert 0 < len(taken) < images == 18 and not (written / "evaluation-stopped/.pieces").exists()


@pytest.mark.usefixtures("no_layout")
def test_results_and_metrics_become_a_report_and_curves(written, cli, load_tool):
    runs = ["runs/gaussian25", "runs/symmetric", "runs/noise2void"]
    done = cli(report.main, "--results=evaluation", "--run_dir", *runs, "--out=report")
    assert done.code == 0, done.err
    page = (written / "report/report.html").read_text()
    for cell in results(written / "evaluation")["cells"]:
        assert f"{cell['psnr_db']:.2f}" in page
    assert all(Path(name).name in page for name in runs)
    done = cli(load_tool("plot_run").main, *runs, "--out=curves.png")
    assert done.code == 0 and (written / "curves.png").stat().st_size > 10_000, done.err


# --- the package's networks --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "network", ["gaussian-color", "gaussian-gray", "gaussian25-gray", "universal-color", "universal-gray"]
)
def test_the_packages_networks_give_the_recorded_outputs(network, script, made):
    """To 1e-5 on the 0-1 scale, as processors add in different orders. Estimated families are the same."""
    outputs = script("outputs")
    record = outputs.read_record()
    found = outputs.compute(network, record)
    expected = {key: value for key, value in record.items() if key.startswith(f"{network}/")}
    assert found.keys() == expected.keys()
    for key in [key for key in expected if key.endswith("/family")]:
        assert found.pop(key) == expected.pop(key)
    difference = largest_difference(found, expected)
    print(f"{network}: largest difference {difference:.1e}")
    assert difference <= (0 if made["same"] else 1e-5)

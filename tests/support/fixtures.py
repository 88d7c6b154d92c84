"""What tests share: small photographs, shards and a trained run made from them, and ways to run the programs.

Everything runs on the CPU with one thread, where a repeated run is equal to the last bit.
"""

import fcntl
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import skimage.data
import torch
import yaml
from PIL import Image

from n2s_dist.datasets import catalogue
from n2s_dist.images.formats import base as formats
from n2s_dist.losses import base as losses
from n2s_dist.metrics import base as metrics
from n2s_dist.models import base as networks
from n2s_dist.noise import base as noise_families
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.utils import plugins
from n2s_dist.utils.errors import run_command
from support.evaluated_run import evaluate_run
from support.forked_ranks import INTERRUPTED, TOTAL_SAMPLES, Fleet
from support.helps import ask_all
from support.inline_pool import one_worker_inline
from support.paths import ROOT, TOYS
from support.patience import HANG_SEC
from support.scripts import import_script

# Top left corners of pieces with something to see in them.
CORNERS = {
    "astronaut": (20, 130),
    "chelsea": (60, 110),
    "coffee": (100, 200),
    "rocket": (60, 220),
    "immunohistochemistry": (120, 120),
}
HEIGHT, WIDTH = 160, 192

torch.set_num_threads(1)


class Finished(NamedTuple):
    """A program that ended."""

    code: int
    out: str
    err: str

    def error(self, code: int = 2) -> str:
        """The one line that says what was wrong; fails unless the program ended with `code` and such a line."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert (self.code, len(lines)) == (code, 1) and "Traceback" not in self.err, f"exit {self.code}: {self.err}"
        return lines[0]


@pytest.fixture(scope="session", autouse=True)
def _one_worker_inline():
    """To start a worker process takes a second: pools of one do without."""
    with one_worker_inline():
        yield


@pytest.fixture(autouse=True)
def _no_wandb(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    """Runs that are told no number take one: threads that wait for each other take most of a busy machine.

    What a run of this test leaves set would change rounding and times in the next.
    """
    monkeypatch.setattr("n2s_dist.distributed.ranks.usable_cores", lambda: 1)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def cpu(monkeypatch):
    """No GPU for this test: only the CPU repeats convolutions to the last bit."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def no_layout(monkeypatch):
    """Figures are drawn with their parts where matplotlib puts them: to find room for texts takes most of the time."""
    monkeypatch.setattr("matplotlib.layout_engine.ConstrainedLayoutEngine.execute", lambda *_: None)


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Of programs that tests start: on the CPU, on one thread, and with nothing of a launcher or of wandb."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "ACCELERATE_", "TORCHELASTIC_"))}
    for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        inherited.pop(key, None)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {
        **inherited,
        "PYTHONPATH": path,
        "CUDA_VISIBLE_DEVICES": "",
        "WANDB_MODE": "disabled",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="session")
def run_module(environment) -> Callable[..., Finished]:
    """Run `python -m MODULE ARGUMENTS` as a process of its own."""

    def run(module: str, *arguments: object, timeout: float = HANG_SEC) -> Finished:
        done = subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)],
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def everything(tmp_path_factory) -> Path:
    """The folder that holds all that the processes which run tests make."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def once(everything) -> Callable[..., Path]:
    """once(NAME, make): a folder that one of these processes fills, make(folder), for all of them.

    No test may change it.
    """
    shared = everything / "shared"
    shared.mkdir(exist_ok=True)

    def filled(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # a process that failed left it half made
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return filled


@pytest.fixture(scope="session")
def helps(environment, once) -> dict[str, str]:
    """What n2s COMMAND --help prints for each command: all in one process, since imports take seconds."""

    def ask(folder: Path) -> None:
        (folder / "helps.json").write_text(json.dumps(ask_all(sys.executable, ROOT, environment)))

    return json.loads((once("helps", ask) / "helps.json").read_text())


@pytest.fixture(scope="session")
def elsewhere(environment) -> Callable[..., str]:
    """Run a module or file where there is nothing of Linux's own, and some modules are missing; returns its output."""

    def run(lacking: list[str], *words: object) -> str:
        command = [sys.executable, "-m", "support.elsewhere", ",".join(lacking), *map(str, words)]
        path = {"PYTHONPATH": f"{environment['PYTHONPATH']}:{ROOT / 'tests'}"}
        done = subprocess.run(
            command, env=environment | path, capture_output=True, text=True, timeout=HANG_SEC, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def fleet(environment, tmp_path_factory) -> Iterator[Callable[..., Fleet]]:
    """Start ranks of a training run: their number, its arguments, a fault. None outlives the tests."""
    started: list[Fleet] = []

    def start(count: int, arguments: list[object], **fault: object) -> Fleet:
        folder = tmp_path_factory.mktemp("fleet") / "written"
        started.append(Fleet(folder, environment, count, [str(word) for word in arguments], **fault))
        return started[-1]

    yield start
    for ranks in started:
        ranks.kill()


@pytest.fixture(scope="session")
def run_training(fleet) -> Callable[..., Finished]:
    """Train to the end with these arguments, in a process of its own, forked as `fleet` does."""

    def run(*arguments: object) -> Finished:
        ranks = fleet(1, list(arguments))
        (code,) = ranks.wait()
        return Finished(code, ranks.text(), ranks.text("err"))

    return run


@pytest.fixture(scope="session")
def undisturbed(fleet, tiny, once) -> Path:
    """The last checkpoint of a run of INTERRUPTED on two ranks that nothing happened to."""

    def train(folder: Path) -> None:
        ranks = fleet(2, [*tiny, *INTERRUPTED, "--run_dir", folder / "run"])
        assert ranks.wait() == [0, 0], ranks.text("err")

    return once("undisturbed", train) / "run/checkpoints" / f"samples-{TOTAL_SAMPLES:09d}"


@pytest.fixture
def cli(capsys, monkeypatch) -> Callable[..., Finished]:
    """Run a program's main() in this process, which saves the seconds that imports take."""

    def run(main: Callable[[], int | None], *arguments: object) -> Finished:
        monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
        capsys.readouterr()
        for stream in (sys.stdout, sys.stderr):  # as utils/streams.py has a program's own
            stream.reconfigure(errors="backslashreplace")
        with pytest.raises(SystemExit) as stop:
            run_command(main)
        out, err = capsys.readouterr()
        return Finished(int(stop.value.code or 0), out, err)

    return run


@pytest.fixture
def plug_in(monkeypatch) -> Iterator[Callable[..., None]]:
    """Name extensions of support/toys in N2S_PLUGINS, for this process and those that it starts.

    What is registered while the test lasts is forgotten after it.
    """
    registries = {
        noise_families: "_FAMILIES", networks: "_NETWORKS", losses: "_LOSSES", metrics: "_METRICS", formats: "_FORMATS",
    }  # fmt: skip

    def name(*modules: str) -> None:
        monkeypatch.syspath_prepend(TOYS)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TOYS), *sys.path]))
        monkeypatch.setenv(plugins.VARIABLE, ",".join(modules))
        monkeypatch.setattr(plugins, "_imported", set())
        for module, registry in registries.items():
            monkeypatch.setattr(module, registry, dict(getattr(module, registry)))

    yield name
    for path in TOYS.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture(scope="session")
def load_tool() -> Callable[[str], ModuleType]:
    """A program of tools/, imported under its name; of one that is a subcommand of n2s, the module that does it."""
    named = {"fetch_data": "fetch", "plot_run": "plot", "ship_weights": "ship"}

    def load(name: str) -> ModuleType:
        command = f"n2s_dist.commands.{named.get(name, name)}"
        if importlib.util.find_spec(command):
            return importlib.import_module(command)
        return import_script(ROOT / f"tools/{name}.py")

    return load


@pytest.fixture(scope="session")
def random_images(tmp_path_factory) -> Callable[..., Path]:
    """Fill a new folder with color images of random pixels: 0.png, 1.png and so on, all of one size."""

    def write(count: int, height: int, width: int, suffix: str = "png") -> Path:
        folder = tmp_path_factory.mktemp("images") / "source"
        folder.mkdir()
        rng = np.random.default_rng(0)
        for number in range(count):
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.{suffix}")
        return folder

    return write


@pytest.fixture(scope="session")
def photographs(once) -> Path:
    """A folder of five small color photographs, PNG, 160 x 192."""

    def write(folder: Path) -> None:
        for name, (top, left) in CORNERS.items():
            image = getattr(skimage.data, name)()[top : top + HEIGHT, left : left + WIDTH]
            Image.fromarray(image).save(folder / f"{name}.png")

    return once("photographs", write)


@pytest.fixture(scope="session")
def shards(photographs, once) -> Path:
    """Shards of the photographs, tiles of 64 x 64; one photograph is held out for validation."""
    options = BuildOptions(tile_size=64, validation_fraction=0.2)
    made = once("shards", lambda folder: build_shards([str(photographs)], folder / "photographs", options, workers=1))
    return made / "photographs"


@pytest.fixture(scope="session")
def tiny(shards) -> list[str]:
    """Command line options for a run of 20 steps that takes a fraction of a second; --run_dir is the caller's."""
    options = {
        "data.shards": shards,
        "data.crop_size": 32,
        "network.widths": [16, 24],
        "network.blocks": 1,
        "network.symmetric": "true",
        "optimizer.learning_rate": 3e-3,
        "optimizer.ema_halflife_samples": 400,
        "train.total_samples": 160,
        "train.global_batch_size": 8,
        "train.device_batch_size": 8,
        "train.num_threads": 1,
        "train.checkpoint_every_samples": 80,
        "train.validate_every_samples": 80,
        "train.validation_tiles": 2,
        "train.log_every_samples": 40,
        "tracking.wandb": "false",
    }
    return [f"--{key}={value}" for key, value in options.items()]


@pytest.fixture(scope="session")
def trained(run_training, tiny, once) -> Path:
    """The run directory of a finished tiny run on Gaussian noise, trained by the program itself."""

    def train(folder: Path) -> None:
        done = run_training(*tiny, "--run_dir", folder / "trained")
        assert done.code == 0, done.err

    return once("runs", train) / "trained"


@pytest.fixture(scope="session")
def evaluated(trained, photographs, once) -> Path:
    """evaluate_run of the trained run."""
    return once("evaluated", lambda folder: evaluate_run(trained, photographs, folder)) / "evaluation"


@pytest.fixture
def describe(tmp_path, monkeypatch):
    """Write the description of a data set `tiny` and make it one of the known ones."""
    folder = tmp_path / "shards"
    folder.mkdir()
    monkeypatch.setattr(catalogue, "DESCRIPTIONS", folder)

    def write(*urls: str, name: str = "tiny", **changes: object) -> None:
        text = dict.fromkeys(("description", "homepage", "licence", "citation"), "words")
        given = {**text, "images": 3, "color": "color", "archive": "zip", "sha256": None, "urls": list(urls)}
        given = {key: value for key, value in {**given, **changes}.items() if value != "leave out"}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(given))

    return write

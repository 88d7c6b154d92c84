"""Two, three and four ranks, each a process of its own: the same training and the same table as one."""

import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image
from support.launched import Launched
from support.paths import ROOT
from support.patience import HANG_SEC

from n2s_dist import evaluate
from n2s_dist.loading import sample_order
from n2s_dist.models import checkpoint
from n2s_dist.shards.reader import ShardSet
from n2s_dist.training.command_line import read_config
from n2s_dist.training.loop import train
from n2s_dist.training.setup import start

pytestmark = pytest.mark.usefixtures("cpu")

TIMEOUT_SEC = HANG_SEC


@pytest.fixture
def launch(environment):
    """Start ranks; none outlives the test."""
    started = []

    def run(count: int, *arguments: object) -> Launched:
        started.append(Launched(count, [str(word) for word in arguments], environment))
        return started[-1]

    yield run
    for ranks in started:
        ranks.kill()


def raw_weights(path: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load_training_state(path)["weights"]


def flat(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in weights.values()])


@pytest.fixture(scope="module")
def two_ranks(tiny, environment, tmp_path_factory) -> tuple[Path, str]:
    """The last checkpoint of an undisturbed run on two ranks, and what was printed."""
    run_dir = tmp_path_factory.mktemp("ranks") / "two"
    codes, out, err = Launched(2, ["n2s_dist.train", *tiny, *MANY, "--run_dir", str(run_dir)], environment).wait()
    assert codes == [0, 0], err
    return checkpoint.locate(run_dir), out


# Long enough that a kill lands in the middle.
MANY = ["--train.total_samples=1200", "--train.checkpoint_every_samples=160", "--train.keep_checkpoints=99"]


def test_two_ranks_train_as_one(two_ranks, tiny, tmp_path):
    """After 20 steps the weights agree to float32's rounding, measured against how far they moved."""
    path, out = two_ranks
    assert "2 rank(s) on cpu, each 1 x 4 crops a step" in out and out.count("rank(s)") == 1
    arguments = [*tiny, *MANY, "--run_dir", str(tmp_path / "one")]
    begin = flat(start(read_config([*tiny, *MANY, "--run_dir", str(tmp_path / "begin")])).model.state_dict())
    train(read_config(arguments))
    name = "samples-000000160"
    one, two = (flat(raw_weights(folder / name)) for folder in (tmp_path / "one" / "checkpoints", path.parent))
    assert (one - two).norm() < 2e-5 * (one - begin).norm()
    rows = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][:4]
        for folder in (tmp_path / "one", path.parents[1])
    ]
    for a, b in zip(*rows, strict=True):
        assert a["samples_seen"] == b["samples_seen"]
        for key in {"loss", "val_psnr_db", "val_psnr_noisy_db", "val_loss"} & a.keys():
            assert a[key] == pytest.approx(b[key], rel=1e-4)


def test_two_ranks_killed_and_resumed_end_as_if_nothing_had_happened(two_ranks, tiny, launch, tmp_path):
    """SIGKILL to one rank, as when its node dies; the other can't go on alone and is ended by the launcher."""
    run_dir = tmp_path / "killed"
    arguments = ["n2s_dist.train", *tiny, *MANY, "--run_dir", run_dir]
    first = launch(2, *arguments)
    deadline = time.monotonic() + TIMEOUT_SEC
    while len(checkpoint.newest_first(run_dir)) < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    first.ranks[1].send_signal(signal.SIGKILL)
    assert first.ranks[1].wait() == -signal.SIGKILL
    assert first.ranks[0].poll() in (None, 1)
    first.kill()
    assert not (run_dir / "checkpoints" / "samples-000001200").exists()

    codes, out, err = launch(2, *arguments).wait()
    assert codes == [0, 0], err
    assert "going on from" in out
    assert (checkpoint.locate(run_dir) / "model.safetensors").read_bytes() == (
        two_ranks[0] / "model.safetensors"
    ).read_bytes()


def test_the_table_is_the_same_on_one_two_and_four_ranks(trained, photographs, launch, cli, tmp_path):
    """To the last bit, in any order of files, with images of odd sizes, one in four tiles that go to several ranks."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, box in {"coffee": (0, 0, 121, 87), "rocket": (50, 40, 113, 131)}.items():  # left, top, right, bottom
        Image.open(photographs / f"{name}.png").crop(box).save(folder / f"{name}.png")
    Image.open(photographs / "chelsea.png").resize((930, 801)).save(folder / "large.png")
    with ZipFile(tmp_path / "backwards.zip", "w") as archive:
        for path in sorted(folder.iterdir(), reverse=True):
            archive.write(path, path.name)
    results = []
    for count, images in ((1, folder), (2, folder), (4, tmp_path / "backwards.zip")):
        out = tmp_path / str(count)
        arguments = [f"--checkpoint={trained}", f"--benchmark=two={images}", f"--out={out}", "--no-wandb"]
        arguments += ["--noise=gaussian:25", "--noise=gaussian:50"]
        if count == 1:
            assert cli(evaluate.main, *arguments).code == 0
        else:
            codes, printed, err = launch(count, "n2s_dist.evaluate", *arguments, "--pictures").wait()
            assert codes == [0] * count and printed.count("wrote") == 1, err
            assert f"6 images in 12 pieces on {count} rank(s)" in printed
            assert Image.open(out / "pictures/gaussian_25-known/two/large-denoised.png").size == (930, 801)
        results.append([(out / name).read_text() for name in ("results.json", "table.md", "table.csv")])
    assert results[0] == results[1] == results[2]
    assert [cell["num_images"] for cell in json.loads(results[0][0])["cells"]] == [3, 3]


def test_a_users_error_on_one_rank_ends_all_with_one_line(trained, photographs, launch, tmp_path):
    """The image that no color checkpoint takes falls to the second rank; the first must not wait for ever."""
    folder = tmp_path / "images"
    folder.mkdir()
    Image.open(photographs / "coffee.png").save(folder / "large.png")
    Image.open(photographs / "coffee.png").convert("L").crop((0, 0, 50, 50)).save(folder / "small-gray.png")
    arguments = [f"--checkpoint={trained}", f"--benchmark=two={folder}", f"--out={tmp_path / 'out'}", "--no-wandb"]
    codes, _, err = launch(2, "n2s_dist.evaluate", *arguments).wait()
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert codes == [2, 2] and len(errors) == 1 and "Traceback" not in err, err
    assert "small-gray.png is gray" in errors[0]
    assert not (tmp_path / "out" / "results.json").exists()


def test_damage_that_one_rank_meets_alone_is_named(shards, tiny, launch, tmp_path):
    """The first crop of the second rank is damaged."""
    folder = Path(shutil.copytree(shards, tmp_path / "shards"))
    index = int(sample_order.sample_index(0, np.arange(2), len(ShardSet(folder)))[1])
    path = folder / "train-000000.tar"
    with tarfile.open(path) as tar:
        member = [member for member in tar if member.name.endswith(".json")][index]
    with path.open("r+b") as stream:
        stream.seek(member.offset_data)
        stream.write(b"?" * member.size)
    options = [*tiny, f"--data.shards={folder}", "--train.global_batch_size=2", "--train.total_samples=4"]
    codes, _, err = launch(2, "n2s_dist.train", *options, f"--run_dir={tmp_path / 'run'}").wait()
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert codes[1] == 2 and any(f"sample {index} is damaged" in line for line in errors), err


def test_the_launch_file_starts_two_ranks(tiny, environment, tmp_path):
    """accelerate starts one process, without a word, for the settings that look right for two on a CPU.

    Each rank takes its share in two micro-batches: gradients must be exchanged, once, after the second.
    """
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    arguments = [*tiny, "--train.device_batch_size=2", "--run_dir", str(tmp_path / "two")]
    done = subprocess.run(
        [*launcher, str(ROOT / "launch" / "accelerate" / "2cpu.yaml"), "-m", "n2s_dist.train", *arguments],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_SEC, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 rank(s) on cpu, each 2 x 2 crops" in done.stdout and done.stdout.count("rank(s)") == 1

    config = read_config([*tiny, "--run_dir", str(tmp_path / "one")])
    begin = flat(start(config).model.state_dict())
    one, two = (flat(raw_weights(path)) for path in (train(config), checkpoint.locate(tmp_path / "two")))
    assert (one - two).norm() < 2e-5 * (one - begin).norm()

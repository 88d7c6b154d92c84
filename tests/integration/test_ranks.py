"""Two, three and four ranks, each a process of its own: the same training and the same table as one."""

import json
import shutil
import tarfile
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image

from n2s_dist import evaluate
from n2s_dist.loading import sample_order
from n2s_dist.models import checkpoint
from n2s_dist.shards.reader import ShardSet
from n2s_dist.training.command_line import read_config
from n2s_dist.training.setup import start

pytestmark = pytest.mark.usefixtures("cpu")


def raw_weights(path: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load_training_state(path)["weights"]


def flat(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in weights.values()])


@pytest.mark.parametrize(("most", "portions"), [(8, "1 x 4"), (2, "2 x 2")])
def test_two_ranks_train_as_one(fleet, trained, tiny, tmp_path, most, portions):
    """After 20 steps the weights agree to float32's rounding, measured against how far they moved.

    Where each rank takes its share in two micro-batches, gradients must be exchanged, once, after the second.
    """
    ranks = fleet(2, [*tiny, f"--train.device_batch_size={most}", "--run_dir", tmp_path / "two"])
    assert ranks.wait() == [0, 0], ranks.text("err")
    said = ranks.text()
    assert f"2 rank(s) on cpu, each {portions} crops a step" in said and said.count("rank(s)") == 1
    begin = flat(start(read_config([*tiny, "--run_dir", str(tmp_path / "begin")])).model.state_dict())
    one, two = (flat(raw_weights(checkpoint.locate(run_dir))) for run_dir in (trained, tmp_path / "two"))
    assert (one - two).norm() < 2e-5 * (one - begin).norm()
    rows = [
        [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        for run_dir in (trained, tmp_path / "two")
    ]
    for a, b in zip(*rows, strict=True):
        assert a["samples_seen"] == b["samples_seen"]
        for key in {"loss", "val_psnr_db", "val_psnr_noisy_db", "val_loss"} & a.keys():
            assert a[key] == pytest.approx(b[key], rel=1e-4)


def test_the_table_is_the_same_on_one_two_and_four_ranks(trained, photographs, fleet, cli, tmp_path):
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
            ranks = fleet(count, [*arguments, "--pictures"], program="evaluate")
            assert ranks.wait() == [0] * count, ranks.text("err")
            printed = ranks.text()
            assert printed.count("wrote") == 1
            assert f"6 images in 12 pieces on {count} rank(s)" in printed
            assert Image.open(out / "pictures/gaussian_25-known/two/large-denoised.png").size == (930, 801)
        results.append([(out / name).read_text() for name in ("results.json", "table.md", "table.csv")])
    assert results[0] == results[1] == results[2]
    assert [cell["num_images"] for cell in json.loads(results[0][0])["cells"]] == [3, 3]


def test_a_users_error_on_one_rank_ends_all_with_one_line(trained, photographs, fleet, tmp_path):
    """The image that no color checkpoint takes falls to the second rank; the first must not wait for ever."""
    folder = tmp_path / "images"
    folder.mkdir()
    Image.open(photographs / "coffee.png").save(folder / "large.png")
    Image.open(photographs / "coffee.png").convert("L").crop((0, 0, 50, 50)).save(folder / "small-gray.png")
    arguments = [f"--checkpoint={trained}", f"--benchmark=two={folder}", f"--out={tmp_path / 'out'}", "--no-wandb"]
    ranks = fleet(2, arguments, program="evaluate")
    assert ranks.wait() == [2, 2] and "Traceback" not in ranks.text("err")
    (line,) = ranks.errors()
    assert "small-gray.png is gray" in line
    assert not (tmp_path / "out" / "results.json").exists()


def test_damage_that_one_rank_meets_alone_is_named(shards, tiny, fleet, tmp_path):
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
    ranks = fleet(2, [*options, "--run_dir", tmp_path / "run"])
    assert ranks.wait()[1] == 2 and any(f"sample {index} is damaged" in line for line in ranks.errors())

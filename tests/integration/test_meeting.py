"""Three real ranks of which one was given something else, met a mistake or never came: all end soon, with one line."""

import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.forked_ranks import Start
from support.patience import SOON_SEC

import n2s_dist
from n2s_dist.distributed import meeting
from n2s_dist.models import checkpoint
from n2s_dist.shards.build.builder import build_shards
from n2s_dist.shards.build.plan import BuildOptions


def refused(ranks, tmp_path: Path, code: int = 2) -> str:
    """The one line with which all ranks have ended; fails unless nothing was written."""
    begin = time.monotonic()
    assert ranks.wait() == [code] * len(ranks.ranks), ranks.text("err")
    assert time.monotonic() - begin < SOON_SEC
    (line,) = ranks.errors()
    assert not (tmp_path / "run").exists() and "rank(s) on" not in ranks.text()
    return line


@pytest.fixture
def three(fleet, tiny, tmp_path):
    """Start three ranks of a training run with some of them apart."""

    def start(apart: dict[int, Start], *arguments: object, **options: object):
        words = [*tiny, "--train.global_batch_size=6", "--run_dir", tmp_path / "run", *arguments]
        return fleet(3, words, apart=apart, **options)

    return start


# --- settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rank", "option", "said"),
    [
        (1, "--noise=gaussian:50", "noise is gaussian:50 on rank 1 (HOST), gaussian:25 on rank 0 (HOST)"),
        (2, "--data.crop_size=48", "data.crop_size is 48 on rank 2 (HOST), 32 on rank 0 (HOST)"),
        (0, "--seed=7", "seed is 7 on rank 0 (HOST), 0 on rank 1"),  # whoever is alone with it is the odd one
    ],
)
def test_a_rank_with_another_setting_is_named_with_the_setting(three, tmp_path, rank, option, said):
    line = refused(three({rank: Start([option])}), tmp_path)
    host = line.split("(")[1].split(")")[0]
    assert said.replace("HOST", host) in line and line.endswith("start all ranks by the same command")


def test_of_several_settings_the_first_is_named_and_the_others_are_counted(three, tmp_path):
    others = ["--train.global_batch_size=12", "--optimizer.learning_rate=0.5", "--train.validation_tiles=3"]
    line = refused(three({1: Start([*others, "--train.total_samples=80"])}), tmp_path)
    assert "optimizer.learning_rate is 0.5 on rank 1" in line and ", and 3 more: " in line


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (
            {"n2s_dist.distributed.consistency.source_digest": "0123"},
            "versions differ between ranks: source is 0123 on rank 1",
        ),
        (
            {"n2s_dist.models.checkpoint.versions": {**checkpoint.versions(), "torch": "2.6.0"}},
            "torch is 2.6.0 on rank 1",
        ),
        (
            {"n2s_dist.distributed.ranks.choose_precision": "bf16"},
            "devices differ between ranks: precision is bf16 on rank 1",
        ),
    ],
)
def test_a_node_with_other_code_or_another_device_is_named(three, tmp_path, answers, said):
    assert said in refused(three({1: Start(answers=answers)}), tmp_path)


def test_the_packages_source_has_one_digest_until_it_changes(tmp_path, monkeypatch):
    package = Path(shutil.copytree(Path(n2s_dist.__file__).parent, tmp_path / "n2s_dist"))
    before = meeting.source_digest()
    monkeypatch.setattr(n2s_dist, "__file__", str(package / "__init__.py"))
    assert meeting.source_digest() == before
    (package / "utils" / "hashing.py").write_text((package / "utils" / "hashing.py").read_text() + "\n")
    assert meeting.source_digest() != before


# --- shards and images, each rank on a node of its own ------------------------------------------------------


@pytest.fixture
def nodes(tmp_path, shards, photographs) -> list[Path]:
    """A folder for each of three ranks with a copy of the shards and images, which ranks see under the same name."""
    folders = [tmp_path / f"node-{rank}" for rank in range(3)]
    for folder in folders:
        shutil.copytree(shards, folder / "shards")
        shutil.copytree(photographs, folder / "images")
    return folders


def on_nodes(nodes: list[Path]) -> dict[int, Start]:
    return {rank: Start(folder=folder) for rank, folder in enumerate(nodes)}


def other_shards(photographs: Path, folder: Path, **options: object) -> Path:
    """Shards of the same images upside down: files of the same names and, tiles being raw, of the same sizes."""
    turned = folder / "turned"
    turned.mkdir()
    for path in photographs.iterdir():
        Image.fromarray(np.asarray(Image.open(path))[::-1]).save(turned / path.name)
    given = BuildOptions(tile_size=64, **{"validation_fraction": 0.2, **options})
    build_shards([str(turned)], folder / "other", given, workers=1)
    return folder / "other"


def test_a_node_with_shards_of_other_images_is_named(three, nodes, photographs, tmp_path):
    shutil.rmtree(nodes[1] / "shards")
    other_shards(photographs, tmp_path).rename(nodes[1] / "shards")
    line = refused(three(on_nodes(nodes), "--data.shards=shards"), tmp_path)
    assert "shards differ between ranks: manifest.json is " in line and " on rank 1 (" in line
    assert line.endswith("give all nodes the same shards")


def test_a_node_whose_shards_have_no_validation_split_is_named(three, nodes, photographs, tmp_path):
    shutil.rmtree(nodes[2] / "shards")
    build_shards([str(photographs)], nodes[2] / "shards", BuildOptions(tile_size=64, validation_fraction=0), workers=1)
    line = refused(three(on_nodes(nodes), "--data.shards=shards"), tmp_path)
    assert "shards differ between ranks: manifest.json is " in line and " on rank 2 (" in line


@pytest.mark.parametrize("name", ["train-000000.tar", "train-000000.idx", "validation-000000.tar"])
def test_a_stale_file_under_the_right_manifest_is_named(three, nodes, photographs, tmp_path, name):
    """As after a copy that was cut short: names and sizes are right."""
    stale = other_shards(photographs, tmp_path) / name
    content = bytearray(stale.read_bytes())
    if name.endswith(".idx"):
        content[-20:] = content[-20:][::-1]
    assert len(content) == (nodes[1] / "shards" / name).stat().st_size
    (nodes[1] / "shards" / name).write_bytes(content)
    line = refused(three(on_nodes(nodes), "--data.shards=shards"), tmp_path)
    assert f"shards differ between ranks: {name} is " in line and " on rank 1 (" in line


@pytest.fixture
def three_evaluate(fleet, tmp_path):
    def start(apart: dict[int, Start], *arguments: object, **options: object):
        words = ["--out", tmp_path / "run", "--no-wandb", *arguments]
        return fleet(3, words, program="evaluate", apart=apart, **options)

    return start


def test_a_node_with_another_image_in_a_benchmark_is_named(three_evaluate, nodes, trained, tmp_path):
    path = nodes[2] / "images" / "coffee.png"
    pixels = np.array(Image.open(path))
    pixels[80, 90] += 1
    Image.fromarray(pixels).save(path)
    ranks = three_evaluate(on_nodes(nodes), "--checkpoint", trained, "--benchmark=own=images")
    line = refused(ranks, tmp_path)
    assert "benchmarks differ between ranks: images/coffee.png is " in line and " on rank 2 (" in line


def test_a_node_without_one_image_of_a_benchmark_is_named(three_evaluate, nodes, trained, tmp_path):
    (nodes[1] / "images" / "rocket.png").unlink()
    ranks = three_evaluate(on_nodes(nodes), "--checkpoint", trained, "--benchmark=own=images")
    assert "images/rocket.png is nothing on rank 1 (" in refused(ranks, tmp_path)


def test_a_rank_that_evaluates_with_other_noise_is_named(three_evaluate, photographs, trained, tmp_path):
    arguments = ["--checkpoint", trained, f"--benchmark=own={photographs}"]
    line = refused(three_evaluate({1: Start(["--noise=gaussian:30"])}, *arguments), tmp_path)
    assert "noise is ['gaussian:30'] on rank 1" in line


# --- checkpoints ------------------------------------------------------------------------------------------


@pytest.fixture
def runs(nodes, trained) -> list[Path]:
    """On each node a run with the same two checkpoints."""
    for folder in nodes:
        shutil.copytree(trained, folder / "trained")
    return [checkpoint.locate(folder / "trained") for folder in nodes]


def test_all_ranks_evaluate_the_checkpoint_that_rank_0_took(three_evaluate, nodes, runs, photographs, tmp_path):
    """A run that is still training has a newer one by the time that another rank looks."""
    for last in runs[1:]:
        shutil.copytree(runs[0], last.with_name("samples-000000999"))
    arguments = ["--checkpoint=trained", f"--benchmark=own={photographs}"]
    apart = {rank: Start(folder=folder, late_sec=0.5 * rank) for rank, folder in enumerate(nodes)}
    ranks = three_evaluate(apart, *arguments)
    assert ranks.wait() == [0, 0, 0], ranks.text("err")
    (cell,) = json.loads((tmp_path / "run" / "results.json").read_text())["cells"]
    assert cell["checkpoint"] == f"trained/checkpoints/{runs[0].name}"


def test_a_node_with_another_checkpoint_of_the_same_name_is_named(three_evaluate, nodes, runs, photographs, tmp_path):
    shutil.rmtree(runs[1])
    shutil.copytree(checkpoint.newest_first(nodes[2] / "trained")[1], runs[1])
    ranks = three_evaluate(on_nodes(nodes), "--checkpoint=trained", f"--benchmark=own={photographs}")
    line = refused(ranks, tmp_path)
    assert f"checkpoints differ between ranks: trained/checkpoints/{runs[1].name} is " in line
    assert " on rank 1 (" in line and line.endswith("keep runs on a file system that all nodes share")


def test_a_node_without_the_checkpoint_to_go_on_from_is_named(fleet, tiny, nodes, runs, tmp_path):
    """A run directory on each node's own disk, of which the others know nothing."""
    shutil.rmtree(runs[2])
    before = sorted(path.name for path in runs[0].parent.iterdir())
    words = [*tiny, "--train.total_samples=240", "--run_dir=trained"]
    ranks = fleet(2, words, apart=on_nodes([nodes[0], nodes[2]]))
    line = refused(ranks, tmp_path)
    assert line.startswith(f"error: rank 1: trained/checkpoints/{runs[0].name} can't be used here")
    assert sorted(path.name for path in runs[0].parent.iterdir()) == before


def test_all_ranks_start_from_the_weights_that_rank_0_took_and_equal_copies_of_shards_are_trained_on(
    three, nodes, runs, tmp_path
):
    for last in runs[1:]:
        shutil.copytree(checkpoint.newest_first(last.parents[1])[1], last.with_name("samples-000000999"))
    arguments = ["--data.shards=shards", "--train.start_from=trained", "--train.total_samples=12"]
    ranks = three(on_nodes(nodes), *arguments)
    assert ranks.wait() == [0, 0, 0], ranks.text("err")


# --- a mistake that one rank alone meets ------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 2])
def test_a_mistake_of_one_rank_is_said_once_and_ends_all(three, nodes, tmp_path, rank):
    shutil.rmtree(nodes[rank] / "shards")
    line = refused(three(on_nodes(nodes), "--data.shards=shards"), tmp_path)
    who = f"rank {rank}: " if rank else ""
    assert line.startswith(f"error: {who}shards holds no manifest.json")


def test_a_mistake_on_one_ranks_command_line_ends_all(three, tmp_path):
    line = refused(three({1: Start(["--train.epochs=3"])}), tmp_path)
    assert line.startswith("error: rank 1: unknown key 'train.epochs'")


def test_a_mistake_that_all_ranks_meet_is_said_once(three, tmp_path):
    assert "crop_size is 100" in refused(three({}, "--data.crop_size=100"), tmp_path)


def test_a_mistake_that_argparse_finds_on_one_rank_ends_all(three_evaluate, photographs, trained, tmp_path):
    arguments = ["--checkpoint", trained, f"--benchmark=own={photographs}"]
    ranks = three_evaluate({2: Start(["--which=newest"])}, *arguments)
    line = refused(ranks, tmp_path)
    assert line == "error: rank 2: ended with exit code 2, and its own message says why"
    assert "invalid choice: 'newest'" in ranks.text("err")


def test_a_rank_that_fails_at_its_start_keeps_its_traceback_and_ends_all(three, nodes, tmp_path):
    """Something that no line is made for: its folder of shards can't be listed as such."""
    manifest = nodes[1] / "shards" / "manifest.json"
    manifest.unlink()
    manifest.symlink_to("manifest.json")
    (nodes[1] / "shards" / "train-000000.tar").chmod(0)
    ranks = three(on_nodes(nodes), "--data.shards=shards")
    assert refused(ranks, tmp_path)


def test_a_number_of_ranks_that_does_not_divide_the_batch_is_said_once(three, tmp_path):
    assert "does not divide over 3 ranks" in refused(three({}, "--train.global_batch_size=8"), tmp_path)


def test_a_run_that_is_going_on_is_refused_on_all_ranks(three, tmp_path):
    first = three({}, "--train.total_samples=60000", fault="is_held", at=12)
    first.wait_for(12)
    second = three({})
    assert second.wait() == [2, 2, 2], second.text("err")
    (line,) = second.errors()
    assert f"works in {tmp_path / 'run'}" in line
    assert all(process.is_alive() for process in first.ranks)
    first.kill()


# --- ranks that never come --------------------------------------------------------------------------------


def test_a_rank_that_never_comes_is_named(three, tmp_path):
    ranks = three({2: Start(is_absent=True)}, patience_sec=4)
    assert ranks.wait() == [1, 1]
    assert "rank 0 waits for rank" in ranks.text("err")
    (line,) = ranks.errors()
    assert "rank 2 of 3 did not come within 4 s" in line and not (tmp_path / "run").exists()


def test_rank_0_that_never_comes_is_named(three, tmp_path):
    ranks = three({0: Start(is_absent=True)}, patience_sec=4)
    assert ranks.wait() == [1, 1]
    lines = ranks.errors()
    assert len(lines) == 2 and all("rank 0 of 3 did not come within 4 s (127.0.0.1, port " in line for line in lines)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("absent", [0, 2])
def test_a_signal_ends_ranks_that_wait_for_one_that_never_comes(three, tmp_path, number, code, absent):
    ranks = three({absent: Start(is_absent=True)}, patience_sec=50)
    deadline = time.monotonic() + SOON_SEC
    while f"waits for rank {absent}" not in ranks.text("err") and absent:
        assert time.monotonic() < deadline, ranks.text("err")
        time.sleep(0.05)
    time.sleep(0 if absent else 1)
    begin = time.monotonic()
    for process in range(2):
        ranks.signal(number, process)
    assert ranks.wait() == [code] * 2, ranks.text("err")
    assert time.monotonic() - begin < SOON_SEC and "Traceback" not in ranks.text("err")


def test_two_processes_of_one_rank_are_named(three, tmp_path):
    ranks = three({1: Start(variables={"RANK": "2", "LOCAL_RANK": "2"})}, patience_sec=20)
    assert ranks.wait() == [2, 2, 2], ranks.text("err")
    (line,) = ranks.errors()
    assert "another process is rank 2 as well" in line


def test_a_rank_that_counts_others_is_named(three, tmp_path):
    ranks = three({2: Start(variables={"WORLD_SIZE": "4"})}, patience_sec=20)
    assert ranks.wait()[2] == 2
    assert any("WORLD_SIZE is 4 here and 3 on rank 0" in line for line in ranks.errors()), ranks.text("err")

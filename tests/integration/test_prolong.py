"""Runs that are prolonged: the same weights as if their length had been known from the start."""

import json
from itertools import pairwise

import pytest
from safetensors.torch import load_file

from n2s_dist.models import checkpoint
from n2s_dist.training.schedules import warmup_stable_decay

WSD = ["--optimizer.schedule=wsd", "--optimizer.warmup_samples=16", "--optimizer.decay_samples=40"]


def test_the_rate_is_constant_between_warm_up_and_decay():
    shares = [warmup_stable_decay(seen, 1_000, 100, 200) for seen in range(1_010)]
    assert shares[:100] == pytest.approx([seen / 100 for seen in range(100)])
    assert set(shares[100:801]) == {1.0}
    assert shares[850] == pytest.approx(0.5) and shares[1_000] == shares[1_009] == 0
    assert all(after < before for before, after in pairwise(shares[800:1_001]))


@pytest.fixture(scope="module")
def train(run_training, tiny):
    def run(run_dir, total: int, *options: str):
        return run_training(*tiny, *WSD, f"--train.total_samples={total}", "--run_dir", run_dir, *options)

    return run


@pytest.fixture(scope="module")
def undisturbed(train, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert train(run_dir, 320).code == 0
    return load_file(checkpoint.newest_valid(run_dir) / checkpoint.WEIGHTS)


def test_a_run_that_ended_is_prolonged_from_before_its_decay(train, undisturbed, tmp_path):
    assert train(tmp_path, 160, "--train.keep_checkpoints=1").code == 0
    assert [path.name for path in checkpoint.newest_first(tmp_path)] == ["samples-000000160", "samples-000000080"]
    done = train(tmp_path, 320, "--train.keep_checkpoints=1")
    assert done.code == 0 and "going on from" in done.out and "samples-000000080" in done.out
    weights = load_file(checkpoint.newest_valid(tmp_path) / checkpoint.WEIGHTS)
    assert all((weights[name] == tensor).all() for name, tensor in undisturbed.items())
    rows = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    lines = [row["samples_seen"] for row in rows if "loss" in row]
    assert lines == sorted(set(lines)) and lines[-1] == 320


def test_only_what_depends_on_no_length_is_prolonged(run_training, trained, tiny):
    for options in ([], WSD):
        again = run_training(*tiny, *options, "--train.total_samples=320", "--run_dir", trained)
        assert "was trained with" in again.error(2)

"""Muon's way through training: it learns, and goes on to the last bit."""

import json
import shutil

import torch

from n2s_dist.models import checkpoint
from n2s_dist.training.command_line import read_config
from n2s_dist.training.loop import train


def test_it_trains_and_goes_on_from_a_checkpoint_to_the_last_bit(shards, tmp_path):
    def run(name: str):
        options = [f"--run_dir={tmp_path / name}", f"--data.shards={shards}", "--data.crop_size=32"]
        options += ["--network.widths=[8,16]", "--optimizer.name=muon", "--train.total_samples=640"]
        options += ["--train.global_batch_size=8", "--train.checkpoint_every_samples=320"]
        options += ["--optimizer.learning_rate=3e-3", "--train.log_every_samples=80", "--tracking.wandb=false"]
        options += ["--train.num_threads=1"]
        return train(read_config(options))

    whole = run("whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(tmp_path / "again/checkpoints" / whole.name)
    again = run("again")
    first, second = (checkpoint.load_training_state(path)["weights"] for path in (whole, again))
    assert whole.name == again.name and all(torch.equal(first[name], second[name]) for name in first)
    rows = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < 0.9 * losses[0]

"""wandb stood in for: which runs were begun, and how; and a run that begins and ends.

To import wandb takes a second, so that only who asks for a stand-in does.
"""

from pathlib import Path
from types import SimpleNamespace

from n2s_dist.config.schema import Config
from n2s_dist.training.tracking import open_tracker


class Wandb:
    """Stands in for wandb: knows what runs were begun, and fails as it is told to."""

    def __init__(self, monkeypatch, fails: int = 0, error: Exception | None = None) -> None:
        self.begun, self.fails, self.error = [], fails, error or ValueError("Run ID cannot be empty\nsecond line")
        import wandb

        monkeypatch.setattr(wandb, "init", self.init)
        monkeypatch.setattr(wandb, "teardown", self.teardown)
        monkeypatch.delenv("WANDB_MODE", raising=False)

    def init(self, **given):
        self.begun.append({key: given[key] for key in ("id", "group", "mode", "resume", "job_type")})
        if len(self.begun) <= self.fails:
            raise self.error
        return SimpleNamespace(define_metric=lambda *_, **__: None, finish=lambda: None)

    def teardown(self) -> None:
        raise ConnectionError("no service")


def begin(run_dir: Path, samples_seen: int) -> None:
    open_tracker(Config(), run_dir, samples_seen, is_main=True).close()

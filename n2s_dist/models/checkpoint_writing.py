"""Writing checkpoints, and removing those that are no longer wanted. checkpoint.py says what they are, and reads them.

A checkpoint is written under a temporary name, synced to disk and renamed.
"""

import io
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from n2s_dist.config.schema import Config, to_dict
from n2s_dist.models import checkpoint
from n2s_dist.models.checkpoint import ABOUT, FORMAT, MARKER, STATE, WEIGHTS
from n2s_dist.utils.errors import warn_once
from n2s_dist.utils.files import sha256_file, sync


def save(
    run_dir: Path,
    config: Config,
    channels: int,
    shards_fingerprint: str,
    samples_seen: int,
    weights: dict[str, Tensor],
    training_state: dict[str, Any],
    val_psnr_db: float | None,
) -> Path:
    """Write one checkpoint; it appears whole under its name or not at all."""
    folder = run_dir / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"samples-{samples_seen:09d}"
    _discard(folder / f".{final.name}.partial")  # of a kill
    partial = _aside(final)
    partial.mkdir()
    try:
        # Serialised in memory and written by Python, so that a full disk is an OSError whoever serialised.
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        (partial / WEIGHTS).write_bytes(safetensors.torch.save(tensors))
        about = {
            "format": FORMAT,
            "samples_seen": samples_seen,
            "channels": channels,
            "shards_fingerprint": shards_fingerprint,
            "val_psnr_db": val_psnr_db,
            "config": to_dict(config),
            "versions": checkpoint.versions(),
        }
        (partial / ABOUT).write_text(json.dumps(about, indent=1) + "\n")
        stream = io.BytesIO()
        torch.save(training_state, stream)
        (partial / STATE).write_bytes(stream.getbuffer())
        hashes = {name: sha256_file(partial / name) for name in (WEIGHTS, ABOUT, STATE)}
        (partial / MARKER).write_text(json.dumps(hashes, indent=1) + "\n")
        for path in [*partial.iterdir(), partial]:
            sync(path)
        if final.exists():  # a damaged one that an earlier start passed over
            _remove(final)
        partial.rename(final)
        sync(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return final


def _aside(path: Path) -> Path:
    """A name beside a checkpoint's that nothing has and nothing reads."""
    others = (path.with_name(f".{path.name}.{i}.partial") for i in itertools.count(2))
    return next(p for p in itertools.chain([path.with_name(f".{path.name}.partial")], others) if not p.exists())


def _remove(path: Path) -> None:
    """Remove a checkpoint, at once for all who look for one: a kill here leaves nothing that looks like one."""
    aside = _aside(path)
    path.rename(aside)
    _discard(aside)


def _discard(folder: Path) -> None:
    """Remove a folder if that is possible: it is no reason to end a run. NFS for one keeps files that are open."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        _warn_of(folder, error)


def _warn_of(path: Path, error: OSError) -> None:
    warn_once("checkpoints", f"{path} can't be removed ({error.strerror}): it stays, and the run goes on")


def retain(run_dir: Path, keep: int, before_samples: int | None = None) -> None:
    """Remove all but the newest `keep` whole checkpoints and the whole one with the best validation PSNR.

    before_samples: the newest whole one up to so many samples stays as well.

    What kills left half written goes as well; so nothing else may be writing in this folder. What can't be read or
    removed stays, with a warning.
    """
    for partial in (run_dir / "checkpoints").glob(".samples-*.partial"):
        _discard(partial)
    found = {path: checkpoint.inspect(path) for path in checkpoint.newest_first(run_dir)}
    whole = [path for path, (problem, _) in found.items() if problem is None]
    unclear = [path for path, (_, certain) in found.items() if not certain]
    spared = {*whole[:keep], *sorted(whole, key=checkpoint.psnr_db_of, reverse=True)[:1], *unclear}
    if before_samples is not None:
        spared |= set([path for path in whole if checkpoint.samples_of(path) <= before_samples][:1])
    for path in found:
        if path not in spared:
            try:
                _remove(path)
            except OSError as error:
                _warn_of(path, error)

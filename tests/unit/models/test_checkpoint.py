"""Checkpoints: whole or not there, damage seen, the right ones kept, and no code run on loading."""

import contextlib
import errno
import functools
import json
import os
import pickle
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from n2s_dist.config.schema import Config
from n2s_dist.models import checkpoint, checkpoint_writing
from n2s_dist.models.score_model import build_score_model
from n2s_dist.training.command_line import read_config
from n2s_dist.utils import errors
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import sha256_file

FILES = ("model.safetensors", "model.json", "training_state.pt")


@functools.cache
def small() -> Config:
    return read_config(["--network.widths=[4,8]", "--network.blocks=1", "--noise=gamma:50"])


def save(run_dir: Path, samples_seen: int, psnr: float | None = None, seed: int = 0) -> Path:
    """Write a checkpoint of a small network with weights of their own."""
    torch.manual_seed(seed + samples_seen)
    weights = build_score_model(small(), 3).state_dict()
    state = {"weights": weights, "optimizer": {"step": torch.tensor(samples_seen)}, "loss_scale": {}}
    return checkpoint_writing.save(
        run_dir,
        config=small(),
        channels=3,
        shards_fingerprint="abc",
        samples_seen=samples_seen,
        weights=weights,
        training_state=state,
        val_psnr_db=psnr,
    )


def names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


DAMAGE = {
    "flipped": flip_a_bit,
    "truncated": truncate,
    "empty": lambda path: path.write_bytes(b""),
    "gone": Path.unlink,
}


def mend_marker(path: Path) -> None:
    """Make the checksums right again, as someone who forges a checkpoint would."""
    (path / "COMPLETE").write_text(json.dumps({name: sha256_file(path / name) for name in FILES}))


# --- round trip ---------------------------------------------------------------------------------------


def test_round_trip(tmp_path):
    path = save(tmp_path, 160, psnr=23.5)
    assert path == tmp_path / "checkpoints" / "samples-000000160"
    loaded, state = checkpoint.load(path), checkpoint.load_training_state(path)
    assert (loaded.path, loaded.config, loaded.channels, loaded.samples_seen) == (path, small(), 3, 160)
    assert loaded.shards_fingerprint == "abc" and not loaded.model.training
    torch.manual_seed(160)
    expected = build_score_model(small(), 3).state_dict()
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, expected[name]) and torch.equal(state["weights"][name], expected[name])
    assert state["optimizer"]["step"] == 160
    about = json.loads((path / "model.json").read_text())
    assert about["val_psnr_db"] == 23.5 and about["versions"]["torch"] == torch.__version__
    assert sorted(p.name for p in path.iterdir()) == sorted([*FILES, "COMPLETE"])


# --- whole or not there -----------------------------------------------------------------------------------


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@contextlib.contextmanager
def disk_that_fills_up(monkeypatch, earlier: Path, where: str) -> Iterator[None]:
    """Writing fails at one place: in the middle of a file, by the kernel, for the two that are large enough."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        if where in FILES:
            resource.setrlimit(resource.RLIMIT_FSIZE, ((earlier / where).stat().st_size - 100, hard))
        else:
            target = {"syncing": os, "renaming": Path, "summing up": checkpoint_writing}[where]
            patch.setattr(
                target, {"syncing": "fsync", "renaming": "rename", "summing up": "sha256_file"}[where], no_space
            )
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


PLACES = ["model.safetensors", "training_state.pt", "summing up", "syncing", "renaming"]


@pytest.mark.parametrize("where", PLACES)
def test_a_full_disk_leaves_the_earlier_checkpoint_and_nothing_else(tmp_path, monkeypatch, where):
    earlier = save(tmp_path, 80)
    with disk_that_fills_up(monkeypatch, earlier, where), pytest.raises(OSError):
        save(tmp_path, 160)
    assert names(tmp_path) == ["samples-000000080"]
    assert checkpoint.newest_valid(tmp_path) == earlier
    assert checkpoint.newest_valid(tmp_path) != save(tmp_path, 160) == checkpoint.newest_valid(tmp_path)


@pytest.mark.parametrize("where", PLACES)
def test_a_kill_leaves_nothing_that_looks_like_a_checkpoint(tmp_path, monkeypatch, where):
    """After SIGKILL no clean-up runs; what was begun is passed over, and the next save is not in its way."""
    earlier = save(tmp_path, 80)
    with monkeypatch.context() as patch, disk_that_fills_up(monkeypatch, earlier, where), pytest.raises(OSError):
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        save(tmp_path, 160)
    assert len(names(tmp_path)) == 2
    assert checkpoint.newest_first(tmp_path) == [earlier] and checkpoint.newest_valid(tmp_path) == earlier
    assert save(tmp_path, 160) == checkpoint.newest_valid(tmp_path)
    assert names(tmp_path) == ["samples-000000080", "samples-000000160"]


# --- damage -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FILES, "COMPLETE"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_checkpoints_are_named_and_passed_over(tmp_path, capsys, name, kind):
    good, bad = save(tmp_path, 80), save(tmp_path, 160)
    DAMAGE[kind](bad / name)
    assert checkpoint.newest_valid(tmp_path) == good
    said = capsys.readouterr().out
    assert str(bad) in said and str(good) not in said and len(said.splitlines()) == 1
    if kind in ("flipped", "truncated") and name != "COMPLETE":
        assert name in said
    assert checkpoint.locate(tmp_path) == good
    if (bad / "model.json").exists():
        with pytest.raises(UserError, match="samples-000000160"):
            checkpoint.locate(bad)


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_best_checkpoint_is_not_handed_out(tmp_path, kind):
    good, bad = save(tmp_path, 80, psnr=20), save(tmp_path, 160, psnr=30)
    DAMAGE[kind](bad / "model.safetensors")
    assert checkpoint.locate(tmp_path, "best") == good


def test_when_all_are_damaged_there_is_none(tmp_path):
    for seen in (80, 160):
        flip_a_bit(save(tmp_path, seen) / "training_state.pt")
    assert checkpoint.newest_valid(tmp_path) is None
    with pytest.raises(UserError, match="holds no checkpoint"):
        checkpoint.locate(tmp_path)


def test_a_damaged_checkpoint_is_replaced_when_training_comes_by_again(tmp_path):
    flip_a_bit(save(tmp_path, 80) / "model.safetensors")
    assert checkpoint.damage(save(tmp_path, 80)) is None


@pytest.mark.parametrize("name", [*FILES, "COMPLETE"])
def test_what_is_missing_is_said_in_words(tmp_path, capsys, name):
    """Not the name of an exception."""
    (save(tmp_path, 80) / name).unlink()
    assert checkpoint.newest_valid(tmp_path) is None
    assert capsys.readouterr().out.endswith(f"incomplete: {name} is missing\n")


# --- file systems that refuse to tidy up ------------------------------------------------------------------


@pytest.fixture
def warnings(monkeypatch, capsys):
    """What was warned of since."""
    monkeypatch.setattr(errors, "_warned", set())
    return lambda: [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]


@pytest.mark.parametrize("how", ["its folder stays", "its name stays"])
def test_a_checkpoint_that_can_not_be_removed_stays_and_the_run_goes_on(tmp_path, monkeypatch, warnings, how):
    """NFS for one keeps a folder with a file in it that somebody has open."""
    rmtree, rename = shutil.rmtree, Path.rename

    def stay(path: Path, *more: object) -> object:
        if "samples-000000080" in path.name:
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))
        return rename(path, *more) if more else rmtree(path)

    save(tmp_path, 80)
    if how == "its folder stays":
        monkeypatch.setattr(shutil, "rmtree", stay)
    else:
        monkeypatch.setattr(Path, "rename", stay)
    for seen in (160, 240, 320):
        last = save(tmp_path, seen)
        checkpoint_writing.retain(tmp_path, keep=1)
    assert [name for name in names(tmp_path) if "080" not in name] == [last.name] and len(names(tmp_path)) == 2
    (line,) = warnings()
    assert "samples-000000080" in line and "can't be removed (Directory not empty)" in line
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "rmtree", stay)
    assert checkpoint.damage(save(tmp_path, 80)) is None  # what lies there is not in its way


def test_a_file_system_that_can_not_sync_folders_takes_checkpoints(tmp_path, monkeypatch, warnings):
    fsync = os.fsync

    def of_files_alone(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", of_files_alone)
    for seen in (80, 160):
        assert checkpoint.damage(save(tmp_path, seen)) is None
    (line,) = warnings()
    assert "bring folders to the disk" in line


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_loses_data_is_no_file_system_without_sync(tmp_path, monkeypatch, number):
    def fail(descriptor: int) -> None:
        raise OSError(number, "words")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="words") as error:
        save(tmp_path, 80)
    assert str(tmp_path) in error.value.filename


def test_a_checkpoint_that_can_not_be_read_just_now_is_not_removed_as_damaged(tmp_path, monkeypatch):
    sha256 = checkpoint.sha256_file

    def stale(path: Path) -> str:
        if "samples-000000160" in str(path):
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return sha256(path)

    for seen, psnr in ((80, 20.0), (160, 25.0), (240, 21.0)):
        save(tmp_path, seen, psnr)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "sha256_file", stale)
        checkpoint_writing.retain(tmp_path, keep=1)
        assert "can't be read (Stale file handle)" in checkpoint.damage(tmp_path / "checkpoints/samples-000000160")
    assert kept(tmp_path) == [160, 240]
    assert checkpoint.locate(tmp_path, "best").name == "samples-000000160"


# --- retention --------------------------------------------------------------------------------------------


def kept(run_dir: Path) -> list[int]:
    return [int(name.split("-")[1]) for name in names(run_dir)]


def test_the_newest_and_the_best_are_kept(tmp_path):
    for seen, psnr in ((80, 20.0), (160, 25.0), (240, 24.0), (320, None), (400, 23.0)):
        save(tmp_path, seen, psnr)
        checkpoint_writing.retain(tmp_path, keep=2)
    assert kept(tmp_path) == [160, 320, 400]
    assert checkpoint.locate(tmp_path) == tmp_path / "checkpoints" / "samples-000000400"
    assert checkpoint.locate(tmp_path, "best") == tmp_path / "checkpoints" / "samples-000000160"


def test_without_a_validation_psnr_the_newest_is_the_best(tmp_path):
    for seen in (80, 160, 240):
        save(tmp_path, seen)
    checkpoint_writing.retain(tmp_path, keep=1)
    assert kept(tmp_path) == [240]
    assert checkpoint.locate(tmp_path, "best") == checkpoint.locate(tmp_path)


def test_newest_is_by_number_not_by_name(tmp_path):
    save(tmp_path, 999_999_999)
    assert checkpoint.newest_valid(tmp_path) != save(tmp_path, 1_000_000_000) == checkpoint.newest_valid(tmp_path)


@pytest.mark.parametrize("kind", ["truncated", "gone"])
@pytest.mark.parametrize("name", [*FILES, "COMPLETE"])
def test_retention_never_removes_the_newest_whole_checkpoint(tmp_path, name, kind):
    """A run that resumed from 80 because 160 and 240 were damaged has just saved 160 anew."""
    for seen in (80, 160, 240):
        path = save(tmp_path, seen, psnr=20.0 if seen == 80 else None)
    DAMAGE[kind](path / name)
    checkpoint_writing.retain(tmp_path, keep=1)
    assert checkpoint.newest_valid(tmp_path) == tmp_path / "checkpoints" / "samples-000000160"


# --- what is not a checkpoint of ours -------------------------------------------------------------------


def test_locate_takes_a_run_or_a_checkpoint(tmp_path):
    path = save(tmp_path, 80)
    assert checkpoint.locate(tmp_path) == checkpoint.locate(str(path)) == path


@pytest.mark.parametrize("which", ["last", "best"])
@pytest.mark.parametrize("place", ["nowhere", "empty", "file", "strangers"])
def test_locate_names_a_wrong_path(tmp_path, place, which):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("hello")
    (tmp_path / "strangers" / "checkpoints" / "samples-1").mkdir(parents=True)
    with pytest.raises(UserError, match=place):
        checkpoint.locate(tmp_path / place, which)


def test_another_networks_weights_are_named(tmp_path):
    path = save(tmp_path, 80)
    about = json.loads((path / "model.json").read_text())
    about["config"]["network"]["widths"] = [4, 16]
    (path / "model.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"network\.bottom\.0\.first\.weight is \(8, 8, 3, 3\) there, \(16, 16, 3, 3\)"):
        checkpoint.load(path)


@pytest.mark.parametrize("extra", [True, False])
def test_missing_and_surplus_tensors_are_named(tmp_path, extra):
    model = build_score_model(small(), 3)
    weights = dict(model.state_dict())
    if extra:
        weights["network.stranger"] = torch.zeros(3)
    else:
        del weights["network.head.weight"]
    with pytest.raises(UserError, match="network.stranger" if extra else "network.head.weight"):
        checkpoint.load_weights(model, weights, tmp_path)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"config": 3}', b"\x00" * 100],
    ids=["empty", "list", "no-keys", "wrong-type", "zeros"],
)
def test_files_of_something_else_are_refused_in_one_line(tmp_path, name, content):
    """Checksums are right here: this is no damage but another program's file."""
    path = save(tmp_path, 80)
    (path / name).write_bytes(content)
    mend_marker(path)
    with pytest.raises(UserError) as error:
        checkpoint.load(checkpoint.locate(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["config", "channels", "samples_seen"])
def test_a_description_that_lacks_a_key_is_refused(tmp_path, key):
    path = save(tmp_path, 80)
    about = json.loads((path / "model.json").read_text())
    del about[key]
    (path / "model.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="samples-000000080"):
        checkpoint.load(path)


@pytest.mark.parametrize("number", [None, 1])
def test_another_versions_checkpoint_is_refused_by_name(tmp_path, number):
    """Its network was given other things: it would load, and denoise badly."""
    path = save(tmp_path, 80)
    about = json.loads((path / "model.json").read_text())
    (path / "model.json").write_text(json.dumps({**about, "format": number}))
    with pytest.raises(UserError, match="samples-000000080 was written by another version of n2s_dist"):
        checkpoint.load(path)


def test_a_newer_versions_checkpoint_is_named_with_its_version_and_what_is_not_known(tmp_path):
    path = save(tmp_path, 80)
    about = json.loads((path / "model.json").read_text())
    about["config"]["train"]["cooldown_samples"] = 3
    (path / "model.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"model\.json holds a setting .* not know: train\.cooldown_samples$"):
        checkpoint.load(path)
    about["versions"]["n2s_dist"] = "99.0.0"
    (path / "model.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"train\.cooldown_samples; version 99\.0\.0 wrote it and this is") as error:
        checkpoint.load(path)
    assert "__init__" not in str(error.value)


class Attack:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "plain-pickle"])
def test_a_pickle_that_runs_code_is_refused_unexecuted(tmp_path, legacy):
    path, proof = save(tmp_path, 80), tmp_path / "executed"
    state = {"weights": {}, "optimizer": Attack(proof), "loss_scale": {}}
    with (path / "training_state.pt").open("wb") as stream:
        pickle.dump(state, stream) if legacy else torch.save(state, stream)
    mend_marker(path)
    assert checkpoint.newest_valid(tmp_path) == path
    with pytest.raises((UserError, pickle.UnpicklingError)):
        checkpoint.load_training_state(path)
    assert not proof.exists()
    with (path / "training_state.pt").open("rb") as stream:  # the attack itself works
        pickle.load(stream) if legacy else torch.load(stream, weights_only=False)
    assert proof.exists()

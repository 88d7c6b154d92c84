"""Building shards: whatever ends a build, what is finished stays, and no image is taken for another."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.archives import contents

from n2s_dist.shards.build import staging, tiles
from n2s_dist.shards.build.builder import build_shards, read_manifest
from n2s_dist.shards.build.plan import BuildOptions
from n2s_dist.utils import errors, publishing
from n2s_dist.utils.errors import RunFailed, UserError

OPTIONS = BuildOptions(tile_size=32, validation_fraction=0.2, seed=5)
BROKEN = "4.bmp"


@pytest.fixture(scope="module")
def original(random_images) -> Path:
    return random_images(8, 60, 70, "bmp")  # whose files are all of one size


@pytest.fixture(scope="module")
def expected(original) -> dict[str, bytes]:
    build_shards([str(original)], original.with_name("expected"), OPTIONS, workers=1)
    return contents(original.with_name("expected"))


@pytest.fixture
def source(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "source"))


@pytest.fixture
def build(source, tmp_path) -> Callable[..., object]:
    def run(out: str = "out", on_error: str = "stop"):
        return build_shards([str(source)], tmp_path / out, OPTIONS, workers=1, on_error=on_error)

    return run


# --- what happens in worker processes -------------------------------------------------------------------


def disk_fills_up(job: tiles.Job) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", job.places.shard(0))


def image_is_deleted(job: tiles.Job) -> None:
    job.source.file.path.unlink(missing_ok=True)


def image_becomes_a_folder(job: tiles.Job) -> None:
    if job.source.file.path.is_file():
        job.source.file.path.unlink()
        job.source.file.path.mkdir()


def source_goes_away(job: tiles.Job) -> None:
    if job.source.file.source.exists():
        job.source.file.source.rename(job.source.file.source.with_name("moved"))


def memory_runs_out(job: tiles.Job) -> None:
    def decode(*_: object) -> None:
        raise MemoryError

    tiles.read_image = decode


FAULTS = {
    f.__name__: f for f in (disk_fills_up, image_is_deleted, image_becomes_a_folder, source_goes_away, memory_runs_out)
}
_CUT, _READ = tiles.cut_tiles, tiles.read_image


def write_image_tiles(options: BuildOptions, job: tiles.Job) -> tiles.Content | str:
    """Stands in for the real one: a fault happens at one image, and a log says which images were decoded."""

    def cut(*arguments):
        with Path(os.environ["DECODED"]).open("a") as stream:
            stream.write(f"{job.source.name}\n")
        return _CUT(*arguments)

    tiles.cut_tiles, tiles.read_image = cut, _READ
    if job.source.name == BROKEN and os.environ.get("FAULT"):
        FAULTS[os.environ["FAULT"]](job)
    return tiles.write_image_tiles(options, job)


@pytest.fixture
def decoded(monkeypatch, tmp_path_factory) -> Callable[[], list[str]]:
    """Which images were decoded since this was last asked."""
    log = tmp_path_factory.mktemp("decoded") / "log"
    monkeypatch.setenv("DECODED", str(log))
    monkeypatch.setattr(staging, "write_image_tiles", write_image_tiles)
    for name in ("cut_tiles", "read_image"):  # which it replaces, in this process where the pool is of one worker
        monkeypatch.setattr(tiles, name, getattr(tiles, name))

    def since() -> list[str]:
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    return since


@pytest.fixture
def fault(monkeypatch) -> Callable[[str], contextlib.AbstractContextManager[None]]:
    """Within, this happens at one image."""

    @contextlib.contextmanager
    def happening(name: str):
        with monkeypatch.context() as patch:
            patch.setenv("FAULT", name)
            yield

    return happening


# --- a build that fails ---------------------------------------------------------------------------------


def test_when_the_disk_fills_up_the_finished_images_stay_and_the_same_command_goes_on(
    build, fault, decoded, expected, tmp_path, capsys
):
    with fault("disk_fills_up"), pytest.raises(OSError, match="No space left"):
        build()
    assert {"0.bmp", "1.bmp", "2.bmp", "3.bmp"} <= set(decoded())
    assert "run the same command again to go on" in capsys.readouterr().err
    assert [path.name for path in tmp_path.glob("*out*")] == [".out.partial"] and not (tmp_path / "out").exists()
    build()
    assert BROKEN in (again := decoded()) and not {"0.bmp", "1.bmp", "2.bmp", "3.bmp"} & set(again)
    assert contents(tmp_path / "out") == expected and not (tmp_path / ".out.partial").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("image_is_deleted", "No such file or directory"),
        ("image_becomes_a_folder", "Is a directory"),
        ("memory_runs_out", "needs more memory than there is"),
    ],
)
def test_an_image_that_can_not_be_read_any_more_is_named_and_the_others_stay(
    build, fault, decoded, expected, source, original, tmp_path, name, reason
):
    with fault(name), pytest.raises(UserError, match=rf"{BROKEN}.*{reason}"):
        build()
    assert len(set(decoded()) - {BROKEN}) == 7
    if not (source / BROKEN).is_file():
        shutil.rmtree(source / BROKEN, ignore_errors=True)
        shutil.copy(original / BROKEN, source / BROKEN)
    build()
    assert decoded() == [BROKEN] and contents(tmp_path / "out") == expected


@pytest.mark.parametrize("name", ["image_is_deleted", "memory_runs_out"])
def test_skipping_leaves_out_what_can_not_be_read_any_more(build, fault, decoded, source, original, tmp_path, name):
    with fault(name):
        manifest = build(on_error="skip")
    assert manifest.skipped == 1 and sorted(decoded()) == sorted(path.name for path in original.iterdir() if
        path.name != BROKEN or name == "memory_runs_out")  # fmt: skip
    (line,) = (tmp_path / "out/skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["image"] == BROKEN
    shutil.rmtree(source)
    shutil.copytree(original, source, ignore=shutil.ignore_patterns(BROKEN))
    without = build("without")
    assert [contents(tmp_path / "out")[name] for name in ("train-000000.tar", "validation-000000.tar")] == [
        contents(tmp_path / "without")[name] for name in ("train-000000.tar", "validation-000000.tar")
    ]
    assert manifest.source_contents == without.source_contents


def test_a_source_that_goes_away_is_no_reason_to_skip_its_images(build, fault, decoded, expected, source, tmp_path):
    with fault("source_goes_away"), pytest.raises(RunFailed, match=rf"{source} can no longer be read"):
        build(on_error="skip")
    assert (tmp_path / ".out.partial").exists()
    source.with_name("moved").rename(source)
    decoded()
    build(on_error="skip")
    assert BROKEN in decoded() and contents(tmp_path / "out") == expected


def test_a_damaged_image_that_was_mended_or_taken_away_costs_no_other_image(
    build, decoded, expected, source, original, tmp_path
):
    """With it the list of images changes, and with that the place of every tile."""
    (source / BROKEN).write_bytes((original / BROKEN).read_bytes()[:-2000])
    with pytest.raises(UserError, match=BROKEN):
        build()
    assert len(set(decoded()) - {BROKEN}) == 7
    (source / BROKEN).unlink()
    build()
    assert decoded() == [] and not (tmp_path / ".out.partial").exists()

    (source / BROKEN).write_bytes((original / BROKEN).read_bytes()[:-2000])
    with pytest.raises(UserError, match=BROKEN):
        build("mended")
    decoded()
    shutil.copy(original / BROKEN, source / BROKEN)
    build("mended")
    assert decoded() == [BROKEN] and contents(tmp_path / "mended") == expected


def test_what_the_disk_lost_beside_the_build_ends_it(build, monkeypatch, tmp_path):
    """A disk says so once, to whoever asks first."""
    lost = iter([OSError(errno.EIO, "Input/output error", "train-000000.tar")])

    def sync(path: Path) -> None:
        for error in lost:
            raise error

    monkeypatch.setattr(staging, "_SYNC_EVERY_SEC", 0.001)
    monkeypatch.setattr(staging, "sync", sync)
    with pytest.raises(OSError, match="Input/output error"):
        build()
    assert not (tmp_path / "out").exists()


# --- where the shards go --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["a folder", "nothing"])
def test_a_link_to_an_empty_folder_or_to_nothing_yet_is_followed(build, expected, tmp_path, kind):
    if kind == "a folder":
        (tmp_path / "target").mkdir()
    (tmp_path / "out").symlink_to("target")
    build()
    assert contents(tmp_path / "target") == contents(tmp_path / "out") == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source", "target"]
    build()


def test_a_link_in_a_circle_and_a_file_are_refused_before_any_image_is_read(build, decoded, tmp_path):
    (tmp_path / "out").symlink_to("out")
    with pytest.raises(UserError, match="circle"):
        build()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is not a folder"):
        build("file")
    assert decoded() == [] and (tmp_path / "file").read_text() == "mine"


def test_a_home_that_no_shell_has_filled_in_is_no_folder_called_tilde(source, expected, tmp_path, monkeypatch):
    """As in --out=~/shards."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(source)
    build_shards([str(source)], "~/out", OPTIONS, workers=1)
    assert contents(tmp_path / "out") == expected and not (source / "~").exists()


@pytest.fixture
def mounted(monkeypatch, tmp_path) -> Path:
    """OUT as a folder that can't be replaced, as mount points can't, with what a disk has at its top."""
    (tmp_path / "out/lost+found").mkdir(parents=True)
    monkeypatch.setattr(publishing, "is_mount_point", lambda folder: folder.name == "out")
    return tmp_path / "out"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_mount_point_gets_the_shards_inside(build, expected, mounted, tmp_path):
    build()
    assert files(mounted) == expected and {path.name for path in mounted.iterdir()} == {*expected, "lost+found"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


@pytest.mark.parametrize("at", [0, 3, 4, 5])
def test_a_mount_point_that_is_half_filled_when_the_build_is_killed_is_filled_by_the_same_command(
    build, decoded, expected, mounted, monkeypatch, at
):
    rename, moved = Path.rename, []

    def killed(self: Path, target: Path) -> Path:
        if target.parent == mounted:
            if len(moved) == at:
                raise KeyboardInterrupt
            moved.append(target.name)
        return rename(self, target)

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed)
        build()
    assert (mounted / "manifest.json").exists() == (at == 5) and len(expected) == 5
    decoded()
    build()
    assert files(mounted) == expected and decoded() == [] and not (mounted / ".partial").exists()


def test_a_folder_that_turns_out_not_to_be_replaceable_is_filled_as_well(build, expected, monkeypatch, tmp_path):
    (tmp_path / "out").mkdir()
    rmdir = Path.rmdir

    def busy(self: Path) -> None:
        if self.name == "out":
            raise OSError(errno.EBUSY, "Device or resource busy", str(self))
        rmdir(self)

    monkeypatch.setattr(Path, "rmdir", busy)
    build()
    assert contents(tmp_path / "out") == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_the_places_where_something_is_mounted_are_known(tmp_path):
    assert publishing.is_mount_point(Path("/proc")) and not publishing.is_mount_point(tmp_path)
    places = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    assert all(publishing.is_mount_point(Path(place)) for place in places if "\\" not in place and Path(place).is_dir())


def test_a_mount_of_any_name_does_not_hide_the_others(tmp_path, monkeypatch):
    """A disk's label need not be UTF-8."""
    table = f"1 0 8:1 / /media/\udcfc rw - ext4 /dev/sda1 rw\n2 0 8:2 / {tmp_path} rw - ext4 /dev/sda2 rw\n"
    monkeypatch.setattr(Path, "read_bytes", lambda path: table.encode(errors="surrogateescape"))
    assert publishing.is_mount_point(tmp_path) and not publishing.is_mount_point(tmp_path.parent)


def test_without_locks_and_fsync_of_folders_shards_are_built_all_the_same(
    build, expected, monkeypatch, tmp_path, capsys
):
    fsync, warned = os.fsync, "warning: "

    def flock(file, operation) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    def of_files_alone(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(os, "fsync", of_files_alone)
    monkeypatch.setattr(errors, "_warned", set())
    build()
    build("again")
    err = capsys.readouterr().err
    assert contents(tmp_path / "out") == contents(tmp_path / "again") == expected
    assert err.count(warned) == 2 and err.count("without locks") == 1 and err.count("bring folders to the disk") == 1


# --- images that are not those ---------------------------------------------------------------------------


def replace(path: Path) -> None:
    """Another image under the same name, of the same size in bytes and in pixels, with the times of the first."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_other_images_of_the_same_names_and_sizes_are_not_taken_for_those_that_were_built(
    build, expected, source, tmp_path
):
    build()
    replace(source / BROKEN)
    with pytest.raises(UserError, match="holds shards of other images of the same names and sizes"):
        build()
    assert contents(tmp_path / "out") == expected
    assert build("new").identities[0] != read_manifest(tmp_path / "out").identities[0]


def test_copied_or_touched_images_are_still_the_same(build, expected, source, tmp_path, capsys):
    build()
    shutil.copytree(source, tmp_path / "copy")
    shutil.rmtree(source)
    (tmp_path / "copy").rename(source)
    build()
    assert "nothing to do" in capsys.readouterr().out and contents(tmp_path / "out") == expected


def test_images_that_were_replaced_while_a_build_was_interrupted_are_read_anew(build, fault, decoded, source, tmp_path):
    with fault("disk_fills_up"), pytest.raises(OSError):
        build()
    done = decoded()
    replace(source / done[0])
    build()
    assert done[0] in decoded()
    build("fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_shards_of_an_earlier_version_whose_images_contents_are_not_known_are_reused(build, source, tmp_path, capsys):
    build()
    data = json.loads((tmp_path / "out/manifest.json").read_text())
    del data["source_contents"]
    (tmp_path / "out/manifest.json").write_text(json.dumps(data))
    replace(source / BROKEN)
    manifest = build()
    assert "nothing to do" in capsys.readouterr().out
    assert manifest.source_contents is None and manifest.identities == [manifest.source_fingerprint]


def test_a_member_of_a_zip_that_was_replaced_is_seen(source, expected, tmp_path):
    def pack() -> None:
        with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
            for path in sorted(source.iterdir()):
                archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes())

    pack()
    build_shards([str(tmp_path / "images.zip")], tmp_path / "out", OPTIONS, workers=1)
    assert contents(tmp_path / "out") == expected
    pack()
    build_shards([str(tmp_path / "images.zip")], tmp_path / "out", OPTIONS, workers=1)
    replace(source / BROKEN)
    pack()
    with pytest.raises(UserError, match="other images of the same names"):
        build_shards([str(tmp_path / "images.zip")], tmp_path / "out", OPTIONS, workers=1)


def test_two_members_of_one_name_in_a_zip_are_called_so(source, tmp_path):
    """Not two folders of one name, of which there are none."""
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for name in ("0.bmp", "1.bmp", "1.bmp"):
            archive.write(source / name, name)
    with pytest.raises(UserError, match=r"images\.zip holds several images with the name 1\.bmp"):
        build_shards([str(tmp_path / "images.zip")], tmp_path / "out", OPTIONS, workers=1)

"""Fetching data sets from a real server that breaks in many ways."""

import errno
import fcntl
import hashlib
import re
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.archives import IMAGES, contents, png, tarred, zipped
from support.faulty_server import Handler, serving

from n2s_dist.commands import fetch as command_module
from n2s_dist.datasets import download
from n2s_dist.datasets.download import Connection
from n2s_dist.datasets.fetch import fetch
from n2s_dist.utils import publishing
from n2s_dist.utils.errors import UserError

QUICK = Connection(timeout_sec=5, tries=3, pause_sec=0.001)


ZIP = zipped({f"set/{name}": content for name, content in IMAGES.items()})


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def server():
    with serving({"set.zip": ZIP}) as server:
        yield server


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def tool():
    return command_module.main


def refusal(*arguments, **options) -> str:
    """The message of a fetch that the user has to mend: one line."""
    with pytest.raises(UserError) as error:
        fetch(*arguments, **{"network": QUICK, **options})
    message = str(error.value)
    assert message and "\n" not in message
    return message


# --- what is published ------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "pack"), [("zip", zipped), ("tar", tarred), ("tar.gz", lambda m: tarred(m, "w:gz"))])
def test_an_archive_becomes_a_folder_of_its_images(server, describe, out, capsys, kind, pack):
    others = {"set/read.me": b"text", "other/4.png": png(4), "__MACOSX/set/._1.png": b"x", "set/5.tif": b"x"}
    server.files["set"] = pack({**{f"deep/set/{name}": data for name, data in IMAGES.items()}, **others})
    describe(server.url("set"), archive=kind, folders=["set"], glob="*.png", sha256=sha256(server.files["set"]))
    assert fetch("tiny", out, network=QUICK) == out / "tiny"
    assert contents(out / "tiny") == IMAGES
    assert [path.name for path in out.iterdir()] == ["tiny"]
    fetch("tiny", out, network=QUICK)
    assert "already holds the 3 images" in capsys.readouterr().out and len(server.log) == 1


def test_images_with_a_url_each(server, describe, out):
    server.files.update({f"kodim0{name}": data for name, data in IMAGES.items()})
    describe(server.url("kodim{:02d}.png"), archive="none", files={"first": 1, "last": 3})
    fetch("tiny", out, network=QUICK)
    assert contents(out / "tiny") == {f"kodim0{name}": data for name, data in IMAGES.items()}
    assert [path.name for path in out.iterdir()] == ["tiny"]


def test_an_empty_folder_is_filled_and_an_incomplete_one_left_alone(server, describe, out):
    describe(server.url("set.zip"))
    (out / "tiny").mkdir(parents=True)
    fetch("tiny", out, network=QUICK)
    (out / "tiny/2.png").unlink()
    message = refusal("tiny", out)
    assert f"{out / 'tiny'} holds 2 images, tiny has 3" in message and "remove" in message
    assert set(contents(out / "tiny")) == {"1.png", "3.png"} and len(server.log) == 1


def test_a_mount_point_and_a_link_to_an_empty_folder_are_filled(server, describe, out, monkeypatch, capsys):
    monkeypatch.setattr(publishing, "is_mount_point", lambda folder: folder.name == "disk")
    describe(server.url("set.zip"))
    (out / "disk/lost+found").mkdir(parents=True)
    (out / "tiny").symlink_to("disk")
    rename = Path.rename

    def killed(self: Path, target: Path) -> Path:
        if target.name == "3.png":
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed)
        fetch("tiny", out, network=QUICK)
    assert sorted(path.name for path in (out / "disk").iterdir()) == [".download", "1.png", "2.png", "lost+found"]
    for _ in range(2):
        assert fetch("tiny", out, network=QUICK) == out / "tiny"
    assert set(IMAGES) | {"lost+found"} == {path.name for path in (out / "disk").iterdir()}
    assert "already holds the 3 images" in capsys.readouterr().out and len(server.log) == 1


def test_a_mount_point_can_not_become_a_link(describe, out, monkeypatch, tmp_path):
    def busy(self: Path) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy", str(self))

    describe("http://127.0.0.1:1/set.zip")
    (tmp_path / "mine").mkdir()
    for name, content in IMAGES.items():
        (tmp_path / "mine" / name).write_bytes(content)
    (out / "tiny").mkdir(parents=True)
    monkeypatch.setattr(Path, "rmdir", busy)
    assert "can't become a link" in refusal("tiny", out, tmp_path / "mine") and (out / "tiny").is_dir()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 4}, "holds 3 images of tiny, expected are 4"),
        ({"glob": "2*"}, "holds 1 images of tiny, expected are 3"),
        ({"folders": ["elsewhere"]}, "holds 0 images of tiny, expected are 3"),
        ({"sizes": [[500, 500]]}, "has 40 x 30 pixels, in tiny it is 500 x 500"),
        ({"color": "gray"}, "are not all gray, tiny is in gray"),
        ({"sha256": "0" * 64}, f"has the SHA-256 {sha256(ZIP)}, expected is {'0' * 64}"),
    ],
)
def test_what_is_not_the_data_set_is_not_published(server, describe, out, changes, message):
    describe(server.url("set.zip"), **changes)
    assert message in refusal("tiny", out)
    assert not list(out.iterdir())


# --- networks ---------------------------------------------------------------------------------------


def test_broken_connections_cost_no_byte_twice(server, describe, out):
    describe(server.url("set.zip"), sha256=sha256(ZIP))
    server.faults["set.zip"] = [("drop", 1000), ("drop", 500), ("drop", 1), ("drop", 900), ("drop", 0), ("drop", 7)]
    fetch("tiny", out, network=QUICK)
    assert contents(out / "tiny") == IMAGES
    assert sum(served.sent for served in server.log) == len(ZIP)
    starts = [None, *(f"bytes={start}-" for start in (1000, 1500, 1501, 2401, 2401, 2408))]
    assert [served.range for served in server.log] == starts
    assert {served.if_range for served in server.log[1:]} == {'"v1"'}


def test_tries_without_progress_are_bounded(server, describe, out):
    describe(server.url("set.zip"))
    server.faults["set.zip"], server.forever = [("drop", 1000), ("drop", 0)], True
    assert f"the connection ended after 1000 of {len(ZIP)} bytes" in refusal("tiny", out)
    assert len(server.log) == 1 + QUICK.tries
    assert (out / ".tiny.download/archive.part").read_bytes() == ZIP[:1000]
    server.faults.clear()
    fetch("tiny", out, network=QUICK)
    assert server.log[-1].sent == len(ZIP) - 1000 and contents(out / "tiny") == IMAGES


def test_a_server_without_ranges_starts_over(server, describe, out):
    describe(server.url("set.zip"), sha256=sha256(ZIP))  # zip archives read well with other bytes before them
    server.ranges, server.faults["set.zip"] = False, [("drop", 1000), ("drop", 1200)]
    fetch("tiny", out, network=QUICK)
    assert [served.status for served in server.log] == [200, 200, 200] and contents(out / "tiny") == IMAGES


@pytest.mark.parametrize("validators", [{}, {"ETag": 'W/"v1"'}])
def test_without_a_name_for_the_version_nothing_is_resumed(server, describe, out, validators):
    describe(server.url("set.zip"))
    server.validators, server.faults["set.zip"] = validators, [("drop", 1000)]
    fetch("tiny", out, network=QUICK)
    assert [served.range for served in server.log] == [None, None] and contents(out / "tiny") == IMAGES


def test_a_date_names_the_version_too(server, describe, out):
    describe(server.url("set.zip"))
    date = "Tue, 14 Feb 2017 14:27:11 GMT"
    server.validators = {"ETag": 'W/"v1"', "Last-Modified": date}
    server.faults["set.zip"] = [("drop", 1000)]
    fetch("tiny", out, network=QUICK)
    assert (server.log[1].range, server.log[1].if_range) == ("bytes=1000-", date)
    assert sum(served.sent for served in server.log) == len(ZIP)


@pytest.mark.parametrize("minds_if_range", [True, False])
def test_two_versions_are_never_mixed(server, describe, out, minds_if_range):
    """The file changes between two attempts; a server that ignores If-Range is found out by the total length."""
    describe(server.url("set.zip"))
    server.faults["set.zip"], server.forever = [("drop", 1000), ("drop", 0)], True
    refusal("tiny", out)
    new = {name: png(9, (30, 41)) for name in IMAGES}
    server.files["set.zip"], server.validators = zipped(new), {"ETag": '"v2"'}
    server.faults.clear()
    server.minds_if_range = minds_if_range
    fetch("tiny", out, network=QUICK)
    assert contents(out / "tiny") == new
    assert [served.status for served in server.log[-1 - (not minds_if_range) :]] == [206, 200][minds_if_range:]


def test_a_content_length_that_is_too_long(server, describe, out):
    describe(server.url("set.zip"))
    server.faults["set.zip"] = [("length", 10)]
    fetch("tiny", out, network=QUICK)
    assert contents(out / "tiny") == IMAGES and [s.status for s in server.log] == [200, 416, 200]
    server.faults["set.zip"], server.forever = [("length", 10)], True
    assert re.search("connection ended|Range Not Satisfiable", refusal("tiny", out / "again"))


@pytest.mark.parametrize("known", [True, False])
def test_a_content_length_that_is_too_short(server, describe, out, known):
    describe(server.url("set.zip"), sha256=sha256(ZIP) if known else None)
    server.faults["set.zip"] = [("length", -10)]
    message = refusal("tiny", out)
    assert (f"SHA-256 {sha256(ZIP[:-10])}, expected is {sha256(ZIP)}" if known else "is damaged") in message
    fetch("tiny", out, network=QUICK)  # nothing of the wrong bytes was kept
    assert contents(out / "tiny") == IMAGES and server.log[-1].range is None


def test_a_stream_without_a_length(server, describe, out):
    describe(server.url("set.zip"))
    server.chunked, server.faults["set.zip"] = True, [("drop", 1000)]
    fetch("tiny", out, network=QUICK)
    assert contents(out / "tiny") == IMAGES


def test_passing_errors_are_tried_again_and_lasting_ones_not(server, describe, out):
    describe(server.url("gone.zip"), server.url("set.zip"))
    server.faults["set.zip"] = [500, 503]
    fetch("tiny", out, network=QUICK)
    assert [(served.path, served.status) for served in server.log] == [
        ("gone.zip", 404), ("set.zip", 500), ("set.zip", 503), ("set.zip", 200)
    ]  # fmt: skip
    assert contents(out / "tiny") == IMAGES


def test_a_mirror_with_wrong_bytes_gives_way_to_the_next(server, describe, out):
    server.files["wrong.zip"] = zipped({f"set/{name}": png(7) for name in IMAGES})
    describe(server.url("wrong.zip"), server.url("set.zip"), sha256=sha256(ZIP))
    fetch("tiny", out, network=QUICK)
    assert contents(out / "tiny") == IMAGES and server.log[-1].range is None


def test_no_mirror_goes_on_with_the_bytes_of_another(server, describe, out):
    """Not even when both give their versions the same name."""
    server.files["first.zip"] = zipped({f"set/{name}": png(7) for name in IMAGES})
    server.faults["first.zip"], server.forever = [("drop", 1000), ("drop", 0)], True
    describe(server.url("first.zip"), server.url("set.zip"))
    fetch("tiny", out, network=QUICK)
    assert contents(out / "tiny") == IMAGES and server.log[-1].range is None


def test_every_url_and_its_reason_is_named(server, describe, out):
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        nobody = f"http://127.0.0.1:{closed.server_port}/set.zip"
    urls = [server.url("gone.zip"), nobody, server.url("busy.zip"), "http://no-such-host.invalid/set.zip"]
    describe(*urls)
    server.faults["busy.zip"], server.forever = [503], True
    message = refusal("tiny", out)
    reasons = ["404 Not Found", "Connection refused", "503 Service Unavailable", ""]
    for url, reason in zip(urls, reasons, strict=True):
        assert re.search(rf"{re.escape(url)} \([^)]*{reason}", message)
    assert "--from" in message and sum(served.path == "busy.zip" for served in server.log) == QUICK.tries


def test_a_server_that_falls_silent(server, describe, out):
    describe(server.url("set.zip"))
    network = Connection(timeout_sec=0.2, tries=2, pause_sec=0.001)
    server.faults["set.zip"] = [("wait", 1000)]
    fetch("tiny", out, network=network)
    assert contents(out / "tiny") == IMAGES and server.log[1].range == "bytes=1000-"
    server.faults["set.zip"], server.forever = [("wait", 0)], True
    assert "no answer within 0.2 s" in refusal("tiny", out / "again", network=network)


def test_redirections_lead_to_http_alone(server, describe, out):
    describe(server.url("old.zip"))
    server.faults["old.zip"] = [("redirect", server.url("set.zip"))] * 2
    server.faults["set.zip"] = [("drop", 1000)]
    fetch("tiny", out, network=QUICK)
    assert contents(out / "tiny") == IMAGES and server.log[-1].range == "bytes=1000-"
    for place in (f"file://{out / 'tiny/1.png'}", "ftp://127.0.0.1/set.zip"):
        server.faults["old.zip"] = [("redirect", place)] * QUICK.tries
        refusal("tiny", out / "again")
    assert not (out / "again/tiny").exists()


def test_a_page_instead_of_an_image_gives_way_to_the_next_mirror(server, describe, out):
    server.files.update({f"good/{name}": data for name, data in IMAGES.items()})
    server.files.update({f"bad/{name}": b"<html>Not here</html>" for name in IMAGES})
    server.files["bad/1.png"] = IMAGES["1.png"]
    files = {"first": 1, "last": 3}
    describe(server.url("bad/{}.png"), server.url("good/{}.png"), archive="none", files=files)
    fetch("tiny", out, network=QUICK)
    assert contents(out / "tiny") == IMAGES
    assert [served.path for served in server.log] == ["bad/1.png", "bad/2.png", "good/2.png", "good/3.png"]
    server.files["good/2.png"] = IMAGES["2.png"][:-40]
    describe(server.url("good/{}.png"), archive="none", files=files)
    assert "can't be decoded" in refusal("tiny", out / "again")


# --- interruptions, disks, other processes ----------------------------------------------------------


def test_images_that_are_whole_are_not_fetched_again(server, describe, out):
    server.files.update(IMAGES)
    describe(server.url("{}.png"), archive="none", files={"names": ["1", "2", "3"]})
    server.faults["3.png"], server.forever = [("drop", 100), ("drop", 0)], True
    refusal("tiny", out)
    server.faults.clear()
    server.log.clear()
    fetch("tiny", out, network=QUICK)
    assert [(served.path, served.range) for served in server.log] == [("3.png", "bytes=100-")]
    assert contents(out / "tiny") == IMAGES


@pytest.mark.parametrize("chunked", [False, True])
def test_a_complete_download_that_was_not_unpacked_is_not_fetched_again(server, describe, out, monkeypatch, chunked):
    def interrupt(*arguments) -> None:
        raise KeyboardInterrupt

    describe(server.url("set.zip"))
    server.chunked = chunked
    with monkeypatch.context() as patch:
        patch.setattr("n2s_dist.datasets.fetch.unpack", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch("tiny", out, network=QUICK)
    (out / ".tiny.download/images").mkdir()  # as a kill leaves it
    (out / ".tiny.download/images/9.png").write_bytes(b"half an image")
    fetch("tiny", out, network=QUICK)
    assert contents(out / "tiny") == IMAGES and len(server.log) == 1


def test_a_full_disk_is_one_line(server, describe, out, cli, tool):
    """/dev/full refuses every byte, as a full disk does."""
    describe(server.url("set.zip"))
    (out / ".tiny.download").mkdir(parents=True)
    (out / ".tiny.download/archive.part").symlink_to("/dev/full")
    line = cli(tool, "tiny", "--out", out).error(2)
    assert "disk is full" in line and "archive.part" in line


def test_a_disk_that_fills_up_while_unpacking(server, describe, out, cli, tool, monkeypatch):
    def full(source, target: Path, *arguments) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    describe(server.url("set.zip"))
    with monkeypatch.context() as patch:
        patch.setattr("n2s_dist.datasets.archives._copy", full)
        assert "disk is full while writing" in cli(tool, "tiny", "--out", out).error(2)
    assert not (out / "tiny").exists() and not (out / ".tiny.download/images").exists()
    assert cli(tool, "tiny", "--out", out).code == 0 and len(server.log) == 1


def test_a_disk_too_small_is_found_before_the_download(server, describe, out, monkeypatch):
    describe(server.url("set.zip"))
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert "disk is full" in refusal("tiny", out)
    assert not list(out.iterdir())


def test_one_process_at_a_time(server, describe, out):
    describe(server.url("set.zip"))
    work = out / ".tiny.download"
    work.mkdir(parents=True)
    with (work / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "another process is fetching" in refusal("tiny", out)
    fetch("tiny", out, network=QUICK)
    assert contents(out / "tiny") == IMAGES


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tinny"], "unknown data set 'tinny', did you mean 'tiny'?"),
        (["tiny", "zzzz"], "known are tiny"),
        (["tiny", "--timeout", "0"], "--timeout is 0.0"),
        (["tiny", "--tries", "0"], "--tries is 0"),
        (["tiny", "--from", "nowhere.zip"], "nowhere.zip does not exist"),
        (["tiny", "--out", "/dev/null/data"], "choose another --out"),
        (["../shards/tiny"], "unknown data set"),
    ],
)
def test_mistakes_are_one_line(server, describe, cli, tool, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    describe(server.url("set.zip"))
    assert words in cli(tool, *arguments).error(2)
    assert not (tmp_path / "data").exists() and not server.log


# --- what the user has already ----------------------------------------------------------------------


def test_from_an_archive(describe, out, tmp_path, cli, tool):
    (tmp_path / "my.zip").write_bytes(ZIP)
    describe("http://no-such-host.invalid/set.tar", archive="tar", sha256=sha256(ZIP))
    assert cli(tool, "tiny", "--out", out, "--from", tmp_path / "my.zip").code == 0
    assert contents(out / "tiny") == IMAGES and (tmp_path / "my.zip").read_bytes() == ZIP


def test_from_a_folder(describe, out, tmp_path, monkeypatch):
    (tmp_path / "mine/sub").mkdir(parents=True)
    for name, data in IMAGES.items():
        (tmp_path / "mine/sub" / name).write_bytes(data)
    describe("http://no-such-host.invalid/set.zip", sha256="0" * 64)
    monkeypatch.chdir(tmp_path)
    fetch("tiny", out, "mine")
    assert (out / "tiny").resolve() == tmp_path / "mine" and [path.name for path in out.iterdir()] == ["tiny"]
    assert contents(out / "tiny/sub") == IMAGES
    fetch("tiny", out)
    (tmp_path / "mine").rename(tmp_path / "moved")
    assert f"link to {tmp_path / 'mine'}, which does not exist" in refusal("tiny", out)


def test_from_the_wrong_place(describe, out, tmp_path):
    (tmp_path / "two").mkdir()
    for name in ("1.png", "2.png"):
        (tmp_path / "two" / name).write_bytes(IMAGES[name])
    (tmp_path / "two.zip").write_bytes(zipped({"1.png": IMAGES["1.png"], "2.png": IMAGES["2.png"]}))
    (tmp_path / "text.zip").write_text("no archive")
    describe("http://no-such-host.invalid/set.zip")
    assert "two holds 2 images, tiny has 3" in refusal("tiny", out, tmp_path / "two")
    assert "two.zip holds 2 images of tiny, expected are 3" in refusal("tiny", out, tmp_path / "two.zip")
    assert "text.zip is damaged or is not" in refusal("tiny", out, tmp_path / "text.zip")
    describe("http://no-such-host.invalid/set.zip", sha256="0" * 64, images=2)
    assert f"expected is {'0' * 64}" in refusal("tiny", out, tmp_path / "two.zip")
    assert not out.exists() or not list(out.iterdir())


def test_data_sets_that_look_alike_are_told_apart(out, tmp_path):
    """The repository's own descriptions: crops and whole Kodak photographs, color and gray BSD68."""
    for folder, size, gray, count in [("crops", (500, 500), False, 24), ("whole", (512, 768), False, 24),
                                      ("gray", (321, 481), True, 68), ("color", (481, 321), False, 68)]:  # fmt: skip
        (tmp_path / folder).mkdir()
        data = png(0, size, gray)
        for number in range(count):
            (tmp_path / folder / f"{number:02d}.png").write_bytes(data)
    sources = {"kodak24": "crops", "kodak_full": "whole", "bsd68": "gray", "cbsd68": "color"}
    for name, right in sources.items():
        for other in {"crops", "whole"} ^ {"gray", "color"}:
            if other != right:
                refusal(name, out, tmp_path / other)
        fetch(name, out, tmp_path / right)

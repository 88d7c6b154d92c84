"""Remote shards: the same batches and weights as from a folder, whatever servers, neighbours and kills do."""

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.patience import HANG_SEC, SOON_SEC
from support.servers import failing_server, nginx

from n2s_dist import train as training
from n2s_dist.loading import remote_cache, remote_files, sample_order
from n2s_dist.loading.crop_loader import CropLoader
from n2s_dist.loading.prefetch import Prefetcher, bring_ahead
from n2s_dist.loading.remote_cache import RemoteShards, open_store
from n2s_dist.loading.remote_files import Closed, Patience, RemoteFolder
from n2s_dist.models import checkpoint
from n2s_dist.noise.gaussian import Gaussian
from n2s_dist.shards.build.builder import BuildOptions, build_shards
from n2s_dist.shards.reader import ShardSet
from n2s_dist.training.batches import node_positions
from n2s_dist.utils.errors import RunFailed, UserError

pytestmark = pytest.mark.usefixtures("cpu")

HURRIED = Patience(first_pause_sec=0.01, timeout_sec=5)
BATCHES, BATCH, CROP, SEED = 12, 8, 48, 5


@pytest.fixture(scope="module")
def folder(random_images, tmp_path_factory) -> Path:
    """Six shards of one MiB for training and two for validation, of random pixels."""
    source, out = random_images(4, 768, 768), tmp_path_factory.mktemp("built") / "set"
    options = BuildOptions(tile_size=128, validation_fraction=0.25, shard_mib=1)
    manifest = build_shards([str(source)], out, options, workers=1)
    assert {name: len(split.shards) for name, split in manifest.splits.items()} == {"train": 6, "validation": 2}
    return out


@pytest.fixture(scope="module")
def names(folder) -> list[str]:
    return [entry.name for entry in ShardSet(folder).split.shards]


@pytest.fixture
def server(folder):
    with failing_server(folder) as server:
        yield server


@pytest.fixture(scope="module")
def web(everything, tmp_path_factory):
    """nginx, serving everything that the tests make."""
    with nginx(everything, tmp_path_factory.mktemp("nginx")) as running:
        yield running


def url_of(web, folder: Path, everything: Path) -> str:
    return f"{web.url}/{folder.relative_to(everything)}"


def shards_held(folder: Path, count: float) -> int:
    """Bytes of a cache that holds so many of the largest shards, with their indexes."""
    entries = [entry for split in ShardSet(folder).manifest.splits.values() for entry in split.shards]
    return int(count * max(entry.bytes + 128 * (entry.samples + 1) for entry in entries))


def store_of(url: str, folder: Path, tmp_path: Path, count: float = 20) -> RemoteShards:
    return RemoteShards(url, tmp_path / "cache", shards_held(folder, count), HURRIED)


def positions() -> Iterator[np.ndarray]:
    return (sample_order.rank_positions(step, BATCH, 0, 1) for step in range(BATCHES))


def batches(shards: ShardSet, ahead: bool = False) -> torch.Tensor:
    sample_index = partial(sample_order.sample_index, SEED, num_samples=len(shards))
    own = bring_ahead(shards, positions(), positions(), sample_index) if ahead else positions()
    return torch.stack(list(CropLoader(shards, own, BATCH, CROP, Gaussian(0.1), SEED)))


@pytest.fixture(scope="module")
def expected(folder) -> torch.Tensor:
    """Batches from the folder itself."""
    return batches(ShardSet(folder))


def cached(tmp_path: Path, pattern: str = "*.tar") -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").glob(f"remote-*/{pattern}"))


def check_cached(tmp_path: Path, folder: Path, names: list[str]) -> None:
    """Tars and rebuilt indexes are, to the byte, those that were built."""
    assert cached(tmp_path) == sorted(names)
    for path in (tmp_path / "cache").glob("remote-*/*.[ti][ad][rx]"):
        assert path.read_bytes() == (folder / path.name).read_bytes(), path.name


# --- the same as from a folder --------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [False, True])
def test_batches_over_http_are_those_of_the_folder(web, folder, names, expected, tmp_path, everything, ahead):
    """And each shard comes once, in one request."""
    before = {name: len(web.sent(name)) for name in names}
    store = store_of(url_of(web, folder, everything), folder, tmp_path)
    assert torch.equal(batches(ShardSet(store), ahead), expected)
    check_cached(tmp_path, folder, names)
    time.sleep(0.05)  # nginx writes its log after the last byte
    for name in names:
        assert web.sent(name)[before[name] :] == [(folder / name).stat().st_size], name
    assert not web.sent(".idx")
    again = store_of(url_of(web, folder, everything), folder, tmp_path)
    assert torch.equal(batches(ShardSet(again)), expected)
    assert [len(web.sent(name)) for name in names] == [before[name] + 1 for name in names]


@pytest.fixture
def bucket(folder, monkeypatch):
    """The shards in a bucket of an S3 server on this machine."""
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for key, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(key, value)
    import s3fs

    files = s3fs.S3FileSystem(skip_instance_cache=True)
    files.mkdir("bucket")
    files.put(str(folder), "bucket/shards", recursive=True)
    yield "s3://bucket/shards"
    server.stop()


def test_batches_from_s3_are_those_of_the_folder(bucket, folder, names, expected, tmp_path, monkeypatch):
    assert torch.equal(batches(ShardSet(store_of(f"{bucket}/", folder, tmp_path)), ahead=True), expected)
    check_cached(tmp_path, folder, names)
    partial = next((tmp_path / "cache").glob(f"remote-*/{names[0]}"))
    size = shards_held(folder, 0) or ShardSet(folder).split.shards[0]
    partial = partial.rename(partial.with_name(f".{names[0]}.{size.bytes + 128 * (size.samples + 1)}.partial"))
    os.truncate(partial, 700_000)  # what a killed process leaves
    with store_of(bucket, folder, tmp_path).hold(names[0]):
        check_cached(tmp_path, folder, names)
    with pytest.raises(UserError, match=r"s3://bucket/nowhere/manifest\.json does not exist"):
        store_of("s3://bucket/nowhere", folder, tmp_path)
    with pytest.raises(UserError, match=r"s3://tub/manifest\.json does not exist"):
        store_of("s3://tub", folder, tmp_path)


def test_training_over_http_ends_with_the_same_weights(web, shards, trained, tiny, cli, tmp_path, everything):
    """And the remote set counts as the same shards as the folder: the run there could go on with either."""
    options = [f"--data.shards={url_of(web, shards, everything)}", f"--data.cache_dir={tmp_path / 'cache'}"]
    done = cli(training.main, *tiny, *options, "--data.cache_gib=0.01", "--run_dir", tmp_path / "run")
    assert done.code == 0, done.err
    last = [checkpoint.locate(path) / "model.safetensors" for path in (tmp_path / "run", trained)]
    assert last[0].read_bytes() == last[1].read_bytes()
    rows = [(path / "metrics.jsonl").read_text().splitlines() for path in (tmp_path / "run", trained)]
    for a, b in zip(*(map(json.loads, lines) for lines in rows), strict=True):
        assert {k: a[k] for k in ("loss", "val_psnr_db") if k in a} == {
            k: b[k] for k in ("loss", "val_psnr_db") if k in b
        }
    local = shutil.copytree(trained, tmp_path / "local")
    assert "nothing to do" in cli(training.main, *tiny, *options, "--run_dir", local).out


# --- faults ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["503", "reset", "cut", "wrong"])
def test_every_third_request_may_fail(server, folder, names, expected, tmp_path, fault):
    server.fault = lambda number, name: fault if number % 3 == 1 else None
    if fault in ("wrong", "cut"):  # of the manifest, which has no checksum, these would be seen as such
        server.fault = lambda number, name: fault if number % 3 == 2 and name != "manifest.json" else None
    store = store_of(server.url, folder, tmp_path)
    assert torch.equal(batches(ShardSet(store), ahead=True), expected)
    check_cached(tmp_path, folder, names)
    assert server.requests > len(names) + 1


def test_a_body_cut_short_goes_on_where_it_ended(tmp_path):
    """Even more often than would be borne, had it not brought something each time.

    Not a shard of a megabyte: of a connection that ends, the HTTP client drops what it had read ahead, up to 0.8 MB.
    """
    content, came = np.random.default_rng(0).bytes(2**25), tmp_path / "came"
    (tmp_path / "big.tar").write_bytes(content)
    with failing_server(tmp_path) as server, came.open("w+b") as file:
        server.fault = lambda number, name: "cut" if number <= 3 else None
        source = RemoteFolder(server.url, Patience(tries=2, first_pause_sec=0.01), threading.Event())
        source.fetch("big.tar", len(content), hashlib.sha256(content).hexdigest(), file)
        begins = [answer.begin for answer in server.answers]
        sent = sum(answer.sent for answer in server.answers)
    assert came.read_bytes() == content
    assert len(begins) == 4 and begins[0] == 0 and begins == sorted(set(begins))
    assert sent < 1.1 * len(content)


def test_a_server_that_can_not_skip_begins_again(server, folder, names, tmp_path):
    server.knows_ranges = False
    server.fault = lambda number, name: "cut" if number == 2 else None
    with store_of(server.url, folder, tmp_path).hold(names[0]) as path:
        assert path.read_bytes() == (folder / names[0]).read_bytes()
    assert [answer.begin for answer in server.answers if answer.name == names[0]] == [0, 0]


def test_silence_counts_as_a_fault(server, folder, names, tmp_path):
    server.fault = lambda number, name: "silence" if number == 2 else None
    store = RemoteShards(server.url, tmp_path / "cache", 2**30, Patience(first_pause_sec=0.01, timeout_sec=0.3))
    with store.hold(names[0]) as path:
        assert path.read_bytes() == (folder / names[0]).read_bytes()
    assert server.requests == 3


@pytest.mark.parametrize(
    ("fault", "said"), [("503", "HTTP status 503"), ("reset", ""), ("cut", "bytes"), ("silence", "no answer in time")]
)
def test_patience_ends_with_the_shard_and_the_reason(server, folder, names, tmp_path, fault, said):
    server.fault = lambda number, name: fault if name.endswith(".tar") else None
    store = RemoteShards(server.url, tmp_path / "cache", 2**30, Patience(3, 0.01, 0.2))
    with pytest.raises(RunFailed, match=f"{server.url}/{names[0]} can't be read, 3 tries failed: .*{said}"):
        ShardSet(store)[0]
    requests = server.requests
    with pytest.raises(RunFailed, match=names[0]):  # who asks next in this process need not wait as long again
        ShardSet(store)[0]
    assert server.requests == requests
    server.fault = lambda number, name: None
    assert ShardSet(store)[len(ShardSet(store)) - 1]


def test_the_pauses_grow_to_about_a_minute_in_all(monkeypatch):
    stop, waited = threading.Event(), []
    monkeypatch.setattr(stop, "wait", lambda seconds: waited.append(seconds))
    pauses = remote_files.Pauses("url", remote_files.PATIENCE, stop)
    with pytest.raises(RunFailed, match="6 tries"):
        for _ in range(9):
            pauses.after(OSError("refused"))
    assert len(waited) == 5 and 40 < sum(waited) < 80
    assert all(b > a for a, b in itertools.pairwise(waited))


def test_wrong_bytes_stop_training_and_are_never_used(server, folder, tiny, cli, tmp_path, monkeypatch):
    monkeypatch.setattr(remote_cache, "PATIENCE", HURRIED)
    server.fault = lambda number, name: "wrong" if name.startswith("train-000003") else None
    options = [f"--data.shards={server.url}", f"--data.cache_dir={tmp_path / 'cache'}", "--data.cache_gib=0.1"]
    line = cli(training.main, *tiny, *options, "--run_dir", tmp_path / "run").error(1)
    promised = hashlib.sha256((folder / "train-000003.tar").read_bytes()).hexdigest()
    assert f"{server.url}/train-000003.tar has wrong bytes (sha256 " in line and f"expected {promised})" in line
    assert "train-000003.tar" not in cached(tmp_path)
    assert not list((tmp_path / "run").glob("checkpoints/samples-*"))
    assert sum(answer.name == "train-000003.tar" for answer in server.answers) == HURRIED.wrong_tries


def test_a_file_that_is_too_long_or_too_short_is_not_cut_to_fit(folder, names, tmp_path):
    changed = Path(shutil.copytree(folder, tmp_path / "changed"))
    with (changed / names[0]).open("ab") as file:
        file.write(b"\0" * 512)
    os.truncate(changed / names[1], 5000)
    with failing_server(changed) as server:
        store = store_of(server.url, folder, tmp_path)
        with pytest.raises(RunFailed, match=f"{names[0]} has wrong bytes"), store.hold(names[0]):
            pass
        with pytest.raises(RunFailed, match=f"{names[1]} can't be read.* 5000 of"), store.hold(names[1]):
            pass
    assert not cached(tmp_path)


def test_nobody_answering_is_named(folder, tiny, cli, tmp_path, monkeypatch):
    monkeypatch.setattr(remote_cache, "PATIENCE", HURRIED)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and never listens
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/shards"
        line = cli(training.main, *tiny, f"--data.shards={url}", "--run_dir", tmp_path / "run").error(1)
    assert f"{url}/manifest.json can't be read, 6 tries failed" in line
    assert not (tmp_path / "run").exists()


def test_a_rank_that_alone_meets_a_fault_says_so_itself(cli, monkeypatch):
    monkeypatch.setenv("RANK", "3")

    def main() -> None:
        raise RunFailed("a.tar can't be read")

    assert cli(main).error(1) == "error: a.tar can't be read"


# --- what the user can mend -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://me:hidden@127.0.0.1/shards",
        "https://hidden@127.0.0.1/shards",
        "s3://key:hidden@bucket/shards",
        "https://bucket.s3.amazonaws.com/shards?X-Amz-Signature=hidden",
        "https://account.blob.core.windows.net/shards?sig=hidden",
        "https://127.0.0.1/shards?token=hidden",
        "https://127.0.0.1/shards#hidden",
    ],
)
def test_urls_with_secrets_are_refused_and_not_repeated(tiny, cli, tmp_path, url):
    done = cli(training.main, *tiny, f"--data.shards={url}", "--run_dir", tmp_path / "run")
    assert "environment" in done.error(2) and "hidden" not in done.out + done.err
    assert not (tmp_path / "run").exists()


def test_what_is_no_set_of_shards_is_named(server, folder, tmp_path, monkeypatch):
    def refusal(url: str, count: float = 20) -> str:
        with pytest.raises(UserError) as refused:
            store_of(url, folder, tmp_path, count)
        return str(refused.value)

    server.fault = lambda number, name: {1: "404", 2: "403"}.get(number)
    assert f"{server.url}/manifest.json does not exist" in refusal(server.url)
    assert f"{server.url}/manifest.json is not for us to read (HTTP status 403)" in refusal(server.url)
    assert "gopher://127.0.0.1/shards is no URL" in refusal("gopher://127.0.0.1/shards")
    assert "is no URL (Invalid IPv6 URL)" in refusal("http://[x/shards")
    chained = refusal("simplecache::https://somebody:secret@127.0.0.1/shards")
    assert "is a chain of URLs" in chained and "secret" not in chained
    assert "at least two shards" in refusal(server.url, 1.9) and "data.cache_gib is 0.00" in refusal(server.url, 1.9)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    assert "pip install -e '.[remote]'" in refusal("s3://bucket/shards")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"data\.cache_dir .* can't be written"):
        RemoteShards(server.url, tmp_path / "file" / "cache", 2**30, HURRIED)


@pytest.mark.parametrize("name", ["../../evil.tar", "/etc/evil.tar", ".hidden.tar", "a.txt", ""])
def test_a_manifest_can_not_name_files_elsewhere(folder, tmp_path, name):
    changed = Path(shutil.copytree(folder, tmp_path / "changed"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["train"]["shards"][0]["name"] = name
    (changed / "manifest.json").write_text(json.dumps(manifest))
    with failing_server(changed) as server, pytest.raises(UserError, match="a shard with the name"):
        store_of(server.url, folder, tmp_path)


def test_the_cache_is_where_it_was_asked_for(server, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for asked, found in (("", "xdg/n2s_dist"), (str(tmp_path / "own"), "own"), ("~/mine", "home/mine")):
        open_store(server.url, asked, 1)
        assert list((tmp_path / found).glob("remote-*"))
    monkeypatch.delenv("XDG_CACHE_HOME")
    open_store(server.url, "", 1)
    assert list((tmp_path / "home/.cache/n2s_dist").glob("remote-*"))


def test_a_file_url_is_a_folder(folder):
    assert open_store(f"file://{folder}").location == open_store(str(folder)).location == folder


# --- neighbours -----------------------------------------------------------------------------------------

READ_ALL = """
import hashlib, random, sys
from pathlib import Path
from n2s_dist.loading.remote_cache import RemoteShards
from n2s_dist.shards.reader import ShardSet
url, folder, capacity, seed = sys.argv[1:]
sets = [ShardSet(RemoteShards(url, Path(folder), int(capacity)), split) for split in ("train", "validation")]
samples = [(shards, index) for shards in sets for index in range(len(shards))]
random.Random(seed).shuffle(samples)
print("begin", flush=True)
seen = {(id(shards), index): hashlib.sha256(shards[index].tile.tobytes()).digest() for shards, index in samples}
print(hashlib.sha256(b"".join(seen[id(shards), index] for shards in sets for index in range(len(shards)))).hexdigest())
"""


def digest_of_all(folder: Path) -> str:
    sets = [ShardSet(folder, split) for split in ("train", "validation")]
    tiles = [shards[index].tile for shards in sets for index in range(len(shards))]
    return hashlib.sha256(b"".join(hashlib.sha256(tile.tobytes()).digest() for tile in tiles)).hexdigest()


@pytest.fixture
def readers(environment):
    """Start processes that read all samples in orders of their own; none outlives the test."""
    started = []

    def start(url: str, tmp_path: Path, capacity: int, seed: int) -> subprocess.Popen:
        command = [sys.executable, "-c", READ_ALL, url, str(tmp_path / "cache"), str(capacity), str(seed)]
        started.append(
            subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_two_jobs_of_two_ranks_fetch_each_shard_once(server, folder, readers, tmp_path):
    server.block_pause_sec = 0.002  # 0.15 s a shard: they meet
    processes = [readers(server.url, tmp_path, 2**30, seed) for seed in range(4)]
    printed = [process.communicate(timeout=HANG_SEC)[0].split() for process in processes]
    assert printed == [["begin", digest_of_all(folder)]] * 4
    tars = [answer for answer in server.answers if answer.name.endswith(".tar")]
    assert sorted((a.name, a.sent) for a in tars) == sorted((t.name, t.stat().st_size) for t in folder.glob("*.tar"))


def test_a_small_cache_is_shared_and_never_exceeded(server, folder, readers, tmp_path):
    """Three processes want eight shards at once, room is for two and a half."""
    server.block_pause_sec, capacity = 0.0005, shards_held(folder, 2.5)
    processes, most = [readers(server.url, tmp_path, capacity, seed) for seed in range(2)], 0
    ordered = ShardSet(store_of(server.url, folder, tmp_path, 2.5))
    watching = threading.Event()

    def watch() -> None:
        nonlocal most
        while not watching.wait(0.001):
            sizes = []
            for path in (tmp_path / "cache").glob("remote-*/*"):
                sizes += [size] if (size := remote_cache._size(path)) else []
            most = max(most, sum(sizes))

    watcher = threading.Thread(target=watch)
    watcher.start()
    mine = [hashlib.sha256(ordered[index].tile.tobytes()).digest() for index in range(len(ordered))]
    for process in processes:
        process.kill()  # their order is random: with so little room they would fetch for very long
    watching.set()
    watcher.join()
    local = ShardSet(folder)
    assert mine == [hashlib.sha256(local[index].tile.tobytes()).digest() for index in range(len(local))]
    assert shards_held(folder, 1.5) < most <= capacity


def slow_store(server, folder, tmp_path, count: float = 20) -> RemoteShards:
    server.block_pause_sec = 0.01
    return store_of(server.url, folder, tmp_path, count)


def partial_size(tmp_path: Path) -> int:
    return sum(path.stat().st_size for path in (tmp_path / "cache").glob("remote-*/.*.partial"))


def wait_until(ready) -> None:
    deadline = time.monotonic() + 30
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("spoilt", [False, True])
def test_a_killed_process_leaves_what_the_next_one_goes_on_from(server, folder, names, readers, tmp_path, spoilt):
    """Or, if what it left has wrong bytes, begins again."""
    server.block_pause_sec = 0.01
    process = readers(server.url, tmp_path, 2**30, 0)
    wait_until(lambda: partial_size(tmp_path) > 200_000)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = partial_size(tmp_path)
    (partial,) = (tmp_path / "cache").glob("remote-*/.*.partial")
    name = partial.name[1:].split(".")[0] + ".tar"
    if spoilt:
        with partial.open("r+b") as file:
            file.write(b"spoilt")
    server.block_pause_sec, before = 0.0, len(server.answers)
    with store_of(server.url, folder, tmp_path).hold(name) as path:
        assert path.read_bytes() == (folder / name).read_bytes()
    begins = [answer.begin for answer in server.answers[before:] if answer.name == name]
    assert begins == ([left, 0] if spoilt else [left]) and not partial.exists()


@pytest.mark.parametrize("pattern", ["*.lock", "*"])
def test_clearing_the_cache_away_while_it_is_written_harms_nobody(server, folder, names, tmp_path, pattern):
    """Locks alone, or all of it: what then gets its final name is still whole."""
    stores, found = [slow_store(server, folder, tmp_path) for _ in range(2)], []

    def read(store: RemoteShards) -> None:
        with store.hold(names[0]) as path:
            found.append(path.read_bytes() == (folder / names[0]).read_bytes())

    threads = [threading.Thread(target=read, args=(store,)) for store in stores]
    threads[0].start()
    wait_until(lambda: partial_size(tmp_path) > 200_000)
    (place,) = (tmp_path / "cache").glob("remote-*")
    for path in list(place.glob(pattern)):
        path.unlink()
    threads[1].start()
    for thread in threads:
        thread.join(30)
    assert found == [True, True]
    check_cached(tmp_path, folder, names[:1])


def test_closing_ends_fetching_and_waiting_at_once(server, folder, names, tmp_path):
    server.block_pause_sec, ended = 1.0, []
    stores = [store_of(server.url, folder, tmp_path) for _ in range(2)]

    def read(store: RemoteShards) -> None:
        try:
            with store.hold(names[0]):
                pass
        except Closed:
            ended.append(store)

    threads = [threading.Thread(target=read, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    wait_until(lambda: partial_size(tmp_path) > 0)
    begin = time.monotonic()
    for store, thread in zip(stores, threads, strict=True):
        store.close()
        thread.join(10)
    assert len(ended) == 2 and time.monotonic() - begin < SOON_SEC


# --- room -------------------------------------------------------------------------------------------------


def bring(store: RemoteShards, *names: str) -> None:
    for name in names:
        with store.hold(name):
            time.sleep(0.002)  # so that no two were used at the same time


def test_the_least_recently_used_goes_first(server, folder, names, tmp_path):
    a, b, c, d, e, _ = names
    store = store_of(server.url, folder, tmp_path, 3)
    bring(store, a, b, c)
    bring(store, a)
    bring(store, d)
    assert cached(tmp_path) == [a, c, d] == sorted(name.replace(".idx", ".tar") for name in cached(tmp_path, "*.idx"))
    assert store.has(c)
    bring(store, e)
    assert cached(tmp_path) == [c, d, e]
    assert not store.has(a)


def test_what_somebody_is_opening_stays(server, folder, names, tmp_path):
    a, b, c, _, _, _ = names
    store, other = (store_of(server.url, folder, tmp_path, 2) for _ in range(2))
    bring(store, a, b)
    with other.hold(a) as path:
        os.utime(path, (0, 0))  # it would be the first to go
        bring(store, c)
        assert cached(tmp_path) == [a, c]


def test_tiles_outlive_their_files(server, folder, names, tmp_path):
    store = store_of(server.url, folder, tmp_path, 2)
    shards, local = ShardSet(store), ShardSet(folder)
    samples = [shards[index] for index in range(len(shards))]
    assert len(cached(tmp_path)) == 2
    for index, sample in enumerate(samples):
        assert sample.tile.tobytes() == local[index].tile.tobytes()
        assert sample._replace(tile=None) == local[index]._replace(tile=None)
        assert not sample.tile.flags.owndata


def test_a_shard_may_go_as_soon_as_it_was_opened(server, folder, tmp_path, monkeypatch):
    """By another process that needs room, before a first tile was read."""
    store = store_of(server.url, folder, tmp_path)
    held = store.hold

    @contextlib.contextmanager
    def held_last(name: str) -> Iterator[Path]:
        with held(name) as path:
            yield path
        path.unlink()
        path.with_suffix(".idx").unlink()

    monkeypatch.setattr(store, "hold", held_last)
    assert ShardSet(store)[0].tile.tobytes() == ShardSet(folder)[0].tile.tobytes()


def test_other_tars_in_the_cache_directory_are_left_alone(server, folder, names, tmp_path):
    """Someone's cache directory may be the folder that built shards lie in."""
    mine = Path(shutil.copytree(folder, tmp_path / "cache" / "set"))
    bring(store_of(server.url, folder, tmp_path, 2), *names)
    assert sorted(path.name for path in mine.iterdir()) == sorted(path.name for path in folder.iterdir())
    assert len(cached(tmp_path)) == 2


def test_sets_share_one_limit(server, folder, names, tmp_path):
    """What nobody has used for long goes, whichever set it is of, and what a dead process left unfinished too."""
    a, b, c, d, e, _ = names
    first, second = (store_of(f"{server.url}/{path}", folder, tmp_path, 2) for path in ("first", "second"))
    bring(first, a, b)
    bring(second, c)
    assert cached(tmp_path) == [b, c]
    server.fault = lambda number, name: "cut"
    with pytest.raises(RunFailed):
        bring(second, d)
    assert cached(tmp_path) == [c] and len(cached(tmp_path, ".*.partial")) == 1
    server.fault = lambda number, name: None
    bring(first, e)
    assert cached(tmp_path) == [e] and len(cached(tmp_path, ".*.partial")) == 1
    bring(first, a)
    assert cached(tmp_path) == [a, e] and not cached(tmp_path, ".*.partial")


def test_nobody_waits_for_ever_for_room(server, folder, names, tmp_path, monkeypatch):
    """Three go on with what killed ones had begun, at the same moment, in a cache that holds two of them."""
    stores, met = [store_of(server.url, folder, tmp_path, 2) for _ in range(3)], threading.Barrier(3)
    (place,) = (tmp_path / "cache").glob("remote-*")
    for entry in ShardSet(folder).split.shards[:3]:
        (place / f".{entry.name}.{remote_cache._room(entry)}.partial").write_bytes(b"begun")
    reserve = RemoteShards._reserve

    def meet_first(store: RemoteShards, partial: Path, need: int) -> bool:
        if store in waiting:
            waiting.remove(store)
            met.wait(10)
        return reserve(store, partial, need)

    waiting = list(stores)
    monkeypatch.setattr(RemoteShards, "_reserve", meet_first)
    threads = [threading.Thread(target=bring, args=pair) for pair in zip(stores, names[:3], strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    finished = [not thread.is_alive() for thread in threads]
    for store in stores:
        store.close()
    assert finished == [True, True, True]


def test_a_full_disk_makes_room_then_is_named(server, folder, names, tmp_path, monkeypatch):
    store, usage = store_of(server.url, folder, tmp_path), shutil.disk_usage(tmp_path)
    bring(store, names[0], names[1])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2000))
    with pytest.raises(OSError, match="No space left on device") as full:
        bring(store, names[2])
    assert names[2] in full.value.filename and not cached(tmp_path)


def test_a_damaged_cache_is_mended(server, folder, names, tmp_path):
    store = store_of(server.url, folder, tmp_path)
    bring(store, *names[:2])
    (place,) = (tmp_path / "cache").glob("remote-*")
    os.truncate(place / names[0], 100)
    (place / names[1]).with_suffix(".idx").unlink()
    bring(store, *names[:2])
    check_cached(tmp_path, folder, names[:2])


# --- ahead ------------------------------------------------------------------------------------------------


def test_shards_come_before_they_are_needed_but_not_too_many(server, folder, names, tmp_path):
    """Half of a cache of five shards: two lie there unused at most."""
    store = store_of(server.url, folder, tmp_path, 5)
    upcoming = ((100 * (1 + number), name) for number, name in enumerate(names))
    with Prefetcher(store, upcoming, horizon=1000) as prefetcher:
        prefetcher.reached(0)
        wait_until(lambda: cached(tmp_path) == names[:2])
        time.sleep(0.05)
        assert cached(tmp_path) == names[:2]
        prefetcher.reached(100)
        wait_until(lambda: cached(tmp_path) == names[:3])
        prefetcher.reached(299)
        wait_until(lambda: cached(tmp_path) == names[:4])
    prefetcher.thread.join(5)
    assert not prefetcher.thread.is_alive() and cached(tmp_path) == names[:4]


def test_nothing_is_looked_for_beyond_the_horizon(server, folder, names, tmp_path):
    store, asked = store_of(server.url, folder, tmp_path), []

    def upcoming():
        for position in range(0, 10_000, 10):
            asked.append(position)
            yield position, names[0]

    with Prefetcher(store, upcoming(), horizon=100) as prefetcher:
        prefetcher.reached(0)
        wait_until(lambda: len(asked) > 10)
        time.sleep(0.05)
        assert asked[-1] == 110
        prefetcher.reached(200)
        wait_until(lambda: asked[-1] == 310)


def test_what_keeps_a_shard_from_coming_is_the_consumers_to_know(server, folder, names, tmp_path):
    server.fault = lambda number, name: "wrong" if name == names[1] else None
    shards = ShardSet(store_of(server.url, folder, tmp_path))

    def consume() -> None:
        steps = (np.array([step]) for step in range(1, 2000))
        of_node = iter([np.arange(len(shards))])
        for _ in bring_ahead(shards, steps, of_node, lambda at: at):
            time.sleep(0.002)

    with pytest.raises(RunFailed, match=f"{names[1]} has wrong bytes"):
        consume()


def test_a_node_brings_what_its_own_ranks_need():
    config = SimpleNamespace(train=SimpleNamespace(global_batch_size=12, total_samples=30))
    run = SimpleNamespace(
        config=config, samples_seen=12, ranks=SimpleNamespace(rank=4, world_size=6, local_world_size=2)
    )
    assert [batch.tolist() for batch in node_positions(run)] == [[20, 21, 22, 23], [32, 33, 34, 35]]

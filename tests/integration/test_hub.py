"""Networks go to a model hub and come from it: the same network, of one commit, without a network too."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from support.fake_hub import READER, WRITER, FakeHub, Repository, fake_hub
from support.paths import ROOT

from n2s_dist import denoise, load_denoiser
from n2s_dist.commands import export, push
from n2s_dist.models import checkpoint, hub, pretrained
from n2s_dist.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("cpu")
constants = pytest.importorskip("huggingface_hub.constants")

RUN = ROOT / "tests/data/written_before/runs/symmetric"
ADDRESS = "hf://someone/network"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A hub that the package asks, its cache in an empty folder, and no token."""
    with fake_hub() as running:
        pages = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.url + pages)
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield running


@pytest.fixture
def noisy() -> np.ndarray:
    loaded = checkpoint.load(checkpoint.locate(RUN))
    shape = (40, 48) if loaded.channels == 1 else (40, 48, 3)
    return np.random.default_rng(0).normal(0.5, 0.1, shape).astype(np.float32)


def shared(server: FakeHub, **files: bytes) -> str:
    """Put the run there as it is, with other files or some of them replaced; returns the commit."""
    whole = {name: (checkpoint.locate(RUN) / name).read_bytes() for name in (hub.WEIGHTS, hub.ABOUT)}
    repository = server.repositories.setdefault("someone/network", Repository())
    return repository.commit(whole | {name.replace("_", "."): content for name, content in files.items()})


def test_what_is_pushed_is_what_is_loaded(server, cli, tmp_path, monkeypatch, noisy):
    monkeypatch.setenv("HF_TOKEN", WRITER)
    done = cli(push.main, RUN, ADDRESS)
    assert done.code == 0, done.err
    repository = server.repositories["someone/network"]
    commit, files = list(repository.commits.items())[-1]
    assert f"pushed {RUN} to {ADDRESS}@{commit}" in done.out and not repository.private
    assert set(files) == {".gitattributes", hub.WEIGHTS, hub.ABOUT, hub.CARD}
    card = files[hub.CARD].decode()
    assert card.startswith("---\nlibrary_name: n2s_dist\n") and f"--checkpoint {ADDRESS} " in card
    x_hat, info = load_denoiser(ADDRESS)(noisy)
    np.testing.assert_array_equal(x_hat, load_denoiser(RUN)(noisy)[0])
    assert info.network.source == f"{ADDRESS}@{commit}"
    config = json.loads(files[hub.ABOUT])["config"]
    assert config["run_dir"] == config["data"]["shards"] == ""  # nothing of the machine that trained
    sent = [token for _, path, token in server.requests if "someone/network" in path]
    assert set(sent) == {WRITER}  # to the hub, and to nobody else
    assert {token for method, path, token in server.requests if path.startswith("/large")} == {None}
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert WRITER not in done.out + done.err + repr(info)
    assert written and not any(
        WRITER.encode() in content for content in [*files.values(), *map(Path.read_bytes, written)]
    )


def test_a_shipped_network_is_pushed_with_its_card(server, cli, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", WRITER)
    assert cli(push.main, "gaussian25-gray", ADDRESS, "--private").code == 0
    repository = server.repositories["someone/network"]
    _, files = list(repository.commits.items())[-1]
    weights, about = pretrained.files("gaussian25-gray")
    assert repository.private and files[hub.WEIGHTS] == weights.read_bytes()
    assert about.with_suffix(".md").read_text() in files[hub.CARD].decode()
    image = np.random.default_rng(0).normal(0.5, 0.1, (32, 32)).astype(np.float32)
    one, other = (load_denoiser(name)(image)[0] for name in (ADDRESS, "gaussian25-gray"))
    np.testing.assert_array_equal(one, other)
    commit = repository.find("main")  # other commands take addresses too, and name what they took
    assert f"{ADDRESS}@{commit} was trained on" in cli(export.main, ADDRESS, f"--out={tmp_path / 'a.onnx'}").error()


def test_a_card_of_ones_own_is_taken_and_a_public_repository_is_not_taken_for_a_private_one(
    server, cli, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_TOKEN", WRITER)
    (tmp_path / "card.md").write_text("# Mine, µ\n", encoding="utf-8")
    assert cli(push.main, RUN, ADDRESS, f"--card={tmp_path / 'card.md'}").code == 0
    repository = server.repositories["someone/network"]
    assert repository.commits[repository.find("main")][hub.CARD].decode() == "# Mine, µ\n"
    count = len(repository.commits)
    assert "is public: leave --private out" in cli(push.main, RUN, ADDRESS, "--private").error()
    assert len(repository.commits) == count
    assert "can't be read" in cli(push.main, RUN, ADDRESS, f"--card={tmp_path / 'none.md'}").error()


def test_revisions_are_pinned_and_the_cache_serves_without_a_network(server, monkeypatch, noisy):
    first = shared(server)
    server.repositories["someone/network"].tags["v1"] = first
    about = json.loads((checkpoint.locate(RUN) / hub.ABOUT).read_text())
    second = shared(server, model_json=json.dumps(about | {"samples_seen": 7}).encode())
    found = {text: load_denoiser(text).loaded for text in (ADDRESS, f"{ADDRESS}@v1", f"{ADDRESS}@{first}")}
    assert [each.source.rpartition("@")[2] for each in found.values()] == [second, first, first]
    assert [each.samples_seen for each in found.values()] == [7, about["samples_seen"], about["samples_seen"]]
    asked = len(server.requests)
    load_denoiser(f"{ADDRESS}@{first}")  # a commit that is cached needs nobody
    assert len(server.requests) == asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_denoiser(f"{ADDRESS}@v1")(noisy)[1].network.source.endswith(first)
    assert len(server.requests) == asked
    with pytest.raises(UserError, match="can't be reached, and is not in the cache"):
        load_denoiser("hf://someone/other")


def test_no_other_file_is_asked_for(server):
    shared(server, pytorch_model_bin=b"pickle", config_json=b"{}", setup_py=b"raise SystemExit")
    load_denoiser(ADDRESS)
    assert {path.rpartition("/")[2] for _, path, _ in server.requests if "/resolve/" in path} == {
        hub.ABOUT,
        hub.WEIGHTS,
    }


@pytest.mark.parametrize(
    "text, said",
    [
        ("hf://someone", "is no repository: write hf://OWNER/REPO"),
        ("hf://someone/network@", "is no repository: write hf://OWNER/REPO"),
        ("hf://some--one/network", "is no name that a repository can have"),
        ("hf://someone/nothing", "there is no hf://someone/nothing, or you may not see it"),
        ("hf://someone/secret", "there is no hf://someone/secret, or you may not see it"),
        ("hf://someone/gated", "is gated: accept its terms"),
        ("hf://someone/network@v9", "has no such revision"),
        ("hf://someone/empty", "is no network of n2s_dist: model.json or model.safetensors is missing"),
        ("hf://someone/other", "its model.json is none of n2s_dist's"),
        ("hf://someone/damaged", "model.safetensors does not match its checksum"),
        ("hf://someone/changed", "is not a readable checkpoint"),
    ],
)
def test_what_can_not_be_loaded_is_named_in_one_line(server, cli, tmp_path, text, said):
    commit = shared(server)
    whole = server.repositories["someone/network"].commits[commit]
    for name, changes in {
        "secret": {}, "gated": {}, "other": {hub.ABOUT: b'{"architectures": ["Other"]}'},
        "damaged": {hub.ABOUT: json.dumps(json.loads(whole[hub.ABOUT]) | {"sha256": "0" * 64}).encode()},
        "changed": {hub.WEIGHTS: b"no weights"},
    }.items():  # fmt: skip
        repository = Repository(private=name == "secret", gated=name == "gated")
        repository.commit(whole | changes)
        server.repositories[f"someone/{name}"] = repository
    server.repositories["someone/empty"] = Repository()
    server.repositories["someone/empty"].commit({hub.CARD: b"# Nothing yet"})
    np.save(tmp_path / "noisy.npy", np.zeros((32, 32), np.float32))
    assert said in cli(denoise.main, f"--checkpoint={text}", tmp_path / "noisy.npy", tmp_path / "out.npy").error()


def test_what_can_not_be_pushed_is_named_before_anything_is_sent(server, cli, monkeypatch):
    assert "takes a token to write there: set HF_TOKEN" in cli(push.main, RUN, ADDRESS).error()
    assert "names a revision" in cli(push.main, RUN, f"{ADDRESS}@v1").error()
    assert "is on a hub already" in cli(push.main, "hf://a/b", ADDRESS).error()
    assert "write hf://OWNER/REPO" in cli(push.main, RUN, "someone/network").error()
    assert server.requests == []
    monkeypatch.setenv("HF_TOKEN", WRITER)
    assert "holds no checkpoint" in cli(push.main, "nowhere", ADDRESS).error()
    assert server.requests == []
    for token, said in ((READER, "may not do that"), ("hf_fake_unknown", "is not valid")):
        monkeypatch.setenv("HF_TOKEN", token)
        line = cli(push.main, RUN, ADDRESS).error()
        assert said in line and token not in line
    assert server.repositories == {}


def test_a_missing_package_is_named_with_its_extra(server, cli, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install n2s_dist[hub]" in cli(push.main, RUN, ADDRESS).error()
    with pytest.raises(UserError, match=r"takes the package huggingface_hub: pip install n2s_dist\[hub\]"):
        load_denoiser(ADDRESS)


def test_only_a_folder_of_the_cache_has_a_source(tmp_path):
    commit = "0123456789" * 4
    assert hub.source_of(tmp_path / f"models--a--b-c/snapshots/{commit}") == f"hf://a/b-c@{commit}"
    for other in (f"models--a--b/snapshots/{commit[1:]}", f"a/snapshots/{commit}", f"models--a--b/{commit}"):
        assert hub.source_of(tmp_path / other) == ""


def test_the_programs_go_by_HF_ENDPOINT(server, run_module, environment, monkeypatch, tmp_path, noisy):
    """As processes of their own, with nothing changed but the environment."""
    commit = shared(server)
    for name, value in {
        "HF_ENDPOINT": server.url, "HF_HUB_CACHE": tmp_path / "own", "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1,localhost",
    }.items():  # fmt: skip
        monkeypatch.setitem(environment, name, str(value))
    np.save(tmp_path / "noisy.npy", noisy)
    out = tmp_path / "out.npy"
    done = run_module("n2s_dist.denoise", "--checkpoint", ADDRESS, tmp_path / "noisy.npy", out)
    assert done.code == 0, done.err
    np.testing.assert_array_equal(np.load(out), load_denoiser(RUN)(noisy)[0])
    assert (tmp_path / f"own/models--someone--network/snapshots/{commit}").is_dir()


def test_an_evaluation_takes_it_as_one_and_the_same(server, cli, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", WRITER)
    assert cli(push.main, RUN, ADDRESS).code == 0
    folder = checkpoint.locate(ADDRESS)
    called = checkpoint.load(folder).called
    assert checkpoint.identity(folder) == checkpoint.identity(checkpoint.locate(called))
    (folder / hub.WEIGHTS).resolve().write_bytes(b"others")
    with pytest.raises(UserError, match="does not match its checksum: remove"):
        checkpoint.identity(folder)

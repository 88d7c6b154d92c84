"""Descriptions of data sets: those of the repository, and what is refused in others."""

from pathlib import Path

import pytest
from support.paths import ROOT

from n2s_dist.datasets import catalogue
from n2s_dist.datasets.catalogue import dataset_folder, find_dataset, known_names, resolve_source
from n2s_dist.utils.errors import UserError

REPOSITORY = ROOT / "shards"


def test_the_repository_describes_these_data_sets():
    counts = {"div2k_train": 800, "div2k_valid": 100, "bsd400": 400, "cbsd68": 68, "bsd68": 68, "kodak24": 24,
              "kodak_full": 24, "bsd300": 100, "set14": 14, "set12": 12, "mcmaster": 18, "urban100": 100}  # fmt: skip
    assert {name: find_dataset(name).images for name in known_names()} == counts
    table = (REPOSITORY.parent / "docs" / "datasets.md").read_text()
    for name, count in counts.items():
        assert f"| `{name}` | {count} |" in table


@pytest.mark.parametrize("name", [path.stem for path in sorted(REPOSITORY.glob("*.yaml"))])
def test_the_repository_s_descriptions_are_sane(name):
    dataset = find_dataset(name)
    assert dataset.name == name and dataset.homepage.startswith("https://")
    assert (dataset.color == "gray") == (name in ("set12", "bsd68"))
    assert len(dataset.file_urls()) == (dataset.images if dataset.archive == "none" else 0)
    assert len(set(dataset.urls)) == len(dataset.urls)
    for file, urls in dataset.file_urls().items():
        assert all(url.endswith(f"/{file}") for url in urls)


def test_crops_and_whole_photographs_come_from_different_places():
    crops, whole = find_dataset("kodak24"), find_dataset("kodak_full")
    assert (crops.sizes, whole.sizes) == (((500, 500),), ((768, 512),))
    assert list(crops.file_urls()) == list(whole.file_urls()) == [f"kodim{n:02d}.png" for n in range(1, 25)]
    assert all("Kodak24" in url for url in crops.urls) and all("r0k.us" in url for url in whole.urls)


def test_bsd400_and_cbsd68_share_no_folder_of_bsds500():
    dataset = find_dataset("bsd400")
    wanted = [f"{top}/BSDS500/data/images/{split}/1.jpg" for top in ("BSR", "a/b") for split in ("train", "test")]
    assert all(map(dataset.wants, wanted))
    for member in ("BSR/BSDS500/data/images/val/1.jpg", "BSR/BSDS500/data/images/train/Thumbs.db",
                   "BSR/XBSDS500/data/images/train/1.jpg", "BSR/BSDS500/data/images/train/.1.jpg"):  # fmt: skip
        assert not dataset.wants(member)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"imags": 3}, ["'imags'", "did you mean 'images'?"]),
        ({"licence": "leave out"}, ["'licence'", "missing"]),
        ({"sha256": "leave out"}, ["'sha256'", "missing"]),
        ({"images": "3"}, ["images is '3'"]),
        ({"images": 0}, ["images is 0"]),
        ({"images": True}, ["images is True"]),
        ({"color": "grey"}, ["color is 'grey'", "gray"]),
        ({"archive": "rar"}, ["archive is 'rar'", "tar.gz"]),
        ({"sha256": "abc"}, ["sha256 is 'abc'"]),
        ({"citation": "a\nb"}, ["citation"]),
        ({"urls": []}, ["urls is empty"]),
        ({"urls": "http://a/b"}, ["urls is 'http://a/b'", "list"]),
        ({"urls": ["ftp://a/b"]}, ["ftp://a/b", "https://"]),
        ({"urls": ["file:///etc/passwd"]}, ["file:///etc/passwd"]),
        ({"urls": ["https:///b"]}, ["https:///b"]),
        ({"folders": "a"}, ["folders is 'a'"]),
        ({"sizes": [[30, 40]]}, ["sizes holds [30, 40]"]),
        ({"sizes": 40}, ["sizes is 40"]),
        ({"archive": "none"}, ["files", "archive: none"]),
        ({"files": {"first": 1, "last": 3}}, ["files", "archive: none"]),
        ({"archive": "none", "files": {"frist": 1, "last": 3}}, ["'files.frist'", "did you mean 'first'?"]),
        ({"archive": "none", "files": {"first": 1}}, ["files should hold"]),
        ({"archive": "none", "files": {"first": 1, "last": 3, "names": ["a"]}}, ["files should hold"]),
        ({"archive": "none", "files": {"first": 1, "last": 4}}, ["lists 4 files, but images is 3"]),
        ({"archive": "none", "files": {"first": "1", "last": 3}}, ["whole numbers"]),
        ({"archive": "none", "files": {"names": [1, 2, 3]}}, ["files.names", "quotes"]),
        ({"archive": "none", "files": {"names": ["a", "b", "c"]}, "urls": ["http://a/{:02d}.png"]}, ["urls", "filled"]),
        ({"archive": "none", "files": {"first": 1, "last": 3}, "urls": ["http://a/1.png"]}, ["different image"]),
        ({"archive": "none", "files": {"first": 1, "last": 3}, "urls": ["http://a/{}.txt"]}, ["1.txt"]),
        ({"archive": "none", "files": {"first": 1, "last": 3}, "sha256": "0" * 64}, ["sha256"]),
    ],
)
def test_descriptions_are_read_strictly(describe, changes, words):
    describe("http://a/{}.png", **changes)
    with pytest.raises(UserError) as error:
        find_dataset("tiny")
    for word in ("tiny.yaml", *words):
        assert word in str(error.value)


@pytest.mark.parametrize("text", ["", "- a", "a: [", "\tb: c"])
def test_files_that_are_no_description_are_named(describe, tmp_path, text):
    (tmp_path / "shards/broken.yaml").write_text(text)
    with pytest.raises(UserError, match=r"broken\.yaml"):
        find_dataset("broken")


def test_sources_are_paths_or_names_of_data_sets(describe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    describe("http://a/b.zip")
    assert dataset_folder("tiny") == Path("data/tiny") and dataset_folder("tiny", "/mnt") == Path("/mnt/tiny")
    with pytest.raises(UserError, match="did you mean 'tiny'"):
        dataset_folder("tinny")
    with pytest.raises(UserError, match=r"run n2s fetch tiny"):
        resolve_source("tiny")
    Path("data/tiny").mkdir(parents=True)
    assert resolve_source("tiny") == Path("data/tiny")
    assert resolve_source("unheard of") == Path("unheard of")
    Path("tiny").mkdir()
    assert resolve_source("tiny") == Path("tiny")


def test_without_a_checkout_names_are_refused_and_paths_stay_paths(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "DESCRIPTIONS", tmp_path / "no")
    with pytest.raises(UserError, match="source checkout"):
        find_dataset("kodak24")
    assert resolve_source("kodak24") == Path("kodak24")

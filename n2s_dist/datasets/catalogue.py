"""Which data sets there are: one description each, shards/NAME.yaml, strictly read."""

import re
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from n2s_dist.images.formats.base import suffixes
from n2s_dist.utils.errors import UserError, nearest
from n2s_dist.utils.shared_files import shared_folder
from n2s_dist.utils.strict_yaml import read_yaml

DESCRIPTIONS = shared_folder("shards")
ARCHIVES = ("zip", "tar", "tar.gz", "none")
COLORS = ("color", "gray")


@dataclass(frozen=True)
class Files:
    """What fills the blank of a URL pattern, one file each: the numbers first to last, or names."""

    first: int | None = None
    last: int | None = None
    names: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[int | str]:
        return iter(self.names or range(self.first or 0, (self.last or 0) + 1))


@dataclass(frozen=True)
class DataSet:
    """Where a set of images comes from and what it should hold.

    Args:
        name: of the data set, and of its folder
        description: one line
        homepage: of those who made it
        licence: in a few words, what its images may be used for
        citation: what to cite
        images: how many there are
        color: color or gray
        urls: places that serve the same bytes, tried in order; patterns such as kodim{:02d}.png where `files` is given
        archive: zip, tar, tar.gz, or none where each image is a file of its own
        sha256: of the archive, as its publishers or several users recorded it; null where nobody is known to have
        folders: the ends of the folders inside the archive that hold the images; none means anywhere
        glob: pattern that the images' file names match
        files: fills the patterns of `urls` when there is no archive
        sizes: the longer and the shorter side in pixels that images may have; none means any
    """

    name: str
    description: str
    homepage: str
    licence: str
    citation: str
    images: int
    color: str
    urls: tuple[str, ...]
    archive: str
    sha256: str | None
    folders: tuple[str, ...] = ()
    glob: str = "*"
    files: Files | None = None
    sizes: tuple[tuple[int, ...], ...] = ()

    def wants(self, member: str) -> bool:
        """Whether an archive's member, by its name there, is one of the images."""
        path = PurePosixPath(member)
        if not path.name.lower().endswith(suffixes()) or any(part.startswith((".", "__")) for part in path.parts):
            return False
        parent = f"/{path.parent}"
        inside = not self.folders or any(parent.endswith(f"/{folder}") for folder in self.folders)
        return inside and fnmatchcase(path.name, self.glob)

    def file_urls(self) -> dict[str, list[str]]:
        """Every image's file name and its URLs, for a data set without an archive."""
        listed = {}
        for item in self.files or ():
            urls = [pattern.format(item) for pattern in self.urls]
            listed[unquote(urlsplit(urls[0]).path).rsplit("/", 1)[-1]] = urls
        return listed


def known_names() -> list[str]:
    """All data sets' names. Raises UserError when not run from a source checkout, which alone has descriptions."""
    if not DESCRIPTIONS.is_dir():
        raise UserError(f"{DESCRIPTIONS} does not exist: data sets are described in a source checkout, run from there")
    return sorted(path.stem for path in DESCRIPTIONS.glob("*.yaml"))


def find_dataset(name: str) -> DataSet:
    """Read shards/NAME.yaml. Raises UserError for an unknown name and for a description that is not one."""
    names = known_names()
    if name not in names:
        raise UserError(f"unknown data set '{name}'{nearest(name, names) or ': known are ' + ', '.join(names)}")
    path = DESCRIPTIONS / f"{name}.yaml"
    return parse_dataset(name, read_yaml(path), path)


def dataset_folder(name: str, root: str | Path = "data") -> Path:
    """Where a data set lies once it was fetched. Raises UserError for an unknown name."""
    return Path(root) / find_dataset(name).name


def resolve_source(source: str) -> Path:
    """A path as it is, or the folder of a data set by its name.

    Raises UserError when `source` is the name of a data set that was not fetched yet. Whatever is neither is returned
    as a path, for the caller to find missing.
    """
    path = Path(source)
    if path.exists() or not DESCRIPTIONS.is_dir() or source not in known_names():
        return path
    folder = dataset_folder(source)
    if not folder.exists():
        raise UserError(f"{folder} does not exist: run n2s fetch {source}")
    return folder


# --- strict reading ---------------------------------------------------------------------------------


def parse_dataset(name: str, data: Any, where: Path) -> DataSet:
    """A DataSet from what its file holds. UserError names the file, the key and what would be right."""
    values = _known_keys(data, DataSet, where, leave_out=("name",))
    if "files" in values:
        files = _known_keys(values["files"], Files, where, prefix="files.")
        values["files"] = Files(**{**files, "names": _list_of(str, files.get("names", []), where, "files.names")})
    for key in ("urls", "folders"):
        values[key] = _list_of(str, values.get(key, []), where, key)
    values["sizes"] = tuple(map(tuple, _list_of(list, values.get("sizes", []), where, "sizes")))
    dataset = DataSet(name, **values)
    for key, wrong in _mistakes(dataset):
        raise UserError(f"{where}: {key} {wrong}")
    return dataset


def _list_of(kind: type, given: Any, where: Path, key: str) -> tuple:
    if not isinstance(given, list) or not all(isinstance(item, kind) and item for item in given):
        what = "words, in quotes where they are numbers" if kind is str else "lists"
        raise UserError(f"{where}: {key} is {given!r}: give a list of {what}")
    return tuple(given)


def _known_keys(data: Any, kind: type, where: Path, prefix: str = "", leave_out: tuple[str, ...] = ()) -> dict:
    if not isinstance(data, dict):
        raise UserError(f"{where}: {prefix.rstrip('.') or 'the file'} should map keys to values")
    valid = {field.name: field.default for field in fields(kind) if field.name not in leave_out}
    for key in data:
        if key not in valid:
            raise UserError(f"{where}: unknown key '{prefix}{key}'{nearest(str(key), list(valid))}")
    for key, default in valid.items():
        if default is MISSING and key not in data:
            raise UserError(f"{where}: the key '{prefix}{key}' is missing")
    return dict(data)


def _mistakes(dataset: DataSet) -> Iterator[tuple[str, str]]:
    """Yield (key, what is wrong with it)."""
    for key in ("description", "homepage", "licence", "citation", "glob"):
        text = getattr(dataset, key)
        if not isinstance(text, str) or not text.strip() or "\n" in text.strip():
            yield key, f"is {text!r}: write one line"
    if not _is_count(dataset.images):
        yield "images", f"is {dataset.images!r}: give a whole number above 0"
    for key, choices in (("color", COLORS), ("archive", ARCHIVES)):
        if getattr(dataset, key) not in choices:
            yield key, f"is {getattr(dataset, key)!r}: choose one of {', '.join(choices)}"
    if not (dataset.sha256 is None or re.fullmatch("[0-9a-f]{64}", str(dataset.sha256))):
        yield "sha256", f"is {dataset.sha256!r}: give 64 hexadecimal digits, or null where it is not known"
    for size in dataset.sizes:
        if len(size) != 2 or not all(map(_is_count, size)) or size[0] < size[1]:
            yield "sizes", f"holds {list(size)}: give [longer side, shorter side] in pixels"
    if (dataset.archive == "none") != (dataset.files is not None):
        yield "files", "goes with archive: none, and only with it"
    if dataset.files is not None:
        yield from _files_mistakes(dataset)
    if not dataset.urls:
        yield "urls", "is empty: give at least one"
    for url in dataset.urls:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            yield "urls", f"holds '{url}': it should begin with https:// or http:// and a host"


def _files_mistakes(dataset: DataSet) -> Iterator[tuple[str, str]]:
    files = dataset.files
    assert files is not None
    if dataset.sha256 is not None:
        yield "sha256", "is that of an archive: write null where there is none"
    if bool(files.names) == (files.first is not None) or (files.first is None) != (files.last is None):
        yield "files", "should hold either names, or first and last"
    elif not files.names and not (type(files.first) is int and type(files.last) is int):
        yield "files", "should have whole numbers as first and last"
    elif len(list(files)) != dataset.images:
        yield "files", f"lists {len(list(files))} files, but images is {dataset.images}"
    else:
        try:
            names = list(dataset.file_urls())
        except (LookupError, ValueError):
            yield "urls", "holds a pattern that can't be filled with the names or numbers of `files`"
            return
        bad = [name for name in names if not dataset.wants(name)]
        if bad or len(names) != dataset.images:
            yield "urls", f"should end in a different image's name for each file, not {', '.join(bad or names[:1])}"


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0

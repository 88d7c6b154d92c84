"""Bring a data set here: download, check, unpack, publish.

    DIR/.NAME.download/archive.part     what was downloaded so far (or IMAGE.part, where each image has a URL)
    DIR/.NAME.download/images/          what is unpacked or whole already
    DIR/NAME/                           appears when all images are there and as they should be; a folder that can't
                                        be replaced, such as a mount point, holds the hidden one as .download

A killed run leaves only the hidden folder behind, and the same command goes on from it.
"""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from n2s_dist.datasets.archives import unpack
from n2s_dist.datasets.catalogue import DataSet, find_dataset
from n2s_dist.datasets.download import Connection, discard, download
from n2s_dist.images.eight_bit import image_size, read_image
from n2s_dist.images.files import ImageFile, list_images
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import sha256_file, sync
from n2s_dist.utils.locks import try_lock
from n2s_dist.utils.publishing import holds_others, place_beside, publish, take_back

_GRAY_MODES = ("1", "L", "LA", "I;16", "I;16B")


def fetch(
    name: str, out: str | Path = "data", source: str | Path | None = None, network: Connection | None = None
) -> Path:
    """Make OUT/NAME a folder that holds the data set, and return it.

    source: an archive to unpack or a folder to use as it is, instead of a download.
    Raises UserError for all that the user can mend, OSError when the disk is full.
    """
    dataset = find_dataset(name)
    target = Path(out) / name
    if target.is_symlink() and not target.exists():
        raise UserError(f"{target} is a link to {target.readlink()}, which does not exist: remove the link")
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is not a folder: remove it or choose another --out")
    place = target.resolve() if target.is_symlink() else target
    if holds_others(place, place_beside(place, "download")):
        with _told_to(f"remove {target} and run the same command again"):
            check_images(dataset, target)
        print(f"{target} already holds the {dataset.images} images of {name}: nothing to do")
        return target
    source = Path(source) if source is not None else None
    if source is not None and not source.exists():
        raise UserError(f"{source} does not exist: --from takes an archive or a folder of images")
    if source is not None and source.is_dir():
        check_images(dataset, source)
        if place.is_dir():
            try:
                place.rmdir()
            except OSError as error:
                raise UserError(f"{place} can't become a link to {source} ({error.strerror}): remove it") from None
    with _work_folder(place) as work:
        take_back(work, place)
        if source is None:
            _download_all(dataset, work, network or Connection())
        elif source.is_dir():
            place.symlink_to(source.resolve())
            return target
        else:
            _open_archive(dataset, source, work)
        for path in (work / "images").iterdir():
            sync(path)
        publish(work / "images", place, work)
    return target


def check_images(dataset: DataSet, folder: Path) -> None:
    """Raise UserError unless a folder holds as many images as the data set, of its sizes and its color."""
    images = list_images(folder)
    if len(images) != dataset.images:
        raise UserError(f"{folder} holds {len(images)} images, {dataset.name} has {dataset.images}")
    grays = 0
    for image in images:
        size = tuple(sorted(image_size(image), reverse=True))
        if dataset.sizes and size not in dataset.sizes:
            right = " or ".join(f"{longer} x {shorter}" for longer, shorter in dataset.sizes)
            raise UserError(f"{folder / image.name} has {size[0]} x {size[1]} pixels, in {dataset.name} it is {right}")
        with image.open() as stream, Image.open(stream) as opened:
            grays += opened.mode in _GRAY_MODES
    # A color set may hold a photograph that was stored in gray, but never all of them.
    if (dataset.color == "gray") != (grays == len(images)):
        found = "gray" if grays == len(images) else "not all gray"
        raise UserError(f"the images in {folder} are {found}, {dataset.name} is in {dataset.color}")


def _download_all(dataset: DataSet, work: Path, network: Connection) -> None:
    hint = "if you have it already, give its archive or folder with --from"
    try:
        if dataset.archive == "none":
            _download_files(dataset, work, network)
        else:
            download(dataset.urls, work / "archive.part", lambda part: _open_archive(dataset, part, work), network)
    except UserError as error:
        raise UserError(f"{dataset.name} can't be fetched: {error}; {hint}") from None


def _download_files(dataset: DataSet, work: Path, network: Connection) -> None:
    images = work / "images"
    images.mkdir(exist_ok=True)
    best = 0  # the mirror that worked last is asked first
    for name, urls in dataset.file_urls().items():
        if (images / name).exists():
            continue
        part = work / f"{name}.part"
        best = urls.index(download([*urls[best:], *urls[:best]], part, _decode, network))
        part.replace(images / name)
        discard(part)
    check_images(dataset, images)


def _decode(part: Path) -> None:
    """Raise UserError unless a file is an image, whole to its last pixel."""
    read_image(ImageFile(part.parent, part.name, part.stat().st_size))


def _open_archive(dataset: DataSet, archive: Path, work: Path) -> None:
    """Check an archive and unpack it to work/images."""
    if dataset.sha256 is not None and (found := sha256_file(archive)) != dataset.sha256:
        raise UserError(f"{archive} has the SHA-256 {found}, expected is {dataset.sha256}")
    images = work / "images"
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir()
    try:
        count = unpack(archive, images, dataset.wants)
        if count != dataset.images:
            raise UserError(f"{archive} holds {count} images of {dataset.name}, expected are {dataset.images}")
        check_images(dataset, images)
    except BaseException as error:
        shutil.rmtree(images)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, error.filename or str(images)) from None
        raise


# --- folders ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _work_folder(target: Path) -> Iterator[Path]:
    """The hidden folder of one data set, for one process at a time; it goes when the data set is published."""
    work = place_beside(target, "download")
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(try_lock(work / "lock", optional=True))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(f"{work} can't be written ({error.strerror}): choose another --out") from None
        if not lock:
            raise UserError(f"another process is fetching {target}: wait for it to end")
        yield from _removed_when_done(work)


def _removed_when_done(work: Path) -> Iterator[Path]:
    """Yield the folder, then remove it; after a failure keep what was downloaded, if anything was."""
    try:
        yield work
    except BaseException:
        if not any(path.name != "lock" for path in work.iterdir()):
            shutil.rmtree(work)
        raise
    shutil.rmtree(work)


@contextlib.contextmanager
def _told_to(remedy: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}: {remedy}") from None

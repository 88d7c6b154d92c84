"""What is evaluated on: folders of clean images, of noisy ones as people downloaded them, or of both.

    --benchmark NAME=DIR --noisy NAME=DIR ──► benchmarks ──► tasks (images, with their sizes and noisy versions)

The benchmarks that papers report on are recognised by what they hold, so that none goes under another's name.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from n2s_dist.evaluation.noisy_files import NO_SCALE, NamedScale, is_deep, read_shown, shape_of
from n2s_dist.images.eight_bit import measure_image
from n2s_dist.images.files import KINDS, ImageFile, list_images
from n2s_dist.utils.errors import UserError
from n2s_dist.utils.files import expanded


@dataclass(frozen=True)
class Known:
    """What a published benchmark holds.

    images: how many, where all copies have as many. size: longer and shorter side in pixels, where all have the same.
    """

    images: int | None
    channels: int
    size: tuple[int, int] | None = None

    def __str__(self) -> str:
        of = f" of {self.size[0]} x {self.size[1]} pixels" if self.size else ""
        return f"{self.images or 'only'} {KINDS[self.channels]} images{of}"


KNOWN = {
    "bsd68": Known(68, 1),
    "set12": Known(12, 1),
    "cbsd68": Known(68, 3),
    "kodak24": Known(24, 3, (500, 500)),
    "kodak_full": Known(24, 3, (768, 512)),
    "bsd300": Known(100, 3, (481, 321)),
    "cc15": Known(15, 3, (512, 512)),
    "fmd": Known(None, 1, (512, 512)),
}
EIGHT_BIT_INPUT, OWN_DEPTH = "uint8_input", "own_depth"  # protocols of noisy files
_PAIRS = (("noisy", "clean"), ("raw", "gt"))  # folders of noisy photographs and of what is taken for their truth
_ENDINGS = (("_noisy", "_clean"), ("_real", "_mean"))  # or, in one folder, the ends of their names


@dataclass(frozen=True)
class Task:
    """One image of one benchmark; height and width in pixels, channels 1 or 3.

    noisy: its noisy version, where that is a file as well. has_truth: whether `image` is clean, not that version.
    """

    benchmark: str
    image: ImageFile
    height: int
    width: int
    channels: int
    noisy: ImageFile | None = None
    has_truth: bool = True

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def name(self) -> tuple[str, str]:
        return self.benchmark, self.image.name


@dataclass(frozen=True)
class Benchmark:
    """A name and where its images are, at least one of the two folders.

    Args:
        tasks: all of its images, sorted by name
        channels: of the first
        scale: what white and black are in noisy files, None where the files or their type say it
    """

    name: str
    protocol: str
    tasks: tuple[Task, ...]
    channels: int
    scale: NamedScale = NO_SCALE

    @classmethod
    def open(
        cls, name: str, clean: Path | None, noisy: Path | None, protocol: str, scale: NamedScale = NO_SCALE
    ) -> "Benchmark":
        """Read the headers of all images, and of noisy ones of more than 8 bits what their scale is.

        Raises UserError for folders that are missing or empty, that do not match each other, or that do not hold what
        a benchmark of this name does.
        """
        of = clean or noisy
        assert of is not None
        images = list_images(of)
        versions = (
            _pair(images, clean, noisy) if clean and noisy else {image: image if noisy else None for image in images}
        )
        return cls._of_versions(name, of, versions, protocol, clean is not None, scale)

    @classmethod
    def open_photographs(cls, name: str, folder: Path) -> "Benchmark":
        """Read the headers of noisy photographs and of what is taken for their truth.

        They lie in folders noisy and clean, or raw and gt, under the same names; or side by side, where names end in
        _noisy and _clean, or in _real and _mean. Raises UserError as `open` does, and where there are no such pairs.
        """
        for noisy, clean in _PAIRS:
            if (folder / noisy).is_dir() and (folder / clean).is_dir():
                return cls.open(name, folder / clean, folder / noisy, EIGHT_BIT_INPUT)
        images = {_stem(image): image for image in list_images(folder)}
        for noisy, clean in _ENDINGS:
            truths = _with_ending(images, clean)
            versions = _with_ending(images, noisy)
            if truths and truths.keys() == versions.keys() and 2 * len(truths) == len(images):
                pairs: dict[ImageFile, ImageFile | None] = {image: versions[stem] for stem, image in truths.items()}
                return cls._of_versions(name, folder, pairs, EIGHT_BIT_INPUT, has_truth=True)
        raise UserError(
            f"{folder} does not hold noisy photographs and their truth: give folders noisy and clean (or raw and gt) "
            "of the same names, or images whose names end in _noisy and _clean (or _real and _mean)"
        )

    @classmethod
    def _of_versions(
        cls,
        name: str,
        of: Path,
        versions: dict[ImageFile, ImageFile | None],
        protocol: str,
        has_truth: bool,
        scale: NamedScale = NO_SCALE,
    ) -> "Benchmark":
        """versions: of each image, the noisy one where that is a file. of: the folder that errors name.

        protocol: of noisy images that are made of clean ones.
        """
        given = {file: None for pair in versions.items() if pair[1] for file in pair if file}
        deep = list(filter(is_deep, given))
        scale.check_used(name, deep)
        if given:
            protocol = OWN_DEPTH if deep else EIGHT_BIT_INPUT
        measure = shape_of if deep else _shape
        tasks, shapes = [], []
        for image, version in versions.items():
            shape = measure(image)
            if version is not None and measure(version) != shape:
                raise UserError(f"{version.path} and {image.path} differ in size or in color: they must be one image")
            tasks.append(Task(name, image, *shape, version, has_truth=has_truth))
            shapes.append(shape)
        if name in KNOWN:
            _check_known(name, of, list(versions), shapes)
        for image in deep:
            read_shown(image, scale)  # whose scale only its values may tell
        return cls(name, protocol, tuple(tasks), shapes[0][2], scale)

    @cached_property
    def image_digests(self) -> list[tuple[ImageFile, str]]:
        """SHA-256 of the bytes of all images, read once."""
        digests = []
        for task in self.tasks:
            for image in (task.image, task.noisy):
                if image is not None:
                    with image.open() as stream:
                        digests.append((image, sha256(stream.read()).hexdigest()))
        return digests

    def digest(self) -> str:
        """SHA-256 of its name, protocol, named scale, and all images' names and bytes."""
        named = () if self.scale == NO_SCALE else self.scale
        total = sha256(repr((self.name, self.protocol, *named)).encode())
        for image, digest in self.image_digests:
            total.update(repr((image.name, digest)).encode())
        return total.hexdigest()


def _shape(image: ImageFile) -> tuple[int, int, int]:
    with image.open() as stream:
        return measure_image(stream, image.path)


def _stem(image: ImageFile) -> str:
    return image.name.rsplit(".", 1)[0]


def _with_ending(images: dict[str, ImageFile], ending: str) -> dict[str, ImageFile]:
    """Those whose stems end so, by what is before it."""
    return {stem.removesuffix(ending): image for stem, image in images.items() if stem.endswith(ending)}


def _pair(images: list[ImageFile], clean: Path, noisy: Path) -> dict[ImageFile, ImageFile | None]:
    """The noisy version of each clean image, by names without their suffixes."""
    versions = list_images(noisy)
    by_stem = {_stem(version): version for version in versions}
    stems = [_stem(image) for image in images]
    lone = sorted({*stems} ^ {*by_stem})
    if lone or len(by_stem) < len(versions) or len({*stems}) < len(stems):
        what = f"only one of them has {_some(lone)}" if lone else "names differ in their suffix alone"
        raise UserError(f"{noisy} and {clean} must hold the same images by name: {what}")
    return {image: by_stem[stem] for image, stem in zip(images, stems, strict=True)}


def _some(names: list[str]) -> str:
    """The first few of many."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _check_known(name: str, folder: Path, images: list[ImageFile], shapes: list[tuple[int, int, int]]) -> None:
    known = KNOWN[name]
    found = f"it has {len(images)} images" if len(images) != (known.images or len(images)) else None
    for image, (height, width, channels) in zip(images, shapes, strict=True):
        size = max(height, width), min(height, width)
        if not found and (channels != known.channels or (known.size and size != known.size)):
            twin = next((f", as in {n}" for n, k in KNOWN.items() if k.size == size), "") if known.size else ""
            found = f"{image.name} is {KINDS[channels]}, {width} x {height}{twin}"
    if found:
        raise UserError(f"{folder} is not {name}, which has {known}: {found}; give other images another name")


def parse_folders(words: Iterable[str], option: str) -> dict[str, Path]:
    """Read NAME=DIR options. option: their name in errors."""
    folders: dict[str, Path] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not (name and equals and folder):
            raise UserError(f"{option} {word} is not understood: write NAME=DIR, such as cbsd68=data/cbsd68")
        if "/" in name or name.startswith("."):
            raise UserError(f"{option} {word} is not understood: NAME becomes a folder's name")
        if name in folders:
            raise UserError(f"{option} {name} is given twice")
        folders[name] = Path(expanded(f"{option} {name}", folder))
    return folders

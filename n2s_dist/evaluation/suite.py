"""The cells of a table: who denoises which benchmark at which noise, and why some can't be computed.

A suite's cells are fixed in advance, each filled by the network that fits it best; without a suite every network
meets every noise on every benchmark.
"""

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from n2s_dist.evaluation.automatic import AUTOMATIC
from n2s_dist.evaluation.benchmarks import KNOWN, Benchmark
from n2s_dist.evaluation.methods import EvaluatedMethod
from n2s_dist.evaluation.published import PAPERS_OWN, paper_db
from n2s_dist.images.files import KINDS, ImageFile
from n2s_dist.inference.noise_estimation import SMALLEST_SIDE
from n2s_dist.noise.base import UNKNOWN, NoiseModel
from n2s_dist.noise.specification import format_noise, format_training_noise, parse_noise
from n2s_dist.utils.errors import UserError

LEVELS = ("known", UNKNOWN)


class Suite(NamedTuple):
    """Cells that are fixed in advance: every noise on every benchmark at every level.

    has_own_noise: whether benchmarks are photographs that are noisy themselves.
    """

    noises: tuple[str, ...]
    benchmarks: tuple[str, ...]
    levels: tuple[str, ...] = LEVELS
    has_own_noise: bool = False


SUITES = {
    "table2": Suite(
        ("gaussian:25", "gaussian:50", "poisson:0.01", "poisson:0.05", "gamma:100", "gamma:50"),
        ("bsd68", "set12", "cbsd68", "kodak24"),
    ),
    "real": Suite((UNKNOWN,), ("cc15", "fmd"), (UNKNOWN,), has_own_noise=True),
}


@dataclass(frozen=True, eq=False)
class Cell:
    """One method on one benchmark at one noise. What can't be computed has no denoiser, and says why.

    noise: "gaussian:25", or the family alone of photographs whose level nobody knows, or "unknown".
    level: "known" or "unknown", whether the method is told it.
    """

    noise: str
    level: str
    method: str
    benchmark: str
    source: Benchmark | None = None
    denoiser: EvaluatedMethod | None = None
    missing: str | None = None
    protocol: str = "float"

    @property
    def family(self) -> str | None:
        """None where nobody knows it."""
        return None if self.noise == UNKNOWN else self.noise.partition(":")[0]

    @property
    def noise_model(self) -> NoiseModel | None:
        return parse_noise(self.noise) if ":" in self.noise else None

    @property
    def has_truth(self) -> bool:
        """Whether clean images are known."""
        return self.source is None or self.source.tasks[0].has_truth

    @property
    def folder(self) -> str:
        """Of its pictures."""
        return f"{self.noise.replace(':', '_')}-{self.level}/{self.benchmark}"

    @property
    def title(self) -> str:
        return f"{self.noise}, {self.level}, {self.method}, {self.benchmark}"

    def identity(self) -> dict:
        """What results.json says of it, computed or not. Further passes of a method have no figure of their own."""
        published = paper_db(self.noise, self.level, self.benchmark, self.method.split("+")[0])
        names = {"noise": self.noise, "level": self.level, "method": self.method, "benchmark": self.benchmark}
        return {**names, "protocol": self.protocol, "paper_db": published}

    def fingerprint(self, seed: int, content: str, where: dict) -> str:
        """SHA-256 of all that its figures depend on. content: Benchmark.digest(). where: versions and device."""
        assert self.denoiser
        denoiser = self.denoiser.checkpoint, self.denoiser.digest
        parts = [self.noise, self.level, self.method, *denoiser, seed, content, where]
        return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def suite_cells(
    suite: str,
    sources: dict[str, Benchmark | str],
    denoisers: list[EvaluatedMethod],
    levels: tuple[str, ...],
    protocol: str,
) -> list[Cell]:
    """All cells of a suite: Noise2Score's, or those of naming nothing, and those that other methods can fill.

    sources: each of its benchmarks, or why it is not there. protocol: of cells without a benchmark.
    """
    cells = []
    given = [denoiser.method for denoiser in denoisers]
    own = AUTOMATIC if AUTOMATIC in given else PAPERS_OWN
    methods = list(dict.fromkeys([own, *given]))
    wanted = SUITES[suite]
    for noise in wanted.noises:
        for level in levels:
            for name in wanted.benchmarks:
                for method in methods:
                    mine = [denoiser for denoiser in denoisers if denoiser.method == method]
                    source, channels = sources[name], KNOWN[name].channels
                    if wanted.has_own_noise:
                        chosen = choose_reader(mine, denoisers, channels)
                    else:
                        chosen = choose(mine, parse_noise(noise), level, channels)
                    missing = next((why for why in (source, chosen) if isinstance(why, str)), None)
                    if isinstance(chosen, str) and not method.startswith(own):
                        continue  # a baseline is there to compare with where it is given
                    if isinstance(source, str) or isinstance(chosen, str):
                        cells.append(Cell(noise, level, method, name, missing=missing, protocol=protocol))
                    else:
                        cells.append(Cell(noise, level, method, name, source, chosen, protocol=source.protocol))
    return cells


def choose(denoisers: list[EvaluatedMethod], noise: NoiseModel, level: str, channels: int) -> EvaluatedMethod | str:
    """The one for a cell, or why there is none: trained for this noise alone, else for the fewest families and levels.

    An unknown level is for networks of whole ranges: any other was told it in training.
    """
    kind = KINDS[channels]
    fitting = [denoiser for denoiser in denoisers if denoiser.takes(channels)]
    if not fitting:
        return f"no checkpoint for {kind} images"
    fitting = sorted((each for each in fitting if each.is_for(noise)), key=lambda each: each.specificity)
    if not fitting:
        return f"no checkpoint for {kind} images with {format_noise(noise)}"
    if level == "known":
        return fitting[0]
    universal = [each for each in fitting if each.is_universal]
    return universal[0] if universal else f"no checkpoint for {kind} images with a range of {noise.family} levels"


def choose_reader(
    mine: list[EvaluatedMethod], denoisers: list[EvaluatedMethod], channels: int
) -> EvaluatedMethod | str:
    """The one of `mine` for noise that nobody knows, or why there is none: of the most families and levels.

    One without training takes the noise as the network among `denoisers` finds it, or as naming nothing does.
    """
    readers = [each for each in denoisers if each.reads_noise and each.takes(channels)]
    if not readers:
        return f"no checkpoint for {KINDS[channels]} images of a range of levels"
    own = [each for each in mine if each in readers]
    if own:
        return max(own, key=lambda each: each.specificity)
    untrained = [each for each in mine if each.loaded is None]
    if not untrained:
        return f"no checkpoint for {KINDS[channels]} images of a range of levels"
    return untrained[0].reading_noise_with(max(readers, key=lambda each: each.specificity))


def product_cells(
    sources: list[Benchmark], denoisers: list[EvaluatedMethod], noises: list[str] | None, levels: tuple[str, ...]
) -> list[Cell]:
    """Every denoiser at every noise on every benchmark of its kind, gray or color.

    noises: None takes what each network was trained on. Raises UserError for a noise that a denoiser does not know,
    levels that can't be unknown to it, and benchmarks and networks that have no counterpart of their kind.
    """
    networks = {denoiser.checkpoint: denoiser.loaded.channels for denoiser in denoisers if denoiser.loaded}
    for source in sources:
        if networks and source.channels not in networks.values():
            raise UserError(f"{source.name} holds {KINDS[source.channels]} images: give a --checkpoint for such too")
    for name, channels in networks.items():
        if all(channels != source.channels for source in sources):
            raise UserError(f"{name} is for {KINDS[channels]} images: give a --benchmark of such too")
    trained = {denoiser: _trained_on(denoiser) for denoiser in denoisers if denoiser.loaded and not noises}
    cells = []
    for noise in noises or dict.fromkeys(trained.values()):
        for level in levels:
            for source in sources:
                for denoiser in denoisers:
                    if not denoiser.takes(source.channels):
                        continue
                    if trained.get(denoiser, noise) != noise or (level == "unknown" and not denoiser.loaded):
                        continue
                    _check(noise, level, source, denoiser)
                    where = source.name, source, denoiser
                    cells.append(Cell(noise, level, denoiser.method, *where, protocol=source.protocol))
    return cells


def automatic_cells(sources: list[Benchmark], denoisers: list[EvaluatedMethod]) -> list[Cell]:
    """Every method on every benchmark of noisy files, whose noise nobody names: the first finds it for the others.

    Raises UserError for a benchmark of a kind, gray or color, that no network is for.
    """
    cells = []
    for source in sources:
        for denoiser in denoisers:
            chosen = choose_reader([denoiser], denoisers, source.channels)
            if isinstance(chosen, str):
                raise UserError(f"{source.name}: {chosen}")
            where = source.name, source, chosen
            cells.append(Cell(UNKNOWN, UNKNOWN, chosen.method, *where, protocol=source.protocol))
    return cells


def check_images(cells: list[Cell]) -> None:
    """UserError for an image that its cell can't be computed with, as far as its header tells."""
    for cell in cells:
        if cell.source is None or cell.denoiser is None:
            continue
        channels, smallest = cell.denoiser.channels, cell.denoiser.smallest_side
        for task in cell.source.tasks:
            size = f"{task.width} x {task.height} pixels"
            if channels:
                check_channels(channels, task.image, task.channels)
            if cell.level == UNKNOWN and min(task.size) < SMALLEST_SIDE:
                instead = "" if cell.noise == UNKNOWN else ", or --level known"
                raise UserError(
                    f"{task.image.path}: the image has {size}: to estimate its noise takes {SMALLEST_SIDE} x "
                    f"{SMALLEST_SIDE} or more, so take it out{instead}"
                )
            if min(task.size) < smallest:
                raise UserError(
                    f"{task.image.path} has {size}: {cell.method} takes {smallest} x {smallest} or more, so take it out"
                )


def check_channels(wanted: int, image: ImageFile, channels: int) -> None:
    """UserError when a color image meets a gray network or the reverse. wanted: the network's channels."""
    if channels != wanted:
        raise UserError(
            f"{image.path} is {KINDS[channels]}, but the checkpoint was trained on {KINDS[wanted]} images: take a "
            f"{KINDS[channels]} checkpoint or convert the image"
        )


def _trained_on(denoiser: EvaluatedMethod) -> str:
    assert denoiser.loaded
    trained = denoiser.loaded.model.noise
    if not trained.is_single:
        known = f"{denoiser.checkpoint} was trained on {format_training_noise(trained)}"
        raise UserError(f"--noise is missing: {known}, so say which one the images have")
    return format_noise(trained.single)


def _check(noise: str, level: str, source: Benchmark, denoiser: EvaluatedMethod) -> None:
    if ":" not in noise and (level == "known" or any(task.noisy is None for task in source.tasks)):
        raise UserError(f"--noise {noise} names no level: only photographs given by --noisy, with --level unknown, may")
    if ":" in noise and source.channels == 1 and parse_noise(noise).is_of_color:
        raise UserError(f"--noise {noise} is noise of color images, and those of {source.name} are gray")
    if denoiser.loaded is None:
        return
    trained = denoiser.loaded.model.noise
    model = denoiser.loaded.model
    if noise != UNKNOWN and not (model.serves(parse_noise(noise)) if ":" in noise else noise in model.families):
        raise UserError(
            f"--noise is {noise}, but {denoiser.checkpoint} was trained on {format_training_noise(trained)}"
        )
    if level == "unknown" and not denoiser.is_universal:
        raise UserError(
            f"--level unknown needs a network of a whole range of levels, which {denoiser.checkpoint} is not"
        )

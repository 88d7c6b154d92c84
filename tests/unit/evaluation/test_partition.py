"""Fair shares of all cells' images, and tiles that cover an image once."""

from pathlib import Path

import numpy as np
import pytest

from n2s_dist.evaluation.benchmarks import Benchmark, Task
from n2s_dist.evaluation.methods import Estimator, EvaluatedMethod
from n2s_dist.evaluation.partition import WorkUnit, cut, cut_cell, partition
from n2s_dist.evaluation.suite import Cell
from n2s_dist.images.files import ImageFile
from n2s_dist.inference.tiling import TILE, ReceptiveField


def sized(benchmark: str, sizes: list[tuple[int, int]]) -> list[Task]:
    return [Task(benchmark, ImageFile(Path(benchmark), f"{i:03d}.png", 1), *size, 3) for i, size in enumerate(sizes)]


REACH = ReceptiveField(144, 8)  # of the network in most configs
BENCHMARKS = [
    *sized("cbsd68", [(321, 481), (481, 321)] * 34),
    *sized("kodak24", [(500, 500)] * 24),
    *sized("set12", [(256, 256)] * 7 + [(512, 512)] * 5),
    *sized("mixed", np.random.default_rng(0).integers(100, 630, (40, 2)).tolist()),
]
LARGE = sized("large", [(4000, 6000)])
DIV2K = sized("div2k_valid", [(1404, 2040), (1356, 2040), (2040, 1152)] * 4)


def pieces_of(tasks: list[Task]) -> list[WorkUnit]:
    return [piece for task in tasks for piece in cut(task, REACH)]


def costs(shares: list[list[WorkUnit]]) -> list[int]:
    return [sum(piece.cost for piece in share) for share in shares]


SETS = {
    "cbsd68": BENCHMARKS[:68],
    "kodak24": BENCHMARKS[68:92],
    "all": BENCHMARKS,
    "straggler": [*BENCHMARKS, *LARGE],
    "large alone": LARGE,
    "div2k": DIV2K,
}


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("name", SETS)
def test_shares_cover_every_piece_once_and_none_is_above_the_mean_and_one_piece(name, world_size):
    pieces = pieces_of(SETS[name])
    shares = partition(pieces, world_size)
    assert len(shares) == world_size
    assert sorted(map(repr, (piece for share in shares for piece in share))) == sorted(map(repr, pieces))
    assert max(costs(shares)) <= np.mean(costs(shares)) + max(piece.cost for piece in pieces)


@pytest.mark.parametrize("name", SETS)
def test_the_largest_of_four_shares_is_within_a_tenth_of_the_mean(name):
    shares = costs(partition(pieces_of(SETS[name]), 4))
    assert max(shares) <= 1.1 * np.mean(shares)


def test_one_large_image_among_many_holds_nobody_up():
    """In one piece it alone would be four times a rank's fair share of the benchmarks beside it."""
    whole = 4000 * 6000
    assert whole > 4 * sum(task.height * task.width for task in BENCHMARKS) / 4
    shares = partition(pieces_of([*BENCHMARKS, *LARGE]), 4)
    assert max(costs(shares)) < whole
    assert sum(any(piece.task.benchmark == "large" for piece in share) for share in shares) >= 2


def test_few_ranks_read_the_same_large_image():
    """Every rank that has a tile of an image decodes and corrupts all of it."""
    shares = partition(pieces_of(DIV2K), 4)
    assert sum(len({piece.task for piece in share}) for share in shares) <= len(DIV2K) + 2 * 4


def test_shares_do_not_depend_on_the_listing_and_may_be_empty():
    pieces = pieces_of([*BENCHMARKS, *LARGE])
    assert partition(pieces[::-1], 3) == partition(pieces, 3)
    assert sorted(len(share) for share in partition(pieces_of(BENCHMARKS[:2]), 4)) == [0, 0, 1, 1]


@pytest.mark.parametrize("size", [(4000, 6000), (769, 768), (5, 200_000), (768 * 30 - 740, 100)])
def test_tiles_cover_every_pixel_once_at_a_bounded_cost(size):
    (task,) = sized("a", [size])
    pieces, seen = cut(task, REACH), np.zeros((*size, 1), np.uint8)
    assert len(pieces) > 1
    for piece in pieces:
        piece.box.of_array(seen)[:] += 1
        assert piece.cost <= (TILE + 2 * (144 + 5 + 8)) ** 2
    assert (seen == 1).all()


def test_images_up_to_a_tiles_pixels_stay_whole():
    for size in [(TILE, TILE), (512, 768), (1, 500_000)]:
        (piece,) = cut(sized("a", [size])[0], REACH)
        assert piece.is_whole and piece.cost == size[0] * size[1]


# --- cells ------------------------------------------------------------------------------------------------

# The sizes of the benchmarks of the paper's Table 2.
TABLE_2 = {
    "bsd68": [(321, 481)] * 53 + [(481, 321)] * 15,
    "set12": [(256, 256)] * 7 + [(512, 512)] * 5,
    "cbsd68": [(321, 481)] * 53 + [(481, 321)] * 15,
    "kodak24": [(500, 500)] * 24,
}


def suite_pieces(methods: dict[str, float], estimator: Estimator | None) -> list[WorkUnit]:
    """Of all six noises on all four benchmarks; methods: what each costs in passes."""
    cells = [
        Cell(noise, level, method, name, source, EvaluatedMethod(method, lambda *_: np.empty(0), "", passes, REACH))
        for noise in "abcdef"
        for level in (("known", "unknown") if estimator else ("known",))
        for name, sizes in TABLE_2.items()
        for source in [Benchmark(name, "float", tuple(sized(name, sizes)), 3)]
        for method, passes in methods.items()
    ]
    return [
        piece for number, cell in enumerate(cells) for image in cut_cell(number, cell, estimator) for piece in image
    ]


@pytest.mark.parametrize("methods", [{"n2s": 1.0}, {"n2s": 1.0, "n2s+more": 8.0, "bm3d": 40.0}], ids=["one", "three"])
@pytest.mark.parametrize("pixels", [None, 500_000], ids=["known", "both levels"])
def test_four_ranks_share_table_2_within_a_tenth(methods, pixels):
    pieces = suite_pieces(methods, pixels and Estimator(lambda *_: None, pixels))
    assert len(pieces) == 172 * 6 * len(methods) * (2 if pixels else 1)
    shares = costs(partition(pieces, 4))
    assert 0.9 * np.mean(shares) < min(shares) and max(shares) < 1.1 * np.mean(shares)


def test_an_unknown_level_costs_its_estimate_and_leaves_a_large_image_whole():
    """A tile would have to estimate from less than the image, or every tile from all of it."""
    source = Benchmark("large", "float", tuple(LARGE), 3)
    denoiser = EvaluatedMethod("n2s", lambda *_: np.empty(0), "", 1.0, REACH)
    for level, pieces in (("known", 48), ("unknown", 1)):
        (image,) = cut_cell(7, Cell("a", level, "n2s", "large", source, denoiser), Estimator(lambda *_: None, 50_000))
        assert len(image) == pieces and {piece.cell for piece in image} == {7}
    assert image[0].is_whole and image[0].cost == 4000 * 6000 + 50_000

"""Who evaluates what: images of all cells, large ones in tiles, shared out over ranks by the pixels they cost.

    cells ──► their tasks (images) ──► units (whole images, or tiles of large ones) ──► a share for each rank

How an image is cut depends on its size and on the network alone, never on the number of ranks, so that what is
measured does not either.
"""

import heapq
from dataclasses import dataclass, replace

from n2s_dist.evaluation.benchmarks import Task
from n2s_dist.evaluation.methods import Estimator
from n2s_dist.evaluation.suite import Cell
from n2s_dist.inference.tiling import TILE, Box, ReceptiveField
from n2s_dist.metrics.base import reach


@dataclass(frozen=True)
class WorkUnit:
    """What is denoised in one go: all of an image or a tile of it.

    cost: pixels that go through the network, each time they do. cell: its cell's place among all.
    """

    task: Task
    box: Box
    cost: int
    cell: int = 0

    @property
    def is_whole(self) -> bool:
        return self.box == Box.of(self.task.size)


def cut_cell(number: int, cell: Cell, estimator: Estimator | None) -> list[list[WorkUnit]]:
    """The units of each image of a cell.

    Where the level has to be estimated or some metric takes images whole, each image is one unit.
    """
    assert cell.source and cell.denoiser
    passes, receptive_field, more = cell.denoiser.passes, cell.denoiser.receptive_field, 0
    if cell.level == "unknown":
        assert estimator
        receptive_field, more = None, estimator.pixels
    margin = reach() if cell.has_truth else 0
    if margin is None:
        receptive_field, margin = None, 0
    cuts = [cut(task, receptive_field, passes=passes, margin=margin) for task in cell.source.tasks]
    return [[replace(unit, cell=number, cost=unit.cost + more) for unit in units] for units in cuts]


def cut(
    task: Task, receptive_field: ReceptiveField | None, tile: int = TILE, passes: float = 1.0, margin: int = 0
) -> list[WorkUnit]:
    """An image in one unit, or one larger than a tile of `tile` x `tile` pixels in tiles of about equal size.

    receptive_field: None leaves every image whole. margin: pixels around a tile that metrics see.
    """
    whole = Box.of(task.size)
    if receptive_field is None or whole.pixels <= tile**2:
        return [WorkUnit(task, whole, round(whole.pixels * passes))]
    sides = []
    for length in task.size:
        count = -(-length // tile)
        sides.append(receptive_field.on_grid(-(-length // count)))
    boxes = whole.tiles(*sides)
    wide = [receptive_field.around(box.grown(margin, task.size), task.size) for box in boxes]
    return [WorkUnit(task, box, round(seen.pixels * passes)) for box, seen in zip(boxes, wide, strict=True)]


def partition(units: list[WorkUnit], world_size: int) -> list[list[WorkUnit]]:
    """Units of each rank, image after image. No rank costs more than the mean and the largest unit together.

    Tiles of a large image go to one rank until that has its fair share, then to the next, since every rank that
    takes part has to read all of the image. What is left goes, the largest first, to the rank with the fewest pixels
    so far (Graham 1969).
    """
    shares: list[list[WorkUnit]] = [[] for _ in range(world_size)]
    costs = [0] * world_size
    fair = sum(unit.cost for unit in units) / world_size
    rank, left = 0, []
    for unit in sorted(units, key=_by_image):
        while rank < world_size and not unit.is_whole and costs[rank] + unit.cost > fair:
            rank += 1
        if unit.is_whole or rank == world_size:
            left.append(unit)
        else:
            shares[rank].append(unit)
            costs[rank] += unit.cost
    queue = [(cost, rank) for rank, cost in enumerate(costs)]
    heapq.heapify(queue)
    for unit in sorted(left, key=lambda unit: -unit.cost):  # stable: equals stay sorted by name
        cost, rank = heapq.heappop(queue)
        shares[rank].append(unit)
        heapq.heappush(queue, (cost + unit.cost, rank))
    return [sorted(share, key=_by_image) for share in shares]


def _by_image(unit: WorkUnit) -> tuple:
    """Large images first, so that threads end together; an image's units in a row, so that few images are open."""
    return -Box.of(unit.task.size).pixels, *unit.task.name, unit.cell, unit.box

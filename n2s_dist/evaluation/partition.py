"""Who evaluates what: images of all cells, large ones in tiles, shared out over ranks by the pixels they cost.

    cells ──► their tasks (images) ──► pieces (whole images, or tiles of large ones) ──► a share for each rank

How an image is cut depends on its size and on the network alone, never on the number of ranks, so that what is
measured does not either.
"""

import heapq
from dataclasses import dataclass, replace

from n2s_dist.evaluation.benchmarks import Task
from n2s_dist.evaluation.methods import Estimator
from n2s_dist.evaluation.suite import Cell
from n2s_dist.inference.tiling import TILE, Box, Reach
from n2s_dist.metrics.ssim import SSIM_RADIUS


@dataclass(frozen=True)
class Piece:
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


def cut_cell(number: int, cell: Cell, estimator: Estimator | None) -> list[list[Piece]]:
    """The pieces of each image of a cell. Where the level has to be estimated, it takes the image whole."""
    assert cell.source and cell.denoiser
    passes, reach, more = cell.denoiser.passes, cell.denoiser.reach, 0
    if cell.level == "unknown":
        assert estimator
        reach, more = None, estimator.pixels
    cuts = [cut(task, reach, passes=passes) for task in cell.source.tasks]
    return [[replace(piece, cell=number, cost=piece.cost + more) for piece in pieces] for pieces in cuts]


def cut(task: Task, reach: Reach | None, tile: int = TILE, passes: float = 1.0) -> list[Piece]:
    """An image in one piece, or one larger than a tile of `tile` x `tile` pixels in tiles of about equal size.

    reach: None leaves every image whole.
    """
    whole = Box.of(task.size)
    if reach is None or whole.pixels <= tile**2:
        return [Piece(task, whole, round(whole.pixels * passes))]
    sides = []
    for length in task.size:
        count = -(-length // tile)
        sides.append(reach.on_grid(-(-length // count)))
    boxes = whole.tiles(*sides)
    wide = [reach.around(box.grown(SSIM_RADIUS, task.size), task.size) for box in boxes]
    return [Piece(task, box, round(seen.pixels * passes)) for box, seen in zip(boxes, wide, strict=True)]


def share_out(pieces: list[Piece], world_size: int) -> list[list[Piece]]:
    """Pieces of each rank, image after image. No rank costs more than the mean and the largest piece together.

    Tiles of a large image go to one rank until that has its fair share, then to the next, since every rank that
    takes part has to read all of the image. What is left goes, the largest first, to the rank with the fewest pixels
    so far (Graham 1969).
    """
    shares: list[list[Piece]] = [[] for _ in range(world_size)]
    costs = [0] * world_size
    fair = sum(piece.cost for piece in pieces) / world_size
    rank, left = 0, []
    for piece in sorted(pieces, key=_by_image):
        while rank < world_size and not piece.is_whole and costs[rank] + piece.cost > fair:
            rank += 1
        if piece.is_whole or rank == world_size:
            left.append(piece)
        else:
            shares[rank].append(piece)
            costs[rank] += piece.cost
    queue = [(cost, rank) for rank, cost in enumerate(costs)]
    heapq.heapify(queue)
    for piece in sorted(left, key=lambda piece: -piece.cost):  # stable: equals stay sorted by name
        cost, rank = heapq.heappop(queue)
        shares[rank].append(piece)
        heapq.heappush(queue, (cost + piece.cost, rank))
    return [sorted(share, key=_by_image) for share in shares]


def _by_image(piece: Piece) -> tuple:
    """Large images first, so that threads end together; an image's pieces in a row, so that few images are open."""
    return -Box.of(piece.task.size).pixels, *piece.task.name, piece.cell, piece.box

"""Orders in which the cells of a grid are filled, some of them together (floor 0).

An order is a list of groups; a group holds the positions, in raster order of the grid, that are predicted in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_bpd.interfaces import InputError

Groups = tuple[tuple[int, ...], ...]


def raster(grid: Sequence[int]) -> Groups:
    """Row by row, one cell in a pass."""
    return tuple((cell,) for cell in range(math.prod(grid)))


def regions(grid: Sequence[int], count: int, sequential_start: bool = True) -> Groups:
    """The order of PAR (arXiv 2412.15119, section 3.2): cells at the same place of all regions together.

    The first two sides of the grid, height and width, are divided into sqrt(count) parts each. What a third side holds,
    the channels or codes of one place, is predicted one after the other.

    Args:
        grid: The sides of the grid: height, width and, if a place has several tokens, depth.
        count: The number of regions, a square; 1 is raster order.
        sequential_start: Whether the first cell of each region is predicted in a pass of its own, as in the paper.

    Raises:
        InputError: The regions do not divide the grid.
    """
    height, width = grid[:2]
    depth = math.prod(grid[2:])
    side = math.isqrt(max(count, 0))
    if side < 1 or side * side != count or height % side or width % side:
        raise InputError(
            f"{count} regions do not divide a grid of {' x '.join(map(str, grid))}: choose the square of a number "
            "that divides height and width"
        )
    # On the CPU also where a network is being built on another device.
    cells = torch.arange(math.prod(grid), device="cpu").view(side, height // side, side, width // side, depth)
    # Places within a region and their depth outside, regions inside.
    together = cells.permute(1, 3, 4, 0, 2).reshape(-1, count)
    groups = [tuple(group) for group in together.tolist()]
    if sequential_start:
        return *((cell,) for cell in groups[0]), *groups[1:]
    return tuple(groups)


def consecutive(grid: Sequence[int], size: int, sequential_start: bool = True) -> Groups:
    """Raster order in groups of ``size`` neighbours, which PAR's ablation shows to be worse than regions.

    Args:
        grid: The sides of the grid.
        size: Cells of a group.
        sequential_start: Whether the first ``size`` cells are predicted in passes of their own.

    Raises:
        InputError: The groups do not divide the grid.
    """
    total = math.prod(grid)
    if size < 1 or total % size:
        raise InputError(
            f"groups of {size} do not divide a grid of {total} cells: choose a divisor of {total}"
        )
    groups = [tuple(range(first, first + size)) for first in range(0, total, size)]
    if sequential_start:
        return *((cell,) for cell in groups[0]), *groups[1:]
    return tuple(groups)


def grouped(order: Sequence[int], passes: int, exponent: float = 1.0) -> Groups:
    """Split an order of cells into groups that grow: after a share t of the passes, a share t ** exponent is filled.

    Args:
        order: Each cell once.
        passes: The number of groups, 1 to the number of cells.
        exponent: 1 for groups of one size; more for small groups first, when little is known.

    Raises:
        InputError: There are more passes than cells, or none.
    """
    total = len(order)
    if not 1 <= passes <= total:
        raise InputError(f"{passes} passes cannot fill {total} cells: choose 1 to {total}")
    ends = [round(total * ((number + 1) / passes) ** exponent) for number in range(passes)]
    # Each group has at least one cell, and enough are left for those that follow.
    for number in range(passes):
        least = (ends[number - 1] if number else 0) + 1
        ends[number] = min(max(ends[number], least), total - (passes - 1 - number))
    return tuple(tuple(order[first:end]) for first, end in zip([0, *ends[:-1]], ends, strict=True))


def random_order(grid: Sequence[int], seed: int) -> list[int]:
    """All cells in a random order."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(math.prod(grid), generator=generator).tolist()


def halton_order(grid: Sequence[int]) -> list[int]:
    """All cells in the order of a Halton sequence, which covers the grid evenly at any time (Besnier et al. 2025).

    The bases are 2, 3 and 5. A cell is taken when a point first falls into it; what no point reaches follows.
    """
    total = math.prod(grid)
    order: dict[int, None] = {}
    for number in range(1, 16 * total + 1):
        cell = 0
        for side, base in zip(grid, (2, 3, 5), strict=False):
            cell = cell * side + int(_radical_inverse(number, base) * side)
        order.setdefault(cell)
        if len(order) == total:
            break
    return [*order, *(cell for cell in range(total) if cell not in order)]


def _radical_inverse(number: int, base: int) -> float:
    """The digits of a number in a base, mirrored at the point."""
    inverse, scale = 0.0, 1.0 / base
    while number:
        inverse += (number % base) * scale
        number, scale = number // base, scale / base
    return inverse


def locality_order(grid: Sequence[int], sizes: Sequence[int]) -> Groups:
    """Groups whose cells are near to what is known and far from one another (LPD, arXiv 2507.01957, section 3.3).

    The first group begins at the centre. A cell is taken if it has the nearest known cell among those that are at least
    as far from the cells of its own group as the group's size allows; the distance is halved while none is left.

    Args:
        grid: The sides of the grid.
        sizes: Cells of each group, which add up to those of the grid.

    Raises:
        InputError: The sizes do not add up to the cells of the grid.
    """
    total = math.prod(grid)
    if sum(sizes) != total or min(sizes, default=0) < 1:
        raise InputError(f"groups of {sum(sizes)} cells together do not fill a grid of {total}")
    places = torch.cartesian_prod(*(torch.arange(side) for side in grid)).view(total, -1).double()
    distances = torch.cdist(places, places)
    centre = torch.tensor([(side - 1) // 2 for side in grid]).double()
    to_known = (places - centre).norm(dim=1)
    left = torch.ones(total, dtype=torch.bool)
    groups: list[tuple[int, ...]] = []
    for size in sizes:
        group: list[int] = []
        apart = math.sqrt(total / size)
        to_group = torch.full((total,), torch.inf, dtype=torch.double)
        while len(group) < size:
            allowed = left & (to_group >= apart)
            if not allowed.any():
                apart /= 2
                continue
            cell = int(torch.where(allowed, to_known, torch.inf).argmin())
            group.append(cell)
            left[cell] = False
            to_group = torch.minimum(to_group, distances[cell])
        if not groups:
            to_known = torch.full((total,), torch.inf, dtype=torch.double)
        for cell in group:
            to_known = torch.minimum(to_known, distances[cell])
        groups.append(tuple(group))
    return tuple(groups)


def check_groups(groups: Groups, cells: int) -> Groups:
    """Return the groups if they hold each of the cells once.

    Raises:
        InputError: They leave out or repeat a cell, or name one that is not there.
    """
    found = sorted(cell for group in groups for cell in group)
    if found != list(range(cells)):
        repeated = sorted({cell for cell in found if found.count(cell) > 1})
        missing = sorted(set(range(cells)).difference(found))
        outside = [cell for cell in found if not 0 <= cell < cells]
        wrong = [
            f"{what} {', '.join(map(str, each[:5]))}"
            for what, each in (("leaves out", missing), ("repeats", repeated), ("is outside at", outside))
            if each
        ]
        raise InputError(f"the plan for {cells} cells {' and '.join(wrong)}: give each cell once")
    return groups


def order_of(groups: Groups) -> Tensor:
    """All cells in the order of the groups, int64 [N]."""
    return torch.tensor([cell for group in groups for cell in group], dtype=torch.long, device="cpu")


def plan_groups(text: str, grid: Sequence[int]) -> Groups:
    """Read a plan as it is written in configurations.

    ``raster``; ``regions-N`` (PAR's order with N regions); ``consecutive-N`` (raster order, N neighbours together); and
    ``random-P``, ``halton-P``, ``locality-P``, with P passes whose groups grow.

    Raises:
        InputError: The text is no plan, or the plan does not fit the grid.
    """
    name, _, number = text.partition("-")
    if text == "raster":
        return raster(grid)
    if number.isdecimal() and len(number) < 8:
        count = int(number)
        if name == "regions":
            return regions(grid, count)
        if name == "consecutive":
            return consecutive(grid, count)
        if name == "random":
            return grouped(random_order(grid, 0), count, _GROWTH)
        if name == "halton":
            return grouped(halton_order(grid), count, _GROWTH)
        if name == "locality":
            sizes = [len(group) for group in grouped(range(math.prod(grid)), count, _GROWTH)]
            return locality_order(grid, sizes)
    raise InputError(
        f"unknown plan {text!r}: choose raster, regions-N, consecutive-N, random-P, halton-P or locality-P, such as "
        "regions-4 for four regions or halton-12 for 12 passes"
    )


# Groups grow as little becomes much: half of the passes fill a third of the cells.
_GROWTH = 1.6

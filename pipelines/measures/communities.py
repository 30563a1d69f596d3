"""Communities of a graph: groups of a fixed size with many edges inside. Functions of tensors alone."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Alike = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]
"""`alike(nodes [n], others [m])`: how alike they are, `[n, m]`."""


@dataclass(frozen=True)
class Communities:
    """Nodes shared out."""

    of: NDArray[np.int64]
    """The community of each node, `[N]`, numbered from 0."""
    isolated: int
    """Nodes without an edge."""
    left: int
    """Nodes that edges found no place for, isolated ones among them: they stand where the most alike of these do."""
    degree: float
    """Edges of a node, on the mean."""


def mutual(lists: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Edges i - j where each is in the other's list, as the neighbours of each node (both directions): starts `[N + 1]`
    and nodes `[E]`.

    Args:
        lists: `[N, m]` of nodes, -1 for none.
    """
    count = len(lists)
    here = np.repeat(np.arange(count), lists.shape[1])
    there = lists.reshape(-1)
    real = (there >= 0) & (there != here)
    here, there = here[real], there[real]
    edges = np.intersect1d(here * count + there, there * count + here)  # each in both directions, sorted
    starts = np.searchsorted(edges // max(1, count), np.arange(count + 1))
    return starts, edges % max(1, count)


def communities(starts: NDArray[np.int64], nodes: NDArray[np.int64], size: int, alike: Alike) -> Communities:
    """Share the nodes of a graph out to communities of `size`; the last one takes what remains.

    Greedy: the free node with the fewest free neighbours begins a community, and the free node with the most edges into
    it joins, of equal ones that with the fewest free neighbours, until it has its size. Nodes of a community that stays
    smaller are shared out anew, each first one of them with those that are most alike to it.

    Args:
        starts: `[N + 1]`, and
        nodes: the neighbours of node i are `nodes[starts[i] : starts[i + 1]]`.
    """
    count = len(starts) - 1
    degree = np.diff(starts)
    free_edges = degree.tolist()
    of = np.full(count, -1, dtype=np.int64)
    heap = [(free, node) for node, free in enumerate(free_edges) if free]
    heapq.heapify(heap)
    number, rest = 0, [int(node) for node in np.flatnonzero(degree == 0)]
    taken = np.zeros(count, dtype=bool)
    taken[rest] = True
    while heap:
        free, node = heapq.heappop(heap)
        if taken[node] or free != free_edges[node]:  # or it stands there again, with fewer
            continue
        members = _grown(node, starts, nodes, size, taken, free_edges, heap)
        if len(members) == size:
            of[members] = number
            number += 1
        else:
            rest += members
    left = len(rest)
    _by_likeness(of, np.sort(np.array(rest, dtype=np.int64)), size, number, alike)
    return Communities(of, int((degree == 0).sum()), left, float(degree.mean()) if count else 0.0)


def _grown(
    node: int,
    starts: NDArray[np.int64],
    nodes: NDArray[np.int64],
    size: int,
    taken: NDArray[np.bool_],
    free_edges: list[int],
    heap: list[tuple[int, int]],
) -> list[int]:
    """The members of a community that begins at a node: at most `size`, fewer where no free node has an edge to it."""
    members: list[int] = []
    inside: dict[int, int] = {node: 0}  # free nodes with their edges into it
    while inside and len(members) < size:
        best = min(inside, key=lambda other: (-inside[other], free_edges[other], other))
        del inside[best]
        taken[best] = True
        members.append(best)
        for other in nodes[starts[best] : starts[best + 1]].tolist():
            free_edges[other] -= 1
            if not taken[other]:
                heapq.heappush(heap, (free_edges[other], other))
                inside[other] = inside.get(other, 0) + 1
    return members


def _by_likeness(of: NDArray[np.int64], rest: NDArray[np.int64], size: int, number: int, alike: Alike) -> None:
    """Give the nodes `rest` communities from `number` on."""
    while len(rest):
        scores = alike(rest[:1], rest[1:])[0]
        near = 1 + np.sort(np.argsort(-scores, kind="stable")[: size - 1])
        members = np.concatenate([[0], near])
        of[rest[members]] = number
        rest, number = np.delete(rest, members), number + 1

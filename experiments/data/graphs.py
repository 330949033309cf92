"""What link prediction makes of a graph: training, validation and test edges, edges that are not there, and graphs of
any size to try it on."""

from typing import NamedTuple

import numpy as np

from dstjax.checks import check_choice, check_integer, check_number
from experiments.data.edges import Edges

CHUNK = 1 << 20  # edges at a time
PROTOCOLS = {
    "paper": "newest fifth for test; of the older ones three fifths of all for training, a fifth for validation",
    "reference-code": "as paper, but validation is drawn on its own, so that it shares edges with training",
}


class LinkSplit(NamedTuple):
    """Which edges serve what, int64 indices."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split(edges: Edges, seed: int, protocol: str = "paper") -> LinkSplit:
    """Edges for training (three fifths of all), validation and test (a fifth each, rounded down).

    Where the edges have times the test edges are the newest; else they are drawn, the same ones for every seed, since
    embeddings are made without them. DST-EE names no split; this is that of the public pipeline that prepares the same
    graphs for link prediction.

    Args:
      edges: the oldest first.
      seed: of the training and validation edges.
      protocol: 'paper': training and validation share no edge. 'reference-code': they are drawn independently.

    Raises:
      ValueError: fewer than five edges, or an unknown protocol.
    """
    check_choice("protocol", protocol, PROTOCOLS)
    m = len(edges.source)
    fifth = m // 5
    if not fifth:
        raise ValueError(f"a graph of {m} edges cannot be split; expected at least 5, one of each fifth.")
    rng = np.random.default_rng((4, seed))
    order = np.arange(m) if edges.time is not None else np.random.default_rng(5).permutation(m)
    older, test = order[: m - fifth], order[m - fifth :]
    drawn = rng.permutation(older)
    train = drawn[: 3 * fifth]
    validation = drawn[3 * fifth : 4 * fifth] if protocol == "paper" else rng.permutation(older)[:fifth]
    return LinkSplit(train, validation, test)


def negatives(edges: Edges, seed: int, rounds: int = 100) -> np.ndarray:
    """A pair of nodes without an edge for each edge, int32[m, 2].

    With probability 1/2 the target is drawn anew, else both ends are, uniformly over the nodes; again where there is
    such an edge at any time, in this direction, or where both ends are one node. The choice between the two is kept
    through the repetitions. As in the public pipeline that prepares DST-EE's graphs; whether the direction counts there
    is not said.

    Raises:
      ValueError: some edge finds none in so many rounds: the graph is too dense.
    """
    rng = np.random.default_rng((6, seed))
    known = np.unique(_keys(edges.source, edges.target, edges.nodes))
    m = len(edges.source)
    result = np.empty((m, 2), np.int32)
    for start in range(0, m, CHUNK):
        source = edges.source[start : start + CHUNK]
        both = rng.random(len(source)) < 0.5
        open_rows = np.arange(len(source))
        for _ in range(rounds):
            drawn = rng.integers(edges.nodes, size=(len(open_rows), 2), dtype=np.int32)
            pairs = np.where(both[open_rows, None], drawn, np.stack([source[open_rows], drawn[:, 1]], axis=1))
            result[start + open_rows] = pairs
            taken = _contains(known, _keys(pairs[:, 0], pairs[:, 1], edges.nodes)) | (pairs[:, 0] == pairs[:, 1])
            open_rows = open_rows[taken]
            if not open_rows.size:
                break
        else:
            edge = start + int(open_rows[0])
            raise ValueError(
                f"edge {edge} finds no pair without an edge in {rounds} draws; expected a sparser graph than "
                f"{len(known):,} different edges of {edges.nodes:,} nodes."
            )
    return result


def block_model(
    nodes: int, edges: int, *, seed: int, blocks: int = 10, inside: float = 0.8, exponent: float = 2.5
) -> Edges:
    """A degree-corrected block model: nodes of very different degree in communities, edges in order of time.

    Each edge draws its source by weight, then its target by weight in the source's block with probability ``inside``,
    else among all nodes. Weights follow a power law. Repeated edges occur, self-loops do not. Memory: about 40 bytes an
    edge and 32 a node.

    Args:
      nodes: at least 2 a block.
      edges: at least 1.
      seed: of everything drawn.
      blocks: communities of about one size.
      inside: in [0, 1].
      exponent: of the power law of the degrees, above 1; the larger the more equal.

    Raises:
      ValueError: an argument that is not accepted.

    Reference: Karrer and Newman, 2011, Stochastic blockmodels and community structure in networks.
    """
    check_integer("blocks", blocks, 1)
    check_integer("nodes", nodes, 2 * blocks)
    check_integer("edges", edges, 1)
    check_number("inside", inside, "a number in [0, 1]", lambda p: 0 <= p <= 1)
    check_number("exponent", exponent, "a number > 1", lambda e: e > 1)
    rng = np.random.default_rng((7, seed))
    label = rng.permutation(nodes).astype(np.int32)  # of a node at its place, where blocks lie side by side
    # The largest weight is bounded, else a single node could have most of the edges.
    weight = (1 - rng.random(nodes) * (1 - 1 / nodes)) ** (-1 / (exponent - 1))
    ends = np.concatenate([[0.0], np.cumsum(weight)])
    first = np.linspace(0, nodes, blocks + 1).astype(np.int64)  # place at which each block begins
    source, target = np.empty(edges, np.int32), np.empty(edges, np.int32)
    for start in range(0, edges, CHUNK):
        n = min(CHUNK, edges - start)
        here = _place(ends, rng.random(n) * ends[-1])
        block = np.searchsorted(first, here, side="right") - 1
        home = rng.random(n) < inside
        low, high = np.where(home, first[block], 0), np.where(home, first[block + 1], nodes)
        there = _place(ends, ends[low] + rng.random(n) * (ends[high] - ends[low]))
        there = np.clip(there, low, high - 1)
        loop = there == here
        there[loop] = np.where(here + 1 < high, here + 1, low)[loop]
        source[start : start + n], target[start : start + n] = label[here], label[there]
    return Edges(source, target, np.arange(edges) / max(edges - 1, 1), nodes)


def _place(ends: np.ndarray, at: np.ndarray) -> np.ndarray:
    return np.minimum(np.searchsorted(ends, at, side="right") - 1, len(ends) - 2)


def _keys(source: np.ndarray, target: np.ndarray, nodes: int) -> np.ndarray:
    return source.astype(np.int64) * nodes + target


def _contains(known: np.ndarray, keys: np.ndarray) -> np.ndarray:
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return known[place] == keys

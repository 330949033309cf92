"""Eight numbers for each node of a graph, learned from its edges alone.

DST-EE's link-prediction network gets 16 inputs: the embedding of the source and that of the target. The paper does not
say how they are made. ``walks`` is what the public pipeline of the same graphs does (temporal random walks, Nguyen et
al., 2018, then skip-gram with negative sampling, Mikolov et al., 2013), read from its parameters, not checked against
its output; ``spectral`` is a cheap stand-in without learning.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from dstjax.checks import check_integer
from experiments.data.edges import Edges

DIMENSIONS, WALKS, LENGTH, WINDOW, NEGATIVES, RATE = 8, 10, 5, 10, 5, 0.025
BATCH, GROUP = 4096, 64  # pairs in a step, steps in a call
NOISE_POWER = 0.75  # of the counts that negatives are drawn by
TOLERANCE = 1e-4  # of singular values
VERSION = 1  # raised when an algorithm changes otherwise than by a constant


class Tables(NamedTuple):
    """What skip-gram learns."""

    inside: Any  # float32[nodes, dimensions], the embeddings
    outside: Any  # float32[nodes, dimensions], of nodes as context


def temporal_walks(edges: Edges, seed: int, *, walks: int = WALKS, length: int = LENGTH) -> Iterator[np.ndarray]:
    """Walks along edges that are ever newer, from each node.

    The next edge is drawn among the strictly later ones of the node with probability in proportion to exp((its time -
    now) / the range of the node's times).

    Args:
      edges: with times.
      seed: of what is drawn.
      walks: from each node; so many arrays are yielded.
      length: nodes in a walk, at most.

    Yields:
      int32[nodes, length], -1 after the end of a walk.

    Raises:
      ValueError: edges without times.
    """
    if edges.time is None:
        raise ValueError("the edges have no times; expected them for temporal walks: use embedding='spectral'.")
    moment = np.unique(edges.time, return_inverse=True)[1]  # integers, so that comparisons are exact
    order = np.lexsort((moment, edges.source))
    source, target, time, moment = edges.source[order], edges.target[order], edges.time[order], moment[order]
    first = np.searchsorted(source, np.arange(edges.nodes + 1))  # of each node's edges
    moments = int(moment.max()) + 2
    keys = source.astype(np.int64) * moments + moment
    start, stop = first[source], first[source + 1] - 1
    span = np.maximum(time[stop] - time[start], 1e-300)
    # exp(-now / range) is common to all of a node's edges; without it no weight exceeds e.
    ends = np.concatenate([[0.0], np.cumsum(np.exp((time - time[start]) / span))])
    for number in range(walks):
        rng = np.random.default_rng((8, seed, number))
        walk = np.full((edges.nodes, length), -1, np.int32)
        walk[:, 0] = np.arange(edges.nodes)
        alive, now = np.arange(edges.nodes), np.full(edges.nodes, -1, np.int64)
        for step in range(1, length):
            node = walk[alive, step - 1].astype(np.int64)
            low, high = np.searchsorted(keys, node * moments + now, side="right"), first[node + 1]
            going = low < high
            alive, low, high = alive[going], low[going], high[going]
            at = ends[low] + rng.random(len(alive)) * (ends[high] - ends[low])
            edge = np.clip(np.searchsorted(ends, at, side="right") - 1, low, high - 1)
            walk[alive, step], now = target[edge], moment[edge]
        yield walk


def walks(edges: Edges, seed: int, *, dimensions: int = DIMENSIONS) -> np.ndarray:
    """Skip-gram over temporal walks in one pass, float32[nodes, dimensions].

    The context of a node are up to ``WINDOW`` nodes before and behind it in a walk, the number drawn anew for each; the
    rate falls linearly to 0. Gradients are summed over ``BATCH`` pairs, where word2vec takes one after another.

    Raises:
      ValueError: edges without times.
    """
    check_integer("dimensions", dimensions, 1)
    rng = np.random.default_rng((9, seed))
    # word2vec's initial values
    inside = ((rng.random((edges.nodes, dimensions)) - 0.5) / dimensions).astype(np.float32)
    tables = Tables(jnp.asarray(inside), jnp.zeros((edges.nodes, dimensions), jnp.float32))
    noise = jnp.asarray(_noise_table(edges))
    key, calls = jax.random.key(seed), 0
    for number, walk in enumerate(temporal_walks(edges, seed)):
        pairs = _pairs(walk, rng)
        for start in range(0, len(pairs), BATCH * GROUP):
            part = pairs[start : start + BATCH * GROUP]
            real = np.arange(BATCH * GROUP) < len(part)
            part = np.resize(part, (BATCH * GROUP, 2)).reshape(GROUP, BATCH, 2)
            done = (number + start / len(pairs)) / WALKS
            rate = real.astype(np.float32).reshape(GROUP, BATCH) * np.float32(RATE * (1 - done))
            tables = _learn(tables, part, rate, noise, jax.random.fold_in(key, calls))
            calls += 1
    return np.asarray(tables.inside)


def spectral(edges: Edges, seed: int, *, dimensions: int = DIMENSIONS) -> np.ndarray:
    """Leading singular vectors of the normalised undirected adjacency, float32[nodes, dimensions].

    Each is multiplied by its singular value and sqrt(nodes).

    Raises:
      ValueError: not more nodes than dimensions.
    """
    check_integer("dimensions", dimensions, 1)
    check_integer("nodes", edges.nodes, dimensions + 2)
    n = edges.nodes
    ones = np.ones(len(edges.source))
    one_way = scipy.sparse.csr_array((ones, (edges.source, edges.target)), shape=(n, n))
    adjacency = one_way + one_way.T
    root = 1 / np.sqrt(np.maximum(adjacency.sum(axis=1), 1))
    scaled = scipy.sparse.diags_array(root) @ adjacency @ scipy.sparse.diags_array(root)
    start = np.random.default_rng((10, seed)).standard_normal(n)
    vectors, values, _ = scipy.sparse.linalg.svds(scaled, k=dimensions, v0=start, tol=TOLERANCE)
    vectors = vectors[:, ::-1] * np.sqrt(n) * values[::-1]
    # The sign of a singular vector is arbitrary: its largest entry is made positive.
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(dimensions)])
    return (vectors * signs).astype(np.float32)


EMBEDDINGS = {"walks": walks, "spectral": spectral}


def constants() -> dict[str, float]:
    """The numbers that embeddings depend on beside edges and seed, by name."""
    return {name: value for name, value in globals().items() if name.isupper() and isinstance(value, int | float)}


def _noise_table(edges: Edges) -> np.ndarray:
    """Nodes, each as often as a negative should be it; drawn from uniformly. Counts are those of the edges' ends."""
    counts = np.bincount(edges.source, minlength=edges.nodes) + np.bincount(edges.target, minlength=edges.nodes)
    ends = np.cumsum(counts**NOISE_POWER)
    size = max(1 << 16, 8 * edges.nodes)
    return np.searchsorted(ends, (np.arange(size) + 0.5) / size * ends[-1]).astype(np.int32)


def _pairs(walk: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Centre and context, int32[pairs, 2], in random order."""
    reach = rng.integers(1, WINDOW + 1, walk.shape)
    found = []
    for distance in range(1, walk.shape[1]):
        early, late = walk[:, :-distance], walk[:, distance:]
        for centre, context, far in ((early, late, reach[:, :-distance]), (late, early, reach[:, distance:])):
            kept = (late >= 0) & (far >= distance)
            found.append(np.stack([centre[kept], context[kept]], axis=1))
    pairs = np.concatenate(found)
    return pairs[rng.permutation(len(pairs))]


@functools.partial(jax.jit, donate_argnums=0)
def _learn(tables: Tables, pairs: Any, rates: Any, noise: Any, key: Any) -> Tables:
    """Steps of skip-gram; pairs int32[steps, batch, 2], rates float32[steps, batch]."""

    def step(tables: Tables, given: Any) -> tuple[Tables, None]:
        pairs, rate, number = given
        drawn = jax.random.randint(jax.random.fold_in(key, number), (len(pairs), NEGATIVES), 0, len(noise))
        centre, context = pairs[:, 0], pairs[:, 1]
        negative = noise[drawn]
        nodes = jnp.concatenate([context[:, None], negative], axis=1)
        label = jnp.zeros(nodes.shape).at[:, 0].set(1)
        counts = jnp.concatenate([jnp.ones((len(pairs), 1), bool), negative != context[:, None]], axis=1)
        v, u = tables.inside[centre], tables.outside[nodes]
        score = jnp.einsum("bd,bkd->bk", v, u)
        gradient = jnp.where(counts, label - jax.nn.sigmoid(score), 0) * rate[:, None]
        return Tables(
            tables.inside.at[centre].add(jnp.einsum("bk,bkd->bd", gradient, u)),
            tables.outside.at[nodes].add(gradient[:, :, None] * v[:, None, :]),
        ), None

    return jax.lax.scan(step, tables, (pairs, rates, jnp.arange(len(pairs))))[0]

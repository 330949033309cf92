"""Structures in NumPy, group by group and neuron by neuron. Nothing here imports dstjax."""

import numpy as np

from tests.oracles import best

SHAPES = [(8, 5), (2, 3, 8, 4)]
# Scores with many ties, infinities and NaN.
VALUES = [0.0, -0.0, 1.0, 1.0, 2.0, -3.0, np.inf, -np.inf, np.nan]


def scores(rng, shape, ties):
    return np.asarray(rng.choice(VALUES, shape) if ties else rng.standard_normal(shape), np.float32)


def flags(rng, shape, density=0.5):
    return rng.random(shape) < density


def groups_of(shape, m):
    """The index of every group of m consecutive inputs (the last axis but one)."""
    *lead, inputs, outputs = shape
    for outer in np.ndindex(*lead):
        for g in range(inputs // m):
            for column in range(outputs):
                yield (*outer, slice(g * m, (g + 1) * m), column)


def fill_groups(score, n, m, kept, room):
    """The best of every group where there is room, as many as it lacks to n."""
    grown = np.zeros(score.shape, bool)
    for at in groups_of(score.shape, m):
        grown[at] = best(score[at], n - int(kept[at].sum()), room[at])
    return grown


def blocks_of(shape, h, w):
    """The index of every block of h inputs by w outputs, in row-major order."""
    *lead, rows, columns = shape
    for outer in np.ndindex(*lead):
        for i in range(0, rows, h):
            for j in range(0, columns, w):
                yield (*outer, slice(i, i + h), slice(j, j + w))


def best_blocks(score, h, w, k, where=None):
    """The k blocks with the largest sums of scores; with ``where`` only among blocks that it marks."""
    at = list(blocks_of(score.shape, h, w))
    sums = np.array([score[b].sum() for b in at])
    chosen = best(sums, k, None if where is None else [where[b].all() for b in at])
    mask = np.zeros(score.shape, bool)
    for b, c in zip(at, chosen, strict=True):
        mask[b] = c
    return mask


def columns_of(shape, h, w):
    """The blocks of each column of blocks: all that lead to the same w outputs, in row-major order."""
    found = {}
    for at in blocks_of(shape, h, w):
        found.setdefault(at[-1].start, []).append(at)
    return list(found.values())


def balanced_best(score, h, w, each, where=None):
    """The best blocks of every column, as many as ``each``; with ``where`` only among blocks that it marks."""
    mask = np.zeros(score.shape, bool)
    for column in columns_of(score.shape, h, w):
        chosen = best(
            np.array([score[b].sum() for b in column]),
            each,
            None if where is None else np.array([where[b].all() for b in column]),
        )
        for b, c in zip(column, chosen, strict=True):
            mask[b] = c
    return mask


def balanced_update(size, gradient, mask, h, w, keep, target, returns=True):
    """One update of balanced blocks: what stays, and the new mask.

    Args:
      size: the drop score.
      gradient: the growth score.
      mask: active now.
      h: inputs of a block.
      w: outputs of a block.
      keep: weights that stay.
      target: active weights after the update, equally many blocks for each column.
      returns: whether what was just dropped may be grown again.
    """
    columns = columns_of(mask.shape, h, w)
    each = target // (h * w * len(columns))
    stays = balanced_best(size, h, w, each, best_blocks(size, h, w, -(-keep // (h * w)), mask))
    new = stays.copy()
    for column in columns:
        missing = each - sum(stays[b].all() for b in column)
        sums = np.array([gradient[b].sum() for b in column])
        dropped = np.array([mask[b].all() and not stays[b].all() for b in column])
        free = np.array([not stays[b].all() for b in column])
        first = best(sums, missing, free if returns else free & ~dropped)
        rest = best(sums, missing - first.sum(), free & ~first)
        for b, c in zip(column, first | rest, strict=True):
            new[b] |= c
    return stays, new


def fan_in_update(size, gradient, mask, move, budget, ablation):
    """One update of constant fan-in with ablation; neurons are the entries of the last axis.

    Args:
      size: abs(w), the drop score.
      gradient: abs(g), the growth score.
      mask: active now.
      move: how many are dropped before neurons are looked at.
      budget: active weights asked for.
      ablation: gamma.

    Returns:
      What stays, and the new mask.
    """
    shape, neurons = mask.shape, mask.shape[-1]
    size, gradient, mask = (x.reshape(-1, neurons) for x in (size, gradient, mask))
    inputs = len(mask)
    kept = best(size, mask.sum() - move, mask)
    salient = (kept | best(gradient, move)).sum(0)
    threshold = max(1, int(ablation * (budget // neurons) + 1e-6))
    fewest = budget // inputs
    threshold = min(threshold, sorted(salient, reverse=True)[min(fewest, neurons - 1)])
    alive = [c for c in range(neurons) if salient[c] >= threshold]
    fan_in = budget // len(alive)
    stays, new = np.zeros(mask.shape, bool), np.zeros(mask.shape, bool)
    for c in alive:
        stays[:, c] = best(size[:, c], fan_in, kept[:, c])
        new[:, c] = stays[:, c] | best(gradient[:, c], fan_in - stays[:, c].sum(), ~stays[:, c])
    return stays.reshape(shape), new.reshape(shape)


def assert_one_fan_in(mask, target):
    """Every neuron has the same number of inputs or none, as many as the budget gives that many neurons."""
    columns = np.asarray(mask).reshape(-1, mask.shape[-1]).sum(0)
    alive = columns[columns > 0]
    assert len(alive) > 0
    assert {*alive.tolist()} == {target // len(alive)}

"""Structures in NumPy, group by group and neuron by neuron. Nothing here imports dstjax."""

import numpy as np

from tests.oracles import best


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

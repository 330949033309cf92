"""Deals a number of active weights to layers by their densities, so that the numbers add up."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dstjax._arrays.shares import share_limbs, share_of
from dstjax._arrays.varying import varying_as


def deal(total: int, densities: Mapping[str, float], sizes: Mapping[str, int]) -> dict[str, int]:
    """Rounds density * size so that the integers add up to ``total``: largest remainders are rounded up."""
    wanted = {p: densities[p] * n for p, n in sizes.items()}
    counts = {p: max(min(sizes[p], math.floor(w + 1e-9)), 1) for p, w in wanted.items()}
    order = sorted(in_order(sizes), key=lambda p: round(counts[p] - wanted[p], 9))
    missing = total - sum(counts.values())
    while missing > 0 and (free := [p for p in order if counts[p] < sizes[p]]):
        for path in free[:missing]:
            counts[path] += 1
        missing -= min(missing, len(free))
    # Only where a layer was lifted to its one weight there is too much; dense layers pay last.
    order.sort(key=lambda p: densities[p] < 1)
    while missing < 0 and (free := [p for p in reversed(order) if counts[p] > 1]):
        for path in free[:-missing]:
            counts[path] -= 1
        missing += min(-missing, len(free))
    return counts


def in_order(paths: Iterable[str]) -> list[str]:
    """Sorts layers by their place in the network, the same whether they are stacked or written out.

    The numbers of a path say the place (those of a stack before the others), the words of a path the rest:
    ``block/kernel[3]`` comes where ``block_3/kernel`` does.
    """

    def place(path: str) -> Any:
        at = re.search(r"\[([\d, ]+)\]$", path)
        written = path[: at.start()] if at else path
        numbers = [int(n) for n in re.findall(r"\d+", f"{at[1] if at else ''} {written}")]
        return numbers, re.sub(r"[\d_]+(?=/|$)", "", written)

    return sorted(paths, key=place)


def traced_uniform(sizes: Mapping[str, int], sparsity: Any) -> dict[str, Any]:
    """Returns n - floor(sparsity * n) of each layer, for a sparsity known only inside a trace."""
    n = jnp.array(list(sizes.values()), jnp.int32)
    return dict(zip(sizes, n - share_of(n, share_limbs(sparsity)), strict=True))


def traced_counts(sizes: Mapping[str, int], ratios: Sequence[float], sparsity: Any) -> dict[str, Any]:
    """Deals to densities in proportion to ``ratios``, at most 1, for a sparsity known only inside a trace.

    For fewer than 2**31 weights altogether.
    """
    n, raw = jnp.array(list(sizes.values()), jnp.int32), jnp.array(ratios, sparsity.dtype)
    total = jnp.sum(n)
    active = total - share_of(total, share_limbs(sparsity))

    def scale(dense: jax.Array) -> jax.Array:
        budget = active - jnp.sum(jnp.where(dense, n, 0))
        return budget.astype(raw.dtype) / jnp.sum(jnp.where(dense, 0, raw * n.astype(raw.dtype)))

    def saturate(_: Any, dense: jax.Array) -> jax.Array:
        top = jnp.max(jnp.where(dense, 0, raw))
        return dense | ((raw == top) & (top * scale(dense) > 1))

    dense = lax.fori_loop(0, len(sizes), saturate, varying_as(jnp.zeros(len(sizes), bool), sparsity))
    densities = jnp.where(dense, 1, jnp.clip(scale(dense) * raw, 0, 1))
    counts = jnp.clip(share_of(n, share_limbs(densities)), 1, n)
    # Largest remainders are rounded up, and where there is too much the smallest down; dense layers pay last.
    rest = jnp.where(dense, -1, densities * n.astype(raw.dtype) - counts.astype(raw.dtype))
    names = in_order(sizes)
    place = jnp.array([names.index(p) for p in sizes])
    first, last = jnp.lexsort((place, -rest, dense)), jnp.lexsort((-place, rest, dense))

    def dealt(_: Any, counts: jax.Array) -> jax.Array:
        missing = active - jnp.sum(counts)
        may_gain, may_lose = (counts < n)[first], (counts > 1)[last]
        counts = counts.at[first].add((may_gain & (jnp.cumsum(may_gain) <= missing)).astype(jnp.int32))
        return counts.at[last].add(-(may_lose & (jnp.cumsum(may_lose) <= -missing)).astype(jnp.int32))

    counts = lax.fori_loop(0, 4, dealt, counts)
    return dict(zip(sizes, [counts[i] for i in range(len(sizes))], strict=True))

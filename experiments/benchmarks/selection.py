"""The k best of one tensor: by counting, against the sorts of XLA."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from dstjax.selection import bits_by_platform, top_k_mask
from experiments.benchmarks import records
from experiments.benchmarks.timing import Run, Settings, Times, exponent

SHARE = 0.03  # of the entries that are selected
SORTS_UP_TO = 10**7
EXPONENT_FROM = 10**6
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def run(settings: Settings) -> Iterator[records.Row]:
    sizes = settings.pick([10**4, 10**5, 10**6, 10**7, 10**8], [10**3, 10**4])
    for dtype in settings.pick(list(DTYPES), ["float32"]):
        medians = {}
        for size in sizes:
            sorts = size <= SORTS_UP_TO and (dtype == "float32" or size == SORTS_UP_TO)
            times = _race(settings, size, dtype, sorts)
            case = {"entries": size, "dtype": dtype, "share": SHARE}
            for name in times:
                base = "argsort" if "argsort" in times and name != "argsort" else None
                yield records.timed(settings, "selection", case, times, name, base, moved=_moved(size, dtype))
            if size >= EXPONENT_FROM or settings.quick:
                medians[size] = sorted(times["counting"])[len(times["counting"]) // 2]
        fitted = exponent(list(medians), list(medians.values()))
        case = {"dtype": dtype, "entries": f"{min(medians):.0e} to {max(medians):.0e}"}
        yield records.value("selection", case, exponent=fitted)
    yield from _bits(settings, settings.pick(10**7, 10**4))


def _bits(settings: Settings, size: int) -> Iterator[records.Row]:
    """How many bits of the threshold a pass should resolve."""
    with jax.default_device(settings.device):
        x, k = _scores(size, "float32"), jnp.int32(SHARE * size)
        runs: dict[str, Run] = {
            f"{bits} bits a pass": _call(lambda x, k, bits=bits: top_k_mask(x, k, bits_per_pass=bits), x, k)
            for bits in settings.pick((1, 2, 3, 4), (1, bits_by_platform()))
        }
        times = settings.race(runs, rounds=settings.pick(11, 3))
    for name in times:
        base = f"{bits_by_platform()} bits a pass"
        case = {"entries": size, "dtype": "float32", "share": SHARE}
        yield records.timed(settings, "selection", case, times, name, base, moved=_moved(size, "float32"))


def _race(settings: Settings, size: int, dtype: str, sorts: bool) -> Times:
    with jax.default_device(settings.device):
        x, k = _scores(size, dtype), jnp.int32(SHARE * size)
        count = int(SHARE * size)
        runs: dict[str, Run] = {"counting": _call(top_k_mask, x, k)}
        if sorts:
            runs |= {
                "argsort": _call(_by_argsort, x, k),
                "top_k": _call(lambda x: _scatter(x, jax.lax.top_k(x, count)[1]), x),
                "sort": _call(_by_sort, x, k),
            }
        slow = sorts and size >= SORTS_UP_TO
        return settings.race(runs, rounds=settings.pick(5 if slow else 11, 3), warmup=2, least=settings.pick(0.02, 0.0))


def _by_argsort(x: jax.Array, k: jax.Array) -> jax.Array:
    """What one would write: exact, ties to the lowest index."""
    order = jnp.argsort(x, descending=True, stable=True)
    return jnp.zeros(x.shape, bool).at[order].set(jnp.arange(x.size) < k)


def _by_sort(x: jax.Array, k: jax.Array) -> jax.Array:
    """The cheapest use of a sort: a threshold, not exact where scores are equal."""
    return x >= jnp.sort(x, descending=True)[k - 1]


def _scatter(x: jax.Array, places: jax.Array) -> jax.Array:
    return jnp.zeros(x.shape, bool).at[places].set(True)


def _call(function: Callable[..., jax.Array], *arguments: Any) -> Run:
    compiled = jax.jit(function)
    return lambda: compiled(*arguments)


def _scores(size: int, dtype: str) -> jax.Array:
    return jnp.abs(jax.random.normal(jax.random.key(size), (size,), DTYPES[dtype]))


def _moved(size: int, dtype: str) -> int:
    """Every score read once and a byte of mask written."""
    return size * (jnp.dtype(DTYPES[dtype]).itemsize + 1)

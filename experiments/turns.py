"""Times calls side by side, so that what disturbs one of them disturbs all."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax


def timed(calls: Sequence[Callable[[], Any]], *, rounds: int, seconds: float) -> list[list[float]]:
    """Seconds of each call in each of some rounds in which they take turns, after one call for compilation.

    Args:
      calls: each returns arrays, which are waited for.
      rounds: how many.
      seconds: about how long a call is repeated in a round.
    """
    found: list[list[float]] = [[] for _ in calls]
    numbers = []
    for call in calls:
        jax.block_until_ready(call())
        start = time.perf_counter()
        jax.block_until_ready(call())
        numbers.append(max(1, round(seconds / max(time.perf_counter() - start, 1e-6))))
    for _ in range(rounds):
        for call, number, times in zip(calls, numbers, found, strict=True):
            start = time.perf_counter()
            for _ in range(number):
                result = call()
            jax.block_until_ready(result)
            times.append((time.perf_counter() - start) / number)
    return found

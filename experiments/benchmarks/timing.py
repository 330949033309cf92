"""Times contenders in turn, so that whatever slows the machine down does it to all of them alike."""

import dataclasses
import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Run = Callable[[], Any]  # does the work once and returns arrays to wait for
Times = dict[str, list[float]]  # contender -> seconds, one figure a round
MOST_CALLS = 200  # a round


@dataclasses.dataclass(frozen=True)
class Settings:
    """What every benchmark gets."""

    quick: bool  # a sanity run on tiny sizes; its figures mean nothing
    device: jax.Device
    bandwidth: float  # bytes/s that a kernel reads and writes in place on this device

    def pick(self, full: Any, quick: Any) -> Any:
        return quick if self.quick else full


def interleaved(runs: Mapping[str, Run], *, rounds: int, warmup: int = 2, least: float = 0.0) -> Times:
    """Seconds a call of each contender.

    Args:
      runs: the contenders.
      rounds: every round runs each contender, in an order drawn anew, so that none always follows the same one.
      warmup: rounds that are not counted; they compile, once more where a contender leaves arrays of another kind.
      least: seconds that a contender has in a round; a short one is called that often and its median taken.
    """
    names = list(runs)
    last = {name: 0.0 for name in names}
    for _ in range(max(warmup, 1)):
        last = {name: once(runs[name]) for name in names}
    calls = {name: max(1, min(MOST_CALLS, math.ceil(least / max(last[name], 1e-9)))) for name in names}
    times: Times = {name: [] for name in names}
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        order = np.random.default_rng(0)
        for _ in range(rounds):
            for name in order.permutation(names).tolist():
                times[name].append(float(np.median([once(runs[name]) for _ in range(calls[name])])))
    finally:
        if enabled:
            gc.enable()
    return times


def once(run: Run) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def ratios(times: Times, name: str, base: str) -> list[float]:
    """Contender over base, round by round."""
    return [a / b for a, b in zip(times[name], times[base], strict=True)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles, least and number."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return {"median": float(middle), "q1": float(low), "q3": float(high), "min": float(min(values)), "n": len(values)}


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The power of size with which time grows: the slope of a line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def in_place(step: Callable[..., Any], state: Any, *arguments: Any) -> Run:
    """A contender that calls ``state = step(state, *arguments)`` with its state donated, each call on the last's."""
    held = [state]
    donating = jax.jit(step, donate_argnums=0)

    def run() -> Any:
        held[0] = donating(held[0], *arguments)
        return held[0]

    return run


def stream_bandwidth(device: jax.Device, *, entries: int = 2**25, rounds: int = 15) -> float:
    """Bytes a second of ``a = a / 2 + b`` in place: two reads and a write of 4 bytes an entry."""
    with jax.default_device(device):
        run = in_place(lambda a, b: a * 0.5 + b, jnp.ones(entries, jnp.float32), jnp.ones(entries, jnp.float32))
        seconds = interleaved({"triad": run}, rounds=rounds)["triad"]
    return 12 * entries / float(np.median(seconds))

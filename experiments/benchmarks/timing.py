"""Times contenders in turn, so that whatever slows the machine down does it to all of them alike."""

import dataclasses
import gc
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Run = Callable[[], Any]  # does the work once and returns arrays to wait for
MOST_CALLS = 200  # a round
BLOCK = 0.3  # seconds of rounds that are kept or thrown away together
ELSEWHERE = 0.2  # cores that other processes may use meanwhile


class Times(dict[str, list[float]]):
    """Seconds of each contender, one figure a round, and how quiet the machine was."""

    elsewhere: float | None = None  # cores that other processes used on average; None where the system does not say
    thrown_away: int = 0  # rounds that others have disturbed


@dataclasses.dataclass(frozen=True)
class Settings:
    """What every benchmark gets."""

    quick: bool  # a sanity run on tiny sizes; its figures mean nothing
    device: jax.Device
    bandwidth: float  # bytes/s that a kernel reads and writes in place on this device
    patience: float = 0.0  # seconds that a race may spend on waiting for a quiet machine

    def race(self, runs: Mapping[str, Run], *, rounds: int, warmup: int = 2, least: float = 0.0) -> Times:
        return interleaved(runs, rounds=rounds, warmup=warmup, least=least, patience=self.patience)

    def pick(self, full: Any, quick: Any) -> Any:
        return quick if self.quick else full


def interleaved(
    runs: Mapping[str, Run], *, rounds: int, warmup: int = 2, least: float = 0.0, patience: float = 0.0
) -> Times:
    """Seconds a call of each contender.

    Args:
      runs: the contenders.
      rounds: every round runs each contender, in an order drawn anew, so that none always follows the same one.
      warmup: rounds that are not counted; they compile, once more where a contender leaves arrays of another kind.
      least: seconds that a contender has in a round; a short one is called that often and its median taken.
      patience: seconds that may be spent on rounds that other processes have disturbed; these are thrown away.
    """
    names = list(runs)
    last = {name: 0.0 for name in names}
    for _ in range(max(warmup, 1)):
        last = {name: once(runs[name]) for name in names}
    calls = {name: max(1, min(MOST_CALLS, math.ceil(least / max(last[name], 1e-9)))) for name in names}
    order = np.random.default_rng(0)

    def one_round() -> dict[str, float]:
        turn = order.permutation(names).tolist()
        return {name: float(np.median([once(runs[name]) for _ in range(calls[name])])) for name in turn}

    kept: list[dict[str, float]] = []
    times = Times()
    others: list[float] = []
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        while len(kept) < rounds:
            watch = Watch()
            block = [one_round()]
            while watch.seconds < BLOCK and len(kept) + len(block) < rounds:
                block.append(one_round())
            spent, elsewhere = watch.seconds, watch.elsewhere()
            if elsewhere is not None and elsewhere > ELSEWHERE and patience > 0:
                times.thrown_away += len(block)
                time.sleep(min(1.0, patience))
                patience -= spent + 1.0
                continue
            kept += block
            others += [] if elsewhere is None else [elsewhere]
    finally:
        if enabled:
            gc.enable()
    times.elsewhere = float(np.mean(others)) if others else None
    times.update({name: [figures[name] for figures in kept] for name in names})
    return times


class Watch:
    """What other processes do to the machine while this one is busy."""

    def __init__(self) -> None:
        self.start, self.own, self.all = time.perf_counter(), time.process_time(), _busy()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def elsewhere(self) -> float | None:
        """Cores that were busy with something else since the start, on average."""
        now = _busy()
        if self.all is None or now is None:
            return None
        mine = time.process_time() - self.own
        return max(now - self.all - mine, 0.0) / max(self.seconds, 1e-9)


def _busy() -> float | None:
    """Seconds that all cores together have worked, or been withheld, since the machine started; Linux only."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _, _, irq, soft, stolen = (int(x) for x in fields[:8])
    return (user + nice + system + irq + soft + stolen) / os.sysconf("SC_CLK_TCK")


def once(run: Run) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def ratios(times: Mapping[str, list[float]], name: str, base: str) -> list[float]:
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

"""An epoch that was left in its middle: what it has added up so far, as text for a checkpoint's record."""

import base64
import io
import time
from typing import Any, NamedTuple

import numpy as np


class Begun(NamedTuple):
    """How far an epoch has come; arrays have a leading axis of seeds."""

    done: int  # batches
    loss: np.ndarray  # float32[seeds], sum
    correct: np.ndarray  # int32[seeds]
    lost: np.ndarray  # int32[seeds, 3], see steps.Lost
    mask_updates: list[tuple[int, dict[str, np.ndarray]]]  # step and topology after each


def to_text(begun: Begun) -> str:
    """Every bit of it."""
    arrays: dict[str, Any] = {
        "done": np.int64(begun.done),
        "loss": begun.loss,
        "correct": begun.correct,
        "lost": begun.lost,
    }
    arrays["steps"] = np.array([step for step, _ in begun.mask_updates], np.int64)
    for i, (_, topology) in enumerate(begun.mask_updates):
        arrays |= {f"{i}/{name}": value for name, value in topology.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return base64.b64encode(buffer.getvalue()).decode()


def from_text(text: str) -> Begun:
    """What :func:`to_text` has written."""
    with np.load(io.BytesIO(base64.b64decode(text))) as stored:
        arrays = {name: stored[name] for name in stored.files}
    updates: list[tuple[int, dict[str, np.ndarray]]] = [(int(step), {}) for step in arrays["steps"]]
    for name, value in arrays.items():
        number, slash, field = name.partition("/")
        if slash:
            updates[int(number)][1][field] = value
    return Begun(int(arrays["done"]), arrays["loss"], arrays["correct"], arrays["lost"], updates)


class Pace:
    """After how many steps the host waits for the devices: about half a second's, so that it never runs far ahead."""

    SECONDS = 0.5

    def __init__(self) -> None:
        self.size, self.given, self.began = 16, 0, time.perf_counter()

    def due(self, steps: int) -> bool:
        """Whether it is time to wait, now that so many steps more are given to the devices."""
        self.given += steps
        return self.given >= self.size

    @property
    def seconds(self) -> float:
        """Since the host has waited last."""
        return time.perf_counter() - self.began

    def took(self, seconds: float) -> None:
        """Learns how long the steps took that were given since."""
        if seconds < self.SECONDS / 2:
            self.size *= 2
        elif seconds > 2 * self.SECONDS:
            self.size = max(1, self.size // 2)
        self.given, self.began = 0, time.perf_counter()

"""What a run leaves behind: metrics.jsonl, TensorBoard events, a progress bar or a line now and then."""

import contextlib
import errno
import hashlib
import json
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

PACKAGES = ("jax", "jaxlib", "optax", "numpy")


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that it is either the old one or the whole new one, whatever happens meanwhile."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON of numbers, NumPy arrays and containers; what is not finite becomes null."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def versions() -> dict[str, str]:
    """The versions of what decides the numbers."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


class Metrics:
    """metrics.jsonl, and TensorBoard events where asked. One line a record, no clock in it: a run can be repeated."""

    def __init__(
        self, workdir: Path, size: int, sha256: str, step: int, tensorboard: bool, seeds: Sequence[int]
    ) -> None:
        """Goes on after the first ``size`` bytes, whose checksum is ``sha256``, as a checkpoint at ``step`` has them.

        Raises:
          ValueError: the file is shorter than that, or has other contents.
        """
        self.path = workdir / "metrics.jsonl"
        self.file = self.path.open("a+b")
        if self.file.seek(0, os.SEEK_END) < size:
            self.file.close()
            raise ValueError(
                f"{self.path} is shorter than the checkpoint at step {step} has left it; restore the file, or remove "
                f"{workdir} to start over."
            )
        self.file.seek(0)
        self.sum = hashlib.sha256(self.file.read(size))
        if size and self.sum.hexdigest() != sha256:
            self.file.close()
            raise ValueError(
                f"{self.path} is damaged: it begins otherwise than the checkpoint at step {step} has left it; restore "
                f"the file, or remove {workdir} to start over."
            )
        self.file.truncate(size)
        self.seeds, self.writer = seeds, None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self.writer = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def write(self, kind: str, step: int, epoch: float, **values: Any) -> None:
        """Writes one record."""
        line = to_json({"kind": kind, "step": step, "epoch": epoch, **values}).encode() + b"\n"
        self.file.write(line)
        self.file.flush()
        self.sum.update(line)
        kind = f"{kind}_{values['split']}" if "split" in values else kind
        self.show(step, {f"{kind}/{n}": v for n, v in values.items() if not isinstance(v, dict | str)})

    def show(self, step: int, values: Mapping[str, Any]) -> None:
        """Shows numbers, or one of each seed, in TensorBoard alone."""
        if self.writer is None:
            return
        for name, value in values.items():
            tags = [""] if np.ndim(value) == 0 else [f"/seed_{seed}" for seed in self.seeds]
            for tag, number in zip(tags, np.ravel(value).tolist(), strict=True):
                if math.isfinite(number):
                    self.writer.add_scalar(f"{name}{tag}", number, step)

    def size(self) -> int:
        """Bytes written so far, safely on disk.

        Raises:
          OSError: they are not, or the file is no longer where it was.
        """
        os.fsync(self.file.fileno())
        if not os.path.samestat(os.fstat(self.file.fileno()), self.path.stat()):
            raise OSError(errno.ESTALE, "another file has taken the place of the one that is written", str(self.path))
        if self.writer is not None:
            self.writer.flush()
        return self.file.tell()

    def digest(self) -> str:
        """The SHA-256 of what is written so far."""
        return self.sum.hexdigest()

    def close(self) -> None:
        """Closes the files."""
        self.file.close()
        if self.writer is not None:
            self.writer.close()


class NoMetrics:
    """What every process but the first writes of a run on several: nothing."""

    def write(self, kind: str, step: int, epoch: float, **values: Any) -> None:
        """Writes nothing."""

    def show(self, step: int, values: Mapping[str, Any]) -> None:
        """Shows nothing."""

    def size(self) -> int:
        """Nothing."""
        return 0

    def digest(self) -> str:
        """That of nothing."""
        return ""

    def close(self) -> None:
        """Closes nothing."""


class Progress:
    """Loss, accuracy and exploration rate R while training: a bar on a terminal, elsewhere a line now and then."""

    def __init__(self, steps: int, step: int, every_epochs: int, quiet: bool) -> None:
        self.steps, self.every, self.quiet, self.epochs = steps, every_epochs, quiet, 0
        self.bar = None
        if not quiet and sys.stderr.isatty():
            self.bar = tqdm(total=steps, initial=step, unit="step", dynamic_ncols=True)

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        if not self.quiet:
            tqdm.write(text) if self.bar is not None else print(text, flush=True)

    def update(self, step: int, loss: np.ndarray, accuracy: np.ndarray, exploration_rate: np.ndarray) -> None:
        """Shows the means over the seeds after an epoch."""
        self.epochs += 1
        shown = {
            "loss": f"{loss.mean():.4f}",
            "accuracy": f"{100 * accuracy.mean():.2f} %",
            "R": f"{exploration_rate.mean():.4f}",
        }
        if self.bar is not None:
            self.bar.set_postfix(shown, refresh=False)
            self.bar.update(step - self.bar.n)
        elif self.epochs % self.every == 0 or step == self.steps:
            self.say(f"step {step:>{len(str(self.steps))}} of {self.steps}: {_joined(shown)}")

    def close(self) -> None:
        """Leaves the bar as it is."""
        if self.bar is not None:
            self.bar.close()


def _joined(shown: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

"""Runs a configuration, and says what became of it."""

import contextlib
import gc
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax

from tests.fuzz import making, wrong
from tests.fuzz.drawing import Configuration
from tests.fuzz.invariants import BrokenError, is_refusal
from tests.fuzz.training import Training

RAN, REFUSED, LATE, ALONE, BROKEN = ENDS = (
    "ran",
    "refused in one line",
    "refused at the first mask update",  # in one line too
    "the optimiser fails alone",
    "broken",
)
MANY_MAPS = 8_000  # of 65,530 that a process may have: see tests/conftest.py; some two gigabytes of programs


class Outcome(NamedTuple):
    """What became of a configuration."""

    end: str  # one of ENDS
    said: str = ""


def outcome_of(c: Configuration) -> Outcome:
    """Runs a configuration."""
    with _settings(c):
        training = None
        try:
            if c.wrong != "nothing":
                return Outcome(REFUSED, wrong.attempt(c))
            training = Training(c)
            training.run()
            return Outcome(RAN)
        except BrokenError as error:
            return Outcome(BROKEN, str(error))
        except Exception as error:
            if is_refusal(error) and (training is None or training.may_refuse):
                return Outcome(LATE if training and training.calls else REFUSED, str(error))
            if fails_alone(c):
                return Outcome(ALONE, f"{type(error).__name__}: {str(error)[:200]}")
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(last.filename).name}:{last.lineno}"
            return Outcome(BROKEN, f"{type(error).__name__} at {where}: {str(error)[:400]}")


def forget_programs() -> None:
    """Lets go of compiled programs once there are many: each holds memory maps, of which a process may have few."""
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MANY_MAPS:
        jax.clear_caches()
        gc.collect()


@contextlib.contextmanager
def _settings(c: Configuration) -> Iterator[None]:
    before = jax.config.jax_traceback_filtering
    with contextlib.ExitStack() as stack:
        jax.config.update("jax_traceback_filtering", "off")  # errors show where they come from
        stack.callback(jax.config.update, "jax_traceback_filtering", before)
        stack.enter_context(jax.enable_x64(c.x64))
        if c.program in ("auto", "explicit"):
            stack.enter_context(jax.set_mesh(making.mesh(c)))
        yield


def fails_alone(c: Configuration) -> bool:
    """Whether optax itself cannot take the first steps of these parameters."""
    try:
        params = making.parameters(c)
        tx = making.alone(c, params)
        state = tx.init(params)
        for t in (1, 2):
            updates, state = tx.update(making.gradient(c, params, t), state, params)
            making.applied(params, updates)
    except Exception:
        return True
    return False

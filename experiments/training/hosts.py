"""One run on several hosts, a process on each: who they are, what they agree on, arrays that lie on all of them."""

import contextlib
import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from dstjax.checks import check_choice

Result = TypeVar("Result")

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# In what the runtime says where another process is lost.
SIGNS = re.compile("gloo|connection|coordination|heartbeat|UNAVAILABLE|DEADLINE_EXCEEDED", re.IGNORECASE)
CHUNK = 2**24  # bytes that are sent at once
HEARTBEAT_SECONDS = 20  # after which a process that does not answer counts as lost
SHUTDOWN_SECONDS = 60  # where a process fails alone it waits this long for the others, which wait for it


class LostError(ValueError):
    """Another process of the run has ended or cannot be reached."""


@contextlib.contextmanager
def others() -> Iterator[None]:
    """Says in a line what the runtime says where a process of several is lost.

    Raises:
      LostError: in place of a runtime error, of a run with several processes.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not several() or not SIGNS.search(str(error)):
            raise
        first = re.sub(r"(\w+: )?Error dispatching computation: ", "", str(error)).strip().splitlines()[0][:150]
        raise LostError(
            "another process of this run has ended or cannot be reached; start the same command again on every host, "
            f"and it goes on from the last checkpoint ({first})."
        ) from error


def join(distributed: str, environment: Mapping[str, str] = os.environ) -> None:
    """Makes this process one of several where it was started as one; before anything touches a backend.

    Args:
      distributed: 'environment', several processes where VARIABLES say so; 'cluster', those that JAX finds out from
        Slurm, Open MPI, Kubernetes or Cloud TPU.
      environment: where the variables are.

    Raises:
      ValueError: some of the variables are missing or not accepted, there is no cluster, or the others do not answer.
    """
    check_choice("distributed", distributed, ("environment", "cluster"))
    found = {name: environment[name] for name in VARIABLES if environment.get(name)}
    given: dict[str, Any] = {}
    if distributed == "environment":
        if not found:
            return
        given = _given(found)
        if given["num_processes"] == 1:
            return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would keep SIGTERM from ending the process
    try:
        jax.distributed.initialize(
            **given, heartbeat_timeout_seconds=HEARTBEAT_SECONDS, shutdown_timeout_seconds=SHUTDOWN_SECONDS
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"distributed={distributed!r} fails: {error} Start the command on every host, with {', '.join(VARIABLES)} "
            "set or in a cluster that JAX knows."
        ) from error


def _given(found: Mapping[str, str]) -> dict[str, Any]:
    missing = [name for name in VARIABLES if name not in found]
    if missing:
        raise ValueError(f"{', '.join(found)} without {', '.join(missing)}; expected all of them or none.")
    address, *numbers = (found[name] for name in VARIABLES)
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"{VARIABLES[0]}={address!r} is not accepted; expected host:port, a free port of process 0.")
    if not all(number.isdecimal() for number in numbers) or not int(numbers[1]) < int(numbers[0]):
        raise ValueError(
            f"{VARIABLES[1]}={numbers[0]!r} and {VARIABLES[2]}={numbers[1]!r} are not accepted; expected a number of "
            "processes and which of them this one is, counted from 0."
        )
    return {"coordinator_address": address, "num_processes": int(numbers[0]), "process_id": int(numbers[1])}


def several() -> bool:
    """Whether the run has several processes."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def shard() -> tuple[int, int]:
    """This process and the number of them."""
    return jax.process_index(), jax.process_count()


def check_devices(devices: Sequence[jax.Device]) -> None:
    """Checks that a run of several processes uses all that they have.

    Raises:
      ValueError: it does not, or some have more than others.
    """
    if several() and len(devices) < jax.device_count():
        raise ValueError(
            f"devices={len(devices)} is not accepted with {jax.process_count()} processes; expected 'all', their "
            f"{jax.device_count()} devices."
        )
    if jax.device_count() != jax.process_count() * jax.local_device_count():
        raise ValueError(
            f"{jax.local_device_count()} of {jax.device_count()} devices are those of process {jax.process_index()} of "
            f"{jax.process_count()}; expected equally many on every process."
        )


def together(function: Callable[[], Result]) -> Result:
    """What a function returns on this process, once it has on every process; an error of one is one of all.

    Raises:
      ValueError: where another process has failed. What the function itself raises goes through.
    """
    if not several():
        return function()
    failure: Exception | None = None
    try:
        result = function()
    except Exception as error:
        failure = error
    failed = multihost_utils.process_allgather(np.uint8(failure is not None))
    if failure is not None:
        raise failure
    if failed.any():
        raise ValueError(f"process {int(np.argmax(failed))} has failed; its own error says why.")
    return result


def most(*numbers: float) -> tuple[float, ...]:
    """The largest of each number that the processes give."""
    if not several():
        return numbers
    return tuple(multihost_utils.process_allgather(np.array(numbers, np.float32)).max(axis=0).tolist())


def from_first(function: Callable[[], Result]) -> Result:
    """What a function returns on process 0, on all of them; nothing else calls it.

    Raises:
      ValueError: on the other processes, what the function raises on process 0, whatever it is.
    """
    if not several():
        return function()
    failure: Exception | None = None
    sent: tuple[Any, str] = None, ""
    if is_first():
        try:
            sent = function(), ""
        except Exception as error:
            failure, sent = error, (None, str(error) or type(error).__name__)
    result, message = pickle.loads(_broadcast(pickle.dumps(sent)))
    if failure is not None:
        raise failure
    if message:
        raise ValueError(message)
    return result


def _broadcast(data: bytes) -> bytes:
    """The bytes that process 0 gives, in parts, so that they never lie on a device all at once."""
    length = np.frombuffer(len(data).to_bytes(8, "little"), np.uint8)
    size = int.from_bytes(multihost_utils.broadcast_one_to_all(length).tobytes(), "little")
    parts = []
    for start in range(0, size, CHUNK):
        length_of_part = min(CHUNK, size - start)
        padded = np.zeros(1 << (length_of_part - 1).bit_length(), np.uint8)  # few sizes, few programs
        if is_first():
            padded[:length_of_part] = np.frombuffer(data, np.uint8, length_of_part, start)
        parts.append(multihost_utils.broadcast_one_to_all(padded)[:length_of_part].tobytes())
    return b"".join(parts)


def put(x: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """An array that this process has whole, as its part of one on the devices of all."""
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    whole = np.asarray(local(x))
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def put_shares(x: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """An array on the devices of all processes, which have equal shares of its first axis, in order."""
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    shape = (len(x) * jax.process_count(), *np.shape(x)[1:])
    return jax.make_array_from_process_local_data(sharding, np.asarray(x), shape)


def local(tree: Any) -> Any:
    """A tree whose arrays this process can read; all processes must ask for it, as long as one cannot."""

    def one(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            return x
        if x.is_fully_replicated:
            return x.addressable_data(0)
        return jnp.asarray(multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(one, tree)


def fetch(tree: Any) -> Any:
    """A tree as host arrays; all processes must ask for it."""
    return jax.device_get(local(tree))

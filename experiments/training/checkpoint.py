"""Checkpoints through orbax: written atomically, restored whole or not at all, no fresh start in silence."""

import contextlib
import itertools
import logging
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments.training import hosts, inputs, sealed, stored_masks
from experiments.training.inputs import Inputs

Tree = Any


class CheckpointError(ValueError):
    """A checkpoint could not be written."""


class Checkpoints:
    """The checkpoints of one run: a tree of NumPy arrays and a JSON record at each saved step.

    Of several processes, which all have the tree whole, the first alone writes and reads: only its host has to see the
    directory. All of them make the same calls.
    """

    def __init__(self, directory: Path, run: dict[str, Any], read: Inputs | None = None, *, keep: int = 3) -> None:
        """Opens a directory.

        Args:
          directory: made if it is not there.
          run: what identifies the run, JSON values; a checkpoint of another run is not restored.
          read: what the run reads beside its config; where a checkpoint was made with something else, nothing goes on.
          keep: how many of the newest checkpoints stay.

        Raises:
          CheckpointError: the directory cannot be made.
        """
        self.directory, self.run, self.read, self.keep = directory.absolute(), run, read or {}, keep
        self.manager: Any = None
        if hosts.is_first():
            self._open()

    def _open(self) -> None:
        self.silence = _Silence()
        options = ocp.CheckpointManagerOptions(max_to_keep=self.keep, create=True)
        with self._writing("opening"):
            if hosts.several():  # orbax makes no directory for some of the processes
                self.directory.mkdir(parents=True, exist_ok=True)
                alone = ocp.options.MultiprocessingOptions(0, {0}, "first")
                options = ocp.CheckpointManagerOptions(
                    max_to_keep=self.keep, create=False, multiprocessing_options=alone
                )
            self.manager = ocp.CheckpointManager(self.directory, options=options)

    def save(self, step: int, tree: Tree, record: dict[str, Any]) -> None:
        """Saves in the background; the step counts once all of it is on disk.

        Raises:
          CheckpointError: this one, or the one before, cannot be written.
        """
        if self.manager is None:
            return
        if not self.directory.is_dir() and self.directory.parent.is_dir():
            print(f"{self.directory} is gone; training goes on, and saves there anew.", file=sys.stderr)
            with contextlib.suppress(CheckpointError):
                self.close()
            self._open()
        # Orbax would drop or cast leaves in silence where the tree has changed, and does not check every byte.
        parts = {"run": self.run, "read": self.read, "step": step, "leaves": _describe(tree), "record": record}
        meta = ocp.args.JsonSave(sealed.seal(parts))
        with self._writing(f"saving the checkpoint at step {step}"):
            if (self.directory / str(step)).exists():  # one that is no part of this run
                self._set_aside([step])
            items = ocp.args.Composite(tree=ocp.args.StandardSave(_leaves(tree)), meta=meta)
            self.manager.save(step, args=items, force=True)

    def restore(self, like: Tree) -> tuple[int, Tree, dict[str, Any], list[str]] | None:
        """The newest whole checkpoint: step, tree, record, and a line for each newer one that is damaged.

        Args:
          like: tree of arrays with the structure, shapes and dtypes to expect.

        Returns:
          None where there is no checkpoint at all.

        Raises:
          ValueError: there are checkpoints, and none is whole.
        """
        restored = hosts.from_first(lambda: self._newest(like))
        if restored is None:
            return None
        step, leaves, record, damaged = restored
        return step, jax.tree.unflatten(jax.tree.structure(like), leaves), record, damaged

    def _newest(self, like: Tree) -> tuple[int, list[Any], dict[str, Any], list[str]] | None:
        damaged = []
        for step in sorted(self.manager.all_steps(), reverse=True):
            try:
                tree, record = self._restore(step, like)
            except inputs.ChangedError:
                raise
            except Exception as error:  # orbax raises what its storage raises
                _drop_late_callbacks()
                damaged.append(f"checkpoint {self.directory / str(step)} is not usable: {_first_line(error)}")
                continue
            self._set_aside([newer for newer in self.manager.all_steps() if newer > step])
            return step, jax.tree.leaves(tree), record, damaged
        if damaged:
            raise ValueError(
                f"{'; '.join(damaged)}. No whole checkpoint is left; remove {self.directory.parent} to start over."
            )
        return None

    def wait(self) -> None:
        """Waits for what is being saved.

        Raises:
          CheckpointError: it has failed.
        """
        if self.manager is not None:
            with self._writing("saving a checkpoint"):
                self.manager.wait_until_finished()

    def close(self) -> None:
        """Waits for what is being saved.

        Raises:
          CheckpointError: it has failed.
        """
        manager, self.manager = self.manager, None
        if manager is not None:
            try:
                with self._writing("saving a checkpoint"):
                    manager.close()
            finally:
                self.silence.end()

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """Orbax raises what its storage raises."""
        try:
            yield
        except Exception as error:
            raise CheckpointError(f"{what} in {self.directory} has failed: {_first_line(error)}.") from error

    def _set_aside(self, steps: list[int]) -> None:
        """Moves checkpoints out of the way of those to come."""
        for step in steps:
            place = self.directory.parent / "damaged"
            place.mkdir(exist_ok=True)
            number = next(n for n in itertools.count() if not (place / f"{step}_{n}").exists())
            (self.directory / str(step)).rename(place / f"{step}_{number}")
        if steps:
            self.manager.reload()

    def _restore(self, step: int, like: Tree) -> tuple[Tree, dict[str, Any]]:
        meta = self.manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        meta = sealed.unsealed(meta, "its record")
        if meta.keys() != {"run", "read", "step", "leaves", "record"}:
            raise ValueError("it was not written by this program.")
        if meta["run"] != self.run:
            raise ValueError("it belongs to another run.")
        if meta["step"] != step:
            raise ValueError(f"it is a copy of the one at step {meta['step']}.")
        inputs.check(self.read, meta["read"], f"checkpoint {self.directory / str(step)}")
        want, have = _describe(like), meta["leaves"]
        for name in sorted(want.keys() | have.keys()):
            a, b = have.get(name), want.get(name)
            if a is None or b is None or (a[:2] != b[:2] and not stored_masks.same(a, b)):
                raise ValueError(f"leaf {name!r} is {_shown(a)}, expected {_shown(b)}.")
        # As they were saved: masks are stored otherwise on other devices.
        target = {name: np.zeros(have[name][0], have[name][1]) for name in _leaves(like)}
        leaves = self.manager.restore(step, args=ocp.args.Composite(tree=ocp.args.StandardRestore(target)))["tree"]
        for name in sorted(leaves):
            if _description(leaves[name]) != have[name]:
                raise ValueError(f"the contents of leaf {name!r} are damaged.")

        def one(path: Any, leaf: Any) -> Any:
            found = leaves[_name(path)] if leaf.size else leaf
            return found if found.dtype == leaf.dtype else stored_masks.stored_like(found, leaf)

        tree = jax.tree_util.tree_map_with_path(one, like)
        return tree, meta["record"]


def _describe(tree: Tree) -> dict[str, list[Any]]:
    """Path -> shape, dtype, checksum."""
    return {_name(path): _description(leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _description(leaf: Any) -> list[Any]:
    return [list(leaf.shape), str(leaf.dtype), zlib.crc32(np.ascontiguousarray(leaf).tobytes())]


def _leaves(tree: Tree) -> dict[str, Any]:
    """The leaves by path; without empty arrays, which orbax does not save."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0] if leaf.size}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _shown(leaf: list[Any] | None) -> str:
    return "missing" if leaf is None else f"{leaf[1]}{leaf[0]}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{lines[0][:300].rstrip('.')}" if lines else type(error).__name__


def _drop_late_callbacks() -> None:
    """Keeps from the terminal what tensorstore's threads say after a restore that failed, whenever they say it.

    They call back into an event loop of orbax that is closed by then; the error itself is reported.
    """
    before = sys.unraisablehook

    def hook(late: Any) -> None:
        if not (isinstance(late.exc_value, RuntimeError) and str(late.exc_value) == "Event loop is closed"):
            before(late)

    sys.unraisablehook = hook


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return not (record.name == "asyncio" or "orbax" in record.pathname)


class _Silence:
    """Keeps from the terminal the tracebacks that orbax logs, in threads of its own too: errors are raised besides."""

    LOGGERS = ("absl", "asyncio")

    def __init__(self) -> None:
        for name in self.LOGGERS:
            logging.getLogger(name).addFilter(_not_of_orbax)

    def end(self) -> None:
        for name in self.LOGGERS:
            logging.getLogger(name).removeFilter(_not_of_orbax)

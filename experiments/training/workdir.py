"""The folder of a run: whose it is, whether all of it is still there, and what to say where it is not."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.alone import LOCK, held
from experiments.training import configuration, hosts, inputs, sealed
from experiments.training.finished import UnreadableError, check_files
from experiments.training.inputs import Inputs

Results = dict[str, Any]  # what summary.json holds


def check_name(workdir: Path) -> None:
    """Refuses a name that no file system or checkpoint takes.

    Raises:
      ValueError: it is such a name.
    """
    try:
        str(workdir).encode()
    except UnicodeEncodeError:
        raise ValueError(f"workdir {str(workdir)!a} is not UTF-8; give another name.") from None
    if "\0" in str(workdir):
        raise ValueError(f"workdir {str(workdir)!r} is not accepted; expected a name without NUL.")
    # The longest name that orbax makes within has 64 letters or so, in bytes.
    with usable(workdir):
        os.path.lexists(workdir)
        (workdir / "config.json").exists()


def look(workdir: Path, identity: dict[str, Any], read: Inputs) -> Results | None:
    """Finds out what a workdir holds: the summary if it is this run and finished, None if it is this run or nothing.

    Raises:
      ValueError: it holds something else, or a file of the finished run is damaged, or the run read something else.
    """
    check_name(workdir)
    if not (workdir / "config.json").exists():
        if any((workdir / name).exists() for name in ("metrics.jsonl", "summary.json", "checkpoints")):
            raise ValueError(f"workdir {workdir} holds a run without its config.json; give another directory.")
        return None
    _check_same(workdir, identity)
    path = workdir / "summary.json"
    if not path.exists():
        return None
    try:
        summary = sealed.read(path)
        if summary.get("run") != run_mark(identity):
            raise UnreadableError(f"{path} is that of another run.")
    except UnreadableError as error:
        raise UnreadableError(f"{error} Remove it: the same command makes it anew.") from error
    check_files(workdir, summary)
    inputs.check(read, summary["read"], f"the finished run in {workdir}")
    return summary


def _check_same(workdir: Path, identity: dict[str, Any]) -> None:
    different = configuration.differences(identity, sealed.read(workdir / "config.json"))
    if different:
        raise ValueError(f"workdir {workdir} holds another run; it differs in {', '.join(different)}.")


def run_mark(identity: dict[str, Any]) -> str:
    """What a summary has to say whose it is."""
    return sealed.digest(configuration.without_display(identity))


def check_progress(workdir: Path, second: int) -> str:
    """Refuses to start over where a run has got far and its checkpoints are gone.

    Args:
      workdir: of the run.
      second: the step of its second checkpoint, by which the first one is whole for certain.

    Returns:
      A line to be printed where the run starts from step 0 although it has run before; '' where it does not.

    Raises:
      ValueError: checkpoints are gone.
    """
    records = workdir / "metrics.jsonl"
    if not records.exists() or not records.stat().st_size:
        return ""
    checkpoints, reached = workdir / "checkpoints", _last_step(records)
    kept = [path for path in checkpoints.glob("*") if path.name.isdecimal()]
    if not checkpoints.is_dir() or (not kept and reached > second):
        raise ValueError(
            f"workdir {workdir} has records up to step {reached}, and {checkpoints} holds no checkpoint any more. Put "
            f"it back, or remove {workdir} to start over."
        )
    return "" if kept else f"{workdir}: interrupted before its first checkpoint; starting from step 0."


def _last_step(records: Path) -> int:
    """The last step of a file of records whose last line may be cut."""
    for line in reversed(records.read_bytes().splitlines()):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0


def claim(workdir: Path, identity: dict[str, Any]) -> contextlib.AbstractContextManager[Any]:
    """Makes the workdir this run's, and this process's for as long as the file that is returned stays open.

    Of several processes the first one does so for all; its host alone has to see the workdir.

    Raises:
      ValueError: it cannot be made or written to, another process trains in it, or one has trained another run since.
    """
    if not hosts.is_first():
        return contextlib.nullcontext()
    with contextlib.ExitStack() as stack:
        with usable(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
            # A file of its own: one that is replaced, as config.json is, can be held twice.
            (workdir / LOCK).touch()
            try:
                stack.enter_context(held(workdir / LOCK))
            except BlockingIOError:
                raise ValueError(f"workdir {workdir} is in use by another process.") from None
            if not (workdir / "config.json").exists():
                sealed.write(workdir / "config.json", identity)
        _check_same(workdir, identity)
        return stack.pop_all()


@contextlib.contextmanager
def usable(workdir: Path) -> Iterator[None]:
    """Says in a line what the system says about the workdir of a run.

    Raises:
      ValueError: in place of an OSError.
    """
    try:
        yield
    except BrokenPipeError:  # nobody reads what is printed
        raise
    except OSError as error:
        place = "" if error.filename is None else f" ({os.fsdecode(error.filename)})"
        why = error.strerror or type(error).__name__
        if place and not Path(os.fsdecode(error.filename)).resolve().is_relative_to(workdir.resolve()):
            raise ValueError(f"the run ended: {why}{place}. Once that is mended, the same command goes on.") from error
        raise ValueError(
            f"workdir {workdir} is not usable: {why}{place}. Once it is, the same command goes on from the last "
            "checkpoint."
        ) from error

"""Lets one process at a time write into a folder."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Makes a folder, and holds it for this process; the system frees it however the process ends.

    Raises:
      ValueError: it cannot be made, or another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ValueError(f"folder {folder} is not usable: {error.strerror}.") from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"folder {folder} is in use by another process; name another, or wait for it.") from None
    else:
        yield
    finally:
        os.close(held)

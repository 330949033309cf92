"""Lets one process at a time write into a folder."""

import contextlib
import errno
import fcntl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

LOCK = ".lock"
# What file systems say that cannot lock, as some of clusters. EBADF: NFS, of a file that cannot be opened for writing.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Makes a folder, and holds it for this process.

    Raises:
      ValueError: it cannot be made, or another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOCK).touch()
        file = held(folder / LOCK)
    except BlockingIOError:
        raise ValueError(f"folder {folder} is in use by another process; name another, or wait for it.") from None
    except OSError as error:
        raise ValueError(f"folder {folder} is not usable: {error.strerror}.") from error
    with file:
        yield


def held(path: Path) -> IO[bytes]:
    """Opens a file that holds its folder for this process until it is closed; the system closes it however that ends.

    Where the file system cannot lock it says so, and goes on.

    Raises:
      BlockingIOError: another process holds it.
      OSError: it cannot be opened.
    """
    file: IO[bytes]
    try:
        file = path.open("r+b")  # NFS locks what is open for writing alone
    except PermissionError:
        file = path.open("rb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            file.close()
            raise
        print(
            f"{path.parent}: the file system cannot lock ({error.strerror}); keep other processes out.", file=sys.stderr
        )
    return file

"""Where the files of data sets lie, and what is said about those that are missing or damaged."""

import contextlib
import errno
import gzip
import lzma
import os
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

ENVIRONMENT = "DSTJAX_DATA"
DAMAGE = (
    *(EOFError, UnicodeDecodeError, gzip.BadGzipFile, lzma.LZMAError),
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error),
)


def directory(root: str | os.PathLike[str] | None) -> Path:
    """The folder of all data sets: ``root``, else the environment's DSTJAX_DATA, else ~/dstjax_data."""
    path = Path(root or os.environ.get(ENVIRONMENT) or "~/dstjax_data")
    try:
        return path.expanduser()
    except RuntimeError:  # there is no home directory
        return path


def missing(name: str, root: Path, accepted: Sequence[str]) -> ValueError:
    """What to say where none of the accepted files or folders is there."""
    lines = "".join(f"\n  {root / path}" for path in accepted)
    return ValueError(
        f"dataset {name!r} is not in {str(root)!r}; expected one of:{lines}\n"
        f"`python -m experiments.data prepare {name} --root {root}` gets it, or says where to get it."
    )


def damaged(path: Path | str, found: object, expected: str) -> ValueError:
    """What to say about a file that is not what it should be."""
    return ValueError(f"file {str(path)!r} is damaged or another one: {found}; expected {expected}. Get it again.")


def unreadable(path: Path | str, error: Exception, expected: str) -> ValueError:
    """What to say about a file that cannot be read: the system's own reason where it has one, else damage."""
    if not of_system(error):
        return damaged(path, f"{type(error).__name__}: {error}", expected)
    return ValueError(f"{str(path)!r} cannot be read: {reason(error)}; expected {expected} that this user may read.")


def of_system(error: Exception) -> bool:
    """Whether the operating system refused, rather than the content of a file."""
    # A damaged zip file asks for places before its beginning: EINVAL.
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)


def reason(error: Exception) -> str:
    """Kind and words of an error on one line, without the path that an OSError ends in."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else error
    return f"{type(error).__name__}: {' '.join(str(said).split())}"


@contextlib.contextmanager
def reading(path: Path | str, expected: str) -> Iterator[None]:
    """Turns what the standard library raises about a file into a ValueError that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"file {str(path)!r} is not there; expected {expected}.") from error
    except RuntimeError as error:  # zipfile's, of an encrypted member or a compression unknown
        raise ValueError(
            f"file {str(path)!r} cannot be unpacked: {error}; expected {expected}. Unpack it, or pack it anew without "
            "a password and with deflate."
        ) from error
    except (OSError, *DAMAGE) as error:
        raise unreadable(path, error, expected) from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a refusal of the operating system to write a file or folder into a ValueError that names it."""
    try:
        yield
    except OSError as error:
        if not of_system(error):
            raise
        raise ValueError(
            f"{str(error.filename or path)!r} cannot be written: {reason(error)}; expected a place with room that this "
            "user may write to."
        ) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to be written, which takes the place of ``path`` in the end; after an error nothing is left of it.

    Its name is of this call alone, so that two processes do not write into one.
    """
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def check_counts(whats: Sequence[str], found: Sequence[int], expected: Sequence[int], where: Path) -> None:
    """Refuses other numbers of samples than the data set has."""
    for what, count, n in zip(whats, found, expected, strict=True):
        if count != n:
            raise ValueError(
                f"{str(where)!r} holds {count:,} {what}; expected {n:,}. Get it again, or pass samples= for a part."
            )


def unpacked(path: Path, most: int | None = None) -> bytes:
    """The bytes of a file, gzipped where its name ends so; at most so many.

    Whoever knows how many there should be asks for one more: a file that unpacks to gigabytes is never unpacked whole.
    """
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        return file.read() if most is None else file.read(most)

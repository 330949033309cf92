"""Where the files of data sets lie, and what is said about those that are missing or damaged."""

import contextlib
import gzip
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

ENVIRONMENT = "DSTJAX_DATA"
DAMAGE = (EOFError, gzip.BadGzipFile, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, zlib.error)


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


def damaged(path: Path, found: object, expected: str) -> ValueError:
    """What to say about a file that is not what it should be."""
    return ValueError(f"file {str(path)!r} is damaged or another one: {found}; expected {expected}. Get it again.")


@contextlib.contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Turns what the standard library raises about a file into a ValueError that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"file {str(path)!r} is not there; expected {expected}.") from error
    except (RuntimeError, NotImplementedError) as error:  # zipfile's, of an encrypted member or a compression unknown
        raise ValueError(
            f"file {str(path)!r} cannot be unpacked: {error}; expected {expected}. Unpack it, or pack it anew without "
            "a password and with deflate."
        ) from error
    except (OSError, *DAMAGE) as error:
        raise damaged(path, f"{type(error).__name__}: {error}", expected) from error


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

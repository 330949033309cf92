"""JSON files that say themselves whether they are whole: the entry ``sha256`` is the checksum of all the others."""

import hashlib
import json
from pathlib import Path
from typing import Any

from experiments.training.recording import write_atomically

SEAL = "sha256"


class UnreadableError(ValueError):
    """A file of a run is not what was written; the message names it."""


def digest(value: Any) -> str:
    """The SHA-256 of a JSON value, however it is laid out."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def seal(value: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with its checksum."""
    plain = json.loads(json.dumps(value))
    return {**plain, SEAL: digest(plain)}


def unsealed(value: Any, what: str) -> dict[str, Any]:
    """A JSON object without its checksum, once that has been checked.

    Raises:
      UnreadableError: it is none, or its checksum is missing or another one.
    """
    if not isinstance(value, dict):
        raise UnreadableError(f"{what} holds no JSON object.")
    rest = {name: entry for name, entry in value.items() if name != SEAL}
    if value.get(SEAL) != digest(rest):
        has = "does not have its own checksum any more" if SEAL in value else "has no checksum"
        raise UnreadableError(
            f"{what} {has}: it is damaged, was changed, or is of another version. Remove the run, or choose another "
            "--workdir."
        )
    return rest


def write(path: Path, value: dict[str, Any]) -> None:
    """Writes a JSON object with its checksum, as a whole."""
    write_atomically(path, json.dumps(seal(value), indent=1).encode() + b"\n")


def read(path: Path) -> dict[str, Any]:
    """What :func:`write` has written.

    Raises:
      UnreadableError: the file is missing or damaged.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableError(f"{path} cannot be read: {error}.") from error
    return unsealed(content, str(path))


def file_digest(path: Path) -> str:
    """The SHA-256 of a file.

    Raises:
      UnreadableError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error.strerror}.") from error

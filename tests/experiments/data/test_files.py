import errno
import zlib

import pytest

from experiments.data import files


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be read: PermissionError: Permission denied"),
        (OSError(errno.EIO, "Input/output error"), "cannot be read: OSError: Input/output error"),
        (OSError(errno.EINVAL, "Invalid argument"), "is damaged"),  # of a zip file
        (OSError("no such format"), "is damaged or another one: OSError: no such format"),
        (zlib.error("bad data"), "is damaged or another one: error: bad data"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "is damaged"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "is not there"),
    ],
)
def test_what_the_system_refuses_is_not_said_to_be_damaged(tmp_path, error, message):
    with (
        pytest.raises(ValueError, match=rf"a\.txt' {message}.*; expected a list") as raised,
        files.reading(tmp_path / "a.txt", "a list"),
    ):
        raise error
    assert ("Get it again" in str(raised.value)) == ("is damaged" in message)


def test_a_file_takes_the_place_of_another_as_a_whole(tmp_path):
    path = tmp_path / "a.txt"
    with files.replacing(path) as first, files.replacing(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    with pytest.raises(UnicodeEncodeError), files.replacing(path) as partial:
        partial.write_text("half of it, then \udc80", "utf-8")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.txt", "first")]


def test_what_is_no_refusal_to_write_passes(tmp_path):
    with pytest.raises(OSError, match="bad archive"), files.writing(tmp_path):
        raise OSError("bad archive")
    message = "/b' cannot be written: OSError: No space left on device; expected a place"
    with pytest.raises(ValueError, match=message), files.writing(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "b"))

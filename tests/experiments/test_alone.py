"""One process at a time writes into a folder."""

import errno
import fcntl
import os

import pytest

from experiments.alone import alone, held


def test_a_folder_is_held_until_the_end(tmp_path):
    folder = tmp_path / "new" / "one"
    with alone(folder):
        assert folder.is_dir()
        with pytest.raises(ValueError, match="is in use by another process"), alone(folder):
            pass
        with alone(tmp_path / "another"):
            pass
    with alone(folder):
        pass


def test_it_is_free_after_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="on purpose"), alone(tmp_path):
        raise RuntimeError("on purpose")
    with alone(tmp_path):
        pass


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file is not usable: File exists"), alone(tmp_path / "file"):
        pass


def test_the_file_is_open_for_writing_as_nfs_wants_it(tmp_path, monkeypatch):
    modes = []
    monkeypatch.setattr(fcntl, "flock", lambda file, _: modes.append(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE))
    with alone(tmp_path):
        assert modes == [os.O_RDWR]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF])
def test_a_file_system_without_locks_is_said_and_used(number, tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with alone(tmp_path):
        said = capsys.readouterr().err
    assert f"{tmp_path}: the file system cannot lock ({os.strerror(number)})" in said
    assert said.count("\n") == 1


def test_other_errors_are_not_passed_over(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(ValueError, match="is not usable: Input/output error"), alone(tmp_path):
        pass


def test_a_file_that_may_only_be_read_is_held_too(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    path.write_text("{}")
    opened = type(path).open

    def only_read(self, mode="r", *more):
        if "+" in mode:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(self, mode, *more)

    monkeypatch.setattr(type(path), "open", only_read)
    with held(path), pytest.raises(BlockingIOError):
        held(path)

"""One process at a time writes into a folder."""

import pytest

from experiments.alone import alone


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

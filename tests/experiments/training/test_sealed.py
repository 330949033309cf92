"""Files that say themselves whether they are whole."""

import contextlib
import json
import random

import pytest

from experiments.training import sealed
from experiments.training.sealed import UnreadableError


def test_what_is_written_is_read(tmp_path):
    value = {"a": [1, 2.5, None], "b": {"c": "x"}, "nan": float("nan")}
    sealed.write(tmp_path / "file", value)
    found = sealed.read(tmp_path / "file")
    assert json.dumps(found) == json.dumps(value)


@pytest.mark.parametrize("how", ["flipped", "cut"])
def test_damage_is_found_wherever_it_is(how, tmp_path):
    path = tmp_path / "file"
    sealed.write(path, {"accuracy": [0.25, 0.5], "steps": 192, "name": "rigl"})
    whole = path.read_bytes()
    rng = random.Random(0)
    for _ in range(200):
        content = bytearray(whole)
        if how == "flipped":
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        else:
            content = content[: rng.randrange(len(content) - 2)]
        path.write_bytes(content)
        with contextlib.suppress(UnreadableError):  # white space between two entries is no damage
            assert sealed.read(path) == {"accuracy": [0.25, 0.5], "steps": 192, "name": "rigl"}
    with pytest.raises(UnreadableError, match=str(path)):
        sealed.read(path)


def test_what_has_no_checksum_is_refused(tmp_path):
    (tmp_path / "file").write_text("{}")
    with pytest.raises(UnreadableError, match="has no checksum"):
        sealed.read(tmp_path / "file")

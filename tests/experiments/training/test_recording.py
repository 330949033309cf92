import json
import sys

import numpy as np
import pytest

from experiments.training.recording import Metrics, Progress, to_json, write_atomically

LOSS = np.array([0.5, 1.5])


def test_what_is_not_finite_becomes_null():
    values = {"a": np.float32(np.nan), "b": [np.inf, 1], "c": np.array([1, 2]), "d": (np.int64(3), None, "x", True)}
    assert json.loads(to_json(values)) == {"a": None, "b": [None, 1], "c": [1, 2], "d": [3, None, "x", True]}


def test_metrics_go_on_where_the_checkpoint_was(tmp_path):
    metrics = Metrics(tmp_path, 0, "", 0, False, [0])
    metrics.write("train", 1, 0.5, loss=LOSS)
    size, sha256 = metrics.size(), metrics.digest()
    metrics.write("train", 2, 1.0, loss=LOSS)
    metrics.close()
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    metrics = Metrics(tmp_path, size, sha256, 1, False, [0])
    metrics.write("train", 2, 1.0, loss=LOSS)
    metrics.close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole
    assert json.loads(whole.splitlines()[1]) == {"kind": "train", "step": 2, "epoch": 1.0, "loss": [0.5, 1.5]}


def test_a_file_is_replaced_at_once(tmp_path):
    write_atomically(tmp_path / "file", b"one")
    write_atomically(tmp_path / "file", b"two")
    assert (tmp_path / "file").read_bytes() == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("quiet", "lines"), [(False, [20, 40, 50]), (True, [])])
def test_without_a_terminal_there_is_a_line_now_and_then(quiet, lines, capsys):
    progress = Progress(50, 0, 2, quiet)
    for step in (10, 20, 30, 40, 50):
        progress.update(step, LOSS, np.array([0.25, 0.75]), np.array([0.1, 0.3]))
    progress.close()
    printed = capsys.readouterr().out.splitlines()
    assert [int(line.split()[1]) for line in printed] == lines
    assert all("loss 1.0000, accuracy 50.00 %, R 0.2000" in line for line in printed)


def test_on_a_terminal_there_is_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = Progress(50, 10, 2, False)
    progress.update(20, LOSS, np.array([0.25, 0.75]), np.array([0.1, 0.3]))
    progress.say("a line")
    progress.update(50, LOSS, np.array([0.25, 0.75]), np.array([0.1, 0.3]))
    progress.close()
    output = capsys.readouterr()
    assert output.out == "a line\n"
    assert "50/50" in output.err
    assert "R=0.2000" in output.err

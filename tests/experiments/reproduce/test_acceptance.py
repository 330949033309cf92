"""Which tasks tell methods apart, on made-up numbers and once for real."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.configs import tasks
from experiments.reproduce import __main__ as command
from experiments.reproduce import acceptance
from experiments.reproduce.cells import Cell
from experiments.reproduce.reading import Measured


def cell(method, accuracy, seeds=None):
    seeds = tuple(range(len(accuracy))) if seeds is None else seeds
    return Measured(Cell("task", method), seeds, {"accuracy": np.array(accuracy, float)}, {}, "", 1.5)


def judged(static, gaps, pair):
    """A task whose RigL is ``gaps`` above static, and whose DST-EE is ``pair`` above RigL."""
    rigl = np.add(static, gaps)
    of = {"static": static, "set": np.add(static, 1), "rigl": rigl, "dst_ee": rigl + pair}
    return acceptance.judged("some", {name: cell(name, values) for name, values in of.items()})


def test_a_task_is_accepted_where_the_error_is_a_third_of_the_spread():
    found = judged([50, 60, 70, 80], [8, 10, 8, 10], [0, -1, 0, -1])
    assert found.best == "rigl"
    assert found.spread.mean == 9
    assert (found.accepted, found.tells_pair, found.needed) == (True, True, "")
    assert found.accuracy["static"] == 65
    assert found.seconds == 6
    text = acceptance.as_text([found], {"other": "no package"})
    assert (
        "| `some` | 65.0 | 66.0 | 74.0 | 73.5 | +9.00 ± 0.58 (4 seeds) | -0.50 ± 0.29 (4 seeds) | yes | yes |" in text
    )
    assert "not told: other: no package" in text


def test_what_it_would_take_is_said():
    noisy = judged([50, 60, 70, 80], [-20, 30, -20, 30], [0, 0, 0, 0])
    assert not noisy.accepted
    # The error falls with the root of the number of seeds: 14.4 points of 4 seeds, 1.67 wanted.
    assert noisy.needed == "static: 301 seeds"
    pair = judged([50, 60, 70, 80], [9, 9, 9, 10], [-20, 20, -30, 10])
    assert pair.accepted
    assert not pair.tells_pair
    assert pair.needed.startswith("DST-EE - RigL: ")
    useless = judged([50, 60], [-1, -1], [0, 0])
    of = {name: cell(name, [50, 60]) for name in acceptance.METHODS}
    assert useless.best == "set"
    assert not acceptance.judged("level", {**of, "static": cell("static", [51, 61])}).accepted
    assert "no number" in acceptance.judged("level", {**of, "static": cell("static", [51, 61])}).needed


def test_one_seed_says_that_it_takes_more():
    found = judged([50], [9], [0])
    assert not found.accepted
    assert found.needed == "one seed has no spread: more of them"
    assert "more of them" in acceptance.as_text([found], {})


def test_seeds_are_paired_by_their_number():
    of = {name: cell(name, [50, 60]) for name in ("static", "set")}
    of |= {name: cell(name, [100, 61, 53], seeds=(7, 1, 0)) for name in ("rigl", "dst_ee")}
    found = acceptance.judged("some", of)
    assert found.spread.n == 2
    assert found.spread.mean == 2
    assert found.pair.n == 3


@pytest.mark.slow
def test_the_command_trains_and_judges(tmp_path, monkeypatch, capsys):
    small = dataclasses.replace(tasks.TASKS["digits98"], steps=48, sizes=(12,), sparsity=0.9)
    monkeypatch.setitem(tasks.TASKS, "digits98", small)
    arguments = ["--proxies", "--workdir", str(tmp_path), "--seeds", "2", "--only", "digits98"]
    assert command.main(arguments) in (0, 1)
    out = capsys.readouterr().out
    assert "fast path:" in out
    assert json.loads((tmp_path / "proxies.json").read_text())["tasks"][0]["task"] == "digits98"
    assert command.main(arguments) in (0, 1)
    assert "finished before" in capsys.readouterr().out


def test_an_unknown_task_is_refused(tmp_path, capsys):
    assert command.main(["--proxies", "--workdir", str(tmp_path), "--only", "digits42"]) == 2
    assert "fits no task" in capsys.readouterr().err

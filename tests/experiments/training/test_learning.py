"""A warning where a network cannot learn."""

import pytest

from experiments.training.run import train_and_evaluate
from tests.thorough import slow


@pytest.mark.parametrize("fields", [dict(method="static"), slow(dict(method="static", mode="vmap"))])
def test_a_network_that_is_cut_at_the_start(fields, small, tmp_path, capsys):
    train_and_evaluate(small(**fields, sparsity=0.997, seeds=2), tmp_path, quiet=True)
    (line,) = capsys.readouterr().err.splitlines()  # once for all seeds and records
    assert line.startswith("warning: seed(s) 0, 1, step 0: no active weights lead from the data to the results: all ")
    assert "end at Dense_" in line


def test_a_network_that_is_cut_on_the_way(small, tmp_path, capsys):
    config = small(method="gmp", scope="global", sparsity=0.993, update_period=4)
    train_and_evaluate(config, tmp_path, quiet=True)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: seed(s) 0, step ")
    assert "step 0:" not in line


def test_a_network_that_can_learn(small, tmp_path, capsys):
    train_and_evaluate(small(method="rigl"), tmp_path, quiet=True)
    assert not capsys.readouterr().err

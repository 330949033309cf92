"""A warning where a network cannot learn."""

import types

import jax
import numpy as np
import pytest

from experiments import models
from experiments.training.learning import Watch
from experiments.training.program import Program
from experiments.training.run import train_and_evaluate
from tests.thorough import slow


@pytest.mark.parametrize("fields", [dict(method="static"), slow(dict(method="static", seeds_mode="vmap"))])
def test_a_network_that_is_cut_at_the_start(fields, small, tmp_path, capsys):
    train_and_evaluate(small(**fields, model__sizes=(48, 48), sparsity=0.997, seeds=2), tmp_path, quiet=True)
    lines = capsys.readouterr().err.splitlines()
    assert sorted(line[: len("warning: seed(s) 0, step 0:")] for line in lines) == [
        f"warning: seed(s) {seed}, step 0:" for seed in range(2)
    ]
    assert all("no active weights lead from the data to the results: all ways end at Dense_" in line for line in lines)


def test_networks_that_are_cut_on_the_way(capsys):
    model = models.make("mlp", sizes=(8,))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, 4, 4, 1)), train=False))["params"]
    whole = {path: np.ones(shape, bool) for path, shape in (("Dense_0/kernel", (16, 8)), ("Dense_1/kernel", (8, 10)))}
    part, cut = ({**whole, "Dense_1/kernel": whole["Dense_1/kernel"] & (np.arange(8) < n)[:, None]} for n in (1, 0))
    now = []
    network = types.SimpleNamespace(params=params, model_state={})
    trainer = types.SimpleNamespace(
        seeds=[3, 5, 7], masks=lambda: now, network=lambda i: network, model=model, shape=(4, 4, 1)
    )
    watch = Watch(trainer)
    now[:] = [whole, part, part]
    assert watch.look(4) == []
    now[:] = [cut, part, cut]
    assert [line[:35] for line in watch.look(8)] == ["warning: seed(s) 3, 7, step 8: no a"]
    now[:] = [cut, cut, cut]
    assert watch.look(12) == [
        "warning: seed(s) 5, step 12: no active weights lead from the data to the results: all ways end at "
        "Dense_1/kernel; the network cannot learn."
    ]
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_it_is_compiled_once_for_all_networks_of_a_kind(monkeypatch):
    model = models.make("mlp", sizes=(8,))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros((1, 4, 4, 1)), train=False))["params"]
    network = types.SimpleNamespace(params=params, model_state={})
    masks = [{"Dense_0/kernel": np.arange(128).reshape(16, 8) % n > 0} for n in (2, 3, 4)]
    trainer = types.SimpleNamespace(
        seeds=[0, 1, 2], masks=lambda: masks, network=lambda i: network, model=model, shape=(4, 4, 1)
    )
    monkeypatch.setattr(Program, "compiled", {})
    for _ in range(2):  # two runs
        watch = Watch(trainer)
        assert watch.look(0) == watch.look(9) == []
    assert len(Program.compiled) == 1


def test_a_network_that_can_learn(small, tmp_path, capsys):
    train_and_evaluate(small(method="rigl"), tmp_path, quiet=True)
    assert not capsys.readouterr().err


def test_a_coefficient_that_outweighs_the_gradients_is_said_once(small, tmp_path, capsys):
    train_and_evaluate(small(method="dst_ee", coefficient=1e3, seeds=2), tmp_path, quiet=True)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: step 4, layer 'Dense_0/kernel' and 1 more: the coefficient of DST-EE outweighs")


def test_coefficients_among_the_gradients_are_not_warned_of(capsys):
    watch = Watch(types.SimpleNamespace(seeds=[0, 1]))

    def grown(step, **after):
        return types.SimpleNamespace(mask_updates=[(step, after)])

    names = ["a", "b"]
    assert watch.growth(grown(4), names) == ""  # a method without a coefficient
    assert watch.growth(grown(8, by_counters=np.zeros((2, 2), bool)), names) == ""
    line = watch.growth(grown(12, by_counters=np.array([[False, False], [False, True]])), names)
    assert line.startswith("warning: step 12, layer 'b': the coefficient")
    assert watch.growth(grown(16, by_counters=np.ones((2, 2), bool)), names) == ""
    assert capsys.readouterr().err.splitlines() == [line]

"""Probes of masks, counts of parameters, the decay of the study, and the propositions on least squares."""

import numpy as np
import pytest

from experiments.configs import tasks
from experiments.reproduce import decays, mask_probes, planning
from experiments.reproduce.cells import Cell, config_of
from experiments.reproduce.papers.catalogue import get
from experiments.training import configuration

TINY = {"steps": 48, "update_period": 4, "model.sizes": (8,), "batch_size": 32, "sparsity": 0.8}


def run(probe, changes, config="criteria_large_mlp_cifar10", seeds=2):
    return planning.PROBES[probe](config_of(Cell(config, "x", changes), seeds=seeds, proxy=True))


def test_parameters_are_those_of_the_network():
    counted = run("parameters", {"method": "dense", "model.sizes": (7,)}, seeds=1)
    assert counted["values"]["parameters"] == [64 * 7 + 7 + 7 * 10 + 10]
    sparse = run("parameters", {"sparsity": 0.95, "model.sizes": (7,)}, seeds=1)
    density = 1 - tasks.thinned("criteria_large_mlp_cifar10", 0.95)
    assert sparse["values"]["parameters"] == [round(density * 535)]


def test_the_largest_magnitudes_within_a_mask():
    values, where = np.array([[3.0, -5.0], [1.0, 2.0]]), np.array([[True, False], [True, True]])
    assert mask_probes.largest(values, where, 2).tolist() == [[True, False], [False, True]]


def test_the_decay_of_the_study_is_a_factor_each_600_steps():
    assert decays.study(0) == decays.study(599) == 0.5
    assert decays.study(1200) == pytest.approx(0.5 * 0.99**2)
    cells = {c.group: c for c in get("criteria_figure16_factor").cells(True)}
    method = configuration.plan(config_of(cells["factor 0.99"], seeds=1, proxy=True)).method
    assert method.updates.n_kept.fractions.schedule is decays.study_proxy


@pytest.mark.slow
def test_least_squares_keeps_the_assumptions():
    """Without masks there is no mask error; with rounds the gradient falls, and a static mask leaves more of it."""
    table = get("dst_ee_propositions")
    found = {}
    for cell in table.cells(True):
        values = planning.PROBES["convergence"](config_of(cell, seeds=2, proxy=True))["values"]
        found[cell.method, cell.x] = np.mean(values["gradient norm"]), np.mean(values["mask error"])
    for method in ("Dense", "DST-EE", "RigL", "static"):
        norms = [found[method, x][0] for x in (4, 32, 256)]
        assert norms == sorted(norms, reverse=True)
    assert found["Dense", 256][1] == found["static", 256][1] == 0
    assert 0 < found["DST-EE", 4][1] < 1
    assert found["Dense", 256][0] < found["DST-EE", 256][0] < found["static", 256][0]


@pytest.mark.slow
def test_what_growth_ignores_is_a_share():
    greedy = run("ignored", {**TINY, "grow": "gradient"})["values"]
    assert greedy["grown against the gradient"] == [0, 0]  # that growth takes the largest gradients, and no others
    assert all(0 <= v <= 100 for v in greedy["ignored"])
    chance = run("ignored", {**TINY, "grow": "random"})["values"]
    assert np.mean(chance["grown against the gradient"]) > 50
    assert np.mean(chance["ignored"]) == pytest.approx(np.mean(chance["chance"]), abs=15)


@pytest.mark.slow
def test_criteria_over_time_agree_with_themselves_alone():
    found = run("drops_in_time", {**TINY, "drop": "magnitude", "grow": "gradient"})
    curve = found["curves"]["J(magnitude, SNIP)"]
    assert curve[0] == [4, 20]  # every fourth update, of which the last is at 32
    assert all(0 <= v <= 1 for row in curve[1] for v in row)
    assert np.mean(found["values"]["J(magnitude, SET)"]) > np.mean(found["values"]["J(magnitude, SNIP)"])

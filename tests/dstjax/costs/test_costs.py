"""Costs: worked examples, ledgers of every pass of a run, recorded runs, bad input."""

import math
import re
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dstjax import costs, methods, schedules

PAGE = (Path(__file__).parents[3] / "docs" / "costs.md").read_text()
RIGL = dict(update_period=100)


@pytest.mark.parametrize(
    ("name", "given", "paper", "exact"),
    [
        ("dense", {}, 3.0, 3.0),
        ("static", {}, 0.6, 0.6),
        ("rigl", RIGL, 0.6079, 0.608),
        ("snfs", {}, 1.4, 1.4),
        ("iee", {}, 0.8, 1.15),
        ("iee_structured", {}, (388.333 * 0.2 + 1.667) / 130, 0.6 + 5 / 390 * 2.2),
        ("sr_ste", {}, 2.2, 1.4),
        ("dcil", {}, 5.2, 3.4),
        ("gmp", dict(ramp_start=0.0, ramp_end=1.0), 1.2, 1.2),
        ("top_kast", dict(backward=0.5), 0.9, 0.9),
        ("one_shot", dict(dense_share=0.5), 1.8, 1.8),
        ("interspace", {}, 0.81, 0.81),
        ("mest", dict(stages=[(0.5, 0.3), (0.25, 0.4)]), 0.9, 0.9),
        ("gap", dict(partitions=4, grow_share=0.5), 0.9, 0.9),
        ("granet", dict(start=0.6, ramp_share=0.5, update_period=10**9), 0.9, 0.75),
    ],
)
def test_worked_examples(name, given, paper, exact):
    """G5 at f_S = 0.2 and f_D = 1, and by hand where it has no example."""
    for convention, expected in (("paper", paper), ("exact", exact)):
        value = costs.training_flops(name, sparse=0.2, dense=1.0, convention=convention, **given)
        assert value == pytest.approx(expected, abs=5e-5), convention


def test_costs_of_one_layer():
    """G3: a 3 x 3 convolution of 16 to 32 channels with a 14 x 14 output at density 0.1; bits of its weights."""
    layer = dict(fan_in=3 * 3 * 16, outputs=14 * 14 * 32, density=0.1)
    assert costs.layer_flops(**layer, convention="paper") == pytest.approx(180_633.6)
    assert costs.layer_flops(**layer, convention="exact", bias=False, relu=False) == pytest.approx(174_361.6)
    assert costs.layer_flops(**layer, convention="exact") == pytest.approx(186_905.6)
    assert costs.storage_bits(4608, density=0.1, biases=32) == pytest.approx(20_377.6)
    assert costs.storage_bits(4608) == 4608 * 32


def test_mean_of_the_cubic_ramp():
    """G5: 0.4 for a final density of 0.2; GMP's stairs have a larger mean, which tends to it."""
    assert costs.mean_density_of_cubic(0.2) == pytest.approx(0.4)
    for updates in (1, 4, 50):
        stairs = 1 - 0.8 * (1 - (1 - np.arange(updates) / updates) ** 3)
        assert costs.mean_density_of_cubic(0.2, updates=updates) == pytest.approx(stairs.mean())


def ledger(steps, passes):
    """Mean cost of steps of training, each a tuple of the FLOPs of its passes."""
    return sum(sum(passes(t)) for t in range(1, steps + 1)) / steps


def test_exact_cost_of_rigl_is_that_of_its_passes():
    """An update step has a dense weight gradient; updates end at three quarters."""
    updates = schedules.UpdateSchedule(10, end_step=751)
    passes = lambda t: (0.2, 0.2, 1.0 if updates.is_update(t) else 0.2)  # noqa: E731
    value = costs.training_flops(
        "dst_ee", sparse=0.2, dense=1.0, convention="exact", update_period=10, update_share=0.75
    )
    assert value == pytest.approx(ledger(1000, passes))


@pytest.mark.parametrize("phases", [(2, 3, 5), (4, 0, 1)])
def test_exact_cost_of_iee_is_that_of_its_passes(phases):
    """In the phase that explores all weights are passed, and those outside the active set get a gradient."""
    h, j, q = phases
    names = dict(estimation=h, improvement=j, exploration=q, update_share=0.5)

    def passes(t):
        exploring = t <= 500 and (t - 1) % sum(phases) >= h + j
        return (1.0, 1.0, 1.0 - 0.2) if exploring else (0.2, 0.2, 0.2)

    value = costs.training_flops("iee", sparse=0.2, dense=1.0, convention="exact", **names)
    assert value == pytest.approx(ledger(1000, passes))
    claimed = lambda t: (0.2, 0.2, 1.0) if sum(passes(t)) > 1 else (0.2, 0.2, 0.2)  # noqa: E731
    value = costs.training_flops("iee", sparse=0.2, dense=1.0, convention="paper", **names)
    assert value == pytest.approx(ledger(1000, claimed))


def test_exact_cost_of_gmp_is_that_of_its_passes():
    """Dense to step 200, twenty prunings up to step 600, then at the final density."""

    def density(t):
        x = min(max((t - 1) // 20 * 20 - 200, 0) / 400, 1)
        return 1 - 0.8 * (1 - (1 - x) ** 3)

    value = costs.training_flops(
        "gmp", sparse=0.2, dense=1.0, convention="exact", ramp_start=0.2, ramp_end=0.6, updates=20
    )
    assert value == pytest.approx(ledger(1000, lambda t: [density(t)] * 3))


LINEAR = ["dense", "static", "snfs", "sr_ste", "dcil", "interspace", "rigl", "iee", "iee_structured", "top_kast"]


@pytest.mark.parametrize("name", LINEAR)
@hypothesis.given(
    cuts=st.lists(st.integers(0, 100_000), min_size=1, max_size=5).filter(sum),
    convention=st.sampled_from(costs.CONVENTIONS),
)
def test_a_run_of_one_density_costs_what_the_formula_says(name, cuts, convention):
    """However it is cut into stretches: updates that end inside of one included."""
    given = {"rigl": dict(update_period=50, update_share=0.75), "top_kast": dict(backward=0.4)}.get(name, {})
    whole = costs.training_flops(name, sparse=0.2, dense=1.0, convention=convention, **given)
    run = costs.training_flops_of_run(
        name, sparse=[0.2] * len(cuts), dense=1.0, convention=convention, lengths=cuts, **given
    )
    assert run == pytest.approx(whole)


def test_a_recorded_density_takes_the_place_of_the_schedule():
    run = dict(dense=1.0, convention="exact")
    stairs = [1 - 0.8 * (1 - (1 - i / 20) ** 3) for i in range(20)]
    expected = costs.training_flops("gmp", sparse=0.2, ramp_start=0.25, ramp_end=0.75, updates=20, **run)
    record = costs.training_flops_of_run("gmp", sparse=[1.0, *stairs, 0.2], lengths=[10, *[1] * 20, 10], **run)
    assert record == pytest.approx(expected)
    assert costs.training_flops_of_run("admm", sparse=[1.0, 1.0, 0.2], **run) == pytest.approx(
        costs.training_flops("admm", sparse=0.2, dense_share=2 / 3, **run)
    )
    assert costs.training_flops_of_run("mest", sparse=[0.3, 0.2], **run) == pytest.approx(
        costs.training_flops("mest", sparse=0.2, stages=[(0.5, 0.3)], **run)
    )
    granet = costs.training_flops_of_run("granet", sparse=[0.6, 0.2], update_period=10, **run)
    assert granet == pytest.approx(((3 * 0.6 + 0.04) + (3 * 0.2 + 0.08)) / 2)
    # IEE explores in the first stretch alone, at the density of that stretch: two sparse steps of three.
    iee = costs.training_flops_of_run("iee", sparse=[0.4, 0.2], update_share=0.5, **run)
    assert iee == pytest.approx(((2 * 3 * 0.4 + (3 - 0.4)) / 3 + 3 * 0.2) / 2)


@hypothesis.given(st.floats(0.01, 1.0), st.sampled_from(costs.names()), st.sampled_from(costs.CONVENTIONS))
def test_bounds(sparse, name, convention):
    """At least 3 f_S; with nothing sparse 3 f_D, but for methods that make passes of their own."""
    value, full = (
        costs.training_flops(name, sparse=f, dense=1.0, convention=convention, **some(name)) for f in (sparse, 1.0)
    )
    if name in ("iee", "iee_structured") and convention == "exact":
        # The frozen active weights get no gradient, so exploring is cheaper where nothing is left to explore.
        assert value >= 2 * sparse
        assert 2 < full < 3
        return
    more = {"interspace": 0.21, "dcil": 3.0 if convention == "paper" else 2.0}
    assert value >= 3 * sparse - 1e-12
    assert full == pytest.approx(3 + more.get(name, 0.0))


def some(name):
    """Values for what the formula of a method needs."""
    values = dict(update_period=100, start=1.0, backward=1.0, ramp_share=0.3, ramp_start=0.2, ramp_end=0.8)
    values |= dict(dense_share=0.5, partitions=4, grow_share=0.8, window=20)
    return {k: values[k] for k in costs.needs(name) if k in values}


def test_inference():
    assert costs.inference_flops("dense", sparse=2.0, dense=8.2) == 8.2
    assert costs.inference_flops("dcil", sparse=2.0, dense=8.2) == 2.0
    assert costs.inference_flops("interspace", sparse=2.0, dense=8.2) == pytest.approx(2.574)


def test_every_method_has_a_cost_and_a_row_on_the_page():
    assert set(methods.names()) <= set(costs.names())
    table = PAGE.split("## Formulas")[1].split("\n## ")[0]
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (.+?) \|", table, flags=re.M)))) == set(costs.names())


GOOD = dict(sparse=0.2, dense=1.0, convention="paper")


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("rigle", {}, "'rigle' is not known; did you mean 'rigl'"),
        ("static", dict(convention="exactly"), "convention='exactly'.*'exact'"),
        ("static", dict(sparse=1.2), r"sparse=1\.2 .*<= 1"),
        ("static", dict(sparse=0), "sparse=0 .*above 0"),
        ("static", dict(dense=math.nan), "dense=nan"),
        ("static", dict(dense=math.inf), "dense=inf"),
        ("static", dict(update_period=10), "no use for 'update_period'"),
        ("rigl", {}, "'rigl' needs update_period"),
        ("rigl", dict(update_period=0), "update_period=0"),
        ("rigl", dict(update_period=10, update_share=1.5), r"update_share=1\.5"),
        ("rigl", dict(updates_period=10), "did you mean 'update_period'"),
        ("gmp", dict(ramp_start=0.8, ramp_end=0.2), r"ramp_start=0\.8"),
        ("gmp", dict(ramp_start=0.2, ramp_end=0.8, updates=0), "updates=0"),
        ("granet", dict(start=0.1, ramp_share=0.3, update_period=10), r"start=0\.1 .*>= 0\.2"),
        ("top_kast", dict(backward=1.1), r"backward=1\.1"),
        ("iee", dict(estimation=0), "estimation=0"),
        ("iee", dict(exploration=-1), "exploration=-1"),
        ("mest", dict(stages=[0.5]), "expected pairs"),
        ("mest", dict(stages=[(0.7, 0.3), (0.7, 0.4)]), "more than all of training"),
        ("mest", dict(stages=[(0.7, 0.1)]), r"FLOPs of a stage=0\.1"),
    ],
)
def test_bad_input(name, changed, message):
    with pytest.raises(ValueError, match=message):
        costs.training_flops(name, **{**GOOD, **changed})


def test_bad_records():
    with pytest.raises(ValueError, match="0 entries"):
        costs.training_flops_of_run("static", sparse=[], dense=1.0, convention="paper")
    with pytest.raises(ValueError, match="lengths has 1 entries and sparse 2"):
        costs.training_flops_of_run("static", sparse=[0.1, 0.2], lengths=[1], dense=1.0, convention="paper")
    with pytest.raises(ValueError, match="all 0"):
        costs.training_flops_of_run("static", sparse=[0.1], lengths=[0], dense=1.0, convention="paper")
    with pytest.raises(ValueError, match=r"sparse=1\.5"):
        costs.training_flops_of_run("static", sparse=[0.1, 1.5], dense=1.0, convention="paper")
    with pytest.raises(ValueError, match="no use for 'ramp_start'"):
        costs.training_flops_of_run("gmp", sparse=[0.1], ramp_start=0.2, dense=1.0, convention="paper")
    with pytest.raises(ValueError, match="epochs=0"):
        costs.relative(1.0, dense=1.0, epochs=0)
    with pytest.raises(ValueError, match=r"density=1\.5"):
        costs.layer_flops(3, 4, density=1.5, convention="paper")

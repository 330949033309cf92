"""The probe of what grows, and the growth rules that were tried where balanced momentum loses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dstjax
from experiments.reproduce import growth_probes, growth_rules, planning
from experiments.reproduce.cells import Cell, config_of
from experiments.training import fast

RNG = np.random.default_rng(5)


def leaf_of(memory, gradient, mask, budget=4):
    arrays = (jnp.asarray(x, jnp.float32) for x in (memory, gradient))
    memory, gradient = arrays
    counter = jnp.asarray(np.arange(mask.size).reshape(mask.shape), jnp.uint8)
    return dstjax.Leaf(
        gradient,
        gradient,
        jnp.asarray(mask),
        counter,
        jnp.int32(5),
        jax.random.key(3),
        jnp.int32(budget),
        memory=memory,
    )


def test_balance_is_that_of_the_library():
    m = RNG.standard_normal((3, 3, 4, 5)).astype(np.float32) * np.arange(5)  # the first output is 0
    expected = dstjax.criteria.balanced(leaf_of(m, m, np.zeros(m.shape, bool)))
    np.testing.assert_allclose(growth_probes.balance(m), expected, rtol=1e-5)


def test_a_look_counts_what_grows():
    signal = np.array([[4.0, 1.0, 0.0], [3.0, 2.0, 5.0]], np.float32)
    before = np.array([[False, True, False], [False, False, False]])  # outputs 0 and 2 are dead
    after = before.copy()
    after[1, [0, 2]] = True  # the first of them is the signal's second choice, the last its first
    noisy = [signal + 1, signal - 1]
    found = growth_probes._look(signal, 2 * signal, noisy, before, after, own=False)
    free = signal[~before]
    assert found["agreement"] == pytest.approx(1)
    assert found["noise of one gradient"] == pytest.approx(5 / np.sum(free**2))
    assert found["grown as all samples would"] == pytest.approx(50)  # 5 and 4 are the largest, 5 and 3 were grown
    assert found["dead outputs"] == pytest.approx(200 / 3)
    assert found["growth into dead outputs"] == pytest.approx(100)
    assert found["inflation"] == pytest.approx(np.sqrt(np.mean(np.square([4, 3, 0, 5]))) / 2)
    assert found["inputs reached"] == pytest.approx(50)
    assert found["outputs reached"] == pytest.approx(200 / 3)


def test_tenths_are_of_the_outputs_by_variance():
    variance = np.arange(20.0)[::-1]
    signal = np.broadcast_to(np.arange(1.0, 21), (3, 20)).astype(np.float32)
    before = np.zeros((3, 20), bool)
    after = before.copy()
    after[:, -2:] = True
    found = growth_probes._by_variance({"a": variance}, {"a": signal}, {"a": before}, {"a": after})
    assert found["size of gradients"][0] == pytest.approx(19.5 / 10.5)  # the last outputs vary least
    assert found["growth"].tolist() == [10, *[0] * 9]


def test_a_share_that_adapts_is_as_large_as_the_average_fails_to_explain():
    m = RNG.standard_normal((40, 50))
    mask = np.zeros(m.shape, bool)
    np.testing.assert_array_equal(
        growth_rules.adaptive_share(leaf_of(m, 3 * m, mask)), dstjax.criteria.balanced(leaf_of(m, m, mask))
    )
    strange = np.where(np.arange(50) % 2, m, -m)  # no cosine to speak of: all is drawn
    leaf = leaf_of(m, strange, mask, budget=400)
    lucky = growth_rules.adaptive_share(leaf) > dstjax.criteria.balanced(leaf).max()
    cosine = float(np.sum(m * strange) / np.sum(m**2))
    assert int(lucky.sum()) == pytest.approx(400 * (1 - max(cosine, 0)), abs=60)


def test_a_decayed_score_falls_with_the_rounds():
    m = np.ones((2, 3))
    found = growth_rules.decayed(leaf_of(m, m, np.zeros(m.shape, bool)))
    np.testing.assert_allclose(found, 1 / (1 + np.arange(6).reshape(2, 3)), rtol=1e-6)


@pytest.mark.parametrize("rule", ["adaptive_share", "decayed"])
def test_the_rules_take_the_fast_path(rule, tmp_path):
    cell = Cell("task_digits98", "x", {"method": "balanced_momentum", "grow": f"{growth_rules.__name__}:{rule}"})
    assert not fast.planned("x", tmp_path, config_of(cell, seeds=2, proxy=True)).refused


@pytest.mark.slow
@pytest.mark.parametrize(("task", "method"), [("digits98", "balanced_momentum"), ("vgg97", "rigl")])
def test_the_probe_looks_at_every_network(task, method):
    changes = {"method": method, "steps": 48, "update_period": 4, "model.sizes": (8,), "sparsity": 0.8}
    found = planning.PROBES["growth"](config_of(Cell(f"task_{task}", "x", changes), seeds=2, proxy=True))
    values = found["values"]
    assert {len(v) for v in values.values()} == {2}
    assert all(0 <= v <= 100 for v in values["grown as all samples would"])
    assert all(-1 <= v <= 1 for v in values["agreement"])
    if method == "rigl":  # it ranks by one gradient
        assert min(values["noise of one gradient"]) > 0
        assert {"size of gradients", "growth"} <= found["curves"].keys()

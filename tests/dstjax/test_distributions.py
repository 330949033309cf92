"""Densities of layers, with the worked examples of the reference (A1, A2, A4), and their exact counts."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dstjax
from dstjax import distributions, methods
from dstjax.distributions import active_counts
from tests import oracles, trees
from tests.thorough import examples, few

# Reference A2: sums of axes 25, 38, 26; sizes 432, 2304, 160.
CONVNET = {"conv1": (3, 3, 3, 16), "conv2": (3, 3, 16, 16), "head": (16, 10)}


def test_uniform_rounds_the_zeros_down():
    """A1: n = 10 at S = 0.75 gives 7 zeros and 3 ones."""
    assert active_counts("uniform", {"w": (10,)}, 0.75) == {"w": 3}
    assert distributions.uniform(CONVNET, 0.9) == dict.fromkeys(CONVNET, pytest.approx(0.1))


def test_erk_makes_saturated_layers_dense_and_solves_again():
    """A2 at S = 0.8: the head would get density 1.059, so it is dense and the rest is solved again."""
    densities = distributions.erk(CONVNET, 0.8)
    assert densities == pytest.approx({"conv1": 0.3858, "conv2": 0.1100, "head": 1.0}, abs=1e-4)
    counts = active_counts("erk", CONVNET, 0.8)
    assert counts["head"] == 160
    assert counts["conv1"] == pytest.approx(166.7, abs=1)
    assert counts["conv2"] == pytest.approx(253.3, abs=1)
    assert sum(counts.values()) == 2896 - math.floor(0.8 * 2896)


def test_erk_saturates_twice():
    """A2 at S = 0.5: first the head, then conv1 (1.183) become dense; the total is exactly 1448."""
    densities = distributions.erk(CONVNET, 0.5)
    assert densities == pytest.approx({"conv1": 1.0, "conv2": 0.3715, "head": 1.0}, abs=1e-4)
    assert sum(active_counts("erk", CONVNET, 0.5).values()) == 1448


def test_er_counts_the_last_two_axes_alone():
    raw = {"conv1": (3 + 16) / (3 * 16), "conv2": 32 / 256}
    densities = distributions.er({n: CONVNET[n] for n in raw}, 0.9)
    assert densities["conv1"] / densities["conv2"] == pytest.approx(raw["conv1"] / raw["conv2"])
    matrices = {"a": (30, 20), "b": (20, 50)}
    assert distributions.er(matrices, 0.9) == pytest.approx(distributions.erk(matrices, 0.9))


def test_epsilon_is_sets_own_rule():
    """A4: 20 * (7072 + 5000 + 5000) = 341,440 connections; 342,493 are reported."""
    shapes = {"a": (3072, 4000), "b": (4000, 1000), "c": (1000, 4000)}
    densities = distributions.epsilon(20)(shapes, 0.5)
    assert sum(densities[n] * math.prod(s) for n, s in shapes.items()) == pytest.approx(341_440)
    assert distributions.epsilon(1000)({"w": (4, 4)}, 0.0) == {"w": 1.0}


@settings(max_examples=examples(200))
@given(st.integers(1, 5000), st.integers(0, 9999))
def test_a_layer_starts_with_n_minus_floor_of_s_times_n(size, tenthousandths):
    sparsity = tenthousandths / 10_000
    exact = size - oracles.share(size, sparsity)
    if size * (1 - sparsity) < 1 - 1e-6:
        with pytest.raises(ValueError, match="too small"):
            active_counts("uniform", {"w": (size,)}, sparsity)
    else:
        assert active_counts("uniform", {"w": (size,)}, sparsity) == {"w": exact}
        assert exact >= 1


@settings(max_examples=examples(200))
@given(
    st.lists(st.lists(st.integers(1, 24), min_size=2, max_size=4), min_size=1, max_size=6),
    st.integers(0, 99),
    st.sampled_from(["er", "erk"]),
)
def test_er_and_erk_fix_the_total_to_the_last_weight(shapes, percent, kind):
    shapes = {f"layer{i}": tuple(s) for i, s in enumerate(shapes)}
    sizes = {n: math.prod(s) for n, s in shapes.items()}
    sparsity = percent / 100
    densities = {"er": distributions.er, "erk": distributions.erk}[kind](shapes, sparsity)
    assert all(0 < d <= 1 + 1e-9 for d in densities.values())
    # The rounding of each layer's zeros may move the sum of densities by a weight a layer.
    wanted = (1 - sparsity) * sum(sizes.values())
    assert abs(sum(densities[n] * sizes[n] for n in shapes) - wanted) <= len(shapes) + 1e-6
    if min(densities[n] * sizes[n] for n in shapes) < 1 - 1e-6:
        with pytest.raises(ValueError, match="too small"):
            active_counts(kind, shapes, sparsity)
        return
    counts = active_counts(kind, shapes, sparsity)
    total = sum(sizes.values())
    assert sum(counts.values()) == max(total - oracles.share(total, sparsity), len(shapes))  # one each at least
    for n, count in counts.items():
        assert 1 <= count <= sizes[n]
        assert abs(count - densities[n] * sizes[n]) <= len(shapes) + 1
    # The more a layer's axes weigh against its size, the denser it is.
    for a in shapes:
        for b in shapes:
            if kind == "erk" and sum(shapes[a]) / sizes[a] > sum(shapes[b]) / sizes[b]:
                assert densities[a] >= densities[b] - 1e-9


@few(2)
@pytest.mark.parametrize("kind", ["er", "erk"])
@pytest.mark.parametrize("sparsity", [0.13, 0.5, 0.77, 0.9])
@pytest.mark.parametrize(
    "shapes", [[(1, 1), (1, 7)], [(7, 9)] * 5, [(3, 3, 5, 7), (11, 13), (11, 13), (2, 3)], [(1, 2), (1, 2), (40, 50)]]
)
def test_a_traced_sparsity_fixes_the_same_total(kind, sparsity, shapes):
    """Layers alike have remainders alike, and layers that round to dense leave the rest to the others."""
    shapes = {f"layer{i}": s for i, s in enumerate(shapes)}
    total = sum(math.prod(s) for s in shapes.values())
    traced = jax.jit(lambda s: active_counts(kind, shapes, s))(jnp.float32(sparsity))
    counts = {n: int(c) for n, c in traced.items()}
    assert sum(counts.values()) == max(total - oracles.share(total, sparsity), len(shapes))  # one each at least
    assert all(1 <= c <= math.prod(shapes[n]) for n, c in counts.items())


def test_sparsity_zero_is_dense():
    for kind in ("uniform", "er", "erk"):
        assert active_counts(kind, CONVNET, 0.0) == {n: math.prod(s) for n, s in CONVNET.items()}


def test_a_map_takes_the_first_match():
    densities = {"head": 1.0, "conv1": 0.5, "conv": 0.1}
    assert distributions.masked_by_map(densities, list(CONVNET), list(CONVNET)) == ["conv1", "conv2"]
    counts = active_counts(densities, {n: CONVNET[n] for n in ("conv1", "conv2")}, None)
    assert counts == {"conv1": 216, "conv2": 231}


def test_a_map_divides_what_is_maskable():
    params = trees.everything()
    densities = {"conv/kernel": 0.5, "kernel": 1.0, "list": 0.25}  # list/1 is a bias

    def counts(**more):
        tx = dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=None, **{"distribution": densities, **more}))
        return {n: int(m.sum()) for n, m in trees.names(dstjax.get_masks(tx.init(params))).items()}

    assert counts() == {"conv/kernel": 36, "list/0": 5}
    everything = lambda path, leaf: leaf.ndim >= 1  # noqa: E731
    named = lambda path, leaf: "bias" not in path and path != "scale"  # noqa: E731
    with pytest.raises(ValueError, match=r"no distribution pattern matches .*bias.*'\*'"):
        counts(maskable=everything)
    assert counts(maskable=named) == {"conv/kernel": 36, "list/0": 5, "list/1": 1}
    assert counts(distribution={"conv": 0.5, "*": 1.0}) == {"conv/kernel": 36}
    with pytest.raises(ValueError, match=r"\['bias'\] are the first match of no leaf that is maskable.*maskable="):
        counts(distribution={"bias": 0.5, "*": 0.5})


def test_a_function_gives_densities_by_path():
    seen = {}

    def halves(shapes, sparsity):
        seen.update(shapes=dict(shapes), sparsity=sparsity)
        return dict.fromkeys(shapes, 0.5)

    tx = dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=0.8, distribution=halves))
    masks = trees.names(dstjax.get_masks(tx.init(trees.everything())))
    assert seen == {"shapes": {n: trees.SHAPES[n] for n in trees.MASKED}, "sparsity": 0.8}
    assert {n: int(m.sum()) for n, m in masks.items()} == {n: np.prod(trees.SHAPES[n]) // 2 for n in trees.MASKED}


@pytest.mark.parametrize("kind", ["uniform", "er", "erk"])
def test_the_initial_masks_have_these_counts(kind):
    tx = dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=0.7, distribution=kind))
    masks = trees.names(dstjax.get_masks(tx.init(trees.everything(jnp.float16))))
    wanted = active_counts(kind, {n: trees.SHAPES[n] for n in trees.MASKED}, 0.7)
    assert {n: int(m.sum()) for n, m in masks.items()} == wanted


@pytest.mark.parametrize(("distribution", "layers"), [("erk", 2), ("er", 2), ("uniform", 1)])
def test_a_traced_sparsity_of_more_weights_than_32_bits_count(distribution, layers):
    shapes = {f"w{i}": (2**15, 2**15 * 2 // layers) for i in range(layers)}
    with pytest.raises(
        ValueError, match=r"is not accepted with distribution=.* for 2,147,483,648 weights, which 32 bits"
    ):
        jax.eval_shape(lambda s: distributions.active_counts(distribution, shapes, s), jnp.float32(0.9))

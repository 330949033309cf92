"""Magnitude, SNIP and GraSP: the worked examples of the reference (A3, B3, B4), transcripts, counts, ties."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dstjax import distributions, initial_masks
from dstjax.initial_masks import grasp, magnitude, snip
from tests import oracles, trees
from tests.dstjax.initial_masks import networks
from tests.thorough import examples, slow

EVERYTHING = lambda path, leaf: True  # noqa: E731


# --- Worked examples --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("normalize", "first", "second"),
    [(False, [1, 0, 1], [1, 0, 0]), (True, [1, 0, 0], [1, 0, 1])],
)
def test_a_global_ranking_with_and_without_the_norms(normalize, first, second):
    """A3: at density 0.5 the third weight of the first layer loses its place when each layer is divided by its norm."""
    params = {"w1": jnp.array([[0.9, -0.1, 0.2]]), "w2": jnp.array([[-0.15, 0.05, 0.1]])}
    masks = magnitude(params, sparsity=0.5, scope="global", normalize=normalize)
    assert masks["w1"].astype(int).tolist() == [first]
    assert masks["w2"].astype(int).tolist() == [second]


def test_snip_of_the_reference_example():
    """B3: scores .1 .3 .1 .2 0 .02; of the two of .1 the first stays."""
    w, g = [[1, 0.5, -0.2, 0.1, 0, 0.4]], [[0.1, -0.6, 0.5, 2, 9, 0.05]]
    params = {"w": jnp.array(w)}
    masks = snip(lambda p, g: jnp.sum(p["w"] * g), params, [jnp.array(g)], sparsity=0.5)
    assert masks["w"].astype(int).tolist() == [[1, 1, 0, 1, 0, 0]]


def test_grasp_of_the_reference_example():
    """B4: g = (0, -1), Hg = (-1, -1), so the first parameter goes."""
    hessian = jnp.array([[2.0, 1.0], [1.0, 1.0]])
    params = {"theta": jnp.array([1.0, -2.0])}
    loss = lambda p, h: p["theta"] @ h @ p["theta"] / 2  # noqa: E731
    masks = grasp(loss, params, [hessian], sparsity=0.5, maskable=EVERYTHING)
    assert masks["theta"].tolist() == [False, True]


# --- Transcripts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "sparsity"), [("layer", 0.3), ("global", 0.8), slow("layer", 0.8), slow("global", 0.3)]
)
@pytest.mark.parametrize("rule", ["magnitude", "snip", "grasp"])
def test_transcript(rule, scope, sparsity):
    params, batches = networks.draw()
    weights = networks.kernels(params)
    g = networks.gradient(params, batches)
    scores = {
        "magnitude": lambda: [np.abs(w) for w in weights],
        "snip": lambda: [np.abs(w * g) for w, g in zip(weights, g, strict=True)],
        "grasp": lambda: [w * h for w, h in zip(weights, networks.hessian_product(params, batches, g), strict=True)],
    }[rule]()
    active = networks.counts([w.size for w in weights], sparsity, scope)
    data = () if rule == "magnitude" else (networks.loss,)
    rest = () if rule == "magnitude" else (iter(batches),)
    masks = getattr(initial_masks, rule)(*data, params, *rest, sparsity=sparsity, **networks.uniformly(scope))
    networks.assert_masks(masks, networks.choose(scores, active, scope))
    assert masks["hidden"]["bias"] is None
    assert masks["out"]["bias"] is None


def test_gradients_are_summed_before_the_score():
    """Slopes of +3 and -3 cancel, so the weight with a slope of 1 in both batches is the one that counts."""
    params = {"w": jnp.ones((1, 2))}
    batches = [jnp.array([[3.0, 1.0]]), jnp.array([[-3.0, 1.0]])]
    masks = snip(lambda p, g: jnp.sum(p["w"] * g), params, batches, sparsity=0.5)
    assert masks["w"].tolist() == [[False, True]]


def test_scores_of_half_precision_do_not_collapse():
    """1.015625 * 1 < 1.0078125 ** 2, although both are 1.015625 in bfloat16."""
    params = {"w": jnp.array([[1.015625, 1.0078125]], jnp.bfloat16)}
    slope = jnp.array([[1.0, 1.0078125]], jnp.bfloat16)
    masks = snip(lambda p, g: jnp.sum(p["w"] * g), params, [slope], sparsity=0.5)
    assert masks["w"].tolist() == [[False, True]]


# --- Counts and ties --------------------------------------------------------------------------------------------------

VALUES = st.sampled_from([0.0, 1.0, -1.0, 0.5, 2.0, np.nan])


@settings(max_examples=examples(60))
@given(
    st.lists(VALUES, min_size=6, max_size=6),
    st.lists(VALUES, min_size=8, max_size=8),
    st.integers(0, 83),  # at least one of the six weights of a
    st.sampled_from(["layer", "global"]),
)
def test_counts_are_exact_and_the_first_of_equals_wins(a, b, percent, scope):
    weights = [np.array(a, np.float32).reshape(2, 3), np.array(b, np.float32).reshape(4, 1, 2)]
    params = {"a": weights[0], "b": weights[1], "c": np.ones(3, np.float32)}
    silent = [name for name, values in (("a", a), ("b", b)) if not np.any(np.nan_to_num(values))]
    if silent and networks.counts([6, 8], percent / 100, scope) not in ([6, 8], [14]):
        assume(scope == "global")  # layer by layer one of them may stay whole
        with pytest.raises(ValueError, match=re.escape(f"no information in layers {silent}")):
            magnitude(params, sparsity=percent / 100, **networks.uniformly(scope))
        return
    lost = [f"{np.isnan(x).sum()} of {name!r}" for name, x in (("a", a), ("b", b)) if np.isnan(x).any()]
    if lost and networks.counts([6, 8], percent / 100, scope) not in ([6, 8], [14]):
        assume(scope == "global")
        with pytest.raises(ValueError, match=re.escape(f"not finite: {', '.join(lost)};")):
            magnitude(params, sparsity=percent / 100, **networks.uniformly(scope))
        return
    masks = magnitude(params, sparsity=percent / 100, **networks.uniformly(scope))
    active = networks.counts([6, 8], percent / 100, scope)
    for mask, expected in zip(
        (masks["a"], masks["b"]), networks.choose([np.abs(w) for w in weights], active, scope), strict=True
    ):
        np.testing.assert_array_equal(mask, expected)
    assert masks["c"] is None


def test_layers_get_the_counts_of_their_distribution():
    params, shapes = trees.everything(), {n: trees.SHAPES[n] for n in trees.MASKED}
    for asked, meant in [(None, "erk"), ("er", "er"), ({"conv/kernel": 0.5, "dense/kernel|list/0": 0.3},) * 2]:
        sparsity = None if isinstance(asked, dict) else 0.6
        masks = trees.names(magnitude(params, sparsity=sparsity, distribution=asked))
        assert {n: int(m.sum()) for n, m in masks.items()} == distributions.active_counts(meant, shapes, sparsity)


def test_a_global_ranking_leaves_each_leaf_a_weight():
    params = {"large": jnp.arange(1.0, 13.0).reshape(3, 4), "small": jnp.full((2, 2), 1e-6)}
    masks = magnitude(params, sparsity=0.8, scope="global")  # 4 of 16
    np.testing.assert_array_equal(masks["large"], oracles.best(params["large"], 3))
    assert masks["small"].tolist() == [[True, False], [False, False]]


def test_nothing_but_masked_leaves_needs_a_gradient():
    """Integers and keys among the parameters are passed on to the loss."""
    params = {"count": jnp.int32(3), "key": jax.random.key(0), "w": jnp.array([[1.0, -2.0]])}

    def loss(p, batch):
        return jnp.sum(p["w"] ** 2) * p["count"] + 0 * jax.random.uniform(p["key"]) + batch

    masks = snip(loss, params, [0.0], sparsity=0.5)
    assert masks["w"].tolist() == [[False, True]]
    assert masks["count"] is None
    assert masks["key"] is None

"""Selection and counts by layer, against a sort of each layer, on one device and on eight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType

from dstjax.layouts import parse
from dstjax.masks import pack
from dstjax.selection import count_true, top_k_mask, top_k_masks
from tests.thorough import few

LAYOUTS = (
    parse("stack in out"),
    None,
    parse("out in window window"),
    parse("in stack out"),
    parse("stack stack in out out"),
    parse("in out stack"),
)
SHAPES = ((6, 16, 16), (8, 8), (4, 5, 3, 3), (4, 3, 8), (2, 3, 4, 2, 5), (16, 8, 8))


def order(layout, ndim):
    return list(range(ndim)) if layout is None else [*layout.stack, *layout.order]


def layers(x, layout):
    """The layers of a leaf as rows, in the order of the layout."""
    x = np.asarray(x)
    n = 1 if layout is None else layout.layers(x.shape)
    return x.transpose(order(layout, x.ndim)).reshape(n, -1)


def expected(score, k, where, layout):
    """Marks the k[i] best candidates of layer i; of equal ones the first."""
    rows, allowed = layers(score, layout), layers(where, layout)
    marks = np.zeros(rows.shape, bool)
    for i, row in enumerate(rows):
        best = sorted(np.flatnonzero(allowed[i]), key=lambda j, row=row: (-row[j], j))
        marks[i, best[: k[i]]] = True
    axes = order(layout, score.ndim)
    return marks.reshape([score.shape[a] for a in axes]).transpose(np.argsort(axes))


@functools.cache
def program(times):
    """Few tensors are counted alone; many, ``times`` as many, share an array."""
    layouts = LAYOUTS * times
    return jax.jit(lambda scores, ks, where: top_k_masks(scores, ks, where=where, layouts=layouts))


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("times", [1, 3])
@given(seed=st.integers(0, 2**32 - 1), ties=st.booleans())
def test_every_layer_by_itself(times, seed, ties):
    rng = np.random.default_rng(seed)
    scores = [rng.standard_normal(s).astype(np.float32) for s in SHAPES * times]
    scores = [np.round(s * 2) for s in scores] if ties else scores
    where = [rng.random(s.shape) < 0.8 for s in scores]
    every = LAYOUTS * times
    ks = [rng.integers(0, 12, len(layers(s, layout))) for s, layout in zip(scores, every, strict=True)]
    found = program(times)(scores, jnp.concatenate([jnp.asarray(k, jnp.int32) for k in ks]), where)
    for mask, s, k, w, layout in zip(found, scores, ks, where, every, strict=True):
        np.testing.assert_array_equal(mask, expected(s, k, w, layout))
    counts = np.concatenate([layers(m, layout).sum(1) for m, layout in zip(found, every, strict=True)])
    np.testing.assert_array_equal(count_true(found, every), counts)
    np.testing.assert_array_equal(count_true([pack(m) for m in found], every), counts)


def test_one_ranking_over_all_layers_takes_earlier_layers_first():
    scores, layout = jnp.ones((3, 2, 2)), parse("stack in out")
    mask = top_k_masks([scores, scores], [6], together=True, layouts=(layout, None))
    assert [m.sum((1, 2)).tolist() for m in mask] == [[4, 2, 0], [0, 0, 0]]


@few(2)
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("spec", [("a", None, "b"), (None, "a", None), (("a", "b"), None, None), ("b", "a", None)])
def test_stacks_on_eight_devices(kind, spec):
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(kind,) * 2)
    rng = np.random.default_rng(0)
    score = np.round(rng.standard_normal((8, 16, 8)) * 2).astype(np.float32)
    k, layout = rng.integers(1, 20, 8), parse("stack in out")
    with jax.set_mesh(mesh):
        placed = jax.device_put(jnp.asarray(score), jax.NamedSharding(mesh, jax.P(*spec)))
        mask = jax.jit(lambda x, k: top_k_mask(x, k, layout=layout))(placed, jnp.asarray(k, jnp.int32))
        np.testing.assert_array_equal(mask, expected(score, k, np.ones(score.shape, bool), layout))
        np.testing.assert_array_equal(jax.jit(lambda m: count_true([m], (layout,)))(mask), k)

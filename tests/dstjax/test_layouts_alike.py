"""A layer trains alike however its leaf is stored: axes turned, split into heads, or stacked."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods
from dstjax.structures import block, fan_in, filters, n_m
from tests.thorough import few, slow


def rigl(**fields):
    return methods.rigl(**{"update_period": 1, "end_step": 4, **fields})


METHODS = {
    "rigl": rigl(sparsity=0.7),
    "uniform": rigl(sparsity=0.7, distribution="uniform"),
    "er": methods.dst_ee(sparsity=0.7, distribution="er", update_period=1, end_step=4),
    "2:4": rigl(sparsity=0.5, structure=n_m(2, 4)),
    "block": rigl(sparsity=0.5, structure=block(2, 2)),
    "balanced": rigl(sparsity=0.5, structure=block(2, 2, balanced=True)),
    "fan_in": rigl(sparsity=0.5, structure=fan_in(0.3)),
    "filters": rigl(sparsity=0.5, structure=filters()),
    "global": rigl(sparsity=0.7, scope="global"),
    "mest": methods.mest(sparsity=0.7, grow="gradient", update_period=1, end_step=4),
    "set_signs": rigl(sparsity=0.7, drop="set"),
    "neighbours": rigl(sparsity=0.7, grow=lambda leaf: _near(leaf)),
    "snfs": methods.snfs(sparsity=0.7, update_period=1, end_step=4),
    "granet": methods.granet(sparsity=0.7, update_period=1, end_step=4),
    "str": methods.get("str", sparsity=0.7, end_step=4),
    "top_kast": methods.top_kast(sparsity=0.7),
    "gap": methods.gap(sparsity=0.7, update_period=1, end_step=4, partitions=2),
}


def _near(leaf):
    """Neighbours without a random part."""
    from dstjax.criteria.drawn import _neighbours

    return _neighbours(leaf)


def trained(params, method, layout, gradients):
    """The masks at first and after each of three updates, with given gradients."""
    tx = dstjax.sparsify(optax.sgd(0.1, momentum=0.9), method, layout=layout)
    params, state = dstjax.start(tx, params)
    step = jax.jit(tx.update)
    seen = [dstjax.get_masks(state)]
    for grads in gradients:
        updates, state = step(grads, state, params, **({"value": 1.0} if "value" in method.needs else {}))
        params = optax.apply_updates(params, updates)
        seen.append(dstjax.get_masks(state))
    return seen


def drawn(shapes, seed):
    """Rounded, so that there are equal scores; equal ones must fall the same way."""
    rng = np.random.default_rng(seed)
    return {n: jnp.asarray(np.round(rng.standard_normal(s) * 4) / 4, jnp.float32) for n, s in shapes.items()}


def same(method, shapes, one, other, change):
    """Whether two ways of storing the same leaves have the same masks; ``change`` takes one to the other."""
    weights, gradients = drawn(shapes, 0), [drawn(shapes, i) for i in (1, 2, 3)]
    seen = trained(weights, method, one, gradients)
    again = trained(change(weights), method, other, [change(g) for g in gradients])
    for a, b in zip(seen, again, strict=True):
        a = change(a)
        for n in a:
            np.testing.assert_array_equal(a[n], b[n], err_msg=n)


def every(*quick):
    """Parameters: all methods, slow but for these; the three tests below run each kind of structure."""
    return [n if n in quick else slow(n) for n in METHODS]


@few(1)
@pytest.mark.parametrize("name", every("rigl", "fan_in"))
def test_a_convolution_inputs_first_or_outputs_first(name):
    """Stored HWIO and OIHW: the same first masks too, since random numbers are drawn in the order of the layer."""
    shapes = {"conv": (3, 3, 8, 12), "head": (12, 8)}
    turn = lambda tree: {"conv": tree["conv"].transpose(3, 2, 0, 1), "head": tree["head"].T}  # noqa: E731
    one, other = {"conv": "window window in out", "head": "in out"}, {"conv": "out in window window", "head": "out in"}
    same(METHODS[name], shapes, one, other, turn)


@pytest.mark.parametrize("name", every("2:4"))
def test_a_query_kernel_by_heads_or_as_a_matrix(name):
    shapes = {"query": (8, 4, 4), "head": (16, 8)}
    flat = lambda tree: {"query": tree["query"].reshape(8, 16), "head": tree["head"]}  # noqa: E731
    same(METHODS[name], shapes, {"query": "in out out", "head": "in out"}, "in out", flat)


@pytest.mark.parametrize("name", every("fan_in"))
def test_experts_in_one_leaf_or_in_a_list(name):
    method, shapes = METHODS[name], {"experts": (5, 8, 12), "head": (12, 8)}
    apart = lambda tree: {**{f"expert{i}": e for i, e in enumerate(tree["experts"])}, "head": tree["head"]}  # noqa: E731
    weights, gradients = drawn(shapes, 0), [drawn(shapes, i) for i in (1, 2, 3)]
    layout = {"experts": "stack in out", "head": "in out"}

    def first(tx):
        return dstjax.get_masks(tx.init(weights))

    if method.start.sparsity != 0 and method.start.by == "random":
        given_masks = first(dstjax.sparsify(optax.sgd(0.1), method, layout=layout))
    else:
        given_masks = None
    tx = {"one": (layout, weights, gradients, given_masks)}
    tx["list"] = (
        "in out",
        apart(weights),
        [apart(g) for g in gradients],
        None if given_masks is None else apart(given_masks),
    )
    seen = {}
    for way, (written, params, grads, masks) in tx.items():
        made = dstjax.sparsify(optax.sgd(0.1, momentum=0.9), method, layout=written, initial_masks=masks)
        params, state = dstjax.start(made, params)
        step = jax.jit(made.update)
        seen[way] = [dstjax.get_masks(state)]
        for g in grads:
            updates, state = step(g, state, params)
            params = optax.apply_updates(params, updates)
            seen[way].append(dstjax.get_masks(state))
    for a, b in zip(seen["one"], seen["list"], strict=True):
        a = apart(a)
        for n in a:
            np.testing.assert_array_equal(a[n], b[n], err_msg=n)


def test_layers_of_a_stack_keep_their_counts():
    """95 % of six layers of 32 x 32: each keeps its number, where one ranking would move it."""
    params = {"kernel": jax.random.normal(jax.random.key(0), (6, 32, 32)) * (1 + jnp.arange(6.0))[:, None, None]}
    tx = dstjax.sparsify(optax.sgd(0.1), METHODS["rigl"].but(sparsity=0.95), layout="stack in out")
    params, state = dstjax.start(tx, params)
    before = dstjax.get_masks(state)["kernel"].sum((1, 2))
    assert sorted({*before.tolist()}) == [51, 52]  # 308 of 6144, dealt evenly
    _, state = tx.update(params, state, params)
    np.testing.assert_array_equal(dstjax.get_masks(state)["kernel"].sum((1, 2)), before)
    np.testing.assert_array_equal(state.targets, before)
    row = dstjax.summary(params, state, layout="stack in out").leaves[0]
    assert (row.layers, row.layout) == (tuple(before.tolist()), "stack in out")
    with pytest.raises(ValueError, match=r"targets of 6 layers.*have 1; expected the layout="):
        dstjax.summary(params, state, layout={"kernel": "window in out"})


def test_a_state_of_another_layout_is_refused():
    params = {"kernel": jnp.ones((6, 8, 8))}
    state = dstjax.sparsify(optax.sgd(0.1), METHODS["rigl"], layout="stack in out").init(params)
    other = dstjax.sparsify(optax.sgd(0.1), METHODS["rigl"], layout="window in out")
    with pytest.raises(ValueError, match=r"targets of 6 layers.*have 1; expected the layout= of init"):
        other.update(params, state, params)

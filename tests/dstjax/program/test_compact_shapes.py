"""Arguments of other shapes than those of the example: the same results, or a refusal that says why."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import export, lax

import dstjax
from dstjax import kernels, methods
from tests.layout_reading import f32
from tests.small_networks import like, normal, relative

PARAMS = like({"a": (6, 8), "ab": (8,), "c": (8, 3), "d": (3,)})
DEAD = {**dict.fromkeys(PARAMS), "a": jnp.ones((6, 8), bool).at[:, :3].set(False)}
AS_MASKED = dstjax.apply_masks(PARAMS, DEAD)


def pooled_by(pool):
    def network(p, x):
        h = pool(jax.nn.sigmoid(x @ p["a"] + p["ab"][None, None])) @ p["c"]
        return h + p["d"].reshape((1,) * (h.ndim - 1) + (3,))

    return network


def test_a_mean_over_a_longer_sequence_has_the_same_constants():
    network = pooled_by(lambda h: h.mean(axis=1))
    smaller, fewer, _ = dstjax.compact(network, PARAMS, DEAD, normal(2, 5, 6))
    assert fewer["a"].shape == (6, 5)
    for shape in ((2, 5, 6), (3, 7, 6), (1, 1, 6)):
        x = normal(*shape)
        assert relative(smaller(fewer, x), network(AS_MASKED, x)) < 1e-6
    x = normal(4, 9, 6)
    found = jax.jit(jax.vmap(jax.grad(lambda q, x: smaller(q, x[None]).sum()), (None, 0)))(fewer, x)
    wanted = jax.vmap(jax.grad(lambda q, x: network(q, x[None]).sum()), (None, 0))(AS_MASKED, x)
    assert relative(found["c"], wanted["c"][:, 3:]) < 1e-6


@pytest.mark.parametrize("pool", [lambda h: h.sum(axis=1), lambda h: h.mean(axis=1) * np.log(h.shape[1])])
def test_constants_that_depend_on_the_shape_are_refused_at_others(pool):
    network = pooled_by(pool)
    smaller, fewer, _ = dstjax.compact(network, PARAMS, DEAD, normal(2, 5, 6))
    x = normal(3, 5, 6)
    assert relative(smaller(fewer, x), network(AS_MASKED, x)) < 1e-6
    with pytest.raises(ValueError, match="other constants than in the example"):
        smaller(fewer, normal(2, 7, 6))


@pytest.mark.parametrize(
    ("network", "short", "long"),
    [
        (lambda p, x: jnp.einsum("bld,l->bd", x, p["w"][: x.shape[1]]) @ p["a"], (1, 4, 6), (1, 7, 6)),
        (lambda p, x: jnp.einsum("bld,l->bd", x, p["w"][-x.shape[1] :]) @ p["a"], (1, 4, 6), (1, 7, 6)),
        (lambda p, x: x @ p["w"][: x.shape[-1], None], (2, 6), (2, 9)),
    ],
)
def test_rows_that_only_longer_arguments_read_are_refused(network, short, long):
    params = {"w": normal(16), "a": normal(6, 2)}
    smaller, fewer, _ = dstjax.compact(network, params, dict.fromkeys(params), normal(*short))
    assert relative(smaller(fewer, normal(*short)), network(params, normal(*short))) < 1e-6
    with pytest.raises(ValueError, match="with arguments of these shapes"):
        smaller(fewer, normal(*long))


@pytest.mark.parametrize("network", [pooled_by(lambda h: h.mean(axis=1)), pooled_by(lambda h: h.sum(axis=0))])
def test_an_example_without_samples_removes_nothing_that_samples_need(network):
    smaller, fewer, _ = dstjax.compact(network, PARAMS, None, f32(0, 5, 6))
    assert jax.tree.map(jnp.shape, fewer) == jax.tree.map(jnp.shape, PARAMS)
    x = normal(2, 5, 6)
    assert relative(smaller(fewer, x), network(PARAMS, x)) < 1e-6


def test_a_loss_of_no_samples_removes_nothing():
    def loss(p, x):
        return ((pooled_by(lambda h: h.mean(axis=1))(p, x)) ** 2).sum()

    assert dstjax.compact(loss, PARAMS, None, f32(0, 5, 6))[1]["a"].shape == (6, 8)


def test_arrays_of_no_size_are_read():
    report = dstjax.compact(lambda p, x: x @ (p["a"] * 2)[:, :0], {"a": PARAMS["a"]}, None, normal(5, 6))[2]
    assert report.parameters[0] == 48

    def decaying(p, x):
        pairs = (jnp.broadcast_to(jax.nn.sigmoid(p["ab"]), (5, 8)), x @ p["a"])
        return lax.associative_scan(lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1]), pairs)[1] @ p["c"]

    params = {name: PARAMS[name] for name in ("a", "ab", "c")}
    masks = {name: DEAD[name] for name in params}
    smaller, fewer, _ = dstjax.compact(decaying, params, masks, normal(5, 6))
    x = normal(5, 6, seed=1)
    assert relative(smaller(fewer, x), decaying(dstjax.apply_masks(params, masks), x)) < 1e-6


def test_shapes_with_symbols_are_refused():
    (b,) = export.symbolic_shape("b")
    mask = {"a": jnp.kron(jnp.eye(2), jnp.ones((3, 4))) == 1}
    params = {"a": PARAMS["a"]}
    for make in (dstjax.compact, lambda *given: kernels.rewrite(*given, product="block")):
        function, new, _ = make(lambda p, x: x @ p["a"], params, mask, normal(2, 6))
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), new)
        with pytest.raises(ValueError, match="export one program for each size"):
            export.export(jax.jit(lambda p, x, f=function: f(p, x)))(shapes, jax.ShapeDtypeStruct((b, 6), jnp.float32))


@pytest.mark.parametrize("fill_value", [0.0, 5.0, None, jnp.nan])
def test_what_stands_for_a_missing_row_reaches_dead_units_too(fill_value):
    def network(p, x):
        h = jax.nn.relu(x @ p["a"])
        return jnp.take(h, jnp.array([0, 1, 9]), axis=1, mode="fill", fill_value=fill_value) @ p["c"]

    params, masks = ({name: tree[name] for name in ("a", "c")} for tree in (PARAMS, DEAD))
    smaller, fewer, _ = dstjax.compact(network, params, masks, f32(2, 5, 6))
    x = normal(2, 5, 6)
    assert fewer["a"].shape == ((6, 8) if fill_value == 5 else (6, 5))
    wanted = network(dstjax.apply_masks(params, masks), x)
    assert jnp.allclose(smaller(fewer, x), wanted, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("operation", ["cumsum", "cumprod", "cumlogsumexp", "cummax"])
def test_what_is_accumulated_over_a_dead_unit(operation):
    def network(p, x):
        return getattr(lax, operation)(jax.nn.relu(x @ p["a"]), axis=1) @ p["c"]

    params, masks = ({name: tree[name] for name in ("a", "c")} for tree in (PARAMS, DEAD))
    smaller, fewer, _ = dstjax.compact(network, params, masks, f32(2, 5, 6))
    x = normal(2, 5, 6)
    assert fewer["a"].shape == ((6, 8) if operation == "cumlogsumexp" else (6, 5))
    assert relative(smaller(fewer, x), network(dstjax.apply_masks(params, masks), x)) < 1e-5


@pytest.mark.parametrize(("dtype", "width"), [(jnp.int32, 8), (jnp.bfloat16, 8), (jnp.float32, 5)])
def test_a_constant_goes_into_a_bias_that_can_hold_it(dtype, width):
    params = {**PARAMS, "d": jnp.arange(3, dtype=dtype)}
    network = pooled_by(lambda h: h.mean(axis=1))
    smaller, fewer, report = dstjax.compact(network, params, DEAD, normal(2, 5, 6))
    assert fewer["a"].shape == (6, width)
    assert ("no bias of its own" in str(report)) == (width == 8)
    x = normal(2, 5, 6)
    assert relative(smaller(fewer, x), network(dstjax.apply_masks(params, DEAD), x)) < 1e-6


def test_keys_may_be_among_the_parameters():
    def network(p, x):
        noise = jax.random.normal(p["key"], (1, 8))
        return jnp.tanh(x @ p["a"] + noise) @ p["c"]

    params = {"a": PARAMS["a"], "c": PARAMS["c"], "key": jax.random.key(0)}
    masks = {"a": None, "c": jnp.ones((8, 3), bool).at[:2].set(False), "key": None}
    _, fewer, report = dstjax.compact(network, params, masks, normal(2, 6))
    assert fewer["a"].shape == (6, 6)
    assert report.expand(fewer, params)["key"] == params["key"]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_masks_of_ones_and_zeros_in_bytes_are_refused(dtype):
    with pytest.raises(ValueError, match=rf"for 'a' is of {np.dtype(dtype)}; expected .* boolean masks"):
        dstjax.compact(lambda p, x: x @ p["a"], {"a": PARAMS["a"]}, {"a": np.ones((6, 8), dtype)}, normal(1, 6))


@pytest.mark.parametrize(
    "inner", [optax.adafactor(0.01, min_dim_size_to_factor=4), optax.sm3(0.1)], ids=["adafactor", "sm3"]
)
def test_a_state_of_sums_over_axes_is_refused(inner):
    params = {"a": PARAMS["a"], "c": PARAMS["c"]}
    masks = {"a": DEAD["a"], "c": jnp.ones((8, 3), bool)}
    method = methods.static(sparsity=dstjax.masks.sparsity(masks))
    opt_state = dstjax.sparsify(inner, method, initial_masks=masks).init(params)
    report = dstjax.compact(lambda p, x: jnp.tanh(x @ p["a"]) @ p["c"], params, opt_state, normal(1, 6))[2]
    with pytest.raises(ValueError, match=r"of shape \(8,\), which is of a leaf of shape \(6, 8\)"):
        report.cut_state(opt_state)


def test_what_is_kept_of_each_channel_is_cut_with_it():
    params = {"a": PARAMS["a"], "c": PARAMS["c"]}
    masks = {"a": DEAD["a"], "c": jnp.ones((8, 3), bool)}
    report = dstjax.compact(lambda p, x: jnp.tanh(x @ p["a"]) @ p["c"], params, masks, normal(1, 6))[2]
    sums = {"a": jnp.arange(8.0)[None], "c": jnp.arange(8.0)[:, None]}
    cut = report.cut_state(sums)
    assert (cut["a"][0].tolist(), cut["c"][:, 0].tolist()) == (list(range(3, 8)), list(range(3, 8)))
    back = report.expand_state(jax.tree.map(lambda x: x + 1, cut), sums)
    assert back["a"][0].tolist() == [0, 1, 2, 4, 5, 6, 7, 8]

"""SIS with our solver: the worked example of the reference (C9), a transcript, and supports that magnitude misses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dstjax.initial_masks import Activations, magnitude, sis
from tests import oracles


def relu(z):
    return np.maximum(z, 0)


def transcript(x, y, w, b, count, activation, fit_bias, iterations, bisections):
    """FISTA within a bisection of the penalty, in float64."""

    def away(w, b):
        z = x @ w + b
        return (np.where(y > 0, z - y, relu(z)) if activation == "relu" else z - y) / len(x)

    rate = len(x) / np.linalg.norm(np.column_stack([x, np.ones(len(x))]) if fit_bias else x, 2) ** 2

    def fista(penalty, w, b):
        ahead_w, ahead_b, t = w, b, 1.0
        for _ in range(iterations):
            e = away(ahead_w, ahead_b)
            u = ahead_w - rate * x.T @ e
            new_w = np.sign(u) * relu(np.abs(u) - rate * penalty)
            new_b = ahead_b - rate * e.sum(0) if fit_bias else b
            new_t = (1 + np.sqrt(1 + 4 * t * t)) / 2
            ahead_w, ahead_b = (new + (t - 1) / new_t * (new - old) for new, old in ((new_w, w), (new_b, b)))
            w, b, t = new_w, new_b, new_t
        return w, b

    high = 2 * np.abs(x.T @ away(np.zeros_like(w), b)).max()
    low, dense = 1e-6 * high, fista(0.0, w, b)
    sparse = np.zeros_like(w), dense[1]
    for _ in range(bisections):
        middle = np.sqrt(low * high)
        new = fista(middle, *dense)
        if np.count_nonzero(new[0]) > count:
            low, dense = middle, new
        else:
            high, sparse = middle, new
    mask = sparse[0] != 0
    mask = mask | oracles.best(np.abs(dense[0]), count - mask.sum(), ~mask)
    return mask, np.where(mask, np.where(sparse[0] != 0, sparse[0], dense[0]), 0), sparse[1]


@pytest.mark.parametrize(("activation", "fit_bias"), [("relu", True), ("linear", False), ("relu", False)])
def test_transcript(activation, fit_bias):
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((30, 6)), rng.standard_normal((6, 4)), rng.standard_normal(4) * fit_bias
    x, w, b = (a.astype(np.float32).astype(np.float64) for a in (x, w, b))
    y = relu(x @ w + b) if activation == "relu" else x @ w + b
    effort = {"iterations": 30, "bisections": 8}
    mask, solved, offset = transcript(x, y, w, b, 8, activation, fit_bias, **effort)
    recorded = (x, y, activation, "bias" if fit_bias else None)
    params = {"bias": jnp.float32(b), "kernel": jnp.float32(w)}
    got = sis({"kernel": recorded}, params, sparsity=2 / 3, **effort)
    np.testing.assert_array_equal(got.masks["kernel"], mask)
    assert got.masks["bias"] is None
    np.testing.assert_allclose(got.params["kernel"], solved, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(got.params["bias"], offset, rtol=1e-3, atol=1e-5)
    assert mask.sum() == 8


def test_a_weight_that_only_keeps_a_relu_shut_is_free():
    """C9: x = 1 asks for z near 0.3, and x = -1 with y = 0 only for z <= 0, which a weight of 0 gives as well as 5."""
    params = {"kernel": jnp.array([[0.3], [5.0]])}
    recorded = Activations(inputs=[[1.0, 0.0], [0.0, -1.0]], outputs=[[0.3], [0.0]])
    got = sis({"kernel": recorded}, params, sparsity=0.5, iterations=200)
    assert got.masks["kernel"].tolist() == [[True], [False]]
    np.testing.assert_allclose(got.params["kernel"], [[0.3], [0.0]], atol=1e-3)


def test_finds_the_sparse_weights_that_magnitude_does_not():
    """The third input is the sum of the others, so 5 a + 5 b - 4 (a + b) is one weight of 1."""
    a, b = np.random.default_rng(1).standard_normal((2, 40))
    x, dense = np.stack([a, b, a + b], axis=1), np.array([[5.0], [5.0], [-4.0]])
    params = {"w": jnp.float32(dense)}
    wanted = {"sparsity": 2 / 3, "distribution": "uniform"}
    got = sis({"w": (x, x @ dense, "linear")}, params, **wanted)
    assert got.masks["w"].tolist() == [[False], [False], [True]]
    np.testing.assert_allclose(got.params["w"], [[0.0], [0.0], [1.0]], atol=0.05)
    assert magnitude(params, **wanted)["w"].tolist() == [[True], [False], [False]]


def test_a_convolution_is_a_matrix_on_patches():
    rng = np.random.default_rng(2)
    kernel = rng.standard_normal((2, 2, 1, 3)).astype(np.float32)
    patches = rng.standard_normal((25, 4)).astype(np.float32)
    recorded = (patches, relu(patches @ kernel.reshape(4, 3)))
    of = lambda w: sis({"w": recorded}, {"w": jnp.asarray(w)}, sparsity=0.5, iterations=20, bisections=5)  # noqa: E731
    four, two = of(kernel), of(kernel.reshape(4, 3))
    np.testing.assert_array_equal(four.masks["w"], two.masks["w"].reshape(2, 2, 1, 3))
    np.testing.assert_array_equal(four.params["w"], two.params["w"].reshape(2, 2, 1, 3))
    assert int(four.masks["w"].sum()) == 6


def test_a_dead_input_is_no_trouble():
    """Without any signal nothing says which weights matter; the largest stay as they are."""
    params = {"w": jnp.array([[1.0, -3.0], [2.0, 0.5]])}
    got = sis({"w": (np.zeros((3, 2)), np.zeros((3, 2)))}, params, sparsity=0.5, iterations=3, bisections=2)
    np.testing.assert_array_equal(got.params["w"], [[0.0, -3.0], [2.0, 0.0]])


def test_weights_keep_dtype_and_place():
    mesh = jax.make_mesh((2,), ("a",), axis_types=(jax.sharding.AxisType.Explicit,))
    where = jax.NamedSharding(mesh, jax.P("a"))
    with jax.set_mesh(mesh):
        params = {"w": jax.device_put(jnp.ones((4, 2), jnp.bfloat16), where)}
        x = np.eye(4, dtype=np.float32)
        got = sis({"w": (x, x @ np.ones((4, 2)), "linear")}, params, sparsity=0.5, iterations=3, bisections=2)
    assert got.params["w"].dtype == jnp.bfloat16
    for leaf in (got.params["w"], got.masks["w"]):
        assert leaf.sharding.is_equivalent_to(where, 2)


X, Y = np.ones((5, 2)), np.ones((5, 3))
NAN = np.full((5, 3), np.nan)


@pytest.mark.parametrize(
    ("recorded", "message"),
    [
        ({}, r"given for \[\], and masked are \['w'\]"),
        ({"w": (X, Y), "b": (X, Y)}, r"given for \['b', 'w'\]"),
        ({"w": (X,)}, "expected \\(inputs, outputs"),
        ({"w": (X, Y, "relu", None, 3)}, "expected \\(inputs, outputs"),
        ({"w": (X, Y, "gelu")}, "activation of 'w'='gelu' is not known"),
        ({"w": (X.T, Y)}, r"shapes \(2, 5\) and \(5, 3\).*\(k, 2\) and \(k, 3\)"),
        ({"w": (X[:4], Y)}, "with the same k"),
        ({"w": (X[:0], Y[:0])}, "k >= 1"),
        ({"w": (X, NAN)}, "not all finite"),
        ({"w": (X, -Y)}, "reach down to -1.0.*'linear'"),
        ({"w": (X, Y, "relu", "w")}, r"bias='w' of 'w' is no leaf of shape \(3,\)"),
        ({"w": (X, Y, "relu", "bias")}, "bias='bias' of 'w' is no leaf"),
    ],
)
def test_refuses_activations_that_do_not_fit(recorded, message):
    with pytest.raises(ValueError, match=message):
        sis(recorded, {"b": jnp.ones(3), "w": jnp.ones((2, 3))}, sparsity=0.5)


@pytest.mark.parametrize("name", ["iterations", "bisections"])
def test_refuses_no_effort(name):
    with pytest.raises(ValueError, match=f"{name}=0 is not accepted"):
        sis({"w": (X, Y)}, {"w": jnp.ones((2, 3))}, sparsity=0.5, **{name: 0})

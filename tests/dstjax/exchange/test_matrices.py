"""Sparse matrices of scipy against the products that they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import exchange, methods
from tests import trees


def sparse(params, layout=None, **changes):
    method = methods.static(**{"sparsity": 0.5, "distribution": "uniform", **changes})
    params, state = dstjax.start(dstjax.sparsify(optax.sgd(0.1), method, layout=layout), params)
    return jax.device_get(params), state


def normal(*shape, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), dtype)


@pytest.mark.parametrize(
    ("layout", "shape", "product"),
    [
        ("in out", (6, 4), lambda w, x: x.reshape(-1) @ w),
        ("out in", (4, 6), lambda w, x: w @ x.reshape(-1)),
        ("in out out", (6, 2, 2), lambda w, x: np.einsum("i,iab->ab", x.reshape(-1), w).reshape(-1)),
        ("out in in", (4, 2, 3), lambda w, x: np.einsum("ab,oab->o", x.reshape(2, 3), w)),
    ],
)
def test_a_matrix_times_a_sample_is_the_layer(layout, shape, product):
    params, state = sparse({"w": normal(*shape)}, layout)
    matrices = exchange.to_scipy(params, state, layout=layout)
    assert matrices["w"].shape == (4, 6)
    assert matrices["w"].nnz == 12
    x = np.arange(1.0, 7.0, dtype=np.float32)
    np.testing.assert_allclose(matrices["w"] @ x, product(params["w"], x), rtol=1e-5)
    found, masks = exchange.from_scipy({"w": matrices["w"].tocsc()}, params, layout=layout)
    trees.assert_same(found, params)
    np.testing.assert_array_equal(masks["w"], dstjax.get_masks(state)["w"])


def test_the_columns_of_a_convolution():
    """(3 i + j) C + c, whether it is stored as in Flax or as in PyTorch."""
    kernel = normal(3, 3, 2, 4)
    params, state = sparse({"Conv_0": {"kernel": kernel}})
    matrix = exchange.to_scipy(params, state)["Conv_0/kernel"].toarray()
    for i, j, c, o in np.ndindex(3, 3, 2, 4):
        assert matrix[o, (3 * i + j) * 2 + c] == params["Conv_0"]["kernel"][i, j, c, o]
    turned = jax.tree.map(lambda x: np.transpose(x, (3, 2, 0, 1)), (params, jax.device_get(dstjax.get_masks(state))))
    layout = "out in window window"
    np.testing.assert_array_equal(exchange.to_scipy(*turned, layout=layout)["Conv_0/kernel"].toarray(), matrix)


def test_layers_of_a_stack_and_weights_that_are_zero():
    params, state = sparse({"w": normal(2, 3, 4), "b": normal(3)}, "stack in out")
    mask = np.asarray(dstjax.get_masks(state)["w"])
    params["w"] = np.array(params["w"])
    params["w"][tuple(np.argwhere(mask)[0])] = 0.0  # grown, and has not moved
    matrices = exchange.to_scipy(params, state, layout="stack in out")
    assert {n: m.shape for n, m in matrices.items()} == {"w[0]": (4, 3), "w[1]": (4, 3)}
    assert [m.nnz for m in matrices.values()] == [6, 6]
    np.testing.assert_array_equal(matrices["w[1]"].toarray(), params["w"][1].T)
    found, masks = exchange.from_scipy(matrices, params, layout="stack in out")
    trees.assert_same(found, params)
    assert masks["b"] is None
    np.testing.assert_array_equal(masks["w"], mask)
    with pytest.raises(ValueError, match=r"the matrices lack \['w\[1\]'\]; expected one for each layer of leaf 'w'"):
        exchange.from_scipy({"w[0]": matrices["w[0]"]}, params, layout="stack in out")


def test_what_is_no_matrix():
    params, state = sparse({"w": normal(4, 4, dtype=jnp.bfloat16)})
    with pytest.raises(ValueError, match=r"leaf 'w' has dtype bfloat16, of which scipy\.sparse has no matrices; cast"):
        exchange.to_scipy(params, state)
    params, state = sparse({"x": normal(2, 4, 4)}, maskable=lambda path, leaf: True)
    with pytest.raises(ValueError, match=r"the meaning of the axes of leaf 'x' of shape \(2, 4, 4\) is not known"):
        exchange.to_scipy(params, state)
    params, state = sparse({"w": normal(4, 6)})
    matrices = exchange.to_scipy(params, state)
    with pytest.raises(ValueError, match=r"leaf 'w' of the matrices has shape \(4, 6\) .* expected \(6, 4\)"):
        exchange.from_scipy({"w": matrices["w"].T.tocsr()}, {"w": normal(6, 4).T}, layout="in out")
    with pytest.raises(ValueError, match=r"of the matrices has .* dtype float64; expected .* float32"):
        exchange.from_scipy({"w": matrices["w"].astype(np.float64)}, params)
    with pytest.raises(ValueError, match=r"the matrices \['v'\] belong to no leaf; expected some of \['w'\]"):
        exchange.from_scipy({"v": matrices["w"]}, params)
    with pytest.raises(ValueError, match="'w' is a ndarray; expected a sparse matrix of scipy"):
        exchange.from_scipy({"w": matrices["w"].toarray()}, params)
    with pytest.raises(ValueError, match="outside its mask"):
        exchange.to_scipy({"w": normal(4, 6)}, state)

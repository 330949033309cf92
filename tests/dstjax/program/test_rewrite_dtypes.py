"""Rewritten programs in dtypes of all kinds, with no rows, and states that cannot be packed."""

import jax
import jax.numpy as jnp
import optax
import pytest

import dstjax
from dstjax import kernels
from tests.small_networks import normal, relative


@pytest.mark.parametrize("product", ["block", "fan_in", "csr"])
def test_sums_in_a_wider_dtype_than_that_of_the_operands(product):
    mask = {"w": jnp.kron(normal(16, 16) > 1, jnp.ones((4, 4))) == 1}
    params, x = {"w": normal(64, 64).astype(jnp.bfloat16)}, normal(5, 64).astype(jnp.bfloat16)

    def network(p, x):
        return jnp.dot(x, p["w"], preferred_element_type=jnp.float32)

    if product == "csr":
        params, x = jax.tree.map(lambda a: a.astype(jnp.float32), params), jnp.arange(320).reshape(5, 64)
    fast, packed, report = kernels.rewrite(network, params, mask, x, product=product)
    assert report.chosen == {"w": product}
    assert relative(fast(packed, x), network(dstjax.apply_masks(params, mask), x)) < 1e-6


@pytest.mark.parametrize("dtype", [jnp.complex64, jnp.int8, jnp.bool_, jnp.bfloat16])
def test_csr_takes_data_of_any_dtype(dtype):
    params, mask = {"w": normal(8, 8)}, {"w": jnp.eye(8) == 1}
    x = (normal(2, 8) * 3).astype(dtype)
    fast, packed, _ = kernels.rewrite(lambda p, x: x @ p["w"], params, mask, x, product="csr")
    wanted = x @ dstjax.apply_masks(params, mask)["w"]
    assert fast(packed, x).dtype == wanted.dtype
    assert jnp.allclose(fast(packed, x), wanted, rtol=1e-6)


# Not csr of float64: jax calls scipy in a thread of its own, which the context of 64 bits does not reach.
@pytest.mark.parametrize(
    ("product", "dtype"),
    [(p, d) for p in ("block", "fan_in", "n_m", "pallas") for d in (jnp.float64, jnp.complex64)]
    + [("csr", jnp.complex64)],
)
def test_sums_are_as_fine_as_what_is_summed(product, dtype):
    with jax.enable_x64(True):
        real = jnp.float64 if dtype == jnp.float64 else jnp.float32
        params, mask = {"w": normal(64, 64).astype(real)}, {"w": jnp.kron(jnp.eye(16), jnp.ones((4, 4))) == 1}
        if product == "n_m":
            mask = {"w": jnp.broadcast_to(jnp.arange(64)[:, None] % 4 < 2, (64, 64))}
        x = normal(5, 64).astype(dtype) * (1 if dtype == real else 1 + 2j)
        fast, packed, _ = kernels.rewrite(lambda p, x: x @ p["w"], params, mask, x, product=product)
        wanted = x @ dstjax.apply_masks(params, mask)["w"]
        assert fast(packed, x).dtype == wanted.dtype
        assert jnp.abs(fast(packed, x) - wanted).max() < 50 * jnp.finfo(real).eps
        if product != "csr":
            slopes = jax.grad(lambda p: jnp.abs(fast(p, x)).sum())(packed)
            of_dense = jax.grad(lambda w: jnp.abs(x @ w).sum())(dstjax.apply_masks(params, mask)["w"])
            assert relative(fast.unpack(slopes), {"w": of_dense * mask["w"]}) < 50 * jnp.finfo(real).eps


def test_mixed_precision_is_compared_as_finely_as_it_computes():
    params = {name: normal(256, 256, seed=i) / 5 for i, name in enumerate("ab")}
    masks = {name: normal(256, 256, seed=i + 2) > 1.2 for i, name in enumerate("ab")}

    def network(p, x):
        a, b = (p[name].astype(jnp.bfloat16) for name in "ab")
        return (jax.nn.gelu(x.astype(jnp.bfloat16) @ a) @ b).astype(jnp.float32)

    report = kernels.rewrite(network, params, masks, normal(16, 256), product="fan_in")[2]
    assert report.chosen == {"a": "fan_in", "b": "fan_in"}


@pytest.mark.parametrize("product", ["block", "fan_in", "csr", "pallas"])
def test_a_batch_of_no_samples(product):
    params, mask = {"w": jnp.ones((8, 8))}, {"w": jnp.kron(jnp.eye(2), jnp.ones((4, 4))) == 1}
    fast, packed, _ = kernels.rewrite(lambda p, x: x @ p["w"], params, mask, jnp.ones((1, 8)), product=product)
    assert fast(packed, jnp.ones((0, 8))).shape == (0, 8)
    if product != "csr":
        gradient = jax.grad(lambda p: fast(p, jnp.ones((0, 8))).sum())(packed)
        assert not jnp.any(gradient["w"])


def test_a_state_of_sums_over_axes_cannot_be_packed():
    params, mask = {"w": normal(8, 8)}, {"w": jnp.kron(jnp.eye(2), jnp.ones((4, 4))) == 1}
    fast, _, _ = kernels.rewrite(lambda p, x: x @ p["w"], params, mask, jnp.ones((1, 8)), product="block")
    with pytest.raises(ValueError, match=r"of shape \(8,\), which is of a leaf of shape \(8, 8\)"):
        fast.pack_state(optax.adafactor(0.01, min_dim_size_to_factor=4).init(params))

"""What programs are made of differs by platform; masks and weights do not, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import criteria
from dstjax._arrays import counting
from dstjax._arrays.bits import pack, unpack
from tests import oracles
from tests.thorough import slow
from tests.trees import leaf_of

pytestmark = pytest.mark.usefixtures("one_device")

SHAPES = dict(
    big=(48, 40), stack=(3, 16, 16), window=(3, 3, 8, 8), **{f"small{i}": (8 + i, 9) for i in range(7)}, odd=(5, 13)
)
LAYOUT = {"stack": "stack in out", "window": "window window in out", "": "in out"}


def trained(method, platform):
    """Three mask updates, with ties among weights and among gradients."""
    jax.clear_caches()
    options = {} if method == "srigl" else {"drop_schedule": "constant"}
    tx = dstjax.sparsify(
        optax.sgd(0.1, momentum=0.9),
        dstjax.methods.get(method, sparsity=0.7, update_period=2, end_step=9, **options),
        layout=LAYOUT,
    )
    rng = np.random.default_rng(0)
    draw = lambda: {n: np.float32(rng.integers(-9, 10, s) / 8) for n, s in SHAPES.items()}  # noqa: E731

    @jax.jit
    def step(grads, state, params):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, state = jax.jit(lambda params: dstjax.start(tx, params))(draw())
    for _ in range(7):
        params, state = step(draw(), state, params)
    return jax.device_get((params, jax.jit(dstjax.get_masks)(state)))


@pytest.mark.parametrize("method", ["set", *map(slow, ("rigl", "dst_ee", "srigl", "snfs", "mest", "rigl_itop"))])
def test_a_method_does_the_same_as_on_each_platform(method, monkeypatch):
    monkeypatch.setattr(counting, "SMALL", 600)
    found = []
    for platform in ("cpu", "gpu", "tpu"):
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        found.append(trained(method, platform))
    jax.clear_caches()
    for other in found[1:]:
        jax.tree.map(np.testing.assert_array_equal, found[0], other)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float4_e2m1fn"])
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_set_drops_of_each_sign_in_every_dtype(dtype, platform, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    jax.clear_caches()
    rng = np.random.default_rng(2)
    mask = rng.random((12, 20)) < 0.6
    weight = jnp.asarray(rng.integers(-8, 9, mask.shape) / 2 * mask, jnp.float32).astype(dtype)
    values = np.asarray(weight.astype(jnp.float32))
    for budget in (0, 3, 40, int(mask.sum())):  # zeros alone, some of each sign, all
        leaf = leaf_of(weight, weight, mask, budget)
        kept = criteria.set_fraction.choose([leaf])[0]
        np.testing.assert_array_equal(kept, oracles.keep_after_set(values, mask, budget, fraction=True))
    jax.clear_caches()


@pytest.mark.parametrize("shape", [(16, 5), (3, 24, 7), (5, 13), (9,), (2, 3, 8, 1)])
def test_bits_are_packed_alike_as_on_each_platform(shape, monkeypatch):
    mask = jnp.asarray(np.random.default_rng(1).random(shape) < 0.4)
    stored = pack(mask)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    again = pack(mask)
    assert again.dtype == stored.dtype
    np.testing.assert_array_equal(again, stored)
    np.testing.assert_array_equal(unpack(again), mask)

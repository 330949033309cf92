"""What dstjax.kernels.rewrite and its functions refuse: masks, blocks and parameters that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dstjax import kernels
from tests.dstjax.program.test_rewrite import einsum, mask_of
from tests.small_networks import normal


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(product="sparse"), "product='sparse' is not accepted; expected one of auto, block"),
        (dict(product={"v": "block"}), "product: 'v' is no leaf"),
        (dict(product={"w": "fast"}), r"product\['w'\]='fast' is not accepted"),
        (dict(product=3), "product=3 is not accepted"),
        (dict(masks=None), "masks=None is not accepted"),
        (dict(masks={"w": jnp.ones((3, 3), bool)}), "the mask of 'w' has shape"),
        (dict(product="block", block=(3, 2)), "cannot be cut into blocks of 3 x 2"),
        (dict(product="block", block=(8, 4)), "blocks of 8 x 4 that are active in part"),
        (dict(product="n_m"), "fits no masked leaf: w the mask has not n active weights"),
        (dict(derivative=1), "derivative=1 is not accepted"),
    ],
)
def test_bad_input(change, message):
    given = dict(masks=mask_of((8, 12), "in out")) | change
    masks = given.pop("masks")
    with pytest.raises(ValueError, match=message):
        kernels.rewrite(einsum, {"w": normal(8, 12)}, masks, normal(5, 8), **given)


def test_packed_parameters_of_another_topology_are_refused():
    masks, params, x = mask_of((8, 12), "in out"), {"w": normal(8, 12)}, normal(5, 8)
    fast, packed, _ = kernels.rewrite(einsum, params, masks, x, product="block", block=(4, 2))
    with pytest.raises(ValueError, match=r"leaf 'w' of the packed parameters has shape \(8, 12\); expected \(24, 2\)"):
        fast(params, x)
    with pytest.raises(ValueError, match="active in part"):
        fast.moved({"w": masks["w"].at[0, 0].set(~masks["w"][0, 0])})
    denser = fast.moved({"w": jnp.ones((8, 12), bool)})
    with pytest.raises(ValueError, match=r"expected \(48, 2\)"):
        denser(packed, x)


def test_masks_that_are_no_longer_n_m_are_refused():
    params, x = {"w": normal(8, 6)}, normal(5, 8)

    def of(*active):
        return {"w": jnp.zeros((8, 6), bool).at[jnp.array(active)].set(True)}

    fast = kernels.rewrite(einsum, params, of(0, 1, 4, 5), x, product="n_m")[0]
    moved = fast.moved(of(0, 3, 5, 6))
    expected = einsum({"w": params["w"] * of(0, 3, 5, 6)["w"]}, x)
    np.testing.assert_allclose(moved(moved.pack(params), x), expected, rtol=1e-5, atol=1e-6)
    for other, least, most in ((of(0, 1, 2, 4), 1, 3), (of(0, 4), 1, 1), (of(0, 1, 2, 4, 5, 6), 3, 3)):
        with pytest.raises(ValueError, match=f"has {least} to {most} active weights in every 4 inputs; expected 2"):
            fast.moved(other)


def test_parameters_that_are_packed_twice_or_not_at_all_are_refused():
    params = {"a": jnp.arange(64.0).reshape(8, 8), "c": jnp.ones((8, 2))}
    fast, packed, _ = kernels.rewrite(
        lambda p, x: jax.nn.relu(x @ p["a"]) @ p["c"],
        params,
        {"a": jnp.ones((8, 8), bool), "c": None},
        jnp.ones((1, 8)),
        product="block",
        block=(4, 4),
    )
    np.testing.assert_array_equal(fast.unpack(fast.pack(params))["a"], params["a"])
    for call, given, said in (
        (fast.unpack, params, r"leaf 'a' of the packed parameters has shape \(8, 8\); expected \(16, 4\)"),
        (fast.unpack, {**packed, "a": jnp.ones((3, 3))}, r"shape \(3, 3\); expected \(16, 4\)"),
        (fast.pack, packed, r"leaf 'a' of the parameters has shape \(16, 4\); expected \(8, 8\)"),
        (fast.pack, {"a": params["a"]}, r"leaf 'c' of the parameters has shape None"),
        (fast.pack, {**params, "d": jnp.ones(1)}, "have leaves that this function has not: d"),
        (fast.moved, None, "there are no masks of a"),
        (fast.moved, {"a": None, "c": None}, "there are no masks of a"),
    ):
        with pytest.raises(ValueError, match=said):
            call(given)


@pytest.mark.parametrize("block", [(0, 1), (2,), (2, 4, 1), 2, "ab", (2.0, 4), (-2, 4)])
def test_a_block_is_two_sizes(block):
    with pytest.raises(ValueError, match=r"block=.* is not accepted"):
        kernels.rewrite(lambda p, x: x @ p["w"], {"w": jnp.ones((8, 8))}, {"w": jnp.ones((8, 8), bool)}, block=block)

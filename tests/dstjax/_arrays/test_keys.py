"""The key of a seed against that of jax.random.key, which drops half of it without 64 bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dstjax._arrays import keys

SEEDS = [0, 7, 2**31, 2**32 - 1, 2**32, 2**32 + 7, 2**62, -1, -5, -(2**63), 2**63 - 1]


def test_seeds_of_64_bits_are_those_of_jax_and_all_different():
    found = [tuple(np.asarray(keys.of_seed(seed)).tolist()) for seed in SEEDS]
    assert len({*found}) == len(SEEDS)
    with jax.enable_x64(True):
        wanted = [jax.random.key_data(jax.random.key(seed, impl="threefry2x32")).tolist() for seed in SEEDS]
    assert [*map(list, found)] == wanted


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32", "int64", "uint64"])
def test_a_traced_seed_has_the_key_of_its_number(dtype):
    with jax.enable_x64("64" in dtype):
        for seed in (5, np.iinfo(dtype).max, np.iinfo(dtype).min):
            traced = jax.jit(keys.of_seed)(jnp.asarray(seed, dtype))
            bits = int(seed) - 2**64 * (int(seed) >= 2**63)  # the same 64 bits
            np.testing.assert_array_equal(traced, keys.of_seed(bits))

"""A mask in each form that a state may have it in, from and to each other form."""

import itertools

import jax
import numpy as np
import optax
import pytest

import dstjax
from experiments.training.stored_masks import same, stored_like

FORMS = [
    ((16, 10), {"bool": (16, 10), "uint8": (2, 10), "int8": (16, 2, 1, 1)}),
    ((3, 24, 11), {"bool": (3, 24, 11), "uint8": (3, 3, 11), "int8": (3, 24, 2, 1, 1, 1)}),
    ((8, 16), {"bool": (8, 16), "uint8": (1, 16), "int8": (8, 2)}),
]


@pytest.mark.parametrize(("shape", "forms"), FORMS)
def test_every_form_becomes_every_other(shape, forms):
    flags = np.random.default_rng(0).random(shape) < 0.3
    stored = {dtype: stored_like(flags, np.zeros(forms[dtype], dtype)) for dtype in forms}
    for one, other in itertools.permutations(forms, 2):
        np.testing.assert_array_equal(dstjax.masks.unpack(stored[one]), flags)
        assert same([forms[one], one], [forms[other], other])
        np.testing.assert_array_equal(stored_like(stored[one], stored[other]), stored[other])


def test_it_is_the_form_of_the_library():
    params = {"a": jax.numpy.ones((16, 10)), "b": jax.numpy.ones((3, 20))}
    state = dstjax.sparsify(optax.sgd(0.1), dstjax.methods.static(sparsity=0.5)).init(params)
    for stored in jax.tree.leaves(state.masks):
        assert stored.dtype in (np.uint8, np.int8)
        again = stored_like(np.asarray(dstjax.masks.unpack(stored)), np.asarray(stored))
        np.testing.assert_array_equal(again, stored)


@pytest.mark.parametrize(
    "pair",
    [
        ([(2, 10), "uint8"], [(2, 10), "uint8"]),  # the same form
        ([(3, 10), "uint8"], [(16, 10), "bool"]),
        ([(2,), "uint8"], [(16,), "bool"]),
        ([(16, 10), "float32"], [(16, 10), "bool"]),
    ],
)
def test_what_is_no_mask_in_another_form(pair):
    assert not same(*pair)

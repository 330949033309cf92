"""Parameter trees that hold one of everything, and gradients for them."""

import jax
import jax.numpy as jnp
import numpy as np

import dstjax
from dstjax.rules import Leaf

# Paths of what is masked by default (real leaves of two or more dimensions) and what stays dense.
MASKED = ("conv/kernel", "dense/kernel", "list/0")
DENSE = ("conv/bias", "dense/bias", "list/1", "scale")
SHAPES = {
    "conv/bias": (4,),
    "conv/kernel": (3, 3, 2, 4),
    "dense/bias": (5,),
    "dense/kernel": (6, 5),
    "list/0": (5, 4),
    "list/1": (4,),
    "scale": (),
}


# The worked example of the reference: weights, dense gradient, mask and how many to drop. The default for criteria.
CANONICAL = ([[0.5, -0.1, 0], [0, 0.3, -0.8]], [[0.1, 0.4, -0.9], [0.2, -0.05, 0.3]], [[1, 1, 0], [0, 1, 1]], 2)


def leaf_of(w, g, mask, budget, **others):
    """One leaf as a criterion sees it."""
    w = jnp.asarray(w)
    fields = dict(counter=None, step=jnp.int32(1), key=jax.random.key(0)) | others
    return Leaf(w, jnp.asarray(g, w.dtype), jnp.asarray(mask, bool), budget=jnp.int32(budget), **fields)


def everything(dtype=jnp.float32, seed: int = 0):
    """A kernel, a bias, a scalar, a 4-d kernel, a list and a None; no entry is zero."""
    rng = np.random.default_rng(seed)

    def leaf(name):
        x = rng.uniform(0.1, 1.0, SHAPES[name]) * rng.choice([-1.0, 1.0], SHAPES[name])
        return jnp.asarray(x, dtype)

    return {
        "conv": {"bias": leaf("conv/bias"), "kernel": leaf("conv/kernel")},
        "dense": {"bias": leaf("dense/bias"), "kernel": leaf("dense/kernel")},
        "list": [leaf("list/0"), leaf("list/1")],
        "nothing": None,
        "scale": leaf("scale"),
    }


def few():
    """The same without the list: for what a third masked leaf would only make longer to compile."""
    return {name: leaf for name, leaf in everything().items() if name != "list"}


def like(tree, seed: int):
    """A tree of standard normal numbers: gradients, or the aims of a quadratic loss."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), tree)


def names(tree):
    """Leaves by path, as in ``dense/kernel``; None is no leaf."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def masked_leaves(tree, state):
    """Pairs of (leaf, mask) of the masked leaves."""
    masks = names(dstjax.get_masks(state))
    leaves = names(tree)
    return [(np.asarray(leaves[n]), np.asarray(m)) for n, m in masks.items()]


def assert_same(a, b):
    """Two trees of one structure, types and values."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert jnp.result_type(x) == jnp.result_type(y)
        np.testing.assert_array_equal(x, y)

"""What the compiled programs contain: no sort anywhere, no branch in a plain step, no floating point in the counts."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods, selection
from tests import trees
from tests.thorough import slow

pytestmark = pytest.mark.optimised
MOVING = dict(sparsity=0.7, update_period=3, end_step=10, drop_fraction=0.5)
QUICK = ["set", "dst_ee"]  # random growth, and growth by gradient and counters
OTHERS = ["rigl", "rigl_itop", "mest"]
METHODS = [*QUICK, *map(slow, OTHERS)]
TRACK = ("exploration", "survival", "error")


def operations(text):
    """Names of the HLO operations of a compiled program, inside fusions and loops too."""
    return set(re.findall(r"^\s*(?:ROOT )?%?[\w.\-]+ = .*? ([a-z][\w\-]*)\(", text, flags=re.MULTILINE))


@functools.cache
def compiled(name, rewire, **changes):
    tx = dstjax.sparsify(optax.adamw(0.1), methods.get(name, **MOVING, **changes), track=TRACK)
    params = trees.everything()

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params, rewire=rewire)
        return optax.apply_updates(params, updates), state

    return operations(jax.jit(step).lower(params, tx.init(params), params).compile().as_text())


def test_operations_reads_compiled_text():
    """The checks below must be able to fail."""
    x = jnp.arange(8.0)
    assert "sort" in operations(jax.jit(jnp.sort).lower(x).compile().as_text())
    branch = jax.jit(lambda p, x: jax.lax.cond(p, jnp.sin, lambda x: jnp.cumsum(jnp.sin(x)), x))
    assert "conditional" in operations(branch.lower(True, x).compile().as_text())
    chosen = jax.jit(lambda x: jax.lax.top_k(x, 2)).lower(x).compile().as_text()
    assert operations(chosen) & {"sort", "topk", "custom-call"}


SORTING = {"sort", "topk", "custom-call", "scatter"}


@pytest.mark.parametrize("order", ["skip", "update_then_step"])
@pytest.mark.parametrize("name", METHODS)
def test_a_plain_step_has_no_branch_and_no_loop(name, order):
    found = compiled(name, False, update_order=order)
    assert not found & {"conditional", "while", "call", *SORTING}
    assert {"add", "multiply"} <= found or "fusion" in found


@pytest.mark.parametrize(
    ("name", "rewire"),
    [("set", None), ("dst_ee", True), slow("set", True), slow("dst_ee", None)]
    + [slow(name, rewire) for name in OTHERS for rewire in (None, True)],
)
def test_no_program_sorts(name, rewire):
    found = compiled(name, rewire)
    assert not found & SORTING
    assert "while" in found  # the search for thresholds
    assert "conditional" in found or rewire


def test_init_does_not_sort():
    tx = dstjax.sparsify(optax.adam(0.1), methods.dst_ee(**MOVING), track=TRACK)
    found = operations(jax.jit(tx.init).lower(trees.everything()).compile().as_text())
    assert not found & SORTING


def test_selection_does_not_sort():
    scores = [jnp.zeros((6, 5)), jnp.zeros((3, 3, 2, 4), jnp.bfloat16), jnp.zeros(7, jnp.int8), jnp.zeros(7, jnp.int32)]
    for together in (False, True):
        ks = [3] if together else [3, 4, 5, 2]
        scores = scores[:3] if together else scores  # int32 and float32 have no common order that is exact
        pick = jax.jit(lambda s, ks=ks, together=together: selection.top_k_masks(s, ks, together=together))
        assert not operations(pick.lower(scores).compile().as_text()) & SORTING


@pytest.mark.parametrize("name", ["static", "dense"])
def test_a_fixed_topology_has_no_branch_at_all(name):
    method = methods.get(name, **({} if name == "dense" else {"sparsity": 0.7}))
    tx = dstjax.sparsify(optax.adamw(0.1), method)
    params = trees.everything()
    step = jax.jit(lambda p, s: tx.update(p, s, p))
    found = operations(step.lower(params, tx.init(params)).compile().as_text())
    assert not found & {"conditional", "while", *SORTING}


def test_a_plain_step_is_hardly_larger_than_without_sparsity():
    """Masking is a few selects: no more operations than six for each leaf, whatever the method."""

    def count(tx, **kwargs):
        params = trees.everything()
        text = str(jax.make_jaxpr(lambda p, s: tx.update(p, s, p, **kwargs))(params, tx.init(params)))
        return len(re.findall(r" = \w", text))

    plain = count(optax.adam(0.1))
    sparse = count(dstjax.sparsify(optax.adam(0.1), methods.dst_ee(**MOVING)), rewire=False)
    assert sparse - plain < 20 * len(trees.MASKED)


def test_numbers_in_a_large_leaf_are_exact():
    """3 of 2**24 + 8 weights: a count in float32 would lose them."""
    size = 2**24 + 8
    params = {"w": jnp.zeros((8, size // 8), jnp.bfloat16)}
    tx = dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=3 / 2**22, distribution="uniform"))
    active = int(dstjax.get_masks(tx.init(params))["w"].sum(dtype=jnp.int32))
    assert active == size - int(np.floor(3 / 2**22 * size))

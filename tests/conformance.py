"""The table of all methods, and how a user would run any of them: for the conformance battery.

Every method goes through the core properties. What multiplies them by programs, optimisers, dtypes or orders runs for
one representative of each kind of method in ``make test``, and for all in ``make slow``.
"""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods
from tests import trees

STEPS = 11
ORDERS = ["skip", "step_then_update", "update_then_step"]
MASKED = dict(sparsity=0.7)
TIMED = dict(**MASKED, update_period=3, start_step=3, end_step=10)
MOVING = dict(**TIMED, drop_fraction=0.5, drop_schedule="constant")
# The default is 2:4, which the inputs of the tree below are too few for; 'list/0' has an odd number of them.
GROUPS = dict(n=1, m=2, maskable=lambda path, leaf: len(leaf.shape) > 1 and leaf.shape[-2] % 2 == 0)


class Entry(NamedTuple):
    """A method, the checks that it is excused from, by name, each with the reason, and the kind that it stands for."""

    hyperparameters: dict[str, Any]
    excused: Mapping[str, str] = MappingProxyType({})
    represents: str = ""


DENSE_START = {"masks differ by seed": "it starts from all weights"}
BY_WEIGHTS = {"masks differ by seed": "the initial weights choose the mask"}
GIVEN = {"masks differ by seed": "the caller gives the mask"}
NOISY = {"rounding": "its random walk decides what is active by the sign of numbers near zero"}
READS = {"from shapes": "what it remembers is made from the weights"}
READS_WEIGHTS = {"from shapes": "the mask is chosen by the weights"}

METHODS = {
    "dense": Entry({}, {"masks differ by seed": "it has none", "donation": "it is the optimiser itself"}),
    "static": Entry(MASKED, represents="masks that stay"),
    "magnitude": Entry(MASKED, {**BY_WEIGHTS, **READS_WEIGHTS}),
    **dict.fromkeys(("snip", "grasp", "synflow", "iterative_snip", "force"), Entry(MASKED, GIVEN)),
    "gmp": Entry(TIMED, DENSE_START),
    "one_shot": Entry(dict(**MASKED, prune_step=4), DENSE_START),
    "str": Entry(dict(**MASKED, s_init=-2.0, end_step=9), {**DENSE_START, **READS}),
    "sis": Entry(dict(**MASKED, prune_step=4), {**DENSE_START, "counts": "the training loop sets the masks"}),
    "granet": Entry(dict(MOVING, initial_sparsity=0.5)),
    "gap": Entry(TIMED),
    "dpf": Entry(TIMED, DENSE_START),
    "dcil": Entry(TIMED, DENSE_START, "dense weights behind the masks"),
    "admm": Entry(TIMED, {**DENSE_START, **READS}),
    "set": Entry(MOVING, represents="random growth"),
    "rigl": Entry(MOVING),
    "rigl_itop": Entry(MOVING),
    "mest": Entry(MOVING),
    "dst_ee": Entry({**MOVING, "coefficient": 0.1}, represents="growth by gradient and counters"),
    "snfs": Entry(MOVING, READS, "memory of each weight; budgets that move between leaves"),
    "balanced_momentum": Entry(dict(MOVING, window=2), READS),
    "dsr": Entry(dict(**TIMED, threshold=0.2)),
    "deepr": Entry(dict(**MASKED, noise=0.1), {**READS, **NOISY}),
    "soft_deepr": Entry(dict(**MASKED, noise=0.3, l1=1e-3), {**READS, **NOISY}),
    "top_kast": Entry(TIMED, {**BY_WEIGHTS, **READS_WEIGHTS}),
    "accset": Entry(MOVING),
    "lset": Entry(MOVING, represents="what it measures decides"),
    "dynset": Entry(dict(**MOVING, performance="accuracy")),
    "iee": Entry(
        dict(**MASKED, update_period=4, stages=(2, 1, 1), end_step=10, drop_fraction=0.5, drop_schedule="constant"),
        represents="steps of several stages",
    ),
    "asp": Entry(dict(**GROUPS, prune_step=4), DENSE_START),
    "ste": Entry(GROUPS, {**BY_WEIGHTS, **READS_WEIGHTS}),
    "sr_ste": Entry(GROUPS, {**BY_WEIGHTS, **READS_WEIGHTS}),
    "srigl": Entry(MOVING),
}
KINDS = [name for name, entry in METHODS.items() if entry.represents]
# Of these every scheduled update changes the masks.
REWIRING = ["set", "rigl", "rigl_itop", "mest", "dst_ee", "snfs", "srigl"]
ORDERED = [name for name in METHODS if "update_order" in methods.hyperparameters(name)]


def every():
    """Parameters: all methods. The programs of one are those that a user would run, whose rounding is XLA's own."""
    return [pytest.param(name, marks=pytest.mark.optimised if name == "dst_ee" else ()) for name in METHODS]


def by_kind(check=None, *, quick=KINDS):
    """The methods that are not excused from the check; slow ones, and as a user would run them, but for ``quick``."""
    thorough = (pytest.mark.slow, pytest.mark.optimised)
    names = [p for p in every() if not excused(*p.values, check)]
    return [p if p.values[0] in quick else pytest.param(*p.values, marks=thorough) for p in names]


def make(name, **changes):
    return methods.get(name, **{**METHODS[name].hyperparameters, **changes})


def excused(name, check):
    return check in METHODS[name].excused


# --- What the checks ask a method record ------------------------------------------------------------------------------


def is_update(name, t):
    return bool(make(name).is_update_step(t))


def has_view(name):
    """Weights live on behind the masks."""
    return make(name).seen.view is not None


def needs_masks(name):
    """Someone else chooses the masks, before the first step."""
    start = make(name).start
    return start.pruner is not None and not start.prune_step


def needs(name):
    return make(name).needs


def order_of(name):
    updates = make(name).updates
    return "skip" if updates is None else updates.order


def reads_weights(name):
    """``init`` does."""
    method = make(name)
    remembered = method.remembered
    return method.start.by == "magnitude" or remembered.leaf is not None or remembered.second_mask is not None


def draws_masks(name):
    masking, start = make(name).masking, make(name).start
    return masking is not None and start.by == "random" and start.pruner is None and start.sparsity != 0


@functools.cache
def masks_by_someone():
    """The masks that a function of dstjax.initial_masks would give."""
    state = dstjax.sparsify(optax.sgd(0.1), methods.static(**MASKED), seed=9).init(trees.everything())
    return dstjax.get_masks(state)


def sparsified(inner, name, *, changes=None, **arguments):
    """``sparsify`` with all that the method needs to begin."""
    if needs_masks(name):
        arguments["initial_masks"] = masks_by_someone()
    return dstjax.sparsify(inner, make(name, **(changes or {})), **arguments)


def started(tx, params=None):
    params = trees.everything() if params is None else params
    state = tx.init(params)
    return dstjax.apply_masks(params, state), state


def grads_at(params, t):
    return jax.tree.map(lambda w, n: w + n, params, trees.like(params, t))


def needed(name, grads):
    """The extra arguments of ``update`` that a method cannot do without."""
    known = {
        "value": jnp.float32(0.5),
        "metric": jnp.float32(0.6),
        "full_gradient": jax.tree.map(lambda g: g * jnp.asarray(0.5, g.dtype), grads),
    }
    return {n: known[n] for n in needs(name)}


def step(tx, params, state, grads, rewire=None, **extra):
    updates, state = tx.update(grads, state, params, rewire=rewire, **extra)
    return optax.apply_updates(params, updates), state


def counts_of(state):
    return np.array([int(m.sum()) for m in jax.tree.leaves(dstjax.get_masks(state))], int)


def assert_valid(name, params, state, t):
    """What the forward pass sees is exactly sparse, and the counts after call t are those that the method documents."""
    dstjax.check_sparse(params, state)
    method, found, targets = make(name), counts_of(state), np.asarray(optax.tree.get(state, "targets"))
    assert (found > 0).all()
    if excused(name, "counts"):
        return
    ended = not any(method.is_update_step(later) for later in range(t + 1, t + 20))
    if method.promises == "kept" or (method.promises == "reached" and ended):
        assert found.tolist() == targets.tolist()
    elif method.promises == "total" and ended:
        assert found.sum() == targets.sum()
    if name in ("accset", "lset", "dynset", "iee", "srigl"):  # never above what was asked for
        assert (found <= targets).all()
    if method.start.sparsity is not None and method.promises == "reached" and name != "str":  # never below
        assert (found >= targets).all()


def assert_exact(params, state):
    """Inactive weights are 0 and each leaf has as many active ones as at init."""
    dstjax.check_sparse(params, state)
    assert counts_of(state).tolist() == np.asarray(optax.tree.get(state, "targets")).tolist()

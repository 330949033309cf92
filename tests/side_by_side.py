"""Runs the engine and a transcript side by side, on a tree with a mask in each of the three forms of storage."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dstjax
from tests import oracles, trees
from tests.thorough import slow

# Bytes down the inputs, bytes along the outputs, and no bytes; four divides the inputs of all.
SHAPES = {"conv/kernel": (3, 1, 4, 5), "dense/bias": (5,), "dense/kernel": (8, 5), "out/kernel": (4, 9), "scale": ()}
MASKED = ["conv/kernel", "dense/kernel", "out/kernel"]
# Who decides whether a call is a mask update; each for one method of a kind, and the first for all.
EVERY_MODE = ["inside", "host", "eager"]
MODES = ["inside", slow("host"), slow("eager")]


def tree(dtype=jnp.float64, seed=0):
    """Weights by name, as a tree; none is zero."""
    rng = np.random.default_rng(seed)
    made = {n: rng.uniform(0.05, 1.0, s) * rng.choice([-1.0, 1.0], s) for n, s in SHAPES.items()}
    return nested({n: jnp.asarray(x, dtype) for n, x in made.items()})


def nested(by_name):
    """{'dense/bias': x} as {'dense': {'bias': x}}."""
    made = {}
    for name, x in by_name.items():
        *parents, last = name.split("/")
        at = made
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = jnp.asarray(x)
    return made


def gradients_of(seen, step):
    """Of a quadratic whose aim moves a little, so that weights, signs and rankings keep changing."""
    rng = np.random.default_rng(1000 + step)
    return {n: w - 0.5 * rng.standard_normal(np.shape(w)) for n, w in sorted(seen.items())}


def loss(params):
    """Something to differentiate whose slope is 3 where a weight is not seen."""
    return sum(jnp.sum(jnp.sin(3 * x)) for x in jax.tree.leaves(params))


def momentum():
    return optax.sgd(0.05, 0.9, nesterov=True), oracles.Momentum(0.05, 0.9, nesterov=True)


def adam():
    return optax.adam(0.05), oracles.Adam(0.05)


def call(tx, params, state, gradients, full, rewire):
    """One step, with what the forward pass sees after it."""
    extra = {} if full is None else {"full_gradient": full}
    updates, state = tx.update(gradients, state, params, rewire=rewire, **extra)
    params = optax.apply_updates(params, updates)
    return params, state, dstjax.forward_params(params, state), dstjax.get_masks(state)


def follow(method, transcript, *, mode="inside", inner=None, steps=18, full=False, seed=7, start=None):
    """Compares everything after every step.

    Args:
      method: the method.
      transcript: (weights, masks, inner oracle, targets) -> a run of ``tests.dense_oracles``.
      mode: 'inside' leaves mask updates to the step in the state, 'host' and 'eager' decide on them outside of jit.
      inner: an optimiser and its oracle; Adam where the host decides, else momentum.
      steps: how many.
      full: whether to pass a gradient at the dense weights too.
      seed: of the method.
      start: a tree of weights.

    Returns:
      The run, parameters, state, and how many steps have changed the masks.
    """
    inner, inner_oracle = inner or (adam() if mode == "host" else momentum())
    tx = dstjax.sparsify(inner, method, seed=seed)
    params = tree() if start is None else start
    state = tx.init(params)
    params = dstjax.apply_masks(params, state)
    masks = {n: np.asarray(m) for n, m in trees.names(dstjax.get_masks(state)).items()}
    weights = {n: np.asarray(w) for n, w in trees.names(params).items()}
    run = transcript(weights, masks, inner_oracle, dict(zip(masks, state.targets.tolist(), strict=True)))
    compare(params, state, dstjax.forward_params(params, state), dstjax.get_masks(state), run)
    step = functools.partial(call, tx)
    if mode != "eager":
        step = jax.jit(step, static_argnames="rewire")
    changed = 0
    for t in range(1, steps + 1):
        before = run.m
        by_name = gradients_of(run.seen(), t)
        dense = gradients_of(run.w, 500 + t) if full else None
        rewire = None if mode == "inside" else bool(method.is_update_step(t))
        result = step(params, state, nested(by_name), None if dense is None else nested(dense), rewire=rewire)
        params, state = result[:2]
        run.step(by_name, dense)
        compare(*result, run)
        changed += any((before[n] != run.m[n]).any() for n in before)
    return run, params, state, changed


def compare(params, state, seen, masks, run):
    where = f"step {run.t}"
    assert int(state.step) == run.t
    found = trees.names(masks)
    assert found.keys() == run.m.keys()
    for n, mask in found.items():
        np.testing.assert_array_equal(mask, run.m[n], err_msg=f"mask of {n}, {where}")
    close(trees.names(params), run.w, where)
    close(trees.names(seen), run.seen(), where)
    for n, w in trees.names(seen).items():
        if n in found:
            assert not np.any(np.asarray(w)[~run.m[n]])
    for kind, moments in run.moments.items():
        close(trees.names(optax.tree.get(state.inner_state, kind)), moments, f"{kind}, {where}")


def close(found, expected, where):
    assert found.keys() == expected.keys()
    for n, x in found.items():
        np.testing.assert_allclose(x, expected[n], rtol=1e-10, atol=1e-13, err_msg=f"{n}, {where}")


def active(masks):
    """Active weights of each leaf of a tree of masks, or of all masks by name."""
    return {n: int(np.sum(m)) for n, m in trees.names(masks).items()}

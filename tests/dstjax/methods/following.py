"""Runs a method and a float64 transcript of it side by side, and what such transcripts have in common."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dstjax
from dstjax import criteria
from tests import oracles, trees
from tests.thorough import lighter

LR = 0.05
# Of a transcript, with a mask update at every third step before the last.
STEPS = lighter(22, 34)
UPDATES = (STEPS - 1) // 3


class Spy:
    """A random criterion that remembers what it drew, by step and shape (no two masked leaves share a shape)."""

    def __init__(self, of=criteria.random):
        self.of, self.drawn = of, {}

    def __call__(self, leaf):
        drawn = self.of(leaf)
        # The callback runs on a thread where floats are of 32 bits, so it gets bits.
        bits = drawn if drawn.dtype == jnp.uint32 else jax.lax.bitcast_convert_type(drawn, jnp.uint32)
        jax.debug.callback(self.remember, leaf.step, bits)
        return drawn

    def remember(self, step, bits):
        bits, shapes = np.asarray(bits), trees.SHAPES.values()
        drawn = bits if bits.shape in shapes else np.ascontiguousarray(bits).view(np.float64)[..., 0]
        self.drawn[int(step), drawn.shape] = drawn

    def read(self, step, name):
        return self.drawn[step, trees.SHAPES[name]]


class Run(oracles.Transcript):
    """A transcript whose subclass says which masks follow: ``chosen(gradients)`` returns the new ones.

    ``given`` holds what a caller passes to this step besides gradients.
    """

    given: dict

    def __init__(self, weights, masks, inner, *, period=3, end=STEPS, order="step_then_update", **others):
        super().__init__(weights, masks, inner, period=period, end=end, order=order, **others)
        self.gamma = {n: int(m.sum()) for n, m in self.m.items()}

    def rewire(self, gradients):
        old = self.m
        self.m = self.chosen(gradients)
        for n, new in self.m.items():
            stays = old[n] & new
            self.w[n] = np.where(stays, self.w[n], 0.0)
            for moment in self.moments.values():
                moment[n] = np.where(stays, moment[n], 0.0)
        self.updates += 1

    @property
    def is_last(self):
        return self.t + self.period >= self.end

    def fraction(self):
        return oracles.fraction_at(self.schedule, self.alpha, self.t, self.end)


def gradients_of(weights, step, scale=None):
    """Dense gradients of a quadratic whose aim moves a little, so that weights, signs and rankings keep changing."""
    rng = np.random.default_rng(1000 + step)
    found = {n: w - 0.5 * rng.standard_normal(np.shape(w)) for n, w in sorted(weights.items())}
    return {n: g * (scale or {}).get(n, 1.0) for n, g in found.items()}


def rebuild(tree, by_name):
    """A tree like ``tree`` with the leaves of ``by_name``."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jnp.asarray(by_name[jax.tree_util.keystr(path, simple=True, separator="/")]), tree
    )


def momentum():
    return optax.sgd(LR, 0.9, nesterov=True), oracles.Momentum(LR, 0.9, nesterov=True)


def plain():
    return optax.sgd(LR), oracles.Momentum(LR, 0.0)


def follow(
    method, transcript, *, inner=momentum, steps=STEPS, given=None, scale=None, jit=True, also=None, **tolerance
):
    """Compares masks, weights and moments after every step.

    Args:
      method: the method.
      transcript: (weights, masks, inner optimiser) -> a :class:`Run`.
      inner: gives an optimiser and the transcript of it.
      steps: how many.
      given: step -> what is passed besides gradients.
      scale: leaf -> a factor of its gradients.
      jit: whether the step is compiled, and decides on updates by the step in the state.
      also: (run, state) -> further comparisons after every step.
      **tolerance: of the weights.

    Returns:
      The transcript, and the number of steps that have changed masks.
    """
    made, inner_oracle = inner()
    tx = dstjax.sparsify(made, method, seed=7)
    params = trees.everything(jnp.float64)
    state = tx.init(params)
    params = dstjax.apply_masks(params, state)
    masks = {n: np.asarray(m) for n, m in trees.names(dstjax.get_masks(state)).items()}
    run = transcript({n: np.asarray(w) for n, w in trees.names(params).items()}, masks, inner_oracle)

    def step(params, state, grads, extra):
        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step) if jit else step
    changed = 0
    for t in range(1, steps + 1):
        before = run.m
        seen = {n: np.where(run.m[n], w, 0.0) if n in run.m else w for n, w in run.w.items()}
        by_name, extra = gradients_of(seen, t, scale), {} if given is None else given(t)
        params, state = step(params, state, rebuild(params, by_name), extra)
        jax.effects_barrier()  # the spies have heard everything
        run.given = extra
        run.step(by_name)
        compare(params, state, run, **tolerance)
        if also is not None:
            also(run, state)
        changed += any((before[n] != run.m[n]).any() for n in before)
    return run, changed


def compare(params, state, run, rtol=1e-10, atol=1e-14):
    where = f"at step {run.t}"
    assert int(state.step) == run.t
    masks = trees.names(dstjax.get_masks(state))
    assert masks.keys() == run.m.keys()
    for n, mask in masks.items():
        np.testing.assert_array_equal(mask, run.m[n], err_msg=f"mask of {n} {where}")
    for n, w in trees.names(params).items():
        np.testing.assert_allclose(w, run.w[n], rtol=rtol, atol=atol, err_msg=f"{n} {where}")
    for n, w in trees.names(dstjax.forward_params(params, state)).items():
        if n in masks:
            assert not np.any(np.asarray(w)[~run.m[n]])
    for kind, moments in run.moments.items():
        for n, moment in trees.names(optax.tree.get(state.inner_state, kind)).items():
            np.testing.assert_allclose(moment, moments[n], rtol=1e-10, atol=1e-13, err_msg=f"{kind} {n} {where}")


def active(state):
    """Active weights of each leaf."""
    return {n: int(np.sum(m)) for n, m in trees.names(dstjax.get_masks(state)).items()}


def modes(method, given=None, steps=9, dtype=jnp.float32):
    """Masks after each step, where the trace, the host outside of jit, and eager calls decide on updates."""
    tx = dstjax.sparsify(optax.sgd(LR, momentum=0.9), method, seed=3)

    def step(params, state, grads, extra, rewire=None):
        updates, state = tx.update(grads, state, params, rewire=rewire, **extra)
        return optax.apply_updates(params, updates), state

    jitted = jax.jit(step, static_argnames="rewire")
    histories = []
    for mode in ("traced", "host", "eager"):
        params = trees.everything(dtype)
        state = tx.init(params)
        params, history = dstjax.apply_masks(params, state), []
        for t in range(1, steps + 1):
            rewire = bool(method.is_update_step(t)) if mode == "host" else None
            call = step if mode == "eager" else jitted
            extra = {} if given is None else given(t)
            params, state = call(params, state, trees.like(params, t), extra, rewire=rewire)
            history.append([np.asarray(m) for m in jax.tree.leaves(dstjax.get_masks(state))])
        histories.append(history)
    return histories


def assert_modes_agree(method, given=None, steps=9):
    """The same masks whoever decides, and that they do change."""
    traced, host, eager = modes(method, given, steps)
    for one, other, third in zip(traced, host, eager, strict=True):
        for a, b, c in zip(one, other, third, strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a, c)
    assert any((a != b).any() for a, b in zip(traced[0], traced[-1], strict=True))

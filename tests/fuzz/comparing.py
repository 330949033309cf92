"""The same training otherwise: restored, compiled, two at once, on eight devices."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import dstjax
from tests.fuzz import invariants, making, saving
from tests.fuzz.invariants import hold

# Their masks go by the sign of numbers near zero: see tests/conformance.py.
NOISY = ("deepr", "soft_deepr")


def restored(training: Any, saved: Any) -> None:
    """A restored training ends as the one that was not interrupted."""
    end, c = (training.params, training.state), training.c
    training.tx = training.optimiser(training.given)
    training.step = training.program()
    training.params, training.state = saving.restored(c.save, saved, training.tx, training.dense)
    found = invariants.types((training.params, training.state))
    hold(found == training.types, "another tree after a restore")
    for t in range(c.middle + 1, c.steps + 1):
        training.last = invariants.look(training.params, training.state)
        grads, extra = training.arguments(t)
        rewire = training.rewire()
        training.params, training.state = training.step(training.params, training.state, grads, extra, rewire=rewire)
    hold(invariants.same_bits((training.params, training.state), end), "a restored training ends otherwise")


def _is_excused(training: Any) -> bool:
    """Whether rounding may decide about masks: half precision, or numbers near zero."""
    return training.c.dtype not in ("float32", "float64") or training.method.name in NOISY or not training.finite


def compiled(training: Any, before: Any, grads: Any, extra: Any, rewire: Any) -> None:
    """A compiled call gives the masks of one that is not."""
    tx = training.tx
    if training.compiled is None:
        training.compiled = jax.jit(lambda g, s, p, x, r: tx.update(g, s, p, rewire=r, **x), static_argnums=4)
    _, state = training.compiled(grads, before[1], before[0], extra, rewire)
    hold(invariants.types(state) == invariants.types(training.state), "another tree under jit")
    same = invariants.same_bits(dstjax.get_masks(state), dstjax.get_masks(training.state))
    hold(same or _is_excused(training), "other masks under jit")


def vmapped(training: Any) -> None:
    """Two seeds under vmap have the masks of each alone."""
    c = training.c

    def init(seed: Any) -> Any:
        return making.optimiser(c, training.method, training.dense, seed, training.given).init(training.dense)

    axes = dstjax.vmap_axes(jax.eval_shape(init, 0))
    states = jax.vmap(init, out_axes=axes)(jnp.arange(2))
    params = jax.vmap(lambda s: dstjax.apply_masks(training.dense, s), in_axes=(axes,))(states)
    other = type(training)(c, 1)
    for t in range(1, c.steps + 1):
        grads, extra = training.arguments(t)
        one = functools.partial(training.step, rewire=other.rewire())
        params, states = jax.vmap(one, in_axes=(0, axes, None, None), out_axes=(0, axes))(params, states, grads, extra)
        other.call(t)
        masks = [np.asarray(m) for m in jax.tree.leaves(dstjax.get_masks(states))]
        for i, member in enumerate((training, other)):
            same = all((a == m[i]).all() for a, m in zip(member.masks[t - 1], masks, strict=True))
            hold(same or _is_excused(training), f"other masks of member {i} under vmap at call {t}")


def on_eight_devices(training: Any) -> None:
    """One device gives the masks of eight."""
    lone = type(training)(dataclasses.replace(training.c, program="eager", save="none", event="none"))
    lone.run()
    for t, (a, b) in enumerate(zip(training.masks, lone.masks, strict=True), 1):
        same = all((x == y).all() for x, y in zip(a, b, strict=True))
        hold(same or _is_excused(training), f"other masks on eight devices at call {t}")

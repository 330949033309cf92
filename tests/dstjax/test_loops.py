"""Setting still what a step between mask updates does not change."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods
from tests import trees
from tests.thorough import few, slow

PERIOD = 3
MOVING = dict(sparsity=0.6, update_period=PERIOD, end_step=100)
METHODS = {
    "rigl": {},
    "dst_ee": {},
    "snfs": {},
    "top_kast": {},
    "iee": {"update_period": 4},
    "sr_ste": {},
    "static": {},
}
WRAPPERS = {
    "itself": lambda tx: tx,
    "chain": lambda tx: optax.chain(optax.clip(1.0), tx),
    "hyperparameters": lambda tx: optax.inject_hyperparams(lambda scale: optax.chain(optax.scale(scale), tx))(
        scale=0.5
    ),
}


def made(name, wrap=WRAPPERS["itself"]):
    options = {"static": {"sparsity": 0.6}, "sr_ste": {"n": 1, "m": 2}}.get(name, MOVING | METHODS[name])
    method = methods.get(name, **options)
    track = ("exploration", "survival", "error") if name in ("rigl", "dst_ee") else ()
    tx = wrap(dstjax.sparsify(optax.adam(0.05), method, track=track))
    params = {"w": trees.everything()["conv"]["kernel"], "w2": jnp.ones((8, 4)), "b": jnp.ones(4)}
    state = tx.init(params)
    return method, tx, dstjax.apply_masks(params, state), state


def gradients(tx, params, state, t):
    return jax.grad(lambda p: sum(jnp.sum(jnp.sin(x * t)) for x in jax.tree.leaves(dstjax.forward_params(p, state))))(
        params
    )


@few(2)
@pytest.mark.parametrize(
    ("name", "wrapper"),
    [
        *((n, "itself") if n not in ("rigl", "static") else slow(n, "itself") for n in METHODS),
        ("rigl", "chain"),
        slow("rigl", "hyperparameters"),
    ],
)
def test_training_is_the_same_bit_for_bit(name, wrapper):
    method, tx, params, state = made(name, WRAPPERS[wrapper])

    def whole(params, state, t, rewire):
        updates, state = tx.update(gradients(tx, params, state, t), state, params, rewire=rewire)
        return optax.apply_updates(params, updates), state

    def plain(params, moving, still, t):
        params, state = whole(params, dstjax.merge_state(moving, still), t, False)
        return params, dstjax.split_state(state, still)[0]

    step, plain = jax.jit(whole, static_argnames="rewire"), jax.jit(plain)
    other, other_state = params, state
    moving, still = dstjax.split_state(state)
    for t in range(1, 10):
        now = method.is_update_step(t)
        if now:
            params, state = step(params, dstjax.merge_state(moving, still), float(t), True)
            moving, still = dstjax.split_state(state)
        else:
            params, moving = plain(params, moving, still, float(t))
        other, other_state = step(other, other_state, float(t), now)
    ours, theirs = (params, dstjax.merge_state(moving, still)), (other, other_state)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.optimised
def test_what_is_split_off_is_neither_read_nor_returned():
    """Counters are not even passed to the program, and no mask comes out of it."""
    _, tx, params, state = made("dst_ee")
    moving, still = dstjax.split_state(state)
    assert not set(map(id, jax.tree.leaves(moving))) & set(map(id, jax.tree.leaves(still)))

    def plain(params, moving, still):
        _, state = tx.update(params, dstjax.merge_state(moving, still), params, rewire=False)
        return dstjax.split_state(state, still)[0]

    compiled = jax.jit(plain).lower(params, moving, still).compile()
    assert {x.dtype for x in jax.tree.leaves(jax.eval_shape(plain, params, moving, still))} == {
        jnp.dtype("int32"),
        jnp.dtype("float32"),
    }
    text = compiled.as_text()
    entry = text[text.index("\nENTRY") :].split("\n")[1]
    counters = {f"u8[{','.join(map(str, x.shape))}]" for x in jax.tree.leaves(still.counters)}
    assert not any(f" {shape}" in entry for shape in counters)


def test_a_step_that_changes_the_masks_is_refused():
    _, tx, params, state = made("rigl")
    moving, still = dstjax.split_state(state)
    for rewire in (None, True):

        def step(moving, still, rewire=rewire):
            _, state = tx.update(params, dstjax.merge_state(moving, still), params, rewire=rewire)
            return dstjax.split_state(state, still)[0]

        with pytest.raises(ValueError, match="rewire=False"):
            jax.jit(step)(moving, still)


def test_a_state_without_its_masks_is_refused():
    _, tx, params, state = made("rigl")
    moving, still = dstjax.split_state(state)
    with pytest.raises(ValueError, match="merge_state"):
        tx.update(params, moving, params)
    with pytest.raises(ValueError, match="this state is whole"):
        dstjax.merge_state(state, still)
    with pytest.raises(ValueError, match="was split before"):
        dstjax.split_state(moving)
    with pytest.raises(ValueError, match=r"dstjax\.sparsify"):
        dstjax.split_state(optax.adam(0.1).init(params))

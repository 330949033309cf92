"""IEE: the order of its cycle, what stands still while the rest explores, and what is refused."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods
from dstjax.structures import n_m
from tests import trees
from tests.iee_network import DENSE, SHAPES, noise, weights_of
from tests.stepping import compiled
from tests.structure_oracles import groups_of


@functools.cache
def run(steps, **changes):
    """Parameters and states of a jitted run with an optimiser that has weight decay, two moments and a count."""
    method = methods.iee(
        **{"sparsity": 0.7, "update_period": 6, "end_step": 18, "drop_fraction": 0.5, "drop_schedule": "constant"},
        **changes,
    )
    tx = dstjax.sparsify(optax.adamw(0.05, weight_decay=0.1), method, seed=2)
    params = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), weights_of())

    @jax.jit
    def step(params, state, z):
        grads = jax.tree.map(jnp.subtract, dstjax.forward_params(params, state), z)
        updates, state = compiled(tx).update(grads, state, params)
        return optax.apply_updates(params, updates), state

    history = [(params, tx.init(params))]
    for i in range(1, steps + 1):
        history.append(step(*history[-1], jax.tree.map(lambda z: jnp.asarray(z, jnp.float32), noise(i))))
    return method, jax.device_get(history)


def test_the_order_of_the_cycle():
    """H = J = Q = 2: prune before the step of iteration 2, explore from 4, grow before 6, and so on."""
    _, history = run(19)
    exploring = [i for i in range(1, 20) if dstjax.is_exploring(history[i - 1][1])]  # as the step of i finds it
    assert exploring == [4, 5, 10, 11, 16, 17]
    counts = [sum(int(m.sum()) for m in jax.tree.leaves(dstjax.get_masks(s))) for _, s in history]
    full = counts[0]
    fewer = [i for i in range(1, 20) if counts[i - 1] < full]  # pruned when the step of i begins
    assert fewer == [2, 3, 4, 5, 8, 9, 10, 11, 14, 15, 16, 17]
    assert {*counts[1:5]} == {counts[1]}


def bits(x):
    return np.asarray(x).tobytes()


def test_what_stands_still():
    """Bit for bit: the active part, its moments and all dense leaves while exploring; the inactive part otherwise."""
    _, history = run(19)
    explored = 0
    for (w0, s0), (w1, s1) in itertools.pairwise(history):
        exploring = bool(dstjax.is_exploring(s0))
        explored += exploring
        masks = trees.names(dstjax.get_masks(s0))
        for n in SHAPES:
            pairs = [(w0[n], w1[n])]
            if exploring or n in DENSE:
                pairs += [(optax.tree.get(s0.inner_state, k)[n], optax.tree.get(s1.inner_state, k)[n])
                          for k in ("mu", "nu")]  # fmt: skip
            for a, b in pairs:
                if n in DENSE:
                    assert (bits(a) == bits(b)) == exploring
                else:
                    still = masks[n] if exploring else ~masks[n]
                    assert bits(a[still]) == bits(b[still])
                    assert (a != b).any()
    assert explored == 6


def test_without_freezing_everything_moves():
    _, history = run(5, freeze=False)
    (w0, s0), (w1, _) = history[3:5]
    assert bool(dstjax.is_exploring(s0))
    assert all((w0[n] != w1[n]).all() for n in SHAPES)


def test_an_explore_phase_that_training_cuts_off_is_sparse_for_evaluation():
    _, history = run(19)
    params, state = jax.tree.map(jnp.asarray, history[4])
    masks = trees.names(dstjax.get_masks(state))
    assert dstjax.is_exploring(state)
    training, evaluation = (dstjax.forward_params(params, state, training=t) for t in (True, False))
    for n, mask in masks.items():
        assert (training[n] != 0).all()  # as the next step would see it
        np.testing.assert_array_equal(evaluation[n] != 0, mask)
    assert dstjax.check_sparse(params, state)
    assert dstjax.check_sparse(evaluation, dstjax.get_masks(state))
    with pytest.raises(ValueError, match="inactive weights are not zero"):
        dstjax.check_sparse(training, dstjax.get_masks(state))


def test_the_budget_of_a_cycle():
    """The first cycle exchanges the fraction itself; the exponential falls towards a hundredth of it."""

    def moved(schedule, period=4):
        method = methods.iee(sparsity=0.5, distribution="uniform", update_period=period, end_step=5 * period + 1,
                             drop_fraction=0.4, drop_schedule=schedule)  # fmt: skip
        tx = dstjax.sparsify(optax.sgd(0.1), method)
        params = {"w": jnp.asarray(np.random.default_rng(0).standard_normal((40, 50)), jnp.float32)}
        state = tx.init(params)
        one = jax.jit(lambda s: tx.update(params, s, params)[1])
        counts = []
        for t in range(1, 5 * period):
            state = one(state)
            if method.updates.schedule.ends_first(t):
                counts.append(1000 - int(dstjax.get_masks(state)["w"].sum()))
        return counts

    assert moved("exponential") == [math.floor(400 * 0.01 ** (c / 5)) for c in range(5)]
    assert moved("cosine") == [math.floor(200 * (1 + math.cos(math.pi * c / 5))) for c in range(5)]
    assert moved(lambda t: t / 100) == [0, 40, 80, 120, 160]  # of the step before the cycle


def test_groups_are_whole_again_after_each_cycle():
    _, history = run(18, structure=n_m(1, 4), distribution="uniform")
    short = 0
    for i, (_, state) in enumerate(history):
        for mask in jax.tree.leaves(dstjax.get_masks(state)):
            found = {int(np.asarray(mask)[at].sum()) for at in groups_of(mask.shape, 4)}
            short += found == {0, 1}
            assert found == {1} if i % 6 in (0, 5) else found <= {0, 1}
    assert short == 2 * 3 * 4  # two leaves, three cycles, four calls from prune to grow


def test_random_growth_does_not_ask_what_was_learnt():
    """One weight of 32 is pruned and one grown: by importance the largest inactive one, at random mostly another."""

    def grows_the_largest(growth, seed):
        method = methods.iee(
            sparsity=0.5, distribution="uniform", update_period=4, stages=(2, 1, 1), end_step=4, drop_fraction=0.04,
            growth=growth,
        )  # fmt: skip
        tx = dstjax.sparsify(optax.sgd(0.0), method, seed=seed)
        params = {"w": jnp.asarray(np.random.default_rng(seed).standard_normal((8, 8)), jnp.float32)}
        state, active = tx.init(params), []
        for _ in range(4):
            active.append(np.asarray(dstjax.get_masks(state)["w"]))
            _, state = compiled(tx).update(params, state, params)
        assert [m.sum() for m in active] == [32, 31, 31, 32]
        before, after = active[2:]
        size = np.abs(np.asarray(params["w"]))
        return bool(size[after & ~before] == size[~before].max())

    assert all(grows_the_largest("importance", seed) for seed in range(6))
    assert not all(grows_the_largest("random", seed) for seed in range(6))


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        (dict(stages=(150, 150, 150), end_step=449), r"update_period=450 is not accepted with end_step=449: no cycle"),
        (dict(stages=(100, 100, 100)), r"stages=\(100, 100, 100\) is not accepted; expected three .*update_period=450"),
        (dict(stages=(225, 225)), r"stages=\(225, 225\) is not accepted"),
        (dict(stages=(1, 225, 224)), "length of stage 1=1 is not accepted"),
        (dict(stages=(225, 225, 0)), "length of stage 3=0 is not accepted"),
        (dict(update_period=3), "update_period=3 is not accepted"),
        (dict(end_step=None), "end_step=None is not accepted by 'iee'"),
        (dict(drop_fraction=1.5), "drop_fraction=1.5 is not accepted"),
        (dict(drop_schedule="exponentiel"), "drop_schedule='exponentiel' is not known"),
        (dict(importance="gradient"), "importance='gradient' is not known"),
        (dict(growth="gradient"), "growth='gradient' is not known"),
        (dict(explore_from="MRU"), "explore_from='MRU' is not known"),
        (dict(freeze=1), "freeze=1 is not accepted; expected True or False"),
        (dict(scope="all"), "scope='all' is not known"),
    ],
)
def test_bad_input(changes, pattern):
    with pytest.raises(ValueError, match=pattern):
        methods.iee(**{"sparsity": 0.9, "end_step": 1000, **changes})

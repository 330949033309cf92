"""IEE: its cycle iteration by iteration, as the paper writes it."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods
from dstjax.structures import n_m
from tests import oracles, trees
from tests.iee_network import noise, weights_of
from tests.stepping import compiled
from tests.structure_oracles import fill_groups
from tests.thorough import few, slow


class Transcript:
    """Iterations i = 1, 2, ...: an event, then one step of the optimiser.

    The cycle has H + J + Q iterations. Prune comes at those with i = H, the start of exploration at i = H + J, Grow at
    i = 0, modulo the cycle.
    """

    def __init__(self, weights, masks, inner, stages, cycles, alpha, schedule, scope="layer", importance="magnitude",
                 zero=False, freeze=True, groups=None, grown_at_zero=False):  # fmt: skip
        self.w, self.k = {n: w.copy() for n, w in weights.items()}, {n: m.copy() for n, m in masks.items()}
        self.inner, self.moments = inner, inner.init(weights)
        self.target = {n: int(m.sum()) for n, m in masks.items()}
        self.h, self.j, self.q = stages
        self.cycles, self.alpha, self.schedule = cycles, alpha, schedule
        self.scope, self.importance, self.zero, self.freeze, self.groups = scope, importance, zero, freeze, groups
        self.grown_at_zero = grown_at_zero
        self.cycle, self.exploring, self.events = 0, False, []
        self.last = None

    def moving(self):
        """k_t of each layer: a share of the final count that decays over the cycles."""
        p = self.cycle / self.cycles
        share = (
            self.alpha
            * {
                "exponential": 0.01**p,
                "cosine": (1 + math.cos(math.pi * p)) / 2,
                "constant": 1.0,
            }[self.schedule]
        )
        return {n: math.floor(share * t + 1e-9) for n, t in self.target.items()}

    def scores(self):
        if self.importance == "magnitude":
            return {n: np.abs(self.w[n]) for n in self.k}
        return {n: np.abs(self.w[n] * self.last[n]) for n in self.k}

    def event(self, i):
        period = self.h + self.j + self.q
        if self.cycle >= self.cycles:
            return
        if (i + self.j + self.q) % period == 0:
            self.prune()
            self.events.append((i, "prune"))
        elif (i + self.q) % period == 0:
            self.exploring = True
            for moment in self.moments.values():
                for n, k in self.k.items():
                    moment[n] = np.where(k, moment[n], 0.0)
            self.events.append((i, "explore"))
        elif i % period == 0:
            self.grow()
            self.exploring = False
            self.cycle += 1
            self.events.append((i, "grow"))

    def prune(self):
        k, s = self.moving(), self.scores()
        if self.scope == "layer":
            self.k = {n: oracles.best(s[n], m.sum() - k[n], m) for n, m in self.k.items()}
        else:  # one ranking, but every layer keeps its best weight
            first = {n: oracles.best(s[n], 1, m) for n, m in self.k.items()}
            left = sum(int(m.sum()) - k[n] for n, m in self.k.items()) - len(first)
            rest = oracles.best_together(list(s.values()), left, [m & ~first[n] for n, m in self.k.items()])
            self.k = {n: first[n] | r for n, r in zip(self.k, rest, strict=True)}
        if self.zero:
            for n, m in self.k.items():
                self.w[n] = np.where(m, self.w[n], 0.0)

    def grow(self):
        s, before = self.scores(), self.k
        self.choose(s)
        if self.grown_at_zero:  # "initializing the grown neurons to 0 as in RigL"
            for n, m in self.k.items():
                self.w[n] = np.where(m & ~before[n], 0.0, self.w[n])

    def choose(self, s):
        if self.groups:
            self.k = {n: m | fill_groups(s[n], *self.groups, m, ~m) for n, m in self.k.items()}
        elif self.scope == "layer":
            self.k = {n: m | oracles.best(s[n], self.target[n] - m.sum(), ~m) for n, m in self.k.items()}
        else:
            missing = sum(self.target.values()) - sum(int(m.sum()) for m in self.k.values())
            grown = oracles.best_together(list(s.values()), missing, [~m for m in self.k.values()])
            self.k = {n: m | g for (n, m), g in zip(self.k.items(), grown, strict=True)}

    def seen(self):
        """What the forward pass of the next step sees."""
        return {n: np.where(self.k[n], w, 0.0) if n in self.k and not self.exploring else w for n, w in self.w.items()}

    def step(self, gradients):
        self.inner.begin()
        self.last = gradients
        for n, g in gradients.items():
            if n in self.k:
                may = self.k[n] if not self.exploring else ~self.k[n] if self.freeze else np.ones(g.shape, bool)
            else:  # leaves without a mask stand still with the active weights
                may = np.full(np.shape(g), not (self.exploring and self.freeze))
            before = {kind: m[n] for kind, m in self.moments.items()}
            moved = self.inner.step(self.moments, n, g)
            self.w[n] = np.where(may, self.w[n] + moved, self.w[n])
            for kind, m in self.moments.items():
                m[n] = np.where(may, m[n], before[kind])


CASES = {
    "layer": dict(),
    "adam, three lengths": dict(stages=(3, 1, 2), adam=True),
    "global": dict(scope="global"),
    "taylor": dict(importance="taylor", drop_schedule="cosine"),
    "from zero": dict(explore_from="zero"),
    "grown at zero": dict(grown_from="zero"),
    "both at zero": dict(explore_from="zero", grown_from="zero"),
    "without freezing": dict(freeze=False, adam=True),
    "two of four": dict(structure=n_m(2, 4), sparsity=0.5, drop_schedule="constant"),
    "global and taylor, from zero": dict(scope="global", importance="taylor", explore_from="zero"),
}


# Each of the choices once, in layers or in all of them together.
QUICK = ("grown at zero", "adam, three lengths", "without freezing", "two of four", "global and taylor, from zero")


@few(2)
@pytest.mark.parametrize("case", [case if case in QUICK else slow(case) for case in CASES])
def test_transcript(case):
    """Five cycles and some steps after the last one: call i is the step of iteration i and the event of i + 1."""
    changes = dict(CASES[case])
    adam, stages = changes.pop("adam", False), changes.pop("stages", (2, 2, 2))
    period, cycles, alpha = sum(stages), 5, 0.6
    method = methods.iee(
        **{"sparsity": 0.6, "drop_fraction": alpha, "distribution": "uniform", **changes},
        update_period=period, stages=stages, end_step=cycles * period + 2,
    )  # fmt: skip
    with jax.enable_x64(True):
        inner = optax.adam(0.05) if adam else optax.sgd(0.1, 0.9)
        tx = dstjax.sparsify(inner, method, seed=7)
        params = jax.tree.map(jnp.asarray, weights_of())
        state = tx.init(params)
        assert dstjax.apply_masks(params, state) is params  # the inactive weights live on
        masks = {n: np.asarray(m) for n, m in trees.names(dstjax.get_masks(state)).items()}
        told = Transcript(
            weights_of(), masks, oracles.Adam(0.05) if adam else oracles.Momentum(0.1, 0.9), stages, cycles, alpha,
            changes.get("drop_schedule", "exponential"), changes.get("scope", "layer"),
            changes.get("importance", "magnitude"), "explore_from" in changes, changes.get("freeze", True),
            (2, 4) if "structure" in changes else None, "grown_from" in changes,
        )  # fmt: skip

        @jax.jit
        def step(params, state, gradients):
            updates, state = compiled(tx).update(gradients, state, params)
            params = optax.apply_updates(params, updates)
            return params, state, dstjax.forward_params(params, state)

        told.event(1)
        changed = set()
        for i in range(1, cycles * period + 5):
            gradients = {n: np.asarray(w - z) for (n, w), z in zip(told.seen().items(), noise(i).values(), strict=True)}
            params, state, seen = step(params, state, gradients)
            before = told.k
            told.step(gradients)
            told.event(i + 1)
            changed |= {i} if any((before[n] != told.k[n]).any() for n in before) else set()
            compare(params, state, seen, told, i)
            assert bool(method.is_update_step(i)) == (bool(told.events) and told.events[-1] in (
                (i + 1, "prune"), (i + 1, "grow")
            ))  # fmt: skip
        assert told.cycle == cycles
        assert len(changed) >= 8
        if "scope" in changes:
            assert any(int(m.sum()) != told.target[n] for n, m in told.k.items())
            assert sum(int(m.sum()) for m in told.k.values()) == sum(told.target.values())
        else:
            assert {n: int(m.sum()) for n, m in told.k.items()} == told.target


def compare(params, state, seen, told, i):
    masks = trees.names(dstjax.get_masks(state))
    for n in told.k:
        np.testing.assert_array_equal(masks[n], told.k[n], err_msg=f"{n} at {i}")
    assert bool(dstjax.is_exploring(state)) == told.exploring
    sparse = dstjax.forward_params(params, state, training=False)
    assert dstjax.check_sparse(params, state)
    for n, w in told.w.items():
        near = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-13, err_msg=f"{n} at {i}")
        near(params[n], w)
        near(seen[n], told.seen()[n])
        near(sparse[n], np.where(told.k[n], w, 0.0) if n in told.k else w)
        for kind, moments in told.moments.items():
            moment = np.asarray(optax.tree.get(state.inner_state, kind)[n])
            if n in told.k and not told.exploring:  # those of inactive weights are looked at when they are trained
                near(np.where(told.k[n], moment, 0.0), np.where(told.k[n], moments[n], 0.0))
            else:
                near(moment, moments[n])


def hand_made(weights, mask, aims, drop_fraction, **structure):
    """One cycle of one column: nothing moves until the weights that explore reach their aims in one step."""
    with jax.enable_x64(True):
        params = {"w": jnp.array(weights)[:, None]}
        given = {"w": jnp.array(mask, bool)[:, None]}
        method = methods.iee(
            sparsity=0.5, distribution="uniform", update_period=4, stages=(2, 1, 1), end_step=4,
            drop_fraction=drop_fraction, drop_schedule="constant", **structure,
        )  # fmt: skip
        tx = dstjax.sparsify(optax.sgd(1.0), method, initial_masks=given)
        state = tx.init(params)
        history = []
        for _ in range(3):
            grads = {"w": params["w"] - jnp.array(aims)[:, None]}
            if not dstjax.is_exploring(state):
                grads = jax.tree.map(jnp.zeros_like, grads)
            updates, state = compiled(tx).update(grads, state, params)
            params = optax.apply_updates(params, updates)
            history.append(np.asarray(dstjax.get_masks(state)["w"][:, 0]).astype(int).tolist())
        return history, np.asarray(params["w"][:, 0])


def test_the_worked_example():
    history, weights = hand_made(
        [0.9, 0.1, 0.5, -0.2, 0.05, 0.7], [1, 1, 1, 0, 0, 0], [9.0, 0.15, 9.0, -0.6, 0.3, 0.65], 1 / 3
    )
    assert history == [[1, 0, 1, 0, 0, 0], [1, 0, 1, 0, 0, 0], [1, 0, 1, 0, 0, 1]]
    np.testing.assert_allclose(weights, [0.9, 0.15, 0.5, -0.6, 0.3, 0.65], rtol=1e-15)  # index 1 keeps what it learnt


def test_the_worked_example_of_two_in_four():
    history, weights = hand_made([0.9, 0.1, 0.5, -0.2], [1, 0, 1, 0], [9.0, 0.6, 0.5, -0.3], 0.5, structure=n_m(2, 4))
    assert history == [[1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]]
    np.testing.assert_allclose(weights, [0.9, 0.6, 0.5, -0.3], rtol=1e-15)


def test_weights_are_set_exactly_though_gradients_have_fewer_digits():
    """An update in bfloat16 would leave 31 weights of float32 beside the zero that ``explore_from`` asks for."""
    w = jnp.asarray(np.random.default_rng(0).standard_normal((6, 8)), jnp.float32)
    method = methods.iee(sparsity=0.5, update_period=6, stages=(2, 2, 2), end_step=24, explore_from="zero")
    tx = dstjax.sparsify(optax.sgd(0.125), method)
    state = tx.init({"w": w})
    updates, state = tx.update({"w": jnp.full((6, 8), 0.25, jnp.bfloat16)}, state, {"w": w})
    after, mask = optax.apply_updates({"w": w}, updates)["w"], dstjax.get_masks(state)["w"]
    assert mask.sum() < 24
    np.testing.assert_array_equal(after, jnp.where(mask, w - 0.03125, 0.0))

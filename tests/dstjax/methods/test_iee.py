"""IEE: its cycle iteration by iteration as the paper writes it, and what stands still while the rest explores."""

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
from tests import oracles, trees
from tests.structure_oracles import fill_groups, groups_of

DENSE = ("bias", "scale")
SHAPES = {"bias": (5,), "conv": (2, 2, 4, 6), "matrix": (16, 10), "scale": ()}


def weights_of(seed=0):
    rng = np.random.default_rng(seed)
    return {n: rng.uniform(0.1, 1.0, s) * rng.choice([-1.0, 1.0], s) for n, s in SHAPES.items()}


class Transcript:
    """Iterations i = 1, 2, ...: an event, then one step of the optimiser.

    The cycle has H + J + Q iterations. Prune comes at those with i = H, the start of exploration at i = H + J, Grow at
    i = 0, modulo the cycle.
    """

    def __init__(self, weights, masks, inner, stages, cycles, alpha, schedule, scope="layer", importance="magnitude",
                 zero=False, freeze=True, groups=None):  # fmt: skip
        self.w, self.k = {n: w.copy() for n, w in weights.items()}, {n: m.copy() for n, m in masks.items()}
        self.inner, self.moments = inner, inner.init(weights)
        self.target = {n: int(m.sum()) for n, m in masks.items()}
        self.h, self.j, self.q = stages
        self.cycles, self.alpha, self.schedule = cycles, alpha, schedule
        self.scope, self.importance, self.zero, self.freeze, self.groups = scope, importance, zero, freeze, groups
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
        s = self.scores()
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


def noise(t):
    rng = np.random.default_rng(500 + t)
    return {n: 0.6 * rng.standard_normal(s) for n, s in SHAPES.items()}


CASES = {
    "layer": dict(),
    "adam, three lengths": dict(stages=(3, 1, 2), adam=True),
    "global": dict(scope="global"),
    "taylor": dict(importance="taylor", drop_schedule="cosine"),
    "from zero": dict(explore_from="zero"),
    "without freezing": dict(freeze=False, adam=True),
    "two of four": dict(structure=n_m(2, 4), sparsity=0.5, drop_schedule="constant"),
    "global and taylor, from zero": dict(scope="global", importance="taylor", explore_from="zero"),
}


@pytest.mark.parametrize("case", CASES)
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
            (2, 4) if "structure" in changes else None,
        )  # fmt: skip

        @jax.jit
        def step(params, state, gradients):
            updates, state = tx.update(gradients, state, params)
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
            updates, state = tx.update(grads, state, params)
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
        updates, state = tx.update(grads, state, params)
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
    _, history = run(4)
    params, state = jax.tree.map(jnp.asarray, history[-1])
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
            if method.updates.ends_first(t):
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
            _, state = tx.update(params, state, params)
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

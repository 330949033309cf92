"""SRigL against a transcript: dropping in the whole layer, ablation of neurons, growth up to one fan-in."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods
from tests import oracles, trees
from tests.stepping import compiled
from tests.structure_oracles import fan_in_update
from tests.thorough import slow

SHAPES = {"bias": (5,), "conv": (2, 2, 3, 4), "matrix": (10, 6)}
END = 28


class Transcript:
    """A mask update at every third step in place of the optimiser's, or after it; neurons are the last axis."""

    def __init__(self, weights, masks, inner, targets, *, alpha, ablation, order):
        self.w, self.m = dict(weights), dict(masks)
        self.inner, self.moments = inner, inner.init(weights)
        self.targets, self.alpha, self.ablation, self.order = targets, alpha, ablation, order
        self.t, self.ablated = 0, []

    def step(self, gradients):
        self.t += 1
        update = self.t % 3 == 0 and self.t < END
        if not update or self.order == "step_then_update":
            self.train(gradients)
        if update:
            self.rewire(gradients)

    def train(self, gradients):
        self.inner.begin()
        for n, g in gradients.items():
            mask = self.m.get(n, np.ones(g.shape, bool))
            self.w[n] = np.where(mask, self.w[n] + self.inner.step(self.moments, n, np.where(mask, g, 0.0)), 0.0)

    def rewire(self, gradients):
        share = oracles.fraction_at("cosine", self.alpha, self.t, END)
        for n, old in self.m.items():
            move = min(int(share * old.sum() + 1e-9), int(old.sum()) - 1)
            size, gradient = np.abs(self.w[n]), np.abs(gradients[n])
            _, new = fan_in_update(size, gradient, old, move, self.targets[n], self.ablation)
            for values in (self.w, *self.moments.values()):
                values[n] = np.where(old & new, values[n], 0.0)
            self.m[n] = new
            inputs = new.reshape(-1, new.shape[-1]).sum(0)
            self.ablated.append((n, self.t, tuple(np.flatnonzero(inputs == 0))))
            assert len({*inputs[inputs > 0]}) == 1


def gradients_of(weights, t):
    """Those of some neurons are small, so that they are ablated; which ones changes, so that they return."""
    rng = np.random.default_rng(100 + t)
    made = {}
    for n, w in sorted(weights.items()):
        calm = np.arange(w.shape[-1]) % 3 == t // 9 % 3
        made[n] = np.where(calm, w + 0.01 * rng.standard_normal(w.shape), w - rng.standard_normal(w.shape))
    return made


@pytest.mark.parametrize(
    ("ablation", "order"),
    [
        *[(0.9, "skip"), (0.3, "step_then_update")],
        *[slow(0.9, "step_then_update"), slow(0.3, "skip"), slow(0.0, "skip"), slow(0.0, "step_then_update")],
    ],
)
def test_transcript(ablation, order):
    """At a gamma of 0.9 neurons are ablated and return. Gradients are those of one batch, not averaged over some."""
    method = methods.srigl(
        sparsity=0.6, distribution="uniform", update_period=3, end_step=END, drop_fraction=0.6, ablation=ablation,
        update_order=order,
    )  # fmt: skip
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        weights = {n: rng.uniform(0.1, 1.0, s) * rng.choice([-1.0, 1.0], s) for n, s in SHAPES.items()}
        tx = dstjax.sparsify(optax.sgd(0.1, 0.9), method, seed=4)
        params = jax.tree.map(jnp.asarray, weights)
        state = tx.init(params)
        params = dstjax.apply_masks(params, state)
        masks = {n: np.asarray(m) for n, m in trees.names(dstjax.get_masks(state)).items()}
        for mask in masks.values():
            inputs, neurons = int(np.prod(mask.shape[:-1])), mask.shape[-1]
            fan_in = (inputs * neurons - int(inputs * neurons * 0.6 + 1e-9)) // neurons
            assert mask.reshape(-1, neurons).sum(0).tolist() == [fan_in] * neurons
        targets = {n: int(m.sum()) for n, m in masks.items()}
        told = Transcript(
            {n: np.asarray(w) for n, w in params.items()}, masks, oracles.Momentum(0.1, 0.9), targets,
            alpha=0.6, ablation=ablation, order=order,
        )  # fmt: skip

        @jax.jit
        def step(params, state, gradients):
            updates, state = compiled(tx).update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        changed = 0
        for t in range(1, END + 4):
            gradients = gradients_of(told.w, t)
            before = dict(told.m)
            params, state = step(params, state, gradients)
            told.step(gradients)
            changed += any((before[n] != told.m[n]).any() for n in before)
            found = trees.names(dstjax.get_masks(state))
            for n, w in told.w.items():
                np.testing.assert_allclose(params[n], w, rtol=1e-10, atol=1e-13, err_msg=f"{n} at {t}")
                trace = optax.tree.get(state, "trace")[n]
                np.testing.assert_allclose(trace, told.moments["trace"][n], rtol=1e-10, atol=1e-13)
            for n, mask in told.m.items():
                np.testing.assert_array_equal(found[n], mask, err_msg=f"{n} at {t}")
    assert changed >= 7
    ablated = {n: [a for name, _, a in told.ablated if name == n] for n in told.m}
    if ablation == 0.9:
        assert any(a for each in ablated.values() for a in each)
        returned = [set(a) - set(b) for each in ablated.values() for a, b in itertools.pairwise(each)]
        assert any(returned)


def test_ablated_neurons_have_no_weights_and_the_others_more():
    """By hand: of three neurons the middle one has neither large weights nor large gradients."""
    size = np.array([[0.9, 0.8, 0, 0], [0.1, 0, 0.2, 0], [0, 0.7, 0, 0.05]], np.float32)
    gradient = np.array([[0.1, 0.1, 0.6, 0.2], [0.3, 0.1, 0.2, 0.1], [0.5, 0.1, 0.4, 0.1]], np.float32)
    params = {"w": jnp.asarray(size.T)}
    method = methods.srigl(
        sparsity=0.5, distribution="uniform", update_period=1, end_step=5, drop_fraction=0.5, drop_schedule="constant"
    )
    tx = dstjax.sparsify(optax.sgd(1.0), method, initial_masks={"w": jnp.asarray(size.T > 0)})
    updates, state = compiled(tx).update({"w": jnp.asarray(gradient.T)}, tx.init(params), params)
    assert dstjax.get_masks(state)["w"].T.astype(int).tolist() == [[1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 0]]
    after = optax.apply_updates(params, updates)["w"].T
    np.testing.assert_allclose(after, [[0.9, 0.8, 0, 0], [0, 0, 0, 0], [0, 0.7, 0, 0]])  # grown weights are 0


def test_one_neuron_is_rigl():
    """Without a neuron to ablate, constant fan-in is the constant count of RigL."""

    def run(name):
        method = methods.get(name, sparsity=0.5, update_period=2, end_step=12, drop_fraction=0.4)
        tx = dstjax.sparsify(optax.sgd(0.1), method, initial_masks={"w": jnp.arange(20)[:, None] % 2 == 0})
        params = {"w": jnp.asarray(np.random.default_rng(0).standard_normal((20, 1)), jnp.float32)}
        state, history = tx.init(params), []
        params = dstjax.apply_masks(params, state)
        step = jax.jit(tx.update)
        for t in range(1, 12):
            noise = np.random.default_rng(t).standard_normal((20, 1)).astype(np.float32)
            updates, state = step({"w": params["w"] - noise}, state, params)
            params = optax.apply_updates(params, updates)
            history.append((np.asarray(params["w"]), np.asarray(dstjax.get_masks(state)["w"])))
        return history

    for a, b in zip(run("srigl"), run("rigl"), strict=True):
        np.testing.assert_array_equal(a, b)

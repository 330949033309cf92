"""DeepR and soft-DeepR: worked examples (D2, D3), transcripts in theta and signs, and fixed signs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods
from dstjax.methods import deep_rewiring
from tests import oracles, trees
from tests.dstjax.methods import following
from tests.dstjax.methods.following import LR
from tests.stepping import compiled
from tests.thorough import slow


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def noise(monkeypatch):
    """What is drawn as noise, recorded."""
    spy = following.Spy(deep_rewiring._noise)
    monkeypatch.setattr(deep_rewiring, "_noise", spy)
    return spy


class DeepRewiring(following.Run):
    """D2: theta and signs; every step rewires."""

    def __init__(self, *args, noise, grow, gamma, l1, signs, **others):
        super().__init__(*args, period=1, end=None, **others)
        self.noise, self.grow_spy, self.scale, self.l1 = noise, grow, gamma, l1
        self.sign = signs
        self.theta = {n: np.where(m, self.sign[n] * self.w[n], 0.0) for n, m in self.m.items()}
        self.died, self.woke_again = 0, 0

    def step(self, gradients):
        self.t += 1
        for n, g in gradients.items():
            if n not in self.m:
                self.w[n] = self.w[n] - LR * g
        self.m = dict(self.m)
        for n in self.m:
            self.walk(n, self.sign[n] * gradients[n], self.sign[n] * self.noise.read(self.t, n))
            self.w[n] = self.sign[n] * self.theta[n]
        self.moments = {}

    def walk(self, n, gradient, nu):
        active, theta = self.m[n], self.theta[n]
        theta = theta - LR * np.where(active, gradient, 0.0)
        theta = theta + LR * self.scale * nu * active
        theta = theta - LR * self.l1 * active
        alive = active & (theta > 0)
        woken = oracles.best(self.grow_spy.read(self.t, n), self.gamma[n] - alive.sum(), ~alive)
        self.died += int((active & ~alive).sum())
        self.woke_again += int((active & ~alive & woken).sum())
        self.theta[n] = np.where(alive, theta, np.where(woken, 1e-12, 0.0))
        self.m[n] = alive | woken


class SoftDeepRewiring(DeepRewiring):
    """D3: dormant connections walk at random, never below theta_min."""

    def __init__(self, *args, **others):
        super().__init__(*args, **others)
        self.theta = {n: self.sign[n] * self.w[n] for n in self.m}
        temperature = LR * self.scale**2 / 2
        beta = self.l1 / temperature
        p0 = {n: m.mean() for n, m in self.m.items()}
        self.lowest = {n: -(1 - p) / (p * beta) for n, p in p0.items()}
        self.at_floor = 0

    def walk(self, n, gradient, nu):
        theta = self.theta[n]
        theta = theta - LR * np.where(self.m[n], gradient, 0.0)
        theta = theta + LR * (self.scale * nu - self.l1 * self.m[n])
        theta = np.maximum(theta, self.lowest[n])
        self.died += int((self.m[n] & (theta <= 0)).sum())
        self.woke_again += int((~self.m[n] & (theta > 0)).sum())
        self.at_floor += int((theta == self.lowest[n]).sum())
        self.theta[n], self.m[n] = theta, theta > 0


def initial_signs():
    return {n: np.sign(np.asarray(w)) for n, w in trees.names(trees.everything(jnp.float64)).items()}


def test_deepr_follows_its_transcript(x64, noise):
    grow = following.Spy()
    method = methods.deepr(sparsity=0.6, noise=1.5, l1=0.3).but(grow_score=grow)
    run, changed = following.follow(
        method,
        lambda *args: DeepRewiring(*args, noise=noise, grow=grow, gamma=1.5, l1=0.3, signs=initial_signs()),
        inner=following.plain,
        steps=34,
        jit=False,
    )
    assert changed > 20
    assert run.died > 100
    assert run.woke_again > 5  # what has just died is a candidate
    assert {n: int(m.sum()) for n, m in run.m.items()} == run.gamma


def test_soft_deepr_follows_its_transcript(x64, noise):
    """The signs of connections that are dormant at first are turned, so that theta is negative there."""
    method = methods.soft_deepr(sparsity=0.6, noise=2.0, l1=0.5, learning_rate=LR)

    def transcript(weights, masks, inner):
        signs = {n: np.where(masks[n], s, -s) for n, s in initial_signs().items() if n in masks}
        return SoftDeepRewiring(weights, masks, inner, noise=noise, grow=None, gamma=2.0, l1=0.5, signs=signs)

    # theta_min is a float32 in the state.
    run, changed = following.follow(
        method, transcript, inner=following.plain, steps=34, jit=False, rtol=1e-6, atol=1e-7
    )
    assert changed > 20
    assert min(run.died, run.woke_again, run.at_floor) > 20
    assert {n: int(m.sum()) for n, m in run.m.items()} != run.gamma  # their number is free


SIGMA = np.array([[1.0, -1, -1], [-1, 1, 1]])


def one_deepr_step(theta, gradient, **options):
    """theta and masks after one step of rate 1; the gradient is that of theta."""
    tx = dstjax.sparsify(optax.sgd(1.0), methods.deepr(sparsity=0.5, **options))
    w = jnp.asarray(SIGMA * (np.abs(theta) + 0.1), jnp.float32)  # the weights give the signs
    state = dstjax.set_masks(tx.init({"w": w}), {"w": jnp.asarray(theta) > 0})
    params = {"w": jnp.asarray(SIGMA * theta, jnp.float32)}
    updates, state = compiled(tx).update({"w": jnp.asarray(SIGMA * gradient, jnp.float32)}, state, params)
    params = optax.apply_updates(params, updates)
    return SIGMA * np.asarray(params["w"]), np.asarray(dstjax.get_masks(state)["w"])


def test_deepr_worked_example():
    """D2: theta = [.30 .02 0 .50 0 0] becomes [.28 -.01 0 .52 0 0]: 1 dies, one of {1, 2, 4, 5} wakes at 1e-12."""
    theta = np.array([[0.30, 0.02, 0], [0.50, 0, 0]])
    after, mask = one_deepr_step(theta, np.array([[0.02, 0.03, 9.0], [-0.02, -9.0, 9.0]]), noise=0.0, l1=0.0)
    np.testing.assert_allclose(after.ravel()[[0, 3]], [0.28, 0.52], rtol=1e-6)
    woken = set(np.flatnonzero(mask)) - {0, 3}
    assert len(woken) == 1
    assert woken <= {1, 2, 4, 5}
    (one,) = woken
    # In float32 a weight that dies and wakes at once is moved to 1e-12 by adding, which leaves zero.
    assert after.ravel()[one] == (np.float32(1e-12) if one != 1 else 0)
    assert not after[~mask].any()


def test_the_l1_penalty_pulls_towards_zero_and_no_further():
    theta = np.array([[0.30, 0.02, 0], [0.50, 0, 0]])
    after, mask = one_deepr_step(theta, np.zeros((2, 3)), noise=0.0, l1=0.05)
    np.testing.assert_allclose(after.ravel()[[0, 3]], [0.25, 0.45], rtol=1e-6)
    assert mask.sum() == 3
    assert (after >= 0).all()


def test_soft_deepr_worked_example():
    """D3: lr = .05, Gamma = lambda_1 = 1e-5 and p0 = .005 give theta_min = -4.975e-5."""
    tx = dstjax.sparsify(optax.sgd(0.05), methods.soft_deepr(sparsity=0.995))
    state = tx.init({"w": jnp.ones((10, 20))})
    assert following.active(state) == {"w": 1}
    assert float(state.memory.leaves.lowest["w"]) == pytest.approx(-4.975e-5, rel=1e-5)


def test_soft_deepr_keeps_one_connection():
    """A pull that takes every theta below zero leaves the largest one."""
    tx = dstjax.sparsify(optax.sgd(0.05), methods.soft_deepr(sparsity=0.5))
    params = {"w": jnp.arange(1.0, 13).reshape(3, 4)}
    state = tx.init(params)
    mask = np.asarray(dstjax.get_masks(state)["w"])
    updates, state = compiled(tx).update({"w": jnp.full((3, 4), 1e6)}, state, params)
    assert following.active(state) == {"w": 1}
    assert bool(np.asarray(dstjax.get_masks(state)["w"])[~mask].any())  # dormant ones were not pulled
    assert np.isfinite(updates["w"]).all()


def test_the_signs_of_zeros_are_random():
    """A network that is given sparse does not say which sign its dormant connections have."""
    tx = dstjax.sparsify(optax.sgd(LR), methods.deepr(sparsity=0.5))
    w = jnp.where(jnp.arange(400).reshape(20, 20) < 100, -1.0, 0.0)
    sign = np.asarray(tx.init({"w": w}).memory.leaves.sign["w"])
    assert (sign.ravel()[:100] == -1).all()
    assert 100 < (sign.ravel()[100:] == 1).sum() < 200
    assert set(np.unique(sign)) == {-1, 1}


@pytest.mark.parametrize("name", ["deepr", slow("soft_deepr")])
def test_whoever_decides(name):
    """Every step is a mask update, whoever decides."""
    method = methods.get(name, sparsity=0.6, noise=1.0, l1=0.2)
    assert all(method.is_update_step(t) for t in range(1, 9))
    following.assert_modes_agree(method, steps=4)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("deepr", dict(noise=-1.0)),
        ("deepr", dict(l1=float("nan"))),
        ("soft_deepr", dict(l1=0.0)),
        ("soft_deepr", dict(learning_rate=0.0)),
    ],
)
def test_what_is_refused(name, wrong):
    ((argument, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{argument}={value!r} is not accepted; expected a number"):
        methods.get(name, sparsity=0.5, **wrong)


@pytest.mark.parametrize("heard", [0.0, 1e-6])
def test_noise_rewires_a_layer_that_the_batch_does_not_reach(heard):
    """As it does one with a gradient at a single weight: what crosses zero dies, and as many others wake up."""
    params = {n: jnp.full((10, 10), 0.1) for n in ("a", "b")}
    tx = dstjax.sparsify(optax.sgd(1.0), methods.deepr(sparsity=0.5, distribution="uniform", noise=1.0, l1=0.0))
    params, state = dstjax.start(tx, params)
    gradients = {"a": jnp.zeros((10, 10)).at[0, 0].set(heard), "b": jnp.full((10, 10), 1e-6)}
    updates, new = tx.update(gradients, state, params)
    old_mask, mask = (dstjax.get_masks(s)["a"] for s in (state, new))
    assert mask.sum() == 50
    assert (mask != old_mask).sum() > 10
    woken = (mask & ~old_mask, optax.apply_updates(params, updates)["a"])
    assert np.abs(woken[1][woken[0]]) == pytest.approx(1e-12)

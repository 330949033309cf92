"""AccSET, LSET and DynSET: worked examples (D12 to D14), transcripts, pauses, and what is done without a number."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods
from dstjax.methods.adaptive import sigmoid
from tests import oracles
from tests.dstjax.methods import following
from tests.stepping import compiled
from tests.thorough import few, slow

STEPS, UPDATES = 34, 11  # so many until DynSET has paused
SHARED = dict(sparsity=0.4, update_period=3, end_step=STEPS)
NAMES = ["accset", "lset", "dynset"]
GIVEN = {"accset": "metric", "lset": "value", "dynset": "value"}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


class Regrowing(following.Run):
    """D12 to D14: SET's drop, then theta of what is missing to the start; nothing in a pause.

    "If e is not the last training epoch then add": the last update only drops. What the paper reports is counted after
    additions, so that this update comes after it: without ``last_drops`` it grows as any other.
    """

    def __init__(self, *args, spy, performance, k=0.0, lag=None, last_drops=True, **others):
        super().__init__(*args, schedule="constant", **others)
        self.last_drops = last_drops
        self.spy, self.performance, self.k, self.lag = spy, performance, k, lag
        self.history, self.losses, self.paused = [], [], 0

    def step(self, gradients):
        if "value" in self.given:
            self.losses.append(self.given["value"])
        super().step(gradients)

    def chosen(self, gradients):
        measure = np.mean(self.losses) if self.performance == "loss" else self.given["metric"]
        self.losses = []
        self.history.append(measure)
        if self.lag is not None and len(self.history) > self.lag + 1:
            before = self.history[-1 - self.lag]
            if measure < before if self.performance == "accuracy" else measure > before:
                self.paused += 1
                return self.m
        p = measure if self.performance == "accuracy" else min(max(1 - measure / self.history[0], 0), 1)
        theta = 1 - (p - p * self.k) / (self.k - 2 * self.k * abs(p) + 1)
        new = {}
        for n, m in self.m.items():
            dropped = min(math.floor(self.fraction() * m.sum() + 1e-9), m.sum() - 1)
            kept = oracles.keep_after_set(self.w[n], m, dropped, fraction=True)
            grown = 0 if self.is_last and self.last_drops else math.floor(theta * (self.gamma[n] - kept.sum()))
            new[n] = kept | oracles.best(self.spy.read(self.t, n), grown, ~kept)
        return new


def accuracy(t):
    return {"metric": jnp.float32(0.3 + 0.15 * math.sin(t) + 0.01 * t)}


def loss(t):
    return {"value": jnp.float32(2.3 * math.exp(-t / 20) * (1 + 0.4 * math.sin(t / 3)))}


def validation_loss(t):
    return {"metric": jnp.float32(2.3 * (1 + 0.5 * math.sin(t / 4)))}


CASES = [
    ("accset", dict(k=-0.5), accuracy),
    ("lset", dict(last_drops=False), loss),
    slow("lset", dict(), loss),
    slow("lset", dict(performance="validation_loss", k=0.3), validation_loss),
    ("dynset", dict(), loss),
    slow("dynset", dict(performance="accuracy", lag=1), accuracy),
    slow("dynset", dict(performance="validation_loss", lag=5), validation_loss),
]


@few(2)
@pytest.mark.parametrize(("name", "options", "given"), CASES)
def test_transcript(x64, name, options, given):
    spy = following.Spy()
    method = methods.get(name, **SHARED, **options).but(grow_score=spy)
    told = {"performance": "accuracy" if name == "accset" else "loss", "lag": 3 if name == "dynset" else None}
    run, changed = following.follow(
        method,
        lambda *args: Regrowing(*args, spy=spy, end=STEPS, **{**told, **options}),
        given=given,
        jit=False,
        steps=STEPS,
    )
    assert run.updates == UPDATES
    assert changed == UPDATES - run.paused
    assert (run.paused > 0) == (name == "dynset")
    assert all(run.m[n].sum() < run.gamma[n] for n in run.m)


def test_what_the_paper_reports_is_counted_after_additions():
    """The last update drops 0.3 of what is left; without it the network ends with the connections after additions."""
    ends = {}
    for last_drops in (True, False):
        method = methods.accset(**{**SHARED, "end_step": 10}, last_drops=last_drops)
        ends[last_drops] = counts(method, [{"metric": jnp.float32(0.4)}] * 10)
    assert ends[True][:8] == ends[False][:8]  # until the last update, at the ninth step
    before = ends[False][7]
    dropped = before - ends[True][-1]
    assert 0 < dropped <= 0.3 * before
    missing = ends[False][0] - ends[True][-1]
    assert ends[False][-1] == ends[True][-1] + math.floor(0.6 * missing)


def test_last_drops_is_a_flag():
    with pytest.raises(ValueError, match="last_drops=1 is not accepted; expected True or False"):
        methods.lset(**SHARED, last_drops=1)


@pytest.mark.parametrize(
    ("k", "thetas"), [(-0.5, [1, 0.5, 0.25, 0.1, 0]), (0.5, [1, 0.9, 0.75, 0.5, 0]), (0.0, [1, 0.75, 0.5, 0.25, 0])]
)
def test_the_sigmoid(k, thetas):
    """D12: the values of the reference at p = 0, .25, .5, .75, 1."""
    np.testing.assert_allclose(1 - sigmoid(jnp.linspace(0, 1, 5), k), thetas, atol=1e-7)


def started(method, params=None, seed=0):
    tx = dstjax.sparsify(optax.sgd(0.0), method, seed=seed)
    params = {"w": jnp.asarray(np.random.default_rng(0).standard_normal((10, 20)))} if params is None else params
    state = tx.init(params)
    return tx, dstjax.apply_masks(params, state), state


def counts(method, given, params=None):
    """Active weights after each step, for what is passed at each."""
    tx, params, state = started(method, params)
    step = jax.jit(lambda p, s, extra: tx.update(p, s, p, **extra))
    found = []
    for extra in given:
        updates, state = step(params, state, extra)
        params = optax.apply_updates(params, updates)
        params = jax.tree.map(lambda w, m: jnp.where(m & (w == 0), 0.5, w), params, dstjax.get_masks(state))
        found.append(sum(following.active(state).values()))
    return found


def epochs(name, sparsity=0.5, end_step=100, **options):
    return methods.get(name, sparsity=sparsity, update_period=1, end_step=end_step, **options)


def test_accset_worked_example():
    """D12: gamma = 100, p = .6: 70 left, 12 grown; 58 left, 16 grown; the last update drops int(.3 * 74) = 22."""
    assert counts(epochs("accset", end_step=4), [{"metric": 0.6}] * 5) == [82, 74, 52, 52, 52]


def test_accset_fixed_point():
    """D12: n / gamma tends to theta / (1 - (1 - zeta)(1 - theta)): .643 at p = .6494, where the study counted .639."""
    found = counts(epochs("accset", sparsity=0.9), [{"metric": 0.6494}] * 25, {"w": jnp.ones((100, 200))})
    assert found[-1] / 2000 == pytest.approx(0.643, abs=2e-3)


def test_lset_worked_example():
    """D13: initLoss 2.3, loss .95: theta = .413; of 40 missing 16 are grown. At the first loss all are grown back."""
    losses = [{"value": 2.3}, {"value": 0.95}]
    assert counts(epochs("lset", drop_fraction=0.4), losses) == [100, 76]
    losses = [{"metric": 2.3}, {"metric": 0.95}]
    assert counts(epochs("lset", drop_fraction=0.4, performance="validation_loss"), losses) == [100, 76]


def test_a_loss_above_the_first_one_grows_everything_back():
    assert counts(epochs("lset"), [{"value": v} for v in (1.0, 0.5, 3.0)])[-1] == 100


@pytest.mark.parametrize(("last", "is_paused"), [(1.45, False), (1.65, True), (1.6, False)])
def test_dynset_worked_example(last, is_paused):
    """D14: the fifth of [2.0, 1.6, 1.4, 1.5, x] is compared with the second."""
    tx, params, state = started(epochs("dynset", performance="validation_loss"))
    step = jax.jit(lambda s, m: tx.update(params, s, params, metric=m))
    history = []
    for m in (2.0, 1.6, 1.4, 1.5, last):
        _, state = step(state, m)
        history.append(np.asarray(dstjax.get_masks(state)["w"]))
    assert (history[-1] == history[-2]).all() == is_paused
    assert all((a != b).any() for a, b in itertools.pairwise(history[:4]))


def test_a_pause_for_accuracy_is_when_it_falls():
    """With a lag of one there are pauses from the third update on; the fourth one is better than the third."""
    accuracies = [{"metric": a} for a in (0.5, 0.6, 0.4, 0.45, 0.3)]
    found = counts(epochs("dynset", performance="accuracy", lag=1), accuracies)
    assert found[2] == found[1]
    assert found[3] != found[2]
    assert found[4] == found[3]


def test_weights_are_trained_in_a_pause():
    method = epochs("dynset", performance="accuracy", lag=1)
    tx = dstjax.sparsify(optax.sgd(0.1), method)
    params = {"w": jnp.ones((10, 20))}
    state = tx.init(params)
    params = dstjax.apply_masks(params, state)
    for a in (0.5, 0.6, 0.4):
        before, masks = params, dstjax.get_masks(state)["w"]
        updates, state = compiled(tx).update({"w": jnp.ones((10, 20))}, state, params, metric=a)
        params = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(masks, dstjax.get_masks(state)["w"])
    np.testing.assert_allclose(params["w"], jnp.where(masks, before["w"] - 0.1, 0), rtol=1e-6)


def test_the_mean_loss_is_that_since_the_last_update():
    method = methods.lset(sparsity=0.5, update_period=2, end_step=100, drop_fraction=0.4)
    losses = [{"value": v} for v in (2.2, 2.4, 0.9, 1.0)]
    assert counts(method, losses) == [100, 100, 100, 76]


@pytest.mark.parametrize("name", NAMES)
def test_the_number_that_is_missing_is_named(name):
    tx, params, state = started(methods.get(name, **{**SHARED, "update_period": 1}))
    with pytest.raises(ValueError, match=rf"method '{name}' needs {GIVEN[name]}=; call tx.update\(..., {GIVEN[name]}="):
        tx.update(params, state, params)
    with pytest.raises(ValueError, match=f"needs {GIVEN[name]}="):
        jax.jit(tx.update)(params, state, params)
    with pytest.raises(ValueError, match=f"needs {GIVEN[name]}="):
        tx.update(params, state, params, rewire=True)
    tx.update(params, state, params, rewire=False)  # a step that is no mask update does without


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), [0.5, 0.5], "good"])
@pytest.mark.parametrize("name", ["accset", "lset"])
def test_what_is_no_finite_number_is_refused(name, bad):
    tx, params, state = started(methods.get(name, **{**SHARED, "update_period": 1}))
    with pytest.raises(ValueError, match=rf"{GIVEN[name]}=.* is not accepted; expected a finite number"):
        tx.update(params, state, params, **{GIVEN[name]: bad})


def test_an_accuracy_in_percent_is_refused():
    tx, params, state = started(methods.accset(**SHARED))
    with pytest.raises(ValueError, match=r"metric=64.9 is not accepted; expected an accuracy in \[0, 1\]"):
        tx.update(params, state, params, metric=64.9)


@pytest.mark.parametrize("name", NAMES)
def test_in_a_trace_it_leaves_the_topology_as_it_is(name):
    """... and is forgotten: later updates count against the first loss that is a number."""
    tx, params, state = started(epochs(name))
    step = jax.jit(lambda s, x: tx.update(params, s, params, **{GIVEN[name]: x})[1])

    def final(given):
        at = state
        for x in given:
            at = step(at, x)
        return at

    good = [0.9, 0.5, 0.6, 0.4, 0.45, 0.3]
    without = final(good)
    for bad in (math.nan, math.inf, -math.inf):
        np.testing.assert_array_equal(dstjax.get_masks(step(state, bad))["w"], dstjax.get_masks(state)["w"])
        with_bad = final([bad, *good[:3], bad, *good[3:]])
        assert following.active(with_bad) == following.active(without)
        assert int(with_bad.memory.measured.updates) == len(good)
        for name_, a in without.memory.measured._asdict().items():
            np.testing.assert_array_equal(a, getattr(with_bad.memory.measured, name_))


def test_metrics_of_a_population():
    """Each member of a vmapped population goes by its own metric, as it would alone."""
    tx, params, state = started(epochs("accset"))
    accuracies = jnp.array([0.0, 0.3, 0.6, 1.0])

    def twice(a):
        at = state
        for _ in range(2):
            _, at = compiled(tx).update(params, at, params, metric=a)
        return dstjax.get_masks(at)["w"]

    together = np.asarray(jax.jit(jax.vmap(twice))(accuracies))
    alone = jax.jit(twice)
    for a, mask in zip(accuracies, together, strict=True):
        np.testing.assert_array_equal(mask, alone(a))
    assert together.sum((1, 2)).tolist() == [100, 89, 74, 49]


def test_the_number_passes_through_a_chain():
    tx = optax.chain(optax.clip_by_global_norm(1.0), dstjax.sparsify(optax.adam(0.1), epochs("accset")))
    params = {"w": jnp.ones((10, 20))}
    _, state = compiled(tx).update(params, tx.init(params), params, metric=0.6)
    assert following.active(state) == {"w": 82}


@pytest.mark.parametrize("name", ["accset", slow("dynset")])
def test_an_update_after_the_end_is_as_the_last_one(name):
    """Where a host asks for it: it drops and does not grow."""
    tx, params, state = started(epochs(name, end_step=2))
    extra = {GIVEN[name]: 0.5}
    sizes = []
    for _ in range(3):
        _, state = compiled(tx).update(params, state, params, rewire=True, **extra)
        sizes.append(following.active(state)["w"])
    assert sizes == [70, 49, 35]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["accset", "dynset"])
def test_whoever_decides(name):
    """As with LSET in the conformance tests."""
    method = methods.get(name, sparsity=0.4, update_period=2, end_step=12)
    following.assert_modes_agree(method, accuracy if name == "accset" else loss, steps=8)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("accset", dict(k=1.0)),
        ("accset", dict(k=-1.0)),
        ("lset", dict(performance="f1")),
        ("dynset", dict(lag=0)),
    ],
)
def test_what_is_refused(name, wrong):
    ((argument, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{argument}={value!r} is not"):
        methods.get(name, **SHARED, **wrong)


@pytest.mark.parametrize("name", ["accset", "lset", "dynset"])
@pytest.mark.parametrize("structure", [dstjax.structures.n_m(2, 4), dstjax.structures.fan_in()], ids=str)
def test_structures_that_hold_their_number_are_refused(name, structure):
    with pytest.raises(ValueError, match=rf"structure=.* is not accepted by '{name}'"):
        methods.get(name, sparsity=0.5, update_period=2, end_step=9, structure=structure)

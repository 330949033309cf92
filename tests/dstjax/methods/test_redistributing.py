"""SNFS and DSR: worked examples (D4, D5), transcripts, and the totals that they keep."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods
from tests import oracles
from tests.dstjax.methods import following
from tests.stepping import compiled
from tests.thorough import slow

SHARED = dict(sparsity=0.6, update_period=3, end_step=following.STEPS)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


class SparseMomentum(following.Run):
    """D4, with a moving average for the momentum, as our method has it."""

    def __init__(self, *args, redistribution="momentum", decay=0.9, **others):
        super().__init__(*args, alpha=0.5, schedule="cosine_floor", **others)
        self.average = {n: np.zeros_like(self.w[n]) for n in self.m}
        self.decay, self.redistribution = decay, redistribution
        self.baseline = sum(self.gamma.values())
        self.adjustment, self.history, self.capped, self.spared = 0.0, [], 0, 0

    def step(self, gradients):
        for n in self.average:
            self.average[n] = self.decay * self.average[n] + (1 - self.decay) * gradients[n]
        super().step(gradients)

    def chosen(self, gradients):
        rho, layers = self.fraction(), list(self.m)
        mean = {n: np.abs(self.average[n][m]).mean() for n, m in self.m.items()}
        share = {n: mean[n] / sum(mean.values()) for n in layers}
        removed = {}
        for n, m in self.m.items():
            inactive, p = int((~m).sum()), rho
            if self.redistribution == "momentum" and 5 * inactive < m.size and share[n] > 1 / len(layers):
                p = min(inactive / m.size, rho)
                self.spared += p < rho
            removed[n] = math.ceil(p * m.sum() - 1e-9)
        kept = {n: oracles.best(np.abs(self.w[n]), m.sum() - removed[n], m) for n, m in self.m.items()}
        grown = removed if self.redistribution == "none" else self.redistributed(share, removed, kept)
        new = {n: k | oracles.best(np.abs(self.average[n]), grown[n], ~k) for n, k in kept.items()}
        delta = self.baseline - sum(int(m.sum()) for m in new.values())
        self.history.append(delta)
        self.adjustment = 0.25 * self.adjustment + 0.75 * delta + np.mean(self.history)
        return new

    def redistributed(self, share, removed, kept):
        total = sum(removed.values()) + self.adjustment
        wanted = {n: max(float(math.ceil(share[n] * total)), 0.0) for n in share}
        most = {n: 0.99 * (~kept[n]).sum() for n in share}
        for _ in range(1000):
            over = {n: max(wanted[n] - most[n], 0.0) for n in share}
            if not any(over.values()):
                break
            self.capped += 1
            wanted = {n: min(wanted[n], most[n]) + sum(over.values()) / len(share) for n in share}
        return {n: math.floor(min(wanted[n], most[n]) + 1e-9) for n in share}


@pytest.mark.parametrize("case", [slow("even"), "crowded", "none", slow("without decay")])
def test_snfs_follows_its_transcript(x64, case):
    """'crowded' gives one small layer nearly all of the momentum: it fills up, and drops no more than its sparsity."""
    options = {"none": dict(redistribution="none"), "without decay": dict(decay=0.0)}.get(case, {})
    method = methods.snfs(
        **SHARED, momentum=options.get("decay", 0.9), redistribution=options.get("redistribution", "momentum")
    )

    def also(run, state):
        for x, average in zip(jax.tree.leaves(state.memory.leaves), run.average.values(), strict=True):
            np.testing.assert_allclose(x, average, rtol=1e-10)
        if case != "none":
            assert float(state.memory.shared.adjustment) == pytest.approx(run.adjustment, rel=1e-5, abs=1e-5)

    run, changed = following.follow(
        method, lambda *args: SparseMomentum(*args, **options), also=also,
        scale={"list/0": 60.0} if case == "crowded" else None,
    )  # fmt: skip
    assert changed >= following.UPDATES - 2
    if case == "crowded":
        assert run.capped
        assert run.spared
    counts = {n: int(m.sum()) for n, m in run.m.items()}
    assert (counts == run.gamma) == (case == "none")  # the others move weights between layers
    assert all(abs(delta) <= len(run.m) for delta in run.history)  # the total is kept but for rounding


def one_update(method, params, grads, seed=0):
    """Masks before and after, the weights of the start, and the last parameters and state, after one step of rate 0."""
    tx = dstjax.sparsify(optax.sgd(0.0), method, seed=seed)
    state = tx.init(params)
    before, params = dstjax.get_masks(state), dstjax.apply_masks(params, state)
    updates, state = compiled(tx).update(grads(before), state, params)
    return before, dstjax.get_masks(state), optax.apply_updates(params, updates), state


def test_snfs_worked_example():
    """D4: (4, 6) active and (6, 14) not, rho = 0.5 and mean momenta (.3, .1): 5 removed, (4, 2) grown, adj = -1.75."""
    method = methods.snfs(
        sparsity=None, distribution={"a": 0.4, "b": 0.3}, update_period=1, momentum=0.0, drop_fraction=0.5,
        drop_schedule="constant",
    )  # fmt: skip
    params = {"a": jnp.arange(1.0, 11).reshape(2, 5), "b": jnp.arange(1.0, 21).reshape(4, 5)}
    inactive = {"a": jnp.arange(10.0).reshape(2, 5), "b": jnp.arange(20.0).reshape(4, 5)}

    def grads(masks):
        return {n: jnp.where(masks[n], -m, inactive[n]) for n, m in [("a", 0.3), ("b", 0.1)]}

    before, after, params, state = one_update(method, params, grads)
    removed = {"a": 2, "b": 3}
    for n, grown in [("a", 4), ("b", 2)]:
        was, now = np.asarray(before[n]), np.asarray(after[n])
        kept = oracles.best(np.asarray(params[n]) + np.arange(was.size).reshape(was.shape), was.sum() - removed[n], was)
        momentum = np.where(was, [0.3, 0.1][n == "b"], np.asarray(inactive[n]))
        np.testing.assert_array_equal(now, kept | oracles.best(momentum, grown, ~kept))
    assert [int(m.sum()) for m in after.values()] == [6, 5]
    assert float(state.memory.shared.adjustment) == -1.75


def test_snfs_without_any_gradient_loses_nothing_for_good():
    """All momenta are 0, so no layer has a share and nothing is grown; what is missing comes back with the gradient."""
    method = methods.snfs(sparsity=0.5, update_period=1, drop_fraction=0.5, drop_schedule="constant")
    params = {"a": jnp.arange(1.0, 41).reshape(5, 8), "b": jnp.arange(1.0, 41).reshape(8, 5)}
    tx = dstjax.sparsify(optax.sgd(0.0), method)
    state = tx.init(params)
    params, total, found = dstjax.apply_masks(params, state), int(state.targets.sum()), []
    for t in range(12):
        grads = jax.tree.map(lambda w, t=t: 0 * w if t == 0 else 1 + 0 * w, params)
        updates, state = compiled(tx).update(grads, state, params)
        params = optax.apply_updates(params, updates)
        found.append(sum(following.active(state).values()))
    assert found[0] < total
    assert abs(found[-1] - total) <= 2


class Threshold(following.Run):
    """D5: one threshold, growth in proportion to survivors and never where something was just dropped."""

    def __init__(self, *args, spy, threshold, fraction, **others):
        super().__init__(*args, **others)
        self.spy, self.h, self.part = spy, threshold, fraction
        self.wanted = math.floor(fraction * sum(self.gamma.values()) + 1e-9)
        self.moves = set()

    def chosen(self, gradients):
        old = self.m
        kept = {n: m & (np.abs(self.w[n]) >= self.h) for n, m in old.items()}
        kept = {n: k if k.any() else oracles.best(np.abs(self.w[n]), 1, old[n]) for n, k in kept.items()}
        dropped = sum(int(m.sum()) for m in old.values()) - sum(int(k.sum()) for k in kept.values())
        missing = sum(self.gamma.values()) - sum(int(k.sum()) for k in kept.values())
        grown = dealt(missing, [int(k.sum()) for k in kept.values()], [int((~m).sum()) for m in old.values()])
        new = {n: kept[n] | oracles.best(self.spy.read(self.t, n), k, ~old[n]) for n, k in zip(old, grown, strict=True)}
        if dropped > 1.1 * self.wanted:
            self.h, move = self.h / 2, "halved"
        elif dropped < 0.9 * self.wanted:
            self.h, move = self.h * 2, "doubled"
        else:
            move = "left"
        self.moves.add(move)
        return new


def dealt(total, shares, room):
    """In proportion to the shares, rounded down, again and again while that gives any; then one each from the first."""
    given = [0] * len(room)
    total = min(total, sum(room))
    while sum(given) < total:
        left = total - sum(given)
        weight = [max(s, 1) if r > g else 0 for s, r, g in zip(shares, room, given, strict=True)]
        more = [min(left * w // sum(weight), r - g) for w, r, g in zip(weight, room, given, strict=True)]
        if not any(more):
            free = [i for i, w in enumerate(weight) if w][:left]
            more = [int(i in free) for i in range(len(room))]
        given = [g + m for g, m in zip(given, more, strict=True)]
    return given


@pytest.mark.parametrize(("sparsity", "threshold", "fraction"), [slow(0.6, 0.02, 0.2), (0.3, 0.5, 0.1)])
def test_dsr_follows_its_transcript(x64, sparsity, threshold, fraction):
    """At a sparsity of 0.3 the first update drops more than there is room elsewhere; later ones grow the rest."""
    spy = following.Spy()
    end = 34  # the threshold has moved both ways by then
    shared = {**SHARED, "sparsity": sparsity, "end_step": end}
    method = methods.dsr(**shared, threshold=threshold, drop_fraction=fraction)
    method = method.but(grow_score=spy)
    totals = []

    def also(run, state):
        assert float(state.memory.shared) == pytest.approx(run.h)
        totals.append(sum(int(m.sum()) for m in run.m.values()))

    run, changed = following.follow(
        method,
        lambda *args: Threshold(*args, spy=spy, threshold=np.float32(threshold), fraction=fraction, end=end),
        also=also,
        steps=end,
        jit=False,
    )
    assert changed >= 8
    assert run.moves >= {"halved", "doubled"}
    total = sum(run.gamma.values())
    assert {n: int(m.sum()) for n, m in run.m.items()} != run.gamma
    assert totals[-1] == total
    assert (min(totals) < total) == (sparsity == 0.3)


def test_dsr_worked_example():
    """D5: survivors (10, 20, 30) and K = 12 grow (2, 4, 6); N_p = 10, so that 12 > 11 halves the threshold."""
    method = methods.dsr(
        sparsity=None, distribution={"a": 14 / 40, "b": 24 / 60, "c": 34 / 80}, update_period=1, drop_fraction=10.5 / 72
    )
    params = {n: jnp.ones((r, 10)) for n, r in [("a", 4), ("b", 6), ("c", 8)]}
    tx = dstjax.sparsify(optax.sgd(0.0), method)
    state = tx.init(params)
    before = dstjax.get_masks(state)
    assert following.active(state) == {"a": 14, "b": 24, "c": 34}
    small = {n: oracles.best(np.zeros(m.shape), 4, np.asarray(m)) for n, m in before.items()}
    params = {n: jnp.where(before[n], jnp.where(small[n], 9e-4, 1e-3), 0) for n in params}  # 1e-3 is not below H
    _, state = compiled(tx).update(jax.tree.map(jnp.zeros_like, params), state, params)
    after = {n: np.asarray(m) for n, m in dstjax.get_masks(state).items()}
    grown = {n: int((after[n] & ~np.asarray(before[n])).sum()) for n in after}
    assert grown == {"a": 2, "b": 4, "c": 6}
    assert {n: int(m.sum()) for n, m in after.items()} == {"a": 12, "b": 24, "c": 36}
    assert not any((after[n] & small[n]).any() for n in after)
    assert float(state.memory.shared) == np.float32(5e-4)


@pytest.mark.parametrize(("dropped", "expected"), [(8, 2e-3), (9, 1e-3), (11, 1e-3), (12, 5e-4)])
def test_dsr_leaves_the_threshold_within_the_tolerance(dropped, expected):
    method = methods.dsr(sparsity=0.5, update_period=1, drop_fraction=0.1)  # 10 of 100
    params = {"w": jnp.ones((10, 20))}
    tx = dstjax.sparsify(optax.sgd(0.0), method)
    state = tx.init(params)
    mask = np.asarray(dstjax.get_masks(state)["w"])
    small = oracles.best(np.zeros(mask.shape), dropped, mask)
    params = {"w": jnp.where(mask, jnp.where(small, 1e-5, -1.0), 0)}
    _, state = compiled(tx).update(params, state, params)
    assert float(state.memory.shared) == np.float32(expected)
    assert following.active(state) == {"w": 100}


def test_dsr_leaves_one_weight_in_every_layer():
    method = methods.dsr(sparsity=0.5, update_period=1, threshold=10.0)
    params = {"a": jnp.arange(1.0, 13).reshape(3, 4), "b": jnp.full((4, 4), 20.0)}
    before, after, params, _ = one_update(method, params, lambda _: jax.tree.map(jnp.zeros_like, params))
    largest = jnp.argmax(jnp.where(before["a"], jnp.arange(12.0).reshape(3, 4), -1))
    assert bool(after["a"].ravel()[largest])
    assert int((before["a"] & after["a"]).sum()) in (1, 2, 3)  # eleven and twelve are not below ten either
    assert sum(int(m.sum()) for m in after.values()) == 14


@pytest.mark.slow
@pytest.mark.parametrize("name", ["snfs", "dsr"])
def test_whoever_decides(name):
    """As with SNFS in the conformance tests."""
    options = {"snfs": {}, "dsr": dict(threshold=0.1, drop_fraction=0.2)}[name]
    following.assert_modes_agree(methods.get(name, sparsity=0.6, update_period=2, end_step=20, **options))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("snfs", dict(momentum=1.0)),
        ("snfs", dict(redistribution="magnitude")),
        ("dsr", dict(threshold=0.0)),
        ("dsr", dict(tolerance=1.0)),
        ("dsr", dict(drop_fraction=1.5)),
    ],
)
def test_what_is_refused(name, wrong):
    ((argument, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{argument}={value!r} is not"):
        methods.get(name, **SHARED, **wrong)


@pytest.mark.parametrize("second", [jnp.float8_e5m2, jnp.float16, jnp.float32])
def test_leaves_of_several_dtypes(second):
    """Floats of one byte are promoted by nothing but by name."""
    tx = dstjax.sparsify(optax.sgd(0.1), methods.snfs(sparsity=0.5, update_period=1, end_step=9))
    params = {"a": {"kernel": jnp.ones((4, 4), jnp.bfloat16)}, "b": {"kernel": jnp.ones((4, 4), second)}}
    params, state = dstjax.start(tx, params)
    state = compiled(tx).update(params, state, params)[1]
    assert abs(sum(dstjax.masks.count_active(state).values()) - 16) <= 2  # rounding of the shares

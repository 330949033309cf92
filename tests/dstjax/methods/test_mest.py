"""MEST with both memory bounds (D8), SET whose grown weights start at random (D1), growth next to active weights."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods
from tests import oracles, trees
from tests.dstjax.methods import following
from tests.stepping import compiled
from tests.thorough import slow

SHARED = dict(sparsity=0.6, update_period=3, end_step=following.STEPS)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


class SoftBound(following.Run):
    """D8, EM&S: prune to the target, then grow some on top of it; the last update only prunes."""

    def __init__(self, *args, spy, lam, alpha, order):
        super().__init__(*args, alpha=alpha, order=order)
        self.spy, self.lam, self.peak = spy, lam, 0

    def fraction(self):
        return self.alpha * (1.0 if self.t / self.end < 0.75 else 0.5)

    def chosen(self, gradients):
        new = {}
        for n, m in self.m.items():
            score = oracles.drop_score("mest", self.w[n], gradients[n], self.lam)
            kept = oracles.best(score, self.gamma[n], m)
            more = 0 if self.is_last else math.floor(self.fraction() * self.gamma[n] + 1e-9)
            new[n] = kept | oracles.best(self.spy.read(self.t, n), more, ~kept)
        self.peak = max(self.peak, sum(int(m.sum()) for m in new.values()))
        return new


@pytest.mark.parametrize("order", ["skip", *map(slow, ("step_then_update", "update_then_step"))])
def test_soft_bound_follows_its_transcript(x64, order):
    spy = following.Spy()
    method = methods.mest(
        **SHARED, lambda_=0.7, soft_bound=True, drop_fraction=0.3, drop_schedule="stages", grow=spy, update_order=order
    )
    run, changed = following.follow(
        method, lambda *args: SoftBound(*args, spy=spy, lam=0.7, alpha=0.3, order=order), jit=False
    )
    assert changed == following.UPDATES
    assert run.peak == sum(n + math.floor(0.3 * n + 1e-9) for n in run.gamma.values())
    assert {n: int(m.sum()) for n, m in run.m.items()} == run.gamma  # in the end as sparse as asked for


class Together(SoftBound):
    """The non-uniform form: one ranking over all leaves to drop, and one of what was drawn to grow."""

    def __init__(self, *args, soft_bound, **others):
        super().__init__(*args, **others)
        self.soft_bound = soft_bound

    def chosen(self, gradients):
        names = list(self.m)
        masks = [self.m[n] for n in names]
        scores = [oracles.drop_score("mest", self.w[n], gradients[n], self.lam) for n in names]
        moving = {n: math.floor(self.fraction() * (self.gamma[n] if self.soft_bound else self.m[n].sum()) + 1e-9)
                  for n in names}  # fmt: skip
        whole = sum(self.gamma.values())
        first = [oracles.best(s, 1, m) for s, m in zip(scores, masks, strict=True)]
        stay = (whole if self.soft_bound else whole - sum(moving.values())) - len(names)
        rest = oracles.best_together(scores, stay, [m & ~f for m, f in zip(masks, first, strict=True)])
        kept = [f | r for f, r in zip(first, rest, strict=True)]
        surplus = sum(moving.values()) if self.soft_bound and not self.is_last else 0
        missing = whole + surplus - sum(int(k.sum()) for k in kept)
        drawn = [self.spy.read(self.t, n) for n in names]
        grown = oracles.best_together(drawn, missing, [~k for k in kept])
        return {n: k | g for n, k, g in zip(names, kept, grown, strict=True)}


@pytest.mark.parametrize("soft_bound", [False, slow(True)])
def test_the_non_uniform_form_moves_weights_between_leaves(x64, soft_bound):
    spy = following.Spy()
    method = methods.mest(
        **SHARED, lambda_=0.7, soft_bound=soft_bound, drop_fraction=0.3, drop_schedule="stages", grow=spy,
        update_order="step_then_update", scope="global",
    )  # fmt: skip
    run, changed = following.follow(
        method,
        lambda *args: Together(*args, soft_bound=soft_bound, spy=spy, lam=0.7, alpha=0.3, order="step_then_update"),
        jit=False,
    )
    assert changed == following.UPDATES
    ends = {n: int(m.sum()) for n, m in run.m.items()}
    assert sum(ends.values()) == sum(run.gamma.values())
    assert all(ends[n] != run.gamma[n] for n in ends)


@pytest.mark.parametrize(("soft_bound", "grown", "between"), [(False, 1, 4), (True, 1, 5)])
def test_worked_example(soft_bound, grown, between):
    """D8: of |W| = [.9 .5 .3 .1] EM keeps 3, drops .1 and grows 1 of 7; EM&S keeps all 4 and grows 1 of 6."""
    method = methods.mest(
        sparsity=0.6, lambda_=0.0, soft_bound=soft_bound, update_period=1, end_step=4, drop_fraction=0.25,
        drop_schedule="constant",
    )  # fmt: skip
    tx = dstjax.sparsify(optax.sgd(0.0), method)
    params = {"w": jnp.ones((1, 10))}
    state = tx.init(params)
    before = np.asarray(dstjax.get_masks(state)["w"])
    values = np.zeros((1, 10), np.float32)
    values[before] = [0.9, -0.5, 0.3, -0.1]
    _, state = compiled(tx).update(params, state, {"w": jnp.asarray(values)})
    after = np.asarray(dstjax.get_masks(state)["w"])
    kept = before if soft_bound else before & (np.abs(values) > 0.2)
    assert (after & kept).sum() == kept.sum()
    assert (after & ~kept).sum() == grown
    assert after.sum() == between
    for expected in [between, 4, 4]:  # the third update is the last
        _, state = compiled(tx).update(params, state, {"w": jnp.asarray(values)})
        assert following.active(state) == {"w": expected}


def test_the_gradient_counts_in_the_score():
    """With lambda = 1 a small weight of large gradient stays; in the authors' code, lambda = 0, it goes."""
    for lam, stays in [(1.0, True), (0.0, False)]:
        method = methods.mest(
            sparsity=0.6, lambda_=lam, soft_bound=True, update_period=1, end_step=2, drop_schedule="constant"
        )
        tx = dstjax.sparsify(optax.sgd(0.0), method)
        w = jnp.array([[0.9, 0.5, 0.3, 0.1, 0.2, 0, 0, 0, 0, 0]])
        state = dstjax.set_masks(tx.init({"w": w}), {"w": w > 0})
        _, state = compiled(tx).update({"w": jnp.where(w == 0.1, 5.0, 0.0)}, state, {"w": w})
        assert bool(dstjax.get_masks(state)["w"][0, 3]) == stays


def test_what_is_refused():
    with pytest.raises(ValueError, match="end_step=None is not accepted with soft_bound=True"):
        methods.mest(sparsity=0.5, soft_bound=True, drop_schedule="constant")
    with pytest.raises(ValueError, match="soft_bound=1 is not accepted; expected True or False"):
        methods.mest(**SHARED, soft_bound=1)
    with pytest.raises(ValueError, match=r"lambda_=0\.5 is not accepted together with drop='snip'"):
        methods.mest(**SHARED, lambda_=0.5, drop="snip")
    with pytest.raises(ValueError, match=r"grown_std=-1\.0 is not accepted"):
        methods.set(**SHARED, grown_std=-1.0)
    with pytest.raises(ValueError, match="distribution"):
        methods.mest(distribution={".*": 0.5}, sparsity=None, scope="global", drop_schedule="constant")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [("mest", dict(soft_bound=True, drop_schedule="stages")), ("set", dict(grown_std=0.1, grow="most_neighbours"))],
)
def test_whoever_decides(name, options):
    """As with SET in the conformance tests."""
    following.assert_modes_agree(methods.get(name, sparsity=0.6, update_period=2, end_step=8, **options), steps=8)


class NormalStart(following.Run):
    """D1 with grown weights at N(0, std^2); those that were dropped and grown at once keep their value."""

    def __init__(self, *args, spy, drawn, std, order):
        super().__init__(*args, alpha=0.3, schedule="constant", order=order)
        self.spy, self.drawn, self.std = spy, drawn, std

    def chosen(self, gradients):
        new = {}
        for n, m in self.m.items():
            k = math.floor(0.3 * m.sum() + 1e-9)
            kept = oracles.keep_after_set(self.w[n], m, k, fraction=True)
            new[n] = kept | oracles.best(self.spy.read(self.t, n), k, ~kept)
        return new

    def step(self, gradients):
        old = self.m
        super().step(gradients)
        for n, m in self.m.items():
            grown = m & ~old[n]
            if grown.any():
                self.w[n][grown] = self.std * self.drawn[self.w[n].shape][grown]


@pytest.mark.parametrize("order", ["skip", slow("step_then_update")])
def test_grown_weights_of_set_start_at_random(x64, order, monkeypatch):
    spy, drawn, normal = following.Spy(), {}, jax.random.normal

    def recorded(key, shape, *args, **kwargs):
        drawn[shape] = np.asarray(normal(key, shape, *args, **kwargs))
        return jnp.asarray(drawn[shape])

    monkeypatch.setattr(jax.random, "normal", recorded)
    method = methods.set(**SHARED, grown_std=0.1, grow=spy, update_order=order)
    run, changed = following.follow(
        method, lambda *args: NormalStart(*args, spy=spy, drawn=drawn, std=0.1, order=order), jit=False
    )
    assert changed == run.updates == following.UPDATES
    assert {n: int(m.sum()) for n, m in run.m.items()} == run.gamma


def test_the_random_starts_have_the_deviation_that_was_asked_for():
    method = methods.set(sparsity=0.5, grown_std=0.2, update_period=1, drop_fraction=0.9)
    tx = dstjax.sparsify(optax.sgd(0.0), method)
    params = {"w": jnp.ones((100, 100)), "v": jnp.ones((100, 100))}
    state = tx.init(params)
    params, before = dstjax.apply_masks(params, state), dstjax.get_masks(state)
    updates, state = compiled(tx).update(params, state, params)
    params = optax.apply_updates(params, updates)
    starts = {n: np.asarray(w)[np.asarray(m & ~before[n])] for n, w in params.items()
              for m in [dstjax.get_masks(state)[n]]}  # fmt: skip
    for values in starts.values():
        assert values.size > 2000
        assert values.std() == pytest.approx(0.2, rel=0.1)
        assert abs(values.mean()) < 0.02
        assert len(np.unique(values)) > 0.99 * values.size
    assert set(starts["w"].tolist()) != set(starts["v"].tolist())


def neighbours(mask):
    """How many of the eight around each one are active, one by one."""
    matrix = mask.reshape(-1, mask.shape[-1])
    found = np.zeros(matrix.shape, int)
    for i, j in np.ndindex(*matrix.shape):
        window = matrix[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
        found[i, j] = window.sum() - matrix[i, j]
    return found.reshape(mask.shape)


class NextToActive(following.Run):
    """D15 and D16 as the growth of AccSET's host method: equal counts, drop by magnitude."""

    def __init__(self, *args, rule, draws):
        super().__init__(*args, alpha=0.4, schedule="constant", order="skip")
        self.rule, self.draws = rule, draws

    def chosen(self, gradients):
        new = {}
        for n, m in self.m.items():
            k = math.floor(0.4 * m.sum() + 1e-9)
            kept = oracles.best(np.abs(self.w[n]), m.sum() - k, m)
            near = neighbours(kept)
            first = near > 0 if self.rule == "one_neighbour" else near
            shift = 1 if self.rule == "one_neighbour" else 4
            # First by neighbours, then by what was drawn.
            drawn = self.draws[n].astype(np.uint64) >> np.uint64(shift)
            new[n] = kept | oracles.best(first.astype(np.uint64) * np.uint64(2**32) + drawn, k, ~kept)
        return new


@pytest.mark.parametrize("rule", ["one_neighbour", "most_neighbours"])
def test_growth_next_to_active_weights(x64, rule, monkeypatch):
    """Neighbours are those of the weights that the drop has left."""
    draws, bits = {}, jax.random.bits
    names = {trees.SHAPES[n]: n for n in trees.MASKED}

    def recorded(key, shape, *args, **kwargs):
        drawn = bits(key, shape, *args, **kwargs)
        if not isinstance(drawn, jax.core.Tracer):
            draws[names[shape]] = np.asarray(drawn)
        return drawn

    monkeypatch.setattr(jax.random, "bits", recorded)
    method = methods.rigl(**SHARED, grow=rule, drop_fraction=0.4, drop_schedule="constant")
    run, changed = following.follow(method, lambda *args: NextToActive(*args, rule=rule, draws=draws), jit=False)
    assert changed == run.updates == following.UPDATES


@pytest.mark.parametrize("rule", ["one_neighbour", "most_neighbours"])
@pytest.mark.parametrize("name", ["set", "accset"])
def test_methods_take_them_by_name(name, rule):
    method = methods.get(name, sparsity=0.5, update_period=1, end_step=9, grow=rule)
    assert method.updates.grow_score is getattr(dstjax.criteria, rule)

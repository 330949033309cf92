"""Balanced momentum: a transcript, what its windows read, how its scores move with layouts, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import criteria, methods
from dstjax._arrays.exact_sums import root_mean_square
from tests import conformance, oracles, trees
from tests.dstjax.methods import following
from tests.stepping import compiled
from tests.thorough import lighter, slow

SHARED = dict(sparsity=0.6, update_period=3, end_step=following.STEPS)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def balanced(m):
    """abs(m) / sqrt(r c): the last axis is the output."""
    flat = np.abs(m).reshape(-1, m.shape[-1])
    r, c = np.sqrt((flat**2).mean(1, keepdims=True)), np.sqrt((flat**2).mean(0, keepdims=True))
    return (flat / np.sqrt(r * c)).reshape(m.shape) if m.ndim > 1 else np.abs(m)


class Balanced(following.Run):
    """RigL with a windowed average and balanced scores."""

    def __init__(self, *args, window, decay):
        super().__init__(*args, alpha=0.3, schedule="cosine", order="skip")
        self.average = {n: np.zeros_like(self.w[n]) for n in self.m}
        self.window, self.decay, self.read = window, decay, 0

    def step(self, gradients):
        due = -(-(self.t + 1) // self.period) * self.period  # t is counted up within the step
        if due - (self.t + 1) < self.window and due < self.end:
            self.read += 1
            for n in self.average:
                self.average[n] = self.decay * self.average[n] + (1 - self.decay) * gradients[n]
        super().step(gradients)

    def chosen(self, gradients):
        new = {}
        for n, m in self.m.items():
            moved = int(np.floor(self.fraction() * m.sum() + 1e-9))
            kept = oracles.best(np.abs(self.w[n]), max(m.sum() - moved, 1), m)
            new[n] = kept | oracles.best(balanced(self.average[n]), m.sum() - kept.sum(), ~kept)
        return new


@pytest.mark.parametrize(("window", "decay"), [(1, 0.85), slow(2, 0.93), ("all", 0.99), slow(3, 0.0)])
def test_it_follows_its_transcript(x64, window, decay):
    method = methods.balanced_momentum(**SHARED, window=window, decay=decay, memory="float32")
    steps = 3 if window == "all" else window

    def also(run, state):
        for x, average in zip(jax.tree.leaves(state.memory.leaves), run.average.values(), strict=True):
            np.testing.assert_allclose(x, average, rtol=2e-5, atol=1e-7)

    run, changed = following.follow(
        method, lambda *args: Balanced(*args, window=steps, decay=decay), also=also, rtol=1e-6
    )
    assert changed >= following.UPDATES - 3
    assert run.read == steps * following.UPDATES


@pytest.mark.parametrize("period", [1, 5, 20])
@pytest.mark.parametrize("window", [1, None, "all"])
def test_windows_end_with_an_update(period, window):
    method = methods.balanced_momentum(sparsity=0.5, update_period=period, end_step=50, window=window)
    wanted = [method.needs_dense_gradient(t) for t in range(1, 61)]
    size = {1: 1, None: max(1, period // 5), "all": period}[window]
    expected = [any(method.is_update_step(u) for u in range(t, t + size)) for t in range(1, 61)]
    assert wanted == expected
    traced = jax.vmap(method.needs_dense_gradient)(jnp.arange(1, 61))
    np.testing.assert_array_equal(traced, expected)


KNOWN = {"set": "never", "rigl": "updates", "dst_ee": "updates", "snfs": "always", "static": "never", "dense": "always"}


@pytest.mark.parametrize("name", KNOWN)
def test_a_host_knows_when_dense_gradients_are_read(name):
    method = conformance.make(name)
    found = [bool(method.needs_dense_gradient(t)) for t in range(1, 13)]
    updates = [bool(method.is_update_step(t)) for t in range(1, 13)]
    assert found == {"never": [False] * 12, "updates": updates, "always": [True] * 12}[KNOWN[name]]


@pytest.mark.parametrize(
    "name",
    [
        n if n == "balanced_momentum" else slow(n)
        for n in conformance.METHODS
        if n != "dense" and not methods.about(n).needs  # of these the loop passes more than gradients
    ],
)
def test_gradients_of_inactive_weights_may_be_zero_elsewhere(name):
    method = conformance.make(name)
    tx = dstjax.sparsify(optax.sgd(0.1, momentum=0.9), method, seed=3)
    params, state = dstjax.start(tx, trees.everything())
    update = jax.jit(tx.update)
    states, values = [state, state], [params, params]
    for t in range(1, lighter(9, 12)):
        for i in range(2):
            grads = conformance.grads_at(values[i], t)
            if i and not method.needs_dense_gradient(t):
                grads = dstjax.apply_masks(grads, states[i])
            updates, states[i] = update(grads, states[i], values[i])
            values[i] = optax.apply_updates(values[i], updates)
    for a, b in zip(jax.tree.leaves(values[0]), jax.tree.leaves(values[1]), strict=True):
        np.testing.assert_array_equal(a, b)


def leaf_of(w, layout=None, mask=None):
    mask = jnp.zeros(w.shape, bool) if mask is None else mask
    return dstjax.Leaf(w, w, mask, None, jnp.int32(5), jax.random.key(0), jnp.int32(1), layout=layout)


def test_scores_do_not_depend_on_how_a_leaf_is_stored():
    w = jax.random.normal(jax.random.key(0), (3, 3, 4, 6)) * jnp.arange(1.0, 7).reshape(1, 1, 1, 6)
    kernel = criteria.balanced(leaf_of(w))
    by_layout = criteria.balanced(leaf_of(w, dstjax.layouts.parse("window window in out")))
    turned = criteria.balanced(leaf_of(w.transpose(3, 2, 0, 1), dstjax.layouts.parse("out in window window")))
    np.testing.assert_array_equal(kernel, by_layout)
    np.testing.assert_array_equal(kernel, turned.transpose(2, 3, 1, 0))
    stacked = criteria.balanced(leaf_of(jnp.stack([w, 2 * w]), dstjax.layouts.parse("stack window window in out")))
    np.testing.assert_allclose(stacked, jnp.stack([kernel, kernel]), rtol=1e-6)
    np.testing.assert_allclose(criteria.balanced(leaf_of(1000 * w)), kernel, rtol=1e-5)


def test_zeros_and_layers_without_rows_have_scores():
    w = jnp.array([[0.0, 0.0], [1.0, -2.0]])
    np.testing.assert_allclose(criteria.balanced(leaf_of(w))[0], 0)
    assert np.isfinite(criteria.balanced(leaf_of(w))).all()
    np.testing.assert_array_equal(criteria.balanced(leaf_of(jnp.array([1.0, -3.0, 0.0]))), [1.0, 3.0, 0.0])
    assert criteria.balanced(leaf_of(jnp.ones((1, 1)))).shape == (1, 1)


@pytest.mark.parametrize("axis", [0, 1])
def test_root_mean_squares_are_exact_in_any_order(axis):
    x = jax.random.normal(jax.random.key(1), (40, 30)) * 10.0 ** jnp.linspace(-12, 12, 40)[:, None]
    found = root_mean_square(x, (axis,))
    expected = np.sqrt((np.asarray(x, np.float64) ** 2).mean(axis, keepdims=True))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(root_mean_square(x[::-1, ::-1], (axis,)), jnp.flip(found, 1 - axis))
    assert root_mean_square(jnp.zeros((3, 4)), (0, 1)) == 0


@pytest.mark.parametrize("shape", [(7,), (70_000, 2), (2, 3, 5), (3, 3, 4, 8), (2, 2, 3, 2, 5), (1, 1, 1, 1), (0, 3)])
def test_root_mean_squares_of_all_axes(shape):
    """However many they are: a sum of many has digits of its own for each, and none of them is beyond float32."""
    x = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    for axes in (tuple(range(len(shape))), (0,)):
        found = root_mean_square(jnp.asarray(x), axes)
        if 0 not in (shape[a] for a in axes):
            np.testing.assert_allclose(found, np.sqrt((x.astype(np.float64) ** 2).mean(axes, keepdims=True)), rtol=1e-6)
        below_two = np.nextafter(np.float32(2), 0)
        high = root_mean_square(jnp.full(shape, below_two), axes)
        np.testing.assert_allclose(high, np.full(high.shape, below_two if x.size else 0), rtol=1e-6)


def test_root_mean_squares_of_long_axes_can_be_traced():
    for length in (2**28, 2**29, 2**30):
        x = jax.ShapeDtypeStruct((length, 2), jnp.float32)
        assert jax.eval_shape(lambda x: root_mean_square(x, (0,)), x).shape == (1, 2)


def test_a_large_entry_hides_no_small_ones():
    """A layer of a million weights, of which one is a thousand times the others: all count, to the last digits."""
    x = jax.random.normal(jax.random.key(3), (1024, 1024)).at[5, 7].set(1000.0)
    found = root_mean_square(x, (0, 1))
    expected = np.sqrt((np.asarray(x, np.float64) ** 2).mean())
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_array_equal(found, root_mean_square(x[::-1, ::-1], (0, 1)))
    np.testing.assert_array_equal(found, root_mean_square(x.T, (1, 0)))


def test_outputs_that_nothing_feeds_come_last():
    w = jnp.array([[5.0, 0.1, 0.0], [4.0, 0.2, 3.0]])
    mask = jnp.array([[False, True, False], [False, False, True]])
    score = np.asarray(criteria.alive_first(criteria.gradient)(leaf_of(w, mask=mask)))
    assert score[:, 0].max() < score[:, 1:].min()
    assert score[0, 0] > score[1, 0], "among the dead the order stays"
    np.testing.assert_array_equal(score[:, 1:], w[:, 1:])
    assert methods.rigl(sparsity=0.5, end_step=9, update_period=2, avoid_dead=True) != methods.rigl(
        sparsity=0.5, end_step=9, update_period=2
    )


def test_dst_ee_in_units_of_the_gradient_does_not_depend_on_its_scale():
    g = jax.random.normal(jax.random.key(2), (6, 5))
    counter = jnp.arange(30).reshape(6, 5).astype(jnp.uint8)

    def score(factor, **options):
        leaf = leaf_of(factor * g)._replace(counter=counter, gradient=factor * g)
        return criteria.dst_ee(**options)(leaf)

    np.testing.assert_allclose(score(1.0, scale="gradient"), score(1e-6, scale="gradient"), rtol=1e-5)
    rms = np.sqrt(np.mean(np.asarray(g, np.float64) ** 2))
    expected = np.abs(g) / rms + 0.3 * np.log(5.0) / (np.asarray(counter) + 1.0)
    np.testing.assert_allclose(score(1.0, scale="gradient"), expected, rtol=1e-5)
    of_balanced = score(1.0, of="balanced", coefficient=0.0)
    np.testing.assert_allclose(of_balanced, balanced(np.asarray(g)), rtol=1e-5)


def test_a_coefficient_outweighs_gradients_where_their_order_no_longer_counts():
    gradients = jnp.array([[0.5, -2.0], [1.0, 0.25]])
    for coefficient in (0.1, 0.5, 0.9, 2.0):
        rule = criteria.dst_ee(coefficient)
        counter = jnp.array([[0, 1], [1, 0]], jnp.uint8)
        scores = rule(leaf_of(gradients)._replace(counter=counter, gradient=gradients, step=jnp.int32(20)))
        first = scores[counter == 0].min() > scores[counter == 1].max()  # whatever their gradients
        # The smallest gradient is not zero here, so that the order may turn a little before it does for all.
        if rule.outweighs(gradients, 20):
            assert first, coefficient
        assert bool(rule.outweighs(gradients, 20)) == (coefficient * np.log(20) / 2 > 2)
    assert not criteria.dst_ee(1e3, scale="gradient").outweighs(gradients, 20)
    assert not criteria.dst_ee(1e3, of="balanced").outweighs(gradients, 20)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(window=0), "window=0"),
        (dict(window=4), "window=4 is longer than update_period=3"),
        (dict(window="some"), "window='some'"),
        (dict(decay=1.0), "decay=1.0"),
        (dict(window=True), "window=True"),
        (dict(window=2.0), "window=2.0"),
        (dict(decay=-0.1), "decay=-0.1"),
        (dict(decay=float("nan")), "decay=nan"),
        (dict(decay=True), "decay=True"),
        (dict(memory="float16"), "memory='float16'"),
        (dict(candidates=0.0), "candidates=0.0"),
        (dict(candidates=True), "candidates=True"),
    ],
)
def test_what_contradicts_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        methods.balanced_momentum(**SHARED, **given)


def test_a_score_without_a_gradient_is_refused():
    with pytest.raises(ValueError, match="'balanced' needs a gradient"):
        criteria.balanced(leaf_of(jnp.ones((2, 3)))._replace(gradient=None))


def test_an_average_never_holds_what_is_not_finite():
    tx = dstjax.sparsify(optax.sgd(0.1), methods.balanced_momentum(**SHARED, window="all"))
    params, state = dstjax.start(tx, {"kernel": jnp.ones((4, 6))})
    _, state = tx.update({"kernel": jnp.full((4, 6), jnp.inf)}, state, params)
    assert all(np.isfinite(np.asarray(m, np.float32)).all() for m in jax.tree.leaves(state.memory.leaves))


def test_another_kind_of_average_is_refused():
    params = {"kernel": jnp.ones((4, 6))}
    half = dstjax.sparsify(optax.sgd(0.1), methods.balanced_momentum(**SHARED))
    single = dstjax.sparsify(optax.sgd(0.1), methods.balanced_momentum(**SHARED, memory="float32"))
    _, state = dstjax.start(half, params)
    with pytest.raises(ValueError, match=r"memory is _zeros\(bfloat16\) in the state and _zeros\(float32\)"):
        single.update(params, state, params)


def test_a_share_of_the_candidates_is_drawn_anew():
    method = methods.balanced_momentum(sparsity=0.5, update_period=1, end_step=20, candidates=0.3)
    tx = dstjax.sparsify(optax.sgd(0.1), method)
    params, state = dstjax.start(tx, {"kernel": jax.random.normal(jax.random.key(0), (20, 20))})
    grads = {"kernel": jax.random.normal(jax.random.key(1), (20, 20))}
    seen = []
    for _ in range(3):
        before = dstjax.get_masks(state)["kernel"]
        updates, state = compiled(tx).update(grads, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(np.asarray(dstjax.get_masks(state)["kernel"] & ~before))
    assert all(s.any() for s in seen)
    assert dstjax.check_sparse(params, state)


@pytest.mark.parametrize("steps", [pytest.param(400, marks=pytest.mark.slow), 61])
def test_public_parts_make_the_same_masks(steps):
    """SNFS without redistribution keeps the average, a function of one's own balances it in plain floats."""

    def grown(leaf):
        flat = jnp.abs(leaf.memory).reshape(-1, leaf.memory.shape[-1])
        rows, columns = (jnp.sqrt(jnp.mean(flat**2, axis, keepdims=True)) for axis in (1, 0))
        return (flat / jnp.sqrt(rows * columns + 1e-20)).reshape(leaf.memory.shape)

    shared = dict(sparsity=0.9, update_period=20, end_step=380, drop_fraction=0.3)
    schedule = dict(drop_schedule="cosine", rounding="floor", update_order="skip")
    parts = methods.snfs(momentum=0.97, redistribution="none", grow=grown, **schedule, **shared)
    ours = methods.balanced_momentum(window="all", decay=0.97, memory="float32", **shared)
    x = jax.random.normal(jax.random.key(0), (64, 16))
    y = jnp.tanh(x[:, :3].sum(axis=1))

    def train(method):
        tx = dstjax.sparsify(optax.sgd(0.05, momentum=0.9), method, seed=1)
        w = {"a": jax.random.normal(jax.random.key(1), (16, 40)) / 4, "b": jnp.ones((40, 1)) / 40}

        def step(carry, batch):
            params, state = carry
            loss = lambda p: jnp.mean((jnp.tanh(x[batch] @ p["a"]) @ p["b"] - y[batch, None]) ** 2)  # noqa: E731
            updates, state = compiled(tx).update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        rows = jax.random.randint(jax.random.key(2), (steps, 16), 0, 64)
        (_, state), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, rows))(dstjax.start(tx, w))
        return dstjax.get_masks(state)

    for a, b in zip(jax.tree.leaves(train(parts)), jax.tree.leaves(train(ours)), strict=True):
        np.testing.assert_array_equal(a, b)

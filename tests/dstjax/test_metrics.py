"""Figures of a run: the worked examples of the reference (G1, G2, G7, DST-EE Eq. 2 and 3), and what they need."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

import dstjax
from dstjax import masks, methods, metrics
from tests import trees
from tests.stepping import compiled
from tests.trees import CANONICAL

W, G, M, _ = (np.array(x) for x in CANONICAL)
# One update at t = 10 that moves half of the four active weights, from the canonical mask.
ONE_UPDATE = dict(sparsity=0.3, update_period=10, end_step=11, drop_fraction=0.5, drop_schedule="constant")


def after_one_update(method, counter=None):
    """The state after the update of the canonical tensor."""
    tx = dstjax.sparsify(optax.sgd(0.1), method, track=["exploration"])
    params = {"w": jnp.asarray(W, jnp.float32), "b": jnp.zeros(3)}
    state = dstjax.set_masks(tx.init(params), {"w": jnp.asarray(M, bool), "b": None})
    # What was active before set_masks counts as explored, so start the record anew.
    if counter is None:
        state = state._replace(tracked=state.tracked._replace(ever=state.masks))
    else:
        state = state._replace(counters={"w": jnp.asarray(counter, jnp.uint8), "b": None}, step=jnp.int32(999))
    grads = {"w": jnp.asarray(G, jnp.float32), "b": jnp.zeros(3)}
    _, state = compiled(tx).update(grads, state, params, rewire=True)
    return state


def test_exploration_rate_of_the_reference_example():
    """G1: with RigL's choice (0, 2) is new, 5 of 6; with DST-EE's (D10, c = 0.2) all six have been active."""
    state = after_one_update(methods.rigl(**ONE_UPDATE))
    assert float(metrics.exploration_rate(state)) == pytest.approx(5 / 6)
    state = after_one_update(methods.dst_ee(**ONE_UPDATE, coefficient=0.2, epsilon=1.0), counter=[[3, 3, 0], [1, 2, 3]])
    np.testing.assert_array_equal(dstjax.get_masks(state)["w"], [[1, 0, 1], [1, 0, 1]])
    np.testing.assert_array_equal(state.counters["w"], [[4, 3, 1], [2, 2, 4]])  # N after the update, as in D10
    assert float(metrics.exploration_rate(state)) == 1.0


def test_exploration_rate_of_a_fixed_topology_is_its_density():
    tx = dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=0.75, distribution="uniform"), track=["exploration"])
    state = tx.init(trees.everything())
    density = sum(masks.count_active(dstjax.get_masks(state)).values()) / (72 + 30 + 20)
    assert float(metrics.exploration_rate(state)) == pytest.approx(density)


def test_survival_rate():
    """G2: {2, 5} were grown; the next drop removes 5, so one of two survives, whether or not 5 is grown again."""
    method = methods.rigl(
        sparsity=0.5, distribution="uniform", update_period=1, drop_fraction=0.5, drop_schedule="constant"
    )
    tx = dstjax.sparsify(optax.sgd(1.0), method, track=["survival"])
    params = {"w": jnp.array([[0.1, 0.2, 0.0], [3.0, 4.0, 0.0]]), "b": jnp.zeros(2)}
    state = dstjax.set_masks(tx.init(params), {"w": params["w"] != 0, "b": None})
    assert np.isnan(metrics.survival_rate(state))

    def rewire(state, params, gradient):
        grads = {"w": jnp.array(gradient), "b": jnp.zeros(2)}
        updates, state = compiled(tx).update(grads, state, params, rewire=True)
        return state, optax.apply_updates(params, updates)

    state, params = rewire(state, params, [[0, 0, 1.0], [0, 0, 1.0]])  # 2 of 4 dropped: 0, 1; grown: 2, 5
    np.testing.assert_array_equal(dstjax.get_masks(state)["w"], [[0, 0, 1], [1, 1, 1]])
    assert np.isnan(metrics.survival_rate(state))
    params = {**params, "w": jnp.array([[0, 0, 2.0], [3.0, 0.5, 0.1]])}  # trained since; 4 and 5 are now the smallest
    state, params = rewire(state, params, [[0, 0, 0.0], [0, 0, 9.0]])  # 5 is dropped, and grown again
    assert float(metrics.survival_rate(state)) == 0.5


def test_mask_error_of_the_reference_example():
    """G7: W = [.5, .1, -.3, .8] without .1: .01 / .99."""
    params = {"w": jnp.array([[0.5, 0.1], [-0.3, 0.8]]), "b": jnp.ones(7)}
    new = {"w": jnp.array([[True, False], [True, True]]), "b": None}
    assert float(metrics.mask_error(params, new)) == pytest.approx(0.01 / 0.99)
    everyone = {"w": jnp.ones((2, 2), bool), "b": None}
    assert float(metrics.mask_error(params, everyone)) == 0.0
    assert float(metrics.mask_error(dstjax.apply_masks(params, new), new)) == 0.0
    assert float(metrics.mask_error({"w": jnp.zeros((2, 2)), "b": jnp.ones(7)}, new)) == 0.0


def test_mask_error_reads_the_masks_of_a_state():
    tx = optax.chain(optax.clip(1.0), dstjax.sparsify(optax.adam(0.1), methods.static(sparsity=0.5)))
    params = trees.everything(jnp.bfloat16)
    state = tx.init(params)
    mask = trees.names(dstjax.get_masks(state))
    squares = {n: np.asarray(w, np.float64) ** 2 for n, w in trees.names(params).items() if n in mask}
    lost = sum(np.sum(np.where(mask[n], 0, s)) for n, s in squares.items())
    assert float(metrics.mask_error(params, state)) == pytest.approx(
        lost / sum(map(np.sum, squares.values())), rel=1e-5
    )


def test_exploitation_degree():
    """Eq. 2 for one index, Eq. 3 for a set: L without the grown weights minus L with them."""
    params = {"w": jnp.array([[1.0, 2.0], [3.0, 0.0]]), "b": jnp.ones(2)}
    target = jnp.array([[1.0, 3.0], [3.0, 1.0]])

    def loss(p):
        return jnp.sum((p["w"] - target) ** 2)  # 1 + 1 as it is

    one = {"w": jnp.array([[False, True], [False, False]]), "b": None}
    assert float(metrics.exploitation_degree(loss, params, one)) == 9 - 1
    two = {"w": jnp.array([[False, True], [True, False]]), "b": None}
    assert float(metrics.exploitation_degree(loss, params, two)) == 9 + 9 - 1
    stored = {"w": masks.pack(two["w"]), "b": None}
    assert float(metrics.exploitation_degree(loss, params, stored)) == 9 + 9 - 1
    nobody = {"w": jnp.zeros((2, 2), bool), "b": None}
    assert float(metrics.exploitation_degree(loss, params, nobody)) == 0.0


def test_figures_work_under_jit():
    tx = dstjax.sparsify(
        optax.sgd(0.1),
        methods.rigl(sparsity=0.5, update_period=2, end_step=99),
        track=["exploration", "survival", "error"],
    )
    state = tx.init(trees.everything())
    r, s, e = jax.jit(lambda o: (metrics.exploration_rate(o), metrics.survival_rate(o), metrics.last_mask_error(o)))(
        state
    )
    assert (r.dtype, s.dtype, e.dtype) == (jnp.float32,) * 3


def test_what_was_not_tracked_is_asked_for_by_name():
    tx = dstjax.sparsify(optax.sgd(0.1), methods.rigl(sparsity=0.5, update_period=2, end_step=99))
    state = tx.init(trees.everything())
    for figure, name in [
        (metrics.exploration_rate, "exploration"),
        (metrics.exploration_rate_per_leaf, "exploration"),
        (metrics.survival_rate, "survival"),
        (metrics.last_mask_error, "error"),
    ]:
        with pytest.raises(ValueError, match=f"track=.*{name}"):
            figure(state)


def test_tracking_costs_a_bit_per_weight():
    params = {"w": jnp.zeros((64, 64)), "b": jnp.zeros(64)}

    def bytes_of(**kwargs):
        method = methods.rigl(sparsity=0.5, update_period=2, end_step=99)
        return dstjax.summary(params, dstjax.sparsify(optax.sgd(0.1), method, **kwargs).init(params)).state_bytes

    plain = bytes_of()
    assert bytes_of(track=["exploration"]) - plain == 64 * 64 // 8
    assert 64 * 64 // 8 <= bytes_of(track="survival") - plain <= 64 * 64 // 8 + 8
    assert bytes_of(track=["error"]) - plain == 4


def tree_of(*indices, size=6):
    """A tree with one mask, active at these indices."""
    return {"w": np.isin(np.arange(size), indices), "b": None}


def test_survival_of_the_reference_example():
    """G2: {2, 5} grown, the next drop removes 5: one of two; weights that were active before do not count."""
    before, after = tree_of(0, 1, 3), tree_of(0, 2, 5)
    assert float(metrics.survival(before, after, tree_of(0, 2))) == 0.5
    assert float(metrics.survival(before, after, tree_of(2, 5))) == 1.0
    assert np.isnan(metrics.survival(before, before, before))


def test_jaccard_of_the_reference_example():
    """G2: {0, 1, 4} and {1, 4, 5} share 2 of 4; layers are averaged, where IoU pools them."""
    a, b = tree_of(0, 1, 4), tree_of(1, 4, 5)
    assert float(metrics.jaccard(a, b)) == 0.5
    a, b = {**a, "v": np.ones(90, bool)}, {**b, "v": np.ones(90, bool)}
    assert float(metrics.jaccard(a, b)) == 0.75
    assert float(metrics.iou(a, b)) == pytest.approx(92 / 94)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 1 / 3), (0.2, 1 / 9)])
def test_jaccard_of_random_masks(share, expected):
    """G2: sets of a share p at random have an index of about p / (2 - p)."""
    rng = np.random.default_rng(0)
    a, b = ({"w": rng.uniform(size=100_000) < share} for _ in range(2))
    assert float(metrics.jaccard(a, b)) == pytest.approx(expected, abs=0.01)


def test_churn():
    a, b = tree_of(0, 1, 2, 3), tree_of(0, 1, 2, 4)
    assert float(metrics.churn(a, b)) == 0.25  # |{3, 4}| / (2 * 4): one of four moved
    assert float(metrics.churn(a, a)) == 0.0
    assert float(metrics.churn(tree_of(0, 1), tree_of(4, 5))) == 1.0
    assert float(metrics.churn({**a, "v": np.ones(4, bool)}, {**b, "v": np.ones(4, bool)})) == 2 / 16


@hypothesis.given(*[st.lists(st.booleans(), min_size=7, max_size=7) for _ in range(2)])
def test_churn_and_iou_say_the_same(a, b):
    """With J = |A and B| / |A or B|, churn is (1 - J) / (1 + J)."""
    hypothesis.assume(any(a + b))
    a, b = {"w": np.array(a)}, {"w": np.array(b)}
    j = float(metrics.iou(a, b))
    assert float(metrics.churn(a, b)) == pytest.approx((1 - j) / (1 + j), abs=1e-6)


def test_unanimity():
    """Of three masks with 3 of 6 active, {1} is always kept and {5} always removed."""
    kept, removed = metrics.unanimity([tree_of(0, 1, 2), tree_of(1, 2, 3), tree_of(1, 3, 4)])
    assert (float(kept), float(removed)) == pytest.approx((1 / 3, 1 / 3))
    same = metrics.unanimity([tree_of(0, 1)] * 2)
    assert (float(same[0]), float(same[1])) == (1.0, 1.0)


def test_masks_that_cannot_be_compared():
    with pytest.raises(ValueError, match="different leaves: v"):
        metrics.churn(tree_of(1), {**tree_of(1), "v": np.ones(2, bool)})
    with pytest.raises(ValueError, match="shapes"):
        metrics.survival(tree_of(1), tree_of(1), tree_of(1, size=8))
    for given, said in (([], r"\[\]"), (tree_of(1), "dict")):
        with pytest.raises(ValueError, match=f"trees is {said}; expected a list of trees of masks"):
            metrics.unanimity(given)


def test_dead_neurons():
    """A kernel (in, out) counts rows and columns; a convolution is dead only where its whole window is."""
    kernel = np.array([[1, 0, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0]], bool)
    window = np.zeros((2, 2, 4, 3), bool)
    window[1, 0], window[0, 1, 1, 2] = kernel, True
    dead = metrics.dead_neurons(
        {"dense": kernel, "conv": masks.pack(jnp.asarray(window)), "b": None, "scale": kernel[0]}
    )
    assert sorted(dead) == ["conv", "dense"]
    assert tuple(map(int, dead["dense"])) == (1, 2)
    assert tuple(map(int, dead["conv"])) == (0, 1)


@pytest.mark.parametrize("name", ["w", "kernel"])
def test_dead_neurons_of_several_networks(name):
    """Each of three has another dead input; with the leading axis a kernel looks like that of a convolution."""
    tx = dstjax.sparsify(optax.sgd(0.1), dstjax.methods.static(sparsity=0.5, maskable=lambda path, leaf: True))
    params = {name: jnp.ones((3, 4, 5))}
    state = jax.vmap(tx.init)(params)
    found = {name: jnp.asarray(np.arange(4)[None, :, None] != np.arange(3)[:, None, None]) & jnp.ones((3, 4, 5), bool)}
    state = state._replace(masks={name: jax.vmap(masks.pack)(found[name])})
    dead = metrics.dead_neurons(state)[name]
    assert [*map(np.ndarray.tolist, map(np.asarray, dead))] == [[1, 1, 1], [0, 0, 0]]


def test_effective_weights_by_hand():
    """Of 3 + 3 weights, one leads to a unit that leads nowhere, and one starts at a unit that nothing feeds."""
    first = np.array([[1, 1, 0], [0, 1, 0]], bool)  # unit 2 is fed by none
    second = np.array([[0, 0], [1, 1], [0, 1]], bool)  # unit 0 leads nowhere
    np.testing.assert_array_equal(metrics.effective_weights([first, second]), [2, 2])
    np.testing.assert_array_equal(metrics.effective_weights([first]), [3])
    np.testing.assert_array_equal(metrics.effective_weights([first, np.zeros((3, 2), bool)]), [0, 0])


def test_effective_weights_through_a_flattened_image():
    """Two channels of a 1 x 2 image flatten to units (0, 0), (0, 1), (1, 0), (1, 1): channel 1 feeds units 1 and 3."""
    conv = np.zeros((3, 3, 1, 2), bool)
    conv[:, 1, 0, 1] = conv[0, 0, 0, 0] = True
    dense = np.array([[0], [1], [0], [1]], bool)
    np.testing.assert_array_equal(metrics.effective_weights([conv, dense]), [3, 2])


@hypothesis.given(st.integers(0, 10_000))
def test_effective_weights_carry_a_gradient(seed):
    """Weights of 1 and no activation: the output depends on exactly the weights that lie on a path."""
    rng = np.random.default_rng(seed)
    chain = [(rng.uniform(size=shape) < 0.4) for shape in [(3, 4), (4, 2), (2, 3)]]
    products = [x.astype(int) for x in chain]
    ahead, behind = np.ones((1, 3), int), []
    for x in products:
        behind.append(ahead.sum(axis=0))
        ahead = ahead @ x
    after = np.ones(3, int)
    expected = []
    for x, b in zip(reversed(products), reversed(behind), strict=True):
        expected.insert(0, np.count_nonzero(x * b[:, None] * after[None, :]))
        after = x @ after
    np.testing.assert_array_equal(metrics.effective_weights(chain), expected)


def test_layers_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(4, 2\) does not fit one of shape \(2, 3\)"):
        metrics.effective_weights([np.ones((2, 3), bool), np.ones((4, 2), bool)])
    with pytest.raises(ValueError, match=r"shapes \[\(3,\)\]"):
        metrics.effective_weights([np.ones(3, bool)])
    with pytest.raises(ValueError, match="at least one"):
        metrics.effective_weights([])


def test_gradient_norms():
    """Running means over updates of the squares, complete and masked, against float64; dense leaves count in both."""
    rng = np.random.default_rng(0)
    rounds = [(rng.normal(size=(4, 3)), rng.normal(size=3), rng.uniform(size=(4, 3)) < 0.5) for _ in range(4)]
    norms = None
    for g, b, m in rounds:
        norms = metrics.gradient_norms(
            {"w": jnp.asarray(g, jnp.float32), "b": jnp.asarray(b)}, {"w": m, "b": None}, norms
        )
    assert int(norms.updates) == 4
    complete = np.mean([np.sum(g**2) + np.sum(b**2) for g, b, _ in rounds])
    masked = np.mean([np.sum((g * m) ** 2) + np.sum(b**2) for g, b, m in rounds])
    assert float(norms.complete) == pytest.approx(complete, rel=1e-5)
    assert float(norms.masked) == pytest.approx(masked, rel=1e-5)
    with pytest.raises(ValueError, match="path of these masks: w"):
        metrics.gradient_norms({"b": jnp.ones(3)}, {"w": rounds[0][2], "b": None})


def test_gradient_norms_read_the_masks_of_a_state():
    tx = dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=0.5))
    params = {"w": jnp.ones((6, 4)), "b": jnp.ones(2)}
    norms = metrics.gradient_norms(params, tx.init(params))
    assert (float(norms.complete), float(norms.masked)) == (26.0, 14.0)


def test_exploration_bound():
    """A cosine from 0.5 to 0.005, 62 updates in 62,560 steps: R cannot pass 1, 0.83 and 0.33 at 90, 95 and 98 %."""
    fractions = 0.005 + 0.2475 * (1 + np.cos(np.pi * np.arange(1, 63) / 62.56))
    for sparsity, bound in [(0.9, 1.0), (0.95, 0.83), (0.98, 0.33)]:
        assert metrics.exploration_bound(1 - sparsity, fractions) == pytest.approx(bound, abs=0.01)
    assert metrics.exploration_bound(0.2, []) == 0.2
    with pytest.raises(ValueError, match=r"drop_fraction=1\.5"):
        metrics.exploration_bound(0.2, [0.3, 1.5])


def test_error_of_dense_weights_behind_a_mask():
    """G7 for methods that keep dense weights: the mask in force costs an error although nothing changed."""
    w = {"w": jnp.array([[0.4, -0.1, 0.3, 0.2]]), "b": jnp.ones(2)}
    force = {"w": jnp.array([[True, False, True, False]]), "b": None}
    assert float(metrics.mask_error(w, force)) == pytest.approx((0.01 + 0.04) / 0.3)

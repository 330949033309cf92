"""Every method, update order and criterion against a float64 NumPy transcript of its equations, step by step.

The engine runs in float64, so that rounding does not turn near-ties into other masks. Random scores are recorded as
the engine draws them and handed to the transcript: what is drawn is arbitrary, what happens with it is not.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import criteria, methods
from tests import oracles, trees
from tests.stepping import compiled
from tests.thorough import few, lighter, slow

pytestmark = pytest.mark.usefixtures("one_device")

STEPS, END = lighter((24, 22), (36, 34))
ORDERS = ["skip", "step_then_update", "update_then_step"]
MOMENTUM = dict(lr=0.05, mu=0.9, nesterov=True)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


class Spy:
    """A random criterion that remembers what it drew, by step and shape (no two masked leaves share a shape)."""

    def __init__(self):
        self.drawn = {}

    def __call__(self, leaf):
        bits = criteria.random(leaf)
        jax.debug.callback(self.remember, leaf.step, bits)
        return bits

    def remember(self, step, bits):
        self.drawn[int(step), bits.shape] = np.asarray(bits)

    def read(self, step, name):
        return self.drawn[step, trees.SHAPES[name]]


def gradients_of(weights, step):
    """Dense gradients of a quadratic whose aim moves a little, so that weights, signs and rankings keep changing."""
    rng = np.random.default_rng(1000 + step)
    return {n: w - 0.5 * rng.standard_normal(np.shape(w)) for n, w in sorted(weights.items())}


def rebuild(tree, by_name):
    """A tree like ``tree`` with the leaves of ``by_name``."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jnp.asarray(by_name[jax.tree_util.keystr(path, simple=True, separator="/")]), tree
    )


def follow(method, inner, oracle_inner, *, spies=(), steps=STEPS, track=(), **transcript):
    """Runs engine and transcript side by side and compares everything after every step."""
    params = trees.everything(jnp.float64)
    tx = dstjax.sparsify(inner, method, seed=7, track=track)
    opt_state = tx.init(params)
    params = dstjax.apply_masks(params, opt_state)
    masks = {n: np.asarray(m) for n, m in trees.names(dstjax.get_masks(opt_state)).items()}
    oracle = oracles.Transcript(
        {n: np.asarray(w) for n, w in trees.names(params).items()}, masks, oracle_inner, **transcript
    )
    changed = 0
    for t in range(1, steps + 1):
        before = oracle.m
        by_name = gradients_of(oracle.w, t)
        updates, opt_state = compiled(tx).update(rebuild(params, by_name), opt_state, params)
        params = optax.apply_updates(params, updates)
        jax.effects_barrier()  # the spies have heard everything
        oracle.step(by_name)
        compare(params, opt_state, oracle, t)
        changed += any((before[n] != oracle.m[n]).any() for n in before)
    return oracle, opt_state, changed


def compare(params, opt_state, oracle, t):
    state = opt_state
    assert int(state.step) == t
    masks = trees.names(dstjax.get_masks(state))
    assert masks.keys() == oracle.m.keys()
    for n, mask in masks.items():
        np.testing.assert_array_equal(mask, oracle.m[n], err_msg=f"mask of {n} at step {t}")
    if state.counters is not None:
        for n, counter in trees.names(state.counters).items():
            np.testing.assert_array_equal(counter, oracle.counter[n], err_msg=f"counter of {n} at step {t}")
    for n, w in trees.names(params).items():
        np.testing.assert_allclose(w, oracle.w[n], rtol=1e-10, atol=1e-13, err_msg=f"{n} at step {t}")
        if n in masks:
            assert not np.any(np.asarray(w)[~oracle.m[n]])
    for kind, moments in oracle.moments.items():
        for n, moment in trees.names(optax.tree.get(state.inner_state, kind)).items():
            np.testing.assert_allclose(moment, moments[n], rtol=1e-10, atol=1e-13, err_msg=f"{kind} {n} at step {t}")
            if n in masks:
                assert not np.any(np.asarray(moment)[~oracle.m[n]])


def sgd():
    return optax.sgd(MOMENTUM["lr"], MOMENTUM["mu"], nesterov=MOMENTUM["nesterov"]), oracles.Momentum(**MOMENTUM)


def adam():
    return optax.adam(0.05), oracles.Adam(0.05)


SHARED = dict(sparsity=0.6, update_period=3, end_step=END)
# name -> (hyper-parameters, the same for the transcript, which criteria are random)
METHODS = {
    "set": (dict(drop_fraction=0.3), dict(alpha=0.3, schedule="constant", drop="set_fraction"), ["grow"]),
    "rigl": (dict(drop_fraction=0.4), dict(alpha=0.4), []),
    "rigl_itop": (dict(), dict(alpha=0.5, schedule="cosine_floor", ceil=True), []),
    "mest": (dict(drop_fraction=0.4, lambda_=0.7), dict(alpha=0.4, drop="mest", lam=0.7), ["grow"]),
    "dst_ee": (
        dict(drop_fraction=0.5, coefficient=0.4, epsilon=0.5),
        dict(alpha=0.5, grow="dst_ee", c=0.4, epsilon=0.5),
        [],
    ),
}


# Those that are more than a move of as many weights as were dropped; their transcripts are in tests/dstjax/methods.
ELSEWHERE = {
    *("gmp", "one_shot", "asp", "sis", "granet", "gap", "dpf", "dcil", "admm", "str", "top_kast", "ste", "sr_ste"),
    *("snfs", "balanced_momentum", "dsr", "deepr", "soft_deepr", "accset", "lset", "dynset", "iee", "srigl"),
}


def test_every_method_that_changes_masks_has_a_transcript():
    moving = {n for n in methods.names() if "end_step" in methods.hyperparameters(n)} | ELSEWHERE
    assert {*METHODS} | ELSEWHERE == moving
    written = "".join(path.read_text() for path in (Path(__file__).parent / "methods").glob("test_*.py"))
    assert not [name for name in ELSEWHERE if f'"{name}"' not in written and f"methods.{name}(" not in written]


# The others differ from RigL in scores, in rounding and in what they draw, in which no order has a part.
QUICK = {"set": "update_then_step", "rigl_itop": "skip", "mest": "skip", "dst_ee": "step_then_update"}


@few(2)
@pytest.mark.parametrize(
    ("name", "order"),
    [(name, order) if QUICK.get(name, order) == order else slow(name, order) for name in METHODS for order in ORDERS],
)
def test_method(name, order):
    hyperparameters, transcript, random = METHODS[name]
    spies = {role: Spy() for role in random}
    method = methods.get(name, **SHARED, **hyperparameters, update_order=order, **spies)
    told = {role: spy.read for role, spy in spies.items()}
    _, _, changed = follow(method, *sgd(), period=3, end=END, order=order, **{**transcript, **told})
    # The last fractions of a cosine move nothing; less would prove little.
    assert changed >= lighter(5, 8)


@pytest.mark.parametrize("order", ["skip", *map(slow, ORDERS[1:])])
def test_adam_whose_count_goes_on_in_skipped_steps(order):
    method = methods.rigl(**SHARED, drop_fraction=0.4, update_order=order)
    follow(method, *adam(), period=3, end=END, alpha=0.4, order=order)


@pytest.mark.parametrize("name", ["dense", "static"])
def test_fixed_topology(name):
    method = methods.dense() if name == "dense" else methods.static(sparsity=0.6)
    _, _, changed = follow(method, *adam(), steps=12, period=None)
    assert changed == 0


# The slow ones are followed by a method above.
DROP = [(drop, "skip") for drop in ("set", "sensitivity", "rsensitivity")] + [("snip", "step_then_update")]
DROP += [slow(drop, "skip") for drop in ("magnitude", "set_fraction", "mest", "snip")]
DROP += [slow(drop, order) for drop in ("sensitivity", "rsensitivity") for order in ORDERS[1:]]
DROP += [slow("snip", "update_then_step")]


@few(2)
@pytest.mark.parametrize(("drop", "order"), DROP)
def test_drop_criterion(drop, order):
    method = methods.rigl(**SHARED, drop=drop, drop_fraction=0.5, update_order=order)
    follow(method, *adam(), period=3, end=END, alpha=0.5, drop=drop, order=order)


def test_random_drop_and_random_growth():
    drop, grow = Spy(), Spy()
    method = methods.rigl(**SHARED, drop=drop, grow=grow, drop_fraction=0.5)
    follow(method, *adam(), period=3, end=END, alpha=0.5, drop=drop.read, grow=grow.read)
    # ``init`` has tried each rule once, as if at step 1.
    drawn = [(at, bits) for at, bits in [*drop.drawn.items(), *grow.drawn.items()] if at[0] % 3 == 0]
    assert len({bits.tobytes() for _, bits in drawn}) == len(drawn)  # no draw repeats: leaf, step and phase all count


def test_signed_dst_ee():
    method = methods.dst_ee(**SHARED, coefficient=0.3, signed=True)
    follow(method, *sgd(), period=3, end=END, alpha=0.5, grow="dst_ee", c=0.3, signed=True)


@pytest.mark.parametrize("drop", ["magnitude", slow("snip")])
def test_global_scope(drop):
    method = methods.rigl(**SHARED, drop=drop, scope="global", drop_fraction=0.6)
    oracle, state, _ = follow(method, *sgd(), period=3, end=END, alpha=0.6, drop=drop, scope="global")
    assert [int(m.sum()) for m in oracle.m.values()] == state.targets.tolist()


def by_step(step):
    return (step % 7) / 10


ROUNDED = [("constant", "floor"), ("linear", "ceil"), ("cosine_floor", "floor"), (by_step, "ceil")]
ROUNDED += [slow("constant", "ceil"), slow("linear", "floor"), slow("cosine_floor", "ceil"), slow(by_step, "floor")]


@few(2)
@pytest.mark.parametrize(("schedule", "rounding"), ROUNDED)
def test_schedule_and_rounding(schedule, rounding):
    method = methods.rigl(**SHARED, drop_fraction=0.45, drop_schedule=schedule, rounding=rounding)
    follow(method, *sgd(), period=3, end=END, alpha=0.45, schedule=schedule, ceil=rounding == "ceil")


def test_start_and_end_of_the_updates():
    schedule = dict(drop_fraction=0.5, drop_schedule="constant")
    method = methods.rigl(sparsity=0.6, update_period=4, start_step=9, end_step=24, **schedule)
    oracle, _, changed = follow(method, *sgd(), period=4, start=9, end=24, alpha=0.5, schedule="constant")
    assert changed == oracle.updates == 3  # t = 12, 16, 20


def test_updates_that_never_end():
    method = methods.set(sparsity=0.6, update_period=5, drop="magnitude", grow="gradient", drop_fraction=0.4)
    oracle, _, _ = follow(method, *sgd(), period=5, alpha=0.4, schedule="constant")
    assert oracle.updates == STEPS // 5


def test_metrics_of_each_update():
    """Exploration rate, survival of grown weights and mask-incurred error, as of the last mask update."""
    method = methods.rigl(**SHARED, drop_fraction=0.5, update_order="step_then_update")
    track = ("exploration", "survival", "error")
    for steps in (2, 3, 6, 9, 17):
        oracle, state, _ = follow(
            method, *sgd(), steps=steps, track=track, period=3, end=END, alpha=0.5, order="step_then_update"
        )
        assert float(dstjax.metrics.exploration_rate(state)) == pytest.approx(oracle.exploration())
        per_leaf = {n: float(r) for n, r in dstjax.metrics.exploration_rate_per_leaf(state).items()}
        assert per_leaf == pytest.approx({n: e.mean() for n, e in oracle.ever.items()})
        assert float(dstjax.metrics.survival_rate(state)) == pytest.approx(oracle.survival, nan_ok=True)
        assert float(dstjax.metrics.last_mask_error(state)) == pytest.approx(oracle.error, rel=1e-5)


def test_exploration_from_counters_is_the_tracked_one():
    method = methods.dst_ee(**SHARED, coefficient=0.4)
    oracle, state, _ = follow(method, *sgd(), steps=20, period=3, end=END, alpha=0.5, grow="dst_ee", c=0.4)
    assert float(dstjax.metrics.exploration_rate(state)) == pytest.approx(oracle.exploration())

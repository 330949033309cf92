"""Eight devices, every layout: the same masks bit for bit as on one; the state stays in place; no weight moves."""

import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import dstjax
from dstjax import methods
from tests import trees
from tests.thorough import slow

STEPS = 7
MOVING = dict(sparsity=0.8, update_period=3, end_step=8, drop_fraction=0.5, drop_schedule="constant")
TRACK = ("exploration", "survival", "error")
KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
# Of a matrix, and of a 4-d kernel.
LAYOUTS = {
    "rows": (P("a"), P(None, None, "a")),
    "columns": (P(None, "a"), P(None, None, None, "a")),
    "both": (P("a", "b"), P(None, None, "a", "b")),
    "rows of both": (P(("a", "b")), P(None, None, ("a", "b"))),
    "replicated": (P(), P()),
}


def mesh_of(kind, layout):
    shape = (4, 2) if "both" in layout else (8, 1)
    return jax.make_mesh(shape, ("a", "b"), axis_types=(KINDS[kind],) * 2)


def params_of(few=False):
    """As in trees.everything, with axes that eight devices can share, and one (of 40) in pieces of five.

    Args:
      few: without the 4-d kernel, for what takes long to compile.
    """
    rng = np.random.default_rng(0)
    draw = lambda *s: np.asarray(rng.standard_normal(s), np.float32)  # noqa: E731
    params = {
        "dense": {"bias": draw(24), "kernel": draw(16, 24)},
        "list": [draw(8, 40)],
        "nothing": None,
        "scale": draw(),
    }
    return params if few else {"conv": {"bias": draw(16), "kernel": draw(3, 3, 8, 16)}, **params}


def shardings(mesh, layout, few=False):
    matrix, kernel = LAYOUTS[layout]
    specs = {0: P(), 1: P(None), 2: matrix, 4: kernel}
    return jax.tree.map(lambda x: NamedSharding(mesh, specs[x.ndim]), params_of(few))


def noise(t, few=False):
    return jax.tree.map(np.asarray, trees.like(params_of(few), t))


def method_of(name):
    return methods.get(name, **({"sparsity": 0.8} if name == "static" else MOVING))


def transform(name):
    return dstjax.sparsify(optax.adam(0.05), method_of(name), seed=2, track=TRACK)


def stepper(tx):
    @functools.partial(jax.jit, static_argnames="rewire")
    def step(params, state, grads, rewire=None):
        updates, state = tx.update(jax.tree.map(jnp.add, params, grads), state, params, rewire=rewire)
        return optax.apply_updates(params, updates), state

    return step


def run(name, few, place):
    """The state at the start and the parameters and states after each step."""
    tx = transform(name)
    params = place(params_of(few))
    state = tx.init(params)
    params = dstjax.apply_masks(params, state)
    step, history = stepper(tx), [(params, state)]
    for t in range(STEPS):
        history.append(step(*history[-1], place(noise(t, few))))
    return history


@functools.cache
def on_one_device(name, few=False):
    return jax.device_get(run(name, few, lambda tree: jax.tree.map(jnp.asarray, tree)))


def assert_bits(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def check(name, kind, layout, few=False):
    mesh = mesh_of(kind, layout)
    with jax.set_mesh(mesh):
        where = shardings(mesh, layout, few)
        history = run(name, few, lambda tree: jax.device_put(tree, where))
        if kind == "explicit":
            types = jax.tree.map(jax.typeof, history[0][1])
            assert all(jax.tree.map(jax.typeof, s) == types for _, s in history)
        check_placement(where, history[0])
        check_placement(where, history[-1])
        assert_same_places(history)
        history = jax.device_get(history)
    for (params, state), (expected_params, expected) in zip(history, on_one_device(name, few), strict=True):
        assert_bits(dstjax.get_masks(state), dstjax.get_masks(expected))
        for field in ("step", "counters", "targets", "key"):
            assert_bits(getattr(state, field), getattr(expected, field))
        for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(expected_params), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(state.tracked.error, expected.tracked.error, rtol=1e-5)
        assert_bits(state.tracked.n_survived, expected.tracked.n_survived)
        assert dstjax.check_sparse(params, state)
    ends = (jax.tree.leaves(dstjax.get_masks(history[i][1])) for i in (0, -1))
    assert any((a != b).any() for a, b in zip(*ends, strict=True)) == (name != "static")


def assert_same_places(history):
    """A step gives back its state where it took it from, or the next call would compile again.

    Only scalars may start on one device, as every optimiser's do when init is not given shardings.
    """
    for before, after in itertools.pairwise(history):
        for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            if x.ndim > 1 or before is not history[0]:
                assert x.sharding.is_equivalent_to(y.sharding, x.ndim)


def check_placement(where, carry):
    """Counters and moments lie like their weights; masks are spread as widely, with no more on a device."""
    params, state = carry
    by_name = trees.names(where)
    for tree in (params, state.counters, optax.tree.get(state, "mu"), optax.tree.get(state, "nu")):
        for n, leaf in trees.names(tree).items():
            assert leaf.sharding.is_equivalent_to(by_name[n], leaf.ndim), n
    masked = [n for n, w in trees.names(params).items() if w.ndim > 1]
    for tree in (state.masks, state.tracked.ever, state.tracked.grown):
        stored = jax.tree.leaves(tree)
        for n, mask in zip(masked if stored else [], stored, strict=True):
            weight = trees.names(params)[n]
            assert pieces(mask) == pieces(weight), n
            on_one = max(shard.data.nbytes for shard in mask.addressable_shards)
            assert on_one <= weight.size // pieces(weight), f"{n}: {on_one} bytes of mask on one device"


def pieces(x):
    return len({str(shard.index) for shard in x.addressable_shards})


# Both axes cut: on a mesh of one kind here, and with random growth on one of the other kind below.
QUICK = [("auto", "both")]


@pytest.mark.parametrize(
    ("kind", "layout"),
    [(k, n) if (k, n) in QUICK else slow(k, n) for k in KINDS for n in LAYOUTS],
)
def test_the_same_masks_on_eight_devices(kind, layout):
    check("dst_ee", kind, layout)


@pytest.mark.parametrize(("name", "kind"), [("set", "explicit"), slow("mest", "auto"), slow("static", "explicit")])
def test_every_method_on_eight_devices(name, kind):
    check(name, kind, "both", few=True)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["set", "rigl", "rigl_itop", "mest", "static"])
def test_every_method_in_every_layout(name, kind, layout):
    check(name, kind, layout)


@pytest.mark.parametrize(
    ("name", "kind"), [("dst_ee", "auto"), slow("set", "explicit"), slow("dst_ee", "explicit"), slow("set", "auto")]
)
def test_init_into_given_shardings(name, kind):
    """``jit(tx.init, out_shardings=...)`` from shapes or arrays gives the state of an eager init, placed as asked."""
    mesh = mesh_of(kind, "both")
    with jax.set_mesh(mesh):
        where = shardings(mesh, "both")
        params = jax.device_put(params_of(), where)
        tx = transform(name)
        eager = tx.init(params)
        wanted = jax.tree.map(
            lambda x: x.sharding if len(x.sharding.device_set) > 1 else NamedSharding(mesh, P()), eager
        )
        state = jax.jit(tx.init, out_shardings=wanted)(params)
        assert jax.tree.structure(state) == jax.tree.structure(eager)
        assert_bits(state, eager)
        assert_bits(dstjax.get_masks(state), dstjax.get_masks(on_one_device(name)[0][1]))
        for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True):
            assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


COLLECTIVES = ("all-gather", "all-to-all", "collective-permute", "all-reduce", "reduce-scatter")


def moved(text):
    """Elements of the largest array that each kind of collective yields, in a compiled program."""
    largest = dict.fromkeys(COLLECTIVES, 0)
    for line in text.splitlines():
        found = re.match(rf"\s*(?:ROOT )?\S+ = (.*?) ({'|'.join(COLLECTIVES)})(?:-start)?\(", line)
        if found:
            for dims in re.findall(r"\w+\[([\d,]*)\]", found[1]):
                size = math.prod(int(d) for d in dims.split(",") if d)
                largest[found[2]] = max(largest[found[2]], size)
    return largest


def test_moved_reads_compiled_text():
    """The check below must be able to fail: summing over a sharded axis and gathering are both seen."""
    mesh = mesh_of("auto", "rows")
    x = jax.device_put(np.ones((16, 24), np.float32), NamedSharding(mesh, P("a")))
    gathered = jax.jit(lambda x: x * 2, out_shardings=NamedSharding(mesh, P())).lower(x).compile().as_text()
    assert moved(gathered)["all-gather"] == 16 * 24
    summed = jax.jit(lambda x: x.sum(axis=0)).lower(x).compile().as_text()
    assert moved(summed)["all-reduce"] == 24


@pytest.mark.parametrize(
    ("name", "kind", "layout"),
    [
        ("dst_ee", "auto", "both"),
        slow("set", "explicit", "both"),
        slow("dst_ee", "explicit", "columns"),
        slow("mest", "auto", "rows"),
    ],
)
def test_an_update_moves_scalars_not_weights(name, kind, layout):
    """A weight of 5,120 entries takes 640 bytes as a mask; a pass counts a few candidates for each of four weights."""
    mesh = mesh_of(kind, layout)
    large = jax.tree.map(lambda x: np.zeros([4 * n if n > 3 else n for n in x.shape], np.float32), params_of())
    with jax.set_mesh(mesh):
        where = shardings(mesh, layout)
        tx = transform(name)
        params = jax.device_put(large, where)
        state = tx.init(params)
        for rewire in (True, False):
            text = stepper(tx).lower(params, state, params, rewire=rewire).compile().as_text()
            largest = moved(text)
            assert max(largest.values()) < 320, largest
            assert rewire == (largest["all-reduce"] > 0), largest  # a plain step of elementwise Adam moves nothing


@pytest.mark.parametrize(("name", "layout"), [("dst_ee", "columns"), slow("set", "both")])
def test_shardings_that_come_into_no_type(name, layout):
    """As where a step is lowered from shapes alone, and the jit is told the shardings: the types name no mesh."""
    mesh = mesh_of("auto", layout)
    shapes = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)  # noqa: E731
    where = {str(i): NamedSharding(mesh, LAYOUTS[layout][0]) for i in range(9)}
    params = jax.device_put({n: np.zeros((64, 8 * (i + 8)), np.float32) for i, n in enumerate(where)}, where)
    tx = dstjax.sparsify(optax.sgd(0.1), method_of(name))
    state = tx.init(params)
    places = jax.tree.map(lambda x: x.sharding if len(x.sharding.device_set) > 1 else NamedSharding(mesh, P()), state)

    def update(params, state, grads):
        assert jax.typeof(params["0"]).sharding.mesh.empty
        return tx.update(grads, state, params, rewire=True)

    step = jax.jit(update, in_shardings=(where, places, where), out_shardings=(where, places))
    largest = moved(step.lower(shapes(params), shapes(state), shapes(params)).compile().as_text())
    assert 0 < max(largest.values()) < 320, largest


@pytest.mark.parametrize(("name", "layout"), [("dst_ee", "both"), slow("rigl", "columns")])
def test_auto_axes_made_explicit_for_the_update(name, layout):
    """The types then say where the pieces are, so that a pass needs one collective, as on a mesh of Explicit axes."""
    mesh = mesh_of("auto", layout)
    with jax.set_mesh(mesh):
        where = shardings(mesh, layout)
        tx = transform(name)
        params = jax.device_put(params_of(), where)
        state = tx.init(params)
        params = dstjax.apply_masks(params, state)
        specs = jax.tree.map(lambda x: getattr(x.sharding, "spec", P()), (params, state, params))
        update = jax.sharding.explicit_axes(tx.update, in_sharding=specs)

        @jax.jit
        def step(params, state, grads):
            updates, state = update(jax.tree.map(jnp.add, params, grads), state, params)
            return optax.apply_updates(params, updates), state

        history = [(params, state)]
        for t in range(STEPS):
            history.append(step(*history[-1], jax.device_put(noise(t), where)))
        text = step.lower(params, state, params).compile().as_text()
        check_placement(where, history[-1])
    for (_, state), (_, expected) in zip(history, on_one_device(name), strict=True):
        assert_bits(*(dstjax.get_masks(jax.device_get(s)) for s in (state, expected)))
    assert len(re.findall(r" all-reduce(?:-start)?\(", text)) < 12
    assert not re.search(" all-gather", text)

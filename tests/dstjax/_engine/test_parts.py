"""Large trees are switched in parts: the same masks, and the memory of one part."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding

import dstjax
from dstjax import methods, structures
from dstjax._arrays.bits import unpack
from dstjax._arrays.counting import SMALL
from dstjax._engine import drop_and_grow, parts
from dstjax.rules import Value
from tests.thorough import slow

METHODS = ["rigl", "set", "dst_ee", "mest", "snfs", "rigl_itop", "balanced_momentum", "granet"]
PLAN = dict(sparsity=0.8, update_period=1, end_step=9, drop_schedule="constant")


def one_device():
    """A mesh on which nothing can be cut."""
    return jax.set_mesh(jax.make_mesh((1,), ("one",), axis_types=(AxisType.Auto,)))


def shapes_of(sizes):
    return [jax.ShapeDtypeStruct((size,), jnp.float32) for size in sizes]


@given(st.lists(st.sampled_from([8, 1000, SMALL - 1, SMALL, 3 * SMALL, 2**23, 2**25]), min_size=1, max_size=40))
def test_every_leaf_is_in_one_part_and_no_part_is_much_larger_than_its_share(sizes):
    dealt = parts.parts(shapes_of(sizes))
    assert sorted(i for part in dealt for i in part) == list(range(len(sizes)))
    assert all(part == sorted(part) for part in dealt)
    assert len(dealt) <= parts.PARTS
    held = [sum(sizes[i] for i in part) for part in dealt]
    small = [i for i, size in enumerate(sizes) if size < SMALL]
    indivisible = max([size for size in sizes if size >= SMALL] + [sum(sizes[i] for i in small)])
    number = min(parts.PARTS, sum(sizes) // parts.PART)
    assert max(held) <= sum(sizes) / max(number, 1) + indivisible
    assert sum(any(i in part for i in small) for part in dealt) <= 1


@given(st.lists(st.sampled_from([8, 1000, SMALL - 1, SMALL, 3 * SMALL, 2**23, 2**25]), min_size=1, max_size=40))
def test_parts_of_a_single_cpu_have_about_as_many_leaves_so_that_their_kernels_are_the_same(sizes):
    with one_device():
        dealt = parts.parts(shapes_of(sizes))
    assert sorted(i for part in dealt for i in part) == list(range(len(sizes)))
    number = max(1, min(parts.PARTS, sum(sizes) // parts.PART_OF_CPU))
    assert len(dealt) <= number
    small = {i for i, size in enumerate(sizes) if size < SMALL}
    assert sum(not small.isdisjoint(part) for part in dealt) <= 1
    large = [[i for i in part if i not in small] for part in dealt if not small or set(part) != small]
    counts = [len(part) for part in large]
    if len(dealt) == number > 1:
        assert max(counts) - min(counts) <= 1
    held = [sum(sizes[i] for i in part) for part in large]
    if len(held) == number > 1:
        assert max(held) - min(held) <= max(sizes)


def test_small_leaves_have_a_part_of_their_own_where_they_fill_half_of_one(monkeypatch):
    monkeypatch.setattr(parts, "PART_OF_CPU", 3 * 2**21)
    large, small = [2**21] * 6, [SMALL // 2] * 20
    with one_device():
        assert parts.parts(shapes_of(large + small)) == [[0, 1, 2, 3, 4, 5], list(range(6, 26))]
        assert parts.parts(shapes_of(large + small[:2])) == [[0, 3, 4, 6, 7], [1, 2, 5]]


def test_a_tree_that_is_not_large_is_one_part():
    assert parts.parts(shapes_of([2**20] * 25)) == [list(range(25))]
    assert len(parts.parts(shapes_of([2**20] * 26))) == 2


def test_a_single_tpu_switches_fewer_leaves_at_a_time(monkeypatch):
    """Where leaves may be spread a part has a collective a pass, and parts are as large as elsewhere."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    for devices, expected in ((1, 5), (8, 1)):
        for kind in (AxisType.Auto, AxisType.Explicit):
            with jax.set_mesh(jax.make_mesh((devices,), ("d",), axis_types=(kind,))):
                assert len(parts.parts(shapes_of([2**20] * 25))) == expected


def test_what_counts_is_what_a_device_holds():
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Explicit,))
    cut = [
        jax.ShapeDtypeStruct((2**12, 2**12), jnp.float32, sharding=NamedSharding(mesh, jax.P("d"))) for _ in range(8)
    ]
    found = []
    jax.eval_shape(lambda *x: found.append(parts.parts(x)), *cut)
    assert found == [[list(range(8))]]
    assert len(parts.parts(shapes_of([2**24] * 8))) == parts.PARTS


SHAPES = dict(a=(16, 24), b=(24, 40), c=(3, 16, 16), d=(3, 3, 8, 8), e=(12, 5))
LAYOUT = {"c": "stack in out", "d": "window window in out", "": "in out"}


def trained(method):
    """Three updates of five leaves, one of them a stack; returns the last state."""
    keys = iter(jax.random.split(jax.random.key(1), 10))
    params, grads = ({n: jax.random.normal(next(keys), s) for n, s in SHAPES.items()} for _ in range(2))
    tx = dstjax.sparsify(optax.sgd(0.1, momentum=0.9), method, layout=LAYOUT)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(grads, state, params, rewire=True)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    params = dstjax.apply_masks(params, state)
    for _ in range(3):
        params, state = step(params, state)
    return state


def unpacked(masks):
    return jax.tree.map(lambda m: np.asarray(unpack(m)), masks)


def in_small_parts(monkeypatch):
    """Makes parts of small trees; returns a list that gets the number of leaves of each part."""
    sizes, switch = [], drop_and_grow._switch
    monkeypatch.setattr(
        drop_and_grow, "_switch", lambda leaves, *args, **kw: sizes.append(len(leaves)) or switch(leaves, *args, **kw)
    )
    monkeypatch.setattr(parts, "PART", 512)
    monkeypatch.setattr(parts, "PART_OF_TPU", 512)
    monkeypatch.setattr(parts, "PART_OF_CPU", 512)
    monkeypatch.setattr(parts, "SMALL", 64)
    return sizes


@pytest.mark.parametrize("platform", ["cpu", "one cpu", "tpu"])
@pytest.mark.parametrize("name", [n if n in ("rigl", "set") else slow(n) for n in METHODS])
def test_masks_are_the_same(name, platform, monkeypatch):
    method = methods.get(name, **PLAN)
    whole = trained(method)
    sizes = in_small_parts(monkeypatch)
    monkeypatch.setattr(jax, "default_backend", lambda: platform.removeprefix("one "))
    jax.clear_caches()
    with one_device() if platform == "one cpu" else contextlib.nullcontext():
        found = trained(method)
    assert 1 < len(sizes) <= parts.PARTS
    assert sum(sizes) == len(SHAPES)
    jax.tree.map(np.testing.assert_array_equal, found.masks, whole.masks)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_each_of_several_seeds_has_the_same_masks(platform, monkeypatch):
    in_small_parts(monkeypatch)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    jax.clear_caches()
    shapes = [(16, 24), (24, 40), (3, 16, 16)]
    keys = jax.random.split(jax.random.key(3), 6)
    params, grads = (
        [jax.random.normal(k, (2, *s)) for k, s in zip(half, shapes, strict=True)] for half in (keys[:3], keys[3:])
    )
    tx = dstjax.sparsify(optax.sgd(0.1), methods.set(**PLAN), layout={"2": "stack in out", "": "in out"})

    def one(params, grads):
        state = tx.init(params)
        params = dstjax.apply_masks(params, state)
        return dstjax.get_masks(tx.update(grads, state, params, rewire=True)[1])

    together = jax.jit(jax.vmap(one))(params, grads)
    for seed in range(2):
        alone = jax.jit(one)([p[seed] for p in params], [g[seed] for g in grads])
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_array_equal(a[seed], b)


@pytest.mark.parametrize("change", [dict(scope="global"), dict(structure=structures.n_m(2, 4), sparsity=0.5)])
def test_what_ranks_leaves_or_groups_is_not_cut(change, monkeypatch):
    sizes = in_small_parts(monkeypatch)
    trained(methods.rigl(**{**PLAN, **change}))
    assert sizes == [len(SHAPES)]


def test_criteria_that_compare_leaves_see_all_of_them(monkeypatch):
    class Largest(Value):
        def __call__(self, leaf):
            raise AssertionError("the scores are those of all leaves")

        def of_all(self, leaves):
            highest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf.weight)) for leaf in leaves]))
            return [jnp.abs(leaf.weight) / highest for leaf in leaves]

    sizes = in_small_parts(monkeypatch)
    trained(methods.rigl(**PLAN, drop=Largest()))
    assert sizes == [len(SHAPES)]


@pytest.mark.optimised
@pytest.mark.parametrize(
    ("name", "rewire", "most"),
    [
        ("rigl", None, 1.5),
        slow("rigl", True, 1.5),
        slow("dst_ee", None, 1.5),
        slow("set", True, 3.6),
        slow("balanced_momentum", True, 3.5),
    ],
)
def test_an_update_holds_little_beside_the_training(name, rewire, most, one_device):
    """Bytes of temporaries a weight: 5 where all leaves are switched at once, 13 for SET."""
    params = {f"w{i}": jax.ShapeDtypeStruct((4096, 2048), jnp.float32) for i in range(12)}
    tx = dstjax.sparsify(optax.sgd(0.1, momentum=0.9), methods.get(name, **PLAN))

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params, rewire=rewire)
        return optax.apply_updates(params, updates), state

    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(params, jax.eval_shape(tx.init, params), params)
    held = lowered.compile().memory_analysis().temp_size_in_bytes
    assert held / sum(w.size for w in params.values()) < most


@pytest.mark.parametrize("kind", [AxisType.Explicit, slow(AxisType.Auto)])
def test_masks_are_the_same_on_eight_devices(kind, monkeypatch):
    shapes = {"a": (16, 24), "b": (64, 40), "c": (8, 16, 16)}
    keys = iter(jax.random.split(jax.random.key(2), 6))
    params, grads = ({n: jax.random.normal(next(keys), s) for n, s in shapes.items()} for _ in range(2))
    tx = dstjax.sparsify(optax.sgd(0.1), methods.set(**PLAN), layout={"c": "stack in out", "": "in out"})

    def run(params, grads):
        state = jax.jit(tx.init)(params)
        params = dstjax.apply_masks(params, state)
        return jax.jit(lambda g, s, p: tx.update(g, s, p, rewire=True)[1])(grads, state, params).masks

    whole = run(params, grads)
    sizes = in_small_parts(monkeypatch)
    monkeypatch.setattr(parts, "PART", 64)
    mesh = jax.make_mesh((8,), ("d",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        rows = jax.NamedSharding(mesh, jax.P("d"))
        found = run(*jax.device_put((params, grads), rows))
    assert len(sizes) == 3
    jax.tree.map(np.testing.assert_array_equal, unpacked(found), unpacked(whole))

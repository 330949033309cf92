"""What each axis of a leaf means, read from programs whose equations say it.

Loops and calls, and the value that is returned.
"""

import pickle

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec as P

import dstjax.layouts
from dstjax import program
from tests.layout_reading import f32, i32, layers, one, read

# --- Loops and calls --------------------------------------------------------------------------------------------------


LOOPS = {
    "scan": layers,
    "remat": lambda w, x: lax.scan(jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None)), x, w)[0],
    "nested": lambda w, x: lax.scan(lambda x, _: (layers(w, x), None), x, length=4)[0],
    "for": lambda w, x: lax.fori_loop(0, 5, lambda i, x: x @ w[i], x),
    "counted by scan": lambda w, x: lax.scan(lambda x, i: (x @ w[i], None), x, jnp.arange(5))[0],
    "while": lambda w, x: lax.while_loop(lambda c: c[0] < 5, lambda c: (c[0] + 1, c[1] @ w[c[0]]), (0, x))[1],
    "vmapped": lambda w, x: jax.vmap(lambda x: layers(w, x[None]))(x),
    "changed in a loop": lambda w, x: layers(lax.map(lambda w: 2 * w, w), x),
    "branch": lambda w, x: lax.cond(x[0, 0] > 0, lambda: layers(w, x), lambda: layers(2 * w, x)),
    "picked by data": lambda w, x: x @ w[jnp.argmax(x[0, :5])],
}


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_layers_of_a_loop_are_a_stack(loop):
    assert one(loop, f32(5, 8, 8), f32(3, 8)) == "stack in out"


def test_a_scan_over_time_has_its_weights_outside():
    def function(p, x):
        def step(h, x):
            h = jnp.tanh(x @ p["x"] + h @ p["h"].T + p["bias"])
            return h, h @ p["y"]

        return lax.scan(step, jnp.broadcast_to(p["start"], (3, 8)), x)[1]

    params = {"x": f32(6, 8), "h": f32(8, 8), "y": f32(8, 2), "bias": f32(1, 8), "start": f32(1, 8)}
    assert read(function, params, f32(9, 3, 6)) == dict(x="in out", h="out in", y="in out", bias=None, start=None)


def test_custom_derivatives_and_shards_are_looked_into():
    @jax.custom_vjp
    def product(w, x):
        return x @ w

    product.defvjp(lambda w, x: (x @ w, (w, x)), lambda saved, dy: (saved[1].T @ dy, dy @ saved[0].T))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = dict(mesh=mesh, in_specs=(P(None, "data"), P()), out_specs=P(None, "data"))
    for function in (product, jax.named_call(product, name="layer"), jax.shard_map(product, **specs)):
        assert one(function, f32(6, 16), f32(3, 6)) == "in out"


def test_what_cannot_be_looked_into_is_named():
    def kernel(w, x, out):
        out[...] = x[...] @ w[...]

    def opaque(p, x):
        call = pl.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct((3, 8), jnp.float32))
        return jnp.tanh(call(p["w"], x) + p["bias"]) @ p["v"]

    found = program.layouts(opaque, {"w": f32(6, 8), "v": f32(8, 2), "bias": f32(1, 8)}, f32(3, 6))
    assert dict(found) == {"w": "?", "v": "in out", "bias": None}
    assert found.unread == {"w": "goes into primitive 'pallas_call', which cannot be looked into"}
    foreign = program.layouts(lambda w, x: x @ jnp.fft.fft(w).real + jnp.sum(w), f32(6, 8), f32(3, 6))
    assert "'fft'" in foreign.unread[""]


def test_a_gradient_has_the_transpose_too():
    found = program.layouts(
        jax.grad(lambda p, x: jnp.sum(jnp.tanh(x @ p["a"]) @ p["b"])), {"a": f32(6, 8), "b": f32(8, 2)}, f32(3, 6)
    )
    assert dict(found) == {"a": "in out", "b": "?"}
    assert found.unread["b"] == "two uses that disagree: 'in out' and 'out in'"


# --- The value --------------------------------------------------------------------------------------------------------


def example():
    params = {"a": f32(20, 30), "b": f32(30), "e": f32(9, 20), "v": f32(5, 30)}
    return program.layouts(lambda p, t: jnp.tanh(p["e"][t] @ p["a"] + p["b"][None]) @ p["v"].T, params, i32(4))


def test_layouts_are_a_value():
    found = example()
    assert found == example() == {"a": "in out", "b": None, "e": "lookup out", "v": "out in"}
    assert hash(found) == hash(example())
    assert pickle.loads(pickle.dumps(found)) == found
    assert len({found, example()}) == 1
    assert list(found) == ["a", "b", "e", "v"]
    assert found("v", f32(5, 30)) == "out in"
    assert found("other", f32(5, 30)) == "?"
    with pytest.raises(AttributeError):
        found.entries = ()
    lines = str(found).splitlines()
    assert lines[0] == "Layouts of 4 leaves"
    assert lines[2].split() == ["b", "(30,)", "no", "weight"]
    assert lines[4].split() == ["v", "(5,", "30)", "out", "in"]


def test_layouts_are_a_preset():
    found = example()
    leaves = {"a": f32(20, 30), "b": f32(30), "e": f32(9, 20), "v": f32(5, 30), "more/kernel": f32(3, 4)}
    layouts = dstjax.layouts.read(found, leaves)
    assert {path: layout and str(layout) for path, layout in layouts.items()} == {**found, "more/kernel": "in out"}
    assert str(dstjax.layouts.read([{"v": "in out"}, found], leaves)["v"]) == "in out"
    assert hash(dstjax.layouts.preset_of([{"v": "in out"}, found]))


def test_a_layout_that_contradicts_is_refused_leaf_by_leaf():
    found = example()
    found.check()
    found.check({"a": "in out", "e": "in out", "v": None})
    found.check([found, "in out"])
    with pytest.raises(ValueError, match=r"contradicts the program: 'v' is 'out in', not 'in out'\.$"):
        found.check("in out")
    with pytest.raises(ValueError, match=r"'a' is 'in out', not 'out in'; 'e' is 'lookup out', not 'out in'\.$"):
        found.check({"a|e": "out in"})
    with pytest.raises(ValueError, match="match no leaf"):
        found.check({"kernel": "in out"})
    table = program.layouts(
        lambda p, x: (x + p["pos"][None]) @ p["w"], {"pos": f32(7, 16), "w": f32(16, 4)}, f32(3, 7, 16)
    )
    with pytest.raises(ValueError, match=r"'pos' is no weight, not 'lookup out'\.$"):
        table.check({"pos": "lookup out"})
    tied = program.layouts(lambda p, t: p["e"][t] @ p["e"].T, {"e": f32(24, 16)}, i32(7))
    tied.check({"e": "out in"})
    assert "?  (two uses" in str(tied)


def test_nothing_is_computed_and_holes_are_left_out():
    params = {"block": [{"kernel": f32(1 << 20, 1 << 20)}], "bias": f32(1 << 20), "hole": None}
    assert read(lambda p, x: x @ p["block"][0]["kernel"] + p["bias"], params, f32(1 << 20)) == {
        "bias": None,
        "block/0/kernel": "in out",
    }

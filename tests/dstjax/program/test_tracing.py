"""Programs that need values while they are traced: every reader of programs says so in one way."""

import jax
import jax.numpy as jnp
import optax
import pytest

import dstjax
from dstjax import kernels, latency, methods, program

P, X = {"w": jnp.ones((8, 4))}, jnp.ones((3, 8))
MASKS = {"w": jnp.ones((8, 4), bool)}
PROGRAMS = {
    "a branch": lambda p, x: x @ p["w"] if x.sum() > 0 else -x @ p["w"],
    "rows by their values": lambda p, x: x[x[:, 0] > 0] @ p["w"],
    "a number of rounds": lambda p, x: sum(x @ p["w"] for _ in range(jnp.int32(x.sum()))),
    "a shape": lambda p, x: jnp.zeros(x.sum().astype(int)) + p["w"].sum(),
}
READERS = {
    "compact": lambda f: dstjax.compact(f, P, None, X),
    "rewrite": lambda f: kernels.rewrite(f, P, MASKS, X),
    "layouts": lambda f: program.layouts(f, P, X),
    "flops": lambda f: program.flops.count(f, P, X),
    "channels": lambda f: program.channels(f, P, X),
    "connections": lambda f: program.connections(f, P, MASKS, X),
    "latency": lambda f: latency.analytic(f, P, X),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("network", PROGRAMS)
def test_a_program_that_needs_values_is_refused_in_a_line(network, reader):
    with pytest.raises(ValueError, match=r"there is no one program to read.*Expected jax\.lax\.cond") as error:
        READERS[reader](PROGRAMS[network])
    assert "\n" not in str(error.value)


def test_other_errors_of_a_program_are_its_own():
    with pytest.raises(TypeError, match="incompatible shapes"):
        program.flops.count(lambda p, x: x + jnp.ones((2, 2)), P, X)


def test_what_is_traced_is_named():
    def network(p, x):
        return x @ p["w"]

    for masks, x, said in ((MASKS, None, "the masks are traced"), (None, X, "the arguments of the example are traced")):

        @jax.jit
        def inside(masks, x):
            return dstjax.compact(network, P, MASKS if masks is None else masks, X if x is None else x)[1]

        with pytest.raises(ValueError, match=said):
            inside(masks, x)
    with pytest.raises(ValueError, match="leaves that are no arrays: w"):
        dstjax.compact(network, jax.eval_shape(lambda: P), MASKS, X)


def test_the_state_of_a_method_that_masks_nothing_is_cut():
    params = {"a": jnp.ones((8, 8)).at[:, 0].set(0), "b": jnp.ones((8, 4))}
    state = dstjax.sparsify(optax.adam(0.1), methods.dense()).init(params)
    report = dstjax.compact(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], params, state, jnp.ones((4, 8)))[2]
    assert {x.shape for x in jax.tree.leaves(report.cut_state(state))} == {(), (2,), (8, 7), (7, 4)}


@pytest.mark.parametrize("read", [program.flops.count, program.layouts, program.channels])
def test_an_argument_that_is_no_array_is_named(read):
    with pytest.raises(ValueError, match=r"argument 2 after the parameters has 'train', which is no array"):
        read(lambda p, x, mode: x @ p["w"], {"w": jnp.ones((8, 4))}, jnp.ones((2, 8)), "train")

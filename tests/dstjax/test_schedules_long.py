"""Long trainings cost no more than short ones: methods are made in constant memory, programs have one size."""

import math
import pickle
import re
import time
import tracemalloc

import jax
import jax.numpy as jnp
import optax
import pytest

import dstjax
from dstjax import methods
from dstjax.schedules import NAMES, Fractions, UpdateSchedule
from tests import trees
from tests.thorough import few

LONG = 10**9


def falling(step):
    return 0.3 * (1 - step / LONG)


def made(name, end=LONG, **changes):
    given = dict(sparsity=0.8, end_step=end, update_period=1, prune_step=end, **changes)
    if name == "iee":
        given["update_period"] = 4
    return methods.get(name, **{n: v for n, v in given.items() if n in methods.hyperparameters(name)})


@pytest.mark.parametrize("name", methods.names())
def test_a_method_of_a_billion_updates(name):
    """Its memory is that of a short one; nothing lists its updates."""
    made(name, end=12)  # what is imported and cached at first
    tracemalloc.start()
    begin = time.perf_counter()
    method = made(name)
    hash(method)
    same = pickle.loads(pickle.dumps(method)) == method == made(name)
    spent, (_, peak) = time.perf_counter() - begin, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{name}: {spent * 1000:.1f} ms, {peak / 1000:.0f} kB")
    assert same
    assert peak < 10**6
    if method.updates is not None:
        due = [bool(method.is_update_step(t)) for t in (0, LONG - 1, LONG)]
        assert due[0] is False


@pytest.mark.parametrize("schedule", [*NAMES, falling, optax.cosine_decay_schedule(0.3, LONG)])
def test_a_drop_schedule_of_a_billion_updates(schedule):
    methods.rigl(sparsity=0.8, end_step=12, update_period=1, drop_schedule=schedule)  # JAX compiles what optax asks for
    tracemalloc.start()
    method = methods.rigl(sparsity=0.8, end_step=LONG, update_period=1, drop_schedule=schedule)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**6
    assert hash(method) == hash(methods.rigl(sparsity=0.8, end_step=LONG, update_period=1, drop_schedule=schedule))
    assert method.updates.n_kept.fractions.at(10**10) < 0.3 + (schedule == "constant")


def test_a_function_is_called_once_a_trace():
    called = []

    def schedule(step):
        called.append(step)
        return 0.3 * (1 - step / LONG)

    shares = Fractions(0.0, schedule, UpdateSchedule(1, 0, LONG).steps, LONG)
    assert len(called) == 3  # its shape, the first step and the last
    del called[:]
    jax.make_jaxpr(shares.of)(jnp.int32(10), jnp.int32(3))
    assert len(called) == 1


def program(name, end, **changes):
    tx = dstjax.sparsify(optax.sgd(0.1), made(name, end, **changes))
    params = trees.everything()
    return jax.jit(tx.update).lower(params, jax.eval_shape(tx.init, params), params)


def bare(text):
    """A program without its numbers."""
    return re.sub(r"dense<[^>]*>|\d+", "", text)


def largest(text):
    """Bytes of the largest constant of a program that is no splat."""
    found = re.findall(r'stablehlo\.constant dense<(?:\[|")[^>]*> : tensor<((?:\d+x)+)[a-z]+(\d+)>', text)
    return max((math.prod(map(int, shape[:-1].split("x"))) * int(bits) // 8 for shape, bits in found), default=0)


@few(2)
@pytest.mark.parametrize("schedule", [*NAMES, falling])
def test_one_program_of_all_lengths(schedule):
    """Of the drop schedules; without the numbers in it the text is the same."""
    short, long = (program("rigl", end, drop_schedule=schedule).as_text() for end in (10**3, LONG))
    assert bare(short) == bare(long)
    assert largest(long) <= 1024


@few(2)
@pytest.mark.parametrize("name", ["gmp", "granet", "mest", "admm", "dpf", "snfs"])
def test_one_program_of_a_method(name):
    changes = {"soft_bound": True} if name == "mest" else {}
    short, long = (program(name, end, **changes).as_text() for end in (10**3, LONG))
    assert bare(short) == bare(long)
    assert largest(long) <= 1024


def test_large_constants_are_found():
    """The checks above must be able to fail."""
    table = jnp.arange(1000) ** 2
    assert largest(jax.jit(lambda i: jnp.asarray(table.tolist())[i]).lower(3).as_text()) == 4000

"""Some of the drawn trainings, all in ``make slow``, and whether the harness would notice; ``python -m tests.fuzz``."""

import jax
import jax.numpy as jnp
import optax
import pytest

from dstjax import methods
from tests.fuzz import drawing, making, saving, training
from tests.fuzz.drawing import Configuration, draw
from tests.fuzz.running import ALONE, BROKEN, RAN, REFUSED, forget_programs, outcome_of

# Quick ones of many kinds: trees, files, masks that are set, a method that is adopted, donation, jit, refusals.
NUMBERS = (6, 9, 12, 23, 27, 30)
ALL = 2000
RIGL = dict(sparsity=0.5, update_period=1, end_step=9, drop_schedule="constant")


def broken(seed, numbers):
    found = []
    for number in numbers:
        outcome = outcome_of(draw(seed, number))
        if outcome.end == BROKEN:
            found.append(f"--seed {seed} --first {number}: {outcome.said}")
        forget_programs()
    return found


@pytest.mark.parametrize("number", NUMBERS)
def test_a_drawn_training_keeps_what_is_promised(number):
    assert not broken(0, [number])


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, ALL, 50))
def test_drawn_trainings_keep_what_is_promised(first):
    assert not broken(0, range(first, first + 50))


def test_draws_are_the_same_every_time_and_distinct():
    drawn = [draw(0, n) for n in range(ALL)]
    assert drawn == [draw(0, n) for n in range(ALL)]
    assert len({c.choices() for c in drawn}) == ALL
    assert {c.method for c in drawn} == {*methods.names()}
    for axis in ("tree", "dtype", "inner", "wrapper", "program", "save", "wrong"):
        assert len({getattr(c, axis) for c in drawn}) >= 5
    assert {c.wrong for c in drawn} == {"nothing", *drawing.WRONG}


# --- Whether it would notice ------------------------------------------------------------------------------------------


def rigl(**choices):
    return Configuration(0, 0, "rigl", tuple(RIGL.items()), **choices)


def test_it_runs_what_is_right():
    assert outcome_of(rigl(save="pickle")) == (RAN, "")


def test_it_notices_inactive_weights(monkeypatch):
    made = making.wrapped
    monkeypatch.setattr(making, "wrapped", lambda *args: optax.chain(made(*args), optax.scale(0.5)))
    assert "inactive weights are not 0" in outcome_of(rigl()).said


def test_it_notices_a_state_that_was_not_restored(monkeypatch):
    read = saving.restored
    monkeypatch.setattr(saving, "restored", lambda *args: jax.tree.map(lambda x: x * jnp.ones_like(x) * 2, read(*args)))
    assert outcome_of(rigl(save="pickle")) == (BROKEN, "a restored training ends otherwise")


def test_it_notices_leaves_that_move(monkeypatch):
    made = making.INNERS["sgd"]
    monkeypatch.setitem(making.INNERS, "frozen", made)
    outcome = outcome_of(rigl(inner="frozen"))
    assert outcome.end == BROKEN
    assert outcome.said.startswith("a frozen leaf one/kernel")


def test_it_notices_masks_that_move(monkeypatch):
    monkeypatch.setattr(training.Training, "rewire", lambda self: True)
    assert "masks moved in a step without a mask update" in outcome_of(rigl(rewire="never")).said


def test_it_notices_other_errors(monkeypatch):
    def fails(*args):
        raise TypeError("no")

    monkeypatch.setattr(making, "optimiser", fails)
    assert outcome_of(rigl()).said.startswith("TypeError")


def test_it_tells_refusals_and_faults_of_optimisers_apart(monkeypatch):
    assert outcome_of(rigl(layout="in in")).end == REFUSED
    failing = optax.GradientTransformation(lambda p: (), lambda u, s, p=None: 1 / 0)
    monkeypatch.setitem(making.INNERS, "sgd", lambda p: failing)
    assert outcome_of(rigl()).end == ALONE

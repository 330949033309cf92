"""Which parameters of a test `make test` leaves to `make slow`."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.thorough import leave_to_make_slow


def item(nodeid, *marks):
    held = {mark.name: mark for mark in marks}
    return SimpleNamespace(
        nodeid=nodeid, get_closest_marker=held.get, add_marker=lambda name: held.update({name: name}), held=held
    )


def items(n, number):
    return [item(f"test_a.py::test_it[{i}]", pytest.mark.few(number).mark) for i in range(n)]


@given(st.integers(1, 30), st.integers(1, 5))
def test_so_many_run_spread_over_all(n, number):
    of_one = items(n, number)
    leave_to_make_slow(of_one)
    quick = [i for i, one in enumerate(of_one) if "slow" not in one.held]
    assert len(quick) == min(n, number)
    assert quick[0] == 0
    assert number == 1 or quick[-1] == n - 1


def test_what_is_slow_already_is_not_counted_and_tests_are_told_apart():
    known = item("test_a.py::test_it[old]", pytest.mark.few(1).mark, pytest.mark.slow.mark)
    other = item("test_b.py::test_it[0]", pytest.mark.few(1).mark)
    plain = item("test_b.py::test_plain")
    first, second = items(2, 1)
    leave_to_make_slow([known, first, second, other, plain])
    assert ["slow" in x.held for x in (known, first, second, other, plain)] == [True, False, True, False, False]


def test_a_parameter_that_is_asked_for_by_its_name_runs():
    (_, _, third) = items(3, 1)
    leave_to_make_slow([third])
    assert "slow" not in third.held

"""What ``make test`` leaves to ``make slow``: parameters that differ from others in nothing new, and more examples."""

from collections.abc import Sequence
from typing import Any

import hypothesis
import pytest


def slow(*values: Any) -> Any:
    """Parameters of a test that only ``make slow`` runs."""
    return pytest.param(*values, marks=pytest.mark.slow)


def few(number: int) -> Any:
    """A test of which ``make test`` runs so many parameters, spread over all; ``make slow`` runs the others."""
    return pytest.mark.few(number)


def leave_to_make_slow(items: Sequence[pytest.Item]) -> None:
    """Marks as slow what ``few`` leaves out. A parameter that is asked for by its name runs."""
    by_test: dict[Any, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("few") is not None and item.get_closest_marker("slow") is None:
            by_test.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for of_one in by_test.values():
        number = of_one[0].get_closest_marker("few").args[0]  # type: ignore[union-attr]
        kept = {round(i * (len(of_one) - 1) / max(number - 1, 1)) for i in range(number)}
        for i, item in enumerate(of_one):
            if i not in kept:
                item.add_marker("slow")


def examples(number: int) -> int:
    """So many examples in ``make slow``, and a quarter of them in ``make test``: see tests/conftest.py."""
    return max(1, number * hypothesis.settings().max_examples // 100)


def lighter(light: Any, full: Any) -> Any:
    """The first in ``make test``, the second in ``make slow``."""
    return full if examples(100) == 100 else light

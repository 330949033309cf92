"""What ``make test`` leaves to ``make slow``: parameters that differ from others in nothing new, and more examples."""

from typing import Any

import hypothesis
import pytest


def slow(*values: Any) -> Any:
    """Parameters of a test that only ``make slow`` runs."""
    return pytest.param(*values, marks=pytest.mark.slow)


def examples(number: int) -> int:
    """So many examples in ``make slow``, and a quarter of them in ``make test``: see tests/conftest.py."""
    return max(1, number * hypothesis.settings().max_examples // 100)


def lighter(light: Any, full: Any) -> Any:
    """The first in ``make test``, the second in ``make slow``."""
    return full if examples(100) == 100 else light

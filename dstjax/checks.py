"""Checks of hyper-parameters: each failure is a ValueError with name, value and what is accepted."""

import difflib
import numbers
from collections.abc import Callable, Iterable
from typing import Any

from dstjax._arrays.trees import is_traced


def check_number(name: str, value: Any, accepted: str, ok: Callable[[float], bool]) -> None:
    """Refuses what is not a real number for which ``ok`` holds; traced values pass unchecked.

    Raises:
      ValueError: names it, and says what is accepted.
    """
    if is_traced(value):
        return
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not ok(float(value)):  # NaN fails every comparison
        raise ValueError(f"{name}={value!r} is not accepted; expected {accepted}.")


def check_integer(name: str, value: Any, minimum: int) -> None:
    """Refuses what is not an integer of at least ``minimum``.

    Raises:
      ValueError: names it, and says what is accepted.
    """
    integral = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not integral or value < minimum:
        raise ValueError(f"{name}={value!r} is not accepted; expected an integer >= {minimum}.")


def check_step(name: str, value: Any, minimum: int) -> None:
    """Refuses what is not an integer from ``minimum`` to the last step that a state can count.

    Raises:
      ValueError: names it, and says what is accepted.
    """
    check_integer(name, value, minimum)
    if value >= 2**31:
        raise ValueError(f"{name}={value} is not accepted; expected less than 2,147,483,648, as steps are int32.")


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Refuses what is not one of ``choices``, and names the nearest of them.

    Raises:
      ValueError: names it, and says what is accepted.
    """
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}={value!r} is not known; {suggest(value, choices)}")


def check_bool(name: str, value: Any) -> None:
    """Refuses what is neither True nor False.

    Raises:
      ValueError: names it, and says what is accepted.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} is not accepted; expected True or False.")


def check_rules(record: Any, optional: bool = False, /, **arguments: str) -> None:
    """Refuses fields of a record that cannot be called, nor left out if ``optional``.

    Raises:
      ValueError: names it, and says what is accepted.
    """
    for name, of in arguments.items():
        value = getattr(record, name)
        if not callable(value) and not (optional and value is None):
            raise ValueError(f"{name}={value!r} is not accepted; expected a function ({of}){', or None' * optional}.")


def suggest(value: Any, choices: Iterable[str]) -> str:
    """The sentence that lists what is accepted, led by the nearest spelling."""
    choices = list(choices)
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}Accepted: {', '.join(choices)}."

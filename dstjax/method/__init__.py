"""What a method of dynamic sparse training is: a value made of rules, which the engine reads.

:func:`rewiring` makes one that drops and grows. The five parts of a :class:`Method` are checked where they are made, by
``dataclasses.replace`` too, and against each other.
"""

from dstjax.method.makers import common_fields, fixed, refuse_map, refuse_n_m, rewiring
from dstjax.method.records import (
    NEEDS,
    PROMISES,
    PRUNERS,
    SCOPES,
    UPDATE_ORDERS,
    Elementwise,
    Maskable,
    Masking,
    Method,
    Remembered,
    Seen,
    Start,
    Updates,
)

__all__ = [
    "NEEDS",
    "PROMISES",
    "PRUNERS",
    "SCOPES",
    "UPDATE_ORDERS",
    "Elementwise",
    "Maskable",
    "Masking",
    "Method",
    "Remembered",
    "Seen",
    "Start",
    "Updates",
    "common_fields",
    "fixed",
    "refuse_map",
    "refuse_n_m",
    "rewiring",
]

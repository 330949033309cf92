"""Chooses how much of each group to keep under a common budget: the exact multiple-choice knapsack.

>>> choose([[0, 10, 11], [0, 6, 11]], [[0, 2, 5], [0, 3, 4]], 5)  # one of each: 10 + 6 at a cost of 5
[1, 1]
"""

import math
from collections.abc import Sequence

import numpy as np

from dstjax._arrays.knapsack import solve_on_host
from dstjax.checks import check_integer, check_number

_MOST = 2**22  # entries of the table


def choose(
    values: Sequence[Sequence[float]],
    costs: Sequence[Sequence[float]],
    capacity: float,
    *,
    resolution: int | None = None,
) -> list[int]:
    """Returns the option of each group whose values add up to most, while the costs add up to the capacity at most.

    Dynamic programming over all capacities, so that the result is the best there is: no greedy choice. Of choices of
    equal value those with the lower options in the later groups win.

    Args:
      values: for each group the value of each of its options, such as the importance of its m best channels.
      costs: likewise, at least 0; whole numbers, unless ``resolution`` is given.
      capacity: what the costs may add up to, in their unit; a whole number, unless ``resolution`` is given.
      resolution: into how many parts the capacity is cut. Costs are rounded up to whole parts, so that the capacity
        holds; the choice is the best of the rounded costs.

    Raises:
      ValueError: a capacity below the cheapest options, costs that are negative or no whole numbers, values that are
        not finite, or groups that do not fit together.
    """
    v = [np.asarray(x, np.float64) for x in values]
    c = [np.asarray(x, np.float64) for x in costs]
    if len(v) != len(c) or any(a.shape != b.shape or a.ndim != 1 or not a.size for a, b in zip(v, c, strict=False)):
        raise ValueError(f"values of {len(v)} groups and costs of {len(c)} do not fit; expected one cost a value.")
    if not all(np.isfinite(x).all() for x in v):
        raise ValueError("values are not all finite; expected numbers.")
    if not all(np.isfinite(x).all() and (x >= 0).all() for x in c):
        raise ValueError("costs are not all finite and at least 0; expected such numbers.")
    check_number("capacity", capacity, "a finite number >= 0", lambda x: 0 <= x < math.inf)
    if resolution is not None:
        check_integer("resolution", resolution, 1)
    least = sum(x.min() for x in c)
    if least > capacity:
        raise ValueError(f"capacity={capacity:g} is below {least:g}, the cost of the cheapest options; expected more.")
    if sum(x.max() for x in c) <= capacity:
        return [int(np.argmax(x)) for x in v]
    size = capacity if resolution is None else resolution
    if resolution is not None:
        parts = resolution / capacity if capacity else math.inf
        c = [np.ceil(np.multiply(x, parts, where=x > 0, out=np.zeros_like(x)) - 1e-9) for x in c]
        c = [np.minimum(x, resolution + 1) for x in c]
        if sum(x.min() for x in c) > resolution:
            raise ValueError(
                f"resolution={resolution} is too coarse: the cheapest options do not fit once their costs are rounded "
                "up; expected a higher one."
            )
    if size != int(size) or any((x != np.rint(x)).any() for x in c):
        raise ValueError("costs or capacity are no whole numbers; expected whole ones, or resolution=.")
    if (size + 1) * len(c) > 64 * _MOST:
        raise ValueError(f"capacity={capacity:g} makes a table of too many entries; expected resolution=.")
    whole = [np.minimum(x, size + 1).astype(np.int64) for x in c]
    return solve_on_host(v, whole, int(size))[0]

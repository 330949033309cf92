"""What a rule for a whole network reads, and what it may remember."""

from typing import Any, NamedTuple

import jax

from dstjax.criteria import Leaf
from dstjax.masks import StoredMask


class Memory(NamedTuple):
    """What a method remembers besides masks and counters. Lists have an entry for each masked leaf.

    Only ``sets`` and ``shared`` may change in a mask update: a branch of the step must not return arrays of numbers of
    the size of the weights.
    """

    leaves: Any = None  # arrays like the weights, or NamedTuples of such; may change at every step
    sets: list[StoredMask] | None = None  # a second set of weights
    shared: Any = None  # a NamedTuple of small arrays


class Network(NamedTuple):
    """What a rule for the whole network may read. Lists and int32[leaves] are in the order of the masked leaves."""

    leaves: list[Leaf]
    active: jax.Array  # int32[leaves]: active now
    initial: jax.Array  # int32[leaves]: active at init
    target: jax.Array  # int32[leaves]: active when all is done
    sizes: jax.Array  # int32[leaves]
    step: jax.Array  # int32[], t of this call of update
    update_index: jax.Array  # int32[]: mask updates that were scheduled before this one
    memory: Memory
    value: Any = None  # what the caller passed as value=, or None
    metric: Any = None  # what the caller passed as metric=, or None

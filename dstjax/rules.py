"""What a rule for a whole network reads, and what it may remember."""

from typing import Any, NamedTuple

import jax

from dstjax.masks import StoredMask


class Leaf(NamedTuple):
    """What a criterion may read of one leaf. Arrays have the shape of the weight unless said otherwise."""

    weight: jax.Array  # inactive entries are exactly 0
    gradient: jax.Array  # dense: with respect to the masked weight, so non-zero at inactive entries too
    mask: jax.Array  # bool; when growing, the weights that the drop has left
    counter: jax.Array | None  # unsigned integers: mask rounds in which each weight was active (DST-EE's N)
    step: jax.Array  # int32[], t of the current call of update; the first is 1
    key: jax.Array  # PRNG key, another one for each leaf, step and phase
    budget: jax.Array  # int32[], how many weights are dropped, or grown
    memory: Any = None  # what the method remembers of this leaf
    second: jax.Array | None = None  # bool: the second set of weights of methods that keep one
    full_gradient: jax.Array | None = None  # with respect to the dense weights, of methods that need it


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

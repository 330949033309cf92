"""What holds after every call, whatever was drawn."""

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import dstjax
from dstjax import budgets
from dstjax._arrays.bits import unpack
from dstjax._arrays.leaves import MaskedLeaves
from dstjax._arrays.trees import is_absent
from dstjax._engine.moments import map_moments, shapes_of
from dstjax._engine.states import every
from tests.fuzz import making
from tests.fuzz.drawing import PARTIAL, Configuration

HOME = str(Path(dstjax.__file__).parent)


class BrokenError(Exception):
    """An invariant does not hold."""


def hold(fact: Any, message: str) -> None:
    """Raises where something does not hold."""
    if not fact:
        raise BrokenError(message)


def is_refusal(error: BaseException) -> bool:
    """Whether an error is dstjax's own, and one line that says something."""
    if type(error) is not ValueError or not str(error).strip() or "\n" in str(error):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.startswith(HOME)


class Part(NamedTuple):
    """A masked leaf, as NumPy arrays."""

    name: str
    place: int  # among the leaves of the parameters
    weight: np.ndarray
    mask: np.ndarray
    counter: np.ndarray | None


class Seen(NamedTuple):
    """What is compared of the parameters and the state of one ``sparsify``."""

    parts: list[Part]
    step: int
    targets: np.ndarray


def numbers(x: Any) -> np.ndarray:
    """An array as float64, so that NumPy knows what to do with it."""
    return np.asarray(x).astype(np.float64)


def look(params: Any, opt_state: Any) -> list[Seen]:
    """Reads each state of ``sparsify``."""
    flat = jax.tree.leaves(params)
    found = []
    for state in every(opt_state):
        leaves = MaskedLeaves.of(state.masks)
        weights = leaves.find(params, "parameters")
        counters = [None] * len(weights) if is_absent(state.counters) else leaves.read(state.counters)
        parts = []
        for name, weight, stored, counter in zip(
            leaves.masked, weights, leaves.read(state.masks), counters, strict=True
        ):
            place = next(i for i, x in enumerate(flat) if x is weight)
            counted = None if counter is None else np.asarray(counter)
            parts.append(Part(name, place, numbers(weight), np.asarray(unpack(stored)), counted))
        targets = np.zeros(0, int) if is_absent(state.targets) else np.asarray(state.targets)
        found.append(Seen(parts, int(state.step), targets))
    return found


def counts(seen: Seen) -> np.ndarray:
    """The number of active weights of each layer: of a leaf, or of each slice of a stack."""
    of_stack = len(seen.targets) != len(seen.parts)
    found: list[int] = []
    for part in seen.parts:
        is_stack = of_stack and part.mask.ndim == 3 and part.mask.shape[0] == 3
        found += part.mask.sum(axis=(1, 2)).tolist() if is_stack else [int(part.mask.sum())]
    return np.array(found, int)


def types(tree: Any) -> Any:
    """The structure, shapes and dtypes of a tree."""
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, [(np.shape(x), getattr(x, "dtype", type(x))) for x in leaves]


def same_bits(a: Any, b: Any) -> bool:
    """Whether two trees are alike bit for bit."""
    if types(a) != types(b):
        return False
    return all(
        np.asarray(x).tobytes() == np.asarray(y).tobytes() if hasattr(x, "dtype") and not is_key(x) else True
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def is_key(x: Any) -> bool:
    """Whether something is an array of random keys."""
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


# --- Each of them -----------------------------------------------------------------------------------------------------


def masks_fit(seen: Seen) -> None:
    """Masks are boolean and like the weights, counters count at least what is active."""
    for part in seen.parts:
        hold(part.mask.dtype == bool and part.mask.shape == part.weight.shape, f"mask of {part.name}")
        if part.counter is not None:
            hold(part.counter.dtype.kind == "u" and (part.counter[part.mask] > 0).all(), f"counters of {part.name}")


def inactive_are_zero(before: Seen, after: Seen, guarded: bool) -> None:
    """Inactive weights are exactly 0, but where a weight was not finite before the call."""
    for old, new in zip(before.parts, after.parts, strict=True):
        bad = (new.weight != 0) & ~new.mask & np.isfinite(old.weight)
        hold(not bad.any(), f"{new.name}: {int(bad.sum())} inactive weights are not 0")
        if guarded and np.isfinite(old.weight).all():
            hold(np.isfinite(new.weight).all(), f"{new.name}: a guarded weight is not finite")


def counts_are_promised(c: Configuration, method: Any, seen: Seen, exact: bool, ended: bool) -> None:
    """The numbers of active weights are those that the method documents.

    Args:
      c: the configuration.
      method: the method now.
      seen: the parameters and the state.
      exact: whether all mask updates so far took place as scheduled, and in all layers.
      ended: whether there will be none any more.
    """
    found, targets = counts(seen), seen.targets
    hold((found > 0).all(), f"a layer without an active weight: {found.tolist()}")
    if method.start.prune_step and method.start.pruner == "sis":  # the training loop sets the masks
        return
    told = f"{found.tolist()} active, {targets.tolist()} promised ({method.promises})"
    if method.promises == "kept":
        hold(found.tolist() == targets.tolist(), told)
    if exact and ended and method.promises == "reached":
        hold(found.tolist() == targets.tolist(), told)
    if exact and ended and method.promises == "total":
        hold(found.sum() == targets.sum(), told)
    if method.name in ("accset", "lset", "dynset", "iee", "srigl"):
        together = method.updates is not None and method.moving.scope == "global"
        hold(found.sum() <= targets.sum() if together else (found <= targets).all(), told)
    if method.start.sparsity is not None and method.promises == "reached" and method.name != "str":
        hold((found >= targets).all(), told)


def memory_is_finite(opt_state: Any) -> None:
    """What methods remember, and views, have no NaN and no infinity."""
    for state in every(opt_state):
        for x in jax.tree.leaves((state.memory, state.view)):
            if jnp.issubdtype(x.dtype, jnp.inexact):
                hold(np.isfinite(numbers(x)).all(), "what the method remembers is not finite")


def moments_are_masked(opt_state: Any) -> None:
    """The moments of inactive weights are zero where weights are sparse themselves.

    In half precision optimisers of optax divide nothing by nothing, since their epsilon rounds to zero.
    """
    for state in every(opt_state):
        if is_absent(state.masks) or not is_absent(state.view):
            continue
        leaves = MaskedLeaves.of(state.masks)
        flags = leaves.by_path([np.asarray(unpack(m)) for m in leaves.read(state.masks)])

        def check(path: Any, moment: Any, flags: Any = flags) -> Any:
            inactive = numbers(moment)[~flags[path]]
            narrow = moment.dtype.itemsize < 4
            hold(((inactive == 0) | (narrow & np.isnan(inactive))).all(), f"a moment of an inactive weight of {path}")
            return moment

        map_moments(check, shapes_of(state.masks), state.inner_state)


def stands_still(
    first: Seen, now: Seen, places: Sequence[int], weights: bool, why: str, *, shrinks: bool = False
) -> None:
    """Leaves have the masks and counters, and where it is asked for the weights, that they had at first.

    Args:
      first: what there was.
      now: what there is.
      places: of the leaves.
      weights: whether they must be the same.
      why: the beginning of what is said otherwise.
      shrinks: whether the masks may have lost weights, which are 0 then.
    """
    for old, new in zip(first.parts, now.parts, strict=True):
        if new.place not in places:
            continue
        hold(((old.mask == new.mask) | (old.mask & shrinks)).all(), f"{why} {new.name}: its mask moved")
        if new.counter is not None:
            hold(old.counter is not None and (old.counter == new.counter).all(), f"{why} {new.name}: counters moved")
        if weights:
            same = (old.weight == new.weight) | (np.isnan(old.weight) & np.isnan(new.weight))
            hold((same | (shrinks & ~new.mask)).all(), f"{why} {new.name}: its weights moved")


def helpers_agree(params: Any, opt_state: Any, track: Sequence[str]) -> None:
    """The helpers of the public face say the same."""
    masks, seen = dstjax.get_masks(opt_state), look(params, opt_state)
    flat = [part for each in seen for part in each.parts]
    flags = [np.asarray(m) for m in jax.tree.leaves(masks)]
    hold(sorted(int(m.sum()) for m in flags) == sorted(int(p.mask.sum()) for p in flat), "get_masks")
    hold(all(m.dtype == bool for m in flags), "get_masks gives no booleans")
    sparse = dstjax.forward_params(params, opt_state, training=False)
    hold(types(sparse) == types(params), "forward_params changes types")
    hold(types(dstjax.forward_params(params, opt_state)) == types(params), "forward_params changes types")
    leaves = jax.tree.leaves(sparse)
    for part in flat:
        hold((numbers(leaves[part.place])[~part.mask] == 0).all(), f"the sparse view of {part.name} is not sparse")
    healed = jax.tree.leaves(dstjax.apply_masks(params, masks))
    for part in flat:
        hold((numbers(healed[part.place])[~part.mask] == 0).all(), f"apply_masks leaves something in {part.name}")
    if all(np.isfinite(p.weight).all() for p in flat):
        hold(dstjax.check_sparse(params, opt_state), "check_sparse")
        shown = dstjax.summary(params, opt_state)
        hold(sorted(row.path for row in shown.masked) == sorted(p.name for p in flat), "summary names other leaves")
        hold(str(shown), "an empty summary")
    if "exploration" in track and len(seen) == 1 and flat:
        rate = float(dstjax.metrics.exploration_rate(opt_state))
        hold(0 < rate <= 1, f"exploration rate {rate}")
    if len(seen) == 1 and flat:
        error = float(dstjax.metrics.mask_error(params, opt_state))
        largest = max(float(np.abs(p.weight).max(initial=0)) for p in flat)
        hold(not largest < 1e10 or 0 <= error <= 1, f"mask error {error}")


def are_finite(tree: Any) -> bool:
    """Whether all numbers of a tree are finite."""
    return all(np.isfinite(numbers(x)).all() for x in jax.tree.leaves(tree))


def frozen_places(c: Configuration, params: Any) -> list[int]:
    """The leaves that the inner optimiser of a configuration never moves."""
    is_frozen = c.inner in making.FREEZING and making.own_optimiser(c)
    return making.matrices(params)[:1] if is_frozen else []


def still_places(c: Configuration, params: Any, steps: int) -> list[int]:
    """The leaves whose gradient has been zero so far, as ``sparsify`` sees it."""
    if not c.zero_leaf or c.wrapper in PARTIAL:  # which shows it that leaf alone
        return []
    gradients = [making.gradient(c, params, t) for t in range(1, steps + 1)]
    lost = c.wrapper == "global norm" and not are_finite(gradients)  # which makes all leaves NaN
    nothing = any(not any(np.any(numbers(x)) for x in jax.tree.leaves(g)) for g in gradients)  # of all leaves
    return [] if lost or nothing else making.matrices(params)[-1:]


def prunes(method: Any) -> bool:
    """Whether a method brings its layers down to a number, those without a gradient too."""
    updates = method.updates
    return method.start.sparsity is not None or (updates is not None and updates.n_kept == budgets.target)


def may_move(c: Configuration, method: Any, finite: bool) -> bool:
    """Whether something other than the gradient moves weights: noise, decay, a penalty, what is not finite."""
    restless = c.inner in making.RESTLESS or c.wrapper in ("partition", "masked")
    rules = method.seen.gradient, None if method.updates is None else method.updates.new_weights
    spoilt = not finite and c.inner == "clip"
    # In half precision an epsilon rounds to zero, and zero is divided by zero.
    divided = c.dtype not in ("float32", "float64") and c.inner not in making.WITHOUT_DIVISION
    return restless or spoilt or divided or any(rule is not None for rule in rules)

"""Checks of what the rules of a method return: each failure names the rule, what it gave and what is expected."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dstjax._arrays.trees import Tree, is_array, path_difference, path_name
from dstjax.rules import described


def counts(rule: Any, what: str, found: Any, leaves: int, *, pooled: bool = False) -> jax.Array:
    """Integers, one for each masked leaf, or one for all if ``pooled`` allows it."""
    shapes = [(leaves,), ()] if pooled else [(leaves,)]
    numbers = _array(rule, what, found)
    if numbers.shape not in shapes or not jnp.issubdtype(numbers.dtype, jnp.integer):
        expected = " or ".join(f"integers of shape {shape}" for shape in shapes)
        raise ValueError(f"the rule {_shown(what, rule)} returned {_type(numbers)}; expected {expected}.")
    return numbers


def like_weight(rule: Any, what: str, found: Any, weight: jax.Array, kind: Any = None) -> jax.Array:
    """An array of the shape of the weight, real, of a kind of dtypes if one is named."""
    array = _array(rule, what, found)
    wrong_kind = kind is not None and not jnp.issubdtype(array.dtype, kind)
    if _is_tiny(array.dtype) and array.dtype != weight.dtype:  # such floats are promoted to no other
        raise ValueError(
            f"the rule {_shown(what, rule)} returned {_type(array)} for a leaf of {weight.dtype}; expected its dtype, "
            "or a wider one."
        )
    if array.shape != weight.shape or wrong_kind or jnp.issubdtype(array.dtype, jnp.complexfloating):
        name = "real numbers" if kind is None else jnp.dtype(kind).name if kind is jnp.bool_ else "floating numbers"
        raise ValueError(
            f"the rule {_shown(what, rule)} returned {_type(array)} for a leaf of shape {weight.shape}; expected "
            f"{name}, one for each weight."
        )
    return array


def like(rule: Any, what: str, found: Any, old: Any) -> Any:
    """A tree of arrays with the shapes and dtypes of what was remembered."""
    new_tree: Any = jax.tree.structure(found)
    old_tree: Any = jax.tree.structure(old)
    if new_tree != old_tree:
        raise ValueError(f"the rule {_shown(what, rule)} returned {new_tree}; expected {old_tree}, as at first.")

    def one(path: Any, new: Any, last: Any) -> Any:
        new = _array(rule, what, new)
        if jnp.shape(new) != jnp.shape(last) or jnp.result_type(new) != jnp.result_type(last):
            raise ValueError(
                f"the rule {_shown(what, rule)} returned {_type(new)}{' at ' * bool(path)}{path_name(path)}; expected "
                f"{_type(last)}, as at first."
            )
        return new

    return jax.tree_util.tree_map_with_path(one, found, old)


def remembered(rule: Any, found: Any) -> Any:
    """What a rule remembers of a leaf at first: an array, or a tuple of arrays."""
    leaves = jax.tree.leaves(found)
    if not leaves or not all(is_array(x) for x in leaves):
        given = ", ".join(sorted({type(x).__name__ for x in leaves})) or repr(found)
        raise ValueError(
            f"the rule {_shown('leaf', rule)} returned {given}; expected what is remembered of a leaf at first: an "
            "array, or a NamedTuple of arrays."
        )
    return found


def masks(rule: Any, what: str, found: Any, old: list[jax.Array]) -> list[jax.Array]:
    """Boolean arrays of the shapes of the masks."""
    if not isinstance(found, list | tuple):
        raise ValueError(f"the rule {_shown(what, rule)} returned {found!r}; expected a list of {len(old)} masks.")
    new = list(found)
    if len(new) != len(old):
        raise ValueError(f"the rule {_shown(what, rule)} returned {len(new)} masks; expected {len(old)}.")
    return [like_weight(rule, what, n, o, jnp.bool_) for n, o in zip(new, old, strict=True)]


def step(found: Any, gradients: Tree) -> tuple[list[Any], Any]:
    """What an inner optimiser returned: its updates, in the order of the gradients that it was given, and its state."""
    if not isinstance(found, tuple) or len(found) != 2:
        shown = f"{len(found)} things" if isinstance(found, tuple) else f"a {type(found).__name__}"
        raise ValueError(f"the inner optimiser returned {shown}; expected a pair, of the updates and its new state.")
    updates, state = found
    try:
        treedef: Any = jax.tree_util.tree_structure(gradients)
        return treedef.flatten_up_to(updates), state
    except ValueError as error:
        raise ValueError(
            "the inner optimiser returned updates for another tree than that of its gradients; "
            f"{path_difference(gradients, updates)}. Expected an update for each gradient."
        ) from error


def _array(rule: Any, what: str, found: Any) -> jax.Array:
    try:
        return jnp.asarray(found)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the rule {_shown(what, rule)} returned {found!r}; expected an array.") from error


def _is_tiny(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating)) and jnp.finfo(dtype).bits < 16


def _shown(what: str, rule: Callable[..., Any]) -> str:
    return f"{what}={described(rule)}"


def _type(x: Any) -> str:
    return f"{jnp.result_type(x)}{list(jnp.shape(x))}"

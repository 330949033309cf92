"""Names the leaves of parameter trees by path, whatever the tree is made of."""

import collections
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

Tree = Any
Path = tuple[str, ...]  # the keys that lead to a leaf, without the one that its box adds


class Place(NamedTuple):
    """Where a tree has a leaf or a hole."""

    name: str
    path: Path
    node: Any  # the leaf, in its box if it has one; or the hole

    @property
    def is_hole(self) -> bool:
        """Whether there is no leaf, be it in a box."""
        return not jax.tree_util.tree_leaves(self.node)

    @property
    def leaf(self) -> Any:
        """Returns the leaf without its box."""
        return jax.tree_util.tree_leaves(self.node)[0]

    def holding(self, leaf: Any) -> Any:
        """Returns another leaf in a box like this one."""
        box: Any = jax.tree_util.tree_structure(self.node)
        return box.unflatten([leaf])


def is_hole(node: Any) -> bool:
    """True for ``None`` and for the placeholder that ``optax.masked`` and ``optax.partition`` leave."""
    return node is None or isinstance(node, optax.MaskedNode)


def is_box(node: Any) -> bool:
    """Whether a node does nothing but hold one leaf or hole: a variable of NNX, a ``Partitioned`` of Linen, ...

    Such a class has one child, without a name or named ``value``. Mappings and tuples of one entry are containers.
    """
    if isinstance(node, jax.Array | np.ndarray | np.generic | Mapping | list | tuple | str | None):
        return False
    children = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)[0]
    if len(children) != 1 or not children[0][0]:
        return False
    (key,), child = children[0]
    is_unnamed = isinstance(key, jax.tree_util.FlattenedIndexKey) or _shown(key) == "value"
    return is_unnamed and (is_hole(child) or is_box(child) or jax.tree_util.all_leaves([child]))


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array or the shape of one; PRNG keys, classes and Python scalars are none."""
    if isinstance(leaf, type) or not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
        return False
    return not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)


def is_weight(leaf: Any) -> bool:
    """Whether a leaf is an array of real floating numbers with a zero among them, which alone can be masked."""
    return is_array(leaf) and bool(jnp.issubdtype(leaf.dtype, jnp.floating)) and leaf.dtype != jnp.float8_e8m0fnu


def is_absent(field: Any) -> bool:
    """Whether a field of a state is empty: ``()``, which has no leaves and is no hole in the tree."""
    return type(field) is tuple and not field


def or_none(field: Any) -> Any:
    """Returns a field of a state, None where it is absent."""
    return None if is_absent(field) else field


def or_absent(field: Any) -> Any:
    """Undoes :func:`or_none`."""
    return () if field is None else field


def places(tree: Tree) -> tuple[list[Place], Any]:
    """Returns the leaves and holes of a tree in order, and the treedef whose leaves they are, in their boxes.

    A name joins the keys by ``/``: ``('Dense_0', 'kernel')`` is ``Dense_0/kernel``. Where that makes two alike, as with
    ``{'m': {'w': ...}, 'm/w': ...}``, a ``/`` within a key is doubled.
    """
    flat, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: is_hole(x) or is_box(x))
    paths = [tuple(map(_shown, keys)) for keys, _ in flat]
    return [Place(n, p, node) for n, p, (_, node) in zip(_names(paths), paths, flat, strict=True)], treedef


def path_name(path: tuple[Any, ...]) -> str:
    """Joins the keys of a path by ``/``; :func:`places` knows the boxes too."""
    return "/".join(map(_shown, path))


def path_difference(expected: Tree, found: Tree) -> str:
    """Says which paths one tree has and the other lacks, for an error message."""
    want, have = ({p.name: p.is_hole for p in places(tree)[0]} for tree in (expected, found))
    missing = [n for n, is_hole in want.items() if n not in have or (have[n] and not is_hole)]
    parts = []
    for label, names in (("missing", missing), ("unexpected", [n for n in have if n not in want])):
        if names:
            shown = ", ".join(sorted(names)[:5])
            parts.append(f"{label}: {shown}{' ...' if len(names) > 5 else ''}")
    return "; ".join(parts) or "the same paths in other containers"


def is_traced(value: Any) -> bool:
    """Whether a hyper-parameter is only known inside a trace, as under ``vmap`` over a population."""
    return isinstance(value, jax.core.Tracer)


def _shown(key: Any) -> str:
    return jax.tree_util.keystr((key,), simple=True)


def _names(paths: list[Path]) -> list[str]:
    """Returns a name for each path, no two alike."""
    names = ["/".join(path) for path in paths]
    times = collections.Counter(names)
    if len(times) < len(names):
        doubled = ["/".join(key.replace("/", "//") for key in path) for path in paths]
        names = [n if times[n] == 1 else d for n, d in zip(names, doubled, strict=True)]
        taken: set[str] = set()
        for i, name in enumerate(names):
            while name in taken:
                name += "'"
            names[i] = name
            taken.add(name)
    return names

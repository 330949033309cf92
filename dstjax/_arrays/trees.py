"""Names the leaves of parameter trees by path, whatever the tree is made of."""

from typing import Any

import jax
import optax

Tree = Any


def is_hole(node: Any) -> bool:
    """True for ``None`` and for the placeholder that ``optax.masked`` and ``optax.partition`` leave."""
    return node is None or isinstance(node, optax.MaskedNode)


def path_name(path: tuple[Any, ...]) -> str:
    """Joins a key path by ``/``: ``('Dense_0', 'kernel')`` is ``Dense_0/kernel``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def path_difference(expected: Tree, found: Tree) -> str:
    """Says which paths one tree has and the other lacks, for an error message."""
    want = {path_name(p) for p, _ in jax.tree_util.tree_flatten_with_path(expected)[0]}
    have = {path_name(p) for p, _ in jax.tree_util.tree_flatten_with_path(found)[0]}
    parts = []
    for label, names in (("missing", want - have), ("unexpected", have - want)):
        if names:
            shown = ", ".join(sorted(names)[:5])
            parts.append(f"{label}: {shown}{' ...' if len(names) > 5 else ''}")
    return "; ".join(parts) or "the same paths in other containers"


def is_traced(value: Any) -> bool:
    """Whether a hyper-parameter is only known inside a trace, as under ``vmap`` over a population."""
    return isinstance(value, jax.core.Tracer)

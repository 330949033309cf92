"""Writes a network with its program, as StableHLO, to one file that runs without the code that made it."""

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from dstjax._arrays.leaves import named
from dstjax._arrays.trees import Tree
from dstjax.exchange.files import load_npz, write_npz
from dstjax.exchange.host import imported

_PROGRAM = "program"


def save_program(
    path: str | os.PathLike[str],
    function: Callable[..., Any],
    params: Tree,
    *args: Any,
    platforms: Sequence[str] | None = None,
) -> None:
    """Writes ``function(params, *args)`` and its parameters to a ``.npz`` file.

    Meant for what :func:`dstjax.compact` and :func:`dstjax.kernels.rewrite` return, and for any other function. The
    file is one of :func:`dstjax.exchange.save_npz`, which ``load_npz`` reads too, with ``program`` beside: what
    ``jax.export.Exported.serialize`` gives, whose arguments are the list of the leaves in the order of the header, and
    the other arguments. JAX of the same or a later version runs it, for six months at least; ``jax.export`` shows its
    StableHLO to other compilers.

    Args:
      path: of the file, used as it is.
      function: of the parameters and other arguments, as ``jax.jit`` takes it. Arrays that it closes over, such as the
        tables of a rewritten program, go into the program.
      params: tree of arrays.
      *args: an example of the other arguments, arrays or ``jax.ShapeDtypeStruct``: the program takes these shapes.
      platforms: such as ``("cpu", "cuda", "tpu")``; by default that of this process.

    Raises:
      ValueError: flatbuffers is not installed (``pip install dstjax[export]``); the program calls back to Python, as
        the product of scipy does; an argument is of a container that cannot be written; or as ``save_npz``.
      OSError: the file cannot be written.
    """
    imported("flatbuffers", "dstjax.exchange.save_program")
    leaves, treedef = jax.tree_util.tree_flatten(params)

    def flat(leaves: list[Any], *args: Any) -> Any:
        return function(jax.tree_util.tree_unflatten(treedef, leaves), *args)

    try:
        exported = jax.export.export(jax.jit(flat), platforms=platforms)(leaves, *args)
        program = exported.serialize()
    except (NotImplementedError, ValueError, TypeError) as error:
        why = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"the program cannot be written: {why}. Expected one without calls back to Python, with arguments in "
            "dictionaries, lists and tuples."
        ) from error
    write_npz(path, params, None, {_PROGRAM: np.frombuffer(bytes(program), np.uint8)})


def load_program(path: str | os.PathLike[str], like: Tree | None = None) -> tuple[Callable[..., Any], Tree]:
    """Returns the function and the parameters of a file of :func:`save_program`.

    Args:
      path: of the file.
      like: as in :func:`dstjax.exchange.load_npz`; by default the parameters come as dictionaries along their paths.

    Returns:
      ``function(params, *args)``, to be called with arguments of the shapes of the example; and the parameters.

    Raises:
      ValueError: it is no such file, or damaged; or flatbuffers is not installed.
      OSError: the file cannot be read.
    """
    imported("flatbuffers", "dstjax.exchange.load_program")
    params, _ = load_npz(path, like)
    try:
        with np.load(path, allow_pickle=False) as members:
            order = [*json.loads(members["dstjax"].tobytes())["leaves"]]
            exported = jax.export.deserialize(bytearray(members[_PROGRAM].tobytes()))
    except MemoryError:
        raise
    except Exception as error:  # as load_npz; flatbuffers check nothing either
        raise ValueError(
            f"{os.fspath(path)} holds no program of dstjax.exchange.save_program, or is damaged: {error}."
        ) from None

    def function(params: Tree, *args: Any) -> Any:
        found = named(params)
        if {*found} != {*order}:
            raise ValueError(f"the parameters have leaves {sorted(found)}; expected {sorted(order)}.")
        leaves = [found[name] for name in order]
        shapes = [tuple(aval.shape) for aval in exported.in_avals]
        wrong = [
            f"{name!r} {np.shape(x)} in place of {shape}"
            for name, x, shape in zip(order, leaves, shapes, strict=False)
            if np.shape(x) != shape
        ]
        others = [np.shape(x) for x in jax.tree_util.tree_leaves(args)]
        if not wrong and others != shapes[len(order) :]:
            wrong = [f"the other arguments {others} in place of {shapes[len(order) :]}, the only ones of this program"]
        if wrong:
            raise ValueError(f"the shapes are not those of the program: {'; '.join(wrong)}.")
        return exported.call(leaves, *args)

    return function, params

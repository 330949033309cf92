"""Runs the program of a network on smaller parameters: the same equations, in smaller shapes."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax.program.channel_reader import DERIVED
from dstjax.program.channel_record import Place, Record
from dstjax.program.labels import Ints
from dstjax.program.primitives import scan_sizes
from dstjax.program.walking import apply, programs, walk

_MOVED = 32  # multiply-adds that take about as long as moving one number on a CPU


class Cutter:
    """Runs a program without the indices of some groups."""

    def __init__(self, record: Record, gone: Ints) -> None:
        roots = record.labels.roots(np.arange(len(record.labels)))
        self._stays = ~np.isin(roots, gone)
        self._record = record

    def keep(self, labels: Ints) -> np.ndarray:
        """Returns which indices of an axis stay, bool."""
        return self._stays[labels]

    def run(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any], path: Place) -> list[Any]:
        """Returns the results of a jaxpr at a call path."""
        number = itertools.count()

        def equation(eqn: Any, operands: list[Any]) -> list[Any]:
            return self._equation(eqn, operands, (*path, next(number)))

        return walk(jaxpr, inputs, consts, equation, lambda atom: atom.val, every=False)

    def _cut(self, x: Any, axes: Sequence[Ints] | None) -> Any:
        for k, labels in enumerate(axes or ()):
            keep = self.keep(labels)
            if not keep.all():
                x = jnp.take(jnp.asarray(x), np.flatnonzero(keep), axis=k)
        return x

    def _filled(self, eqn: Any, operands: list[Any], cuts: Sequence[Sequence[Ints] | None]) -> list[Any] | None:
        """Fills up the weights of a product with zeros for data that is not read, where that is less work than a cut.

        Returns the operands, or None where data is to be cut.
        """
        contracted, batched = eqn.params["dimension_numbers"]
        for data, weights in ((0, 1), (1, 0)):
            axes = cuts[data]
            if axes is None or cuts[weights] is not None:
                continue
            x, w, keep = operands[data], operands[weights], [self.keep(labels) for labels in axes]
            if not all(k.all() for a, k in enumerate(keep) if a not in contracted[data]):
                return None
            pairs = [(keep[a], b) for a, b in zip(contracted[data], contracted[weights], strict=True)]
            shape = list(np.shape(w))
            inner = {b for _, b in pairs} | set(batched[weights])
            outputs = math.prod(n for b, n in enumerate(shape) if b not in inner)
            for k, b in pairs:
                shape[b] = len(k)
            size = math.prod(int(k.sum()) for k in keep)
            more = outputs * (math.prod(np.shape(x)) - size)
            if more + _MOVED * math.prod(shape) > _MOVED * size:
                return None
            for k, b in pairs:
                if not k.all():  # places beyond the end are filled with zeros
                    places = np.where(k, np.cumsum(k) - 1, k.sum())
                    w = jnp.take(w, places, axis=b, mode="fill", fill_value=0)
            return [x, w] if data == 0 else [w, x]
        return None

    def _all_cut(self, found: Sequence[Any], key: Place) -> list[Any]:
        """Cuts those of some results that are held in full, where all of them are to be cut."""
        return [self._cut(x, axes) for x, axes in zip(found, self._record.ends[key], strict=True)]

    def _equation(self, eqn: Any, operands: list[Any], place: Place) -> list[Any]:
        name, inner = eqn.primitive.name.replace("-", "_"), programs(eqn)
        if place in self._record.cuts:
            cuts = self._record.cuts[place]
            filled = self._filled(eqn, operands, cuts) if name == "dot_general" else None
            operands = filled or [self._cut(x, axes) for x, axes in zip(operands, cuts, strict=True)]
        if place in self._record.looked_into:
            if name in _LOOPS:
                return _LOOPS[name](self, eqn, operands, place)
            return self._call(eqn, inner[0], operands, place)
        if place not in self._record.results:  # it does not depend on the parameters
            return apply(eqn, operands)
        sizes = [tuple(int(self.keep(a).sum()) for a in axes) for axes in self._record.results[place]]
        if name == "slice":
            return [self._slice(eqn, operands[0], self._record.operands[place][0])]
        if all(np.shape(x) == v.aval.shape for x, v in zip(operands, eqn.invars, strict=True)) and all(
            s == getattr(v.aval, "shape", ()) for s, v in zip(sizes, eqn.outvars, strict=True)
        ):
            return apply(eqn, operands)
        change = _CHANGES.get(name)
        params = dict(eqn.params) if change is None else change(eqn, operands, sizes)
        found = eqn.primitive.bind(*operands, **params)
        return list(found) if eqn.primitive.multiple_results else [found]

    def _call(self, eqn: Any, inner: tuple[Any, Sequence[Any]], operands: list[Any], place: Place) -> list[Any]:
        name = eqn.primitive.name

        def run(*given: Any) -> list[Any]:
            found = self.run(*inner, given, place)
            return self._all_cut(found, place) if name in DERIVED else found

        if place in self._record.derivatives:
            return self._derived(eqn, run, operands, place)
        if name in ("checkpoint", "remat", "remat2"):
            options = {n: eqn.params[n] for n in ("prevent_cse", "policy") if n in eqn.params}
            return jax.checkpoint(run, **options)(*operands)
        return run(*operands)

    def _derived(self, eqn: Any, run: Callable[..., list[Any]], operands: list[Any], place: Place) -> list[Any]:
        """Runs a function that brings its derivative with it, and gives it the smaller derivative."""
        closed = self._record.derivatives[place]
        real = [i for i, v in enumerate(eqn.invars) if jnp.issubdtype(v.aval.dtype, jnp.inexact)]
        results = [i for i, v in enumerate(eqn.outvars) if jnp.issubdtype(v.aval.dtype, jnp.inexact)]

        def slopes(values: Sequence[Any], given: Sequence[Any]) -> list[Any]:
            path = (*place, "derivative")
            return self._all_cut(self.run(closed.jaxpr, closed.consts, [*values, *given], path), path)

        def filled(found: Sequence[Any], at: Sequence[int], like: Sequence[Any]) -> list[Any]:
            whole: list[Any] = [np.zeros(np.shape(x), jax.dtypes.float0) for x in like]
            for i, x in zip(at, found, strict=True):
                whole[i] = x
            return whole

        if eqn.primitive.name == "custom_jvp_call":

            def jvp(values: Any, given: Any) -> Any:
                found = run(*values)
                return found, filled(slopes(values, [given[i] for i in real]), results, found)

            forward = jax.custom_jvp(run)
            forward.defjvp(jvp)
            return forward(*operands)

        def backward(values: Any, given: Any) -> Any:
            return tuple(filled(slopes(values, [given[i] for i in results]), real, values))

        function = jax.custom_vjp(run)
        function.defvjp(lambda *values: (run(*values), values), backward)
        return function(*operands)

    def _slice(self, eqn: Any, x: Any, axes: Sequence[Ints]) -> Any:
        p = eqn.params
        strides = p["strides"] or (1,) * x.ndim
        for k, cut in enumerate(zip(p["start_indices"], p["limit_indices"], strides, strict=True)):
            keep = self.keep(axes[k])
            place = (np.cumsum(keep) - 1)[slice(*cut)][keep[slice(*cut)]]
            if len(place) and (np.diff(place) == 1).all():
                x = jax.lax.slice_in_dim(x, int(place[0]), int(place[-1]) + 1, axis=k)
            else:
                x = jnp.take(x, place, axis=k)
        return x

    def _scan(self, eqn: Any, operands: list[Any], place: Place) -> list[Any]:
        consts, carried = scan_sizes(eqn.params)
        split, body = consts + carried, eqn.params["jaxpr"]

        def round_of(carry: list[Any], slices: list[Any]) -> tuple[list[Any], list[Any]]:
            found = self.run(body.jaxpr, body.consts, [*operands[:consts], *carry, *slices], place)
            return self._all_cut(found[:carried], (*place, "end")), found[carried:]

        options = {n: eqn.params[n] for n in ("length", "reverse", "unroll")}
        start = self._all_cut(operands[consts:split], (*place, "start"))
        carry, stacked = jax.lax.scan(round_of, start, operands[split:], **options)
        return [*carry, *stacked]

    def _while(self, eqn: Any, operands: list[Any], place: Place) -> list[Any]:
        test, consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        asked, body = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]

        def goes_on(carry: Any) -> Any:
            return self.run(asked.jaxpr, asked.consts, [*operands[:test], *carry], (*place, "test"))[0]

        def round_of(carry: Any) -> Any:
            given = [*operands[test : test + consts], *carry]
            return self._all_cut(self.run(body.jaxpr, body.consts, given, place), (*place, "end"))

        start = self._all_cut(operands[test + consts :], (*place, "start"))
        return list(jax.lax.while_loop(goes_on, round_of, start))

    def _cond(self, eqn: Any, operands: list[Any], place: Place) -> list[Any]:
        def branch(i: int, closed: Any) -> Callable[..., list[Any]]:
            def run(*given: Any) -> list[Any]:
                found = self.run(closed.jaxpr, closed.consts, given, (*place, i))
                return self._all_cut(found, (*place, i, "end"))

            return run

        ways = [branch(i, closed) for i, closed in enumerate(eqn.params["branches"])]
        return list(jax.lax.switch(operands[0], ways, *operands[1:]))


_LOOPS = {"scan": Cutter._scan, "while": Cutter._while, "cond": Cutter._cond}
_Sizes = list[tuple[int, ...]]


def _broadcast(eqn: Any, operands: list[Any], sizes: _Sizes) -> dict[str, Any]:
    return {**eqn.params, "shape": sizes[0]}


def _reshape(eqn: Any, operands: list[Any], sizes: _Sizes) -> dict[str, Any]:
    return {**eqn.params, "new_sizes": sizes[0]}


def _split(eqn: Any, operands: list[Any], sizes: _Sizes) -> dict[str, Any]:
    return {**eqn.params, "sizes": tuple(s[eqn.params["axis"]] for s in sizes)}


def _convolution(eqn: Any, operands: list[Any], sizes: _Sizes) -> dict[str, Any]:
    """Leaves the groups that are left."""
    groups, axis = eqn.params["feature_group_count"], eqn.params["dimension_numbers"].lhs_spec[1]
    if groups == 1:
        return dict(eqn.params)
    return {**eqn.params, "feature_group_count": groups * operands[0].shape[axis] // eqn.invars[0].aval.shape[axis]}


def _sliced(eqn: Any, operands: list[Any], sizes: _Sizes) -> dict[str, Any]:
    """Takes an axis in full that was taken in full."""
    old, full = eqn.params["slice_sizes"], eqn.invars[0].aval.shape
    whole = (n if s == f else s for s, f, n in zip(old, full, operands[0].shape, strict=True))
    return {**eqn.params, "slice_sizes": tuple(whole)}


_CHANGES: dict[str, Callable[[Any, list[Any], _Sizes], dict[str, Any]]] = {
    "broadcast_in_dim": _broadcast,
    "conv_general_dilated": _convolution,
    "dynamic_slice": _sliced,
    "gather": _sliced,
    "reshape": _reshape,
    "split": _split,
}

"""Methods and rules by name, from the catalogue or from a file of the user's own."""

import ast
import functools
import importlib
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import dstjax
from dstjax.checks import suggest
from experiments.models import shapes

FLOPS = "flops"
RULES = ("distribution", "drop_schedule", "drop", "grow")  # may be module:function


class Own(NamedTuple):
    """What a user wrote, and the text that named it."""

    function: Callable[..., Any]
    named: str  # module:function


def hyperparameters(methods: Iterable[str]) -> set[str]:
    """Those that at least one of the methods has."""
    return {name for method in methods for name in defaults(method)}


def defaults(method: str) -> dict[str, Any]:
    """The hyper-parameters of a method and their defaults."""
    return dict(_defaults(entry(method)))


@functools.cache
def _defaults(make: Callable[..., dstjax.Method]) -> dict[str, Any]:
    parameters = inspect.signature(make).parameters.values()
    return {p.name: p.default for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}


def entry(method: str) -> Callable[..., dstjax.Method]:
    """What makes a method: that of the catalogue, or a function of the user's own, ``module:function``.

    Raises:
      ValueError: there is none.
    """
    if is_rule(method):
        return rule("method", method)
    if method not in dstjax.methods.CATALOGUE:
        raise ValueError(f"method {method!r} is not known; {suggest(method, dstjax.methods.names(channels=True))}")
    return dstjax.methods.CATALOGUE[method]


def is_rule(value: Any) -> bool:
    """Whether a field names a function of the user's own."""
    return isinstance(value, str) and ":" in value and not value.lstrip().startswith("{")


def rule(field: str, text: str) -> Any:
    """The function of a user, from 'module:function' with the module in the current directory or installed.

    Raises:
      ValueError: it cannot be imported or is no function.
    """
    module_name, _, name = text.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(module_name), name, None)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{field}={text!r} is not accepted; importing {module_name!r} failed: {reason}") from error
    finally:
        sys.path.remove(here)
    if not callable(function):
        raise ValueError(f"{field}={text!r} is not accepted; {module_name!r} has no function {name!r}.")
    return function


def resolved(field: str, value: Any, network: tuple[Any, tuple[int, ...]] | None = None) -> Any:
    """What the text of a field stands for; ``network``: the model and the shape of an example, for its channels."""
    if not isinstance(value, str):
        return value
    if field == "structure":
        return _structure(value, network)
    if field == "maskable":
        return _maskable(value)
    if field == "distribution" and value.lstrip().startswith("{"):
        try:
            return json.loads(value)
        except ValueError as error:
            raise ValueError(f"{field}={value!r} is not accepted; as JSON it fails: {error}.") from error
    return rule(field, value) if is_rule(value) else value


def costs_of(structure: Any) -> Path | None:
    """The file of the table of costs that a structure names, None where it names none."""
    costs = _call(structure)[2].get("costs") if isinstance(structure, str) else None
    return Path(costs) if isinstance(costs, str) and costs != FLOPS else None


def _structure(text: str, network: tuple[Any, tuple[int, ...]] | None) -> Any:
    """'n_m(2, 4)' -> dstjax.structures.n_m(2, 4); channels are those of the network."""
    make, values, named = _call(text)
    if make is dstjax.structures.channels:
        if network is None:
            raise ValueError(f"structure={text!r} is not accepted here; channels are those of a network.")
        values = [shapes.channels_of(*network), *values]
        if named.get("costs") == FLOPS:
            whole = named.get("whole", ())
            if not isinstance(whole, str | list | tuple):
                raise ValueError(f"structure={text!r} is not accepted; expected regular expressions for whole=.")
            named["costs"] = shapes.channel_flops(*network, whole if isinstance(whole, str) else tuple(whole))
        elif (file := costs_of(text)) is not None:
            # What runs the network in the end need not be what trains it.
            named["costs"] = dstjax.latency.load(file, any_device=True)
    try:
        return make(*values, **named)
    except TypeError as error:
        raise ValueError(f"structure={text!r} is not accepted: {error}.") from None


def _call(text: str) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
    makers = {name: getattr(dstjax.structures, name) for name in ("n_m", "block", "fan_in", "channels")}
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call):
            raise ValueError(text)
        make = makers[ast.unparse(call.func)]
        return (
            make,
            [ast.literal_eval(a) for a in call.args],
            {str(k.arg): ast.literal_eval(k.value) for k in call.keywords},
        )
    except (SyntaxError, KeyError, ValueError):
        raise ValueError(
            f"structure={text!r} is not known; expected n_m(2, 4), block(4, 4), block(32, 32, balanced=True), "
            "fan_in(0.3), channels(budget=0.55), of the weights, channels(budget=0.55, costs='flops') or "
            "channels(budget=0.55, costs='FILE'), a table of experiments.latency_table."
        ) from None


def _maskable(pattern: str) -> Callable[[str, Any], bool]:
    """Of leaves of two or more dimensions those whose path has a match."""
    try:
        fits = re.compile(pattern).search
    except re.error as error:
        raise ValueError(
            f"maskable={pattern!r} is not accepted; as a regular expression of paths it fails: {error}."
        ) from None
    return lambda path, leaf: len(leaf.shape) >= 2 and fits(path) is not None

"""The methods of a grid: those of the catalogue, variants of them, and methods of the user's own."""

import copy
import re
from typing import NamedTuple

from ml_collections import ConfigDict, config_dict

import dstjax
from experiments import command_line
from experiments.report.names import method_label
from experiments.training import configuration, rules

SET_BY = {"method": "--methods", "sparsity": "--sparsities", "seeds": "--seeds"}
SHARED = ("dataset", "protocol", "data_root", "proxy", "model")  # what all cells have, or their seeds are no pairs
FILES = ("results.csv", "report.html")  # what stands in a grid's folder beside the folders of its cells


class Variant(NamedTuple):
    """A method of the grid, under the name that it is reported by."""

    name: str
    method: str  # of the catalogue, or module:function
    changes: dict[str, str]  # fields of its config, as they are typed

    @property
    def meaning(self) -> str:
        """What a name of the user's own stands for, in words; '' of a method of the catalogue."""
        if self.name in dstjax.methods.CATALOGUE:
            return ""
        changes = ", ".join(f"{field} = {value}" for field, value in self.changes.items())
        return method_label(self.method) + (f" with {changes}." if changes else ".")


def variant(text: str) -> Variant:
    """Reads one of ``--methods``.

    Raises:
      ValueError: it is not written as one, or has a name that is not accepted.
    """
    name, equals, rest = re.fullmatch(r"(?:([^:=]*)(=))?(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    method, _, changed = rest.partition(":")
    if changed and (method not in dstjax.methods.CATALOGUE):  # module:function, and perhaps fields after it
        function, _, changed = changed.partition(":")
        method = f"{method}:{function}"
    name = name if equals else method.rpartition(":")[2]
    rules.entry(method)
    known = name in dstjax.methods.CATALOGUE and (changed or name != method)
    if not re.fullmatch(r"[A-Za-z][\w.-]*", name) or known or name.lower() in FILES:
        raise ValueError(
            f"--methods: {text!r} is not accepted; expected a name of your own before the =, of letters, digits, _, . "
            f"and -, as in mine=rigl:grow=my_rules:f, none of the catalogue and not {' or '.join(FILES)}."
        )
    changes = {}
    for change in re.split(r"\+(?=\w+=)", changed) if changed else []:
        field, equals, value = change.partition("=")
        if not equals:
            raise ValueError(f"--methods: {change!r} of {text!r} is not accepted; expected FIELD=VALUE.")
        if field in SET_BY:
            raise ValueError(f"config field {field!r} is not accepted in --methods; use {SET_BY[field]}.")
        if field.partition(".")[0] in SHARED:
            raise ValueError(
                f"config field {field!r} is not accepted in --methods, since methods are compared on the same data and "
                f"network; change it for all by --config.{field}={value}."
            )
        changes[field] = value
    return Variant(name, method, changes)


def reported(of: Variant, config: ConfigDict) -> str:
    """What a method is called: by its name, and by other rules than its own that the whole grid was given."""
    usual = rules.defaults(of.method)
    own = [
        f"{n}={config[n]}"
        for n in rules.RULES
        if n not in of.changes
        and (rules.is_rule(config[n]) or (n in ("drop", "grow") and config[n] not in (None, usual.get(n))))
    ]
    return f"{method_label(of.name)} with {', '.join(own)}" if own else of.name


def in_order() -> list[str]:
    """All methods but those of channels, which need a structure of the network's own, as the catalogue lists them."""
    every = dstjax.methods.names()
    return [name for name in dstjax.methods.CATALOGUE if name in every]


def has_sparsity(of: Variant, config: ConfigDict) -> bool:
    """Whether a method takes a sparsity; the dense one has none, and N:M and SET with an epsilon have their own."""
    given = {*of.changes, *(["epsilon"] if config.get("epsilon") is not None else [])}
    own = of.method == "set" and "epsilon" in given
    return "sparsity" in rules.hyperparameters([of.method]) and not own


def config_of(
    config: ConfigDict, defaults: ConfigDict, of: Variant, sparsity: float | None, coefficient: float | None
) -> ConfigDict:
    """The config of one cell: without the changes of hyper-parameters that its method does not have."""
    own = copy.deepcopy(config)
    configuration.change_method(own, of.method, defaults)
    with own.unlocked():
        for name in rules.hyperparameters([of.method]) & {*of.changes} - {*own.keys()}:
            own[name] = config_dict.placeholder(object)  # of a method of one's own
        if sparsity is not None:
            own.sparsity = sparsity
        if coefficient is not None:
            own.coefficient = coefficient
    for name, text in of.changes.items():
        command_line.set_field(own, name, text)
    return own

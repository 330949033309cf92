"""Says once what the catalogue knows of a method, where the method is."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from dstjax.checks import check_choice, suggest
from dstjax.method import Method, rewiring
from dstjax.methods.references import entries

FAMILIES = (
    "baseline",
    "pruned at initialisation",
    "dense to sparse",
    "sparse to sparse",
    "performance-driven",
    "structured",
)
CHANNELS = "structure="  # needed where the channels of a network are what a method switches
# What a loop must do beyond update(grads, opt_state, params), or give before it.
NEEDS = ("initial_masks=", "set_masks", "value=", "metric=", "full_gradient=", "forward_params", CHANNELS)

# The defaults that the code of ITOP, GraNet and SNFS has in common.
ITOP: dict[str, Any] = dict(
    drop_fraction=0.5, drop_schedule="cosine_floor", rounding="ceil", update_order="step_then_update"
)

Entry = Callable[..., Method]

_COMMON = ("sparsity", "distribution", "maskable", "structure")
_GROUPS = {"common": _COMMON, "scheduled": (*_COMMON, "update_period", "start_step", "end_step")}


@dataclasses.dataclass(frozen=True)
class About:
    """Says what the catalogue knows of a method."""

    name: str
    family: str  # one of FAMILIES
    label: str  # the name as its paper writes it
    papers: tuple[str, ...]  # keys of dstjax.methods.references, or BibTeX entries; that of the equation first
    cost: str  # the function of dstjax.costs.formulas that gives its training FLOPs
    needs: tuple[str, ...]  # of NEEDS

    def reference(self) -> str:
        """Returns the BibTeX entries of its papers, with a blank line between."""
        return "\n\n".join(entries().get(paper, paper) for paper in self.papers)


def catalogued(
    label: str,
    family: str,
    *papers: str,
    cost: str,
    needs: tuple[str, ...] = (),
    without: Mapping[str, str] = MappingProxyType({}),
    **defaults: Any,
) -> Callable[[Entry], Entry]:
    """Turns a function into an entry of the catalogue.

    ``**shared`` in its signature stands for the hyper-parameters of :func:`dstjax.method.rewiring` that it does not
    name itself, with the defaults given here or else those of ``rewiring``; ``**scheduled`` for those of them that say
    what is masked and when (:func:`dstjax.method.common_fields`), ``**common`` for what is masked alone. The entry
    shows them all to ``help`` and ``inspect``, takes keywords only, and refuses others with a ValueError that names
    the nearest. :func:`dstjax.methods.about` returns the rest.

    Args:
      label: the name as its paper writes it.
      family: one of FAMILIES.
      *papers: keys of :mod:`dstjax.methods.references`, or BibTeX entries.
      cost: the function of :mod:`dstjax.costs.formulas` that gives its training FLOPs.
      needs: what a loop must do besides, of NEEDS.
      without: hyper-parameters that ``**shared`` does not stand for, and why not.
      **defaults: hyper-parameters whose defaults are not those of ``rewiring``.

    Raises:
      ValueError: the family or a need is not known.
    """
    check_choice("family", family, FAMILIES)
    for need in needs:
        check_choice("needs", need, NEEDS)

    def decorate(make: Entry) -> Entry:
        called = make.__name__.rstrip("_")
        own = dict(inspect.signature(make).parameters)
        parameters = [p for p in own.values() if p.kind is not p.VAR_KEYWORD]
        group = next((p.name for p in own.values() if p.kind is p.VAR_KEYWORD), "")
        known = inspect.signature(rewiring).parameters
        for name in _GROUPS.get(group, [n for n in known if n != "name"]) if group else ():
            if name not in own and name not in without:
                parameters.append(known[name].replace(default=defaults.get(name, known[name].default)))
        signature = inspect.Signature(parameters, return_annotation=Method)

        @functools.wraps(make)
        def entry(**hyperparameters: Any) -> Method:
            for name in hyperparameters:
                if name in without:
                    raise ValueError(
                        f"{name}={hyperparameters[name]!r} is not accepted by {called!r}, {without[name]}."
                    )
                if getattr(hyperparameters[name], "ndim", 0):
                    shape = hyperparameters[name].shape
                    raise ValueError(
                        f"{name} is an array of shape {shape}, which is not accepted by {called!r}; expected one value."
                    )
                if name not in signature.parameters:
                    near = suggest(name, signature.parameters)
                    raise ValueError(f"method {called!r} has no hyper-parameter {name!r}; {near}")
            required = {
                n: None if p.default is p.empty else p.default
                for n, p in signature.parameters.items()
                if p.default is p.empty or (group in _GROUPS and n not in own)
            }
            return make(**{**required, **defaults, **hyperparameters})

        entry.__signature__ = signature  # type: ignore[attr-defined]
        entry.__name__ = called
        entry.about = About(called, family, label, papers, cost, needs)  # type: ignore[attr-defined]
        return entry

    return decorate

"""What a method of dynamic sparse training is made of: a record that the engine reads."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax

from dstjax import budgets, criteria, distributions, schedules, structures, views
from dstjax.checks import check_choice, suggest
from dstjax.rules import Leaf, Memory, Network

UPDATE_ORDERS = ("skip", "step_then_update", "update_then_step")
SCOPES = ("layer", "global")
Maskable = Callable[[str, Any], bool]
Elementwise = Callable[[Leaf], jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Method:
    """A complete method: which weights are active at first, how the masks change, and what the optimiser sees.

    Made by the functions of :mod:`dstjax.methods`; :func:`rewiring` makes one from parts. A mask update asks, in this
    order: ``keep``, how many active weights stay; ``drop``, which ones; ``regrow``, how many are grown, given how many
    have stayed; ``grow``, which ones.
    """

    name: str
    sparsity: Any = None
    distribution: distributions.Distribution = "erk"
    maskable: Maskable | None = None  # None: real leaves of two or more dimensions
    masked: bool = True  # False: nothing is ever masked
    structure: structures.Structure = structures.WEIGHT

    # The start.
    initial_sparsity: Any = None  # where the start is not as sparse as the end; 0 starts dense
    initial: str = "random"  # or 'magnitude'
    pruner: str | None = None  # which function of dstjax.initial_masks gives the masks, since it needs data
    prune_step: int = 0  # after how many steps it does

    # Mask updates.
    updates: schedules.Updates | None = None  # None: the topology is fixed
    keep: Callable[[Network], jax.Array] | None = None  # int32[leaves]
    regrow: Callable[[Network, jax.Array], jax.Array] | None = None  # int32[leaves]; int32[]: in a common ranking
    drop: criteria.Criterion = criteria.magnitude
    grow: criteria.Criterion = criteria.gradient
    regrow_dropped: bool = True  # whether what was just dropped may be grown again
    scope: str = "layer"
    update_order: str = "skip"
    counters: bool = False
    # Which numbers of active weights are those of the target: 'kept' (each leaf's, always), 'reached' (each leaf's, in
    # the end), 'total' (the network's, in the end), or 'free'.
    counts: str = "kept"
    settle: Callable[[Leaf, jax.Array], jax.Array] | None = None  # weights after a mask update, given what was grown

    # What the method remembers.
    memory: Callable[[list[jax.Array], list[jax.Array], jax.Array], Memory] | None = None  # weights, masks, key
    observe: Callable[[Network], Memory] | None = None  # at every step, before it
    remember: Callable[[Network, jax.Array, list[jax.Array]], Memory] | None = None  # after an update: kept, new masks
    metric: str = "accuracy"  # what metric= is, where it is needed: 'accuracy' or 'loss', of validation
    needs: tuple[str, ...] = ()  # extra arguments of update that it cannot do without: 'value', 'metric', ...

    # What the optimiser sees, and what the forward pass does.
    gradient: Elementwise | None = None  # in place of the gradient
    trainable: Elementwise | None = None  # bool; None: the active weights, or all where there is a view
    trains_dense: Callable[[jax.Array], jax.Array] | None = None  # step -> bool[]: whether other leaves are trained
    view: Callable[[jax.Array, Memory], views.View] | None = None  # of the calls so far; None: weights are sparse

    def is_update_step(self, step: Any) -> Any:
        """Whether the t-th call of ``update`` is a mask update, for a host that decides (``rewire=True/False``)."""
        return False if self.updates is None else self.updates.is_update(step)


def checked(
    *,
    sparsity: Any,
    distribution: distributions.Distribution = "erk",
    maskable: Maskable | None = None,
    structure: structures.Structure = structures.WEIGHT,
    **schedule: Any,
) -> dict[str, Any]:
    """The fields of :class:`Method` that these hyper-parameters stand for.

    Args:
      sparsity: overall sparsity in [0, 1); None only with a ``{regex: density}`` map.
      distribution: 'uniform', 'er', 'erk', a ``{regex: density}`` map or a function of shapes and sparsity.
      maskable: ``(path, leaf) -> bool``; by default real leaves of two or more dimensions.
      structure: what is switched as one unit, from :mod:`dstjax.structures`: ``n_m(2, 4)``, ``block(4, 4)``, ...
      **schedule: ``update_period``, ``start_step`` and ``end_step`` of mask updates, all or none.

    Raises:
      ValueError: a hyper-parameter is out of range, of a wrong type or contradictory.
    """
    distributions.check(distribution, sparsity)
    if maskable is not None and not callable(maskable):
        raise ValueError(f"maskable={maskable!r} is not accepted; expected a function (path, leaf) -> bool, or None.")
    if not all(hasattr(structure, name) for name in ("counts", "best", "drop", "grow")):
        raise ValueError(
            f"structure={structure!r} is not accepted; expected one from dstjax.structures, such as n_m(2, 4)."
        )
    fields = {"sparsity": sparsity, "distribution": distribution, "maskable": maskable, "structure": structure}
    return {**fields, "updates": schedules.UpdateSchedule(**schedule)} if schedule else fields


def several_densities(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields, for a method that needs more densities than one of the same leaf.

    Raises:
      ValueError: the structure has one only.
    """
    if isinstance(fields["structure"], structures.NM):
        raise ValueError(
            f"structure={fields['structure']} is not accepted by {name!r}, since it has one density only; use "
            "one_shot, sr_ste or a method that drops and grows."
        )
    return fields


def fixed(name: str, *, fields: dict[str, Any] | None = None, **common: Any) -> Method:
    """A method whose topology never changes.

    Args:
      name: the name in tables and error messages.
      fields: further fields of :class:`Method`.
      **common: as in :func:`checked`, without a schedule.

    Raises:
      ValueError: a hyper-parameter is out of range, of a wrong type or contradictory.
    """
    return Method(name, **checked(**common), **(fields or {}))


def rewiring(
    name: str,
    *,
    sparsity: float | None,
    distribution: distributions.Distribution = "erk",
    update_period: int = 100,
    start_step: int = 0,
    end_step: int | None = None,
    drop_fraction: float = 0.3,
    drop_schedule: str | schedules.StepFunction = "cosine",
    rounding: str = "floor",
    drop: str | criteria.Criterion = "magnitude",
    grow: str | criteria.Criterion = "gradient",
    scope: str = "layer",
    update_order: str = "skip",
    counters: bool | None = None,
    maskable: Maskable | None = None,
    structure: structures.Structure = structures.WEIGHT,
) -> Method:
    """A method that drops weights by one criterion and grows as many by another.

    Args:
      name: the name in tables and error messages.
      sparsity: overall sparsity in [0, 1); None only with a ``{regex: density}`` map.
      distribution: 'uniform', 'er', 'erk', a ``{regex: density}`` map or a function of shapes and sparsity.
      update_period: steps between mask updates.
      start_step: no mask update before this step.
      end_step: the first step from which on the topology stays fixed; None never ends.
      drop_fraction: share of the active weights that moves in one update.
      drop_schedule: 'constant', 'cosine', 'linear', 'cosine_floor', or a function of the step that returns the share.
      rounding: 'floor' or 'ceil' of the number that moves.
      drop: name of a drop criterion, or a function ``score(leaf)``; the lowest-scored active weights go.
      grow: name of a growth criterion, or a function ``score(leaf)``; the highest-scored inactive weights come.
      scope: 'layer' ranks the weights to drop within each leaf, 'global' over all leaves. Each leaf grows as many as it
        lost, so the number of active weights of a leaf never changes.
      update_order: 'skip' spends the step on the masks alone; 'step_then_update' and 'update_then_step' do both.
      counters: keep DST-EE's counters; by default where the criteria may read them.
      maskable: ``(path, leaf) -> bool``; by default real leaves of two or more dimensions.
      structure: what is switched as one unit, from :mod:`dstjax.structures`: ``n_m(2, 4)``, ``block(4, 4)``, ...

    Raises:
      ValueError: a hyper-parameter is out of range, of a wrong type or contradictory.
    """
    fields = checked(
        sparsity=sparsity, distribution=distribution, maskable=maskable, structure=structure,
        update_period=update_period, start_step=start_step, end_step=end_step,
    )  # fmt: skip
    check_choice("scope", scope, SCOPES)
    check_choice("update_order", update_order, UPDATE_ORDERS)
    check_choice("rounding", rounding, ("floor", "ceil"))
    if counters is not None and not isinstance(counters, bool):
        raise ValueError(f"counters={counters!r} is not accepted; expected True, False or None.")
    if counters is None:
        counters = criteria.reads_counter("drop", drop) or criteria.reads_counter("grow", grow)
    fractions = schedules.fractions(drop_fraction, drop_schedule, fields["updates"])
    return Method(
        name,
        **fields,
        keep=budgets.Move(fractions, ceil=rounding == "ceil"),
        regrow=budgets.to_target if getattr(structure, "refills", False) else None,
        drop=criteria.resolve("drop", drop),
        grow=criteria.resolve("grow", grow),
        scope=scope,
        update_order=update_order,
        counters=counters,
    )


COMMON = ("sparsity", "distribution", "maskable", "structure")
GROUPS = {"common": COMMON, "scheduled": (*COMMON, "update_period", "start_step", "end_step")}


def catalogued(**defaults: Any) -> Callable[[Callable[..., Method]], Callable[..., Method]]:
    """Turns a function into an entry of the catalogue.

    ``**shared`` in its signature stands for the hyper-parameters of :func:`rewiring` that it does not name itself, with
    the defaults given here or else those of :func:`rewiring`; ``**scheduled`` for those of them that say what is masked
    and when (:func:`checked`), ``**common`` for what is masked alone. The entry shows them all to ``help`` and
    ``inspect``, takes keywords only, and refuses others with a ValueError that names the nearest.
    """

    def decorate(make: Callable[..., Method]) -> Callable[..., Method]:
        called = make.__name__.rstrip("_")
        own = dict(inspect.signature(make).parameters)
        parameters = [p for p in own.values() if p.kind is not p.VAR_KEYWORD]
        group = next((p.name for p in own.values() if p.kind is p.VAR_KEYWORD), "")
        known = inspect.signature(rewiring).parameters
        for name in GROUPS.get(group, [n for n in known if n != "name"]) if group else ():
            if name not in own:
                parameters.append(known[name].replace(default=defaults.get(name, known[name].default)))
        signature = inspect.Signature(parameters, return_annotation=Method)

        @functools.wraps(make)
        def entry(**hyperparameters: Any) -> Method:
            for name in hyperparameters:
                if name not in signature.parameters:
                    near = suggest(name, signature.parameters)
                    raise ValueError(f"method {called!r} has no hyper-parameter {name!r}; {near}")
            required = {
                n: None if p.default is p.empty else p.default
                for n, p in signature.parameters.items()
                if p.default is p.empty or (group in GROUPS and n not in own)
            }
            return make(**{**required, **defaults, **hyperparameters})

        entry.__signature__ = signature  # type: ignore[attr-defined]
        entry.__name__ = called
        return entry

    return decorate

"""What a method of dynamic sparse training is made of: a record that the engine reads."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

from dstjax import criteria, distributions, schedules
from dstjax._checks import check_choice, suggest

UPDATE_ORDERS = ("skip", "step_then_update", "update_then_step")
SCOPES = ("layer", "global")
Maskable = Callable[[str, Any], bool]


@dataclasses.dataclass(frozen=True, eq=False)
class Method:
    """A complete method: which weights are active at first, and how the mask changes.

    Made by the functions of :mod:`dstjax.methods`; :func:`rewiring` makes one from parts.
    """

    name: str
    sparsity: float | None = None
    distribution: distributions.Distribution = "erk"
    maskable: Maskable | None = None  # None: real leaves of two or more dimensions
    masked: bool = True  # False: nothing is ever masked
    updates: schedules.UpdateSchedule | None = None  # None: the topology is fixed
    drop_fraction: schedules.Fractions | None = None
    ceil: bool = False  # round the number of dropped weights up
    drop: criteria.Criterion = criteria.magnitude
    grow: criteria.Criterion = criteria.gradient
    scope: str = "layer"
    update_order: str = "skip"
    counters: bool = False

    def is_update_step(self, step: Any) -> Any:
        """Whether the t-th call of ``update`` is a mask update, for a host that decides (``rewire=True/False``)."""
        return False if self.updates is None else self.updates.is_update(step)


def fixed(
    name: str,
    *,
    sparsity: float | None,
    distribution: distributions.Distribution = "erk",
    maskable: Maskable | None = None,
) -> Method:
    """A method whose topology never changes.

    Raises:
      ValueError: a hyper-parameter is out of range, of a wrong type or contradictory.
    """
    distributions.check(distribution, sparsity)
    _check_maskable(maskable)
    return Method(name, sparsity, distribution, maskable)


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

    Raises:
      ValueError: a hyper-parameter is out of range, of a wrong type or contradictory.
    """
    distributions.check(distribution, sparsity)
    _check_maskable(maskable)
    check_choice("scope", scope, SCOPES)
    check_choice("update_order", update_order, UPDATE_ORDERS)
    check_choice("rounding", rounding, ("floor", "ceil"))
    if counters is not None and not isinstance(counters, bool):
        raise ValueError(f"counters={counters!r} is not accepted; expected True, False or None.")
    updates = schedules.UpdateSchedule(update_period, start_step, end_step)
    if counters is None:
        counters = criteria.reads_counter("drop", drop) or criteria.reads_counter("grow", grow)
    return Method(
        name,
        sparsity,
        distribution,
        maskable,
        updates=updates,
        drop_fraction=schedules.fractions(drop_fraction, drop_schedule, updates),
        ceil=rounding == "ceil",
        drop=criteria.resolve("drop", drop),
        grow=criteria.resolve("grow", grow),
        scope=scope,
        update_order=update_order,
        counters=counters,
    )


def _check_maskable(maskable: Any) -> None:
    if maskable is not None and not callable(maskable):
        raise ValueError(f"maskable={maskable!r} is not accepted; expected a function (path, leaf) -> bool, or None.")


def catalogued(**defaults: Any) -> Callable[[Callable[..., Method]], Callable[..., Method]]:
    """Turns a function into an entry of the catalogue.

    ``**shared`` in its signature stands for the hyper-parameters of :func:`rewiring` that it does not name itself, with
    the defaults given here or else those of :func:`rewiring`. The entry shows them all to ``help`` and ``inspect``,
    takes keywords only, and refuses others with a ValueError that names the nearest.
    """

    def decorate(make: Callable[..., Method]) -> Callable[..., Method]:
        own = dict(inspect.signature(make).parameters)
        parameters = [p for p in own.values() if p.name != "shared"]
        if "shared" in own:
            for name, p in inspect.signature(rewiring).parameters.items():
                if name != "name" and name not in own:
                    parameters.append(p.replace(default=defaults.get(name, p.default)))
        signature = inspect.Signature(parameters, return_annotation=Method)

        @functools.wraps(make)
        def entry(**hyperparameters: Any) -> Method:
            for name in hyperparameters:
                if name not in signature.parameters:
                    known = suggest(name, signature.parameters)
                    raise ValueError(f"method {make.__name__!r} has no hyper-parameter {name!r}; {known}")
            required = {n: None for n, p in signature.parameters.items() if p.default is p.empty}
            return make(**{**required, **defaults, **hyperparameters})

        entry.__signature__ = signature  # type: ignore[attr-defined]
        return entry

    return decorate

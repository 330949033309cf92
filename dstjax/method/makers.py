"""Makes methods of the hyper-parameters that they share."""

from typing import Any

from dstjax import budgets, criteria, distributions, schedules, structures
from dstjax.checks import check_choice
from dstjax.method.records import Maskable, Masking, Method, Start, Updates


def common_fields(
    *,
    sparsity: Any,
    distribution: distributions.Distribution = "erk",
    maskable: Maskable | None = None,
    structure: structures.Structure = structures.WEIGHT,
    **schedule: Any,
) -> tuple[Masking, schedules.UpdateSchedule]:
    """What is masked, and when, of the hyper-parameters that methods share.

    Args:
      sparsity: overall sparsity in [0, 1); None only with a ``{regex: density}`` map.
      distribution: 'uniform', 'er', 'erk', a ``{regex: density}`` map or a function of shapes and sparsity.
      maskable: ``(path, leaf) -> bool``; by default what the layout, or the name, calls a weight.
      structure: what is switched as one unit, from :mod:`dstjax.structures`: ``n_m(2, 4)``, ``block(4, 4)``, ...
      **schedule: ``update_period``, ``start_step`` and ``end_step`` of mask updates; by default one every step.

    Raises:
      ValueError: a hyper-parameter is out of range, of a wrong type or contradictory.
    """
    masking = Masking(sparsity, distribution, maskable, structure)
    return masking, schedules.UpdateSchedule(**({"update_period": 1} | schedule))


def refuse_n_m(name: str, masking: Masking | None) -> None:
    """Refuses N:M for a method that needs more densities than one of the same leaf.

    Raises:
      ValueError: the structure has one only.
    """
    if masking is not None and isinstance(masking.structure, structures.NM):
        raise ValueError(
            f"structure={masking.structure} is not accepted by {name!r}, since it has one density only; use one_shot, "
            "sr_ste or a method that drops and grows."
        )


def refuse_map(name: str, masking: Masking, scope: str) -> None:
    """Refuses a map of densities for a method that ranks all leaves together.

    Raises:
      ValueError: there is one.
    """
    if scope == "global" and not isinstance(masking.distribution, str):
        raise ValueError(
            f"distribution={masking.distribution!r} is not accepted by {name!r} with scope='global', which ranks all "
            "leaves together and does not read it; expected scope='layer', or a name."
        )


def fixed(name: str, *, start: Start | None = None, promises: str = "kept", **common: Any) -> Method:
    """A method whose topology never changes.

    Args:
      name: the name in tables and error messages.
      start: which weights are active; random ones by default.
      promises: as in :class:`Method`.
      **common: as in :func:`common_fields`, without a schedule.

    Raises:
      ValueError: a hyper-parameter is out of range, of a wrong type or contradictory.
    """
    return Method(name, Masking(**common), start or Start(), promises=promises)


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
      drop_schedule: 'constant', 'cosine', 'linear', 'exponential', 'cosine_floor', 'stages', or a function of the step
        that returns the share.
      rounding: 'floor' or 'ceil' of the number that moves.
      drop: name of a drop criterion, or a function ``score(leaf)``; the lowest-scored active weights go.
      grow: name of a growth criterion, or a function ``score(leaf)``; the highest-scored inactive weights come.
      scope: 'layer' ranks the weights to drop within each leaf, 'global' over all leaves. Each leaf grows as many as it
        lost, so the number of active weights of a leaf never changes.
      update_order: 'skip' spends the step on the masks alone; 'step_then_update' and 'update_then_step' do both.
      counters: keep DST-EE's counters; by default where the criteria may read them.
      maskable: ``(path, leaf) -> bool``; by default what the layout, or the name, calls a weight.
      structure: what is switched as one unit, from :mod:`dstjax.structures`: ``n_m(2, 4)``, ``block(4, 4)``, ...

    Raises:
      ValueError: a hyper-parameter is out of range, of a wrong type or contradictory.
    """
    masking, schedule = common_fields(
        sparsity=sparsity, distribution=distribution, maskable=maskable, structure=structure,
        update_period=update_period, start_step=start_step, end_step=end_step,
    )  # fmt: skip
    check_choice("rounding", rounding, ("floor", "ceil"))
    drop_score, grow_score = criteria.resolve("drop", drop), criteria.resolve("grow", grow)
    if not (counters is None or isinstance(counters, bool)):
        raise ValueError(f"counters={counters!r} is not accepted; expected True, False or None.")
    if counters is None:
        counters = criteria.reads_counter(drop_score) or criteria.reads_counter(grow_score)
    fractions = schedules.Fractions(drop_fraction, drop_schedule, schedule.steps, end_step)
    updates = Updates(
        schedule,
        n_kept=budgets.Move(fractions, ceil=rounding == "ceil"),
        n_grown=budgets.to_target if getattr(structure, "refills", False) else None,
        drop_score=drop_score,
        grow_score=grow_score,
        scope=scope,
        order=update_order,
        counters=counters,
    )
    return Method(name, masking, updates=updates)

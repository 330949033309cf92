"""A method and its five parts, which are checked where they are made, by ``dataclasses.replace`` too."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from dstjax import budgets, criteria, distributions, layouts, schedules, structures, views
from dstjax._arrays.trees import is_traced
from dstjax.checks import check_bool, check_choice, check_integer, check_number, check_rules, suggest
from dstjax.method.promises import check_promise
from dstjax.rules import Layers, Leaf, Memory, Value, value

UPDATE_ORDERS = ("skip", "step_then_update", "update_then_step")
SCOPES = ("layer", "global")
PROMISES = ("kept", "reached", "total", "free")
PRUNERS = ("snip", "grasp", "synflow", "iterative_snip", "force", "sis")
NEEDS = ("value", "metric", "full_gradient")
MOST_REMEMBERED = 2**16  # figures of the network's performance, one for each update

Maskable = Callable[[str, Any], bool]
Elementwise = Callable[[Leaf], jax.Array]


@value
class Masking(Value):
    """What is masked, and how sparse it becomes."""

    sparsity: Any = None  # overall, in [0, 1); None only where the distribution tells
    distribution: distributions.Distribution = "erk"
    maskable: Maskable | None = None  # (path, leaf) -> bool; None: what the layout, or the name, calls a weight
    structure: structures.Structure = structures.WEIGHT
    layout: Any = None  # what the axes of the leaves mean; see dstjax.layouts

    def __post_init__(self) -> None:
        """Checks each field."""
        super().__post_init__()
        distributions.check(self.distribution, self.sparsity)
        if isinstance(self.distribution, Mapping) and not isinstance(self.distribution, distributions.DensityMap):
            entries = tuple((pattern, float(density)) for pattern, density in self.distribution.items())
            object.__setattr__(self, "distribution", distributions.DensityMap(entries))
        check_rules(self, True, maskable="path, leaf")
        object.__setattr__(self, "layout", layouts.preset_of(self.layout))
        if not all(hasattr(self.structure, name) for name in ("counts", "best", "drop", "grow")):
            raise ValueError(
                f"structure={self.structure!r} is not accepted; expected one from dstjax.structures, such as n_m(2, 4)."
            )


@value
class Start(Value):
    """Which weights are active before the first step."""

    sparsity: Any = None  # where the start is not as sparse as the end; 0 starts dense
    by: str = "random"  # or 'magnitude'
    pruner: str | None = None  # the function of dstjax.initial_masks that gives the masks, since it needs data
    prune_step: int = 0  # after how many steps it does
    scope: str = "global"  # or 'layer': whether it ranks all layers together or gives each its count

    def __post_init__(self) -> None:
        """Checks each field."""
        super().__post_init__()
        check_choice("by", self.by, ("random", "magnitude"))
        if self.sparsity is not None:
            check_number("initial_sparsity", self.sparsity, "a number in [0, 1)", lambda s: 0 <= s < 1)
        check_integer("prune_step", self.prune_step, 0)
        check_choice("scope", self.scope, SCOPES)
        if self.pruner is not None:
            check_choice("pruner", self.pruner, PRUNERS)
            if self.by != "random":
                raise ValueError(f"by={self.by!r} is not accepted with pruner={self.pruner!r}, which chooses itself.")
        elif self.prune_step or self.scope != "global":
            what = f"prune_step={self.prune_step}" if self.prune_step else f"scope={self.scope!r}"
            raise ValueError(f"{what} is not accepted without a pruner; expected one of {PRUNERS}.")


@value
class Updates(Value):
    """How the masks change. An update asks in this order: n_kept, drop_score, n_grown, grow_score."""

    schedule: schedules.Schedule
    n_kept: budgets.NKept  # how many active weights of each leaf stay, int32[layers]
    n_grown: budgets.NGrown | None = None  # how many are grown; int32[] in one ranking; None: as many as were lost
    drop_score: criteria.Criterion = criteria.magnitude  # the lowest-scored active weights go
    grow_score: criteria.Criterion = criteria.gradient  # the highest-scored inactive weights come
    regrow_dropped: bool = True  # whether what was just dropped may be grown again
    scope: str = "layer"  # 'global': drop in one ranking over all leaves
    order: str = "skip"  # a step that is spent on the masks alone, or which of the two comes first
    counters: bool = False  # whether to count the mask rounds in which each weight is active
    new_weights: Callable[[Leaf, jax.Array], jax.Array] | None = None  # after an update, given what was grown (bool)

    def __post_init__(self) -> None:
        """Checks each field, and what the scores need."""
        super().__post_init__()
        if not all(hasattr(self.schedule, name) for name in ("first", "count", "is_update", "index")):
            raise ValueError(
                f"schedule={self.schedule!r} is not accepted; expected one such as schedules.UpdateSchedule."
            )
        check_rules(self, n_kept="layers", drop_score="leaf", grow_score="leaf")
        check_rules(self, True, n_grown="layers, kept", new_weights="leaf, grown")
        check_bool("regrow_dropped", self.regrow_dropped)
        check_bool("counters", self.counters)
        check_choice("scope", self.scope, SCOPES)
        check_choice("update_order", self.order, UPDATE_ORDERS)
        for name in ("drop_score", "grow_score"):
            if isinstance(getattr(self, name), criteria.DstEE) and not self.counters:
                raise ValueError(f"counters=False is not accepted with {name}={getattr(self, name)}, which reads them.")


@value
class Remembered(Value):
    """What the method remembers besides masks and counters.

    Only small arrays and masks may change in a mask update, which is a branch of the step: arrays of numbers of the
    size of the weights change before or after the step, outside the branch.
    """

    leaf: Callable[[Leaf], Any] | None = None  # at first, of each leaf: an array, or a NamedTuple of arrays
    before_step: Callable[[Leaf], Any] | None = None  # of each leaf, at every call; ``gradient`` still sees the old
    after_step: Callable[[Leaf, Any], Any] | None = (
        None  # of each leaf with its new weights, and whether it is an update
    )
    shared: Any = None  # at first, in common: a NamedTuple of numbers
    after_update: Callable[[Layers, jax.Array, list[jax.Array]], Any] | None = None  # given what was kept, new masks
    second_mask: Callable[[Layers, list[jax.Array]], list[jax.Array]] | None = None  # of each leaf, given its mask
    measure: str | None = None  # 'value' or 'metric': remember how well the network does, see rules.Measured
    lag: int = 1  # at how many of the last updates

    def __post_init__(self) -> None:
        """Checks each field, and that what changes is there."""
        super().__post_init__()
        check_rules(self, True, leaf="leaf", before_step="leaf", after_step="leaf, is_update")
        check_rules(self, True, after_update="layers, kept, masks", second_mask="layers, masks")
        check_integer("lag", self.lag, 1)
        if self.lag > MOST_REMEMBERED or (self.lag > 1 and self.measure is None):
            why = f"at most {MOST_REMEMBERED}" if self.measure else "1 where nothing is measured"
            raise ValueError(f"lag={self.lag} is not accepted; expected {why}.")
        if not all(isinstance(x, bool | int | float) or hasattr(x, "dtype") for x in jax.tree.leaves(self.shared)):
            raise ValueError(f"shared={self.shared!r} is not accepted; expected numbers, such as a NamedTuple of them.")
        if self.measure is not None:
            check_choice("measure", self.measure, ("value", "metric"))
        for name, needed in (("before_step", "leaf"), ("after_step", "leaf"), ("after_update", "shared")):
            if getattr(self, name) is not None and getattr(self, needed) is None:
                raise ValueError(f"{name} is not accepted with {needed}=None; expected what is remembered at first.")


@value
class Seen(Value):
    """What the forward pass and the optimiser see."""

    gradient: Elementwise | None = None  # in place of the gradient
    view: Callable[[jax.Array, Memory], views.View] | None = None  # of the calls so far; None: weights are sparse
    trainable: Elementwise | None = None  # bool; None: the active weights, or all where there is a view
    trains_dense: Callable[[jax.Array], jax.Array] | None = None  # step -> bool[]: whether other leaves are trained

    def __post_init__(self) -> None:
        """Checks each field, and that only what has a view says what is trained."""
        super().__post_init__()
        check_rules(self, True, gradient="leaf", view="step, memory", trainable="leaf", trains_dense="step")
        for name in ("trainable", "trains_dense"):
            if getattr(self, name) is not None and self.view is None:
                raise ValueError(f"{name} is not accepted with view=None; expected what the forward pass sees.")


@value
class Method(Value):
    """A complete method. Equal methods are equal and hash alike, so that one can be a static argument of a jit."""

    name: str
    masking: Masking | None = None  # None: nothing is ever masked
    start: Start = Start()
    updates: Updates | None = None  # None: the topology is fixed
    remembered: Remembered = Remembered()
    seen: Seen = Seen()
    # Which numbers of active weights are those of the target: 'kept' (each leaf's, always), 'reached' (each leaf's, in
    # the end), 'total' (the network's, in the end), or 'free'.
    promises: str = "kept"
    needs: tuple[str, ...] = ()  # extra arguments of update that it cannot do without
    metric: str = "accuracy"  # what metric= is, where it is needed: 'accuracy' or 'loss', of validation

    def __post_init__(self) -> None:
        """Checks the parts against each other, and promises no more than they keep."""
        super().__post_init__()
        check_choice("promises", self.promises, PROMISES)
        check_choice("metric", self.metric, ("accuracy", "loss"))
        if not isinstance(self.name, str):
            raise ValueError(f"name={self.name!r} is not accepted; expected a text, which error messages have.")
        if not isinstance(self.needs, tuple):
            raise ValueError(f"needs={self.needs!r} is not accepted; expected a tuple, such as ('value',).")
        for name in self.needs:
            check_choice("needs", name, NEEDS)
        for part, kind in (("start", Start), ("remembered", Remembered), ("seen", Seen)):
            if not isinstance(getattr(self, part), kind):
                raise ValueError(f"{part}={getattr(self, part)!r} is not accepted; expected a {kind.__name__}.")
        for part, optional in (("masking", Masking), ("updates", Updates)):
            if not isinstance(getattr(self, part), optional | None):
                raise ValueError(
                    f"{part}={getattr(self, part)!r} is not accepted; expected {optional.__name__} or None."
                )
        self._check_masking()
        self._check_updates()
        check_promise(self)
        measure = self.remembered.measure
        if measure is not None and measure not in self.needs:
            raise ValueError(f"needs={self.needs!r} is not accepted with measure={measure!r}; expected it among them.")

    def _check_masking(self) -> None:
        masking, begin = self.masking, self.start.sparsity
        if masking is None:
            rest = {"start": Start(), "updates": None, "remembered": Remembered(), "seen": Seen()}
            if has := [part for part, nothing in rest.items() if getattr(self, part) != nothing]:
                raise ValueError(
                    f"masking=None is not accepted by {self.name!r}, which has {' and '.join(has)} of its own."
                )
            return
        numbers = isinstance(begin, int | float) and isinstance(masking.sparsity, int | float)
        if numbers and begin > masking.sparsity:
            raise ValueError(
                f"initial_sparsity={begin} is not accepted with sparsity={masking.sparsity}; expected a start that is "
                "no sparser than the end."
            )
        if begin is not None and isinstance(masking.distribution, Mapping) and (is_traced(begin) or begin > 0):
            raise ValueError(
                f"initial_sparsity={begin} is not accepted with a {{regex: density}} map, which tells the densities of "
                "the end alone; expected 0, a dense start."
            )
        if not getattr(masking.structure, "keeps_counts", True) and self.promises != "free":
            object.__setattr__(self, "promises", "free")

    def _check_updates(self) -> None:
        updates, masking = self.updates, self.masking
        if updates is None or masking is None:
            for name in ("after_update", "second_mask"):
                if getattr(self.remembered, name) is not None:
                    raise ValueError(f"{name} is not accepted by {self.name!r}, which has no updates.")
            return
        if self.seen.view is not None and updates.order != "step_then_update":
            raise ValueError(
                f"update_order={updates.order!r} is not accepted with a view, whose masks change after the optimiser's "
                "step; expected 'step_then_update'."
            )
        together = updates.scope == "global" or isinstance(updates.n_grown, budgets.Pooled)
        if together and not getattr(masking.structure, "ranks_together", True):
            raise ValueError(
                f"scope='global' is not accepted with structure={masking.structure}: a common ranking over all leaves "
                "has no place where each has its own; expected scope='layer'."
            )

    @property
    def moving(self) -> Updates:
        """The updates of a method that has some.

        Raises:
          ValueError: its topology is fixed.
        """
        if self.updates is None:
            raise ValueError(f"method {self.name!r} has no mask updates: its topology is fixed.")
        return self.updates

    def is_update_step(self, step: Any) -> Any:
        """Whether the t-th call of ``update`` is a mask update, for a host that decides (``rewire=True/False``)."""
        return False if self.updates is None else self.updates.schedule.is_update(step)

    def needs_dense_gradient(self, step: Any) -> Any:
        """Whether the t-th call of ``update`` reads the gradients of inactive weights; elsewhere they may be 0.

        A host that can take sparse gradients takes dense ones at these steps only. A rule that reads the gradient
        before or after the step does so at every call, unless its method ``reads_gradient(step)`` says at which. Of the
        scores, growth reads it at updates, unless :func:`dstjax.criteria.reads_gradient` knows better; rules that give
        numbers are taken to read none. Dense weights behind a view always need theirs.
        """
        remembered = self.remembered
        if self.masking is None or self.seen.view is not None or self.seen.gradient is not None:
            return True
        needed: Any = False
        if self.updates is not None and criteria.reads_gradient(self.updates.grow_score, remembered.leaf is not None):
            needed = self.is_update_step(step)
        for rule in (remembered.before_step, remembered.after_step):
            if rule is not None:
                needed = needed | (rule.reads_gradient(step) if hasattr(rule, "reads_gradient") else True)
        return needed

    def but(self, **fields: Any) -> "Method":
        """The method with other fields, of its own or of its parts: ``method.but(n_grown=..., promises='free')``.

        A field of the start is its own: ``method.but(start=Start(...))``.

        Raises:
          TypeError: no part has such a field.
          ValueError: the method has not the part, or the parts contradict each other.
        """
        new: dict[str, Any] = {}
        parts = {"masking": Masking, "updates": Updates, "remembered": Remembered, "seen": Seen}
        fields_of = {part: {f.name for f in dataclasses.fields(kind)} for part, kind in parts.items()}
        every = sorted({f.name for f in dataclasses.fields(self)}.union(*fields_of.values()))
        for name in fields:
            if name not in every:
                hint = "Hyper-parameters are given where it is made."
                raise TypeError(f"a method has no field {name!r}; {suggest(name, every)} {hint}")
            if missing := [part for part, names in fields_of.items() if name in names and getattr(self, part) is None]:
                raise ValueError(f"{name} is not accepted by {self.name!r}, which has no {missing[0]}.")
        for part in ("masking", "updates", "remembered", "seen"):
            old = getattr(self, part)
            names = {f.name for f in dataclasses.fields(old)} if old is not None else set()
            if changed := {n: fields.pop(n) for n in names & fields.keys()}:
                new[part] = dataclasses.replace(old, **changed)
        return dataclasses.replace(self, **new, **fields)

"""The programs of training: steps, evaluation, what is looked at. Each for one network; vmap makes them for many."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import dstjax
from experiments import tasks
from experiments.tasks import mutual

Tree = Any


class TrainState(NamedTuple):
    """One network in training."""

    params: Tree
    opt_state: Any  # of dstjax.sparsify
    model_state: Tree  # running statistics, {} where the network has none


class Lost(NamedTuple):
    """Steps of an epoch whose gradient is not finite, int32[] each."""

    number: Any
    step: Any  # the first of them, counted from 1; 0 where there is none
    leaf: Any  # the first such leaf of that step, in the order of the parameters


class Sums(NamedTuple):
    """What an epoch adds up."""

    loss: Any  # float32[], over the steps that are not lost
    correct: Any  # int32[]
    lost: Lost

    def mean_loss(self, steps: int) -> np.ndarray:
        """Of so many steps by those that are not lost, float64; NaN where all are."""
        counted = steps - np.asarray(self.lost.number)
        return np.where(counted > 0, np.asarray(self.loss, np.float64) / np.maximum(counted, 1), np.nan)


class Source(NamedTuple):
    """Where the batches of a network come from."""

    x: Any  # float32[n, ...], all samples
    y: Any  # int32[n]
    mean: Any  # float32[...], subtracted from every sample
    seed: Any  # uint32[], of dropout and augmentation


class Recipe(NamedTuple):
    """What is the same for all networks of a run."""

    model: nn.Module
    tx: optax.GradientTransformationExtraArgs
    method: dstjax.Method
    augment: Callable[[Any, Any], Any] | None  # key, samples -> samples
    warm_up: int  # steps before the two networks of DCIL learn from each other
    label_smoothing: float = 0.0
    accumulate: int = 1  # micro-batches in a step
    on_nonfinite: str = "raise"  # what a gradient that is not finite does: 'raise', 'skip' or 'pass'


def scale_at_step(schedule: Callable[[Any], Any]) -> optax.GradientTransformationExtraArgs:
    """Scales by minus the learning rate at the step of the run, which the loop passes as ``step=``.

    A mask update that takes the place of an optimiser step is a step too, which optax's own counters do not see.
    """

    def update(updates: Tree, state: Any, params: Tree | None = None, *, step: Any, **_: Any) -> tuple[Tree, Any]:
        rate = schedule(step)
        return jax.tree.map(lambda u: (-rate * u).astype(u.dtype), updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def initial_parameters(model: nn.Module, seed: Any, sample: Any) -> tuple[Tree, Tree]:
    variables = model.init(jax.random.fold_in(jax.random.key(seed), 1), sample, train=False)
    return variables["params"], {name: tree for name, tree in variables.items() if name != "params"}


def step(
    recipe: Recipe, rewire: bool | None, state: TrainState, sums: Sums, source: Source, rows: Any, metric: Any = None
) -> tuple[TrainState, Sums]:
    """One step on the samples ``rows``; ``metric`` is the validation performance, for the methods that read it."""
    return _step(recipe, rewire, state, sums, source, rows, metric)[:2]


def _step(
    recipe: Recipe, rewire: bool | None, state: TrainState, sums: Sums, source: Source, rows: Any, metric: Any
) -> tuple[TrainState, Sums, Tree]:
    """A step, and the gradients that it took."""
    call, needs = state.opt_state.step, recipe.method.needs
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(source.seed), 3), call)
    view = dstjax.forward_params(state.params, state.opt_state)

    def part(model_state: Tree, rows: Any, key: Any) -> tuple[Tree, tuple[Any, Any, Any]]:
        """Statistics after some of the samples, and the gradients, loss and right answers on them."""
        x, y = source.x[rows], source.y[rows]
        if recipe.augment is not None:
            x = recipe.augment(jax.random.fold_in(key, 0), x)
        x = x - source.mean[None]

        def forward(params: Tree) -> tuple[Any, Tree]:
            variables = {"params": params, **model_state}
            rngs = {"dropout": jax.random.fold_in(key, 1)}
            return recipe.model.apply(variables, x, train=True, mutable=list(model_state), rngs=rngs)

        def loss_of(view: Tree) -> Any:
            logits, after = forward(view)
            loss, correct = tasks.measured(logits, y, recipe.label_smoothing)
            return loss, (loss, after, correct)

        def loss_of_both(view: Tree, full: Tree) -> Any:
            return mutual.loss(forward, view, full, y, recipe.label_smoothing, call >= recipe.warm_up)

        if "full_gradient" in needs:
            take = jax.grad(loss_of_both, argnums=(0, 1), has_aux=True)
            gradients, (loss, after, correct) = take(view, state.params)
        else:
            gradients, (loss, after, correct) = jax.grad(loss_of, has_aux=True)(view)
        return after, (gradients, loss, correct)

    model_state, (gradients, loss, correct) = _in_parts(recipe.accumulate, part, state.model_state, rows, key)
    extra = {}
    if "full_gradient" in needs:
        gradients, extra["full_gradient"] = gradients
    gradients = _needed(recipe.method, state.opt_state, gradients)
    if "metric" in needs and metric is not None:
        extra["metric"] = metric
    updates, opt_state = recipe.tx.update(
        gradients, state.opt_state, state.params, rewire=rewire, value=loss, step=call, **extra
    )
    # Steps that see all weights would spoil the running statistics of the sparse network.
    exploring = dstjax.is_exploring(state.opt_state)
    model_state = jax.tree.map(lambda new, old: jnp.where(exploring, old, new), model_state, state.model_state)
    params = optax.apply_updates(state.params, updates)
    lost, counted = sums.lost, loss
    if recipe.on_nonfinite != "pass":
        lost = _lost(lost, opt_state.step, gradients)
        if recipe.on_nonfinite == "skip":
            counted = jnp.where(lost.number > sums.lost.number, 0, loss)
    after = TrainState(params, opt_state, model_state), Sums(sums.loss + counted, sums.correct + correct, lost)
    return *after, gradients


def _needed(method: dstjax.Method, opt_state: Any, gradients: Tree) -> Tree:
    """What a host that takes sparse gradients has: at inactive weights 0, but at calls whose dense ones are read."""
    dense = method.needs_dense_gradient(opt_state.step + 1)
    if dense is True:
        return gradients
    sparse = dstjax.apply_masks(gradients, opt_state)
    return sparse if dense is False else jax.tree.map(lambda g, s: jnp.where(dense, g, s), gradients, sparse)


def _lost(before: Lost, step: Any, gradients: Tree) -> Lost:
    """The lost steps after one more."""
    bad = jnp.stack([~jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(gradients)])
    is_lost = jnp.any(bad)
    is_first = is_lost & (before.number == 0)
    return Lost(
        before.number + is_lost,
        jnp.where(is_first, step, before.step),
        jnp.where(is_first, jnp.argmax(bad), before.leaf).astype(jnp.int32),
    )


def _in_parts(parts: int, part: Callable[..., Any], model_state: Tree, rows: Any, key: Any) -> Any:
    """``part`` of all samples, or of several micro-batches after each other: means of gradients and loss, sum of right
    answers."""
    if parts == 1:
        return part(model_state, rows, key)
    keys = jax.random.split(key, parts)
    split = rows.reshape(parts, -1)
    model_state, results = jax.lax.scan(lambda s, xs: part(s, *xs), model_state, (split, keys))
    gradients, loss, correct = results
    return model_state, (jax.tree.map(lambda g: g.mean(axis=0), gradients), loss.mean(), correct.sum())


def run(
    recipe: Recipe,
    rewire: bool | None,
    state: TrainState,
    sums: Sums,
    source: Source,
    order: Any,
    start: Any,
    stop: Any,
) -> tuple[TrainState, Sums]:
    """Batches ``start`` to ``stop`` of an epoch: without a mask update, or with those that the state says."""

    def body(i: Any, carry: tuple[TrainState, Sums]) -> tuple[TrainState, Sums]:
        return step(recipe, rewire, *carry, source, order[i])

    return jax.lax.fori_loop(start, stop, body, (state, sums))


def rewire(
    recipe: Recipe, state: TrainState, sums: Sums, source: Source, order: Any, i: Any, metric: Any
) -> tuple[TrainState, Sums, dict[str, Any]]:
    """The step of a mask update, and the topology after it."""
    before = state.opt_state
    state, sums, gradients = _step(recipe, True, state, sums, source, order[i], metric)
    after = inspect(state)
    updates = recipe.method.updates
    if updates is not None and isinstance(updates.grow_score, dstjax.criteria.DstEE):
        after["by_counters"] = _by_counters(updates.grow_score, before, gradients)
    after["survival_rate"] = dstjax.metrics.survival_rate(state.opt_state)
    after["mask_error"] = dstjax.metrics.last_mask_error(state.opt_state)
    return state, sums, after


def _by_counters(rule: dstjax.criteria.DstEE, opt_state: Any, gradients: Tree) -> Any:
    """Of each masked leaf, whether its growth was by the counters alone, bool[leaves]."""
    by_name: Any = dstjax.masks.by_name(gradients)
    found = [
        rule.outweighs(jnp.where(mask, 0, by_name[name]), opt_state.step + 1)
        for name, mask in masked_leaves(opt_state).items()
    ]
    return jnp.stack(found)


def evaluate(model: nn.Module, state: TrainState, source: Source, rows: Any, stop: Any) -> tuple[Any, Any]:
    """The loss of each sample in the first ``stop`` rows, and whether the answer is right."""
    params = dstjax.forward_params(state.params, state.opt_state, training=False)
    variables = {"params": params, **state.model_state}

    def body(i: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        logits: Any = model.apply(variables, source.x[rows[i]] - source.mean[None], train=False)
        y = source.y[rows[i]]
        return carry[0].at[i].set(tasks.losses(logits, y)), carry[1].at[i].set(tasks.answers(logits) == y)

    return jax.lax.fori_loop(0, stop, body, (jnp.zeros(rows.shape), jnp.zeros(rows.shape, bool)))


def masked_leaves(opt_state: Any) -> dict[str, Any]:
    """The boolean masks by path, in the order of the tree, dense leaves left out."""
    by_name = dstjax.masks.by_name(dstjax.get_masks(opt_state))
    return {name: mask for name, mask in by_name.items() if mask is not None}


def inspect(state: TrainState) -> dict[str, Any]:
    """Active weights and exploration rate of each masked leaf, in the order of the tree, and of the network.

    ``strays`` counts the inactive weights that are not zero: there must be none.
    """
    seen = dstjax.forward_params(state.params, state.opt_state, training=False)
    masks, weights = masked_leaves(state.opt_state), dstjax.masks.by_name(seen)
    if not masks:
        empty = jnp.zeros(0)
        return {
            "active": empty.astype(jnp.int32),
            "strays": jnp.int32(0),
            "layer_exploration_rate": empty,
            "exploration_rate": jnp.float32(1),
        }
    explored = dstjax.metrics.exploration_rate_per_leaf(state.opt_state)
    return {
        "active": jnp.stack([jnp.sum(m, dtype=jnp.int32) for m in masks.values()]),
        "strays": jnp.stack([jnp.sum((weights[n] != 0) & ~m, dtype=jnp.int32) for n, m in masks.items()]).sum(),
        "layer_exploration_rate": jnp.stack([explored[name] for name in masks]),
        "exploration_rate": dstjax.metrics.exploration_rate(state.opt_state),
    }


def picture(state: TrainState) -> dict[str, Any]:
    name, mask = next(iter(masked_leaves(state.opt_state).items()))
    picture = {"mask": mask}
    if state.opt_state.counters:
        picture["rounds"] = dstjax.masks.by_name(state.opt_state.counters)[name]
        picture["ever"] = picture["rounds"] > 0
    elif state.opt_state.tracked and state.opt_state.tracked.ever:
        ever: Any = dstjax.masks.by_name(state.opt_state.tracked.ever)[name]
        picture["ever"] = dstjax.masks.unpack(ever)
    return picture

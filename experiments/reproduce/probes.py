"""What training alone does not record: which weights criteria would drop, how masks overlap, other beginnings.

A probe trains by :class:`experiments.training.trainer.Trainer`, all seeds in turn, from the first step to the last: it
does not go on where it was interrupted. It returns what :mod:`experiments.reproduce.reading` reads.
"""

import copy
import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import dstjax
from dstjax.rules import Leaf
from dstjax.selection import top_k_mask
from experiments import tasks
from experiments.data import Data
from experiments.reproduce.criteria import DROPS
from experiments.reproduce.reading import setting
from experiments.training import configuration
from experiments.training.run import make_trainer
from experiments.training.steps import TrainState
from experiments.training.trainer import Trainer

Found = dict[str, Any]
Masks = dict[str, np.ndarray]


def stability(config: ConfigDict) -> Found:
    """IoU of the masks after each update with those of one cycle before, and survival of what was grown.

    An update of IEE is a prune or a growth, and each is compared with the one of its kind; of RigL it is both.
    """
    kinds = 2 if config.method == "iee" else 1
    iou: dict[int, list[float]] = {}
    survival: dict[int, list[float]] = {}
    seen: dict[int, list[Masks]] = {}

    def hook(network: int, step: int, program: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        out = program(*arguments)
        now = masks_of(out[0])
        survival.setdefault(step, []).append(float(out[2]["survival_rate"]))
        before = seen.setdefault(network, [])
        if len(before) >= kinds:
            iou.setdefault(step, []).append(_iou(now, before[-kinds]))
        seen[network] = [*before[-kinds + 1 :], now] if kinds > 1 else [now]
        return out

    trainer = trainer_of(config, on_update=hook)
    train(trainer, config)
    values = _end(trainer)
    last = [iou[step] for step in sorted(iou)[-kinds:]]
    values["final IoU"] = np.mean(last, axis=0).tolist()
    values["first IoU"] = np.mean([iou[step] for step in sorted(iou)[:kinds]], axis=0).tolist()
    known = {s: v for s, v in survival.items() if np.isfinite(v).all()}
    if known:
        values["survival"] = np.mean(list(known.values()), axis=0).tolist()
    return found_of(config, trainer, values, {"IoU": iou, "survival": known})


def first_drops(config: ConfigDict) -> Found:
    """Jaccard index of the sets that two criteria would drop at the first mask update, mean over layers.

    All see the same weights and gradients. 'chance' is that of two random sets of the same sizes.
    """
    rules = {name: dstjax.criteria.resolve("drop", drop) for name, drop in DROPS.items()}
    pairs = [*itertools.combinations(rules, 2)]
    values: dict[str, list[float]] = {f"J({a}, {b})": [] for a, b in pairs}
    values["chance"] = []

    def hook(network: int, step: int, program: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        state, _, source, order, i, _ = arguments
        leaves = leaves_of(trainer, config, state, source, order[i], step)
        sets = {name: [dropped(leaf, rule) for leaf in leaves] for name, rule in rules.items()}
        for a, b in pairs:
            values[f"J({a}, {b})"].append(
                float(np.mean([jaccard(x, y) for x, y in zip(sets[a], sets[b], strict=True)]))
            )
        shares = [int(leaf.budget) / int(leaf.mask.sum()) for leaf in leaves]
        values["chance"].append(float(np.mean([s / (2 - s) for s in shares])))
        return program(*arguments)

    trainer = trainer_of(config, on_update=hook)
    steps = configuration.plan(config).steps
    train(trainer, config, next(t for t in range(1, steps + 1) if trainer.method.is_update_step(t)))
    return found_of(config, trainer, values, {})


def final_masks(config: ConfigDict) -> Found:
    """Jaccard index of the masks that two criteria end with, and with the mask that they all began with.

    A mean over the layers (Eq. 1 of the study), in which each layer counts the same, however large it is.
    """
    ends: dict[str, list[Masks]] = {}
    for name, drop in DROPS.items():
        own = copy.deepcopy(config)
        with own.unlocked():
            own.drop = drop
        trainer = trainer_of(own)
        ends["initial"] = [masks_of(trainer.network(i)) for i in range(len(trainer.seeds))]
        train(trainer, own)
        ends[name] = [masks_of(trainer.network(i)) for i in range(len(trainer.seeds))]
    seeds = range(len(trainer.seeds))
    values: dict[str, list[float]] = {}
    for a, b in itertools.combinations(["initial", *DROPS], 2):
        values[f"J({a}, {b})"] = [_mean_jaccard(ends[a][i], ends[b][i]) for i in seeds]
    others = {i: [_mean_jaccard(ends["initial"][i], ends["initial"][k]) for k in seeds if k != i] for i in seeds}
    values["J_init"] = [float(np.mean(o)) if o else float("nan") for o in others.values()]  # of the masks of two seeds
    agreed = [dstjax.metrics.unanimity([_tree(ends[name][i]) for name in DROPS]) for i in seeds]
    values["kept by all"] = [100 * float(kept) for kept, _ in agreed]
    values["removed by all"] = [100 * float(removed) for _, removed in agreed]
    return found_of(config, trainer, values, {})


def scores_of(config: ConfigDict, batches: int, split: str = "train") -> Found:
    """Training whose mask updates read the gradient of several batches of a split, and take no step of their own."""
    data = _in_memory(config)

    def hook(network: int, step: int, program: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        state, sums, source, _, _, metric = arguments
        rows = getattr(data.split(trainer.seeds[network]), split)
        drawn = np.random.default_rng((4, trainer.seeds[network], step)).permutation(rows)
        order = jnp.array(np.resize(drawn, batches * config.batch_size)[None])
        return program(state, sums, source, order, np.int32(0), metric)

    trainer = trainer_of(config, on_update=hook)
    train(trainer, config)
    return found_of(config, trainer, _end(trainer), {})


def fine_tuned(config: ConfigDict) -> Found:
    """Training on the second half of the classes, from a dense network that was trained on the first half.

    The last layer starts anew.
    """
    dense = copy.deepcopy(config)
    configuration.change_method(dense, "dense")
    data = _in_memory(config)
    before = trainer_of(dense, data=_half(data, first=True))
    train(before, dense)
    trainer = trainer_of(config, data=_half(data, first=False))
    for i, state in enumerate(trainer.states):
        learnt = before.states[i]
        head = [*state.params][-1]
        params = {**learnt.params, head: state.params[head]}
        trainer.states[i] = TrainState(
            dstjax.apply_masks(params, state.opt_state), state.opt_state, copy.copy(learnt.model_state)
        )
    train(trainer, config)
    return found_of(config, trainer, _end(trainer), {})


def from_scratch(config: ConfigDict) -> Found:
    """Training on the second half of the classes: what fine-tuning is compared with."""
    trainer = trainer_of(config, data=_half(_in_memory(config), first=False))
    train(trainer, config)
    return found_of(config, trainer, _end(trainer), {})


PROBES: dict[str, Callable[[ConfigDict], Found]] = {
    "stability": stability,
    "first_drops": first_drops,
    "final_masks": final_masks,
    "scores_of_1_batch": functools.partial(scores_of, batches=1),
    "scores_of_8_batches": functools.partial(scores_of, batches=8),
    "scores_of_validation": functools.partial(scores_of, batches=1, split="validation"),
    "fine_tuned": fine_tuned,
    "from_scratch": from_scratch,
}


def trainer_of(config: ConfigDict, **others: Any) -> Trainer:
    """The trainer of a config."""
    # One network at a time, so that a hook sees one.
    return make_trainer(config, configuration.plan(config), mode="sequential", **others)


def train(trainer: Trainer, config: ConfigDict, until: int | None = None) -> None:
    """Trains to the end, or to a step."""
    steps = configuration.plan(config).steps if until is None else until
    for number in range(-(-steps // trainer.batches)):
        trainer.epoch(number, min(trainer.batches, steps - number * trainer.batches))


def _in_memory(config: ConfigDict) -> Data:
    data = configuration.plan(config).data
    if not isinstance(data, Data):
        raise ValueError(f"dataset={config.dataset!r} is not accepted by this probe; expected one that fits in memory.")
    return data


def found_of(config: ConfigDict, trainer: Trainer, values: Any, curves: dict[str, dict[int, list[float]]]) -> Found:
    """What a probe returns."""
    return {
        "seeds": list(trainer.seeds),
        "values": values,
        "curves": {n: [sorted(c), [c[step] for step in sorted(c)]] for n, c in curves.items() if c},
        "setting": setting(config.to_dict(), configuration.plan(config).steps),
    }


def _end(trainer: Trainer) -> dict[str, list[float]]:
    """The numbers of finished training that runs have too."""
    loss, accuracy = trainer.evaluate("test")
    explored = trainer.topology()["exploration_rate"]
    return {"accuracy": (100 * accuracy).tolist(), "loss": loss.tolist(), "exploration": explored.tolist()}


def _half(data: Data, *, first: bool) -> Data:
    """The samples of the first or of the second half of the classes, split anew."""
    middle = data.classes // 2
    chosen = data.y < middle if first else data.y >= middle
    x, y = data.x[chosen], data.y[chosen]
    validation, test = len(y) // 10, 3 * len(y) // 10
    sizes = len(y) - validation - test, validation, test
    return dataclasses.replace(data, x=x, y=y if first else y - middle, sizes=sizes, splits=None)


def masks_of(state: TrainState) -> Masks:
    """The masks by path."""
    masks = dstjax.masks.by_name(dstjax.get_masks(state.opt_state))
    return {name: np.asarray(mask) for name, mask in masks.items() if mask is not None}


def _tree(masks: Masks) -> Any:
    return {name: jnp.asarray(mask) for name, mask in masks.items()}


def _iou(a: Masks, b: Masks) -> float:
    both = sum(int((a[name] & b[name]).sum()) for name in a)
    either = sum(int((a[name] | b[name]).sum()) for name in a)
    return both / either


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """The Jaccard index of two sets."""
    return float((a & b).sum() / max((a | b).sum(), 1))


def _mean_jaccard(a: Masks, b: Masks) -> float:
    return float(np.mean([jaccard(a[name], b[name]) for name in a]))


def gradients_of(trainer: Trainer, config: ConfigDict, state: TrainState, source: Any, rows: Any) -> dict[str, Any]:
    """The dense gradient of a batch, by path."""
    x = source.x[rows] - source.mean[None]
    found = _gradient(trainer.model, config.label_smoothing, state.params, state.model_state, x, source.y[rows])
    return dstjax.masks.by_name(found)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gradient(model: Any, smoothing: float, params: Any, others: Any, x: Any, y: Any) -> Any:
    def loss(params: Any) -> Any:
        variables, rngs = {"params": params, **others}, {"dropout": jax.random.key(0)}
        logits, _ = model.apply(variables, x, train=True, mutable=["batch_stats"], rngs=rngs)
        return tasks.losses(logits, y, smoothing).mean()

    return jax.grad(loss)(params)


def leaves_of(
    trainer: Trainer,
    config: ConfigDict,
    state: TrainState,
    source: Any,
    rows: Any,
    step: int,
    fraction: float | None = None,
) -> list[Leaf]:
    """What criteria read of each masked leaf, with the gradient of a batch and the budget of the first update.

    ``fraction``: of the weights that are dropped, in place of the first one's.
    """
    gradients: Any = gradients_of(trainer, config, state, source, rows)
    weights: Any = dstjax.masks.by_name(state.params)
    leaves = []
    for name, mask in masks_of(state).items():
        budget = int((config.drop_fraction if fraction is None else fraction) * mask.sum())
        if budget:
            leaves.append(
                Leaf(
                    weights[name],
                    gradients[name],
                    jnp.asarray(mask),
                    None,
                    jnp.int32(step),
                    jax.random.key(0),
                    jnp.int32(budget),
                )
            )
    return leaves


def dropped(leaf: Leaf, rule: dstjax.criteria.Criterion) -> np.ndarray:
    """What a criterion drops of a leaf."""
    kept = top_k_mask(rule(leaf), leaf.mask.sum() - leaf.budget, where=leaf.mask)
    return np.asarray(leaf.mask & ~kept)

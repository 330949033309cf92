"""Probes of what growth ignores and of what criteria share in time, and a count of parameters."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

import dstjax
from experiments.models import shapes
from experiments.reproduce.criteria import DROPS
from experiments.reproduce.probes import (
    Found,
    Masks,
    dropped,
    found_of,
    gradients_of,
    jaccard,
    leaves_of,
    masks_of,
    train,
    trainer_of,
)
from experiments.reproduce.reading import setting
from experiments.training import configuration

EVERY = 4  # mask updates between two looks: 3,200 steps of the study, whose period is 800


def ignored(config: ConfigDict) -> Found:
    """What growth at one mask update ignores of the weights that are important at the next (DST-EE, Figure 1).

    At a quarter of the updates: the counters of DST-EE are all the same at the first. The paper does not say what is
    important. Here, of the weights of a layer that were inactive before the update, those with the largest gradients at
    the next one, as many as the layer has grown. Values, in percent: 'ignored',
    the share of them that was not grown, a mean over layers; 'layers above 90 %', in how many it is more than that;
    'chance', what growth at random ignores; 'grown against the gradient', the share of what was grown that is not among
    the largest gradients of its moment.
    """
    values: dict[str, list[float]] = {
        n: [] for n in ("ignored", "layers above 90 %", "chance", "grown against the gradient")
    }
    first: dict[int, tuple[Masks, Masks, dict[str, Any]]] = {}
    layers: dict[str, list[float]] = {}

    def hook(network: int, step: int, program: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        state, _, source, order, i, _ = arguments
        if step not in (one, other):
            return program(*arguments)
        gradients = gradients_of(trainer, config, state, source, order[i])
        if network not in first:
            before = masks_of(state)
            out = program(*arguments)
            after = masks_of(out[0])
            first[network] = before, after, gradients
            return out
        before, after, then = first[network]
        shares, chances, against = [], [], []
        for name, mask in before.items():
            grown = after[name] & ~mask
            count, candidates = int(grown.sum()), int((~mask).sum())
            if not count:
                continue
            important = largest(gradients[name], ~mask, count)
            shares.append(100 * (1 - float((important & grown).sum()) / count))
            chances.append(100 * (1 - count / candidates))
            against.append(100 * (1 - float((largest(then[name], ~mask, count) & grown).sum()) / count))
            layers.setdefault(name, []).append(shares[-1])
        values["ignored"].append(float(np.mean(shares)))
        values["layers above 90 %"].append(100 * float(np.mean(np.array(shares) > 90)))
        values["chance"].append(float(np.mean(chances)))
        values["grown against the gradient"].append(float(np.mean(against)))
        return program(*arguments)

    trainer = trainer_of(config, on_update=hook)
    updates = _updates(config, trainer)
    one, other = updates[len(updates) // 4 :][:2]
    train(trainer, config, other)
    curve = {place: shares for place, shares in enumerate(layers.values(), 1)}
    return found_of(config, trainer, values | {"nine tenths": [90.0] * len(trainer.seeds)}, {"ignored by layer": curve})


def drops_in_time(config: ConfigDict) -> Found:
    """Jaccard index of what the criterion of the run drops and what each other would, at every fourth update.

    A mean over layers. The share that is dropped falls as in the text of the study, by a cosine to 0.
    """
    own = next(name for name, drop in DROPS.items() if drop == config.drop)
    rules = {name: dstjax.criteria.resolve("drop", drop) for name, drop in DROPS.items()}
    curves: dict[str, dict[int, list[float]]] = {f"J({own}, {other})": {} for other in DROPS if other != own}

    def hook(network: int, step: int, program: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if step in looks:
            state, _, source, order, i, _ = arguments
            fraction = config.drop_fraction * (1 + math.cos(math.pi * step / steps)) / 2
            leaves = leaves_of(trainer, config, state, source, order[i], step, fraction)
            sets = {name: [dropped(leaf, rule) for leaf in leaves] for name, rule in rules.items()}
            for other in rules:
                if other != own and leaves:
                    shared = [jaccard(a, b) for a, b in zip(sets[own], sets[other], strict=True)]
                    curves[f"J({own}, {other})"].setdefault(step, []).append(float(np.mean(shared)))
        return program(*arguments)

    trainer = trainer_of(config, on_update=hook)
    steps = configuration.plan(config).steps
    looks = {*_updates(config, trainer)[::EVERY]}
    train(trainer, config)
    values = {name: np.mean([curve[s] for s in sorted(curve)], axis=0).tolist() for name, curve in curves.items()}
    return found_of(config, trainer, values, curves)


def parameters(config: ConfigDict) -> Found:
    """The number of parameters, biases included, and a twentieth of them; nothing is trained."""
    plan = configuration.plan(config)
    sample = plan.data.x.shape[1:] if hasattr(plan.data, "x") else plan.data.shape
    share = 1 - (config.sparsity or 0.0) if config.method != "dense" else 1.0
    count = round(shapes.network(plan.model, sample).parameters * share)
    return {
        "seeds": list(plan.seeds),
        "values": {"parameters": [float(count)] * len(plan.seeds)},
        "curves": {},
        "setting": setting(config.to_dict(), plan.steps),
    }


PROBES: dict[str, Callable[[ConfigDict], Found]] = {
    "ignored": ignored,
    "drops_in_time": drops_in_time,
    "parameters": parameters,
}


def _updates(config: ConfigDict, trainer: Any) -> list[int]:
    steps = configuration.plan(config).steps
    return [t for t in range(1, steps + 1) if trainer.method.is_update_step(t)]


def largest(values: Any, where: np.ndarray, count: int) -> np.ndarray:
    """The mask of the largest magnitudes within ``where``; of equals the first wins."""
    size = np.where(where, np.abs(np.asarray(values)), -1.0).ravel()
    found = np.zeros(size.shape, bool)
    found[np.argsort(-size, kind="stable")[:count]] = True
    return found.reshape(where.shape)

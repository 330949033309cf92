"""Probes of why averaged, balanced gradients grow other weights: noise, dead outputs, and what balance changes.

A look is taken at every ``EVERY``-th mask update. There the gradient of all training samples stands for the signal.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

import dstjax
from experiments.reproduce.mask_probes import largest
from experiments.reproduce.probes import Found, found_of, gradients_of, masks_of, train, trainer_of
from experiments.training.steps import TrainState

EVERY, BATCHES, DECILES = 8, 8, 10
Arrays = dict[str, np.ndarray]


def growth(config: ConfigDict) -> Found:
    """What ranks the growth of a method, beside the gradient of all samples. Means over looks, then over layers.

    Values: 'noise of one gradient', the variance of a batch's gradient of inactive weights, in that of the signal;
    'agreement', the cosine of what the method ranks with the signal, without balance; 'grown as all samples would', the
    share (%) of what has grown that the signal, balanced if the method balances, would grow too; 'dead outputs', the
    share (%) of outputs without an active weight, the last layer left out; 'growth into dead outputs', that of growth;
    'inflation', the rms gradient of inactive weights of dead outputs over that of others; 'inputs reached' and 'outputs
    reached', over how many rows and columns (%) growth is spread, by the inverse of Simpson's index; 'changed by
    balance', the share (%) of growth that balance would replace, the sizes being the same; 'survival'; 'accuracy'.
    Curves: 'changed by balance' by layer; 'size of gradients' and 'growth' by tenth of the outputs of layers with batch
    normalisation, ordered by their variance, as multiples of the mean of the layer.
    """
    looks: dict[int, list[dict[str, float]]] = {}
    layers: dict[int, dict[int, list[float]]] = {}
    tenths: dict[int, list[Arrays]] = {}
    survival: dict[int, list[float]] = {}
    balances = config.grow == "balanced" or (config.method == "balanced_momentum" and config.grow is None)

    def hook(network: int, step: int, program: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        state, _, source, order, i, _ = arguments
        seen = updates.index(step) % EVERY == EVERY // 2
        if seen:
            rows = trainer.feed.splits[network].train  # type: ignore[attr-defined]
            take = functools.partial(gradients_of, trainer, config, state, source)
            signal = _arrays(take(rows))
            one = _arrays(take(order[i]))
            others = [_arrays(take(order[j])) for j in np.linspace(0, len(order) - 1, BATCHES).astype(int)]
            before, variances = _arrays(masks_of(state)), _variances(state)
        out = program(*arguments)
        survival.setdefault(network, []).append(float(out[2]["survival_rate"]))
        if seen:
            after = _arrays(masks_of(out[0]))
            ranked = _average(out[0]) or one
            found = {name: _look(signal[name], ranked[name], [o[name] for o in others], before[name], after[name],
                                 balances) for name in before}  # fmt: skip
            hidden = [*found.values()][:-1]
            looks.setdefault(network, []).append(
                {n: _mean([f[n] for f in (hidden if "dead" in n or n == "inflation" else found.values())])
                 for n in next(iter(found.values()))}
            )  # fmt: skip
            for place, f in enumerate(found.values(), 1):
                layers.setdefault(place, {}).setdefault(network, []).append(f["changed by balance"])
            if variances:
                tenths.setdefault(network, []).append(_by_variance(variances, signal, before, after))
        return out

    trainer = trainer_of(config, on_update=hook)
    plan_steps = int(config.steps)
    updates = [t for t in range(1, plan_steps + 1) if trainer.method.is_update_step(t)]
    train(trainer, config)
    seeds = range(len(trainer.seeds))
    values = {n: [_mean([look[n] for look in looks[i]]) for i in seeds] for n in looks[0][0]}
    values["survival"] = [_mean(survival[i]) for i in seeds]
    values["accuracy"] = (100 * trainer.evaluate("test")[1]).tolist()
    values = {n: v for n, v in values.items() if np.isfinite(v).all()}
    curves = {"changed by balance": {p: [_mean(of[i]) for i in seeds] for p, of in layers.items()}}
    for name in ("size of gradients", "growth") if tenths else ():
        curves[name] = {
            d + 1: [_mean([look[name][d] for look in tenths[i]]) for i in seeds] for d in range(DECILES)
        }  # fmt: skip
    return found_of(config, trainer, values, curves)


PROBES: dict[str, Callable[[ConfigDict], Found]] = {"growth": growth}


def balance(m: np.ndarray) -> np.ndarray:
    """abs(m) / sqrt(r c), as :func:`dstjax.criteria.balanced` of a kernel whose last axis is the output."""
    flat = np.abs(m).reshape(-1, m.shape[-1])
    r, c = (np.sqrt((flat**2).mean(axis, keepdims=True)) for axis in (1, 0))
    scale = np.sqrt(r * c)
    return np.divide(flat, scale, out=np.zeros_like(flat), where=scale > 0).reshape(m.shape)


def _look(
    signal: np.ndarray, ranked: np.ndarray, others: list[np.ndarray], before: np.ndarray, after: np.ndarray, own: bool
) -> dict[str, float]:
    """The numbers of one layer at one mask update."""
    grown, free = after & ~before, ~before
    count = int(grown.sum())
    s, r = signal[free], ranked[free]
    noise = np.mean([np.sum((o[free] - s) ** 2) for o in others]) / max(float(np.sum(s**2)), 1e-30)
    cosine = float(s @ r) / max(float(np.linalg.norm(s) * np.linalg.norm(r)), 1e-30)
    dead = np.broadcast_to(~before.reshape(-1, before.shape[-1]).any(axis=0), before.shape)
    parts = [signal[free & where] for where in (dead, ~dead)]
    inflation = _rms(parts[0]) / _rms(parts[1]) if all(p.size for p in parts) and _rms(parts[1]) > 0 else np.nan
    if not count:
        grows = dict.fromkeys(_OF_GROWTH, float("nan"))
    else:
        wanted = largest(balance(signal) if own else signal, free, count)
        plain, balanced = largest(ranked, free, count), largest(balance(ranked), free, count)
        flat = grown.reshape(-1, grown.shape[-1])
        grows = dict(
            zip(
                _OF_GROWTH,
                (
                    100 * float((wanted & grown).sum()) / count,
                    100 * float((dead & grown).sum()) / count,
                    _spread(flat.sum(axis=1)),
                    _spread(flat.sum(axis=0)),
                    100 * (1 - float((plain & balanced).sum()) / count),
                ),
                strict=True,
            )
        )
    return {
        "noise of one gradient": float(noise),
        "agreement": cosine,
        "dead outputs": 100 * float(dead.reshape(-1, dead.shape[-1])[0].mean()),
        "inflation": float(inflation),
        **grows,
    }


_OF_GROWTH = (
    "grown as all samples would",
    "growth into dead outputs",
    "inputs reached",
    "outputs reached",
    "changed by balance",
)


def _by_variance(variances: Arrays, signal: Arrays, before: Arrays, after: Arrays) -> Arrays:
    """Gradient and growth of each tenth of the normalised outputs, the least variance first."""
    order, sizes, grown = [], [], []
    for name, variance in variances.items():
        g, free = signal[name].reshape(-1, len(variance)), ~before[name].reshape(-1, len(variance))
        size = np.sqrt(np.sum(np.where(free, g**2, 0), axis=0) / np.maximum(free.sum(axis=0), 1))
        new = (after[name] & ~before[name]).reshape(-1, len(variance)).sum(axis=0)
        order.append(np.argsort(np.argsort(variance)) / len(variance))  # a place within the layer: layers differ
        sizes.append(size / max(size.mean(), 1e-30))
        grown.append(new / max(new.mean(), 1e-30))
    tenth = np.minimum((np.concatenate(order) * DECILES).astype(int), DECILES - 1)
    return {
        name: np.array([_mean(values[tenth == d]) for d in range(DECILES)])
        for name, values in (("size of gradients", np.concatenate(sizes)), ("growth", np.concatenate(grown)))
    }


def _variances(state: TrainState) -> Arrays:
    """The running variance of each output that is batch normalised, by the path of its kernel; {} where none is."""
    statistics: Any = state.model_state.get("batch_stats", {})
    kernels = [name for name in masks_of(state) if not name.startswith("Dense")]
    found = [np.asarray(statistics[f"BatchNorm_{i}"]["var"]) for i in range(len(statistics))]
    return dict(zip(kernels, found, strict=True)) if found else {}


def _average(state: TrainState) -> Arrays | None:
    """The average of gradients that the method remembers, by path; None where it has none."""
    leaves = getattr(state.opt_state.memory, "leaves", ())  # of a method that remembers nothing it is ()
    return _arrays(dstjax.masks.by_name(leaves)) if leaves else None


def _arrays(tree: Any) -> Arrays:
    found = {name: np.asarray(x) for name, x in tree.items() if x is not None}
    return {name: x if x.dtype == bool else x.astype(np.float32) for name, x in found.items()}


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))


def _spread(counts: np.ndarray) -> float:
    """Over how many of the places a number is spread, in percent: 100 where each has as many."""
    return 100 * float(counts.sum() ** 2 / (counts**2).sum()) / len(counts)


def _mean(values: Any) -> float:
    """The mean of what is known; NaN where nothing is."""
    known = [v for v in values if np.isfinite(v)]
    return float(np.mean(known)) if known else float("nan")

"""The propositions of DST-EE on a problem that keeps their assumptions: least squares on real data."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

import dstjax
from experiments.data import Data
from experiments.reproduce.probes import Found
from experiments.training import configuration

NAME = "kernel"  # of the one leaf


def convergence(config: ConfigDict) -> Found:
    """Masked least squares from the pixels to the classes, by the step of Proposition 2: 1 / (16 L dT sqrt(Q)).

    F(W) = mean |x W - y|^2 / 2 is L-smooth with L the largest eigenvalue of the second moments of x. Q rounds of dT =
    ``update_period`` steps on mini-batches, Q = ``steps`` / dT. Values: 'gradient norm', the mean over the rounds of
    |grad F(W * M)|^2 at their beginning, with all coordinates; 'mask error', the mean tau^2 of the mask updates, 0
    without masks.

    Raises:
      ValueError: the data do not fit in memory.
    """
    plan = configuration.plan(config)
    if not isinstance(plan.data, Data):
        raise ValueError(f"dataset={config.dataset!r} is not accepted by this probe; expected one that fits in memory.")
    values: dict[str, list[float]] = {"gradient norm": [], "mask error": []}
    for seed in plan.seeds:
        rows = plan.data.split(seed).train
        x = plan.data.x[rows].reshape(len(rows), -1).astype(np.float32)
        y = np.eye(plan.data.classes, dtype=np.float32)[plan.data.y[rows]]
        norms, errors = _train(config, plan, x - x.mean(axis=0), y - y.mean(axis=0), seed)
        values["gradient norm"].append(float(norms[:: config.update_period].mean()))
        moved = np.array([bool(plan.method.is_update_step(t)) for t in range(1, plan.steps + 1)])
        values["mask error"].append(float(errors[moved].mean()) if moved.any() else 0.0)
    rounds = plan.steps // config.update_period
    return {
        "seeds": list(plan.seeds),
        "values": values,
        "curves": {},
        "setting": f"least squares on {config.dataset}, {rounds} rounds of {config.update_period} steps",
    }


def _train(config: ConfigDict, plan: configuration.Plan, x: Any, y: Any, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """|grad F|^2 before each step, and tau^2 of each step."""
    smooth = float(np.linalg.eigvalsh(x.T @ x / len(x))[-1])
    rate = 1 / (16 * smooth * config.update_period * np.sqrt(plan.steps // config.update_period))
    order = np.random.default_rng((6, seed)).integers(len(x), size=(plan.steps, config.batch_size))
    norms, errors = _scanned(plan.method, seed, rate, order, x, y)
    return np.asarray(norms, np.float64), np.asarray(errors, np.float64)


@functools.partial(jax.jit, static_argnums=0)
def _scanned(method: dstjax.Method, seed: Any, rate: Any, order: Any, x: Any, y: Any) -> tuple[jax.Array, jax.Array]:
    transformation = dstjax.sparsify(optax.sgd(rate), method, seed=seed)

    def gradient(weights: Any, rows: Any = slice(None)) -> Any:
        a, b = x[rows], y[rows]
        return a.T @ (a @ weights - b) / len(a)

    def step(carry: Any, rows: Any) -> Any:
        params, state = carry
        norm = jnp.sum(gradient(params[NAME]) ** 2)
        updates, state = transformation.update({NAME: gradient(params[NAME], rows)}, state, params)
        masked = jax.tree.leaves(dstjax.get_masks(state))
        error = dstjax.metrics.mask_error(params, state) if masked else jnp.float32(0)
        return (optax.apply_updates(params, updates), state), (norm, error)

    # From zero: where all masks begin alike.
    params = {NAME: jnp.zeros((x.shape[1], y.shape[1]))}
    state = transformation.init(params)
    _, found = jax.lax.scan(step, (params, state), order)
    return found


PROBES: dict[str, Callable[[ConfigDict], Found]] = {"convergence": convergence}

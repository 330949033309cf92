"""A network with one hidden layer, in JAX and in float64 NumPy, and the choice of masks in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from tests import oracles

KERNELS = ("hidden", "out")  # in the order of the tree
SIZES = (5, 6, 3)


def draw(seed=0, batches=2, samples=7):
    """float32 parameters and batches of a regression, as NumPy arrays."""
    rng = np.random.default_rng(seed)
    n_in, n_hidden, n_out = SIZES
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    params = {
        "hidden": {"bias": normal(n_hidden), "kernel": normal(n_in, n_hidden)},
        "out": {"bias": normal(n_out), "kernel": normal(n_hidden, n_out)},
    }
    return params, [(normal(samples, n_in), normal(samples, n_out)) for _ in range(batches)]


def forward(params, x):
    hidden, out = params["hidden"], params["out"]
    z = x @ hidden["kernel"] + hidden["bias"][None]
    return jax.nn.relu(z) @ out["kernel"] + out["bias"][None]


def loss(params, batch):
    x, y = batch
    return jnp.mean(jnp.sum((forward(params, x) - y) ** 2, axis=1)) / 2


def wide(params):
    return {n: {k: np.asarray(v, np.float64) for k, v in layer.items()} for n, layer in params.items()}


def kernels(tree):
    return [np.asarray(tree[n]["kernel"]) for n in KERNELS]


def with_kernels(params, weights):
    return {n: {**params[n], "kernel": w} for n, w in zip(KERNELS, weights, strict=True)}


def gradient(params, batches):
    """Gradients of the two kernels, summed over batches, by hand."""
    p, total = wide(params), 0
    for x, y in batches:
        z = x @ p["hidden"]["kernel"] + p["hidden"]["bias"]
        a = np.maximum(z, 0)
        r = (a @ p["out"]["kernel"] + p["out"]["bias"] - y) / len(x)
        total = total + np.array([x.T @ ((r @ p["out"]["kernel"].T) * (z > 0)), a.T @ r], object)
    return [np.asarray(g, np.float64) for g in total]


def hessian_product(params, batches, direction):
    """The derivative of the gradients along a direction, by hand."""
    p, (v_hidden, v_out), total = wide(params), direction, 0
    for x, y in batches:
        z = x @ p["hidden"]["kernel"] + p["hidden"]["bias"]
        a, on = np.maximum(z, 0), z > 0
        r = (a @ p["out"]["kernel"] + p["out"]["bias"] - y) / len(x)
        a_dot = (x @ v_hidden) * on
        r_dot = (a_dot @ p["out"]["kernel"] + a @ v_out) / len(x)
        back = (r_dot @ p["out"]["kernel"].T + r @ v_out.T) * on
        total = total + np.array([x.T @ back, a_dot.T @ r + a.T @ r_dot], object)
    return [np.asarray(h, np.float64) for h in total]


def counts(sizes, sparsity, scope):
    """Active weights: of each leaf with uniform densities, or of all in common."""
    sizes = [sum(sizes)] if scope == "global" else sizes
    return [n - oracles.share(n, sparsity) for n in sizes]


def after_round(r, rounds, sizes, active, scope):
    """Active weights after round r: the density falls exponentially."""
    sizes = [sum(sizes)] if scope == "global" else sizes
    if r == rounds:
        return active
    return [n - int((1 - (k / n) ** (r / rounds)) * n + 1e-9) for n, k in zip(sizes, active, strict=True)]


def choose(scores, active, scope, where=None):
    """Masks of the highest scores; globally the best one of each leaf comes first."""
    where = [np.ones(s.shape, bool) for s in scores] if where is None else where
    if scope == "layer":
        return [oracles.best(s, k, w) for s, k, w in zip(scores, active, where, strict=True)]
    first = [oracles.best(s, 1, w) for s, w in zip(scores, where, strict=True)]
    free = [w & ~f for w, f in zip(where, first, strict=True)]
    others = oracles.best_together(scores, active[0] - len(scores), free)
    return [f | o for f, o in zip(first, others, strict=True)]


def uniformly(scope):
    """The arguments for which :func:`counts` holds."""
    return {"scope": scope, "distribution": "uniform" if scope == "layer" else None}


def assert_masks(masks, expected):
    for mask, wanted in zip(kernels(masks), expected, strict=True):
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, wanted)

"""A small network in float64, and noise for its gradients: for the tests of IEE."""

import numpy as np

DENSE = ("bias", "scale")
SHAPES = {"bias": (5,), "conv": (2, 2, 4, 6), "matrix": (16, 10), "scale": ()}


def weights_of(seed=0):
    rng = np.random.default_rng(seed)
    return {n: rng.uniform(0.1, 1.0, s) * rng.choice([-1.0, 1.0], s) for n, s in SHAPES.items()}


def noise(t):
    rng = np.random.default_rng(500 + t)
    return {n: 0.6 * rng.standard_normal(s) for n, s in SHAPES.items()}

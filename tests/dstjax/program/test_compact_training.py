"""Training goes on in the compact network, and ends with the same accuracy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

import dstjax

SIZES, STEPS, MIDDLE, TEST = (64, 300, 100, 10), 1500, 750, 540
SEEDS = 10


def network(params, x):
    for i in range(len(SIZES) - 1):
        x = (jax.nn.relu(x) if i else x) @ params[f"layer{i}"]["w"] + params[f"layer{i}"]["b"][None]
    return x


def start(seed):
    keys = jax.random.split(jax.random.key(seed), len(SIZES) - 1)
    fans = zip(keys, SIZES, SIZES[1:], strict=False)
    return {
        f"layer{i}": {"w": jax.random.normal(key, (a, b)) * np.sqrt(2 / a), "b": jnp.zeros(b)}
        for i, (key, a, b) in enumerate(fans)
    }


@functools.partial(jax.jit, static_argnames=("network", "tx"))
def trained(network, tx, params, state, samples, labels, batches):
    def step(carry, batch):
        params, state = carry
        logits = lambda p: network(p, samples[batch])  # noqa: E731
        loss = lambda p: optax.softmax_cross_entropy_with_integer_labels(logits(p), labels[batch]).mean()  # noqa: E731
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, state), batches)[0]


def right(network, params, samples, labels):
    """Correct test samples, and what is said of each."""
    said = np.asarray(network(params, samples)).argmax(1)
    return int((said == labels).sum()), said


def both_ways(seed, method):
    """Correct test samples of the whole network and of the compact one, and how much smaller that is."""
    digits = load_digits()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(digits.data))
    x, y = (digits.data / 16).astype(np.float32)[order], digits.target[order]
    samples, labels = jnp.asarray(x[TEST:]), jnp.asarray(y[TEST:])
    batches = jnp.asarray(rng.integers(0, len(samples), (STEPS, 64)))
    tx = dstjax.sparsify(
        optax.sgd(0.1, momentum=0.9),
        dstjax.methods.get(method, sparsity=0.98, update_period=50, end_step=3 * STEPS // 4),
    )
    params = start(seed)
    state = tx.init(params)
    params, state = trained(network, tx, dstjax.apply_masks(params, state), state, samples, labels, batches[:MIDDLE])
    smaller, fewer, report = dstjax.compact(network, params, state, samples[:1])
    said = [right(f, p, x[:TEST], y[:TEST])[1] for f, p in ((network, params), (smaller, fewer))]
    np.testing.assert_array_equal(*said)
    rest = samples, labels, batches[MIDDLE:]
    whole, _ = trained(network, tx, params, state, *rest)
    compact, after = trained(smaller, tx, fewer, report.cut_state(state), *rest)
    dstjax.check_sparse(compact, after)
    size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    counts = [right(f, p, x[:TEST], y[:TEST])[0] for f, p in ((network, whole), (smaller, compact))]
    return *counts, size(params) / size(fewer)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rigl", "set", "dst_ee"])
def test_training_that_goes_on_in_the_compact_network_ends_as_well(method):
    """Half of the training, of mask updates too, in either network from the same state; ten seeds."""
    whole, compact, factor = np.array([both_ways(seed, method) for seed in range(SEEDS)]).T
    difference = 100 * (compact - whole) / TEST
    error = difference.std(ddof=1) / np.sqrt(SEEDS)
    print(
        f"\n{method}: {100 * whole.mean() / TEST:.2f} % whole, {100 * compact.mean() / TEST:.2f} % compact, "
        f"{difference.mean():+.2f} ± {error:.2f}; {factor.mean():.1f} ({factor.std(ddof=1):.1f}) times smaller"
    )
    assert abs(difference.mean()) < max(2.26 * error, 0.5)  # Student's t for nine degrees of freedom
    assert factor.min() > 2

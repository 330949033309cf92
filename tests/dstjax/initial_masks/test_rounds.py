"""Iterative SNIP and FORCE: the worked example of the reference (B6) and transcripts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dstjax.initial_masks import force, iterative_snip, snip
from tests.dstjax.initial_masks import networks

RULES = {"iterative_snip": iterative_snip, "force": force}


@pytest.mark.parametrize(("rule", "expected"), [("force", [1, 0, 0, 0]), ("iterative_snip", [0, 1, 0, 0])])
def test_the_reference_example(rule, expected):
    """B6: the first round keeps 1 and 3; in the second, FORCE takes 0 back and iterative SNIP keeps 1."""
    g = jnp.array([[[0.1, 0.8, 0.2, 0.9]], [[0.9, 0.3, 0.1, 0.2]]])
    loss = lambda p, g: jnp.sum(p["w"] * jnp.where(p["w"][0, 0] != 0, g[0], g[1]))  # noqa: E731
    params = {"w": jnp.array([[1.0, 0.5, 0.4, 0.3]])}
    masks = RULES[rule](loss, params, [g], sparsity=0.75, rounds=2)
    assert masks["w"].astype(int).tolist() == [expected]


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("rule", RULES)
def test_transcript(rule, scope):
    rounds, sparsity = 4, 0.85
    params, batches = networks.draw(seed=3)
    dense = networks.kernels(params)
    sizes = [w.size for w in dense]
    active = networks.counts(sizes, sparsity, scope)
    masks = [np.ones(w.shape, bool) for w in dense]
    returned = 0
    for r in range(1, rounds + 1):
        sparse = networks.with_kernels(params, [w * m for w, m in zip(dense, masks, strict=True)])
        scores = [np.abs(w * g) for w, g in zip(dense, networks.gradient(sparse, batches), strict=True)]
        now = networks.after_round(r, rounds, sizes, active, scope)
        new = networks.choose(scores, now, scope, masks if rule == "iterative_snip" else None)
        returned += sum(int((n & ~m).sum()) for n, m in zip(new, masks, strict=True))
        masks = new
    assert (returned > 0) == (rule == "force")
    got = RULES[rule](networks.loss, params, batches, sparsity=sparsity, rounds=rounds, **networks.uniformly(scope))
    networks.assert_masks(got, masks)


@pytest.mark.parametrize("rule", RULES)
def test_one_round_is_snip(rule):
    params, batches = networks.draw(seed=4)
    expected = snip(networks.loss, params, batches, sparsity=0.7)
    got = RULES[rule](networks.loss, params, batches, sparsity=0.7, rounds=1)
    networks.assert_masks(got, networks.kernels(expected))


def test_rounds_are_compiled_once():
    params, batches = networks.draw()
    calls = []

    def counted(p, batch):
        calls.append(1)
        return networks.loss(p, batch)

    force(counted, params, batches, sparsity=0.7, rounds=5)
    assert len(calls) == 1


def test_under_jit():
    params, batches = networks.draw(seed=5)
    eager = force(networks.loss, params, batches, sparsity=0.7, rounds=2)
    jitted = jax.jit(lambda p, b: force(networks.loss, p, b, sparsity=0.7, rounds=2))(params, batches)
    networks.assert_masks(jitted, networks.kernels(eager))

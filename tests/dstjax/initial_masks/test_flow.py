"""SynFlow: the worked example of the reference (B5), transcripts, and networks too deep for float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dstjax.initial_masks import synflow
from tests.dstjax.initial_masks import networks
from tests.thorough import slow

linear = lambda p, x: x @ p["a"] @ p["b"]  # noqa: E731
EXAMPLE = {"a": jnp.array([[1.0, 0.5], [-2.0, 1.0]]), "b": jnp.array([[3.0], [-1.0]])}


@pytest.mark.parametrize("rounds", [1, 100])
def test_the_reference_example(rounds):
    """B5: scores 3 .5 6 1 and 9 1.5; at density 0.5 the second neuron goes as a whole."""
    masks = synflow(linear, EXAMPLE, (2,), sparsity=0.5, rounds=rounds)
    assert masks["a"].tolist() == [[True, False], [True, False]]
    assert masks["b"].tolist() == [[True], [False]]


@pytest.mark.parametrize(("scope", "rounds"), [("layer", 1), ("global", 6), slow("layer", 6), slow("global", 1)])
def test_transcript(scope, rounds):
    sparsity = 0.8
    params, _ = networks.draw(seed=1)
    p = {n: {k: np.abs(v) for k, v in layer.items()} for n, layer in networks.wide(params).items()}
    dense = networks.kernels(p)
    sizes = [w.size for w in dense]
    active = networks.counts(sizes, sparsity, scope)
    masks = [np.ones(w.shape, bool) for w in dense]
    for r in range(1, rounds + 1):
        hidden, out = (w * m for w, m in zip(dense, masks, strict=True))
        a = np.ones(len(hidden)) @ hidden + p["hidden"]["bias"]  # all positive, so ReLU does nothing
        reach = out.sum(axis=1)
        scores = [hidden * reach[None], out * a[:, None]]
        now = networks.after_round(r, rounds, sizes, active, scope)
        masks = networks.choose(scores, now, scope, masks)
    got = synflow(networks.forward, params, (5,), sparsity=sparsity, rounds=rounds, **networks.uniformly(scope))
    networks.assert_masks(got, masks)


DEPTH, WIDTH = 60, 6


def deep(params, x):
    def layer(x, w):
        return jax.nn.relu(x @ w), None

    return jax.lax.scan(layer, x, params["stack"])[0]


@pytest.mark.parametrize("scale", [1e3, 1e-3])
def test_a_network_too_deep_for_float32(scale):
    """The product of 60 layers is beyond float32, and the masks are those of a network rescaled layer by layer."""
    rng = np.random.default_rng(2)
    stack = np.asarray(rng.standard_normal((DEPTH, WIDTH, WIDTH)) * scale, np.float32)
    naive = np.ones((1, WIDTH), np.float32)
    with np.errstate(all="ignore"):
        for w in np.abs(stack):
            naive = naive @ w
    assert not np.isfinite(naive).all() or (naive == 0).all()

    size = stack.size
    active = networks.counts([size], 0.9, "layer")
    weights, mask = np.abs(stack).astype(np.float64) / scale, np.ones(stack.shape, bool)
    for r in range(1, 6):
        now = weights * mask
        ahead, behind = [np.ones(WIDTH)], [np.ones(WIDTH)]
        for w in now:
            ahead.append(ahead[-1] @ w)
        for w in now[::-1]:
            behind.append(w @ behind[-1])
        scores = np.stack([ahead[i][:, None] * now[i] * behind[DEPTH - 1 - i][None] for i in range(DEPTH)])
        mask = networks.choose([scores], networks.after_round(r, 5, [size], active, "layer"), "layer", [mask])[0]
    got = synflow(deep, {"stack": jnp.asarray(stack)}, (WIDTH,), sparsity=0.9, rounds=5)
    np.testing.assert_array_equal(got["stack"], mask)


def cast(dtype):
    return lambda p, x: deep(jax.tree.map(lambda w: w.astype(dtype), p), x.astype(dtype))


def rounded_between(p, x):
    return x @ p["stack"][0].astype(jnp.bfloat16).astype(jnp.float64) @ p["stack"][1]


def linen_in_half_precision(p, x):
    return nn.Dense(WIDTH, use_bias=False, dtype=jnp.bfloat16).apply({"params": {"kernel": p["stack"][0]}}, x)


@pytest.mark.parametrize("forward", [cast(jnp.float32), cast(jnp.float16), rounded_between, linen_in_half_precision])
@pytest.mark.parametrize("scale", [1.0, slow(1e3), slow(1e-3)])
def test_a_network_that_casts_down_is_refused(forward, scale):
    stack = jnp.full((DEPTH, WIDTH, WIDTH), scale)
    with pytest.raises(ValueError, match=r"1 is 1 \+ .*coarser than the float64 of its arguments.*casts nothing down"):
        synflow(forward, {"stack": stack}, (WIDTH,), sparsity=0.5, rounds=5)


def test_what_no_weight_goes_through_may_be_narrow():
    """Positions that are computed in float32 beside the flow, and a scale that is stored so."""
    scale = jnp.float32(2)

    def forward(p, x):
        return (x + jnp.sin(jnp.arange(2, dtype=jnp.float32))[None]) @ p["a"] @ p["b"] * scale

    assert synflow(forward, EXAMPLE, (2,), sparsity=0.5, rounds=2)["a"].sum() == 2


def test_what_the_network_is_given():
    """Positive float64 parameters, integers as they are, ones with a batch axis; the user's parameters stay."""
    seen = []

    def forward(p, x):
        seen.append((jax.tree.map(lambda a: a.dtype.name, p), x.shape, x.dtype.name))
        return {"logits": p["table"][x] * p["scale"], "more": p["w"] * p["count"]}

    params = {
        "count": jnp.int32(2),
        "scale": jnp.float32(-3.0),
        "table": -jnp.ones((4, 2), jnp.bfloat16),
        "w": jnp.array([[-1.0, 2.0]]),
    }
    both = lambda path, leaf: leaf.ndim == 2  # noqa: E731  # a table is not masked unless one asks for it
    masks = synflow(forward, params, np.zeros(5, np.int32), sparsity=0.5, rounds=2, maskable=both)
    types = {"count": "int32", "scale": "float64", "table": "float64", "w": "float64"}
    assert seen == [(types, (1, 5), "int32")]  # one program for all rounds
    # Only row 1 is looked up: 5 * 1 * 3 each; then 2 * 1 and 2 * 2. The fifth is the first of the zeros.
    assert masks["table"].astype(int).tolist() == [[1, 0], [1, 1], [0, 0], [0, 0]]
    assert masks["w"].astype(int).tolist() == [[1, 1]]
    assert params["scale"] == -3.0
    assert jnp.ones(1).dtype == jnp.float32  # float64 ends with the call


def test_a_sample_stands_for_its_shape():
    by_shape = synflow(linear, EXAMPLE, (2,), sparsity=0.5, rounds=2)
    by_sample = synflow(linear, EXAMPLE, np.full(2, -7.0, np.float32), sparsity=0.5, rounds=2)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), by_shape, by_sample))


@pytest.mark.parametrize("example", [3, None, "image", (0, 2), (-1, 2), (2.5,)])
def test_refuses_what_is_no_shape(example):
    with pytest.raises(ValueError, match=r"example=.*expected the shape of one sample"):
        synflow(linear, EXAMPLE, example, sparsity=0.5)


def test_refuses_what_has_no_flow():
    with pytest.raises(ValueError, match=r"dtypes \['int32'\].*real floating"):
        synflow(lambda p, x: jnp.int32(1) + 0 * p["b"].astype(jnp.int32), EXAMPLE, (2,), sparsity=0.5)
    with pytest.raises(ValueError, match=r"sum to 0\.0"):
        synflow(lambda p, x: 0 * linear(p, x), EXAMPLE, (2,), sparsity=0.5)
    with pytest.raises(ValueError, match="outside jit"):
        jax.jit(lambda p: synflow(linear, p, (2,), sparsity=0.5))(EXAMPLE)
    with pytest.raises(ValueError, match="forward_fn=3"):
        synflow(3, EXAMPLE, (2,), sparsity=0.5)

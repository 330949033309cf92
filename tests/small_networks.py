"""Small networks with one of everything that makes channels hard to remove, and random groups of them to remove."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dstjax import masks as masks_lib
from dstjax import program
from tests.layout_reading import conv


def normal(*shape, seed=0):
    rng = np.random.default_rng([seed, *shape])
    return jnp.asarray(rng.standard_normal(shape) * 0.4, jnp.float32)


def like(shapes, seed=0):
    return {name: normal(*shape, seed=i + seed) for i, (name, shape) in enumerate(shapes.items())}


def norm(x, scale, bias):
    """A layer norm whose variance is a mean of squares: zeros add nothing to it, and the divisors stay."""
    mean = x.mean(-1, keepdims=True)
    variance = (x * x).mean(-1, keepdims=True) - mean * mean
    at = (1,) * (x.ndim - 1) + (-1,)
    return (x - mean) * lax.rsqrt(variance + 1e-3) * scale.reshape(at) + bias.reshape(at)


def residual(p, x):
    h = x @ p["in"]
    for i in "ab":
        h = h + jax.nn.gelu(norm(h, p["scale"], p["bias"]) @ p["up" + i]) @ p["down" + i]
    return norm(h, p["scale"], p["bias"]) @ p["out"]


def convolutional(p, x):
    """A stem, shuffled groups, a depthwise convolution, a gate of the channels (SE), concatenation, a flat head."""
    h = jax.nn.relu(conv(p["stem"], x) + p["b"].reshape(1, 1, 1, -1))
    n, rows, columns, width = h.shape
    h = h.reshape(n, rows, columns, 2, width // 2).swapaxes(3, 4).reshape(h.shape)
    h = jax.nn.silu(conv(p["grouped"], h, groups=2))
    h = conv(p["depthwise"], h, groups=h.shape[-1])
    h = h * jax.nn.sigmoid(jax.nn.relu(h.mean((1, 2)) @ p["squeeze"]) @ p["excite"])[:, None, None]
    pooled = lax.reduce_window(h, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
    shifted = jnp.pad(pooled, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]
    return jnp.concatenate([pooled, shifted], -1).reshape(n, -1) @ p["head"]


def attention(p, x):
    """Heads that a reshape splits off, with a mask, looked-up tokens and a tied table."""
    h = p["table"][x] + p["positions"][None]
    q, k, v = ((h @ p[name]).reshape(*x.shape, 3, 2) for name in "qkv")
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k)
    scores = jnp.where(jnp.tril(jnp.ones(scores.shape, bool)), scores, -1e9)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v).reshape(*x.shape, -1)
    return jnp.einsum("bld,vd->blv", h + mixed @ p["o"], p["table"])


def recurrent(p, x):
    """An LSTM by scan, stacked layers by scan, and a loop with a branch in it."""

    def cell(carry, x):
        h, c = carry
        i, f, g, o = jnp.split(x @ p["x"] + h @ p["h"] + p["b"].reshape(1, -1), 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((x.shape[0], p["h"].shape[0]))
    (h, _), _ = lax.scan(cell, (zeros, zeros), x.swapaxes(0, 1))
    h, _ = lax.scan(lambda h, w: (jnp.tanh(h @ w), None), h, p["stack"])
    return h @ p["out"]


def looping(p, x):
    def round_of(i, h):
        return lax.cond(i > 1, lambda h: jnp.tanh(h @ p["a"]), lambda h: h * p["c"].reshape(1, -1), h)

    h = lax.fori_loop(0, 3, round_of, x @ p["in"])
    return jax.checkpoint(lambda h: jnp.sin(h @ p["b"]))(h) @ p["out"]


@jax.custom_jvp
def double(x):
    return x * 2


double.defjvp(lambda primals, slopes: (double(*primals), slopes[0] * 5))


@jax.custom_vjp
def clipped(x, w):
    return x * w


clipped.defvjp(
    lambda x, w: (x * w, (x, w)), lambda kept, g: (jnp.clip(g * kept[1], -0.1, 0.1), (g * kept[0]).sum(0)[None])
)


def custom(p, x):
    """Functions with derivatives of their own; a constant that is cut along channels; noise; a table of experts."""
    h = clipped(double(x @ p["a"]), p["s"].reshape(1, -1)) * jnp.arange(1.0, 9.0)[None]
    h = h * jax.random.bernoulli(jax.random.key(0), 0.7, h.shape)
    gates = jax.nn.softmax(x @ p["gate"])
    mixed = jnp.einsum("be,bh,ehd->bd", gates, h, p["experts"])
    return jnp.einsum("bed,be->bd", jnp.einsum("bd,edo->beo", mixed, p["more"]), gates)


NETWORKS = {
    "residual": (
        residual,
        like(
            {
                "in": (3, 8),
                "scale": (8,),
                "bias": (8,),
                "upa": (8, 6),
                "downa": (6, 8),
                "upb": (8, 6),
                "downb": (6, 8),
                "out": (8, 2),
            }
        ),
        normal(5, 3, seed=9),
    ),
    "convolutional": (
        convolutional,
        like(
            {
                **{"stem": (3, 3, 2, 8), "b": (8,), "grouped": (3, 3, 4, 12), "depthwise": (3, 3, 1, 12)},
                **{"squeeze": (12, 4), "excite": (4, 12), "head": (2 * 2 * 24, 3)},
            }
        ),
        normal(2, 4, 4, 2, seed=9),
    ),
    "attention": (
        attention,
        like({"table": (7, 8), "positions": (5, 8), "q": (8, 6), "k": (8, 6), "v": (8, 6), "o": (6, 8)}),
        jnp.asarray(np.random.default_rng(0).integers(0, 7, (2, 5)), jnp.int32),
    ),
    "recurrent": (
        recurrent,
        like({"x": (3, 24), "h": (6, 24), "b": (24,), "stack": (2, 6, 6), "out": (6, 2)}),
        normal(2, 4, 3, seed=9),
    ),
    "looping": (
        looping,
        like({"in": (3, 6), "a": (6, 6), "c": (6,), "b": (6, 5), "out": (5, 2)}),
        normal(2, 3, seed=9),
    ),
    "custom": (
        custom,
        like({"a": (3, 8), "s": (8,), "gate": (3, 2), "experts": (2, 8, 6), "more": (2, 6, 4)}),
        normal(5, 3, seed=9),
    ),
}


def drawn(found, share, seed=0):
    """A share of the groups, without those that would leave an axis empty."""
    rng = np.random.default_rng(seed)
    gone = set(rng.permutation(found.n_groups)[: round(share * found.n_groups)].tolist())
    for axes in found.of.values():
        for groups in axes:
            if np.isin(groups, list(gone)).all():
                gone.discard(int(groups[0]))
    return gone


def pruned(function, params, x, share, seed=0):
    """Groups drawn at random, masks without them, and the parameters under the masks."""
    found = program.channels(function, params, x)
    gone = drawn(found, share, seed)
    masks = found.masks(gone)
    return found, gone, masks, masks_lib.apply(params, masks)


def relative_to_all(a, b):
    """The largest difference relative to the largest entry of all leaves: some gradients are zero but for noise."""
    differences = [
        np.max(np.abs(np.subtract(x, y))) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    ]
    return float(max(differences) / max(np.max(np.abs(x)) for x in jax.tree.leaves(a)))


def relative(a, b):
    """The largest difference of two trees, leaf by leaf relative to the largest entry."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.max(np.abs(np.subtract(x, y))) / (np.max(np.abs(x)) + 1e-6)) for x, y in pairs if np.size(x))

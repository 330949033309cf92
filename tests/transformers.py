"""One small transformer written four ways, with the same weights: the same network to whoever speaks of layers.

``WAYS`` has each of them by name. Weights go from one to another by their canonical form, a dict of (layer, name) ->
array, such as ("3", "query") -> float[d, heads * head_dim] and (None, "head") -> float[d, vocabulary]: inputs before
outputs, a bias as "query/bias", a norm as "before/scale".
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dstjax._arrays.trees import path_name
from tests.thorough import lighter

WIDTH, HEADS, HIDDEN, LAYERS, VOCABULARY, LENGTH = 16, 4, 32, lighter(2, 6), 24, 8
EPSILON = 1e-6
KERNELS = {  # (inputs, outputs)
    **dict.fromkeys(("query", "key", "value", "out"), (WIDTH, WIDTH)),
    "up": (WIDTH, HIDDEN),
    "down": (HIDDEN, WIDTH),
    "head": (WIDTH, VOCABULARY),
    "embed": (VOCABULARY, WIDTH),
    "positions": (LENGTH, WIDTH),
}
Canonical = dict[tuple[str | None, str], Any]


class Way(NamedTuple):
    """A way of writing it."""

    loss: Callable[[Any, Any], jax.Array]  # of its parameters and a batch: the mean cross-entropy
    shapes: Callable[[], Any]  # its parameters by their shapes
    is_stacked: bool  # whether the layers are in one leaf
    outputs_first: bool  # whether kernels are stored as (outputs, inputs)

    def canonical(self, tree: Any) -> Canonical:
        """A tree of leaves like the parameters (weights, gradients, masks; some may be missing) in canonical form."""
        found: Canonical = {}
        for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            layer, name = _place(path_name(keys))
            if self.is_stacked and layer == "all":
                found.update({(str(i), name): self._of_leaf(name, one) for i, one in enumerate(leaf)})
            else:
                found[layer, name] = self._of_leaf(name, leaf)
        return found

    def params(self, canonical: Canonical) -> Any:
        """The parameters that have these weights."""

        def leaf(keys: Any, like: Any) -> Any:
            layer, name = _place(path_name(keys))
            if layer == "all":
                one = [self._to_leaf(name, canonical[str(i), name], like.shape[1:]) for i in range(LAYERS)]
                return jnp.stack(one)
            return self._to_leaf(name, canonical[layer, name], like.shape)

        return jax.tree_util.tree_map_with_path(leaf, self.shapes())

    def _turned(self, name: str) -> bool:
        return self.outputs_first and name in KERNELS and name not in ("embed", "positions")

    def _of_leaf(self, name: str, leaf: Any) -> Any:
        shape = KERNELS.get(name, (-1,))
        return leaf.reshape(shape[::-1]).T if self._turned(name) else leaf.reshape(shape)

    def _to_leaf(self, name: str, array: Any, shape: tuple[int, ...]) -> Any:
        return jnp.asarray(array.T if self._turned(name) else array).reshape(shape)


def weights(seed: int = 0) -> Canonical:
    """Random weights, biases and scales too, so that no two leaves are alike."""
    rng = np.random.default_rng(seed)
    like = WAYS["linen"].canonical(jax.tree.map(lambda leaf: np.zeros(leaf.shape), WAYS["linen"].shapes()))
    return {
        (layer, name): np.asarray(
            float(name.endswith("scale")) + rng.standard_normal(a.shape) * (0.3 if a.ndim == 2 else 0.1), np.float32
        )
        for (layer, name), a in like.items()
    }


def batch(seed: int = 0, size: int = 4) -> tuple[jax.Array, jax.Array]:
    """Tokens and the ones to predict, int32[size, LENGTH] each."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, VOCABULARY, (size, LENGTH + 1))
    return jnp.asarray(tokens[:, :-1], jnp.int32), jnp.asarray(tokens[:, 1:], jnp.int32)


_NAMES = {"query_proj": "query", "key_proj": "key", "value_proj": "value", "output_proj": "out"}


def _place(path: str) -> tuple[str | None, str]:
    """Layer and name of a leaf; the layer is "all" where it holds all of them."""
    # NNX ends each path with "value"; attention has a projection of that name.
    words = [word for word in path.removesuffix("/value").split("/") if word != "attention"]
    layer = None
    if words[0].startswith("block"):
        inside = words[0].partition("_")[2]
        layer = inside or (words[1] if words[1].isdigit() else "all")
        words = words[1 + (not inside and layer != "all") :]
    words = [_NAMES.get(word, word) for word in words]
    module, kind = words[0], words[-1]
    if len(words) == 1 or kind in ("kernel", "embedding") or (kind == "weight" and module in KERNELS):
        return layer, module
    return layer, f"{module}/{'scale' if kind == 'weight' else kind}"


def _cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)
    return -picked.mean()


# --- Flax Linen, each layer written out, and a loop over one block ----------------------------------------------------


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        normed = nn.LayerNorm(EPSILON, name="before")(x)
        x = x + nn.MultiHeadDotProductAttention(HEADS, name="attention")(normed, mask=nn.make_causal_mask(x[..., 0]))
        hidden = jax.nn.gelu(nn.Dense(HIDDEN, name="up")(nn.LayerNorm(EPSILON, name="after")(x)))
        return x + nn.Dense(WIDTH, name="down")(hidden), None


class Linen(nn.Module):
    looped: bool = False

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(VOCABULARY, WIDTH, name="embed")(tokens)
        x = x + self.param("positions", nn.initializers.normal(), (LENGTH, WIDTH))[None]
        if self.looped:
            block = nn.scan(nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=LAYERS)
            x, _ = block(name="blocks")(x, None)
        else:
            for i in range(LAYERS):
                x, _ = Block(name=f"block_{i}")(x)
        return nn.Dense(VOCABULARY, name="head")(nn.LayerNorm(EPSILON, name="last")(x))


def _linen(looped: bool) -> Way:
    model = Linen(looped)

    def shapes():
        return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, LENGTH), jnp.int32))["params"]

    def loss(params, batch):
        return _cross_entropy(model.apply({"params": params}, batch[0]), batch[1])

    return Way(loss, functools.cache(shapes), looped, outputs_first=False)


# --- Flax NNX ---------------------------------------------------------------------------------------------------------


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.before = nnx.LayerNorm(WIDTH, epsilon=EPSILON, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.after = nnx.LayerNorm(WIDTH, epsilon=EPSILON, rngs=rngs)
        self.up = nnx.Linear(WIDTH, HIDDEN, rngs=rngs)
        self.down = nnx.Linear(HIDDEN, WIDTH, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.before(x), mask=nnx.make_causal_mask(x[..., 0]))
        return x + self.down(jax.nn.gelu(self.up(self.after(x))))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.positions = nnx.Param(jnp.zeros((LENGTH, WIDTH)))
        self.blocks = nnx.List([NnxBlock(rngs) for _ in range(LAYERS)])
        self.last = nnx.LayerNorm(WIDTH, epsilon=EPSILON, rngs=rngs)
        self.head = nnx.Linear(WIDTH, VOCABULARY, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens) + self.positions[...][None]
        for block in self.blocks:
            x = block(x)
        return self.head(self.last(x))


def _nnx() -> Way:
    @functools.cache
    def parts():
        return nnx.split(nnx.eval_shape(lambda: Nnx(nnx.Rngs(0))), nnx.Param, ...)

    def loss(params, batch):
        graph, _, rest = parts()
        return _cross_entropy(nnx.merge(graph, params, rest)(batch[0]), batch[1])

    return Way(loss, lambda: parts()[1], is_stacked=False, outputs_first=False)


# --- Equinox, the layers made by vmap and run by scan -----------------------------------------------------------------


class EqxBlock(eqx.Module):
    before: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    after: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        biases = {f"use_{name}_bias": True for name in ("query", "key", "value", "output")}
        self.before = eqx.nn.LayerNorm(WIDTH, eps=EPSILON)
        self.attention = eqx.nn.MultiheadAttention(HEADS, WIDTH, **biases, key=keys[0])
        self.after = eqx.nn.LayerNorm(WIDTH, eps=EPSILON)
        self.up = eqx.nn.Linear(WIDTH, HIDDEN, key=keys[1])
        self.down = eqx.nn.Linear(HIDDEN, WIDTH, key=keys[2])

    def __call__(self, x):  # float[LENGTH, WIDTH]
        normed = jax.vmap(self.before)(x)
        x = x + self.attention(normed, normed, normed, mask=jnp.tril(jnp.ones((LENGTH, LENGTH), bool)))
        return x + jax.vmap(lambda x: self.down(jax.nn.gelu(self.up(self.after(x)))))(x)


class Eqx(eqx.Module):
    embed: eqx.nn.Embedding
    positions: jax.Array
    blocks: EqxBlock
    last: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.embed = eqx.nn.Embedding(VOCABULARY, WIDTH, key=keys[0])
        self.positions = jnp.zeros((LENGTH, WIDTH))
        self.blocks = eqx.filter_vmap(EqxBlock)(jax.random.split(keys[1], LAYERS))
        self.last = eqx.nn.LayerNorm(WIDTH, eps=EPSILON)
        self.head = eqx.nn.Linear(WIDTH, VOCABULARY, key=keys[2])

    def __call__(self, tokens):  # int[LENGTH]
        arrays, static = eqx.partition(self.blocks, eqx.is_array)
        x = jax.vmap(self.embed)(tokens) + self.positions
        x, _ = jax.lax.scan(lambda x, block: (eqx.combine(block, static)(x), None), x, arrays)
        return jax.vmap(lambda x: self.head(self.last(x)))(x)


def _equinox() -> Way:
    @functools.cache
    def parts():
        model = eqx.filter_eval_shape(Eqx, jax.random.key(0))
        return eqx.partition(model, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))

    def loss(params, batch):
        return _cross_entropy(jax.vmap(eqx.combine(params, parts()[1]))(batch[0]), batch[1])

    return Way(loss, lambda: parts()[0], is_stacked=True, outputs_first=True)


WAYS = {"linen": _linen(False), "linen_scan": _linen(True), "nnx": _nnx(), "equinox": _equinox()}

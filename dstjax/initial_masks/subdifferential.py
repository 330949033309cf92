"""Finds sparse weights for a trained network whose layers keep their outputs: subdifferential inclusion."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from dstjax._arrays.keys import placed_like
from dstjax._arrays.layout import kernel_of, lanes_of, order_of
from dstjax._arrays.trees import Tree
from dstjax.checks import check_choice, check_integer
from dstjax.distributions import Distribution
from dstjax.initial_masks._goal import goal_of
from dstjax.method import Maskable
from dstjax.selection import top_k_mask


class Activations(NamedTuple):
    """Holds what one layer of the dense network took in and gave out, for k samples."""

    inputs: ArrayLike  # [k, n_in], real
    outputs: ArrayLike  # [k, n_out], real, after the activation
    activation: str = "relu"  # or 'linear'
    bias: str | None = None  # path of the bias of shape [n_out], solved for as well; None: the layer has none


class Sparsified(NamedTuple):
    """Holds what :func:`sis` returns."""

    masks: Tree  # like the parameters: boolean, None at dense leaves
    params: Tree  # the parameters, with the solved weights and biases in their places; exactly 0 outside the masks


def sis(
    activations: Mapping[str, Activations | tuple[Any, ...]],
    params: Tree,
    *,
    sparsity: float | None,
    distribution: Distribution | None = None,
    maskable: Maskable | None = None,
    iterations: int = 100,
    bisections: int = 20,
) -> Sparsified:
    """Finds sparse weights under which each layer of a trained network gives nearly its old outputs; then fine-tune.

    The problem is that of SIS, as far as its source allows (from general knowledge; the paper was not at hand). An
    activation R is the proximity operator of a convex function f, so y = R(z) says that z - y lies in the
    subdifferential of f at y. ReLU asks for z = y where y > 0 and z <= 0 where y = 0; the squared distance to that is
    (z - y)^2 and max(z, 0)^2. For a linear layer it is (z - y)^2. SIS looks for the weights of least L1 norm whose mean
    squared distance stays below a bound.

    The solver is ours and not the Douglas-Rachford scheme of the paper. It minimises half the mean squared distance
    plus lambda times the L1 norm by FISTA, and bisects lambda until the layer has the wanted number of weights; the
    bound follows from it. The number need not fall steadily with lambda; where several lambdas give it, any of them is
    found. The bias has no penalty. The penalty shrinks the weights, and fine-tuning undoes that.

    Args:
      activations: path of a kernel -> :class:`Activations`, or a tuple of its fields. A kernel of shape [..., n_out] is
        read as a matrix [n_in, n_out]; the inputs of a convolution are its patches in the order of the kernel's axes.
      params: tree of arrays, the trained dense network.
      sparsity: overall sparsity in [0, 1); None only with a ``{regex: density}`` map.
      distribution: how it is divided over the leaves; 'erk' if None.
      maskable: ``(path, leaf) -> bool``; by default what its name calls a weight. Each masked leaf needs its
        activations.
      iterations: steps of FISTA for each lambda; each starts from the sparsest solution that was too dense.
      bisections: values of lambda that are tried.

    Raises:
      ValueError: activations that are missing, have no leaf, do not fit it or are not finite; a hyper-parameter out of
        range.

    Reference: Verma and Pesquet, "Sparsifying networks via subdifferential inclusion", 2021. FISTA: Beck and Teboulle,
    "A fast iterative shrinkage-thresholding algorithm for linear inverse problems", 2009.
    """
    check_integer("iterations", iterations, 1)
    check_integer("bisections", bisections, 1)
    goal = goal_of("sis", params, sparsity, scope="layer", distribution=distribution, maskable=maskable)
    if activations.keys() != {*goal.masked.masked}:
        raise ValueError(
            f"activations are given for {sorted(activations)}, and masked are {sorted(goal.masked.masked)}; expected "
            "the same leaves. Exclude leaves with maskable=, or give their activations."
        )
    places = {path: i for i, path in enumerate(goal.masked.names)}
    leaves, masks = list(goal.leaves), []
    if stacked := [path for path, one in zip(goal.masked.masked, goal.layouts, strict=True) if lanes_of(one)]:
        raise ValueError(f"sis solves layer by layer and takes no stack of layers: {stacked}; give them as leaves.")
    for path, i, count, layout in zip(goal.masked.masked, goal.masked.at, goal.counts, goal.layouts, strict=True):
        order = order_of(layout, leaves[i].ndim)
        kernel, back = leaves[i].transpose(order), [order.index(a) for a in range(leaves[i].ndim)]
        n_out = kernel_of(layout, leaves[i].shape)[-1]
        at_bias, x, y, relu = _read(path, kernel, n_out, activations[path], places, leaves)
        # One layer is solved on one device, whatever its sharding.
        matrix = np.asarray(kernel, np.float32).reshape(-1, n_out)
        bias = np.zeros(matrix.shape[1]) if at_bias is None else leaves[at_bias]
        solved, mask, offset = _solve(
            x, y, matrix, np.asarray(bias, np.float32), count,
            relu=relu, fit_bias=at_bias is not None, iterations=iterations, bisections=bisections,
        )  # fmt: skip
        leaves[i] = placed_like(solved.reshape(kernel.shape).transpose(back).astype(kernel.dtype), leaves[i])
        masks.append(mask.reshape(kernel.shape).transpose(back))
        if at_bias is not None:
            leaves[at_bias] = placed_like(offset.astype(leaves[at_bias].dtype), leaves[at_bias])
    return Sparsified(goal.tree(masks), goal.masked.treedef.unflatten(leaves))


def _read(
    path: str, kernel: Any, n_out: int, recorded: Any, places: Mapping[str, int], leaves: list[Any]
) -> tuple[int | None, np.ndarray, np.ndarray, bool]:
    """Returns the place of the bias, the inputs, the outputs, whether there is a ReLU; refuses what does not fit."""
    try:
        layer = Activations(*recorded)
    except TypeError:
        raise ValueError(
            f"the activations of {path!r} are {recorded!r}; expected (inputs, outputs, activation, bias), the last two "
            "optional."
        ) from None
    check_choice(f"activation of {path!r}", layer.activation, ("relu", "linear"))
    x, y = np.asarray(layer.inputs, np.float32), np.asarray(layer.outputs, np.float32)
    n_in = kernel.size // n_out
    if x.ndim != 2 or not len(x) or x.shape != (len(x), n_in) or y.shape != (len(x), n_out):
        raise ValueError(
            f"the activations of {path!r} have shapes {x.shape} and {y.shape}; a kernel of shape {kernel.shape} "
            f"expects (k, {n_in}) and (k, {n_out}) with the same k >= 1."
        )
    if not np.isfinite(x).all() or not np.isfinite(y).all():
        raise ValueError(f"the activations of {path!r} are not all finite; expected finite numbers.")
    if layer.activation == "relu" and y.min() < 0:
        raise ValueError(
            f"the outputs of {path!r} reach down to {y.min()}; after a ReLU none is negative. Take the outputs after "
            "it, or say 'linear'."
        )
    if layer.bias is None:
        return None, x, y, layer.activation == "relu"
    if layer.bias not in places or np.shape(leaves[places[layer.bias]]) != (n_out,):
        raise ValueError(
            f"bias={layer.bias!r} of {path!r} is no leaf of shape ({n_out},); expected the path of one, or None. The "
            f"leaves: {list(places)}."
        )
    return places[layer.bias], x, y, layer.activation == "relu"


@functools.partial(jax.jit, static_argnames=("relu", "fit_bias", "iterations", "bisections"))
def _solve(
    x: jax.Array,
    y: jax.Array,
    w: jax.Array,
    b: jax.Array,
    count: ArrayLike,
    *,
    relu: bool,
    fit_bias: bool,
    iterations: int,
    bisections: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns weights [n_in, n_out], a mask of ``count`` of them, and biases [n_out].

    The penalty lies in a bracket: its lower end leaves more than ``count`` weights, its upper end no more. The weights
    are those of the upper end. Several may vanish at one penalty; then the largest of the lower end fill up what is
    missing.
    """
    samples = x.shape[0]

    def gradient(w: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        z = x @ w + b[None]
        away = (jnp.where(y > 0, z - y, jnp.maximum(z, 0)) if relu else z - y) / samples
        return x.T @ away, jnp.sum(away, axis=0)

    moved = jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=1) if fit_bias else x
    lipschitz = jnp.square(jnp.linalg.norm(moved, ord=2)) / samples
    rate = jnp.where(lipschitz > 0, 1 / lipschitz, 0)

    def fista(penalty: jax.Array, w: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        def step(_: Any, loop: Any) -> Any:
            w, b, ahead_w, ahead_b, t = loop
            slope_w, slope_b = gradient(ahead_w, ahead_b)
            u = ahead_w - rate * slope_w
            new_w = jnp.sign(u) * jnp.maximum(jnp.abs(u) - rate * penalty, 0)
            new_b = ahead_b - rate * slope_b if fit_bias else b
            new_t = (1 + jnp.sqrt(1 + 4 * t * t)) / 2
            momentum = (t - 1) / new_t
            return new_w, new_b, new_w + momentum * (new_w - w), new_b + momentum * (new_b - b), new_t

        w, b, *_ = lax.fori_loop(0, iterations, step, (w, b, w, b, jnp.float32(1)))
        return w, b

    def halve(_: Any, loop: Any) -> Any:
        low, high, dense, sparse = loop
        middle = jnp.sqrt(low * high)
        new = fista(middle, *dense)
        many = jnp.count_nonzero(new[0]) > count
        keep = functools.partial(jax.tree.map, functools.partial(jnp.where, many))
        return keep(middle, low), keep(high, middle), keep(new, dense), keep(sparse, new)

    # Beyond the largest slope at w = 0 no weight is left; twice that, since the bias may move.
    highest = 2 * jnp.max(jnp.abs(gradient(jnp.zeros_like(w), b)[0]))
    dense = fista(jnp.float32(0), w, b)
    start = (1e-6 * highest, highest, dense, (jnp.zeros_like(w), dense[1]))
    _, _, dense, sparse = lax.fori_loop(0, bisections, halve, start)
    left = sparse[0] != 0
    mask = left | top_k_mask(jnp.abs(dense[0]), count - jnp.count_nonzero(left), where=~left)
    return jnp.where(mask, jnp.where(left, sparse[0], dense[0]), 0), mask, sparse[1]

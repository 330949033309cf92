"""What users get wrong: each is refused in one line, whatever else was drawn."""

import jax
import jax.numpy as jnp
import optax

import dstjax
from dstjax import methods
from tests.fuzz import making
from tests.fuzz.drawing import Configuration
from tests.fuzz.invariants import hold, is_refusal


def attempt(c: Configuration) -> str:
    """Does what is wrong, and returns what dstjax says."""
    try:
        _do(c)
    except Exception as error:
        hold(is_refusal(error), f"{c.wrong}: {type(error).__name__}: {str(error)[:300]}")
        return str(error)
    hold(False, f"{c.wrong} was accepted")
    return ""


def _do(c: Configuration) -> None:
    kind, pairs = c.wrong, dict(c.hyperparameters)
    if kind.startswith("sparsity"):
        methods.rigl(sparsity={"1": 1.0, "nan": float("nan"), "text": "0.5"}[kind.partition(" ")[2]], end_step=9)
    if kind == "unknown hyper-parameter":
        making.method_of(c.method, (*pairs.items(), ("sparsty", 0.5)))
    method = making.method_of(c.method, c.hyperparameters)
    params = making.parameters(c)
    inner = optax.sgd(0.1)
    arguments = {
        "seed": dict(seed=1.5),
        "track": dict(track="explore"),
        "layout": dict(layout="in owt"),
        "on_nonfinite": dict(on_nonfinite="raise"),
    }
    if kind == "inner":
        dstjax.sparsify(lambda p: p, method)
    if kind == "method":
        dstjax.sparsify(inner, c.method)
    if kind == "no masks":
        dstjax.sparsify(inner, methods.snip(sparsity=0.5)).init(params)
    if kind in arguments:
        dstjax.sparsify(inner, method, **arguments[kind])
    tx = dstjax.sparsify(inner, method, layout=making.layout_of(c) if method.masking is not None else None)
    start = method.start
    if start.pruner is not None and not start.prune_step:
        tx = dstjax.sparsify(inner, method, initial_masks=making.masks_of_someone(c, method, params))
    state = tx.init(params)
    params = dstjax.apply_masks(params, state)
    grads = making.gradient(c, params, 1)
    extra = making.extra(method, grads, 1)
    masks = dstjax.get_masks(state)
    if kind == "no parameters":
        tx.update(grads, state, **extra)
    if kind == "rewire":
        tx.update(grads, state, params, rewire="yes", **extra)
    if kind == "state":
        tx.update(grads, inner.init(params), params, **extra)
    if kind == "split":
        tx.update(grads, dstjax.split_state(state)[0], params, **extra)
    flat, treedef = jax.tree.flatten(grads)
    first = making.matrices(params)[0]
    if kind == "shape":
        flat = [jnp.ones((5, 7), g.dtype) if g.ndim > 1 else g for g in flat]
        tx.update(treedef.unflatten(flat), state, params, **extra)
    if kind == "tree":
        tx.update({"another": flat[first]}, state, params, **extra)
    if kind == "other masks":
        dstjax.set_masks(state, {"another": jnp.ones((3, 3), bool)})
    if kind == "dtype of masks":
        dstjax.set_masks(state, jax.tree.map(lambda m: m.astype(jnp.int32), masks))

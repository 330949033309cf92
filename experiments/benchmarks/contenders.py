"""Optimisers that update the same parameters and moments in turn, so that memory is no difference between them."""

import functools
import importlib
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import optax

import dstjax
from dstjax.method import Method
from experiments.benchmarks.shapes import maskable
from experiments.benchmarks.timing import Run

SPARSITY = 0.9
NEVER = 10**6  # an update period that no benchmark reaches
OTHER = "JAXPRUNER"  # the environment variable that names a checkout of jaxpruner
OPTIMISERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "sgd": lambda: optax.sgd(1e-4, momentum=0.9),
    "adamw": lambda: optax.adamw(1e-4),
}
MOMENTS = {"sgd": 1, "adamw": 2}


def method(name: str, *, update_period: int = NEVER, end_step: int = 2 * NEVER) -> Method:
    return dstjax.methods.get(
        name, sparsity=SPARSITY, distribution="erk", update_period=update_period, end_step=end_step, maskable=maskable
    )


class Arena:
    """Parameters and moments that contenders update in place, each on what the one before has left.

    A dense step moves weights that are inactive, and the next sparse step sets them to zero again; the time of neither
    depends on the values. So a race needs the memory of one contender, and all of them use the same pages.
    """

    def __init__(self, params: Any, grads: Any, inner: optax.GradientTransformation) -> None:
        """``grads`` are gradients, or a function that makes them from the parameters inside the program."""
        self.inner, self.params = inner, params
        self.gradient: Callable[[Any], Any] | None = grads if callable(grads) else None
        self.grads = None if callable(grads) else grads
        self.moments = inner.init(params)

    def dense(self) -> Run:
        """A step of the inner optimiser alone."""
        step = jitted_step(self.inner, {}, self.gradient)

        def run() -> Any:
            self.params, self.moments = step(self.params, self.moments, self.grads)
            return self.params, self.moments

        return run

    def sparse(self, of: Method, rewire: bool | None, *, layout: Any = None) -> Run:
        """A step with a method, that changes the masks (True) or does not (False), or that decides inside (None)."""
        tx = dstjax.sparsify(self.inner, of, layout=layout)
        return self._holding(tx.init(self.params), jitted_step(tx, {"rewire": rewire}, self.gradient))

    def plain(self, of: Method) -> Run:
        """A step between mask updates, of the moving part of a state."""
        tx = dstjax.sparsify(self.inner, of)
        moving, still = dstjax.split_state(tx.init(self.params))
        return self._holding(moving, jitted_plain_step(tx), still)

    def jaxpruner_update(self, library: ModuleType) -> Run:
        """The mask update of jaxpruner's RigL alone, without an optimiser step."""
        updater = _jaxpruner_rigl(library)
        update = jax.jit(updater.update_state, donate_argnums=0)
        state = updater.init_state(self.params)
        return self._holding(state, lambda params, state, grads: (params, update(state, params, grads)))

    def jaxpruner_step(self, library: ModuleType) -> Run:
        """A step with jaxpruner's RigL that leaves the masks as they are, and its masking of the parameters."""
        updater = _jaxpruner_rigl(library)
        tx = updater.wrap_optax(self.inner)

        def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
            params, state = _step(tx, {}, None, params, state, grads)
            return updater.post_gradient_update(params, state), state

        state = updater.init_state(self.params)._replace(count=jnp.ones((), jnp.int32))
        return self._holding(state, jax.jit(step, donate_argnums=(0, 1)))

    def _holding(self, state: Any, step: Callable[..., Any], *others: Any) -> Run:
        """Calls a step again and again, its state held here, but for the moments."""
        held = [state._replace(inner_state=None)]
        del state

        def run() -> Any:
            whole = held[0]._replace(inner_state=self.moments)
            self.params, after = step(self.params, whole, self.grads, *others)
            self.moments, held[0] = after.inner_state, after._replace(inner_state=None)
            return self.params, after

        return run


def jitted_step(tx: Any, options: dict[str, Any], gradient: Callable[[Any], Any] | None = None) -> Any:
    """``step(params, state, grads) -> params, state``, parameters and state donated.

    Where a ``gradient`` is given it makes the gradients inside, from the parameters.
    """
    return jax.jit(functools.partial(_step, tx, options, gradient), donate_argnums=(0, 1))


def jitted_plain_step(tx: Any) -> Any:
    """``step(params, state, grads, still) -> params, state`` between mask updates, of the moving part of a state."""

    def step(params: Any, state: Any, grads: Any, still: Any) -> tuple[Any, Any]:
        params, state = _step(tx, {"rewire": False}, None, params, dstjax.merge_state(state, still), grads)
        return params, dstjax.split_state(state, still)[0]

    return jax.jit(step, donate_argnums=(0, 1))


def _step(tx: Any, options: dict[str, Any], gradient: Any, params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
    grads = grads if gradient is None else gradient(params)
    updates, state = tx.update(grads, state, params, **options)
    return optax.apply_updates(params, updates), state


def jaxpruner() -> ModuleType | None:
    """The library of the checkout that the user names, or None where none is named."""
    checkout = os.environ.get(OTHER)
    if not checkout:
        return None
    if not hasattr(jax, "tree_map"):  # gone from jax 0.6; the library still calls it
        jax.tree_map = jax.tree.map  # type: ignore[attr-defined]
    if checkout not in sys.path:
        sys.path.insert(0, checkout)
    return importlib.import_module("jaxpruner")


def _jaxpruner_rigl(library: ModuleType) -> Any:
    distribution = importlib.import_module("jaxpruner.sparsity_distributions")
    return library.RigL(
        scheduler=library.PeriodicSchedule(update_freq=NEVER, update_start_step=0, update_end_step=2 * NEVER),
        sparsity_distribution_fn=functools.partial(distribution.erk, sparsity=SPARSITY),
    )


def moved(weights: int, itemsize: int, optimiser: str, mask_bits: int = 1) -> int:
    """Bytes of an optimiser step at least: gradient read, parameters and moments read and written, masks read."""
    return weights * itemsize * (3 + 2 * MOMENTS[optimiser]) + weights * mask_bits // 8

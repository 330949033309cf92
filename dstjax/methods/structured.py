"""Gives sparsity a structure that hardware can use: N of every M weights, a constant fan-in.

Any method takes ``structure=`` from :mod:`dstjax.structures`; these were made for one.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from dstjax import budgets, criteria, structures, views
from dstjax.checks import check_number
from dstjax.method import Maskable, Method, Seen, Start, Updates, common_fields, rewiring
from dstjax.methods.catalogue import catalogued
from dstjax.methods.dense_to_sparse import one_shot
from dstjax.rules import Leaf, bind

__all__ = ["asp", "sr_ste", "srigl", "ste"]


@catalogued("ASP", "structured", "mishra2021", cost="dense_then_sparse")
def asp(*, n: int = 2, m: int = 4, prune_step: int, maskable: Maskable | None = None) -> Method:
    """Trains dense, keeps the n largest of every m weights along the inputs, and trains again: ASP.

    The original trains again from the start of the recipe: restart the learning rate at ``prune_step``.

    Args:
      n: active weights in every group.
      m: size of a group.
      prune_step: the step after which the network is pruned.
      maskable: ``(path, leaf) -> bool``; by default what layout or name call a weight. The original leaves layers
        dense whose outputs are no multiple of 8 or whose inputs are no multiple of 16.

    Reference: Mishra et al., "Accelerating sparse deep neural networks", 2021.
    """
    structure = structures.n_m(n, m)
    method = one_shot(
        sparsity=1 - n / m, distribution="uniform", prune_step=prune_step, maskable=maskable, structure=structure
    )
    return dataclasses.replace(method, name="asp")


@catalogued("STE", "structured", "zhou2021", cost="dense_weights", needs=("forward_params",), distribution="uniform")
def ste(*, n: int | None = None, m: int | None = None, **common: Any) -> Method:
    """Shows the n largest of every m weights to the forward pass; its gradient trains all of them: STE.

    With ``sparsity`` in the place of n and m it shows the largest weights of each layer: unstructured straight-through
    training.

    Args:
      n: active weights in every group; 2 if ``sparsity`` is omitted too.
      m: size of a group; 4 if ``sparsity`` is omitted too.
      **common: as in :func:`dstjax.method.common_fields`; distribution='uniform'. With n and m: ``maskable`` alone.

    Reference: Zhou et al., "Learning N:M fine-grained structured sparse neural networks from scratch", ICLR 2021,
    Eq. 3.
    """
    return _refined("ste", n, m, 0.0, common)


@catalogued("SR-STE", "structured", "zhou2021", cost="dense_weights", needs=("forward_params",), distribution="uniform")
def sr_ste(*, n: int | None = None, m: int | None = None, decay: float = 2e-4, **common: Any) -> Method:
    """Adds to STE a decay of the weights that the mask leaves out, so that the masks settle: SR-STE.

    The optimiser sees dL/d(w * m) + decay * (1 - m) * w.

    Args:
      n: as in :func:`ste`.
      m: as in :func:`ste`.
      decay: lambda_W.
      **common: as in :func:`ste`.

    Reference: Zhou et al., "Learning N:M fine-grained structured sparse neural networks from scratch", ICLR 2021,
    Eq. 7.
    """
    check_number("decay", decay, "a number >= 0", lambda v: 0 <= v < float("inf"))
    return _refined("sr_ste", n, m, decay, common)


def _refined(name: str, n: int | None, m: int | None, decay: float, common: dict[str, Any]) -> Method:
    if common.get("sparsity") is None:
        n, m = 2 if n is None else n, 4 if m is None else m
        structure = structures.n_m(n, m)
        common |= {"sparsity": 1 - n / m, "structure": structure}
    elif n is not None or m is not None:
        raise ValueError(
            f"n={n} and m={m} are not accepted by {name!r} with sparsity={common['sparsity']}, which they tell; give "
            "one or the other."
        )
    masking, every_step = common_fields(**common)
    return Method(
        name,
        masking,
        Start(by="magnitude"),
        Updates(every_step, budgets.none, budgets.to_target, grow_score=criteria.magnitude, order="step_then_update"),
        seen=Seen(gradient=bind(_decay_outside, decay) if decay else None, view=views.masked),
    )


def _decay_outside(decay: float, leaf: Leaf) -> jax.Array:
    """Returns dL/d(w * m) + decay * (1 - m) * w."""
    return leaf.gradient + decay * jnp.where(leaf.mask, 0, leaf.weight)


@catalogued(
    "SRigL",
    "structured",
    "lasby2024",
    cost="dense_gradient_at_updates",
    without={"structure": "which has its own; use rigl(structure=...)"},
)
def srigl(*, ablation: float = 0.3, **shared: Any) -> Method:
    """Runs RigL with equally many inputs for every neuron, and switches off neurons that few weights reach: SRigL.

    The authors ablate no neuron of the last layer. A tree does not say which leaf that is: leave it dense with
    ``maskable``, or set ``ablation=0``, which ablates only neurons without any salient weight.

    Args:
      ablation: a neuron with fewer salient weights than this share of the fan-in is switched off; see
        :class:`dstjax.structures.FanIn`.
      **shared: as in :func:`dstjax.method.rewiring`; drop='magnitude', grow='gradient', drop_fraction=0.3.

    Reference: Lasby et al., "Dynamic sparse training with structured sparsity", ICLR 2024. The authors may average the
    gradient over several batches; here it is that of the batch.
    """
    return rewiring("srigl", structure=structures.fan_in(ablation), **shared)

"""Drops and grows the same number of weights: sparse-to-sparse methods.

The hyper-parameters that are not named in a signature (``**shared``) are those of :func:`dstjax.method.rewiring`.
Papers leave open what happens to weights that are dropped and grown in the same update. For every method here they keep
their value and moments; other grown weights start at 0 with zero moments.
"""

from typing import Any

import jax
import jax.numpy as jnp

from dstjax import budgets, criteria, distributions
from dstjax.checks import check_bool, check_number
from dstjax.masks import zero_outside
from dstjax.method import Method, refuse_map, rewiring
from dstjax.methods.catalogue import ITOP, catalogued
from dstjax.rules import Layers, Leaf, bind
from dstjax.structures import WEIGHT

__all__ = ["dst_ee", "mest", "rigl", "rigl_itop", "set"]


@catalogued(
    "SET",
    "sparse to sparse",
    "mocanu2018",
    "nowak2023",
    cost="always_sparse",
    drop="set_fraction",
    grow="random",
    drop_schedule="constant",
)
def set(*, epsilon: float | None = None, grown_std: float = 0.0, **shared: Any) -> Method:
    """Drops the weights closest to zero of each sign and grows random ones: SET.

    The original updates at the end of every epoch with a constant fraction of 0.3 and takes its densities from
    ``epsilon``. Here the number dropped is exact, and grown weights start at 0.

    Args:
      epsilon: densities by SET's rule epsilon * (n_in + n_out) / (n_in * n_out), instead of ``sparsity``.
      grown_std: grown weights start at normal values of this standard deviation; 0.1 in the authors' sparse code.
      **shared: as in :func:`dstjax.method.rewiring`; drop='set_fraction', grow='random', drop_schedule='constant'.

    Reference: Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity
    inspired by network science", Nature Communications, 2018. Equal numbers of both signs, drop='set', is the rule as
    Nowak et al., "Fantastic weights and how to find them: where to prune in dynamic sparse training", NeurIPS 2023,
    have it.
    """
    if epsilon is not None:
        if shared.get("sparsity") is not None or "distribution" in shared:
            raise ValueError(f"epsilon={epsilon} is not accepted together with sparsity or distribution; give one.")
        shared["distribution"] = distributions.epsilon(epsilon)
    check_number("grown_std", grown_std, "a number >= 0", lambda v: 0 <= v < float("inf"))
    return rewiring("set", **shared).but(new_weights=bind(_normal, grown_std) if grown_std else None)


def _normal(std: float, leaf: Leaf, grown: jax.Array) -> jax.Array:
    """Starts grown weights at normal values."""
    w = leaf.weight
    drawn = jax.random.normal(leaf.key, w.shape, w.dtype, out_sharding=jax.typeof(w).sharding)
    return jnp.where(grown, std * drawn, zero_outside(w, leaf.mask))


@catalogued("RigL", "sparse to sparse", "evci2020", "nowak2023", cost="dense_gradient_at_updates")
def rigl(*, avoid_dead: bool = False, **shared: Any) -> Method:
    """Drops the smallest weights and grows where the gradient is largest: RigL.

    A mask update takes the place of the optimiser's step (Algorithm 1); the fraction decays by a cosine to
    ``end_step``, which the paper puts at 75 % of training.

    Args:
      avoid_dead: outputs that no active weight feeds come last, see :func:`dstjax.criteria.alive_first`.
      **shared: as in :func:`dstjax.method.rewiring`; drop='magnitude', grow='gradient', drop_fraction=0.3.

    Reference: Evci et al., "Rigging the lottery: making all tickets winners", ICML 2020. The other drop criteria are
    compared by Nowak et al., "Fantastic weights and how to find them: where to prune in dynamic sparse training",
    NeurIPS 2023.
    """
    check_bool("avoid_dead", avoid_dead)
    if avoid_dead:
        shared["grow"] = criteria.alive_first(criteria.resolve("grow", shared.get("grow", "gradient")))
    return rewiring("rigl", **shared)


@catalogued(
    "RigL-ITOP", "sparse to sparse", "liu2021itop", cost="dense_gradient_at_updates", update_period=4000, **ITOP
)
def rigl_itop(**shared: Any) -> Method:
    """Runs RigL with the settings of in-time over-parameterisation: rare, large updates to the end of training.

    Args:
      **shared: as in :func:`dstjax.method.rewiring`; update_order='step_then_update', rounding='ceil',
        drop_fraction=0.5, drop_schedule='cosine_floor' (give ``end_step`` = all steps of the run).

    Reference: Liu et al., "Do we actually need dense over-parameterization? In-time over-parameterization in sparse
    training", ICML 2021. The number dropped is exact here; the authors' code drops all ties at the threshold.
    """
    return rewiring("rigl_itop", **shared)


def _with_surplus(n_kept: budgets.NKept, last: int, layers: Layers, kept: jax.Array) -> jax.Array:
    """Grows the drop fraction on top of the target, but not in the last update."""
    surplus = layers.target - n_kept(layers._replace(active=layers.target))
    return layers.target - kept + jnp.where(layers.update_index < last, surplus, 0)


@catalogued("MEST", "sparse to sparse", "yuan2021", cost="soft_memory_bound", drop="mest", grow="random")
def mest(*, lambda_: float = 1.0, soft_bound: bool = False, **shared: Any) -> Method:
    """Drops the smallest abs(w) + lambda * abs(g) and grows random weights: MEST.

    With the hard memory bound (elastic mutation, EM) the drop fraction is dropped and grown again. With the soft bound
    (EM&S) each update prunes to the target and then grows the drop fraction on top of it, so that between updates the
    network is denser than asked for; the last update only prunes. The paper keeps the fraction constant in stages and
    halves it for the last of them: drop_schedule='stages'.

    Args:
      lambda_: weight of the gradient. The paper gives no value, its released code amounts to 0.
      soft_bound: EM&S instead of EM; ``end_step`` is then required.
      scope: 'global' drops in one ranking over all leaves and grows at random over all of them, so that weights move
        between leaves: the non-uniform form. The number of active weights of the network is kept.
      **shared: as in :func:`dstjax.method.rewiring`; drop='mest' is the score above, grow='random'.

    Reference: Yuan et al., "MEST: accurate and fast memory-economic sparse training framework on the edge", NeurIPS
    2021.
    """
    check_bool("soft_bound", soft_bound)
    if shared["drop"] == "mest":
        shared["drop"] = criteria.mest(lambda_)
    elif lambda_ != 1.0:
        raise ValueError(f"lambda_={lambda_} is not accepted together with drop={shared['drop']!r}; give one.")
    method = rewiring("mest", **shared)
    pooled, masking = method.moving.scope == "global", method.masking
    assert masking is not None  # it drops and grows
    refuse_map("mest", masking, method.moving.scope)
    # Units of several weights round the number of each layer down.
    kept = "total" if masking.structure == WEIGHT else "free"
    if not soft_bound:
        return method.but(promises=kept, n_grown=budgets.Pooled(budgets.to_target)) if pooled else method
    updates = method.moving.schedule.count
    if updates is None:
        raise ValueError("end_step=None is not accepted with soft_bound=True, where the last update prunes.")
    surplus: budgets.NGrown = bind(_with_surplus, method.moving.n_kept, updates - 1)
    promises, grown = (kept, budgets.Pooled(surplus)) if pooled else ("reached", surplus)
    return method.but(promises=promises, n_kept=budgets.target, n_grown=grown)


@catalogued(
    "DST-EE",
    "sparse to sparse",
    "huang2023",
    cost="dense_gradient_at_updates",
    without={"grow": "a growth rule itself; use rigl(grow=...)"},
    drop_fraction=0.5,
)
def dst_ee(
    *,
    coefficient: float | None = None,
    epsilon: float = 1.0,
    signed: bool = False,
    scale: str = "absolute",
    **shared: Any,
) -> Method:
    """Grows by exploitation (the gradient) plus exploration (weights seldom active before): DST-EE.

    The score of an inactive weight at step t is abs(g) + coefficient * ln(t) / (N + epsilon), where N counts in how
    many mask rounds it has been active: N starts as the initial mask, and each update adds the new one.

    Args:
      coefficient: c; 0 is RigL. The paper prints no value; the useful range depends on the scale of the gradients.
      epsilon: the paper prints no value; 1.0 is that of the authors' code.
      signed: score abs(g + bonus) as in Algorithm 1 and the authors' code, where Eq. 1 has abs(g) + bonus.
      scale: 'gradient' gives c the unit of each layer's gradient, its root mean square; c is 0.3 then by default, and
        1e-3 with 'absolute', the paper's. See :func:`dstjax.criteria.dst_ee`.
      **shared: as in :func:`dstjax.method.rewiring`; drop='magnitude', drop_fraction=0.5 as in the authors' code.

    Reference: Huang et al., "Dynamic sparse training via balancing the exploration-exploitation trade-off", DAC 2023,
    Eq. 1 and Algorithm 1.
    """
    grow = criteria.dst_ee(coefficient, epsilon, signed=signed, scale=scale)
    return rewiring("dst_ee", **{"grow": grow, "counters": True, **shared})

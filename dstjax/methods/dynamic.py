"""Sparse-to-sparse methods: as many weights are grown as are dropped.

The hyper-parameters that are not named in a signature (``**shared``) are those of :func:`dstjax.method.rewiring`.
Decisions that the papers leave open, for every method here: the weights dropped in an update may be grown in the same
update, and then keep their value and moments; other grown weights start at 0 with zero moments.
"""

from typing import Any

from dstjax import criteria, distributions
from dstjax.criteria import reads_counter
from dstjax.method import Method, catalogued, rewiring


@catalogued(drop="set_fraction", grow="random", drop_schedule="constant")
def set(*, epsilon: float | None = None, **shared: Any) -> Method:
    """SET: drops the weights closest to zero of each sign and grows random ones.

    The original updates at the end of every epoch with a constant fraction of 0.3 and takes its densities from
    ``epsilon``. Here the number dropped is exact, and grown weights start at 0.

    Args:
      epsilon: densities by SET's rule epsilon * (n_in + n_out) / (n_in * n_out), instead of ``sparsity``.
      **shared: as in :func:`dstjax.method.rewiring`; drop='set_fraction', grow='random', drop_schedule='constant'.

    Reference: Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity
    inspired by network science", Nature Communications, 2018.
    """
    if epsilon is not None:
        if shared.get("sparsity") is not None or "distribution" in shared:
            raise ValueError(f"epsilon={epsilon} is not accepted together with sparsity or distribution; give one.")
        shared["distribution"] = distributions.epsilon(epsilon)
    return rewiring("set", **shared)


@catalogued()
def rigl(**shared: Any) -> Method:
    """RigL: drops the smallest weights and grows where the gradient is largest.

    A mask update takes the place of the optimiser's step (Algorithm 1); the fraction decays by a cosine to
    ``end_step``, which the paper puts at 75 % of training.

    Args:
      **shared: as in :func:`dstjax.method.rewiring`; drop='magnitude', grow='gradient', drop_fraction=0.3.

    Reference: Evci et al., "Rigging the lottery: making all tickets winners", ICML 2020.
    """
    return rewiring("rigl", **shared)


@catalogued(
    update_period=4000,
    drop_fraction=0.5,
    drop_schedule="cosine_floor",
    rounding="ceil",
    update_order="step_then_update",
)
def rigl_itop(**shared: Any) -> Method:
    """RigL with the settings of in-time over-parameterisation: rare, large updates to the end of training.

    Args:
      **shared: as in :func:`dstjax.method.rewiring`; update_order='step_then_update', rounding='ceil',
        drop_fraction=0.5, drop_schedule='cosine_floor' (give ``end_step`` = all steps of the run).

    Reference: Liu et al., "Do we actually need dense over-parameterization? In-time over-parameterization in sparse
    training", ICML 2021. The number dropped is exact here; the authors' code drops all ties at the threshold.
    """
    return rewiring("rigl_itop", **shared)


@catalogued(drop="mest", grow="random")
def mest(*, lambda_: float = 1.0, **shared: Any) -> Method:
    """MEST's score: drops the smallest abs(w) + lambda * abs(g) and grows random weights.

    The elastic mutation of the paper (a sparsity that moves in stages) is not part of it; the fraction decays instead.

    Args:
      lambda_: weight of the gradient. The paper gives no value, its released code amounts to 0.
      **shared: as in :func:`dstjax.method.rewiring`; drop='mest' is the score above, grow='random'.

    Reference: Yuan et al., "MEST: accurate and fast memory-economic sparse training framework on the edge", 2021.
    """
    if shared["drop"] == "mest":
        shared = {"counters": reads_counter("grow", shared["grow"]), **shared, "drop": criteria.mest(lambda_)}
    elif lambda_ != 1.0:
        raise ValueError(f"lambda_={lambda_} is not accepted together with drop={shared['drop']!r}; give one.")
    return rewiring("mest", **shared)


@catalogued(drop_fraction=0.5)
def dst_ee(*, coefficient: float = 1e-3, epsilon: float = 1.0, signed: bool = False, **shared: Any) -> Method:
    """DST-EE: grows by exploitation (the gradient) plus exploration (weights seldom active before).

    The score of an inactive weight at step t is abs(g) + coefficient * ln(t) / (N + epsilon), where N counts in how
    many mask rounds it has been active: N starts as the initial mask, and each update adds the new one.

    Args:
      coefficient: c; 0 is RigL. The paper prints no value; the useful range depends on the scale of the gradients.
      epsilon: the paper prints no value; 1.0 is that of the authors' code.
      signed: score abs(g + bonus) as in Algorithm 1 and the authors' code, where Eq. 1 has abs(g) + bonus.
      **shared: as in :func:`dstjax.method.rewiring`; drop='magnitude', drop_fraction=0.5 as in the authors' code.

    Reference: "Dynamic sparse training via balancing the exploration-exploitation trade-off" (DST-EE), Eq. 1 and
    Algorithm 1.
    """
    if "grow" in shared:
        raise ValueError(
            f"grow={shared['grow']!r} is not accepted by 'dst_ee', a growth rule itself; use rigl(grow=...)."
        )
    if not isinstance(signed, bool):
        raise ValueError(f"signed={signed!r} is not accepted; expected True or False.")
    grow = criteria.dst_ee(coefficient, epsilon, signed=signed)
    return rewiring("dst_ee", **{"grow": grow, "counters": True, **shared})

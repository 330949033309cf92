"""Never changes the topology: pruning at initialisation, and the dense baseline.

The methods that need data or the network (``initial_masks=``) rank all leaves together, as in their papers. A
``distribution`` that is given ('uniform', 'erk', ...) says the count of each layer, and they rank within it.
"""

from typing import Any

from dstjax.method import Method, Start, fixed
from dstjax.methods.catalogue import catalogued

__all__ = ["dense", "force", "grasp", "iterative_snip", "magnitude", "snip", "static", "synflow"]


@catalogued("dense", "baseline", "rumelhart1986", cost="always_dense")
def dense() -> Method:
    """Masks nothing: the inner optimiser works as without dstjax.

    Reference: Rumelhart et al., "Learning representations by back-propagating errors", Nature, 1986.
    """
    return Method("dense")


@catalogued("static", "pruned at initialisation", "liu2022", cost="always_sparse")
def static(**common: Any) -> Method:
    """Draws a random mask at init, which never changes.

    The initial mask has the exact count of each layer; ``sparsify(..., initial_masks=)`` and :func:`dstjax.set_masks`
    put in one of your own.

    Raises:
      ValueError: a hyper-parameter is out of range, of a wrong type or contradictory.

    Reference: Liu et al., "The unreasonable effectiveness of random pruning: return of the most naive baseline for
    sparse training", ICLR 2022.
    """
    return fixed("static", **common)


@catalogued("Magnitude", "pruned at initialisation", "han2015", cost="always_sparse")
def magnitude(**common: Any) -> Method:
    """Keeps the largest weights at initialisation of each layer; :func:`dstjax.initial_masks.magnitude` ranks globally.

    Reference: Han et al., "Learning both weights and connections for efficient neural networks", NeurIPS 2015, for
    the score.
    """
    return fixed("magnitude", start=Start(by="magnitude"), **common)


@catalogued(
    "SNIP", "pruned at initialisation", "lee2019", cost="always_sparse", needs=("initial_masks=",), distribution=None
)
def snip(**common: Any) -> Method:
    """Keeps the weights with the largest abs(w * g) at initialisation, from :func:`dstjax.initial_masks.snip`.

    Reference: Lee et al., "SNIP: single-shot network pruning based on connection sensitivity", ICLR 2019.
    """
    return _pruned_first("snip", common)


@catalogued(
    "GraSP", "pruned at initialisation", "wang2020", cost="always_sparse", needs=("initial_masks=",), distribution=None
)
def grasp(**common: Any) -> Method:
    """Keeps the weights that carry the gradient flow at initialisation, from :func:`dstjax.initial_masks.grasp`.

    Reference: Wang et al., "Picking winning tickets before training by preserving gradient flow", ICLR 2020.
    """
    return _pruned_first("grasp", common)


@catalogued(
    "SynFlow",
    "pruned at initialisation",
    "tanaka2020",
    cost="always_sparse",
    needs=("initial_masks=",),
    distribution=None,
)
def synflow(**common: Any) -> Method:
    """Keeps the weights that carry the synaptic flow, which :func:`dstjax.initial_masks.synflow` finds without data.

    Reference: Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow",
    NeurIPS 2020.
    """
    return _pruned_first("synflow", common)


@catalogued(
    "Iterative SNIP",
    "pruned at initialisation",
    "dejorge2021",
    cost="always_sparse",
    needs=("initial_masks=",),
    distribution=None,
)
def iterative_snip(**common: Any) -> Method:
    """Prunes by SNIP in several rounds, from :func:`dstjax.initial_masks.iterative_snip`.

    Reference: de Jorge et al., "Progressive skeletonization: trimming more fat from a network at initialization",
    ICLR 2021.
    """
    return _pruned_first("iterative_snip", common)


@catalogued(
    "FORCE",
    "pruned at initialisation",
    "dejorge2021",
    cost="always_sparse",
    needs=("initial_masks=",),
    distribution=None,
)
def force(**common: Any) -> Method:
    """Prunes by SNIP in several rounds in which weights may come back, from :func:`dstjax.initial_masks.force`.

    Reference: de Jorge et al., "Progressive skeletonization: trimming more fat from a network at initialization",
    ICLR 2021.
    """
    return _pruned_first("force", common)


def _pruned_first(name: str, common: dict[str, Any]) -> Method:
    if common["distribution"] is None:
        del common["distribution"]
        return fixed(name, start=Start(pruner=name), promises="total", **common)
    return fixed(name, start=Start(pruner=name, scope="layer"), **common)

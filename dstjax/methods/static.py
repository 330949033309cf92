"""Methods whose topology never changes."""

from typing import Any

from dstjax.method import Method, catalogued, fixed


@catalogued()
def dense() -> Method:
    """The dense baseline: nothing is masked, the inner optimiser works as without dstjax."""
    return Method("dense", masked=False)


@catalogued()
def static(*, sparsity: float | None, distribution: Any = "erk", maskable: Any = None) -> Method:
    """A random mask that is drawn at init and never changes.

    The initial mask has the exact count of each layer; :func:`dstjax.set_masks` puts in one of your own.

    Raises:
      ValueError: a hyper-parameter is out of range, of a wrong type or contradictory.
    """
    return fixed("static", sparsity=sparsity, distribution=distribution, maskable=maskable)

"""Products that read the active weights alone, and programs rewritten to use them: ``dstjax.kernels``.

:func:`rewrite` does it for any program; the products by themselves are

=========================  ===========================================================================
:func:`block_product`      equally many dense blocks for each column, gathered and multiplied
:func:`pallas_product`     the same as a kernel for a TPU or a GPU
:func:`fan_in_product`     single weights, the same number for each output, one input after the other
:func:`n_m_product`        n of every m inputs, written out and multiplied
:func:`csr_product`        single weights, by scipy on a CPU; no derivative
=========================  ===========================================================================

The first three have derivatives that hold active weights alone. ``docs/faster.md`` says when each pays.
"""

from typing import Any

from dstjax.program.kernels.blocks import block_product, fan_in_product, n_m_product
from dstjax.program.kernels.csr import csr_product
from dstjax.program.kernels.rewrite import Rewriting, rewrite
from dstjax.program.kernels.rewritten import Rewritten

__all__ = [
    "Rewriting",
    "Rewritten",
    "block_product",
    "csr_product",
    "fan_in_product",
    "n_m_product",
    "pallas_product",
    "rewrite",
]


def __getattr__(name: str) -> Any:
    if name == "pallas_product":  # Pallas takes a while to load
        from dstjax.program.kernels.pallas import pallas_product

        return pallas_product
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

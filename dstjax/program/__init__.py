"""Reads the program of a model: its FLOPs by leaf, and what each axis of a leaf means.

``flops`` is a module; ``layouts`` is a function, whose result ``dstjax.sparsify(..., layout=)`` takes.
"""

from dstjax.program import flops
from dstjax.program.layout_reader import Layouts, layouts

__all__ = ["Layouts", "flops", "layouts"]

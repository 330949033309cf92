"""Reads the program of a model: its FLOPs by leaf, what each axis of a leaf means, and what leads to its results.

``flops`` and ``latency`` are modules; ``layouts`` is a function, whose result ``dstjax.sparsify(..., layout=)`` takes;
``connections`` is one that finds layer collapse and dead units.
"""

from dstjax.program import flops, kernels, latency
from dstjax.program.channels import Channels, Member, channels
from dstjax.program.compaction import compact
from dstjax.program.compaction_report import Compaction
from dstjax.program.connection_reader import Connections, connections
from dstjax.program.layout_reader import Layouts, layouts

__all__ = [
    "Channels",
    "Compaction",
    "Connections",
    "Layouts",
    "Member",
    "channels",
    "compact",
    "connections",
    "flops",
    "kernels",
    "latency",
    "layouts",
]

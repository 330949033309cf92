"""dstjax: networks that are sparse from the first training step to the last, in JAX."""

import sys

from dstjax import (
    costs,
    criteria,
    distributions,
    exchange,
    initial_masks,
    masks,
    methods,
    metrics,
    program,
    schedules,
    selection,
    structures,
)
from dstjax._engine.drop_and_grow import drop_and_grow
from dstjax.loops import merge_state, split_state, vmap_axes
from dstjax.method import Method
from dstjax.program import compact, kernels, latency
from dstjax.rules import Layers, Leaf
from dstjax.starting import adopt, start
from dstjax.state import SparseState, apply_masks, check_sparse, forward_params, get_masks, is_exploring, set_masks
from dstjax.summaries import Summary, summary
from dstjax.transform import sparsify

__version__ = "0.1.0"

# Their rooms are within `program`; `import dstjax.kernels` and `from dstjax.latency import ...` find them too.
sys.modules["dstjax.kernels"], sys.modules["dstjax.latency"] = kernels, latency

__all__ = [
    "Layers",
    "Leaf",
    "Method",
    "SparseState",
    "Summary",
    "adopt",
    "apply_masks",
    "check_sparse",
    "compact",
    "costs",
    "criteria",
    "distributions",
    "drop_and_grow",
    "exchange",
    "forward_params",
    "get_masks",
    "initial_masks",
    "is_exploring",
    "kernels",
    "latency",
    "masks",
    "merge_state",
    "methods",
    "metrics",
    "program",
    "schedules",
    "selection",
    "set_masks",
    "sparsify",
    "split_state",
    "start",
    "structures",
    "summary",
    "vmap_axes",
]

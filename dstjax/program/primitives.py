"""Names the primitives of jax by what they do to an array."""

from collections.abc import Mapping
from typing import Any

ELEMENTWISE = {
    *("abs", "add", "add_any", "and", "bitcast_convert_type", "cbrt", "ceil", "clamp", "convert_element_type", "cos"),
    *("div", "erf", "exp", "exp2", "expm1", "floor", "integer_pow", "log", "log1p", "log2", "logistic", "max", "min"),
    *("mul", "neg", "not", "one_minus_square", "or", "polynomial", "pow", "reduce_precision", "rem", "round", "rsqrt"),
    *("select_n", "sign", "sin", "sqrt"),
    *("square", "sub", "tan", "tanh", "xor"),
}
POINTWISE = ELEMENTWISE | {  # all functions of each element, with those whose results are no weights
    *("acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "clz", "complex", "conj", "cosh", "digamma", "eq"),
    *("eq_to", "erf_inv", "erfc", "ge", "gt", "imag", "is_finite", "le", "le_to", "lgamma", "lt", "lt_to", "ne"),
    *("nextafter", "population_count", "real", "shift_left", "shift_right_arithmetic", "shift_right_logical", "sinh"),
}
SAME = {
    *("copy", "copy_p", "device_put", "layout_constraint", "mesh_cast", "name", "optimization_barrier", "pcast"),
    *("pvary", "relayout", "reshard", "sharding_constraint", "stop_gradient", "with_memory_space_constraint"),
}
MOVES = {
    *("all_gather", "all_gather_invariant", "all_to_all", "copy", "copy_p", "device_put", "layout_constraint"),
    *("mesh_cast", "name", "optimization_barrier", "pcast", "ppermute", "pvary", "relayout", "reshape", "reshard"),
    *("rev", "sharding_constraint", "squeeze", "transpose", "with_memory_space_constraint"),
}
CALLS = {
    *("checkpoint", "closed_call", "composite", "core_call", "custom_jvp_call", "custom_vjp_call"),
    *("custom_vjp_call_jaxpr", "custom_vmap_call", "eval_jaxpr", "jit", "pjit", "remat", "remat2", "shard_map"),
}


def scan_sizes(params: Mapping[str, Any]) -> tuple[int, int]:
    """Returns how many constants a scan has, and how many arrays it carries."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carried, _ = (len(list(part.vals)) for part in params["ft_in"].unpack())  # as jax 0.11 and newer say it
    return consts, carried

"""Names the primitives of jax by what they do to an array."""

from collections.abc import Mapping
from typing import Any

ELEMENTWISE = {  # functions of each element, of whose results a weight may be made
    *("abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh"),
    *("bitcast_convert_type", "cbrt", "ceil", "clamp", "complex", "conj", "convert_element_type", "cos", "cosh"),
    *("digamma", "div", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "imag", "integer_pow", "lgamma"),
    *("log", "log1p", "log2", "logistic", "max", "min", "mul", "neg", "nextafter", "not", "one_minus_square", "or"),
    *("polynomial", "pow", "real", "reduce_precision", "rem", "round", "rsqrt", "select_n", "sign", "sin", "sinh"),
    *("sqrt", "square", "sub", "tan", "tanh", "xor"),
}
COMPARISONS = {"eq", "eq_to", "ge", "gt", "is_finite", "le", "le_to", "lt", "lt_to", "ne"}
POINTWISE = (
    ELEMENTWISE
    | COMPARISONS
    | {  # all functions of each element
        *("clz", "population_count", "shift_left", "shift_right_arithmetic", "shift_right_logical"),
    }
)
SCALES = {"and", "clamp", "div", "mul", "rem", "round", "select_n", "sign"}  # by data: of a weight still the weight
NONLINEAR = {  # of an activation; of a weight alone they hardly are
    *("cos", "erf", "erfc", "exp", "exp2", "expm1", "log", "log1p", "logistic", "sin", "tanh"),
}
KEEP_ZEROS = {  # functions of one number that are zero at zero
    *("abs", "asin", "asinh", "atan", "atanh", "bitcast_convert_type", "cbrt", "ceil", "conj", "convert_element_type"),
    *("erf", "erf_inv", "expm1", "floor", "imag", "log1p", "neg", "real", "reduce_precision", "round", "sign", "sin"),
    *("sinh", "sqrt", "square", "tan", "tanh"),
}
SAME = {
    *("copy", "copy_p", "device_put", "layout_constraint", "mesh_cast", "name", "optimization_barrier", "pcast"),
    *("pvary", "relayout", "reshard", "sharding_constraint", "stop_gradient", "with_memory_space_constraint"),
}
MOVES = SAME | {
    *("all_gather", "all_gather_invariant", "all_to_all", "ppermute", "reshape", "rev", "squeeze", "transpose"),
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

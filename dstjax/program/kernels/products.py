"""The products that a masked leaf may be multiplied by, and which of them is fastest on the machine at hand."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax.program.kernels.blocks import block_product, fan_in_product, n_m_product
from dstjax.program.kernels.csr import DTYPES, csr_product
from dstjax.program.kernels.forms import Blocks, Form, Groups, Packed, Rows, Table, block_of, n_m_of

PRODUCTS = ("dense", "block", "pallas", "fan_in", "n_m", "csr")
_SECONDS, _ROUNDS = 0.2, 9  # that a product is timed, and how often at least


@dataclasses.dataclass(frozen=True)
class Product:
    """Says how a leaf is multiplied: by which product, held in which form."""

    name: str
    form: Packed

    def __call__(self, x: jax.Array, values: jax.Array, table: Table, precision: Any = None) -> jax.Array:
        """Returns ``x @ W`` of one layer, float[R, O], for x of float[R, I]."""
        if self.name == "csr":
            return csr_product(x, values, table["inputs"], table["starts"])
        if self.name == "pallas":
            from dstjax.program.kernels.pallas import pallas_product  # loads Pallas, which takes a while

            if jnp.iscomplexobj(x):  # of data alone, and no kernel has complex numbers
                parts = (pallas_product(part, values.real, table["blocks"], precision) for part in (x.real, x.imag))
                return jax.lax.complex(*parts)
            return pallas_product(x, values, table["blocks"], precision)
        if self.name == "fan_in":
            return fan_in_product(x, values, table["blocks"], precision)
        if isinstance(self.form, Groups):
            return n_m_product(x, values, table["blocks"], precision, n=self.form.n, m=self.form.m)
        return block_product(x, values, table["blocks"], precision)

    def __str__(self) -> str:
        """Returns the name with its numbers."""
        if isinstance(self.form, Groups):
            return f"{self.form.n}:{self.form.m}"
        if self.name in ("block", "pallas") and isinstance(self.form, Blocks):
            return f"{self.name} {self.form.h} x {self.form.w}"
        return self.name


def possible(
    form: Form, mask: np.ndarray, dtype: Any, block: tuple[int, int] | None
) -> tuple[dict[str, Product], dict[str, str]]:
    """Returns the sparse products that a mask allows, by name, and why it does not allow the others."""
    if jnp.finfo(dtype).bits < 16:
        return {}, dict.fromkeys(PRODUCTS[1:], f"there is no product of weights of {np.dtype(dtype)}")
    shape, layout = form.shape, form.layout
    matrices = form.matrices(mask)
    flat = matrices.reshape(-1, matrices.shape[-1])
    h, w = block or (int(np.gcd(block_of(flat)[0], matrices.shape[1])), block_of(flat)[1])
    found = {"fan_in": Product("fan_in", Blocks(shape, layout, 1, 1))}
    refused: dict[str, str] = {}
    if h * w == 1:
        refused |= dict.fromkeys(("block", "pallas"), "the mask has no blocks of more than one weight")
    else:
        found |= {name: Product(name, Blocks(shape, layout, h, w)) for name in ("block", "pallas")}
    group = n_m_of(matrices)
    if group is None:
        refused["n_m"] = "the mask has not n active weights in every m inputs, for m up to 16"
    else:
        found["n_m"] = Product("n_m", Groups(shape, layout, 1, 1, *group))
    if len(matrices) > 1:
        refused["csr"] = "the leaf stacks several layers"
    elif dtype not in DTYPES:
        refused["csr"] = f"scipy.sparse has no matrices of {np.dtype(dtype)}"
    else:
        found["csr"] = Product("csr", Rows(shape, layout))
    return found, refused


def candidates(possible: Mapping[str, Product], *, derivative: bool) -> dict[str, Product]:
    """Returns those worth measuring here: pallas where it is compiled, csr on a CPU and without a derivative."""
    here = jax.default_backend()
    found = dict(possible)
    if "pallas" in found and not _compiles(found["pallas"].form, here):
        del found["pallas"]
    if derivative or here != "cpu":
        found.pop("csr", None)
    return found


def _compiles(form: Form, platform: str) -> bool:
    """Returns whether the kernel of Pallas can be compiled for blocks of this form."""
    sizes = (form.h, form.w) if isinstance(form, Blocks) else ()
    if platform == "tpu":
        return all(n % 128 == 0 for n in sizes)
    return platform != "cpu" and all(n >= 16 and n & (n - 1) == 0 for n in sizes)


def race(
    products: Mapping[str, Product], weight: Any, mask: np.ndarray, rows: int, dtype: Any, *, derivative: bool
) -> dict[str, float]:
    """Returns seconds of each product and of the dense one, which all run in turn: the medians.

    Args:
      products: the sparse ones.
      weight: the leaf, zero outside its mask.
      mask: its mask, bool.
      rows: samples of a call.
      dtype: of the samples.
      derivative: whether the products of the backward pass are timed too.
    """
    form = next(iter(products.values())).form
    layers, inputs, outputs = form.size
    draw = np.random.default_rng(0)
    x, slope = (jnp.asarray(draw.standard_normal((layers, rows, n)), dtype) for n in (inputs, outputs))
    runs: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "dense": (_both(lambda x, w: jnp.matmul(x, w)) if derivative else jnp.matmul, (x, form.matrices(weight)))
    }
    for name, product in products.items():
        table = product.form.table(mask)
        values = product.form.values(weight, table)
        if name == "csr":
            runs[name] = (lambda x, v, t, p=product: p(x[0], v, t)), (x, values, table)
            continue
        many = jax.vmap(product)
        runs[name] = (_both(many) if derivative else many), (x, values, table)
    compiled = {}
    for name, (function, operands) in runs.items():
        extra = (slope,) if derivative else ()
        compiled[name] = (jax.jit(function), (*operands, *extra))
    return _timed(compiled)


def _both(product: Callable[..., Any]) -> Callable[..., Any]:
    def run(x: Any, values: Any, *rest: Any) -> Any:
        *table, slope = rest
        result, back = jax.vjp(lambda x, v: product(x, v, *table), x, values)
        return result, back(slope)

    return run


def _timed(runs: Mapping[str, tuple[Callable[..., Any], Sequence[Any]]]) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in runs}

    def once(name: str) -> float:
        function, operands = runs[name]
        start = time.perf_counter()
        jax.block_until_ready(function(*operands))
        return time.perf_counter() - start

    for name in runs:
        once(name)
    begun = time.perf_counter()
    while len(seconds["dense"]) < _ROUNDS or time.perf_counter() - begun < _SECONDS * len(runs):
        for name in runs:
            seconds[name].append(once(name))
        if time.perf_counter() - begun > 10 * _SECONDS * len(runs):  # slow ones need fewer
            break
    return {name: float(np.median(found)) for name, found in seconds.items()}

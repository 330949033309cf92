"""Makes a program multiply by the active blocks of its leaves alone; see :func:`rewrite`."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax import layouts as presets
from dstjax import masks as masks_lib
from dstjax._arrays.layout import Layout
from dstjax._arrays.leaves import named, named_masks
from dstjax._arrays.trees import Tree, is_array, is_traced, places
from dstjax.checks import check_bool, check_integer, suggest
from dstjax.program.compaction import compare, masks_like, read_layouts
from dstjax.program.kernels import products as choices
from dstjax.program.kernels.forms import Form
from dstjax.program.kernels.products import PRODUCTS, Product
from dstjax.program.kernels.rewriting import RefusedError
from dstjax.program.kernels.rewritten import Rewritten, evaluated
from dstjax.program.tracing import coarsest, trace


@dataclasses.dataclass(frozen=True)
class Rewriting:
    """Says how each masked leaf is multiplied; prints as a table."""

    chosen: dict[str, str]  # path -> name of the product, or 'dense'
    shown: dict[str, str]  # path -> the product with its numbers
    why: dict[str, str]  # path -> why a leaf stays dense
    rows: dict[str, int]  # path -> samples of the largest product with it
    seconds: dict[str, dict[str, float]]  # path -> product -> what was measured, if it was

    def __str__(self) -> str:
        """Prints the table; times are those of the dense product over those of the others."""
        width = max([len(path) for path in self.chosen] + [4])
        lines = [f"{'leaf':<{width}}  {'product':<16}  {'rows':>6}  times faster than dense"]
        for path in self.chosen:
            found = self.seconds.get(path, {})
            ratios = [f"{name} {found['dense'] / s:.3g}" for name, s in found.items() if name != "dense"]
            said = "; ".join(filter(None, [", ".join(ratios), self.why.get(path, "")]))
            rows = self.rows.get(path, "")
            lines.append(f"{path:<{width}}  {self.shown[path]:<16}  {rows:>6}  {said}".rstrip())
        return "\n".join(lines)


def rewrite(
    function: Callable[..., Any],
    params: Tree,
    masks: Tree,
    *args: Any,
    product: str | Mapping[str, str] = "auto",
    block: tuple[int, int] | None = None,
    derivative: bool = True,
    layout: Any = None,
    check: bool = True,
) -> tuple[Rewritten, Tree, Rewriting]:
    """Makes a program multiply by the active weights of its masked leaves alone, no module defined anew.

    The program is read once (its jaxpr). Each product of a masked leaf with data becomes one that reads the active
    blocks or weights, through ``jit``, ``checkpoint``, loops and branches; its derivatives do so too. A leaf that meets
    anything else stays dense, and the report says why: a convolution, a table that is looked up, a product along other
    axes than its inputs, a change of its elements.

    Args:
      function: the forward pass or a loss, ``function(params, *args)``; take the gradient of what comes back, not
        before. Bind what is no array with ``functools.partial``, once, so that compiled programs are found again.
      params: the parameters, concrete arrays, zero outside their masks or not.
      masks: the tree of masks, or the optimiser state that holds them.
      *args: an example of the other arguments, arrays or ``jax.ShapeDtypeStruct``.
      product: ``'auto'`` measures each leaf's products at the size of the example, the dense one too, and takes the
        fastest; or one of ``'block'``, ``'pallas'``, ``'fan_in'``, ``'n_m'``, ``'csr'`` for all leaves that allow it;
        or path -> product, as ``report.chosen`` says it.
      block: the inputs and outputs of a block, by default the largest that the masks have.
      derivative: whether gradients will be taken: ``'auto'`` times the backward pass too, and leaves out ``'csr'``,
        which has none.
      layout: what the axes mean, as in :func:`dstjax.sparsify`; by default as the program uses them.
      check: whether to run both on the example, if there is one, and compare.

    Returns:
      The function of packed parameters, which is a pytree; the packed parameters, a tree of arrays like ``params``;
      and a report, which prints as a table.

    Raises:
      ValueError: traced parameters; masks of another network or not whole blocks; no leaf allows the product; or
        results that differ.

    >>> params = {"w": jnp.arange(32.0).reshape(8, 4)}
    >>> masks = {"w": jnp.kron(jnp.array([[1, 0], [0, 1]]), jnp.ones((4, 2), int)) == 1}
    >>> fast, packed, report = rewrite(lambda p, x: x @ p["w"], params, masks, jnp.ones((1, 8)), product="block")
    >>> packed["w"].shape, fast(packed, jnp.ones((1, 8)))
    ((8, 2), Array([[ 24.,  28.,  96., 100.]], dtype=float32))
    """
    check_bool("derivative", derivative)
    check_bool("check", check)
    _check_product(product, params)
    _check_block(block)
    if any(is_traced(x) for x in jax.tree_util.tree_leaves(params)):
        raise ValueError("the parameters are traced; call dstjax.kernels.rewrite outside of jit, vmap and grad.")
    flags, prefix = masks_like(params, masks)
    if flags is None:
        raise ValueError(
            "masks=None is not accepted; expected a tree of masks, or the optimiser state that holds them."
        )
    params = masks_lib.apply(params, flags)
    found, treedef = [p for p in places(params)[0] if not p.is_hole], jax.tree_util.tree_structure(params)
    leaves = {p.name: p.leaf for p in found}
    masked = {n: np.asarray(m) for n, m in named_masks(flags).items()}
    known = read_layouts(function, params, args, leaves) if layout is None else presets.read(layout, leaves)
    why: dict[str, str] = {}
    options: dict[str, dict[str, Product]] = {}
    refused: dict[str, dict[str, str]] = {}
    for name, mask in masked.items():
        found_layout = known.get(name)
        said = _no_matrix(leaves[name], found_layout)
        if said or not isinstance(found_layout, Layout):
            why[name] = said
            continue
        form = Form(tuple(leaves[name].shape), found_layout)
        able, refused[name] = choices.possible(form, mask, leaves[name].dtype, block)
        if able:
            options[name] = able
        else:
            why[name] = next(iter(refused[name].values()))
    places_of = tuple((p.name, p.path, tuple(np.shape(p.leaf))) for p in found)

    def made(products: Mapping[str, Product]) -> Rewritten:
        tables = {name: p.form.table(masked[name]) for name, p in products.items()}
        return Rewritten(tables, function, treedef, places_of, tuple(products.items()), prefix)

    rows = _uses(made, params, args, {n: next(iter(p.values())) for n, p in options.items()}, why)
    chosen: dict[str, Product] = {}
    seconds: dict[str, dict[str, float]] = {}
    for name in [n for n in options if n in rows]:
        wanted = product if isinstance(product, str) else product.get(name, "dense")
        if wanted == "auto":
            able = choices.candidates(options[name], derivative=derivative)
            times = choices.race(
                able, leaves[name], masked[name], rows[name], leaves[name].dtype, derivative=derivative
            )
            seconds[name], wanted = times, min(times, key=lambda n: times[n])
        if wanted in options[name]:
            chosen[name] = options[name][wanted]
        else:
            why[name] = "the dense product" if wanted == "dense" else refused[name][wanted]
            if wanted == "dense":
                why[name] += " is the fastest here" if name in seconds else " is asked for"
    if not chosen and isinstance(product, str) and product != "auto":
        raise ValueError(
            f"product={product!r} fits no masked leaf: {'; '.join(f'{n} {w}' for n, w in why.items()) or 'none is'}."
        )
    rewritten = made(chosen)
    packed = rewritten.pack(params)
    if check and not any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree_util.tree_leaves(args)):
        closed, _ = trace(function, params, args)
        compare(jax.jit(function)(params, *args), rewritten(packed, *args), coarsest(closed.jaxpr))
    names = {n: chosen[n].name if n in chosen else "dense" for n in masked}
    shown = {n: str(chosen[n]) if n in chosen else "dense" for n in masked}
    return rewritten, packed, Rewriting(names, shown, why, rows, seconds)


def _uses(made: Any, params: Tree, args: Any, products: dict[str, Product], why: dict[str, str]) -> dict[str, int]:
    """Returns how many rows meet each leaf that the program allows to be held; says of the others why it does not."""
    products = dict(products)
    while True:
        rows: dict[str, int] = defaultdict(int)

        def used(path: str, n: int, rows: dict[str, int] = rows) -> None:
            rows[path] = max(rows[path], n)

        rewritten = made(products)
        try:
            packed = jax.eval_shape(rewritten.pack, params)
            jax.eval_shape(lambda p, *a: evaluated(rewritten, p, a, used), packed, *args)  # noqa: B023
        except RefusedError as found:
            why[found.path] = found.why
            del products[found.path]
            continue
        why.update({n: "is used in no product" for n in products if n not in rows})
        return dict(rows)


def _no_matrix(leaf: Any, layout: Any) -> str:
    """Says why a leaf is no matrix that data are multiplied by; empty where it is one."""
    if not isinstance(layout, Layout):
        return "has axes whose meaning is not known; give layout="
    if layout.windows:
        return "is the kernel of a convolution"
    if layout.is_table or not (layout.inputs and layout.outputs):
        return "is a table that is looked up" if layout.is_table else "has no inputs and outputs"
    return "" if is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating) else "holds no real numbers"


def _check_block(block: Any) -> None:
    if block is None:
        return
    if not isinstance(block, tuple | list) or len(block) != 2:
        raise ValueError(f"block={block!r} is not accepted; expected the inputs and outputs of a block, as (32, 32).")
    for size in block:
        check_integer("block", size, 1)


def _check_product(product: Any, params: Tree) -> None:
    accepted = ("auto", *PRODUCTS[1:])
    if isinstance(product, str):
        if product not in accepted:
            raise ValueError(f"product={product!r} is not accepted; expected one of {', '.join(accepted)}.")
        return
    if not isinstance(product, Mapping):
        raise ValueError(f"product={product!r} is not accepted; expected a name, or path -> name.")
    leaves = named(params)
    for path, name in product.items():
        if path not in leaves:
            raise ValueError(f"product: {path!r} is no leaf; {suggest(path, leaves)}")
        if name not in PRODUCTS:
            raise ValueError(f"product[{path!r}]={name!r} is not accepted; expected one of {', '.join(PRODUCTS)}.")

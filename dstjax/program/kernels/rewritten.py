"""A function of packed parameters, and what takes parameters and states to it and back."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dstjax import masks as masks_lib
from dstjax._arrays.leaves import named, named_masks
from dstjax._arrays.trees import Path, Tree, is_absent, places
from dstjax._engine.states import is_state
from dstjax.program.compaction import masks_like
from dstjax.program.cuts import changed, mapped, owner, refuse_other
from dstjax.program.kernels.forms import Packed, Table
from dstjax.program.kernels.products import Product
from dstjax.program.kernels.rewriting import Held, Rewriter
from dstjax.program.tracing import trace


@dataclasses.dataclass(frozen=True, eq=False)
class Rewritten:
    """A function of packed parameters; a pytree, so that it can be an argument of a compiled step.

    Where the masks have changed, :meth:`moved` gives one for the new masks. Of balanced masks it has the same shapes,
    so that nothing is compiled again.
    """

    tables: dict[str, Table]  # by the name of the leaf: where its active entries are
    function: Callable[..., Any]
    treedef: Any
    leaves: tuple[tuple[str, Path, tuple[int, ...]], ...]  # name, path and full shape of each leaf
    products: tuple[tuple[str, Product], ...]
    prefix: int  # how many keys of a path the masks and the optimiser do not have

    def __call__(self, packed: Tree, *args: Any) -> Any:
        """Returns what the function does, of packed parameters.

        Raises:
          ValueError: they are not the packed parameters of this function.
        """
        self._check(packed)
        return _run(self, packed, *args)

    def pack(self, params: Tree) -> Tree:
        """Returns parameters, or gradients, with the active entries alone of the leaves that were rewritten.

        A packed leaf has as many axes as the leaf; products read it as :attr:`tables` says.

        Raises:
          ValueError: another tree, or leaves of other shapes, such as packed ones.
        """
        self._check(params, packed=False)
        return self._map(params, lambda form, x, table: form.pack(x, table))

    def unpack(self, packed: Tree) -> Tree:
        """Undoes :meth:`pack`, exactly: zero where nothing is active.

        Raises:
          ValueError: another tree, or leaves of other shapes, such as full ones.
        """
        self._check(packed)
        return self._map(packed, lambda form, x, table: form.unpack(x, table))

    def pack_state(self, opt_state: Tree) -> Tree:
        """Returns the state of an optimiser for packed parameters.

        Moments, masks and counters are found by structure: arrays whose path ends with that of a leaf that was
        rewritten, and that have its shape. All else stays, so that training goes on with the same optimiser, between
        mask updates: ``tx.update(gradients, opt_state, packed, rewire=False)``.

        Raises:
          ValueError: an array that has an axis of such a leaf in another way, as the sums of rows that adafactor keeps;
            or a method that needs weights or gradients outside its masks between mask updates.
        """
        if self.products:
            _refuse_dense(opt_state)
        forms = self._by_path()
        shapes = {path: form.shape for path, (form, _) in forms.items()}
        lost = {path: {n for n in shape if n > 1} for path, shape in shapes.items()}

        def one(path: Path, x: Any) -> Any:
            at = owner(path, x, shapes)
            if at is None:
                refuse_other(path, x, shapes, lost)
                return x
            form, table = forms[at]
            return changed(x, shapes[at], lambda y: form.pack(y, table))

        return mapped(one, opt_state)

    def unpack_state(self, packed_state: Tree, like: Tree) -> Tree:
        """Undoes :meth:`pack_state`; ``like`` is the state that was packed, which has what is not active."""
        forms = self._by_path()
        full = {path: form.shape for path, (form, _) in forms.items()}
        held = {path: form.stored_shape(table) for path, (form, table) in forms.items()}
        before = {p.path: p.leaf for p in places(like)[0] if not p.is_hole}

        def one(path: Path, x: Any) -> Any:
            at, old = owner(path, x, held), before.get(path)
            if at is None or old is None or owner(path, old, full) != at:
                return x
            form, table = forms[at]
            new = masks_lib.unpack(x) if tuple(x.shape) != held[at] else x
            active = form.unpack(jnp.ones(held[at], bool), table)
            return changed(old, full[at], lambda y: jnp.where(active, form.unpack(new, table), y))

        return mapped(one, packed_state)

    def moved(self, masks: Tree) -> "Rewritten":
        """Returns the function for other masks, such as those after a mask update.

        Args:
          masks: a tree of masks, or the optimiser state that holds them, in full.

        Raises:
          ValueError: masks of another network, or not of the blocks of these products.
        """
        like = self.treedef.unflatten([jax.ShapeDtypeStruct(shape, np.float32) for *_, shape in self.leaves])
        flags, _ = masks_like(like, masks)
        found = {} if flags is None else named_masks(flags)
        if lost := [name for name, _ in self.products if name not in found]:
            raise ValueError(
                f"there are no masks of {', '.join(lost)}, which this function multiplies by their active entries; "
                "expected masks, or an optimiser state, of the same leaves."
            )
        tables = {name: product.form.table(np.asarray(found[name])) for name, product in self.products}
        return dataclasses.replace(self, tables=tables)

    def _map(self, tree: Tree, change: Callable[[Packed, Any, Table], Any]) -> Tree:
        found, treedef = places(tree)
        chosen = dict(self.products)
        nodes = []
        for p in found:
            product = None if p.is_hole else chosen.get(p.name)
            nodes.append(p.node if product is None else p.holding(change(product.form, p.leaf, self.tables[p.name])))
        return treedef.unflatten(nodes)

    def _by_path(self) -> dict[Path, tuple[Packed, Table]]:
        chosen = dict(self.products)
        found = {path: (chosen[name].form, self.tables[name]) for name, path, _ in self.leaves if name in chosen}
        return found | {path[self.prefix :]: x for path, x in found.items() if self.prefix}

    def _check(self, params: Tree, *, packed: bool = True) -> None:
        chosen = dict(self.products) if packed else {}
        given = {name: tuple(np.shape(x)) for name, x in named(params).items()}
        what, made = ("packed parameters", "as pack() of") if packed else ("parameters", "as unpack() of")
        for name, _, shape in self.leaves:
            want = chosen[name].form.stored_shape(self.tables[name]) if name in chosen else shape
            if given.pop(name, None) != want:
                has = {n: tuple(np.shape(x)) for n, x in named(params).items()}.get(name)
                raise ValueError(
                    f"leaf {name!r} of the {what} has shape {has}; expected {want}, {made} this function gives it."
                )
        if given:
            raise ValueError(f"the {what} have leaves that this function has not: {', '.join(given)}.")


jax.tree_util.register_dataclass(
    Rewritten, data_fields=["tables"], meta_fields=["function", "treedef", "leaves", "products", "prefix"]
)


def _refuse_dense(opt_state: Tree) -> None:
    """Refuses a method that goes on with what is not active: dense weights, or a memory of gradients or signs."""
    states = (x for x in jax.tree_util.tree_leaves(opt_state, is_leaf=is_state) if is_state(x))
    for state in states:
        if not is_absent(state.view):
            why = "keeps dense weights behind its masks, which are trained too"
        elif not is_absent(state.memory) and not is_absent(state.memory.leaves):
            why = "remembers something of each weight, active or not, and may change it at every step"
        else:
            continue
        name = next((fact for fact in state.promise if fact.startswith("method=")), "the method")
        raise ValueError(
            f"{name} {why}; expected one that needs what is not active at its mask updates alone. Train this one with "
            "its full parameters, and rewrite the network that comes out."
        )


@jax.jit
def _run(rewritten: Rewritten, packed: Tree, *args: Any) -> Any:
    return evaluated(rewritten, packed, args, lambda path, rows: None)


def evaluated(rewritten: Rewritten, packed: Tree, args: Any, used: Callable[[str, int], None]) -> Any:
    """Returns what a rewritten function does; ``used`` gets each leaf that is multiplied, and by how many rows."""
    chosen, given = dict(rewritten.products), jax.tree_util.tree_leaves(packed)
    full = [jax.ShapeDtypeStruct(shape, x.dtype) for (*_, shape), x in zip(rewritten.leaves, given, strict=True)]
    closed, structure = trace(rewritten.function, rewritten.treedef.unflatten(full), args)
    inputs: list[Any] = []
    for (name, _, shape), x in zip(rewritten.leaves, given, strict=True):
        if name not in chosen:
            inputs.append(x)
            continue
        product, table = chosen[name], rewritten.tables[name]
        values, stacked = product.form.loaded(x, table), bool(product.form.layout.stack)
        if not stacked and product.name != "csr":
            values, table = values[0], {key: t[0] for key, t in table.items()}
        groups = tuple((a,) for a in range(len(shape)))
        inputs.append(Held(name, product, values, table, groups, stacked))
    found = Rewriter(used).run(closed.jaxpr, closed.consts, [*inputs, *jax.tree_util.tree_leaves(args)])
    return structure.unflatten(found)

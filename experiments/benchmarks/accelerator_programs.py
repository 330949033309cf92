"""What is compiled for an accelerator, in groups.

* ``network``: the step of a dense optimiser; of every method the mask update, the step between updates and the step
  with the branch inside; on one chip the updates of three once more, with the compiler's least effort; the start with
  RigL. ResNet-50 on one chip; on a slice one and two layers of a decoder, split along both axes.
* ``selection``: the choice of 3 % of a matrix in every dtype, and of each tensor of a network, masks as booleans.
* ``frameworks``: a whole training step in plain JAX, Linen, NNX, Equinox and Haiku.
* ``layouts``: mask updates in every layout, with structures too; on a slice alone.
* ``scaling``: dense, between and update for the other models of the scaling benchmark; on one chip for ViT-B/16, which
  is ranked in parts, with SET.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

import dstjax
from dstjax.method import Method
from dstjax.selection import top_k_mask, top_k_masks
from dstjax.structures import block, n_m
from experiments.benchmarks import collectives, contenders, frameworks, layouts, scaling, shapes
from experiments.benchmarks.selection import SHARE

GROUPS = ("network", "selection", "frameworks", "layouts", "scaling")
STEPS: dict[str, dict[str, Any]] = {"update": {"rewire": True}, "between": {"rewire": False}, "branch": {}}
QUICK = "quick"
LEAST_EFFORT = {"exec_time_optimization_effort": -1.0}
QUICK_METHODS = ("rigl", "set", "dst_ee")
PROGRAMS = (*STEPS, QUICK, "init")
DTYPES = ("float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "int32", "uint8", "bool")
IN_A_NETWORK = ("float32", "bool")
MATRIX = (4096, 4096)
DECODER = "8B"
STRUCTURES = {"rigl n_m(2, 4)": n_m(2, 4), "rigl block(4, 4)": block(4, 4)}
LAID_OUT = ("rigl", "set", "dst_ee", "srigl", *STRUCTURES)
# No update is due but where the program says so; the sparsity of what keeps two of four is given by that.
CHOSEN: dict[str, Any] = {
    "sparsity": contenders.SPARSITY,
    "update_period": contenders.NEVER,
    "end_step": 10 * contenders.NEVER,
    "prune_step": contenders.NEVER,
    "maskable": shapes.maskable,
}
TWO_OF_FOUR = ("asp", "ste", "sr_ste")
AXES = {2: "in out", 4: "window window in out"}  # of all trees here, by rank


class Program(NamedTuple):
    """One program to compile."""

    group: str
    case: dict[str, Any]  # what it is
    weights: int  # of the parameters
    lower: Callable[[Mesh], Any]  # traces it for a mesh, within ``jax.set_mesh``
    options: dict[str, Any] | None = None  # of the compiler


def programs(devices: int, methods: Sequence[str], groups: Sequence[str]) -> Iterator[Program]:
    """Those for one device, or for a power of two; what others are compared with comes first.

    Args:
      devices: how many.
      methods: names of :func:`names`; 'dense' is always there.
      groups: of GROUPS.
    """
    trees = {"resnet50": shapes.resnet50()} if devices == 1 else _decoders(DECODER)
    if "network" in groups:
        for tree, of_tree in trees.items():
            yield _step("network", {"tree": tree}, of_tree, "dense", "step")
            for name in methods:
                for step in STEPS if method(name).updates is not None else ("between",):
                    yield _step("network", {"tree": tree}, of_tree, name, step)
                if name in QUICK_METHODS and devices == 1:
                    yield _step("network", {"tree": tree}, of_tree, name, QUICK)._replace(options=LEAST_EFFORT)
            yield _start({"tree": tree}, of_tree)
    if "selection" in groups:
        yield from map(_selection, DTYPES)
        for dtype in IN_A_NETWORK if devices == 1 else ():
            yield from (_choice(dtype, tree, of_tree) for tree, of_tree in trees.items())
    if "frameworks" in groups:
        yield from map(_framework, frameworks.NETWORKS)
    if "layouts" in groups and devices > 1:
        for layout in layouts.LAYOUTS:
            for name in LAID_OUT:
                case = {"tree": "a convolution and two matrices", "layout": layout}
                yield _step("layouts", case, collectives.TREE, name, "update", layout)
    if "scaling" in groups:
        for tree, of_tree in _other_trees(devices).items():
            yield _step("scaling", {"tree": tree}, of_tree, "dense", "step")
            for step in ("between", "update"):
                yield _step("scaling", {"tree": tree}, of_tree, "rigl", step)
            if devices == 1:  # where leaves are ranked in parts
                yield _step("scaling", {"tree": tree}, of_tree, "set", "update")


def names() -> list[str]:
    """The methods of the catalogue but 'dense', and RigL with the structures that are tried."""
    return [*(n for n in dstjax.methods.names() if n != "dense"), *STRUCTURES]


def method(name: str) -> Method:
    """A method at 90 %, or with two of four weights where that is what it does."""
    if name in STRUCTURES:
        chosen = {**CHOSEN, "maskable": _in_groups, "distribution": "uniform", "structure": STRUCTURES[name]}
        name = "rigl"
    else:
        chosen = {
            **CHOSEN,
            **({"n": 2, "m": 4, "sparsity": None, "maskable": _in_groups} if name in TWO_OF_FOUR else {}),
        }
    known = dstjax.methods.hyperparameters(name)
    return dstjax.methods.get(name, **{n: x for n, x in chosen.items() if n in known and x is not None})


def _in_groups(path: str, leaf: Any) -> bool:
    """What can be cut into groups of four inputs and four outputs."""
    return shapes.maskable(path, leaf) and leaf.shape[-2] % 4 == 0 and leaf.shape[-1] % 4 == 0


def _decoders(model: str) -> dict[str, shapes.Shapes]:
    """One layer and two: what the second adds is what any layer adds."""
    return {f"{model}, {n} layer{'s' * (n > 1)}": scaling.tree(scaling.MODELS[model], n) for n in (1, 2)}


def _other_trees(devices: int) -> dict[str, shapes.Shapes]:
    """A network of many weights for one device, and the models of the scaling benchmark that need so many."""
    if devices == 1:
        return {"vit_b16": shapes.vit_b16()}
    models = [n for n, m in scaling.MODELS.items() if devices in m.devices and n != DECODER]
    return {tree: of_tree for model in models for tree, of_tree in _decoders(model).items()}


def _step(
    group: str, case: dict[str, Any], of_tree: shapes.Shapes, name: str, step: str, layout: str = scaling.LAYOUT
) -> Program:
    """An optimiser step, parameters and state donated."""
    inner = contenders.OPTIMISERS["sgd"]()

    def lower(mesh: Mesh) -> Any:
        of = None if name == "dense" else method(name)
        tx = optax.with_extra_args_support(inner)
        if of is not None:
            axes = [AXES[rank] for rank in sorted({len(shape) for shape in of_tree.values()} & AXES.keys())]
            tx = dstjax.sparsify(inner, of, initial_masks=_given(of), layout=axes)
        structs = {n: jax.ShapeDtypeStruct(shape, jnp.float32) for n, shape in of_tree.items()}
        params = layouts.placed(mesh, structs, layout)
        options = STEPS.get("update" if step == QUICK else step, {})

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def run(params: Any, state: Any, grads: Any, signals: dict[str, Any]) -> tuple[Any, Any]:
            updates, state = tx.update(grads, state, params, **options, **signals)
            return optax.apply_updates(params, updates), state

        number = jax.ShapeDtypeStruct((), jnp.float32, sharding=jax.NamedSharding(mesh, jax.P()))
        needed = () if of is None else of.needs
        signals = {n: params if n == "full_gradient" else number for n in needed}
        return run.lower(params, layouts.state_like(tx, params), params, signals)

    return Program(group, {**case, "method": name, "program": step}, shapes.weights(of_tree), lower)


def _given(of: Method) -> Any:
    """Masks for the methods that want them; their program depends on no entry of them."""
    if of.start.pruner is None or of.start.prune_step:
        return None
    return lambda params: {n: w > 0 if shapes.maskable(n, w) else None for n, w in params.items()}


def _selection(dtype: str) -> Program:
    def lower(mesh: Mesh) -> Any:
        scores = layouts.placed(mesh, {"": jax.ShapeDtypeStruct(MATRIX, dtype)}, scaling.LAYOUT)[""]
        k = jax.ShapeDtypeStruct((), jnp.int32, sharding=jax.NamedSharding(mesh, jax.P()))
        return jax.jit(top_k_mask).lower(scores, k)

    size = MATRIX[0] * MATRIX[1]
    return Program("selection", {"entries": size, "dtype": dtype, "share": SHARE}, size, lower)


def _choice(dtype: str, tree: str, of_tree: shapes.Shapes) -> Program:
    """Each tensor of a network by itself; small ones share an array."""

    def lower(mesh: Mesh) -> Any:
        scores = layouts.placed(mesh, {n: jax.ShapeDtypeStruct(s, dtype) for n, s in of_tree.items()}, scaling.LAYOUT)
        ks = jax.ShapeDtypeStruct((len(of_tree),), jnp.int32, sharding=jax.NamedSharding(mesh, jax.P()))
        return jax.jit(top_k_masks).lower(list(scores.values()), ks)

    size = shapes.weights(of_tree)
    return Program("selection", {"tree": tree, "entries": size, "dtype": dtype}, size, lower)


def _start(case: dict[str, Any], of_tree: shapes.Shapes) -> Program:
    """Draws masks and makes the state, weights as on the devices."""

    def lower(mesh: Mesh) -> Any:
        tx = dstjax.sparsify(contenders.OPTIMISERS["sgd"](), method("rigl"))
        structs = {n: jax.ShapeDtypeStruct(shape, jnp.float32) for n, shape in of_tree.items()}
        return jax.jit(tx.init).lower(layouts.placed(mesh, structs, scaling.LAYOUT))

    return Program("network", {**case, "method": "rigl", "program": "init"}, shapes.weights(of_tree), lower)


def _framework(name: str) -> Program:
    network = frameworks.NETWORKS[name]()
    tx = dstjax.sparsify(
        optax.adam(1e-3), dstjax.methods.dst_ee(sparsity=0.9, end_step=contenders.NEVER, coefficient=0.1)
    )

    def lower(mesh: Mesh) -> Any:
        everywhere = jax.NamedSharding(mesh, jax.P())

        def placed(tree: Any) -> Any:
            put = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere)  # noqa: E731
            return jax.tree_util.tree_map(put, tree)

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def run(params: Any, state: Any, inputs: jax.Array, labels: jax.Array) -> tuple[Any, Any, jax.Array]:
            def loss(params: Any) -> jax.Array:
                logits = network.apply(params, inputs)
                return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

            value, grads = jax.value_and_grad(loss)(params)
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state, value

        state = placed(jax.eval_shape(tx.init, network.params))
        return run.lower(placed(network.params), state, *placed(frameworks.batch()))

    weights = sum(x.size for x in jax.tree_util.tree_leaves(network.params))
    return Program("frameworks", {"framework": name, "method": "dst_ee", "program": "training step"}, weights, lower)

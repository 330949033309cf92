"""Products that read active weights alone, against the dense product with zeros: one layer, and a training step."""

import functools
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import dstjax
from dstjax import kernels, methods, structures
from experiments.benchmarks import records
from experiments.benchmarks.timing import Run, Settings

SPARSITIES = (0.8, 0.9, 0.95, 0.98)
BATCHES = (1, 32, 256)
GROUPS = {0.8: 4, 0.9: 8, 0.95: 16}  # one of so many inputs is the nearest n:m; nothing for 98 %
SIZE, BLOCK = 4096, 32


def run(settings: Settings) -> Iterator[records.Row]:
    with jax.default_device(settings.device):
        for sparsity in settings.pick(SPARSITIES, (0.9,)):
            yield from _layer(settings, sparsity)
        yield from _training(settings)


def multiply(params: Any, x: jax.Array) -> jax.Array:
    return x @ params["w"]


def forward(network: Any, params: Any, x: jax.Array, slope: jax.Array) -> Any:
    del slope
    return network(params, x)


def both(network: Any, params: Any, x: jax.Array, slope: jax.Array) -> Any:
    result, back = jax.vjp(network, params, x)
    return result, back(slope)


def masks_at(sparsity: float, size: int, block: int) -> dict[str, tuple[str, Any]]:
    """Contender -> the product and the mask, of random weights."""
    scores = jnp.asarray(np.random.default_rng(0).random((size, size), np.float32))
    count = round((1 - sparsity) * size * size)
    makers = {
        f"block {block}": ("block", structures.block(block, block, balanced=True)),
        "fan_in": ("fan_in", structures.fan_in(0.0)),
        "csr": ("csr", structures.WEIGHT),
    }
    if sparsity in GROUPS:
        m = GROUPS[sparsity]
        makers[f"1:{m}"] = ("n_m", structures.n_m(1, m))
    return {
        name: (product, structure.best([scores], structure_count(structure, count, size))[0])
        for name, (product, structure) in makers.items()
    }


def structure_count(structure: Any, count: int, size: int) -> list[Any]:
    return [jnp.int32(n) for n in structure.counts({"w": (size, size)}, {"w": count}).values()]


def _layer(settings: Settings, sparsity: float) -> Iterator[records.Row]:
    size, block = settings.pick((SIZE, BLOCK), (128, 8))
    weight = {"w": jnp.asarray(np.random.default_rng(1).standard_normal((size, size), np.float32))}
    masked = masks_at(sparsity, size, block)
    dense = dstjax.masks.apply(weight, {"w": masked[f"block {block}"][1]})
    shape = jax.ShapeDtypeStruct((1, size), jnp.float32)
    held = {
        name: kernels.rewrite(multiply, weight, {"w": mask}, shape, product=product, check=False)[:2]
        for name, (product, mask) in masked.items()
    }
    for batch in settings.pick(BATCHES, (2,)):
        x, slope = (jnp.asarray(np.random.default_rng(i).standard_normal((batch, size), np.float32)) for i in (2, 3))
        for what, work in (("forward", forward), ("forward and backward", both)):
            runs: dict[str, Run] = {"dense": _run(functools.partial(work, multiply), dense, x, slope)}
            for name, (fast, packed) in held.items():
                if work is forward or name == f"block {block}":
                    runs[name] = _run(work, fast, packed, x, slope)
            peer = _torch(dense["w"], x) if work is forward and settings.device.platform == "cpu" else None
            if peer is not None:
                runs["torch csr"] = peer
            times = settings.race(runs, rounds=settings.pick(11, 2), warmup=2, least=settings.pick(0.02, 0))
            case = {"what": what, "size": size, "sparsity": sparsity, "batch": batch}
            for name in runs:
                active = float(np.mean(masked[name][1])) if name in masked else 1 - sparsity
                yield records.timed(settings, "sparse_layers", {**case, "active": active}, times, name, "dense")
    if _torch(dense["w"], dense["w"][:1]) is None:
        yield records.skipped("sparse_layers", {"what": "torch csr", "sparsity": sparsity}, "PyTorch is not installed")


def _run(work: Callable[..., Any], *operands: Any) -> Run:
    return functools.partial(jax.jit(work), *operands)


def _torch(weight: jax.Array, x: jax.Array) -> Run | None:
    """The product of PyTorch with a CSR matrix, where PyTorch is installed."""
    if importlib.util.find_spec("torch") is None:
        return None
    torch = importlib.import_module("torch")
    matrix, turned = torch.tensor(np.asarray(weight).T).to_sparse_csr(), torch.tensor(np.asarray(x).T)
    return lambda: np.asarray(matrix @ turned)


def _training(settings: Settings) -> Iterator[records.Row]:
    """A step of an MLP between mask updates, parameters and moments held as blocks; and the accuracy it ends with."""
    width, block, steps = settings.pick((2048, 32, 300), (128, 8, 8))
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = jnp.asarray(images[order] / 16, jnp.float32), jnp.asarray(labels[order], jnp.int32)
    train, test = slice(0, 1200), slice(1200, None)
    arms = {
        "dense": methods.dense(),
        f"rigl, block {block}": methods.rigl(
            sparsity=0.9,
            distribution="uniform",
            update_period=max(steps // 10, 2),
            end_step=steps * 3 // 4,
            structure=structures.block(block, block, balanced=True),
            maskable=lambda path, leaf: path.startswith("hidden") and leaf.ndim == 2,
        ),
    }
    runs: dict[str, Run] = {}
    accuracy: dict[str, float] = {}
    for name, method in arms.items():
        accuracy[name], steps_of = _trained(
            method, width, block, images[train], labels[train], images[test], labels[test], steps
        )
        runs |= {name if how == "dense" else f"{name}, {how}": step for how, step in steps_of.items()}
    times = settings.race(runs, rounds=settings.pick(15, 2), warmup=2)
    case = {"what": "training step", "width": width, "sparsity": 0.9, "batch": 128, "optimiser": "adam"}
    for name in runs:
        yield records.timed(settings, "sparse_layers", case, times, name, "dense")
    for name, found in accuracy.items():
        yield records.value("sparse_layers", {**case, "arm": name}, accuracy=found, steps=steps)


def mlp(params: Any, x: jax.Array) -> jax.Array:
    for name in ("first", "hidden_1", "hidden_2"):
        x = jax.nn.relu(x @ params[name]["kernel"] + params[name]["bias"][None])
    return x @ params["last"]["kernel"] + params["last"]["bias"][None]


def _trained(
    method: Any,
    width: int,
    block: int,
    images: jax.Array,
    labels: jax.Array,
    others: jax.Array,
    answers: jax.Array,
    steps: int,
) -> tuple[float, dict[str, Run]]:
    """Test accuracy after training, blocks in the place of dense weights where there are some; and steps to time."""
    sizes = {"first": (64, width), "hidden_1": (width, width), "hidden_2": (width, width), "last": (width, 10)}
    draw = np.random.default_rng(0)
    params: Any = {
        name: {
            "kernel": jnp.asarray(draw.standard_normal(s, np.float32) * np.float32((2 / s[0]) ** 0.5)),
            "bias": jnp.zeros(s[1]),
        }
        for name, s in sizes.items()
    }
    tx = dstjax.sparsify(optax.adam(1e-3), method)
    is_sparse = method.masking is not None
    opt_state: Any
    params, opt_state = dstjax.start(tx, params)

    def step(rewire: bool, network: Any, params: Any, opt_state: Any, batch: Any) -> Any:
        def loss(p: Any) -> jax.Array:
            logits = network(p, batch[0])
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

        updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params, rewire=rewire)
        return optax.apply_updates(params, updates), opt_state

    whole = jax.jit(functools.partial(step, True, mlp), donate_argnums=(0, 1))
    between = jax.jit(functools.partial(step, False, mlp), donate_argnums=(0, 1))
    packed_step = jax.jit(functools.partial(step, False), donate_argnums=(1, 2))
    fast: Any = mlp
    if is_sparse:
        fast, params, _ = kernels.rewrite(mlp, params, opt_state, images[:128], product="block", block=(block, block))
        full_state, opt_state = opt_state, fast.pack_state(opt_state)
    for t in range(1, steps + 1):
        at = draw.integers(0, len(images), 128)
        batch = images[at], labels[at]
        if is_sparse and method.is_update_step(t):
            opt_state = fast.unpack_state(opt_state, full_state)
            dense, full_state = whole(fast.unpack(params), opt_state, batch)
            fast = fast.moved(full_state)
            params, opt_state = fast.pack(dense), fast.pack_state(full_state)
        elif is_sparse:
            params, opt_state = packed_step(fast, params, opt_state, batch)
        else:
            params, opt_state = between(params, opt_state, batch)
    accuracy = float((jnp.argmax(jax.jit(lambda p: fast(p, others))(params), axis=1) == answers).mean())
    if not is_sparse:
        return accuracy, {"dense": _again(between, params, opt_state, batch)}
    full = fast.unpack(params), fast.unpack_state(opt_state, full_state)
    return accuracy, {
        "masked": _again(between, *full, batch),
        "packed": _again(functools.partial(packed_step, fast), params, opt_state, batch),
    }


def _again(step: Callable[..., Any], params: Any, opt_state: Any, batch: Any) -> Run:
    """Takes step after step, each in the place of the last one's arrays."""
    held = [jax.tree_util.tree_map(jnp.copy, (params, opt_state))]  # others may have the same arrays, to be donated

    def run() -> Any:
        held[0] = step(*held[0], batch)
        return held[0]

    return run

"""Tries the installed wheel: its dependencies, its modules, a short training. Started from an empty folder.

python -I .ci/wheel.py
"""

import importlib.util
import pkgutil
import re
import sys
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

import dstjax

DEPENDENCIES = {"jax", "numpy", "optax"}

assert not any(Path().iterdir()), "the folder is not empty"
assert Path(dstjax.__file__).is_relative_to(sys.prefix), dstjax.__file__
assert (Path(dstjax.__file__).parent / "py.typed").exists()

required = {True: set(), False: set()}
for line in metadata.requires("dstjax") or []:
    required["extra ==" in line].add(re.match(r"[\w.\-]+", line)[0].lower())
assert required[False] == DEPENDENCIES, required[False]
# What jax and optax bring themselves is theirs.
brought = {re.match(r"[\w.\-]+", line)[0].lower() for name in DEPENDENCIES for line in metadata.requires(name) or []}
installed = {d.metadata["Name"].lower() for d in metadata.distributions()}
assert not installed & (required[True] - DEPENDENCIES - brought - {"dstjax"}), installed

for module in pkgutil.walk_packages(dstjax.__path__, "dstjax."):
    importlib.import_module(module.name)
assert importlib.util.find_spec("experiments") is None


def loss(params, x, y):
    """Squared error of a network of two layers."""
    return jnp.mean((jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"] - y) ** 2)


keys = jax.random.split(jax.random.key(0), 3)
x = jax.random.normal(keys[0], (256, 16))
y = jnp.sin(x[:, :2])
params = {
    "w1": jax.random.normal(keys[1], (16, 64)) / 4,
    "b1": jnp.zeros(64),
    "w2": jax.random.normal(keys[2], (64, 2)) / 8,
}
tx = dstjax.sparsify(optax.adam(1e-2), dstjax.methods.rigl(sparsity=0.8, update_period=10, end_step=75))
state = tx.init(params)
params = dstjax.apply_masks(params, state)


@jax.jit
def step(params, state):
    """One step of the optimiser."""
    updates, state = tx.update(jax.grad(loss)(params, x, y), state, params)
    return optax.apply_updates(params, updates), state


before, masks = loss(params, x, y), dstjax.get_masks(state)
for _ in range(100):
    params, state = step(params, state)
dstjax.check_sparse(params, state)
assert any(
    (a != b).any() for a, b in zip(jax.tree.leaves(masks), jax.tree.leaves(dstjax.get_masks(state)), strict=True)
)
after = loss(params, x, y)
assert after < before / 2, (before, after)
print(f"dstjax {dstjax.__version__} with jax {jax.__version__}, optax {optax.__version__}")
print(f"a training at 80 % sparsity: loss {before:.3f} to {after:.3f}")
print("installed:", *sorted(installed))

"""Two processes of four devices each draw and rewire the masks that one device does."""

import pytest

from tests.processes import printed

RUN = """
    import hashlib
    import numpy as np
    import jax.numpy as jnp
    import optax
    import dstjax

    rng = np.random.default_rng(0)
    host = {"rows": rng.normal(size=(64, 32)), "grid": rng.normal(size=(32, 64)), "bias": np.zeros(16)}
    host = {name: np.round(x, 1).astype(np.float32) for name, x in host.items()}  # rounded: plenty of ties
    kind = getattr(jax.sharding.AxisType, given[0])
    if processes > 1:
        mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(kind, kind))
        jax.set_mesh(mesh)
        specs = {"rows": jax.P("a"), "grid": jax.P("b", "a"), "bias": jax.P()}
        place = lambda x, spec: jax.make_array_from_callback(x.shape, jax.NamedSharding(mesh, spec), lambda i: x[i])
        params = {name: place(x, specs[name]) for name, x in host.items()}
    else:
        params = {name: jnp.asarray(x) for name, x in host.items()}

    method = dstjax.methods.get(given[1], sparsity=0.75, update_period=2, end_step=20)
    tx = dstjax.sparsify(optax.sgd(0.1, momentum=0.9), method, seed=7)

    @jax.jit
    def run(params):
        state = tx.init(params)
        params = dstjax.apply_masks(params, state)

        def step(carry, _):
            params, state = carry
            grads = jax.tree.map(lambda x: jnp.round(2 * x, 1) + 0.1, params)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, state), _ = jax.lax.scan(step, (params, state), length=9)
        masks = {name: mask for name, mask in dstjax.get_masks(state).items() if mask is not None}
        if processes > 1:  # gathered only to be compared
            whole = jax.NamedSharding(mesh, jax.P())
            masks = {n: jax.sharding.reshard(m, whole) if kind.name == "Explicit" else
                     jax.lax.with_sharding_constraint(m, whole) for n, m in masks.items()}
        return masks

    masks = run(params)
    digest = hashlib.sha256(b"".join(np.asarray(masks[name]).tobytes() for name in sorted(masks))).hexdigest()
    print("found", digest, sum(int(np.asarray(m).sum()) for m in masks.values()), flush=True)
"""


def masks_of(processes: int, kind: str, method: str) -> set[str]:
    """The digests that the processes of one run print."""
    lines = printed(RUN, processes, kind, method, devices={1: 1, 2: 4}[processes])
    return {line for of_one in lines for line in of_one}


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        pytest.param("Auto", "dst_ee", marks=pytest.mark.slow),  # by default tests/experiments/training/test_hosts.py
        pytest.param("Explicit", "set", marks=pytest.mark.slow),
        pytest.param("Explicit", "dst_ee", marks=pytest.mark.slow),
    ],
)
def test_two_processes_make_the_masks_of_one(kind: str, method: str) -> None:
    alone = masks_of(1, kind, method)
    assert len(alone) == 1
    assert int(next(iter(alone)).split()[-1]) == 64 * 32 // 4 + 32 * 64 // 4
    assert masks_of(2, kind, method) == alone

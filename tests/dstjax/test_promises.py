"""Every method with every structure: the promised numbers of active weights hold, or the combination is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods, structures
from tests import conformance
from tests.thorough import few, slow

STRUCTURES = {
    "weight": structures.WEIGHT,
    "n_m": structures.n_m(2, 4),
    "block": structures.block(2, 2),
    "balanced": structures.block(2, 2, balanced=True),
    "fan_in": structures.fan_in(0.5),
    "filters": structures.filters(),
}
# These had been accepted, and broke their promise in the middle of training.
FOUND = {("set", "fan_in"), ("mest", "fan_in"), ("str", "block")}
ONE_DENSITY = ("gmp", "str", "granet", "gap", "dpf", "dcil", "top_kast", "admm")
REFUSED = {
    *((name, "n_m") for name in ONE_DENSITY),
    *(
        (name, structure) for name in ("dpf", "dcil") for structure in ("balanced", "fan_in", "filters")
    ),  # they rank all leaves
    *((name, s) for name in ("accset", "lset", "dynset") for s in ("n_m", "fan_in")),  # they end with fewer weights
}
STEPS = 12


CASES = [
    (name, structure)
    for name in conformance.METHODS
    for structure in (STRUCTURES if "structure" in methods.hyperparameters(name) else ("weight",))
]


@functools.cache
def network():
    rng = np.random.default_rng(0)
    first, second, x, y = (
        jnp.asarray(rng.standard_normal(s), jnp.float32) for s in ((16, 8), (8, 12), (32, 16), (32, 12))
    )
    return {"a": {"kernel": 0.1 * first}, "b": {"kernel": 0.1 * second}}, x, y


def counts_of(method):
    """Active weights of each layer after every step, and those asked for."""
    params, x, y = network()

    def loss(p):
        return jnp.mean((jax.nn.relu(x @ p["a"]["kernel"]) @ p["b"]["kernel"] - y) ** 2)

    given = None
    if method.start.pruner is not None and not method.start.prune_step:
        given = dstjax.initial_masks.magnitude(params, sparsity=method.masking.sparsity)
    tx = dstjax.sparsify(optax.adam(0.05), method, initial_masks=given)
    state = tx.init(params)
    params = dstjax.apply_masks(params, state)

    @jax.jit
    def step(params, state):
        value, gradients = jax.value_and_grad(loss)(dstjax.forward_params(params, state))
        extra = {"full_gradient": jax.grad(loss)(params)} if "full_gradient" in method.needs else {}
        extra |= {"metric": jnp.clip(value, 0, 1)} if "metric" in method.needs else {}
        updates, state = tx.update(gradients, state, params, value=value, **extra)
        params = optax.apply_updates(params, updates)
        masks = dstjax.masks.by_name(dstjax.get_masks(state)).values()
        return params, state, [jnp.sum(m) for m in masks if m is not None]

    counts = []
    for _ in range(STEPS):
        params, state, active = step(params, state)
        assert dstjax.check_sparse(params, state)
        counts.append([int(n) for n in active])
    return np.array(counts), np.asarray(state.targets if counts[0] else [])


def assert_kept(method):
    counts, targets = counts_of(method)
    if method.promises == "kept":
        assert (counts == targets[None]).all()
    elif method.promises == "reached":
        assert (counts[-1] == targets).all()
    elif method.promises == "total":
        assert counts[-1].sum() == targets.sum()
    assert counts.all()  # no leaf is emptied


@few(2)
@pytest.mark.parametrize(("name", "structure"), [case if case in FOUND else slow(*case) for case in CASES])
def test_with_every_structure(name, structure):
    fields = {k: v for k, v in conformance.METHODS[name].hyperparameters.items() if k != "maskable"}
    if structure != "weight" or "structure" in methods.hyperparameters(name):
        fields["structure"] = STRUCTURES[structure]
    if (name, structure) in REFUSED:
        with pytest.raises(ValueError, match="is not accepted"):
            methods.get(name, **fields)
        return
    method = methods.get(name, **fields)
    if name == "sis":  # the training loop sets its masks
        return
    if method.start.pruner is not None and structure != "weight":
        with pytest.raises(ValueError, match="are not of structure="):
            counts_of(method)
    else:
        assert_kept(method)


@pytest.mark.parametrize("sparsity", [0.2, slow(0.5), slow(0.9)])
def test_dsr_with_a_threshold_that_drops_nearly_all(sparsity):
    assert_kept(methods.dsr(sparsity=sparsity, threshold=5.0, update_period=2, end_step=9))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda m: methods.dpf(sparsity=None, distribution=m, update_period=2, end_step=9),
            "ranks all leaves together",
        ),
        (
            lambda m: methods.dcil(sparsity=None, distribution=m, update_period=2, end_step=9),
            "ranks all leaves together",
        ),
        (
            lambda m: methods.gmp(sparsity=None, distribution=m, update_period=2, end_step=9, scope="global"),
            "ranks all leaves together",
        ),
        (lambda m: methods.one_shot(sparsity=None, distribution=m, prune_step=4, scope="global"), "ranks all leaves"),
        (
            lambda m: methods.granet(sparsity=None, distribution=m, update_period=2, end_step=9),
            "prunes over all layers together",
        ),
        (
            lambda m: methods.granet(sparsity=0.5, distribution=m, update_period=2, end_step=9, initial_sparsity=0),
            "by 'granet'",
        ),
    ],
)
def test_maps_that_nothing_would_read(make, message):
    with pytest.raises(ValueError, match=message):
        make({"a": 0.5, "b": 0.4})


@pytest.mark.parametrize("name", ["dpf", "dcil", "granet"])
def test_pruning_that_would_end_after_the_updates(name):
    with pytest.raises(ValueError, match="prune_end_step=30 is not accepted with end_step=20"):
        methods.get(name, sparsity=0.8, update_period=2, end_step=20, prune_end_step=30)

"""Drop criteria that say themselves what stays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import criteria, methods, structures
from dstjax.rules import choosing
from dstjax.selection import top_k_masks

PARAMS = {
    "one": {"kernel": jnp.linspace(-1.0, 1.0, 16 * 24).reshape(16, 24)},
    "two": {"kernel": jnp.linspace(1.0, 2.0, 24 * 8).reshape(24, 8)},
}
PLAN = dict(sparsity=0.5, update_period=1, end_step=100, drop_schedule="constant")


@choosing
def largest(leaves):
    """RigL's rule, as one that chooses."""
    numbers = jnp.stack([jnp.sum(leaf.mask) - leaf.budget for leaf in leaves])
    return top_k_masks([abs(leaf.weight) for leaf in leaves], numbers, where=[leaf.mask for leaf in leaves])


@choosing
def of_another_shape(leaves):
    return [leaf.mask.reshape(-1) for leaf in leaves]


@choosing
def numbers(leaves):
    return [leaf.weight for leaf in leaves]


def trained(drop, **options):
    """The masks after four updates."""
    tx = dstjax.sparsify(optax.sgd(0.1), methods.rigl(**{**PLAN, **options}, drop=drop))
    opt_state = tx.init(PARAMS)
    params = dstjax.apply_masks(PARAMS, opt_state)
    update = jax.jit(tx.update)
    for t in range(4):
        gradients = jax.tree.map(lambda x, t=t: jnp.sin(7.0 * x + t), PARAMS)
        updates, opt_state = update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
    return jax.tree.map(np.asarray, dstjax.get_masks(opt_state))


def test_a_criterion_that_chooses_says_what_stays():
    chosen, scored = trained(largest), trained("magnitude")
    assert jax.tree.all(jax.tree.map(np.array_equal, chosen, scored))


@pytest.mark.parametrize(
    "options", [dict(scope="global"), dict(structure=structures.block(4, 4)), dict(structure=structures.fan_in())]
)
@pytest.mark.parametrize("drop", [largest, "set_fraction"])
def test_elsewhere_its_choice_is_scored(drop, options):
    before = jax.tree.map(lambda m: int(m.sum()), trained("magnitude", **options))
    found = trained(drop, **options)
    assert sum(int(m.sum()) for m in jax.tree.leaves(found)) == sum(jax.tree.leaves(before))


def test_it_is_a_criterion_like_others():
    mask = jnp.array([True, True, True, True, False])
    leaf = dstjax.rules.Leaf(
        jnp.array([0.3, 0.0, -0.1, 0.2, 0.0]), jnp.ones(5), mask, None, jnp.int32(1), jax.random.key(0), jnp.int32(2)
    )
    assert largest(leaf).tolist() == [1, 0, 0, 1, 0]
    assert criteria.set_signs(leaf).tolist() == [2, 0, 2, 1, 0]


@pytest.mark.parametrize("rule", [of_another_shape, numbers])
def test_what_is_no_mask_is_refused(rule):
    with pytest.raises(ValueError, match=rf"drop={rule.__name__} returned .*; expected bool, one for each weight"):
        trained(rule)


@choosing
def one_too_many(leaves):
    numbers = jnp.stack([jnp.sum(leaf.mask) - leaf.budget - 1 for leaf in leaves])
    return top_k_masks([abs(leaf.weight) for leaf in leaves], numbers, where=[leaf.mask for leaf in leaves])


@choosing
def among_all(leaves):
    numbers = jnp.stack([jnp.sum(leaf.mask) - leaf.budget for leaf in leaves])
    return top_k_masks([abs(leaf.gradient) for leaf in leaves], numbers)


@pytest.mark.parametrize("rule", [one_too_many, among_all])
def test_a_choice_of_another_number_or_of_inactive_weights_is_refused(rule):
    with pytest.raises(ValueError, match=rf"drop={rule.__name__} is not accepted: asked to drop one of"):
        trained(rule)


def test_a_leaf_of_a_single_weight_tells_nothing_of_a_choice():
    @choosing
    def at_least_one(leaves):
        numbers = jnp.stack([jnp.maximum(jnp.sum(leaf.mask) - leaf.budget, 1) for leaf in leaves])
        return top_k_masks([abs(leaf.weight) for leaf in leaves], numbers, where=[leaf.mask for leaf in leaves])

    tx = dstjax.sparsify(optax.sgd(0.1), methods.rigl(**PLAN, drop=at_least_one))
    assert dstjax.masks.count_active(dstjax.get_masks(tx.init({"kernel": jnp.ones((2, 1))}))) == {"kernel": 1}


@pytest.mark.parametrize("fewer", [0, 1])
def test_a_choice_in_each_layer_of_a_stack(fewer):
    @choosing
    def in_each(leaves):
        numbers = jnp.sum(leaves[0].mask, axis=(1, 2)) - leaves[0].budget - fewer
        masks = [leaf.mask for leaf in leaves]
        return top_k_masks([abs(leaves[0].weight)], numbers, where=masks, layouts=(leaves[0].layout,))

    tx = dstjax.sparsify(optax.sgd(0.1), methods.rigl(**PLAN, drop=in_each), layout="stack in out")
    params = {"kernel": jnp.linspace(-1.0, 1.0, 3 * 8 * 6).reshape(3, 8, 6)}
    if fewer:
        with pytest.raises(ValueError, match="expected as many active weights of each layer"):
            tx.init(params)
    else:
        opt_state = tx.init(params)
        _, opt_state = jax.jit(tx.update)(params, opt_state, dstjax.apply_masks(params, opt_state))
        assert dstjax.get_masks(opt_state)["kernel"].sum(axis=(1, 2)).tolist() == [24, 24, 24]


def rankings(jaxpr):
    """How many selections a program holds."""
    found = 0
    for eqn in jaxpr.eqns:
        found += eqn.params.get("name") == "top_k_masks"
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            found += rankings(inner) if hasattr(inner, "eqns") else 0
    return found


@pytest.mark.parametrize("drop", ["magnitude", "set", "set_fraction", largest])
def test_an_update_ranks_what_it_drops_once_and_what_it_grows(drop):
    tx = dstjax.sparsify(optax.sgd(0.1), methods.rigl(**PLAN, drop=drop))
    opt_state = tx.init(PARAMS)
    jaxpr = jax.make_jaxpr(lambda *args: tx.update(*args, rewire=True))(PARAMS, opt_state, PARAMS)
    assert rankings(jaxpr.jaxpr) == 2

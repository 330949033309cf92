"""What is refused of trees, calls and masks: a ValueError with the name, the value, and what would be accepted."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import methods
from tests import trees

GOOD = dict(sparsity=0.5, update_period=2, end_step=9)


def init(method=None, params=None, inner=None):
    tx = dstjax.sparsify(inner or optax.sgd(0.1), method or methods.rigl(**GOOD))
    params = trees.everything() if params is None else params
    return tx, params, tx.init(params)


# --- Trees ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{"b": jnp.ones(4), "s": jnp.ones(())}, {}, [], None, {"nothing": None}], ids=str)
def test_nothing_to_mask(params):
    for name in ("rigl", "static"):
        method = methods.get(name, **(GOOD if name == "rigl" else {"sparsity": 0.5}))
        tx = dstjax.sparsify(optax.sgd(0.1), method)
        with pytest.raises(ValueError, match="finds nothing to mask"):
            tx.init(params)


@pytest.mark.parametrize("shape", [(8, 6), (4, 8, 8)])
def test_the_layout_that_an_error_names_is_accepted(shape):
    """Given as it is told, for two axes and for three."""
    params, method = {"a": jnp.ones(shape)}, methods.sr_ste()
    with pytest.raises(ValueError, match="needs the meaning of the axes of leaf 'a'") as caught:
        init(method, params)
    layout = re.search(r"layout=\{'a': '(.*?)'\}", str(caught.value))[1]
    state = dstjax.sparsify(optax.sgd(0.1), method, layout={"a": layout}).init(params)
    assert dstjax.masks.sparsity(state) == 0.5


def test_maskable_that_chooses_nothing():
    with pytest.raises(ValueError, match="finds nothing to mask"):
        init(methods.rigl(**GOOD, maskable=lambda path, leaf: False))


@pytest.mark.parametrize(
    ("distribution", "sparsity"), [("uniform", 0.9), ("erk", 0.999), ("er", 0.999), ({"w": 0.01, "v": 0.5}, None)]
)
def test_a_leaf_too_small_for_its_density(distribution, sparsity):
    params = {"w": jnp.ones((3, 3)), "v": jnp.ones((40, 40))}
    with pytest.raises(ValueError, match=r"leaf 'w' of shape \(3, 3\) is too small.*at least 0\.111"):
        init(methods.static(sparsity=sparsity, distribution=distribution), params)


@pytest.mark.parametrize("distribution", ["uniform", "er", "erk"])
def test_an_empty_leaf(distribution):
    with pytest.raises(ValueError, match=r"leaf 'w' of shape \(0, 3\) has no weights to mask"):
        init(
            params={"w": jnp.ones((0, 3)), "v": jnp.ones((4, 4))},
            method=methods.static(sparsity=0.5, distribution=distribution),
        )


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, jnp.bool_, jnp.complex64])
def test_integer_and_complex_leaves(dtype):
    params = {"table": jnp.ones((4, 4), dtype), "w": jnp.ones((4, 4))}
    with pytest.raises(ValueError, match=r"\['table'\] are the first match of no leaf that is maskable"):
        init(methods.static(sparsity=None, distribution={"w": 0.5, "table": 0.5}), params)
    with pytest.raises(ValueError, match=f"leaf 'table' has dtype {np.dtype(dtype)}; only real floating leaves"):
        init(methods.rigl(**GOOD, maskable=lambda path, leaf: path == "table"), params)
    masks = {"w": jnp.arange(16).reshape(4, 4) < 8, "table": jnp.ones((4, 4), bool)}
    tx = dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=0.5), initial_masks=masks)
    with pytest.raises(ValueError, match="unexpected for \\['table'\\]"):
        tx.init(params)
    # Otherwise they are in nobody's way.
    for maskable in (None, lambda path, leaf: leaf.dtype == jnp.float32):
        _, _, state = init(methods.rigl(**GOOD, maskable=maskable), params)
        assert trees.names(dstjax.get_masks(state)).keys() == {"w"}


# --- Calls ----------------------------------------------------------------------------------------------------------


def test_missing_params():
    tx, params, state = init()
    with pytest.raises(ValueError, match=r"needs the parameters: call tx.update\(grads, opt_state, params\)"):
        tx.update(params, state)
    with pytest.raises(ValueError, match="needs the parameters"):
        optax.chain(optax.clip(1.0), tx).update(params, (optax.EmptyState(), state))


@pytest.mark.parametrize("rewire", [1, "yes", 0.5, np.array([True, False])], ids=str)
def test_a_decision_of_another_type(rewire):
    tx, params, state = init()
    with pytest.raises(ValueError, match=r"rewire=.* is not accepted; expected None, True or False"):
        tx.update(params, state, params, rewire=rewire)


def test_a_traced_decision():
    tx, params, state = init()
    with pytest.raises(ValueError, match=r"rewire=.* is not accepted; .*known at trace time"):
        jax.jit(lambda r: tx.update(params, state, params, rewire=r))(True)


def without(tree, key):
    return {k: v for k, v in tree.items() if k != key}


def test_parameters_whose_tree_is_not_the_one_at_init():
    tx, params, state = init()
    for other, pattern in [
        (without(params, "dense"), "missing: dense/bias, dense/kernel"),
        ({**params, "extra": jnp.ones((2, 2))}, "unexpected: extra"),
        ({**params, "list": tuple(params["list"])}, "the same paths in other containers"),
    ]:
        with pytest.raises(ValueError, match=f"tree of the parameters is not the one at init; {pattern}"):
            tx.update(other, state, other)
        with pytest.raises(ValueError, match=f"tree of the updates is not the one at init; {pattern}"):
            tx.update(other, state, params)


def test_leaves_of_another_shape():
    tx, params, state = init()
    other = {**params, "dense": {**params["dense"], "kernel": jnp.ones((5, 6))}}
    with pytest.raises(ValueError, match=r"'dense/kernel' of the parameters has shape \(5, 6\); expected \(6, 5\)"):
        tx.update(params, state, other)
    with pytest.raises(ValueError, match=r"'dense/kernel' of the updates has shape \(5, 6\); expected \(6, 5\)"):
        tx.update(other, state, params)


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (dict(method="rigl"), "method='rigl' is not accepted; expected one from dstjax.methods"),
        (dict(method=methods.rigl), "method=.* is not accepted"),
        (dict(inner="sgd"), "inner='sgd' is not accepted; expected an optax transformation"),
        (dict(inner=optax.sgd), "inner=.* is not accepted"),
        (dict(seed=0.5), "seed=0.5 is not accepted; expected an integer or a PRNG key"),
        (dict(seed=None), "seed=None is not accepted"),
        (dict(seed="0"), "seed='0' is not accepted"),
        (dict(seed=True), "seed=True is not accepted"),
        (dict(seed=jnp.arange(2)), "seed=.* is not accepted"),
        (dict(seed=jax.random.split(jax.random.key(0))), "seed=.* is not accepted"),
        (dict(track=["explorations"]), "track='explorations' is not known; did you mean 'exploration'"),
        (dict(track="nothing"), "track='nothing' is not known"),
        (dict(track=[3]), "track=3 is not known"),
    ],
)
def test_arguments_of_sparsify(arguments, pattern):
    with pytest.raises(ValueError, match=pattern):
        dstjax.sparsify(**{"inner": optax.sgd(0.1), "method": methods.rigl(**GOOD), **arguments})


# --- Masks ----------------------------------------------------------------------------------------------------------


def test_masks_that_do_not_fit():
    _, _, state = init()
    good = dstjax.get_masks(state)
    kernel = good["dense"]["kernel"]

    def with_kernel(mask):
        return {**good, "dense": {"bias": None, "kernel": mask}}

    with pytest.raises(ValueError, match=r"of the masks has shape \(5, 6\) and dtype bool; expected \(6, 5\)"):
        dstjax.set_masks(state, with_kernel(kernel.T))
    with pytest.raises(ValueError, match=r"'dense/kernel' of the masks has shape .* and dtype float32; expected"):
        dstjax.set_masks(state, with_kernel(kernel.astype(jnp.float32)))
    with pytest.raises(ValueError, match="leaf 'dense/kernel' of the masks has shape"):
        dstjax.set_masks(state, with_kernel(kernel.astype(jnp.uint8)))
    with pytest.raises(ValueError, match=r"the masks are missing for \['dense/kernel'\] and unexpected for \[\]"):
        dstjax.set_masks(state, with_kernel(None))
    with pytest.raises(ValueError, match=r"the masks are missing for \[\] and unexpected for \['dense/bias'\]"):
        dstjax.set_masks(state, {**good, "dense": {"bias": jnp.ones(5, bool), "kernel": kernel}})
    with pytest.raises(ValueError, match="'dense/kernel' of the masks has no active weight"):
        dstjax.set_masks(state, with_kernel(jnp.zeros_like(kernel)))
    with pytest.raises(ValueError, match="found 0 states"):
        dstjax.set_masks(optax.sgd(0.1).init(good), good)


def test_apply_masks_of_another_tree():
    _, params, state = init()
    with pytest.raises(ValueError, match="no leaf of the parameters has the path of these masks: dense/kernel"):
        dstjax.apply_masks(without(params, "dense"), state)
    with pytest.raises(ValueError, match="leaf 'dense/kernel' of the parameters has shape"):
        dstjax.apply_masks({**params, "dense": {"bias": jnp.ones(5), "kernel": jnp.ones((6, 6))}}, state)


def test_mask_error_of_another_tree():
    _, params, state = init()
    with pytest.raises(ValueError, match="dense/kernel"):
        dstjax.metrics.mask_error(without(params, "dense"), state)


OF_BOTH = [dstjax.apply_masks, dstjax.check_sparse, dstjax.metrics.mask_error]
OF_MASKS = [dstjax.masks.sparsity, dstjax.masks.count_active, dstjax.masks.maskable, dstjax.metrics.dead_neurons]


@pytest.mark.parametrize("check", [*OF_BOTH, *(lambda _, m, of=of: of(m) for of in OF_MASKS)])
def test_masks_of_ones_and_zeros_are_not_taken_for_packed_ones(check):
    params = {"w": jnp.ones((8, 16))}
    with pytest.raises(ValueError, match="or a tree of boolean masks"):
        check(params, {"w": jnp.ones((8, 16), jnp.uint8)})


# --- Masks that are none ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masks", [{}, None, "a", optax.sgd(0.1).init({"w": jnp.ones((8, 8))})], ids=str)
def test_where_there_are_no_masks_nothing_is_checked_in_silence(masks):
    params = {"w": jnp.ones((8, 8))}
    for use in (dstjax.check_sparse, dstjax.apply_masks):
        with pytest.raises(ValueError, match="there are no masks, and no state"):
            use(params, masks)


def test_masks_of_a_method_that_masks_nothing_are_fine():
    params = {"w": jnp.ones((8, 8))}
    state = dstjax.sparsify(optax.sgd(0.1), methods.dense()).init(params)
    assert dstjax.check_sparse(params, state)
    assert dstjax.check_sparse(params, dstjax.get_masks(state))


def test_masks_of_another_shape_or_of_no_arrays():
    params = {"w": jnp.ones((8, 8))}
    for use in (dstjax.check_sparse, dstjax.apply_masks):
        with pytest.raises(ValueError, match=r"leaf 'w' .* has shape \(8, 8\); expected \(4, 4\)"):
            use(params, {"w": jnp.ones((4, 4), bool)})
        with pytest.raises(ValueError, match="boolean masks, as arrays"):
            use(params, {"w": [[True] * 8] * 8})


# --- Calls ------------------------------------------------------------------------------------------------------------


def test_arguments_of_another_kind():
    method, params = methods.rigl(**GOOD), {"w": jnp.ones((4, 4))}
    with pytest.raises(ValueError, match="seed=18446744073709551616 is not accepted"):
        dstjax.sparsify(optax.sgd(0.1), method, seed=2**64)
    with pytest.raises(ValueError, match=f"seed={2**63} is not accepted; expected an integer of 64 bits"):
        dstjax.masks.from_params(params, method=method, seed=2**63)
    state = init(method, params)[2]
    for track, said in (
        (3, "track=3 is not accepted; expected some of exploration"),
        (["no"], "track='no' is not known"),
    ):
        with pytest.raises(ValueError, match=said):
            dstjax.sparsify(optax.sgd(0.1), method, track=track)
        with pytest.raises(ValueError, match=said):
            dstjax.adopt(state, params, method, track=track)
    assert dstjax.adopt(state, params, method, track="error")[1].tracked.error.shape == ()
    with pytest.raises(ValueError, match="track=None is not accepted; expected some of exploration"):
        dstjax.sparsify(optax.sgd(0.1), method, track=None)
    with pytest.raises(ValueError, match="expected an optimiser, such as"):
        dstjax.start(method, params)
    with pytest.raises(ValueError, match="method=3 is not accepted"):
        dstjax.adopt(init(method, params)[2], params, 3)
    with pytest.raises(TypeError, match=r"snip\(\) has no argument 'scop'; did you mean 'scope'"):
        dstjax.initial_masks.snip(lambda p, b: 0.0, params, [], sparsity=0.5, scop="layer")


@pytest.mark.parametrize("distribution", ["er", "erk"])
def test_a_single_number_has_no_density(distribution):
    method = methods.static(sparsity=0.5, distribution=distribution, maskable=lambda path, leaf: True)
    with pytest.raises(ValueError, match="leaf 'w' is a single number"):
        init(method, {"w": jnp.ones(()), "v": jnp.ones((4, 4))})

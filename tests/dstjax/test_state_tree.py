"""The state has no holes: what walks it leaf by leaf, as real code bases do, finds arrays alone."""

import pickle
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx, serialization, traverse_util
from flax.training.train_state import TrainState

import dstjax
from tests import conformance, trees
from tests.thorough import few, slow

TRACK = ("exploration", "survival", "error")
# One of each family, and every order of step and update.
CASES = [
    *(("rigl", order) for order in conformance.ORDERS),
    *((name, None) for name in ("dense", "static", "dst_ee", "snfs", "gmp", "admm", "deepr", "top_kast", "iee", "str")),
    ("srigl", None),
]


def cases(*quick):
    """Parameters: the cases, slow but for those of ``quick``, of which one is RigL in an order, and names of others."""
    wanted = [("rigl", quick[0]), *((name, None) for name in quick[1:])]
    return [case if case in wanted else slow(*case) for case in CASES]


def sparsified(name, order=None, inner=None, track=()):
    changes = {} if order is None else {"update_order": order}
    return conformance.sparsified(inner or optax.adam(0.05), name, changes=changes, track=track)


def network():
    rng = np.random.default_rng(0)
    shapes = {"hidden": {"kernel": (6, 8), "bias": (8,)}, "out": {"kernel": (8, 4), "bias": (4,)}}
    return jax.tree.map(
        lambda s: jnp.asarray(rng.standard_normal(s), jnp.float32), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )


def assert_whole(state):
    """No None, no hole inside a variable, and only arrays."""
    leaves = jax.tree_util.tree_leaves(state, is_leaf=lambda x: x is None)
    assert leaves
    assert all(isinstance(x, jax.Array) for x in leaves)


def stepper(tx, name):
    @jax.jit
    def step(params, state):
        grads = jax.tree.map(lambda w: jnp.sin(3 * w) + 0.1, dstjax.forward_params(params, state))
        updates, state = tx.update(grads, state, params, **conformance.needed(name, grads))
        return optax.apply_updates(params, updates), state

    return step


# --- The tree -------------------------------------------------------------------------------------------------------


@few(2)
@pytest.mark.parametrize(("name", "order"), cases("skip", "dst_ee", "snfs", "admm", "top_kast", "iee"))
def test_only_arrays_before_and_after_a_step(name, order):
    params = network()
    tx = sparsified(name, order, track=TRACK)
    state = jax.jit(tx.init)(params)
    assert_whole(state)
    shapes = jax.eval_shape(tx.init, params)
    assert jax.tree.structure(state) == jax.tree.structure(shapes)
    new = stepper(tx, name)(params, state)[1]
    assert jax.tree.map(jax.typeof, new) == jax.tree.map(jax.typeof, state)
    assert_whole(new)


def test_dense_leaves_have_no_leaves_in_any_field():
    state = sparsified("dst_ee", track=TRACK).init(network())
    hole = optax.MaskedNode()
    for tree in (state.masks, state.counters, state.tracked.grown):
        assert tree["hidden"]["bias"] == hole
        assert [x.ndim for x in jax.tree.leaves(tree)] == [2, 2]
    assert state.tracked.ever == ()  # the counters tell
    assert state.memory == ()
    assert state.view == ()
    assert sparsified("snfs").init(network()).memory.leaves["out"]["bias"] == hole
    assert sparsified("top_kast").init(network()).memory.second_mask["out"]["bias"] == hole
    assert dstjax.get_masks(state)["hidden"]["bias"] is None


def test_holes_of_the_parameters_stay_what_they_are():
    state = sparsified("rigl").init(trees.everything())
    assert state.masks["nothing"] is None
    assert state.masks["scale"] == optax.MaskedNode()


class Pair(NamedTuple):
    kernel: object
    bias: object


@few(2)
@pytest.mark.parametrize("box", [nnx.Param, lambda x: nn.Partitioned(x, ("a",) * x.ndim)], ids=["nnx", "linen"])
@pytest.mark.parametrize("container", [dict, lambda **leaves: Pair(**leaves), lambda **leaves: nnx.State(leaves)])
def test_holes_take_the_place_of_whole_boxes(box, container):
    params = container(kernel=box(jnp.ones((8, 4))), bias=box(jnp.ones(4)))
    tx = sparsified("snfs", track=TRACK)
    state = tx.init(params)
    assert_whole(state)
    kernel, bias = (
        state.masks[i] if isinstance(state.masks, tuple) else state.masks[n] for i, n in enumerate(("kernel", "bias"))
    )
    assert isinstance(kernel, type(box(jnp.ones(()))))
    assert bias == optax.MaskedNode()
    masks = dstjax.get_masks(state)
    assert isinstance(masks, type(params))
    assert dstjax.masks.by_name(masks).keys() == {"kernel", "bias"}
    trees.assert_same(dstjax.get_masks(dstjax.set_masks(state, masks)), masks)
    old_form = jax.tree.map(lambda x: x.ndim > 1, params)  # a hole within a variable, as jax.tree.map would make
    old_form = jax.tree.map(
        lambda big, m: m if big else None,
        old_form,
        dstjax.apply_masks(jax.tree.map(lambda x: jnp.ones(x.shape, bool), params), masks),
    )
    trees.assert_same(dstjax.get_masks(dstjax.set_masks(state, old_form)), masks)
    sparse = dstjax.apply_masks(params, state)
    assert jax.tree.structure(sparse) == jax.tree.structure(params)
    updates, new = tx.update(sparse, state, sparse, rewire=True)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert dstjax.check_sparse(optax.apply_updates(sparse, updates), new)


def test_a_split_state_is_told_by_its_structure():
    for name in ("dense", "static", "rigl"):
        for params in (jnp.ones((4, 4)), network()):
            tx = sparsified(name)
            state = tx.init(params)
            moving, still = dstjax.split_state(state)
            assert_whole(moving)
            assert jax.tree.structure(moving) != jax.tree.structure(state)
            trees.assert_same(dstjax.merge_state(moving, still), state)
            tx.update(params, state, params)
            with pytest.raises(ValueError, match="merge_state"):
                tx.update(params, moving, params)
            with pytest.raises(ValueError, match="merge_state"):
                dstjax.get_masks(moving)
            with pytest.raises(ValueError, match="merge_state"):
                dstjax.summary(params, moving)
            with pytest.raises(ValueError, match="is whole"):
                dstjax.merge_state(state, still)


def test_hyperparameters_are_where_optax_has_them():
    inner = optax.inject_hyperparams(optax.adam)(learning_rate=0.25)
    state = sparsified("rigl", inner=inner).init(network())
    assert state._fields[-1] == "inner_state"
    for found in (
        state.hyperparams["learning_rate"],
        state[-1].hyperparams["learning_rate"],
        optax.tree_utils.tree_get(state, "learning_rate"),
    ):
        assert float(found) == 0.25
    state.hyperparams["learning_rate"] = jnp.float32(0.5)
    assert float(state.inner_state.hyperparams["learning_rate"]) == 0.5
    with pytest.raises(AttributeError, match=r"has no hyperparams; expected .*inject_hyperparams"):
        _ = sparsified("rigl").init(network()).hyperparams
    assert not hasattr(sparsified("rigl").init(network()), "hyperparams")


def test_init_under_jit_vmap_and_donation():
    params = network()
    tx = sparsified("snfs", track=TRACK)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    where = jax.tree.map(lambda _: sharding, jax.eval_shape(tx.init, params))
    trees.assert_same(jax.jit(tx.init, out_shardings=where)(params), tx.init(params))
    many = jax.vmap(tx.init)(jax.tree.map(lambda x: jnp.stack([x, x]), params))
    trees.assert_same(jax.tree.map(lambda x: x[1], many), tx.init(params))
    step = jax.jit(lambda g, s, p: tx.update(g, s, p), donate_argnums=(1,))
    assert_whole(step(params, tx.init(params), params)[1])


# --- Code bases -----------------------------------------------------------------------------------------------------


class Net(nnx.Module):
    def __init__(self, rngs):
        init = nnx.with_partitioning(nnx.initializers.lecun_normal(), (None, "model"), eager_sharding=False)
        self.hidden = nnx.Linear(6, 8, kernel_init=init, rngs=rngs)
        self.out = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.hidden(x)))


@few(2)
@pytest.mark.parametrize(("name", "order"), cases("step_then_update", "dense", "snfs", "top_kast", "iee"))
def test_gemma_logs_the_shapes_of_an_nnx_optimizer(name, order):
    model = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, sparsified(name, order, track=TRACK), wrt=nnx.Param)
    nnx.update(model, dstjax.apply_masks(nnx.state(model, nnx.Param), optimizer.opt_state))
    needed = {k: v for k, v in conformance.needed(name, {}).items() if k != "full_gradient"}

    @nnx.jit
    def step(model, optimizer):
        def loss(model):
            return (model(jnp.ones((3, 6))) ** 2).mean()

        optimizer.update(model, nnx.grad(loss)(model), **needed)

    for _ in range(3):
        step(model, optimizer)
    state = nnx.state(optimizer)
    for path, variable in nnx.to_flat_state(state):
        value = variable.get_value()
        assert f"{path}: {value.shape} {value.dtype} {value.nbytes}"  # what is logged
    specs = nnx.get_partition_spec(state)
    assert all(isinstance(s, jax.P) for s in jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, jax.P)))
    if name != "dense":
        masks = specs["opt_state"]["masks"]
        assert masks["hidden"]["kernel"].get_value() == jax.P(None, "model")
        assert not masks["hidden"].get("bias")
    assert dstjax.check_sparse(nnx.state(model, nnx.Param), optimizer.opt_state)


@few(2)
@pytest.mark.parametrize(("name", "order"), cases("update_then_step", "dense", "admm", "deepr", "str"))
def test_easylm_saves_leaf_by_leaf(name, order):
    params = network()
    tx = optax.chain(optax.clip(1.0), sparsified(name, order, track=TRACK))
    state = TrainState.create(apply_fn=None, params=params, tx=tx)
    state = state.replace(params=dstjax.apply_masks(params, state.opt_state))
    step = stepper(tx, name)
    params, opt_state = step(state.params, state.opt_state)
    state = state.replace(params=params, opt_state=opt_state)
    flat = traverse_util.flatten_dict(serialization.to_state_dict(state))
    saved = {key: serialization.msgpack_serialize(np.asarray(value)) for key, value in flat.items()}
    loaded = {key: serialization.msgpack_restore(value) for key, value in saved.items()}
    target = traverse_util.flatten_dict(serialization.to_state_dict(state), keep_empty_nodes=True)
    for key, value in target.items():
        if key not in loaded and value == traverse_util.empty_node:
            loaded[key] = value
    back = serialization.from_state_dict(state, traverse_util.unflatten_dict(loaded))
    trees.assert_same(back.opt_state, state.opt_state)
    whole = serialization.from_bytes(state.opt_state, serialization.to_bytes(state.opt_state))
    trees.assert_same(whole, state.opt_state)
    trees.assert_same(step(back.params, jax.tree.map(jnp.asarray, back.opt_state)), step(params, opt_state))


@pytest.mark.parametrize("name", ["dense", "dst_ee", "snfs", "top_kast", "str", "lset"])
def test_checkpoints_of_orbax_and_pickle(name, tmp_path):
    params = network()
    tx = sparsified(name, track=TRACK)
    state = tx.init(params)
    trees.assert_same(pickle.loads(pickle.dumps(jax.device_get(state))), state)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        trees.assert_same(checkpointer.restore(tmp_path / "state", jax.eval_shape(tx.init, params)), state)


@few(2)
@pytest.mark.parametrize(("name", "order"), cases("skip", "static", "dst_ee", "gmp"))
def test_purejaxrl_nests_a_train_state_in_scan_in_vmap(name, order):
    tx = optax.chain(optax.clip_by_global_norm(0.5), sparsified(name, order))

    def train(key):
        params = jax.tree.map(lambda x: x * jax.random.uniform(key, minval=0.5), network())
        state = TrainState.create(apply_fn=None, params=params, tx=tx)
        state = state.replace(params=dstjax.apply_masks(state.params, state.opt_state))

        def step(state, _):
            grads = jax.tree.map(lambda w: jnp.sin(3 * w), dstjax.forward_params(state.params, state.opt_state))
            return state.apply_gradients(grads=grads), None

        return jax.lax.scan(step, state, None, 4)[0]

    states = jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(0), 2))
    for i in range(2):
        params, opt_state = jax.tree.map(lambda x, i=i: x[i], (states.params, states.opt_state))
        assert dstjax.check_sparse(params, opt_state)


def test_partition_specs_of_linen():
    params = {"kernel": nn.Partitioned(jnp.ones((8, 4)), ("in", "out")), "bias": nn.Partitioned(jnp.ones(4), ("out",))}
    specs = nn.get_partition_spec(sparsified("dst_ee").init(params))
    assert specs.masks == {"kernel": jax.P("in", "out"), "bias": optax.MaskedNode()}
    assert specs.counters["kernel"] == jax.P("in", "out")

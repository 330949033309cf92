"""HALP and structured IEE, step by step against their equations in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import latency, methods
from dstjax.rules import Layers
from tests import channel_network as small
from tests.trees import leaf_of

RATE = 0.05


def by_path(tree):
    """The leaves that have channels by path, float64."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in flat}
    return {path: np.asarray(x, np.float64) for path, x in named.items()}


def gradients(t):
    rng = np.random.default_rng(100 + t)
    return jax.tree.map(lambda w: jnp.asarray(rng.normal(size=w.shape), jnp.float32), small.params())


class Transcript:
    """Weights, active channels and importances in NumPy."""

    def __init__(self, structure, params, active):
        self.structure, self.active = structure, active
        self.weights = {p: w for p, w in by_path(params).items() if p in structure.pools.paths}
        self.importance = np.zeros(structure.pools.number)

    def masks(self):
        return small.masks_of(self.structure, self.active)

    def add(self, grads, shown, *, vectors=False):
        products = {p: w * grads[p] * shown[p] * (w.ndim == 1 or not vectors) for p, w in self.weights.items()}
        self.importance += np.abs(small.pooled(self.structure, products))

    def move(self, grads, trained):
        for path, w in self.weights.items():
            self.weights[path] = w - RATE * grads[path] * trained[path]

    def drop(self, goal):
        """To a cost; by a share of the number of active weights, as the engine says it."""
        number = sum(m.sum() for m in self.masks().values())
        now = float(self.structure.work.total(np.bincount(self.structure.pools.pool_of[self.active], minlength=2)))
        stay = int(np.floor(np.float32(number) * np.float32(min(goal / now, 1.0))))
        self.active = small.dropped(self.structure, self.importance, self.active, now * stay / number)

    def grow(self, goal):
        self.active = small.grown(self.structure, self.importance, self.active, goal)


def started(method, params, **options):
    tx = dstjax.sparsify(optax.sgd(RATE), method, **options)
    state = tx.init(params)
    return jax.jit(tx.update), dstjax.apply_masks(params, state), state


def agree(transcript, params, state):
    masks = by_path(dstjax.get_masks(state))
    for path, mask in transcript.masks().items():
        assert (masks[path] == mask).all(), path
    for path, w in transcript.weights.items():
        np.testing.assert_allclose(by_path(params)[path], w, rtol=2e-4, atol=1e-5, err_msg=path)


def test_halp_keeps_a_geometric_share():
    structure = small.structure_of(0.4)
    rule = methods.halp(structure=structure, updates=3).moving.n_kept
    masks = structure.pools.masks(jnp.ones(11, bool))
    leaves = [leaf_of(np.ones(m.shape), np.ones(m.shape), m, 0) for m in masks]
    active = jnp.asarray([m.size for m in masks], jnp.int32)
    for i in range(3):
        layers = Layers(leaves, active, active, active, active, jnp.int32(1), jnp.int32(i))
        share = int(rule(layers).sum()) / int(active.sum())
        assert share == pytest.approx(0.4 ** ((i + 1) / 3), abs=1 / int(active.sum()))


@pytest.mark.slow
@pytest.mark.parametrize("importance", ["taylor", "batch_norm"])
def test_halp_prunes_along_a_geometric_path(importance):
    structure, params = small.structure_of(0.4), small.params()
    method = methods.halp(structure=structure, update_period=3, updates=3, importance=importance)
    update, params, state = started(method, params)
    transcript = Transcript(structure, params, np.ones(11, bool))
    pruned = []
    for t in range(1, 12):
        grads = gradients(t)
        told, masks = by_path(grads), transcript.masks()
        transcript.importance *= (t - 1) not in (3, 6, 9)
        transcript.add(told, masks, vectors=importance == "batch_norm")
        transcript.move(told, masks)
        if t in (3, 6, 9):
            transcript.drop(structure.work.dense * np.float32(0.4) ** np.float32(t / 9))
            transcript.weights = {p: w * transcript.masks()[p] for p, w in transcript.weights.items()}
            pruned.append(transcript.active.sum())
        moves, state = update(grads, state, params)
        params = optax.apply_updates(params, moves)
        agree(transcript, params, state)
    assert 11 > pruned[0] > pruned[1] > pruned[2]
    dstjax.check_sparse(params, state)
    cost = latency.Table(structure.work).predict(structure.widths_of(dstjax.get_masks(state)))
    assert 0.25 < cost / structure.work.dense <= 0.4 * (1 + 1e-6)


def test_structured_iee_exchanges_channels_and_keeps_values():
    structure, begin = small.structure_of(0.6), small.params()
    method = methods.iee_structured(
        structure=structure, update_period=6, stages=(2, 2, 2), end_step=18, drop_fraction=0.4, drop_schedule="constant"
    )
    update, params, state = started(method, begin)
    first = np.asarray(structure.pools.active([jnp.asarray(by_path(dstjax.get_masks(state))[p] > 0) for p in
                                               structure.pools.paths]))  # fmt: skip
    transcript, budget, changed = Transcript(structure, begin, first), 0.6 * structure.work.dense, 0
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), params, begin))  # dense values stay behind
    for t in range(1, 24):
        grads = gradients(t)
        told, masks = by_path(grads), transcript.masks()
        exploring = t < 18 and t % 6 >= 4
        everything = {p: np.ones_like(m) for p, m in masks.items()}
        begins = t % 6 in (0, 2, 4) if t < 20 else False
        transcript.importance *= not (begins and t > 1)
        transcript.add(told, everything if exploring else masks)
        transcript.move(told, {p: ~m for p, m in masks.items()} if exploring else masks)
        if t < 18 and (t + 1) % 6 == 2:
            transcript.drop(budget * (1 - 0.4))
        elif t < 18 and (t + 1) % 6 == 0:
            before = transcript.active
            transcript.grow(budget)
            changed += (transcript.active != before).sum()
        assert bool(dstjax.is_exploring(state)) == exploring
        moves, state = update(grads, state, params)
        params = optax.apply_updates(params, moves)
        agree(transcript, params, state)
    assert changed
    cost = latency.Table(structure.work).predict(structure.widths_of(dstjax.get_masks(state)))
    assert 0.35 < cost / structure.work.dense <= 0.6 * (1 + 1e-6)
    sparse = dstjax.forward_params(params, state, training=False)
    assert all((by_path(sparse)[p][~m] == 0).all() for p, m in transcript.masks().items())


def test_it_goes_on_from_pruned_masks():
    structure, params = small.structure_of(0.6), small.params()
    given = small.masks_of(structure, np.array([1, 1, 1, 1, 0, 0, 1, 1, 1, 0, 0], bool))
    masks = jax.tree_util.tree_map_with_path(
        lambda path, w: jnp.asarray(given[name]) if (name := jax.tree_util.keystr(path, simple=True, separator="/"))
        in given else None, params,
    )  # fmt: skip
    method = methods.iee_structured(structure=structure, update_period=6, end_step=18)
    state = dstjax.sparsify(optax.sgd(0.1), method, initial_masks=masks).init(params)
    assert structure.widths_of(dstjax.get_masks(state)) == (4, 3)
    masks["a"]["kernel"] = masks["a"]["kernel"].at[0, 0, 0, 0].set(False)
    with pytest.raises(ValueError, match="are not of structure"):
        dstjax.sparsify(optax.sgd(0.1), method, initial_masks=masks).init(params)


def test_methods_are_values():
    structure = small.structure_of(0.5)
    for make in (
        lambda: methods.halp(structure=structure, updates=5),
        lambda: methods.iee_structured(structure=small.structure_of(0.5), end_step=900),
    ):
        assert make() == make()
        assert hash(make()) == hash(make())
        assert "channels(11 in 2 pools, FLOPs, budget=0.5)" in repr(make())


@pytest.mark.parametrize("budget", [0.1, 0.06])
def test_vectors_too_small_for_the_density_are_no_obstacle(budget):
    """A bias of five at a tenth would have half an active weight; the budget is that of the network."""
    structure, params = small.structure_of(budget), small.params()
    for method in (
        methods.static(sparsity=1 - budget, distribution="uniform", structure=structure),
        methods.iee_structured(structure=structure, update_period=6, end_step=18),
        methods.halp(structure=structure, update_period=2, updates=2),
    ):
        params, state = dstjax.start(dstjax.sparsify(optax.sgd(RATE), method), params)
        if method.name != "halp":
            masks = dstjax.get_masks(state)
            assert float(structure.cost(jax.tree.leaves(masks))) <= budget * structure.work.dense
            assert min(structure.widths_of(masks)) >= 1


@pytest.mark.parametrize("make", [methods.halp, methods.iee_structured])
def test_with_64_bits_the_channels_are_the_same(make):
    given = {"updates": 1, "update_period": 2} if make is methods.halp else {"update_period": 6, "end_step": 7}
    found = []
    for wide in (False, True):
        with jax.enable_x64(wide):
            params = small.params()
            structure = small.structure_of(0.5)
            tx = dstjax.sparsify(optax.sgd(0.1), make(structure=structure, **given))
            state = tx.init(params)
            for t in range(1, 7):
                updates, state = tx.update(gradients(t), state, params)
                params = optax.apply_updates(params, updates)
            found.append([int(n) for n in structure.widths_of(dstjax.get_masks(state))])
    assert found[0] == found[1]

"""Channels over several leaves: what is whole, what it costs, and that the knapsack chooses it."""

import dataclasses
import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import latency, methods, program, structures
from tests import channel_network as small
from tests import transformers


def structure_of(**options):
    return structures.channels(small.found(), **options)


def test_pools_are_the_widths_of_layers():
    structure = structure_of()
    assert structure.pools.sizes == small.SIZES
    assert structure.pools.paths == ("a/bias", "a/kernel", "b/bias", "b/kernel", "c/kernel", "out/kernel")
    assert structure.work.dense == sum(np.prod(structure.pools.shape(i)) for i in range(6))
    assert structure == structure_of()
    assert hash(structure) == hash(pickle.loads(pickle.dumps(structure)))
    assert structure.covers("a/bias", None)
    assert not structure.covers("out/bias", None)
    assert structures.channels(small.found(), whole=["a/kernel"]).pools.sizes == small.SIZES[1:]


def test_masks_are_those_of_whole_channels():
    structure, rng = structure_of(), np.random.default_rng(0)
    active = rng.random(11) < 0.6
    active[[0, 6]] = True
    masks = structure.pools.masks(jnp.asarray(active))
    wanted = small.masks_of(structure, active)
    assert all((np.asarray(m) == wanted[path]).all() for m, path in zip(masks, structure.pools.paths, strict=True))
    assert (np.asarray(structure.pools.active(masks)) == active).all()
    assert all(structure.holds(masks))
    masks[1] = masks[1].at[0, 0, 0, 0].set(False)
    assert not all(structure.holds(masks))
    placed = structure.placed(jnp.arange(11.0), [None] * 6)
    assert structure.pooled([jnp.asarray(p) for p in placed], [None] * 6).tolist() == list(range(11))


def test_the_cost_of_weights_is_their_number():
    structure, rng = structure_of(), np.random.default_rng(1)
    for _ in range(5):
        active = rng.random(11) < 0.5
        active[[0, 6]] = True
        masks = small.masks_of(structure, active)
        widths = np.bincount(structure.pools.pool_of[active], minlength=2)
        assert structure.work.total(widths) == sum(m.sum() for m in masks.values())


def test_drop_and_growth_are_the_knapsack_written_out():
    params, rng = small.params(), np.random.default_rng(2)
    table = latency.analytic(small.network, params, small.X)
    structure = structure_of(costs=table, budget=0.8)
    pools = structure.pools

    @jax.jit
    def both(scores, masks, keep):
        kept, room = structure.drop(scores, masks, keep, lambda: scores, keep)
        return kept, structure.grow(scores, kept, room, jnp.ones(6, jnp.int32))

    for case in range(6):
        scores = {path: rng.random(pools.shape(i)).astype(np.float32) for i, path in enumerate(pools.paths)}
        active = rng.random(11) < 0.8
        active[[0, 6]] = True
        masks = small.masks_of(structure, active)
        number = sum(m.sum() for m in masks.values())
        share = np.float32(int(number * 0.6) / number) if case else 1.0
        keep = jnp.zeros(6, jnp.int32).at[0].set(int(number * 0.6) if case else number)
        kept, grown = both(list(map(jnp.asarray, scores.values())), list(map(jnp.asarray, masks.values())), keep)
        values = small.pooled(structure, scores)
        now = structure.work.total(np.bincount(pools.pool_of[active], minlength=2))
        stay = small.dropped(structure, values, active, now * share)
        assert np.asarray(pools.active(kept)).tolist() == stay.tolist()
        after = small.grown(structure, values, stay, 0.8 * table.dense)
        both_masks = [k | g for k, g in zip(kept, grown, strict=True)]
        assert np.asarray(pools.active(both_masks)).tolist() == after.tolist()
        cost = float(structure.cost(both_masks)) / table.dense
        assert cost <= max(0.8, float(structure.cost(kept)) / table.dense) * (1 + 1e-5)
        assert cost > 0.6  # growth fills what there is, in channels of up to a sixth


def jumping(table, rng):
    """A table whose costs rise in steps of all sizes, as measured ones do."""

    def steps(layer):
        at = [np.arange(n[-1] + 1) for n in (layer.at_inputs, layer.at_outputs)]
        rises = rng.exponential(size=(len(at[0]) - 1, len(at[1]) - 1)) ** 3
        costs = np.pad(np.cumsum(np.cumsum(rises, axis=0), axis=1), ((1, 0), (1, 0)))
        return dataclasses.replace(layer, at_inputs=(*at[0],), at_outputs=(*at[1],), costs=(*map(tuple, costs),))

    return dataclasses.replace(table.work, layers=tuple(map(steps, table.work.layers)))


@pytest.mark.parametrize("seed", [3, 10, 14, 24])
def test_what_one_knapsack_leaves_of_the_budget_is_filled(seed):
    rng = np.random.default_rng(seed)
    structure = structure_of(costs=jumping(latency.analytic(small.network, small.params(), small.X), rng))
    pools, full, everywhere = structure.pools, np.array(small.SIZES), np.ones(11, bool)
    values = rng.lognormal(0, 1, size=2)[pools.pool_of] * rng.lognormal(0, 0.5, size=11)
    layouts, masks = [None] * 6, [jnp.ones(pools.shape(i), bool) for i in range(6)]
    number = sum(m.size for m in masks)
    keep = jnp.zeros(6, jnp.int32).at[0].set(int(0.3 * number))
    placed = structure.placed(jnp.asarray(values, jnp.float32), layouts)
    scores = [jnp.broadcast_to(x, m.shape) for x, m in zip(placed, masks, strict=True)]
    found = structure.drop(scores, masks, keep, lambda: None, keep, layouts)[0]
    goal = structure.work.dense * np.float32(int(0.3 * number) / number)
    stay = small.dropped(structure, values, everywhere, goal)
    assert np.asarray(pools.active(found)).tolist() == stay.tolist()
    once = small.one_round(structure, values, everywhere, 0 * full, full, 0 * full + 1, goal)
    widths = np.asarray(structure.widths(found))
    assert (widths >= once).all()
    assert structure.work.total(once) + 0.01 * goal < structure.work.total(widths) <= goal * (1 + 1e-5)


@pytest.mark.parametrize(("at_least", "kept"), [(0, 1), (0.2, 2), (0.5, 3), (0.51, 4)])
def test_a_pool_of_no_worth_keeps_what_it_keeps_at_least(at_least, kept):
    structure = structure_of(costs=latency.analytic(small.network, small.params(), small.X), at_least=at_least)
    worthless, other = (np.flatnonzero(np.asarray(structure.pools.pool_of) == pool) for pool in (0, 1))
    assert (len(worthless), len(other)) == (6, 5)
    values = jnp.zeros(11).at[other].set(1.0)
    layouts = [None] * len(structure.pools.paths)
    masks = [jnp.ones(structure.pools.shape(i), bool) for i in range(len(layouts))]
    number = sum(m.size for m in masks)
    keep = jnp.zeros(6, jnp.int32).at[0].set(int(0.6 * number))
    scores = [jnp.broadcast_to(x, m.shape) for x, m in zip(structure.placed(values, layouts), masks, strict=True)]
    found, _ = structure.drop(scores, masks, keep, lambda: None, keep, layouts)
    widths = structure.widths_of(dict(zip(structure.pools.paths, found, strict=True)))
    assert widths[0] == kept
    assert structure.cost(found) <= structure.work.dense * 0.6 * (1 + 1e-5) or widths[1] == math.ceil(5 * at_least)


def test_random_channels_fill_the_budget_evenly_and_compact_to_it():
    params = small.params()
    table = latency.analytic(small.network, params, small.X)
    structure = structure_of(costs=table, budget=0.5)
    tx = dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=0.5, distribution="uniform", structure=structure))
    state = tx.init(params)
    masks = dstjax.get_masks(state)
    widths = structure.widths_of(masks)
    assert 0.3 * table.dense < table.predict(widths) <= 0.5 * table.dense
    smaller, fewer, report = dstjax.compact(small.network, dstjax.apply_masks(params, state), state, small.X)
    assert report.flops[1] == table.predict(widths)
    assert program.flops.count(smaller, fewer, small.X).dense() == table.predict(widths)
    assert masks["out"]["bias"] is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(budget=1.5), "budget=1.5 is not accepted"),
        (dict(budget=0), "budget=0 is not accepted"),
        (dict(budget=True), "budget=True is not accepted"),
        (dict(budget=1e-3), "below 0.0"),
        (dict(budget=0.5, round_to=5), "that of 5 channels of each pool"),
        (dict(budget=0.2, at_least=0.5), "that of at_least=0.5 of each pool"),
        (dict(at_least=1.5), "at_least=1.5 is not accepted; expected a share in"),
        (dict(at_least="x"), "at_least='x'"),
        (dict(round_to=0), "round_to=0"),
        (dict(together=1), "together=1"),
        (dict(whole=["nowhere"]), "'nowhere' is in no path"),
        (dict(whole=["a", "b"]), "no channels that could be removed"),
    ],
)
def test_bad_options(options, said):
    with pytest.raises(ValueError, match=said) as error:
        structure_of(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["budget", "at_least"])
def test_a_share_is_known_before_a_program_is_made(name):
    with pytest.raises(ValueError, match=f"{name} is traced; .*expected a number"):
        jax.jit(lambda share: structure_of(**{name: share}).pools.number * share)(0.5)


@pytest.mark.parametrize(
    ("options", "said"), [({}, "that of 1 channel of each pool"), ({"at_least": 0.5}, "that of at_least=0.5")]
)
def test_a_sparsity_that_leaves_less_than_each_pool_keeps_is_refused(options, said):
    method = methods.static(sparsity=0.99, distribution="uniform", structure=structure_of(**options))
    with pytest.raises(ValueError, match=rf"a density of 0\.0209 is below 0\.\d+ of the dense cost, {said}"):
        dstjax.sparsify(optax.sgd(0.1), method).init(small.params())


def test_what_is_of_another_network_is_refused():
    structure, params = structure_of(budget=0.5), small.params()
    table = latency.analytic(small.network, params, small.X, whole=["a/kernel"])
    with pytest.raises(ValueError, match="the table of costs is of 1 pools"):
        structure_of(costs=table)
    method = methods.static(sparsity=0.5, distribution="uniform", structure=structure)
    with pytest.raises(ValueError, match="of another network, or masks other leaves"):
        dstjax.sparsify(optax.sgd(0.1), method).init({"a": params["a"]})
    with pytest.raises(ValueError, match="is of leaves of shapes"):
        structure.holds([jnp.ones((2, 2), bool)] * 6)
    with pytest.raises(ValueError, match="there is no mask of"):
        structure.widths_of({"a": {"kernel": jnp.ones((3, 3, 1, 6), bool)}})
    for make in (methods.halp, methods.iee_structured):
        options = {"end_step": 20} if make is methods.iee_structured else {}
        with pytest.raises(ValueError, match=r"expected structures\.channels"):
            make(structure=structure_of(), **options)
        with pytest.raises(ValueError, match="importance='size'"):
            make(structure=structure, importance="size", **options)


@pytest.mark.slow
def test_heads_and_their_dimensions_are_channels_of_all_that_have_them():
    way = transformers.WAYS["linen"]
    params, batch = way.params(transformers.weights()), transformers.batch()
    found = program.channels(way.loss, params, batch)
    table = latency.analytic(way.loss, params, batch)
    structure = structures.channels(found, costs=table, budget=0.6)
    method = methods.static(sparsity=0.4, distribution="uniform", structure=structure)
    tx = dstjax.sparsify(optax.sgd(0.1), method, layout=program.layouts(way.loss, params, batch))
    state = tx.init(params)
    masks = dstjax.get_masks(state)
    heads, dimensions = (np.asarray(masks["block_0"]["attention"]["query"]["bias"]).any(axis=a) for a in (1, 0))
    query = np.asarray(masks["block_0"]["attention"]["query"]["kernel"])
    assert 0 < heads.sum() < len(heads)
    assert 0 < dimensions.sum() < len(dimensions)
    assert (query.any(axis=0) == (heads[:, None] & dimensions)).all()
    _, _, report = dstjax.compact(way.loss, dstjax.apply_masks(params, state), state, batch, check=False)
    both = heads.sum() * dimensions.sum() / (heads.size * dimensions.size)
    among_data = program.flops.count(way.loss, params, batch).other * 2  # what attention multiplies is in no table
    assert report.flops[1] == table.predict(structure.widths_of(masks)) + both * among_data

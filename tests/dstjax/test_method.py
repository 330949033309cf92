"""A method is a value: its parts are checked where they are made, alone and against each other."""

import copy
import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import budgets, criteria, methods, schedules, structures, views
from dstjax.method import Masking, Method, Remembered, Seen, Start, Updates, common_fields
from dstjax.rules import Value, bind, holds_traced, value

GOOD = dict(sparsity=0.5, update_period=2, end_step=20)
EVERY = schedules.UpdateSchedule(1)


def rigl(**changes):
    return methods.rigl(**(GOOD | changes))


# --- Contradictions ---------------------------------------------------------------------------------------------------


def with_view(**changes):
    return methods.dpf(sparsity=0.5, end_step=50).but(**changes)


CONTRADICTIONS = {
    "trainable without view": (lambda: Seen(trainable=lambda leaf: leaf.mask), "trainable is not accepted with view"),
    "dense leaves without view": (
        lambda: Seen(trains_dense=lambda step: True),
        "trains_dense is not accepted with view",
    ),
    "view that skips": (lambda: with_view(order="skip"), "update_order='skip' is not accepted with a view"),
    "view before the step": (lambda: with_view(order="update_then_step"), "is not accepted with a view"),
    "no rule for how many": (lambda: Updates(EVERY, None), "n_kept=None is not accepted; expected a function"),
    "no rule, replaced": (lambda: dataclasses.replace(rigl().updates, n_kept=None), "n_kept=None is not accepted"),
    "no schedule": (lambda: Updates(3, budgets.none), "schedule=3 is not accepted"),
    "a score that is no function": (
        lambda: Updates(EVERY, budgets.none, grow_score="gradient"),
        "grow_score='gradient'",
    ),
    "misspelt order": (lambda: rigl().but(order="skipp"), "update_order='skipp' is not known; did you mean 'skip'"),
    "misspelt scope": (lambda: rigl().but(scope="globel"), "scope='globel' is not known; did you mean 'global'"),
    "misspelt promise": (lambda: rigl().but(promises="keep"), "promises='keep' is not known; did you mean 'kept'"),
    "misspelt need": (lambda: rigl().but(needs=("values",)), "needs='values' is not known; did you mean 'value'"),
    "misspelt metric": (lambda: rigl().but(metric="acc"), "metric='acc' is not known"),
    "counters as a number": (lambda: rigl().but(counters=1), "counters=1 is not accepted; expected True or False"),
    "bonus without counters": (
        lambda: rigl().but(grow_score=criteria.dst_ee(0.1)),
        r"counters=False is not accepted with grow_score=DstEE\(coefficient=0.1\)",
    ),
    "start by what": (lambda: Start(by="size"), "by='size' is not known"),
    "start sparser than the end": (
        lambda: rigl().but(start=Start(sparsity=0.9)),
        "initial_sparsity=0.9 is not accepted with sparsity=0.5",
    ),
    "start of a map": (
        lambda: rigl(sparsity=None, distribution={"w": 0.3}).but(start=Start(sparsity=0.2)),
        "initial_sparsity=0.2 is not accepted with a {regex: density} map",
    ),
    "start out of range": (lambda: Start(sparsity=1.0), "initial_sparsity=1.0 is not accepted"),
    "pruning without a pruner": (lambda: Start(prune_step=3), "prune_step=3 is not accepted without a pruner"),
    "unknown pruner": (lambda: Start(pruner="snap"), "pruner='snap' is not known; did you mean 'snip'"),
    "memory that changes and is not there": (
        lambda: Remembered(before_step=lambda leaf: leaf.memory),
        "before_step is not accepted with leaf=None",
    ),
    "the same after the step": (
        lambda: Remembered(after_step=lambda leaf, now: leaf.memory),
        "after_step is not accepted with leaf=None",
    ),
    "the same in common": (
        lambda: Remembered(after_update=lambda layers, kept, masks: 1),
        "after_update is not accepted with shared=None",
    ),
    "a lag of nothing": (lambda: Remembered(measure="value", lag=0), "lag=0 is not accepted"),
    "a measure that is not asked for": (
        lambda: rigl().but(measure="value"),
        r"needs=\(\) is not accepted with measure='value'",
    ),
    "a lag without a measure": (
        lambda: Remembered(lag=3),
        "lag=3 is not accepted; expected 1 where nothing is measured",
    ),
    "updates of nothing": (
        lambda: rigl().but(masking=None),
        "masking=None is not accepted by 'rigl', which has updates",
    ),
    "a start of nothing": (lambda: Method("x", start=Start(sparsity=0.5)), "masking=None is not accepted .* has start"),
    "nothing that remembers": (
        lambda: Method("x", remembered=Remembered(leaf=jnp.ones_like), seen=Seen(gradient=jnp.ones_like)),
        "masking=None is not accepted by 'x', which has remembered and seen of its own",
    ),
    "a rule of updates without any": (
        lambda: methods.static(sparsity=0.5).but(shared=0.0, after_update=lambda layers, kept, masks: layers.shared),
        "after_update is not accepted by 'static', which has no updates",
    ),
    "a second mask without updates": (
        lambda: methods.static(sparsity=0.5).but(second_mask=lambda layers, masks: masks),
        "second_mask is not accepted by 'static', which has no updates",
    ),
    "a pruner that is told": (
        lambda: Start(by="magnitude", pruner="snip"),
        "by='magnitude' is not accepted with pruner",
    ),
    "a ranking of no pruner": (lambda: Start(scope="layer"), "scope='layer' is not accepted without a pruner"),
    "another part": (lambda: Method("x", start=Seen()), r"start=Seen\(\) is not accepted; expected a Start"),
    "another masking": (lambda: Method("x", masking=0.5), "masking=0.5 is not accepted; expected Masking or None"),
    "one ranking for fan-ins": (
        lambda: rigl(scope="global", structure=structures.fan_in()),
        "scope='global' is not accepted with structure=FanIn",
    ),
    "one ranking to grow fan-ins": (
        lambda: methods.dpf(sparsity=0.5, end_step=50, structure=structures.fan_in()),
        "scope='global' is not accepted with structure=FanIn",
    ),
    "a map that is not read": (
        lambda: methods.dpf(sparsity=None, distribution={"w": 0.5}, end_step=50),
        "is not accepted by 'dpf' with scope='global'",
    ),
    "the same in GMP": (
        lambda: methods.gmp(sparsity=None, distribution={"w": 0.5}, end_step=50, scope="global", update_period=5),
        "is not accepted by 'gmp' with scope='global'",
    ),
    "an end that nobody reaches": (
        lambda: methods.granet(sparsity=0.9, end_step=4000, prune_end_step=5000),
        "prune_end_step=5000 is not accepted with end_step=4000",
    ),
    "sparsity": (lambda: dataclasses.replace(rigl().masking, sparsity=1.5), "sparsity=1.5 is not accepted"),
    "structure": (lambda: Masking(0.5, structure="block"), "structure='block' is not accepted"),
    "maskable": (lambda: Masking(0.5, maskable="kernel"), "maskable='kernel' is not accepted"),
    "coefficient": (
        lambda: dataclasses.replace(criteria.dst_ee(), coefficient=-1.0),
        "coefficient=-1.0 is not accepted; expected a number >= 0",
    ),
    "fraction": (
        lambda: dataclasses.replace(rigl().updates.n_kept.fractions, drop_fraction=2.0),
        "drop_fraction=2.0 is not accepted",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradictions_are_refused_where_they_are_made(name):
    make, message = CONTRADICTIONS[name]
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", methods.names())
def test_no_entry_takes_a_contradiction(name):
    known = {"sparsity": 0.5, "end_step": 9000, "prune_step": 5}
    method = methods.get(name, **{k: v for k, v in known.items() if k in methods.hyperparameters(name)})
    with pytest.raises(ValueError, match="promises='often' is not known"):
        dataclasses.replace(method, promises="often")
    with pytest.raises(ValueError, match="seen=None is not accepted; expected a Seen"):
        dataclasses.replace(method, seen=None)


# --- Promises ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["set", "rigl", "dst_ee", "rigl_itop", "mest"])
def test_no_more_is_promised_than_a_structure_keeps(name):
    """Neurons that are switched off leave their inputs out."""
    plain = methods.get(name, **GOOD)
    assert plain.promises == "kept"
    assert dataclasses.replace(plain, masking=Masking(0.5, structure=structures.fan_in(0.5))).promises == "free"
    assert methods.get(name, **GOOD, structure=structures.n_m(2, 4)).promises == "kept"


def test_dsr_promises_its_total_where_there_is_room():
    assert methods.dsr(sparsity=0.5).promises == "total"
    assert methods.dsr(sparsity=0.4).promises == "free"


def test_blocks_never_leave_a_leaf_empty():
    """STR prunes to as many weights as lie above its threshold, fewer than a block has."""
    tx = dstjax.sparsify(optax.sgd(0.1), methods.str(sparsity=0.5, s_init=3.0, structure=structures.block(2, 2)))
    params = {"w": jnp.arange(1.0, 17.0).reshape(4, 4) / 100}
    state = tx.init(params)
    _, state = tx.update(params, state, params)
    assert int(dstjax.get_masks(state)["w"].sum()) == 4


# --- Values -----------------------------------------------------------------------------------------------------------


@value
class Power(Value):
    """Growth by a power of the gradient."""

    power: float = 1.0

    def __call__(self, leaf):
        return jnp.abs(leaf.gradient) ** self.power


def test_rules_of_ones_own_are_values():
    one, other = rigl(grow=Power(2.0)), rigl(grow=Power(2.0))
    assert one == other
    assert one != rigl(grow=Power(3.0))
    assert pickle.loads(pickle.dumps(one)) == one
    assert "grow_score=Power(power=2.0)" in repr(one)
    assert copy.deepcopy(one) is one
    assert copy.copy(one) is one


def test_numbers_of_numpy_and_jax_are_numbers():
    assert criteria.dst_ee(jnp.float32(0.5)) == criteria.dst_ee(0.5)
    assert hash(criteria.dst_ee(jnp.float32(0.5))) == hash(criteria.dst_ee(0.5))
    assert Masking(jnp.float32(0.5)) == Masking(0.5)
    assert type(Masking(jnp.float32(0.5)).sparsity) is float


def test_the_order_of_a_map_counts():
    one, other = {"a": 0.1, ".*": 0.2}, {".*": 0.2, "a": 0.1}
    make = lambda densities: rigl(sparsity=None, distribution=densities)  # noqa: E731
    assert make(one) == make(dict(one))
    assert make(one) != make(other)
    assert dict(make(one).masking.distribution) == one


def test_an_unpicklable_rule_works_and_says_so_when_pickled():
    method = rigl(grow=lambda leaf: jnp.abs(leaf.gradient))
    assert method == method.but()
    tx = dstjax.sparsify(optax.sgd(0.1), method)
    params = {"w": jnp.ones((4, 4))}
    tx.update(params, tx.init(params), params, rewire=True)
    assert copy.deepcopy(method) is method
    with pytest.raises(pickle.PicklingError, match=r"grow_score=.*<lambda> of Updates cannot be pickled"):
        pickle.dumps(method)
    with pytest.raises(pickle.PicklingError, match=r"maskable=.*<lambda> of Masking cannot be pickled"):
        pickle.dumps(rigl(maskable=lambda path, leaf: True))


def test_a_method_that_holds_a_traced_value_says_so_and_equals_itself_alone():
    seen = []

    def make(coefficient):
        one, other = (methods.dst_ee(**GOOD, coefficient=coefficient) for _ in range(2))
        assert holds_traced(one)
        assert one == one
        assert one != other
        assert {one: 1, other: 2}[one] == 1
        with pytest.raises(pickle.PicklingError, match=r"coefficient=<traced float32\[\]> of DstEE cannot be pickled"):
            pickle.dumps(one)
        seen.append(repr(one))
        return coefficient

    jax.jit(make)(0.5)
    assert "grow_score=DstEE(coefficient=<traced float32[]>)" in seen[0]
    assert not holds_traced(methods.dst_ee(**GOOD))


def test_but_reaches_each_part():
    changes = dict(gradient=Power(), measure="value", lag=2, needs=("value",), promises="total")
    method = rigl().but(structure=structures.block(2, 2), scope="global", **changes)
    assert method.masking.structure == structures.block(2, 2)
    assert method.updates.scope == "global"
    assert method.seen.gradient == Power()
    assert method.remembered.lag == 2
    assert method.promises == "total"
    with pytest.raises(TypeError, match=r"a method has no field 'nothing'; Accepted: .*regrow_dropped"):
        rigl().but(nothing=1)
    with pytest.raises(ValueError, match="n_kept is not accepted by 'dense', which has no updates"):
        methods.dense().but(n_kept=rigl().updates.n_kept)
    assert rigl().moving is rigl().moving or rigl().moving == rigl().moving
    with pytest.raises(ValueError, match="method 'dense' has no mask updates"):
        _ = methods.dense().moving


BEGIN = Start(sparsity=0.2)
BROKEN = {
    "another start, kept": (
        lambda: rigl().but(start=BEGIN),
        "which is not that of the end",
    ),
    "another start, no ramp": (lambda: rigl().but(start=BEGIN, promises="reached"), "nothing changes the numbers"),
    "another start, fixed": (
        lambda: Method("x", Masking(0.9), Start(sparsity=0), promises="total"),
        "nothing changes the numbers",
    ),
    "drops alone": (lambda: rigl().but(n_grown=budgets.no_growth), "it drops weights and grows none"),
    "a ramp that regrows": (lambda: gmp().but(n_grown=None), "it grows as many weights as its ramp prunes"),
    "a ramp that is kept": (lambda: gmp().but(promises="kept"), "which is not that of the end"),
    "a ramp that is cut": (
        lambda: gmp().but(schedule=schedules.UpdateSchedule(2, 0, 6)),
        "its ramp is 0.5.* of the way at the last of 2 updates",
    ),
}


def gmp():
    return methods.gmp(sparsity=0.75, update_period=2, end_step=20)


@pytest.mark.parametrize("broken", BROKEN)
def test_a_promise_that_the_parts_break(broken):
    make, said = BROKEN[broken]
    with pytest.raises(ValueError, match=f"promises=.* is not accepted by .*{said}"):
        make()


def test_parts_that_promise_nothing_may_do_so():
    assert rigl().but(start=BEGIN, promises="free").promises == "free"
    assert gmp().but(schedule=schedules.UpdateSchedule(2)).promises == "reached"


@pytest.mark.parametrize("fields", [dict(needs=["value"]), dict(needs=None), dict(needs="value"), dict(name=None)])
def test_names_and_needs_of_another_type(fields):
    with pytest.raises(ValueError, match=f"{next(iter(fields))}=.* is not accepted; expected a t"):
        rigl().but(**fields)


def first_of(numbers, leaf):
    return leaf.weight * numbers[0]


def test_a_rule_that_holds_an_array_is_one_of_a_kind():
    one, other = (bind(first_of, np.ones(3)) for _ in range(2))
    assert one == one
    assert one != other
    assert len({one, other}) == 2
    for held in ([np.ones(3)], {"a": np.ones(3)}, (1.0, [jnp.ones(2)])):
        assert bind(first_of, held) != bind(first_of, held)
    listed = [bind(first_of, [1.0, 2.0]) for _ in range(2)]
    assert listed[0] == listed[1]
    assert len({*listed}) == 1


def test_common_fields_are_one_update_a_step_by_default():
    masking, schedule = common_fields(sparsity=0.5)
    assert masking == Masking(0.5)
    assert schedule == schedules.UpdateSchedule(1)
    assert views.masked(jnp.int32(0), None) == views.Masked()

"""The compiled programs of a run: what they contain, when they are shared, and which are kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dstjax
from experiments.training import configuration
from experiments.training.run import train_and_evaluate
from experiments.training.steps import Lost, Sums, step
from experiments.training.trainer import Program, Trainer
from tests.thorough import slow


def test_a_plain_step_has_no_branch_and_nothing_sorts(small):
    config = small(method="dst_ee")
    plan = configuration.plan(config)
    for mode in ("sequential", "vmap"):
        trainer = Trainer(plan.model, plan.make_tx, plan.method, plan.data, [0, 1], mode, config.batch_size)
        trainer.feed.begin(0)
        (span,) = trainer.feed.spans(0, 0, 3)
        zeros = np.zeros(span.order.shape[:-2], np.float32)
        arguments = (trainer.states[0], Sums(zeros, zeros.astype(np.int32), Lost(*[zeros.astype(np.int32)] * 3)))
        plain = trainer.run.lower(*arguments, *span).compile().as_text()
        assert "while(" in plain
        assert "conditional(" not in plain
        assert "sort(" not in plain
        rewire = trainer.rewire.lower(*arguments, *span[:3], None).compile().as_text()
        assert "while(" in rewire
        assert "sort(" not in rewire


@pytest.mark.slow
def test_programs_are_shared_where_they_are_the_same_and_only_there(small, tmp_path):
    def masks(name, **fields):
        before = set(Program.compiled)
        train_and_evaluate(small(**fields), tmp_path / name, quiet=True)
        with np.load(tmp_path / name / "masks.npz") as archive:
            return archive["final"], len(Program.compiled.keys() - before)

    masks("first", method="dst_ee", coefficient=0.25)
    assert masks("sparser", method="dst_ee", coefficient=0.25, sparsity=0.9)[1] == 0
    greedy, new = masks("greedy", method="dst_ee", coefficient=0.0)
    assert new == 1  # the mask update
    explorer, new = masks("explorer", method="dst_ee", coefficient=100.0)
    assert new == 1
    assert (greedy != explorer).any()
    small_moves, _ = masks("small moves", method="dst_ee", coefficient=0.0, drop_fraction=0.05)
    assert (greedy != small_moves).any()


def test_programs_that_do_not_read_their_arguments_are_not_shared_between_shapes():
    for n in (2, 3):
        assert Program(lambda x: jnp.zeros(3))(np.zeros(n)).shape == (3,)
    assert Program(lambda x: {"a": x})(np.zeros(2)).keys() == {"a"}
    assert Program(lambda x: {"b": x})(np.zeros(2)).keys() == {"b"}


def test_the_programs_that_were_used_last_are_kept(monkeypatch):
    monkeypatch.setattr(Program, "compiled", {})
    monkeypatch.setattr(Program, "most", 2)
    for power in (1, 2, 1, 3):
        Program(lambda x, power=power: x**power)(np.ones(2))
    first, last = Program.compiled.values()
    assert [float(kept(np.full(2, 2.0))[0][0]) for kept in (first, last)] == [2, 8]


def test_a_hook_makes_each_mask_update_of_each_network(small):
    plan = configuration.plan(small(seeds=2))
    seen = []

    def hook(group, step, program, arguments):
        seen.append((step, group))
        assert int(arguments[0].opt_state.step) == step - 1
        return program(*arguments)

    def trained(**options):
        trainer = Trainer(plan.model, plan.make_tx, plan.method, plan.data, [0, 1], "sequential", 64, **options)
        return trainer.epoch(0, 9)

    hooked, plain = trained(on_update=hook), trained()
    assert seen == [(4, 0), (4, 1), (8, 0), (8, 1)]
    np.testing.assert_array_equal(hooked.loss, plain.loss)


@pytest.mark.parametrize("method", ["balanced_momentum", "set", slow("rigl"), slow("snfs")])
def test_gradients_are_sparse_where_the_method_reads_no_others(method, small):
    """The optimiser's place is taken by one whose update is the gradient, so that the parameters tell what it was."""
    own = {"window": 2} if method == "balanced_momentum" else {}
    plan = configuration.plan(small(method=method, **own))
    trainer = Trainer(plan.model, plan.make_tx, plan.method, plan.data, [0], "sequential", 64)
    trainer.feed.begin(0)
    (span,) = trainer.feed.spans(0, 0, 8)

    def update(gradients, state, params, **_):
        return gradients, state._replace(step=state.step + 1)

    recipe = trainer.recipe._replace(tx=trainer.recipe.tx._replace(update=update))
    one = jax.jit(lambda state, rows: step(recipe, False, state, zero, span.source, rows)[0])
    zero = Sums(np.float32(0), np.int32(0), Lost(*[np.int32(0)] * 3))
    state, dense = trainer.states[0], []
    mask = dstjax.get_masks(state.opt_state)["Dense_0"]["kernel"]
    for i in range(8):
        before = state.params["Dense_0"]["kernel"]
        state = one(state, span.order[i])
        dense.append(bool(jnp.any((state.params["Dense_0"]["kernel"] != before) & ~mask)))
    assert dense == [bool(plan.method.needs_dense_gradient(t)) for t in range(1, 9)]
    assert (
        dense
        == {
            "balanced_momentum": [False, False, True, True] * 2,
            "set": [False] * 8,
            "rigl": [False, False, False, True] * 2,
            "snfs": [True] * 8,
        }[method]
    )

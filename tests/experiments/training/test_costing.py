"""What a run cost, against sums over its steps."""

import json

import pytest

from experiments import train
from experiments.training import costing

SIZES = {"a": 10, "b": 100}


def record(kind, step, *active):
    return {"kind": kind, "step": step, "active": dict(zip(SIZES, active, strict=True))}


def test_each_step_has_the_masks_from_before_its_update():
    records = [
        record("mask_update", 3, [8, 6], [50, 50]),
        record("mask_update", 3 + 4, [4, 4], [20, 20]),
        record("train", 10, [4, 4], [20, 20]),
        {"kind": "eval", "step": 10},
        record("train", 20, [4, 4], [20, 20]),
    ]
    assert costing.stretches(records, SIZES, {"a": 10, "b": 100}) == [
        (3, {"a": 1.0, "b": 1.0}),
        (4, {"a": 0.7, "b": 0.5}),
        (13, {"a": 0.4, "b": 0.2}),
    ]


@pytest.mark.parametrize("pruned", [4, 10, 14])
def test_pruning_once_is_at_its_step(pruned):
    ends = [record("train", e, [10 if pruned >= e else 4], [100 if pruned >= e else 20]) for e in (10, 20)]
    assert costing.stretches(ends, SIZES, {"a": 10, "b": 100}, pruned) == [
        (pruned, {"a": 1.0, "b": 1.0}),
        (20 - pruned, {"a": 0.4, "b": 0.2}),
    ]


def test_what_nobody_saw_is_half_way():
    ends = [record("train", 10, [4], [20]), record("train", 20, [4], [20])]
    assert costing.stretches(ends, SIZES, {"a": 10, "b": 100}) == [
        (10, {"a": 0.7, "b": 0.6}),
        (10, {"a": 0.4, "b": 0.2}),
    ]


@pytest.mark.parametrize(
    ("method", "changes", "cost"),
    [
        ("one_shot", (), 0.5 * (1 + 0.1)),
        ("sis", (), 0.5 * (1 + 0.1)),
        ("static", (), 0.1),
        ("snip", (), 0.1),
        ("gmp", ("--config.update_period=4",), (4 + 4 * (0.1 + 0.9 / 8) + 8 * 0.1) / 16),  # two updates, of 4 and 8
    ],
)
def test_a_run_of_one_epoch_costs_what_its_steps_do(method, changes, cost, tmp_path):
    """Where everything happens within an epoch, its end says little."""
    options = ["--config", "experiments/configs/digits.py", "--workdir", str(tmp_path), f"--config.method={method}"]
    options += ["--config.sparsity=0.9", "--config.steps=16", "--config.distribution=uniform", *changes]
    assert train.main(options) == 0
    found = json.loads((tmp_path / "summary.json").read_text())["cost"]["training_paper"]
    assert found == pytest.approx(cost, abs=2e-3)

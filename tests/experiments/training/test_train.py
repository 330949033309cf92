import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dstjax
from experiments import train
from experiments.configs import digits
from experiments.training import configuration, rules, sealed
from experiments.training.run import train_and_evaluate
from experiments.training.trainer import Trainer
from tests.thorough import few, slow

DIGITS = "experiments/configs/digits.py"
TINY = [
    *("--config.model.sizes=(16,)", "--config.steps=48", "--config.update_period=4", "--config.sparsity=0.8"),
    "--config.checkpoint_every_epochs=1",
]


def records(workdir, kind=None):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if kind in (None, line["kind"])]


# One of each kind of thing that a method may need of the loop; the slow tests run the others.
KINDS = ["snip", "sis", "iee", "dcil", "accset", "lset"]


@pytest.mark.parametrize("method", ["dense", "dst_ee", *map(slow, ("static", "set", "rigl", "rigl_itop", "mest"))])
def test_every_method_has_the_requested_number_of_active_weights_at_every_record(method, small, tmp_path):
    config = small(method=method, seeds=2)
    summary = train_and_evaluate(config, tmp_path, quiet=True)
    assert summary == sealed.read(tmp_path / "summary.json")
    total = 64 * 16 + 16 * 10
    if method == "dense":
        assert summary["layers"] == []
        assert (summary["sparsity"], summary["density"], summary["active_weights"]) == (0, 1, total)
        assert not (tmp_path / "masks.npz").exists()
    else:
        asked = sum(layer["requested"] for layer in summary["layers"])
        assert summary["density"] == asked / total
        assert abs(asked - 0.2 * total) <= 2  # each layer rounds once
        assert summary["active_weights"] == summary["requested_weights"] == asked
        assert all(layer["active"] == [layer["requested"]] * 2 for layer in summary["layers"])
        assert all(r["active_weights"] == [asked] * 2 for r in records(tmp_path, "train"))
    updates = records(tmp_path, "mask_update")
    fixed = method in ("dense", "static")
    # Every 4 steps before 75 % of 48.
    assert [r["step"] for r in updates] == ([] if fixed else list(range(4, 36, 4)))
    assert [r["update"] for r in updates] == list(range(1, len(updates) + 1))
    for record in updates:
        assert record["active"] == {path: [count] * 2 for path, count in record["requested"].items()}
    assert summary["mask_updates"] == len(updates)
    assert [r["step"] for r in records(tmp_path, "train")] == [16, 32, 48]
    assert all(np.isfinite(r["loss"]).all() for r in records(tmp_path, "train"))
    tests = [r for r in records(tmp_path, "eval") if r["split"] == "test"]
    assert [(r["step"], r["accuracy"]) for r in tests] == [(48, summary["test_accuracy"])]
    assert len(summary["test_accuracy"]) == 2 == len(summary["exploration_rate"])


def follow(method, small, tmp_path):
    """A run, checked by what the method promises of its numbers of active weights."""
    summary = train_and_evaluate(small(method=method), tmp_path, quiet=True)
    counts = dstjax.methods.get(method, **arguments(method)).promises
    asked = sum(layer["requested"] for layer in summary["layers"])
    active = sum(layer["active"][0] for layer in summary["layers"])
    assert summary["active_weights"] == (active or 64 * 16 + 16 * 10)
    assert summary["density"] == summary["active_weights"] / summary["weights"]
    if counts in ("kept", "reached"):
        assert all(layer["active"] == [layer["requested"]] for layer in summary["layers"])
    if counts == "total":
        assert active == asked
    assert all(np.isfinite(r["loss"]).all() for r in records(tmp_path, "train"))
    assert all(summary["cost"][k] > 0 for k in ("dense_forward", "inference", "training_paper", "training_exact"))
    return summary


def arguments(method):
    known = dstjax.methods.hyperparameters(method)
    given = dict(sparsity=0.8, update_period=4, end_step=36, prune_step=24)
    return {n: v for n, v in given.items() if n in known}


@few(3)
@pytest.mark.parametrize("method", [*KINDS, *map(slow, sorted({*dstjax.methods.names()} - {*KINDS}))])
def test_a_method_of_each_kind_trains(method, small, tmp_path):
    summary = follow(method, small, tmp_path)
    if method in ("accset", "lset"):
        assert summary["active_weights"] < summary["requested_weights"]
    if method in ("gmp", "sis"):
        assert records(tmp_path, "train")[0]["active_weights"][0] > summary["active_weights"]


@pytest.mark.parametrize("shard_params", [True, slow(False)])
def test_eight_devices_give_the_masks_and_the_numbers_of_one(shard_params, small, tmp_path):
    """The batch spread over them, and the parameters too; metrics to rounding."""
    alone = train_and_evaluate(small(method="dst_ee"), tmp_path / "one", quiet=True)
    config = small(method="dst_ee", devices=8, shard_params=shard_params)
    together = train_and_evaluate(config, tmp_path / "eight", quiet=True)
    assert together["layers"] == alone["layers"]
    assert together["test_accuracy"] == alone["test_accuracy"]
    np.testing.assert_allclose(together["test_loss"], alone["test_loss"], rtol=1e-4)
    with np.load(tmp_path / "one/masks.npz") as a, np.load(tmp_path / "eight/masks.npz") as b:
        np.testing.assert_array_equal(a["final"], b["final"])


def test_micro_batches_give_the_same_step(small, tmp_path):
    whole = train_and_evaluate(small(method="dst_ee"), tmp_path / "whole", quiet=True)  # compiled above
    parts = train_and_evaluate(small(method="dst_ee", accumulate=4), tmp_path / "parts", quiet=True)
    np.testing.assert_allclose(parts["test_loss"], whole["test_loss"], rtol=1e-3)


def test_computing_in_bfloat16(small, tmp_path):
    summary = train_and_evaluate(small(method="rigl", model__dtype="bfloat16"), tmp_path, quiet=True)
    assert np.isfinite(summary["test_loss"]).all()


def test_epochs_warm_up_and_steps_of_the_learning_rate(small):
    config = small(steps=None, epochs=2.5, optimizer__schedule="steps", optimizer__warmup_steps=4)
    config.optimizer.milestones, config.optimizer.factor = (0.5, 0.75), 0.1
    plan = configuration.plan(config)
    assert plan.steps == 40  # 16 batches in an epoch
    rates = [float(plan.schedule(t)) for t in (0, 2, 4, 19, 21, 31)]
    np.testing.assert_allclose(rates, [0, 0.05, 0.1, 0.1, 0.01, 0.001], rtol=1e-5)
    for wrong, message in ((dict(epochs=None), "give one of them"), (dict(steps=3), "give one of them")):
        bad = small(steps=None, epochs=2.5)
        for name, value in wrong.items():
            bad[name] = value
        with pytest.raises(ValueError, match=message):
            configuration.plan(bad)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(devices=9), "devices=9 is not accepted; there are 8"),
        (dict(devices=3), "batch_size=64 is not accepted with 3 devices"),
        (dict(accumulate=7), "accumulate=7 is not accepted"),
        (dict(devices=2, seeds_mode="vmap"), "seeds_mode='vmap' is not accepted"),
        (dict(label_smoothing=1.0), "label_smoothing=1.0 is not accepted"),
        (dict(structure="n_m(2"), "structure='n_m"),
        (dict(structure="block(2, 2, even=True)"), "structure='block.*is not accepted.*'even'"),
        (dict(structure="block(2, size)"), r"structure='block\(2, size\)' is not known"),
        (dict(structure="channels(budget=2.0)"), r"budget=2.0 is not accepted; expected a share of the dense cost"),
        (dict(structure="channels(costs='no.json')"), r"no.json is no table of latencies .*; expected one"),
        (dict(method="halp"), r"structure=None is not accepted by 'halp'; expected structures.channels"),
        (dict(maskable="(Dense"), "maskable='\\(Dense' is not accepted; as a regular expression of paths it fails"),
        (dict(optimizer__warmup_steps=48), "warmup_steps=48 is not accepted"),
        (dict(update_period=25, end_step=100, steps=24), "the first mask update of .* is that of step 25"),
        (dict(start_step=60, end_step=100), "the first mask update of .* is that of step 60"),
        (dict(method="asp", sparsity=None, prune_step=49), "the first mask update of 'asp' is that of step 49"),
        (dict(method="gmp", end_step=53), "'gmp' has its final sparsity at step 52, and the training has 48 steps"),
        (dict(method="str", end_step=53), "'str' has its final sparsity"),
        (dict(method="iee", update_period=6, end_step=60), "'iee' has its final sparsity at step 60"),
        (dict(method="sis", prune_step=48), "'sis' has its final sparsity at step 48, .* expected .* of at most 47"),
        (dict(model__dtype="float64"), "not accepted without JAX_ENABLE_X64=1"),
        (dict(model__dtype="float8_e4m3fn"), "expected one of 16 bits or more"),
    ],
)
def test_what_is_wrong_with_a_config_of_the_loop(fields, message, small):
    with pytest.raises(ValueError, match=message):
        configuration.plan(small(**fields))


@pytest.mark.parametrize(
    "fields", [dict(end_step=100), dict(method="gmp", end_step=49), dict(method="set", end_step=100)]
)
def test_a_training_may_end_before_the_masks_stand_still(fields, small):
    assert configuration.plan(small(**fields)).steps == 48


def test_structures_are_written_as_calls():
    assert rules.resolved("structure", "block(4, 2, balanced=True)") == dstjax.structures.block(4, 2, balanced=True)
    assert rules.resolved("structure", " n_m(2, 4) ") == dstjax.structures.n_m(2, 4)


def test_maskable_is_a_pattern_of_paths(small):
    plan = configuration.plan(small(maskable="^(?!Dense_1/)"))
    params = {"Dense_0": {"kernel": jnp.ones((8, 8)), "bias": jnp.ones(8)}, "Dense_1": {"kernel": jnp.ones((8, 8))}}
    masks = dstjax.get_masks(plan.make_tx(0).init(params))
    assert masks["Dense_0"]["kernel"] is not None
    assert masks["Dense_0"]["bias"] is None
    assert masks["Dense_1"]["kernel"] is None


@pytest.mark.parametrize("method", ["dst_ee", *map(slow, ("rigl", "set", "dense"))])
def test_vmap_and_one_after_the_other_give_the_same_numbers(method, small, files, tmp_path):
    """The same masks and answers; losses and sums over whole layers to the rounding of differently fused programs."""
    for mode in ("vmap", "sequential"):
        train_and_evaluate(small(method=method, seeds=(3, 1), seeds_mode=mode), tmp_path / mode, quiet=True)
    vmap, sequential = files(tmp_path / "vmap"), files(tmp_path / "sequential")
    assert vmap["masks"] == sequential["masks"]
    assert vmap["summary"].pop("seeds_mode") == "vmap"
    assert sequential["summary"].pop("seeds_mode") == "sequential"
    assert vmap["summary"].pop("files").keys() == sequential["summary"].pop("files").keys()  # checksums of losses too
    assert vmap["summary"].pop("run") != sequential["summary"].pop("run")
    rounded = ("loss", "test_loss", "validation_loss", "mask_error")
    pairs = zip(records(tmp_path / "vmap"), records(tmp_path / "sequential"), strict=True)
    for a, b in [*pairs, (vmap["summary"], sequential["summary"])]:
        for name in [name for name in rounded if name in a]:
            np.testing.assert_allclose(a.pop(name), b.pop(name), rtol=1e-5)
        assert a == b


@pytest.mark.slow
def test_vmap_and_one_after_the_other_give_the_same_bits_for_the_network_of_the_digits_config(small):
    plan = configuration.plan(small(model__sizes=(300, 100), seeds=2))
    states = []
    for mode in ("vmap", "sequential"):
        trainer = Trainer(plan.model, plan.make_tx, plan.method, plan.data, plan.seeds, mode, 64)
        trainer.epoch(0, 16)
        state = trainer.state()
        tracked = state.opt_state.tracked._replace(error=None)  # a sum over whole layers
        states.append(state._replace(opt_state=state.opt_state._replace(tracked=tracked)))
    jax.tree.map(np.testing.assert_array_equal, *states)


@pytest.mark.slow
def test_the_convolutional_network_trains(small, tmp_path):
    config = small(model__name="conv", model__sizes=(16,), optimizer__name="adamw", optimizer__learning_rate=0.03)
    config.steps, config.update_period, config.sparsity = 96, 32, 0.5
    summary = train_and_evaluate(config, tmp_path, quiet=True)
    assert summary["test_accuracy"][0] > 0.5
    shapes = {layer["path"]: layer["shape"] for layer in summary["layers"]}
    first, second = "ShiftedConv_0/kernel", "ShiftedConv_1/kernel"
    assert shapes == {"Dense_0/kernel": [16, 10], first: [3, 3, 1, 16], second: [3, 3, 16, 16]}


def test_the_data_order_depends_on_seed_and_epoch_alone(small):
    plan = configuration.plan(small(seeds=(5, 6)))
    trainer, again = (
        Trainer(plan.model, plan.make_tx, plan.method, plan.data, seeds, "sequential", 64).feed
        for seeds in (plan.seeds, [6])
    )
    np.testing.assert_array_equal(trainer.order(1, 7), again.order(0, 7))
    assert (trainer.order(1, 7) != trainer.order(1, 8)).any()
    assert (trainer.order(1, 7) != trainer.order(0, 7)).any()
    assert len(np.unique(trainer.order(0, 0))) == 16 * 64
    assert set(trainer.order(0, 0).ravel()) <= {*trainer.splits[0].train}


def test_a_loss_that_is_not_finite_stops_the_run_with_status_1(tmp_path, capsys):
    arguments = ["--config", DIGITS, "--workdir", str(tmp_path), *TINY, "--config.optimizer.learning_rate=1e30"]
    assert train.main(arguments) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(
        r"error: the gradient is not finite \(seed 0: \d+ steps, the first of them step [2-9], leaf '.*'\); a smaller "
        r"learning rate may help, and --config\.on_nonfinite=skip leaves such steps out\.\n",
        error,
    )
    assert not (tmp_path / "summary.json").exists()


def test_steps_that_are_not_finite_are_left_out_where_that_is_asked_for(tmp_path, capsys):
    """At this rate the first step overflows the next loss; nothing after it is taken."""
    arguments = ["--config", DIGITS, "--workdir", str(tmp_path), *TINY, "--config.optimizer.learning_rate=1e30"]
    assert train.main([*arguments, "--config.on_nonfinite=skip"]) == 0
    assert re.search(r"skipped steps whose gradient is not finite \(seed 0: \d+ steps", capsys.readouterr().err)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if record["kind"] == "train"]
    assert losses[0][0] > 0
    assert losses[-1] == [None]  # the mean of no step
    assert all(record["strays"] == 0 for record in records if "strays" in record)


def test_tensorboard_events_are_written_when_asked(small, tmp_path):
    train_and_evaluate(small(seeds=(0, 7), tensorboard=True), tmp_path / "with", quiet=True)
    (events,) = (tmp_path / "with" / "tensorboard").iterdir()
    content = events.read_bytes()
    for tag in (b"train/loss/seed_7", b"eval_test/accuracy/seed_0", b"mask_update/exploration_rate/seed_7"):
        assert tag in content
    train_and_evaluate(small(), tmp_path / "without", quiet=True)
    assert not (tmp_path / "without" / "tensorboard").exists()


def test_a_growth_rule_of_three_lines(tmp_path, monkeypatch, capsys):
    config = f"{Path(DIGITS).absolute()}"
    (tmp_path / "my_rules.py").write_text(
        "import jax.numpy as jnp\n"
        "def top_left(leaf):\n"
        "    return -jnp.arange(leaf.weight.size).reshape(leaf.weight.shape)\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = ["--config", config, "--workdir", "run", *TINY, "--config.grow=my_rules:top_left"]
    assert train.main(arguments) == 0
    assert "test accuracy" in capsys.readouterr().out
    with np.load("run/masks.npz") as archive:
        assert archive["final"][0, 0].all()
        assert not archive["initial"][0, 0].all()


def test_the_config_is_locked_and_serialisable():
    config = digits.get_config()
    assert config.is_locked
    with pytest.raises(AttributeError):
        config.sparcity = 0.5
    with pytest.raises(TypeError):
        config.batch_size = 2.5
    assert json.loads(config.to_json())["method"] == "rigl"


def test_hyperparameters_reach_the_method(small):
    def made(**fields):
        return configuration.plan(small(**fields)).method

    by_map = made(distribution='{"Dense_0/kernel": 0.25, ".*": 0.5}')
    assert dict(by_map.masking.distribution) == {"Dense_0/kernel": 0.25, ".*": 0.5}
    assert made(method="set", epsilon=5.0).masking.sparsity is None
    assert made(method="rigl", update_order="step_then_update").updates.order == "step_then_update"
    assert made(end_step=40).updates.schedule.end_step == 40
    assert made(end_percent=50.0).updates.schedule.end_step == 24
    assert made(grow="random", drop="snip").updates.grow_score is dstjax.criteria.random

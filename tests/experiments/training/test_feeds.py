"""Batches from memory and from files, on one device and on several."""

import jax
import numpy as np
import optax
import pytest

import dstjax
from experiments import models, tasks
from experiments.data import Stream
from experiments.training import feeds, steps
from experiments.training.trainer import Trainer

METHOD = dstjax.methods.rigl(sparsity=0.5, update_period=3, end_step=20)


def images(n, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n).astype(np.int32)
    noise = rng.standard_normal((n, 4, 4, 1)) * 0.3
    return [((labels[i] + noise[i]).astype(np.float32), labels[i]) for i in range(n)]


def stream(n=40):
    def plain(raw):
        return {"x": raw[0], "y": raw[1]}

    def augmented(raw, rng):
        return {"x": raw[0] + rng.standard_normal(raw[0].shape).astype(np.float32) * 0.01, "y": raw[1]}

    return Stream(images(n, 0), images(11, 1), images(13, 2), augmented, plain, 3, (4, 4, 1), "made by the test")


def trainer(seeds=(0, 1), devices=None, **options):
    def make_tx(seed, initial_masks=None):
        rate = steps.scale_at_step(optax.constant_schedule(0.1))
        return dstjax.sparsify(rate, METHOD, seed=seed, track=("exploration", "survival", "error"))

    model = models.make("mlp", classes=3, sizes=(8,))
    return Trainer(model, make_tx, METHOD, stream(), seeds, "sequential", 8, devices=devices, **options)


@pytest.fixture(scope="module")
def whole():
    run = trainer()
    return run, [run.epoch(0, 5), run.epoch(1, 5)]


def test_a_stream_trains_and_every_sample_is_evaluated_once(whole):
    run, epochs = whole
    assert run.batches == 5
    assert [step for step, _ in epochs[0].mask_updates] == [3]
    assert [step for step, _ in epochs[1].mask_updates] == [6, 9]
    assert epochs[1].loss.mean() < epochs[0].loss.mean()
    loss, accuracy = run.evaluate("test")
    for i in range(2):
        state = run.network(i)
        params = dstjax.forward_params(state.params, state.opt_state)
        x, y = (np.stack(v) for v in zip(*images(13, 2), strict=True))
        logits = run.model.apply({"params": params}, x, train=False)
        assert accuracy[i] == pytest.approx(np.mean(np.argmax(logits, -1) == y))
        assert loss[i] == pytest.approx(float(tasks.losses(logits, y).mean()), rel=1e-5)


def test_a_stream_goes_on_where_another_run_has_stopped(whole):
    run, _ = whole
    again = trainer()
    again.epoch(0, 5)
    state = again.state()
    third = trainer()
    third.set_state(state)
    third.epoch(1, 5)
    jax.tree.map(np.testing.assert_array_equal, third.state(), run.state())


def test_a_stream_over_devices_gives_the_same_masks(whole):
    run, _ = whole
    spread = trainer(devices=jax.devices()[:4])
    for number in (0, 1):
        spread.epoch(number, 5)
    for i in range(2):
        masks = [dstjax.get_masks(t.network(i).opt_state) for t in (run, spread)]
        jax.tree.map(np.testing.assert_array_equal, *masks)
    np.testing.assert_allclose(spread.evaluate("validation")[0], run.evaluate("validation")[0], rtol=1e-4)


def test_parameters_are_spread_along_their_largest_axis():
    put = feeds.placing_params(jax.devices()[:4], spread=True)
    tree = put({"a": np.zeros((64, 128), np.float32), "b": np.zeros(6, np.float32), "c": np.zeros((2, 4), np.float32)})
    assert tree["a"].sharding.spec == jax.P(None, "data")
    assert tree["b"].sharding.is_fully_replicated
    assert tree["c"].sharding.is_fully_replicated  # too small to be worth it

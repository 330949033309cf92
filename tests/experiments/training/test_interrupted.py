"""A run that a signal ends in the middle of an epoch goes on bit for bit; so does one on other devices, to rounding."""

import contextlib
import json
import signal

import numpy as np
import pytest

from experiments import stopping, train
from experiments.training import trainer
from experiments.training.partial import Begun, Pace, from_text, to_text
from experiments.training.run import train_and_evaluate
from tests.thorough import slow

COMMAND = ["--config", "experiments/configs/digits.py", "--config.model.sizes=(16,)", "--config.steps=48"]


@pytest.fixture
def signals(monkeypatch):
    """Makes the loop look for a signal after each piece, of few steps, and find one at the times given."""

    class Short(Pace):
        def __init__(self):
            super().__init__()
            self.size = 3

        def due(self, steps):
            return True

        def took(self, seconds):
            pass

    monkeypatch.setattr(trainer, "Pace", Short)
    left = []

    @contextlib.contextmanager
    def deferred():
        count = [left.pop(0) if left else 10**9]

        def asked():
            count[0] -= 1
            return 0 if count[0] > 0 else signal.SIGTERM

        yield asked

    monkeypatch.setattr(stopping, "deferred", deferred)
    return left


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "dst_ee", "seeds": 2},
        {"method": "set", "update_period": 1},  # nothing but mask updates until they end
        *map(
            slow,
            (
                {"method": "rigl", "seeds": 2, "seeds_mode": "vmap"},
                {"method": "dense"},
                {"method": "sis", "update_period": None},
                {"method": "iee", "update_period": 12, "stages": (4, 4, 4)},
                {"method": "accset"},
                {"method": "dcil"},
            ),
        ),
    ],
)
def test_a_run_stopped_within_an_epoch_goes_on_bit_for_bit(fields, small, signals, files, tmp_path):
    config = small(checkpoint_every_epochs=100, **fields)
    train_and_evaluate(config, tmp_path / "whole", quiet=True)
    signals += [3, 2, 1, 1]
    steps = []
    for _ in range(4):
        with pytest.raises(stopping.Interrupted, match="saved at step") as raised:
            train_and_evaluate(config, tmp_path / "run", quiet=True)
        steps.append(int(raised.value.said.split()[-1]))
    assert steps == sorted({*steps})
    assert any(step % 16 for step in steps)
    train_and_evaluate(config, tmp_path / "run", quiet=True)
    assert files(tmp_path / "run") == files(tmp_path / "whole")


def test_the_command_says_so_in_a_line(signals, tmp_path, capsys):
    signals.append(2)
    assert train.main([*COMMAND, "--workdir", str(tmp_path / "run")]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err.startswith("SIGTERM: saved at step ")


def test_a_half_epoch_is_kept_to_the_last_bit():
    rng = np.random.default_rng(0)
    topology = {"active": np.int32([[3, 4]]), "mask_error": np.float32([np.nan]), "survival_rate": np.float32([1 / 3])}
    begun = Begun(
        7,
        rng.random(2).astype(np.float32),
        np.int32([5, 6]),
        np.int32([[0, 0, 0], [2, 5, 1]]),
        [(4, topology), (8, topology)],
    )
    found = from_text(to_text(begun))
    assert found.done == 7
    np.testing.assert_array_equal(found.loss, begun.loss)
    assert [step for step, _ in found.mask_updates] == [4, 8]
    for _, again in found.mask_updates:
        for name, value in topology.items():
            assert again[name].dtype == value.dtype
            np.testing.assert_array_equal(again[name], value)


@pytest.mark.parametrize("numbers", [(8, 1), *map(slow, ((1, 8), (8, 4, 2), (4, 8)))])
def test_a_run_goes_on_with_another_number_of_devices(numbers, small, signals, tmp_path):
    train_and_evaluate(small(), tmp_path / "whole", quiet=True)
    signals += [3] * (len(numbers) - 1)
    for number in numbers[:-1]:
        with pytest.raises(stopping.Interrupted):
            train_and_evaluate(small(devices=number, shard_params=True), tmp_path / "run", quiet=True)
    train_and_evaluate(small(devices=numbers[-1]), tmp_path / "run", quiet=True)
    found = [json.loads((tmp_path / run / "summary.json").read_text()) for run in ("run", "whole")]
    with np.load(tmp_path / "run" / "masks.npz") as a, np.load(tmp_path / "whole" / "masks.npz") as b:
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name])
    np.testing.assert_allclose(found[0]["test_loss"], found[1]["test_loss"], rtol=1e-3)

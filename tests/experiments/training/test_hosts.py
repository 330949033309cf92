"""Two processes of two devices each train what one process does."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments import data, train
from experiments.data import Dataset, Stream
from experiments.training import configuration, hosts
from experiments.training.workdir import claim
from tests.faults import signals
from tests.faults.lab import Lab

ROOT = Path(__file__).parents[3]
FIELDS = {
    **{"model.sizes": "(16,)", "steps": "48", "update_period": "4", "sparsity": "0.8"},
    **{"eval_every_epochs": "1", "checkpoint_every_epochs": "1"},
}
# The command, for data that are read from files where asked, and killed after a checkpoint where asked.
RUN = """
import os, sys
sys.path.insert(0, sys.argv[1])
from experiments import train
from experiments.training import checkpoint, hosts
import test_hosts
if "streamed" in sys.argv[2]:
    test_hosts.stream_digits()
if "killed" in sys.argv[2]:
    save = checkpoint.Checkpoints.save
    def save_and_die(self, step, *rest):
        save(self, step, *rest)
        if step == 32:
            self.wait()
            hosts.together(lambda: None)
            os._exit(9)
    checkpoint.Checkpoints.save = save_and_die
sys.exit(train.main(sys.argv[3:]))
"""


def stream_digits():
    """Makes the digits a data set that is read batch by batch."""
    whole = data.load("digits")
    split = whole.split(0)
    parts = [[(whole.x[i], whole.y[i]) for i in rows] for rows in (split.train, split.validation, split.test)]

    def plain(raw):
        return {"x": raw[0], "y": raw[1]}

    def augmented(raw, rng):
        return {"x": raw[0] + rng.standard_normal(raw[0].shape).astype(np.float32) * 0.1, "y": raw[1]}

    made = Stream(*parts, augmented, plain, 10, whole.x.shape[1:], "digits, read one by one")
    data.DATASETS["digits"] = Dataset({"paper": "as in memory"}, stream=lambda root, protocol: made)


def arguments(workdir, **fields):
    given = {**FIELDS, "devices": "all", **fields}
    config = ["--config", str(ROOT / "experiments/configs/digits.py"), "--workdir", str(workdir)]
    return [*config, *(f"--config.{name}={value}" for name, value in given.items())]


def two(commands, how="in memory"):
    """Exit status, output and errors of the processes that are given these arguments."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    common = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": "2",
        "PYTHONPATH": str(ROOT),
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RUN, str(Path(__file__).parent), how, *command],
            env={**common, "JAX_PROCESS_ID": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i, command in enumerate(commands)
    ]
    try:
        results = [p.communicate(timeout=240) for p in started]
    finally:
        for p in started:
            p.kill()
    return [(p.returncode, *texts) for p, texts in zip(started, results, strict=True)]


def assert_same_but_for_rounding(one, other):
    """The files of two runs: all that is counted is equal, all that is measured nearly so."""
    with np.load(one / "masks.npz") as a, np.load(other / "masks.npz") as b:
        assert a.files == b.files
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name])
    runs = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, other)]
    for run, records in zip((one, other), runs, strict=True):
        summary = json.loads((run / "summary.json").read_text())
        records.append({name: value for name, value in summary.items() if name not in ("seconds", "sha256", "files")})
    for a, b in zip(*runs, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            if name in ("loss", "mask_error", "test_loss", "validation_loss"):
                np.testing.assert_allclose(a[name], b[name], rtol=1e-3, atol=1e-7)
            else:
                assert a[name] == b[name], name


def said(out):
    """What a process prints, without what gloo does."""
    return [line for line in out.splitlines() if "Gloo" not in line and "peer ranks" not in line]


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"method": "rigl", "steps": "24", "shard_params": "True", "model.sizes": "(64,)"},
        {"method": "rigl", "seeds": "2"},
        {"method": "dst_ee", "accumulate": "2", "tensorboard": "True"},
        {"method": "snip", "update_period": "None", "shard_params": "True", "model.sizes": "(64,)"},
        {"method": "sis", "update_period": "None", "model.sizes": "(64,)"},
        {"method": "dpf"},
    ],
)
def test_two_processes_train_what_one_does(fields, tmp_path):
    one, both = tmp_path / "one", tmp_path / "two"
    first, second = two([arguments(both, **fields), arguments(tmp_path / "not seen by process 0", **fields)])
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert said(first[1])[-1].startswith("test accuracy ")
    assert said(second[1]) == []
    assert not (tmp_path / "not seen by process 0").exists()
    assert train.main(arguments(one, **fields, devices=1)) == 0
    assert_same_but_for_rounding(one, both)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_two_processes_share_streamed_data_and_go_on_where_they_were_killed(killed, tmp_path, monkeypatch):
    one, both = tmp_path / "one", tmp_path / "two"
    fields = {} if killed else {"steps": "24"}
    if killed:
        results = two([arguments(both)] * 2, "streamed, killed")
        assert [status for status, *_ in results] == [9, 9], results
    first, second = two([arguments(both, **fields)] * 2, "streamed")
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert ("going on from the checkpoint at step 32." in first[1]) == killed
    monkeypatch.setitem(data.DATASETS, "digits", data.DATASETS["digits"])  # put back after the test
    stream_digits()
    assert train.main(arguments(one, devices=1, **fields)) == 0
    assert_same_but_for_rounding(one, both)


@pytest.mark.slow
def test_a_workdir_in_use_ends_both_processes(tmp_path):
    config, _, _ = train.parse(arguments(tmp_path))
    with claim(tmp_path, configuration.identity(config)):
        first, second = two([arguments(tmp_path)] * 2)
    assert (first[0], second[0]) == (2, 2)
    assert f"error: workdir {tmp_path} is in use by another process.\n" in first[2]
    assert "error: process 0 has failed; its own error says why.\n" in second[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (({"sparsity": "0.8"}, {"sparsity": "0.9"}), "process 0 differ in sparsity (0.8 there, 0.9 now)"),
        (({"devices": "2"}, {"devices": "2"}), "devices=2 is not accepted with 2 processes; expected 'all', their 4"),
        (({"batch_size": "66"}, {"batch_size": "66"}), "batch_size=66 is not accepted with 4 devices"),
    ],
)
def test_processes_that_do_not_fit_each_other_end(fields, message, tmp_path):
    results = two([arguments(tmp_path, **f) for f in fields])
    assert [status for status, *_ in results] == [2, 2]
    assert message in results[1][2]


@pytest.mark.parametrize(
    ("distributed", "environment", "message"),
    [
        ("yes", {}, "distributed='yes'"),
        ("environment", {"JAX_PROCESS_ID": "1"}, "without JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES; expected all"),
        ("environment", dict(zip(hosts.VARIABLES, ("host", "2", "0"), strict=True)), "expected host:port"),
        ("environment", dict(zip(hosts.VARIABLES, ("host:1", "2", "2"), strict=True)), "counted from 0"),
        ("environment", dict(zip(hosts.VARIABLES, ("host:1", "two", "0"), strict=True)), "expected a number"),
    ],
)
def test_an_environment_that_makes_no_sense_is_refused(distributed, environment, message):
    with pytest.raises(ValueError, match=message):
        hosts.join(distributed, environment)


def test_one_process_stays_alone():
    hosts.join("environment", {})
    hosts.join("environment", dict(zip(hosts.VARIABLES, ("host:1", "1", "0"), strict=True)))
    assert not hosts.several()
    assert hosts.is_first()


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_where_one_process_is_killed_the_other_ends_in_a_line(victim, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # back to where it was in the end: the lab goes elsewhere
    lab = Lab(tmp_path / "lab", whole=False)
    pair = signals.two(lab, tmp_path / "run")
    signals.until_begun(pair[0], tmp_path / "run", 3)
    pair[victim].send(signal.SIGKILL)
    began = time.monotonic()
    pair[victim].end()
    other = pair[1 - victim].end()
    assert time.monotonic() - began < 30
    assert other.status == 2
    assert other.err.strip().splitlines()[-1].startswith("error: another process of this run has ended")
    assert "Traceback" not in other.err

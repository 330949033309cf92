"""A run that was interrupted at any moment ends as one that was not."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from experiments import train
from experiments.training import configuration, inputs
from experiments.training.checkpoint import Checkpoints
from experiments.training.recording import Metrics
from experiments.training.run import train_and_evaluate
from experiments.training.trainer import Trainer
from tests.thorough import slow

COMMAND = [
    *(sys.executable, "-m", "experiments.train", "--config", "experiments/configs/digits.py"),
    *("--config.method=dst_ee", "--config.sparsity=0.9", "--config.model.sizes=(32,)", "--config.seeds=2"),
    *("--config.update_period=5", "--config.eval_every_epochs=3", "--config.checkpoint_every_epochs=2"),
]


def assert_same(config, workdir, reference, files):
    """The files are the same, and so are parameters, masks, counters and moments in the last checkpoint."""
    assert files(workdir) == files(reference)
    plan = configuration.plan(config)
    trainer = Trainer(plan.model, plan.make_tx, plan.method, plan.data, plan.seeds, plan.mode, config.batch_size)
    read = inputs.fingerprints(plan.data, plan.seeds, plan.rules)
    like, identity = trainer.state(), configuration.without_display(configuration.identity(config))
    states = []
    for run in (workdir, reference):
        checkpoints = Checkpoints(run / "checkpoints", identity, read)
        step, state, _, damaged = checkpoints.restore(like)
        checkpoints.close()
        assert (step, damaged) == (config.steps, [])
        states.append(state)
    jax.tree.map(np.testing.assert_array_equal, *states)


@pytest.fixture
def images(monkeypatch, tmp_path):
    """Runs a config and keeps what the disk holds at many moments: just as a kill at each of them would leave it."""

    def run(config, workdir):
        places = []

        def snapshot():
            place = tmp_path / "images" / str(len(places))
            while not place.exists():
                try:
                    shutil.copytree(workdir, place)
                except shutil.Error:  # a checkpoint is renamed in the background when it is whole: copy again
                    shutil.rmtree(place)
            places.append(place)

        def after(function):
            def wrapped(self, *args, **kwargs):
                result = function(self, *args, **kwargs)
                snapshot()
                return result

            return wrapped

        with monkeypatch.context() as patch:
            patch.setattr(Metrics, "write", after(Metrics.write))
            patch.setattr(Checkpoints, "save", after(Checkpoints.save))
            train_and_evaluate(config, workdir, quiet=True)
        return places

    return run


def check_images(config, workdir, places, files):
    for place in places:
        if int(place.name) % 2:  # a line half written
            with (place / "metrics.jsonl").open("ab") as file:
                file.write(b'{"kind": "tra')
        train_and_evaluate(config, place, quiet=True)
        assert_same(config, place, workdir, files)


def test_a_run_stopped_at_any_of_four_moments_ends_as_one_that_was_not(small, images, files, tmp_path):
    config = small(method="dst_ee", seeds=2, checkpoint_every_epochs=1)
    places = images(config, tmp_path / "run")
    assert len(places) > 12
    check_images(config, tmp_path / "run", places[:: len(places) // 3], files)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sequential", "vmap"])
@pytest.mark.parametrize("method", ["rigl", "set", "dense"])
def test_a_run_stopped_at_any_moment_ends_as_one_that_was_not(method, mode, small, images, files, tmp_path):
    config = small(method=method, seeds=2, seeds_mode=mode, steps=90, checkpoint_every_epochs=2)
    check_images(config, tmp_path / "run", images(config, tmp_path / "run"), files)


def kill_once(command, workdir, lines):
    """Starts a run and kills it as soon as it has written that many records."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
    metrics = workdir / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_bytes().count(b"\n") >= lines):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run was over before it could be killed"


def run_whole(command):
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment())


def environment():
    """That of the tests, with their store of compiled programs."""
    cache = str(jax.config.jax_compilation_cache_dir)
    return {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def test_a_run_killed_with_sigkill_ends_as_one_that_was_not(files, tmp_path, capsys):
    command = [*COMMAND, "--config.steps=800"]
    killed = [*command, f"--workdir={tmp_path / 'killed'}"]
    kill_once(killed, tmp_path / "killed", 20)
    for workdir in ("killed", "whole"):
        capsys.readouterr()
        assert train.main([*command[3:], f"--workdir={tmp_path / workdir}"]) == 0
        assert ("going on from the checkpoint at step" in capsys.readouterr().out) == (workdir == "killed")
    config, _, _ = train.parse(killed[3:])
    assert_same(config, tmp_path / "killed", tmp_path / "whole", files)


@pytest.mark.slow
def test_a_run_killed_twice_with_sigkill_ends_as_one_that_was_not(files, tmp_path):
    command = [*COMMAND, "--config.steps=1600"]
    run_whole([*command, f"--workdir={tmp_path / 'whole'}"])
    killed = [*command, f"--workdir={tmp_path / 'killed'}"]
    kill_once(killed, tmp_path / "killed", 20)
    kill_once(killed, tmp_path / "killed", 150)
    output = run_whole(killed).stdout
    assert "going on from the checkpoint at step" in output
    config, _, _ = train.parse([*killed[3:]])
    assert_same(config, tmp_path / "killed", tmp_path / "whole", files)


@pytest.mark.slow
def test_a_run_killed_at_random_times_ends_as_one_that_was_not(files, tmp_path):
    command = [*COMMAND, "--config.steps=6400"]
    run_whole([*command, f"--workdir={tmp_path / 'whole'}"])
    killed = [*command, f"--workdir={tmp_path / 'killed'}"]
    generator = random.Random(0)
    kills = 0
    while not (tmp_path / "killed" / "summary.json").exists() and kills < 12:
        process = subprocess.Popen(killed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
        try:
            process.wait(timeout=3 + 6 * generator.random())
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        process.wait()
    assert kills > 1
    run_whole(killed)
    config, _, _ = train.parse([*killed[3:]])
    assert_same(config, tmp_path / "killed", tmp_path / "whole", files)


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    config, workdir = small(method="dst_ee"), tmp_path_factory.mktemp("finished") / "whole"
    train_and_evaluate(config, workdir, quiet=True)
    return config, workdir


@pytest.fixture
def interrupted(finished, tmp_path):
    """A run that has checkpoints at steps 16, 32 and 48 and was killed before its summary."""
    config, workdir = finished
    shutil.copytree(workdir, tmp_path / "whole")
    shutil.copytree(workdir, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    (tmp_path / "run" / "masks.npz").unlink()
    return config, tmp_path / "run", tmp_path / "whole"


def damage(checkpoint, how):
    files = sorted((path for path in checkpoint.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    if how == "empty":
        for path in files:
            path.write_bytes(b"")
    elif how == "truncated":
        for path in files:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "flipped":  # one bit of each file of arrays; which of them are read depends on how they were written
        for path in (checkpoint / "tree").rglob("d/*"):
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
    elif how == "no record":
        shutil.rmtree(checkpoint / "meta")
    elif how == "no arrays":
        shutil.rmtree(checkpoint / "tree")
    else:
        shutil.rmtree(checkpoint)
        checkpoint.mkdir()


@pytest.mark.parametrize(
    "how",
    ["flipped", "no record", *map(slow, ("empty", "truncated", "no arrays", "empty folder"))],
)
def test_a_damaged_checkpoint_is_named_and_the_newest_whole_one_taken(how, interrupted, files, capsys):
    config, workdir, whole = interrupted
    damage(workdir / "checkpoints" / "48", how)
    train_and_evaluate(config, workdir)
    output = capsys.readouterr()
    assert f"checkpoint {workdir}/checkpoints/48 is not usable" in output.err
    assert f"going on from {workdir}/checkpoints/32" in output.err
    assert "Traceback" not in output.err
    assert_same(config, workdir, whole, files)


def test_without_a_whole_checkpoint_the_run_does_not_start_over(interrupted, capsys):
    config, workdir, _ = interrupted
    for step in (16, 32, 48):
        damage(workdir / "checkpoints" / str(step), "truncated")
    before = (workdir / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"(?s)checkpoints/48 is not usable.*No whole checkpoint is left"):
        train_and_evaluate(config, workdir)
    assert (workdir / "metrics.jsonl").read_bytes() == before
    assert "Traceback" not in capsys.readouterr().err


def test_a_checkpoint_of_another_run_is_refused(small, interrupted, files, tmp_path, capsys):
    config, workdir, whole = interrupted
    train_and_evaluate(small(method="dst_ee", sparsity=0.75), tmp_path / "other", quiet=True)
    shutil.rmtree(workdir / "checkpoints" / "48")
    shutil.copytree(tmp_path / "other" / "checkpoints" / "48", workdir / "checkpoints" / "48")
    train_and_evaluate(config, workdir)
    assert "checkpoints/48 is not usable: it belongs to another run" in capsys.readouterr().err
    assert_same(config, workdir, whole, files)


def test_a_run_stopped_before_its_first_checkpoint_says_that_it_starts_from_the_beginning(interrupted, files, capsys):
    config, workdir, whole = interrupted
    for step in (16, 32, 48):
        shutil.rmtree(workdir / "checkpoints" / str(step))
    lines = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (workdir / "metrics.jsonl").write_text("".join(lines[:8]))
    train_and_evaluate(config, workdir, quiet=True)
    assert "starting from step 0" in capsys.readouterr().err
    assert_same(config, workdir, whole, files)


@pytest.mark.parametrize("what", ["checkpoints", "all of them"])
def test_a_run_whose_checkpoints_are_gone_does_not_start_over(what, interrupted):
    config, workdir, _ = interrupted
    before = (workdir / "metrics.jsonl").read_bytes()
    if what == "checkpoints":
        shutil.rmtree(workdir / "checkpoints")
    else:
        for step in (16, 32, 48):
            shutil.rmtree(workdir / "checkpoints" / str(step))
    with pytest.raises(ValueError, match=r"records up to step 48, and \S+checkpoints holds no checkpoint any more"):
        train_and_evaluate(config, workdir, quiet=True)
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_a_shortened_record_is_refused(interrupted):
    config, workdir, _ = interrupted
    (workdir / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"metrics\.jsonl is shorter than the checkpoint at step 48"):
        train_and_evaluate(config, workdir)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: {**tree, "a": tree["a"].astype(np.float32)}, r"leaf 'a' is uint8\[3\], expected float32\[3\]"),
        (lambda tree: {**tree, "a": np.zeros(4, np.uint8)}, r"leaf 'a' is uint8\[3\], expected uint8\[4\]"),
        (lambda tree: {**tree, "b": None}, r"leaf 'b' is float32\[2, 2\], expected missing"),
        (lambda tree: {**tree, "c": np.zeros(2)}, r"leaf 'c' is missing, expected float64\[2\]"),
    ],
)
def test_a_checkpoint_is_never_cast_or_cut_to_fit(change, message, tmp_path):
    tree = {"a": np.arange(3, dtype=np.uint8), "b": np.ones((2, 2), np.float32), "empty": np.zeros(0, np.int32)}
    checkpoints = Checkpoints(tmp_path, {"name": "x"})
    checkpoints.save(5, tree, {"note": 1})
    checkpoints.wait()
    with pytest.raises(ValueError, match=message):
        checkpoints.restore(change(tree))
    step, restored, record, damaged = checkpoints.restore(tree)
    assert (step, record, damaged) == (5, {"note": 1}, [])
    jax.tree.map(np.testing.assert_array_equal, restored, tree)
    checkpoints.close()

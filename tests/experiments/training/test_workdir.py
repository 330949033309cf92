"""The folder of a run: finished ones, those of other runs, and such as cannot be used."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from experiments.training import configuration, workdir
from experiments.training.run import train_and_evaluate
from experiments.training.workdir import claim


def test_a_finished_run_started_again_says_so_and_does_nothing(small, tmp_path, capsys):
    first = train_and_evaluate(small(), tmp_path)
    assert "Dense_0/kernel" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert train_and_evaluate(small(), tmp_path) == first
    assert "finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_workdir_of_another_run_is_refused_with_the_fields_that_differ(small, tmp_path):
    train_and_evaluate(small(), tmp_path, quiet=True)
    with pytest.raises(
        ValueError, match=r"another run; .*model\.sizes \(\[16\] there, \[8\] now\), sparsity \(0\.8 there"
    ):
        train_and_evaluate(small(sparsity=0.9, model__sizes=(8,)), tmp_path)
    train_and_evaluate(small(log_every_epochs=1), tmp_path, quiet=True)  # the display alone


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("metrics.jsonl", "{}", "without its config.json"), ("config.json", "{", "config.json cannot be read")],
)
def test_a_workdir_that_makes_no_sense_is_refused(name, content, message, small, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        train_and_evaluate(small(), tmp_path)


def test_a_workdir_that_cannot_be_made_is_refused(small, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is not usable"):
        train_and_evaluate(small(), tmp_path / "file" / "run")


@pytest.mark.parametrize(("inside", "said"), [(True, "workdir .* is not usable"), (False, "the run ended: Permission")])
def test_what_could_not_be_read_is_named(inside, said, tmp_path):
    place = tmp_path / "run" / "file" if inside else tmp_path / "data"
    with pytest.raises(ValueError, match=said), workdir.usable(tmp_path / "run"):
        raise PermissionError(13, "Permission denied", str(place))


def test_of_two_that_begin_at_once_one_has_the_workdir(tmp_path):
    """As many beginnings as it takes to meet: the first one's files are not there when the second one looks."""
    barrier = threading.Barrier(2)

    def begin(i):
        barrier.wait(60)
        try:
            with claim(tmp_path / str(i), {"a": 1}):
                barrier.wait(60)
                return "held"
        except ValueError as error:
            barrier.wait(60)
            return str(error)

    with ThreadPoolExecutor(2) as both:  # a lock is that of an open file, whoever opened it
        for i in range(50):
            said = sorted(both.map(begin, (i, i)), key=lambda x: x != "held")
            assert said[0] == "held"
            assert "in use by another process" in said[1]


def test_a_workdir_that_became_another_runs_meanwhile_is_refused(tmp_path):
    with claim(tmp_path, {"a": 1}):
        pass
    with pytest.raises(ValueError, match=r"holds another run; it differs in a \(1 there, 2 now\)"):
        claim(tmp_path, {"a": 2})
    with claim(tmp_path, {"a": 1}):  # what was refused is not held
        pass


def test_two_processes_never_train_in_one_workdir(small, tmp_path):
    identity = configuration.identity(small())
    with claim(tmp_path, identity), pytest.raises(ValueError, match="in use by another process"):
        train_and_evaluate(small(), tmp_path, quiet=True)
    train_and_evaluate(small(), tmp_path, quiet=True)

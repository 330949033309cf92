"""The folder of a run: finished ones, those of other runs, and such as cannot be used."""

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


def test_two_processes_never_train_in_one_workdir(small, tmp_path):
    identity = configuration.identity(small())
    with claim(tmp_path, identity), pytest.raises(ValueError, match="in use by another process"):
        train_and_evaluate(small(), tmp_path, quiet=True)
    train_and_evaluate(small(), tmp_path, quiet=True)

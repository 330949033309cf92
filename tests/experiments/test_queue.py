"""The loop over cells, on jobs that only write a file."""

import pytest

from experiments.queue import Job, run
from experiments.training.run import DivergedError


def job(folder, title, ran, *, error=None):
    def work():
        ran.append(title)
        if error is not None:
            raise error
        folder.mkdir()
        (folder / "summary.json").touch()
        return "said, "

    return Job(folder.name, title, folder, work)


def test_what_is_finished_is_not_run_and_a_shared_folder_once(tmp_path, capsys):
    ran = []
    jobs = [job(tmp_path / name, title, ran) for name, title in (("a", "one"), ("a", "the same"), ("b", "other"))]
    assert run(jobs, place=" here") == {}
    first = list(ran)
    assert first == ["the same", "other"]
    assert run(jobs) == {}
    assert ran == first
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "2 cells here"
    assert out[1] == "step by step: 2 cells (it is a probe)"
    assert out[2].startswith("[1/2] the same said, 0:00, 0:00 left")
    assert out[-1] == "2 cells, 2 of them finished before"


def test_a_cell_that_diverges_stops_none_of_the_others(tmp_path, capsys):
    ran = []
    lost = DivergedError("the loss is not finite")
    failed = run([job(tmp_path / "a", "one", ran, error=lost), job(tmp_path / "b", "two", ran)])
    assert failed == {tmp_path / "a": str(lost)}
    assert ran == ["one", "two"]
    same = run([job(tmp_path / "c", "one", ran, error=lost), job(tmp_path / "d", "one", ran)])
    assert [*same] == [tmp_path / "c"]  # titles need not differ
    assert "failed: the loss is not finite" in capsys.readouterr().out


@pytest.mark.parametrize("error", [ValueError("bad"), OSError("bad")])
def test_another_error_ends_the_queue_and_names_the_cell(error, tmp_path):
    ran = []
    with pytest.raises(ValueError, match="cell a: bad"):
        run([job(tmp_path / "a", "one", ran, error=error), job(tmp_path / "b", "two", ran)])
    assert ran == ["one"]

"""The command that makes the networks of a finished run smaller, from the command line."""

import json

import pytest

from experiments import compact
from experiments.command_line import load
from experiments.training.run import train_and_evaluate


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "option --workdir is missing"),
        (["--workdir=nowhere"], "summary.json"),
        (["--workdir=nowhere", "--batch_size=0"], "batch_size=0"),
        (["--workdir=nowhere", "--round_to=x"], "round_to='x'"),
        (["--folder=nowhere"], "option '--folder' is not known"),
        (["--workdir=r\udcfan"], "is not UTF-8; give another name"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert compact.main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sequential", "vmap"])
def test_every_network_of_a_run_becomes_smaller(mode, tmp_path, capsys):
    config = load("experiments/configs/digits.py")
    with config.unlocked():
        config.steps, config.model.sizes, config.seeds, config.seeds_mode = 100, (40, 20), "0,1", mode
    train_and_evaluate(config, tmp_path / "run", quiet=True)
    assert compact.main([f"--workdir={tmp_path / 'run'}", "--batch_size=8"]) == 0
    out = capsys.readouterr().out
    assert "params/Dense_1/kernel" in out
    rows = [line for line in out.splitlines() if "of 540" in line]
    assert len(rows) == 2
    assert all(" 0 of 540 " in row for row in rows)
    written = json.loads((tmp_path / "run" / "compact.json").read_text())
    assert [row["seed"] for row in written] == [0, 1]
    for row in written:
        before, after = row["parameters"]
        assert after < before / 2
        assert min(*row["call"], *row["looped"]) > 0
    page = (tmp_path / "run" / "compact.html").read_text()
    assert page.count("<svg") == 1
    assert "None of 1,080 predictions of test samples differ" in page

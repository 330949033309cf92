"""The command that trains under a budget of latency."""

import json

import jax.numpy as jnp
import pytest

from dstjax import latency as tables
from experiments import latency
from experiments.alone import alone


def test_training_costs_as_the_papers_count():
    setting = latency.Setting(None, None, 300)
    assert latency._training("random", setting, 0.5) == pytest.approx(0.5)
    assert latency._training("halp, once", setting, 0.5) == pytest.approx(0.25 + 0.75 * 0.5)
    assert latency._training("iee_structured", setting, 0.5) == pytest.approx(0.5 + 0.25 / 3 * (2 - 1.5) / 3)
    shorter = latency.Setting(None, None, 300, 30, 0.1)
    assert (shorter.end, shorter.stages) == (30, (10, 10, 10))
    assert latency._training("halp, once", shorter, 0.5) == pytest.approx(0.1 + 0.9 * 0.5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "option --workdir is missing"),
        (["--workdir", "x", "--budgets", "half"], "budgets has 'half'"),
        (["--workdir", "x", "--seeds", "0"], "seeds=0"),
        (["--workdir", "x", "--batch", "-3"], "batch='-3'"),
        (["--workdir", "x", "--batch", "9999"], "batch=9999 is not accepted; expected at most the 1797 pictures"),
        (["--workdir", "x", "--first", "-1"], "first='-1'"),
        (["--workdir", "x", "--sizes", "4,x"], "sizes='x'"),
        (["--workdirs", "x"], "did you mean '--workdir'"),
        (["--workdir", "x", "--period", "20"], "period=20 is not accepted; expected a multiple of 3"),
        (["--workdir", "x", "--period", "303"], "at most the 300 steps"),
        (["--workdir", "x", "--until", "2"], "expected a share of the training in [0, 1]"),
        (["--workdir", "x", "--data", "teacher"], "data='teacher' has no pictures in memory"),
        (["--workdir", "x", "--data", "digit"], "did you mean 'digits'"),
    ],
)
def test_bad_options_end_in_one_line(options, said, capsys):
    assert latency.main(options) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_a_small_run(tmp_path, capsys):
    options = ["--workdir", str(tmp_path), "--seeds", "1", "--steps", "60", "--sizes", "8,8", "--budgets", "0.8"]
    options += ["--data", "cluttereddigits", "--period", "12", "--until", "0.5", "--batch", "32"]
    assert latency.main(options) == 0
    assert "iee_structured" in capsys.readouterr().out
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [r["method"] for r in rows] == ["dense", "iee_structured", "halp, once", "random"]
    assert all(r["predicted"] <= 0.8 + 1e-6 for r in rows[1:])
    assert tables.load(tmp_path / "table.json").work.constant >= 0


@pytest.mark.slow
def test_a_budget_of_operations(tmp_path):
    options = ["--workdir", str(tmp_path), "--seeds", "1", "--first", "7", "--steps", "15", "--sizes", "8,8"]
    assert latency.main([*options, "--budgets", "0.6", "--table", "flops", "--batch", "16"]) == 0
    rows = json.loads((tmp_path / "results.json").read_text())
    assert {r["seed"] for r in rows} == {7}
    dense, *others = [r["multiply_adds"] for r in rows]
    assert [r["predicted"] for r in rows[1:]] == pytest.approx([work / dense for work in others])


@pytest.mark.parametrize("budgets", ["2", "0", "-1", "nan", "much"])
def test_a_budget_is_a_share_of_the_dense_latency(budgets, tmp_path, capsys):
    assert latency.main(["--workdir", str(tmp_path / "new"), f"--budgets={budgets}"]) == 2
    assert "expected shares of the dense latency in (0, 1]" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_table_of_others_is_refused_before_a_directory_is_made(tmp_path, capsys):
    options = ["--workdir", str(tmp_path / "new"), "--sizes", "8,8", "--table"]
    assert latency.main([*options, str(tmp_path / "none.json")]) == 2
    assert "none.json is no table of latencies" in capsys.readouterr().err
    other = tmp_path / "other.json"
    tables.analytic(
        lambda p, x: x @ p["a"] @ p["b"], {"a": jnp.ones((4, 6)), "b": jnp.ones((6, 2))}, jnp.ones((1, 4))
    ).save(other)
    assert latency.main([*options, str(other)]) == 2
    said = capsys.readouterr().err
    assert "error: " in said
    assert said.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_two_processes_do_not_share_a_directory(tmp_path, capsys):
    with alone(tmp_path):
        assert latency.main(["--workdir", str(tmp_path), "--sizes", "8,8", "--table", "flops"]) == 2
    assert "is in use by another process" in capsys.readouterr().err


@pytest.mark.parametrize("share", ["2", "-1", "nan", "much"])
def test_what_a_layer_keeps_is_a_share_of_its_channels(share, tmp_path, capsys):
    assert latency.main(["--workdir", str(tmp_path / "new"), f"--at_least={share}"]) == 2
    assert "expected a share of the channels in [0, 1]" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()

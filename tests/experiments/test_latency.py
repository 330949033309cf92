"""The command that trains under a budget of latency."""

import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
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
    assert tables.load(tmp_path / "table.json").dense > 0


@pytest.mark.slow
def test_a_budget_of_operations(tmp_path):
    options = ["--workdir", str(tmp_path), "--seeds", "1", "--first", "7", "--steps", "15", "--sizes", "8,8"]
    assert latency.main([*options, "--budgets", "0.6", "--table", "flops", "--batch", "16"]) == 0
    rows = json.loads((tmp_path / "results.json").read_text())
    assert {r["seed"] for r in rows} == {7}
    dense, *others = [r["multiply_adds"] for r in rows]
    assert [r["predicted"] for r in rows[1:]] == pytest.approx([work / dense for work in others])


def test_more_seeds_are_added_and_other_settings_refused(tmp_path, capsys, monkeypatch):
    trained = []
    make = latency.trainer

    def counting(setting, method):
        run = make(setting, method)
        return lambda seed: trained.append((method.name, seed)) or run(seed)

    monkeypatch.setattr(latency, "trainer", counting)
    options = ["--steps=6", "--period=6", "--sizes=4,4", "--budgets=0.6", "--batch=8", "--table=flops"]
    options += ["--workdir", str(tmp_path), "--timed", "1", "--seeds", "2"]
    assert latency.main(options) == 0
    assert len(trained) == 8
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [r["measured"] is None for r in rows] == [False] * 4 + [False, True, True, True]
    (tmp_path / "results.json").write_text(json.dumps(rows[:6]))  # as if it had been interrupted
    assert latency.main([*options, "--first", "1"]) == 0
    assert trained[8:] == [("halp", 1), ("static", 1), *((n, 2) for n in ("dense", "iee_structured", "halp", "static"))]
    assert [r["seed"] for r in json.loads((tmp_path / "results.json").read_text())] == [0] * 4 + [1] * 4 + [2] * 4
    capsys.readouterr()
    assert latency.main([*options, "--steps", "7"]) == 2
    assert "holds results of other settings: steps (6 there, 7 now)" in capsys.readouterr().err
    other = json.loads((tmp_path / "table.json").read_text())
    other["constant"] += 1.0
    (tmp_path / "table.json").write_text(json.dumps(other))
    assert latency.main(options) == 2
    assert "holds results under another table than flops" in capsys.readouterr().err
    (tmp_path / "results.json").write_text("[{")
    assert latency.main(options) == 2
    assert "holds results that cannot be read" in capsys.readouterr().err
    assert len(trained) == 14


def test_what_is_equal_or_no_number_is_not_right():
    class Fields:
        x, y = jnp.zeros((4, 2)), np.array([0, 1, 2, 0])

        @staticmethod
        def split(seed):
            return SimpleNamespace(test=np.arange(4))

    def score(logits):
        setting = latency.Setting(SimpleNamespace(apply=lambda *given, **options: jnp.asarray(logits)), Fields, 3)
        return latency.evaluate(setting, 0, {}, {})[0]

    assert score(np.eye(7)[[0, 1, 3, 0]]) == 0.75
    assert score(np.zeros((4, 7))) == score(np.full((4, 7), np.nan)) == 0


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

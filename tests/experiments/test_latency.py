"""The command that trains under a budget of latency."""

import json

import pytest

from dstjax import latency as tables
from experiments import latency


def row(method, budget, seed, top1):
    return latency.Row(method, budget, seed, top1, 1.0, 0.54, 0.56, 1000.0, 2e5, 0.5)


def test_the_report_compares_in_pairs_of_seeds():
    rows = [row("dense", 1.0, s, 0.98 + 0.01 * s) for s in range(2)]
    rows += [row("iee_structured", 0.55, s, 0.97 + 0.01 * s) for s in range(2)]
    rows += [row("halp, once", 0.55, s, 0.95 + 0.01 * s) for s in range(2)]
    rows += [row("random", 0.55, s, 0.97 + 0.01 * s) for s in range(2)]
    lines = latency.report(rows).splitlines()
    assert "| 0.55 | iee_structured | 97.50% | 100.00% | 0.540 | 0.560 | 1,000 | 200,000 | 0.50 | -1.00" in lines[3]
    assert lines[-2].startswith("at 0.55: iee_structured - halp, once: +2.00 (")
    assert lines[-1].startswith("at 0.55: iee_structured - random: +0.00 (")


def test_training_costs_as_the_papers_count():
    assert latency._training("random", 300, 0.5) == pytest.approx(0.5)
    assert latency._training("halp, once", 300, 0.5) == pytest.approx(0.25 + 0.75 * 0.5)
    assert latency._training("iee_structured", 300, 0.5) == pytest.approx(0.5 + 0.25 / 3 * (2 - 1.5) / 3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "option --workdir is missing"),
        (["--workdir", "x", "--budgets", "half"], "budgets has 'half'"),
        (["--workdir", "x", "--seeds", "0"], "seeds=0"),
        (["--workdir", "x", "--sizes", "4,x"], "sizes='x'"),
        (["--workdirs", "x"], "did you mean '--workdir'"),
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
    assert latency.main(options) == 0
    assert "iee_structured" in capsys.readouterr().out
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [r["method"] for r in rows] == ["dense", "iee_structured", "halp, once", "random"]
    assert all(r["predicted"] <= 0.8 + 1e-6 for r in rows[1:])
    assert tables.load(tmp_path / "table.json").work.constant >= 0


@pytest.mark.parametrize("budgets", ["2", "0", "-1", "nan", "much"])
def test_a_budget_is_a_share_of_the_dense_latency(budgets, tmp_path, capsys):
    assert latency.main(["--workdir", str(tmp_path / "new"), f"--budgets={budgets}"]) == 2
    assert "expected shares of the dense latency in (0, 1]" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("share", ["2", "-1", "nan", "much"])
def test_what_a_layer_keeps_is_a_share_of_its_channels(share, tmp_path, capsys):
    assert latency.main(["--workdir", str(tmp_path / "new"), f"--at_least={share}"]) == 2
    assert "expected a share of the channels in [0, 1]" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()

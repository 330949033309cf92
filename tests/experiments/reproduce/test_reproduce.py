"""The command on a tiny table, and its arguments."""

import csv
import dataclasses
import json
import math
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.reproduce import __main__ as command
from experiments.reproduce import outcome, planning, probes
from experiments.reproduce.cells import Cell, config_of
from experiments.reproduce.claims import VERDICTS, Claim
from experiments.reproduce.papers.catalogue import get, tables
from experiments.reproduce.papers.table import Table
from experiments.reproduce.reading import METRICS, read
from experiments.training import fast, run, sealed
from experiments.training.run import DivergedError

TINY = {"steps": 12, "update_period": 4, "model.sizes": (4,), "batch_size": 32}


def by_gradient(leaf):
    """A rule of one's own, whose source a finished cell remembers."""
    return jnp.abs(leaf.gradient)


def tiny(proxy):
    config = "criteria_large_mlp_cifar10"
    of = {"model": "VGG-19", "dataset": "CIFAR-10", "sparsity": 0.9, "epochs": "160"}
    return [
        Cell(config, "RigL", {**TINY, "grow": f"{__name__}:by_gradient"}, **of),
        Cell(config, "SET", {**TINY, "method": "set", "drop": None}, **of),
        Cell(config, "all 5 criteria", {**TINY, "grow": "gradient"}, **of, group="final", probe="final_masks"),
        Cell(config, "first drop", TINY, **of, group="first", probe="first_drops"),
        Cell(config, "stable", TINY, **of, group="stable", probe="stability"),
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A table of each kind of cell, run once."""
    claims = (Claim("RigL is more accurate than SET.", {"method": "RigL"}, {"method": "SET"}),)
    table = Table(
        "tiny", "A tiny table", "DST-EE", "Table 1", tiny,
        metrics=("accuracy", "exploration", "J(magnitude, SET)", "final IoU"), claims=claims, curve="exploration",
    )  # fmt: skip
    options = command.Options(proxy=True, workdir=tmp_path_factory.mktemp("tiny"), seeds=2)
    assert command.reproduce(table, options) is False
    return table, options


@pytest.mark.slow
def test_results_have_ours_and_the_papers_apart(finished):
    _table, options = finished
    found = json.loads((options.workdir / "tiny" / "results.json").read_text())
    rigl = next(r for r in found["rows"] if r["method"] == "RigL" and r["metric"] == "accuracy")
    assert rigl["paper"] == 93.38
    assert rigl["difference"] is None  # of a proxy it would say nothing
    assert rigl["seeds"] == 2
    (claim,) = found["claims"]
    assert claim["verdict"] in VERDICTS
    assert claim["direction"] == "test accuracy (%): RigL - SET > 0 points"
    assert claim["paper"] == pytest.approx(93.38 - 92.46)
    assert claim["seeds"] == 2
    (order,) = found["orderings"]
    assert order["paper"].startswith("RigL (160 epochs) 93.38 > SET")
    with (options.workdir / "tiny" / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {line["seed"] for line in lines} == {"0", "1"}
    shared = (options.workdir / "tiny" / "fairness.txt").read_text()
    assert (
        "batch_size = 32 (the experiment: 64): RigL, SET, all 5 criteria, first drop, stable\n      NOT DECLARED"
        in shared
    )
    page = (options.workdir / "tiny" / "report.html").read_text()
    assert "<svg" in page
    assert "This is a proxy" in page
    (trained,) = {r["run"].partition(",")[0] for r in found["rows"] if r["method"] == "RigL"}
    assert " on digits" in trained
    assert f"{trained}, for " in page  # what was trained comes first
    # The sparsity that was trained, where the paper has the one in the title.
    assert found["runs"][0].endswith("12 steps of batch 32, 98 % sparse")
    assert rigl["sparsity"] == 0.9


def test_what_stands_behind_a_verdict_is_in_the_report(finished):
    _table, options = finished
    page = (options.workdir / "tiny" / "report.html").read_text()
    for text in ("95 % interval", "power", "RigL - SET &gt; 0 points", "Holm"):
        assert text in page
    text = outcome.as_text(_again(finished))
    for part in (
        "test accuracy (%): RigL - SET > 0 points",
        "the paper's difference: +0.92",
        "95 % interval",
        "; power ",
        "for 0.92 (the paper's)",
    ):
        assert part in text


def _again(finished):
    table, options = finished
    jobs = planning.plan(table.cells(True), options.workdir, seeds=2, proxy=True)
    cells = [read(cell, job.folder) for cell, job in zip(table.cells(True), jobs, strict=True)]
    assert cells[0].recipe["optimizer.momentum"] == cells[2].recipe["optimizer.momentum"] == 0.9  # of a probe too
    apart = dataclasses.replace(cells[1], values=cells[1].values | {"accuracy": cells[0].values["accuracy"] - [1, 1.5]})
    return outcome.outcome(table, [cells[0], apart, *cells[2:]], {}, proxy=True, command="")


def test_a_claim_whose_cells_failed_or_were_left_out_says_so(finished, tmp_path, monkeypatch):
    table, options = finished
    shutil.copytree(options.workdir, tmp_path / "again")
    own = dataclasses.replace(options, workdir=tmp_path / "again")
    (gone,) = own.workdir.glob("cells/*-set-*")
    shutil.rmtree(gone)

    assert command.reproduce(table, dataclasses.replace(own, finished=True)) is False
    (claim,) = json.loads((own.workdir / "tiny" / "results.json").read_text())["claims"]
    assert "without 1 cell(s), not run: VGG-19, CIFAR-10, SET" in claim["evidence"]

    lost = DivergedError("the loss of seed 1 is not finite")
    monkeypatch.setattr(fast, "train", lambda cells: enumerate([lost] * len(cells)))
    assert command.reproduce(table, own) is True
    (claim,) = json.loads((own.workdir / "tiny" / "results.json").read_text())["claims"]
    assert claim["verdict"] == "not run"
    assert "without 1 cell(s), failed (the loss of seed 1 is not finite): VGG-19, CIFAR-10, SET" in claim["evidence"]
    assert command.reproduce(table, dataclasses.replace(own, only="RigL")) is False
    (claim,) = json.loads((own.workdir / "tiny" / "results.json").read_text())["claims"]
    assert "left out by --only" in claim["evidence"]


def test_results_of_another_version_are_refused(tmp_path, capsys):
    (tmp_path / "dst_ee_table1").mkdir()
    old = {"claims": [{"claim": "it is so", "verdict": "shown", "evidence": "", "blocks": [], "more": 1}]}
    sealed.write(tmp_path / "dst_ee_table1" / "results.json", old)
    assert command.main(["--summary", "--workdir", str(tmp_path)]) == 2
    assert "is not of this version" in capsys.readouterr().err


def test_probes_measure_shares(finished):
    _table, options = finished
    found = json.loads((options.workdir / "tiny" / "results.json").read_text())
    shares = [v for r in found["rows"] if r["metric"] in ("J(magnitude, SET)", "final IoU") for v in r["per_seed"]]
    assert len(shares) == 6
    assert all(0 <= v <= 1 for v in shares)


def test_overlaps_of_masks_are_means_over_layers():
    """Eq. 1 of the study: a large layer counts no more than a small one."""
    a = {"small": np.array([True, True, False]), "large": np.repeat([True, False], 500)}
    b = {"small": np.array([True, False, False]), "large": np.repeat([True, False], 500)}
    assert probes._mean_jaccard(a, b) == pytest.approx((0.5 + 1.0) / 2)


def test_a_second_call_runs_nothing(finished, monkeypatch, capsys):
    table, options = finished
    before = (options.workdir / "tiny" / "results.json").read_bytes()
    for place, name in ((run, "train_and_evaluate"), (fast, "train")):
        monkeypatch.setattr(place, name, lambda *_, **__: pytest.fail("a finished cell was run"))
    monkeypatch.setattr(planning, "PROBES", {})
    assert command.reproduce(table, options) is False
    assert (options.workdir / "tiny" / "results.json").read_bytes() == before
    assert "5 cells, 5 of them finished before" in capsys.readouterr().out


def test_differences_to_the_paper_in_a_full_run(finished):
    table, options = finished
    jobs = planning.plan(table.cells(True), options.workdir, seeds=2, proxy=True)
    cells = [read(cell, job.folder) for cell, job in zip(table.cells(True), jobs, strict=True)]
    full = outcome.outcome(table, cells, {}, proxy=False, command="")
    row = outcome.rows(full)[0]
    assert row["difference"] == pytest.approx(row["ours"] - 93.38)
    assert "the paper's" in outcome.as_text(full)
    assert METRICS["accuracy"].label in outcome.as_text(full)


def test_list_and_bad_arguments(capsys):
    assert command.main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in tables())
    for arguments, message in (
        (["--table", "dst_ee_table9"], "table 'dst_ee_table9' is not known; did you mean 'dst_ee_table"),
        ([], "option --table is missing"),
        (["--table", "iee_table2", "--seeds", "0"], "--seeds='0' is not accepted"),
        (["--table", "iee_table2", "--fast"], "option '--fast' is not known"),
        (["--table"], "option --table has no value"),
        (["--table", "iee_table2", "--proxy", "--only", "nothing"], "fits no cell"),
        (["--table", "criteria_figure14"], "has no full run"),
    ):
        assert command.main(arguments) == 2
        assert message in capsys.readouterr().err


def test_missing_data_are_named_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DSTJAX_DATA", str(tmp_path))
    assert command.main(["--table", "dst_ee_table1", "--workdir", str(tmp_path / "w")]) == 2
    assert "cifar10" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
@pytest.mark.parametrize("probe", ["scores_of_8_batches", "scores_of_validation", "fine_tuned", "from_scratch"])
def test_other_probes_train(probe):
    cell = Cell("criteria_large_mlp_cifar10", "x", {**TINY, "update_order": "skip"})
    found = planning.PROBES[probe](config_of(cell, seeds=2, proxy=True))
    assert all(0 <= a <= 100 for a in found["values"]["accuracy"])
    assert len(found["values"]["accuracy"]) == 2


# Steps of networks whose training takes long, and those of tests.
LONG = {"conv": (1000, 200), "resnet56": (150, 30), "efficientnet_b0": (12, 5)}
LARGE = ("resnet56", "efficientnet_b0", "vgg16")  # whose compilation does


def some_of(cells):
    """Up to three cells, spread over a table, a single one of large networks; long trainings end early."""
    found = []
    for cell in cells[:: math.ceil(len(cells) / 3)]:
        config = config_of(cell, seeds=1, proxy=True)
        steps, fewer = LONG.get(config.model.name, (0, 0))
        changes = {**cell.changes, "steps": fewer} if config.steps == steps else cell.changes
        found.append(dataclasses.replace(cell, changes=changes))
        if config.model.name in LARGE:
            break
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(tables()))
def test_proxies_of_a_table_run_to_their_end(name, tmp_path):
    """A part of each, and of each training; ``--table all --proxy`` runs all of them."""
    table = get(name)
    cells = some_of([cell for cell in table.cells(True) if table.usual(cell)])
    options = command.Options(proxy=True, workdir=tmp_path, seeds=1)
    assert command.reproduce(dataclasses.replace(table, cells=lambda proxy: cells), options) is False
    found = json.loads((tmp_path / name / "results.json").read_text())
    assert not found["failures"]
    assert found["rows"]

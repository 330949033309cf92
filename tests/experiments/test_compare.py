"""The comparison command on a tiny grid: what it runs, what it leaves, what it refuses."""

import csv
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import dstjax
from experiments import compare, data, grid
from experiments.data import digits, streams
from experiments.training import fast, run

CONFIG = "experiments/configs/digits.py"
TINY = ("--config.steps=24", "--config.update_period=4", "--config.model.sizes=(12,)", "--config.batch_size=32")
METHODS = ("--methods=dense,static,rigl,dst_ee", "--sparsities=0.5,0.8", "--seeds=2", "--coefficients=1e-3,1e-1")
CELLS = ["dense", "static-0.5", "static-0.8", "rigl-0.5", "rigl-0.8", "dst_ee-0.5", "dst_ee-0.8", "dst_ee-0.8-c0.1"]


def command(workdir, *more, methods=METHODS):
    return [f"--config={CONFIG}", f"--workdir={workdir}", *methods, *TINY, *more]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished grid; tests copy what they change."""
    workdir = tmp_path_factory.mktemp("grid")
    assert compare.main(command(workdir)) == 0
    return workdir


@pytest.fixture
def nothing_runs(monkeypatch):
    def refuse(*given, **_):
        raise AssertionError(f"{given} was run")

    monkeypatch.setattr(run, "train_and_evaluate", refuse)
    monkeypatch.setattr(fast, "train", refuse)


def test_streamed_data_are_reported_too(tmp_path, monkeypatch):
    x, y, *_ = digits.load()
    rows = list(zip(x[:100], y[:100], strict=True))

    def plain(row):
        return {"x": row[0], "y": np.int32(row[1])}

    parts = rows[:64], rows[64:80], rows[80:]
    stream = streams.Stream(*parts, lambda row, _: plain(row), plain, 10, (8, 8, 1), "streamed")
    streamed = data.Dataset({"paper": ""}, stream=lambda root, protocol: stream)
    monkeypatch.setitem(data.DATASETS, "tiny_imagenet", streamed)
    methods = ("--methods=rigl", "--sparsities=0.5", "--seeds=1")
    asked = command(tmp_path, "--config.dataset=tiny_imagenet", "--config.steps=12", methods=methods)
    assert compare.main(asked) == 0
    assert len(read_csv(tmp_path)) == 1
    assert "The test set has 20 examples" in (tmp_path / "report.html").read_text()


def test_every_cell_has_its_folder_and_dense_runs_once(finished):
    # The coefficient 0.001 is what dst_ee-0.8 has anyway: it is not run twice.
    assert sorted(p.name for p in finished.iterdir() if p.is_dir()) == sorted(CELLS)
    for name in CELLS:
        assert json.loads((finished / name / "summary.json").read_text())["seeds"] == [0, 1]


def test_a_second_call_runs_nothing_and_makes_the_same_files(finished, nothing_runs, capsys):
    before = {p: p.read_bytes() for p in (finished / "results.csv", finished / "report.html")}
    assert compare.main(command(finished)) == 0
    assert {p: p.read_bytes() for p in before} == before
    assert f"{len(CELLS)} cells in {finished}, {len(CELLS)} of them finished before" in capsys.readouterr().out


def test_only_an_unfinished_cell_is_run(finished, tmp_path, monkeypatch):
    workdir = shutil.copytree(finished, tmp_path / "grid")
    (workdir / "rigl-0.5" / "summary.json").unlink()
    ran = []
    original = fast.train

    def noted(cells):
        ran.extend(cell.name for cell in cells)
        return original(cells)

    monkeypatch.setattr(fast, "train", noted)
    assert compare.main(command(workdir)) == 0
    assert ran == ["rigl-0.5"]

    def rows(folder):
        return [{k: v for k, v in r.items() if k not in ("seconds_of_cell", "command")} for r in read_csv(folder)]

    assert rows(workdir) == rows(finished)


def read_csv(workdir):
    with (workdir / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_results_csv_has_a_row_per_cell_and_seed_that_agrees_with_the_summaries(finished):
    rows = read_csv(finished)
    assert [(r["cell"], r["seed"]) for r in rows] == [(c, s) for c in CELLS for s in ("0", "1")]
    for row in rows:
        summary = json.loads((finished / row["cell"] / "summary.json").read_text())
        assert float(row["test_accuracy"]) == pytest.approx(summary["test_accuracy"][int(row["seed"])])
        assert float(row["exploration_rate"]) == pytest.approx(summary["exploration_rate"][int(row["seed"])])
        assert int(row["active_weights"]) == summary["requested_weights"]
        assert row["dstjax"] == dstjax.__version__
        assert row["jax"]
        assert row["steps"] == "24"
        assert row["command"].startswith("python -m experiments.compare --config experiments/configs/digits.py")
    assert len({r["config_hash"] for r in rows}) == len(CELLS)


def test_the_report_shows_the_grid_and_nothing_of_this_machine(finished):
    text = (finished / "report.html").read_text()
    for section in (
        "findings",
        "accuracy",
        "differences",
        "exploration",
        "layers",
        "turnover",
        "inputs",
        "raw",
        "numbers",
    ):
        assert f'<section id="{section}">' in text
    assert "every layer had exactly the number of active weights that was asked for" in text
    assert str(finished) not in text
    assert not re.search(r'[\s"=](/[a-z]+){2,}', re.sub(r"base64,[^\"]*|<path[^>]*>|</\w+>", "", text))


def test_the_table_says_mean_spread_and_difference(finished, nothing_runs, capsys):
    compare.main(command(finished))
    out = capsys.readouterr().out
    assert re.search(r"method +sparsity +test accuracy \(%\) +minus RigL +density +R", out)
    assert re.search(r"RigL +80 % +\d+\.\d\d ± \d+\.\d\d +0\.2\d* +0\.\d{3} ± 0\.\d{3}", out)
    assert re.search(r"static +50 % +\d+\.\d\d ± \d+\.\d\d +[+-]\d+\.\d\d ± \d+\.\d\d", out)
    assert out.rstrip().splitlines()[-1].startswith(f"Open {finished / 'report.html'}")


def test_a_changed_hyperparameter_goes_to_the_methods_that_have_it(tmp_path):
    asked = grid.plan(command(tmp_path, "--config.coefficient=0.1", "--config.drop_fraction=0.2"))
    configs = asked.cells
    assert configs["dst_ee-0.5"].coefficient == 0.1
    assert configs["rigl-0.5"].coefficient is None
    assert configs["rigl-0.5"].drop_fraction == 0.2
    assert asked.sweep == ["dst_ee-0.8-c0.001", "dst_ee-0.8"]


def test_what_a_config_sets_for_its_own_method_stays_there(tmp_path):
    config = str(Path(CONFIG).with_name("task_teacher95.py"))
    given = [f"--config={config}", f"--workdir={tmp_path}", "--methods=all", "--sparsities=0.95", "--seeds=1"]
    asked = grid.plan(given)
    assert {*asked.called.values()} == {*dstjax.methods.names()}  # those of channels have no structure here
    assert asked.cells["rigl-0.95"].rounding == "floor"
    assert asked.cells["static-0.95"].rounding is None
    assert asked.cells["static-0.95"].update_period == asked.cells["rigl-0.95"].update_period  # left aside


def test_the_criteria_of_a_config_are_those_of_its_own_method_alone(tmp_path):
    config = str(Path(CONFIG).with_name("criteria_lenet5_fashion_mnist.py"))  # RigL's, with random growth
    given = [f"--config={config}", "--config.proxy=True", f"--workdir={tmp_path}", "--sparsities=0.9", "--seeds=1"]
    asked = grid.plan([*given, "--methods=all"])
    assert asked.called["rigl-0.9"] == "RigL with grow=random"
    assert asked.called["snfs-0.9"] == "snfs"
    assert {n: c.grow for n, c in asked.cells.items() if c.grow is not None} == {"rigl-0.9": "random"}
    typed = grid.plan([*given, "--methods=rigl,snfs", "--config.grow=momentum"])
    assert typed.cells["snfs-0.9"].grow == "momentum"


def test_a_method_with_a_sparsity_of_its_own_is_run_once(tmp_path):
    for methods, more in (("mine=set:epsilon=3", ()), ("mine=set", ("--config.epsilon=3",))):
        asked = grid.plan(command(tmp_path, *more, methods=(f"--methods=static,{methods}", "--sparsities=0.5,0.8")))
        assert [*asked.cells] == ["static-0.5", "static-0.8", "mine"]


@pytest.mark.parametrize(
    ("field", "value"), [("structure", "n_m(2, 4)"), ("distribution", '{"Dense_0/kernel": 0.5, "Dense_1/kernel": 0.1}')]
)
def test_a_value_of_a_variant_may_have_commas_in_brackets(field, value, tmp_path):
    methods = (f"--methods=static,x=rigl:{field}={value}+drop_fraction=0.2,rigl", "--sparsities=0.5")
    asked = grid.plan(command(tmp_path, methods=methods))
    assert [*asked.cells] == ["static-0.5", "x-0.5", "rigl-0.5"]
    assert str(asked.cells["x-0.5"][field]) == value


def test_commas_within_brackets_within_brackets():
    text = "a=halp:structure=channels(round_to=2, whole=('x', 'y'), budget=0.5),b"
    assert grid._list("methods", text) == [text[:-2], "b"]


def test_the_sweep_is_at_the_middle_sparsity_unless_said_otherwise(tmp_path):
    methods = ("--methods=dst_ee", "--sparsities=0.5,0.9,0.8", "--seeds=1")
    assert len(grid.plan(command(tmp_path, methods=methods)).sweep) == 4
    assert grid.plan(command(tmp_path, methods=methods)).sweep[0] == "dst_ee-0.8-c0.0001"
    at = grid.plan(command(tmp_path, "--coefficient-sparsity=0.95", "--coefficients=1", methods=methods))
    assert at.sweep == ["dst_ee-0.95-c1"]
    assert grid.plan(command(tmp_path, "--coefficients=none", methods=methods)).sweep == []


def test_a_cell_of_another_config_is_refused_before_anything_runs(finished, nothing_runs, capsys):
    assert compare.main([*command(finished), "--config.steps=25"]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: cell \S+ is that of another run; it differs in steps \(24 there, 25 now\)\.\n", error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods=rigl,dst_e"], "did you mean 'dst_ee'"),
        (["--methods=rigl=set"], "a name of your own before the ="),
        (["--methods=a/b=rigl:drop_fraction=0.2"], "a name of your own before the ="),
        (["--methods=mine=rigl:drop_fraction"], "expected FIELD=VALUE"),
        (["--methods=mine=rigl:drop_fracton=0.2"], "did you mean 'drop_fraction'"),
        (["--methods=mine=rigl:sparsity=0.2"], "use --sparsities"),
        (["--methods=mine=rigl:grow=no_such_module:f"], "importing 'no_such_module' failed"),
        (["--methods=mine=rigl,mine=set"], "expected different names"),
        (["--methods=rigl,RigL=rigl:drop_fraction=0.2"], "expected different names"),
        (["--methods=a=rigl:drop_fraction=0.2,A=rigl"], "expected different names"),
        (["--methods=report.html=asp,static"], "not results.csv or report.html"),
        (["--methods=mine=rigl:dataset=teacher"], "compared on the same data and network"),
        (["--methods=mine=rigl:model.sizes=(9,)"], "compared on the same data and network"),
        (["--seeds={1,2}"], "expected a number, a text, or a list of them"),
        (
            ["--methods=rigl,rigl-0.9=dense", "--sparsities=0.9"],
            "two different cells of the grid are called 'rigl-0.9'",
        ),
        (["--sparsities=0.9,0.90"], "expected different numbers"),
        (["--coefficients=1e-3,0.001"], "expected different numbers"),
        (["--methods=json:dumps", "--coefficients=none"], "is not accepted"),
        (["--sparsites=0.5"], "did you mean '--sparsities'"),
        (["--sparsities=0.5,x"], "'x' is not accepted"),
        (["--sparsities=0.5,0.5"], "different values"),
        (["--sparsities=1.5"], "sparsity"),
        (["--sparsities="], "sparsities"),
        (["--seeds=0"], "seeds=0"),
        (["--seeds=many"], "seeds='many'"),
        (["--coefficients=-1"], "coefficient"),
        (["--coefficients=1e-3,1e-3"], "different values"),
        (["--config=none.py"], "none.py"),
        (["--config.stepps=3"], "did you mean 'steps'"),
        (["--config.sparsity=0.5"], "use --sparsities"),
        (["--config.method=set"], "use --methods"),
        (["--config.seeds=3"], "use --seeds"),
        (["--config.lambda_=0.5"], "none of"),
        (["--workdir"], "workdir"),
        (["rigl"], "'rigl'"),
        (["--methods=dense", "--coefficients=1e-3"], "--coefficient-sparsity"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_arguments_are_one_line_and_status_2(arguments, message, tmp_path, nothing_runs, capsys):
    workdir = tmp_path / "grid"
    assert compare.main([*command(workdir), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert captured.out == ""
    assert not workdir.exists()


def test_a_workdir_that_is_a_file_is_status_2(tmp_path, capsys):
    path = tmp_path / "file"
    path.write_text("")
    assert compare.main(command(path)) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_cut_file_of_a_finished_cell_is_status_2_and_named(finished, tmp_path, capsys):
    workdir = shutil.copytree(finished, tmp_path / "grid")
    metrics = workdir / "static-0.5" / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-20])
    assert compare.main(command(workdir)) == 2
    assert str(metrics) in capsys.readouterr().err


def test_a_cell_that_diverges_is_reported_and_the_others_run(finished, tmp_path, monkeypatch, capsys):
    workdir = shutil.copytree(finished, tmp_path / "grid")
    (workdir / "static-0.8" / "summary.json").unlink()

    lost = run.DivergedError("the loss is not finite for seed(s) [0]")
    monkeypatch.setattr(fast, "train", lambda cells: enumerate([lost] * len(cells)))
    assert compare.main(command(workdir)) == 1
    assert "failed: the loss is not finite" in capsys.readouterr().out
    assert "A cell is missing: static at 80" in (workdir / "report.html").read_text()
    assert len(read_csv(workdir)) == 2 * (len(CELLS) - 1)


RULES = """
import dstjax
import jax.numpy as jnp


def least(leaf):
    return -jnp.abs(leaf.gradient)


def calm(*, sparsity, update_period=100, end_step=None, drop_fraction=0.1):
    return dstjax.methods.rigl(
        sparsity=sparsity, update_period=update_period, end_step=end_step, drop_fraction=drop_fraction
    )
"""


@pytest.fixture
def own_rules(tmp_path, monkeypatch):
    (tmp_path / "rules_of_one_s_own.py").write_text(RULES)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    config = (Path.cwd() / "experiments/configs/digits.py").as_posix()
    monkeypatch.chdir(tmp_path)
    yield config
    sys.modules.pop("rules_of_one_s_own", None)


@pytest.mark.slow
def test_rules_and_methods_of_one_s_own_stand_in_the_grid_under_their_names(own_rules, tmp_path, capsys):
    asked = "rigl,mine=rigl:grow=rules_of_one_s_own:least+drop_fraction=0.2,rules_of_one_s_own:calm"
    methods = (f"--methods={asked}", "--sparsities=0.8", "--seeds=2")
    given = [*command(tmp_path / "grid", methods=methods), f"--config={own_rules}"]
    assert compare.main(given) == 0
    out = capsys.readouterr().out
    assert {row["method"] for row in read_csv(tmp_path / "grid")} == {"rigl", "mine", "calm"}
    for name in ("RigL", "mine", "calm"):
        assert re.search(rf"^{name} +80", out, re.MULTILINE), out
    mine, rigl = (json.loads((tmp_path / "grid" / n / "config.json").read_text()) for n in ("mine-0.8", "rigl-0.8"))
    assert (mine["grow"], mine["drop_fraction"]) == ("rules_of_one_s_own:least", 0.2)
    assert rigl["grow"] is None
    report = (tmp_path / "grid" / "report.html").read_text()
    assert ">mine<" in report
    # An edited rule is another method: what is finished is not passed as its result.
    (tmp_path / "rules_of_one_s_own.py").write_text(RULES.replace("-jnp.abs", "-2 * jnp.abs"))
    sys.modules.pop("rules_of_one_s_own")
    assert compare.main(given) == 2
    assert "the source of grow changed" in capsys.readouterr().err


def test_a_rule_for_the_whole_grid_is_in_the_name(own_rules, tmp_path):
    methods = ("--methods=rigl,static", "--sparsities=0.8", "--seeds=1", f"--config={own_rules}")
    called = grid.plan(command(tmp_path / "grid", "--config.grow=rules_of_one_s_own:least", methods=methods)).called
    assert called["rigl-0.8"] == "RigL with grow=rules_of_one_s_own:least"
    assert called["static-0.8"] == "static"

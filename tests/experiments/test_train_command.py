"""The command that trains: what it refuses, in one line, and with which status."""

import re
import subprocess
import sys

import pytest

import dstjax
from experiments import run_colabs, train
from experiments.configs import digits
from experiments.training import rules

DIGITS = "experiments/configs/digits.py"
TINY = [
    *("--config.model.sizes=(16,)", "--config.steps=48", "--config.update_period=4", "--config.sparsity=0.8"),
    "--config.checkpoint_every_epochs=1",
]


BAD = {
    "config.sparsty=0.9": "config field 'sparsty' is not known; did you mean 'sparsity'?",
    "config.model.size=(3,)": "config field 'model.size' is not known; did you mean 'sizes'?",
    "config.model=3": "is a section",
    "config.method=rigel": "method 'rigel' is not known; did you mean 'rigl'?",
    "config.grow=gradeint": "did you mean 'gradient'?",
    "config.drop=magnitud": "did you mean 'magnitude'?",
    "config.distribution=erl": "did you mean 'er'?",
    "config.drop_schedule=cosin": "did you mean 'cosine'?",
    "config.model.name=mpl": "did you mean 'mlp'?",
    "config.optimizer.name=adam": "did you mean 'adamw'?",
    "config.dataset=digit": "did you mean 'digits'?",
    "config.dataset=voc": "it is one of detection; expected one of classification",
    "config.seeds_mode=vmapp": "did you mean 'vmap'?",
    "config.sparsity=1.5": "sparsity=1.5 is not accepted; expected",
    "config.sparsity=nan": "sparsity=nan is not accepted",
    "config.sparsity=much": "sparsity='much' is not accepted; expected a value of type float",
    "config.drop_fraction=2": "drop_fraction=2.0 is not accepted",
    "config.update_period=0": "update_period=0 is not accepted",
    "config.update_period=2.5": "update_period='2.5' is not accepted; expected a value of type int",
    "config.end_step=3": "leaves no mask update",
    "config.start_step=1900": "expected a later step",
    "config.end_percent=0": "end_percent=0.0 is not accepted",
    "config.update_order=sometimes": "update_order='sometimes' is not known",
    "config.scope=layers": "did you mean 'layer'?",
    "config.rounding=up": "rounding='up' is not known",
    "config.coefficient=0.1": "method 'rigl' has no hyper-parameter 'coefficient'",
    "config.lambda_=1": "method 'rigl' has no hyper-parameter 'lambda_'",
    "config.grow=no_such_module:rule": "importing 'no_such_module' failed",
    "config.grow=json:rule": "'json' has no function 'rule'",
    "config.distribution={1": "as JSON it fails",
    'config.distribution={"nowhere": 0.5}': "nowhere",
    "config.seeds=99999999999999999999": "expected a number of seeds from 1 to 100,000",
    "config.steps=3000000000": "steps=3000000000 is not accepted; expected less than 2,147,483,648",
    "config.end_step=99999999999999999999": "end_step=99999999999999999999 is not accepted; expected less than",
    "config.model.sizes=99999999999999999999": "model.sizes=",
    'config.model.dtype=(0.5,"a")': "model.dtype=",
    "config.structure=channels(budget=0.5,costs='flops',whole=3)": "expected regular expressions for whole=",
    "config.drop_schedule=json:loads": "drop_schedule=loads is not accepted: at step 25 it ended with TypeError",
    "config.seeds=0": "seeds=0 is not accepted",
    "config.seeds=(1, 1)": "different integers",
    "config.batch_size=0": "batch_size=0 is not accepted",
    "config.batch_size=9999": "expected at most 1077",
    "config.steps=-1": "steps=-1 is not accepted",
    "config.eval_every_epochs=0": "eval_every_epochs=0 is not accepted",
    "config.tensorboard=maybe": "expected a value of type bool",
    "config.optimizer.learning_rate=-1": "optimizer.learning_rate=-1.0 is not accepted",
    "config.optimizer.momentum=1": "optimizer.momentum=1.0 is not accepted",
    "config.optimizer.weight_decay=inf": "optimizer.weight_decay=inf is not accepted",
    "config.model.sizes=(0,)": "model.sizes=(0,) is not accepted",
    "confg=x": "option '--confg' is not known; did you mean '--config'?",
    "config.sparsity": "has no value",
    "config=nowhere.py": "config file 'nowhere.py' is not there",
    "config=README.md": "is not a Python file",
    "workdir=": "option --workdir is missing",
}


@pytest.mark.parametrize("argument", BAD)
def test_bad_input_is_one_line_and_status_2(argument, tmp_path, capsys):
    assert train.main(["--config", DIGITS, "--workdir", str(tmp_path / "run"), f"--{argument}"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    assert BAD[argument] in output.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.method=dense", "--config.sparsity=0.5"], "method 'dense' has no hyper-parameter 'sparsity'"),
        (
            ["--config.method=static", "--config.update_period=9"],
            "method 'static' has no hyper-parameter 'update_period'",
        ),
        (["--config.method=static", "--config.end_percent=50"], "method 'static' has no hyper-parameter 'end_percent'"),
        (["--config.method=dst_ee", "--config.coefficient=-1"], "coefficient=-1.0 is not accepted"),
        (["--config.method=dst_ee", "--config.epsilon=0"], "epsilon=0.0 is not accepted"),
        (["--config.method=dst_ee", "--config.grow=random"], "method 'dst_ee' has no hyper-parameter 'grow'"),
        (
            ["--config.method=set", "--config.epsilon=5", "--config.sparsity=0.5"],
            "epsilon=5.0 is not accepted together",
        ),
        (
            ["--config.end_step=100", "--config.end_percent=50"],
            "end_step=100 is not accepted together with end_percent",
        ),
        (["--config.seeds", "2", "extra"], "unexpected argument 'extra'"),
    ],
)
def test_contradictions_are_one_line_and_status_2(arguments, message, tmp_path, capsys):
    assert train.main(["--config", DIGITS, "--workdir", str(tmp_path / "run"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_field_of_the_configs_own_method_is_left_out_by_name(tmp_path, capsys):
    config = DIGITS.replace("digits", "task_teacher95")
    given = ["--config", config, "--workdir", str(tmp_path / "run"), "--config.method=static"]
    assert train.main(given) == 2
    assert "the config sets it for 'rigl'; leave it out by --config.rounding=None." in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["config", "workdir"])
def test_both_options_are_needed(missing, capsys):
    arguments = {"config": f"--config={DIGITS}", "workdir": "--workdir=x"}
    del arguments[missing]
    assert train.main([*arguments.values()]) == 2
    assert f"option --{missing} is missing" in capsys.readouterr().err


def test_the_command_itself_ends_with_status_2_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "experiments.train", "--config", DIGITS, "--workdir", str(tmp_path)]
    result = subprocess.run([*command, "--config.methd=rigl"], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: config field 'methd' is not known; did you mean 'method'?")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["train", "compare"])
def test_help_lists_the_fields_of_a_config_and_imports_nothing_for_it(command):
    script = (
        f"import sys\nfrom experiments import {command}\nstatus = {command}.main(['--help'])\n"
        "assert not {'jax', 'dstjax', 'numpy'} & {*sys.modules}, 'slow'\nsys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    shown = set(re.findall(r"^  --config\.([\w.]+)=", done.stdout, re.MULTILINE))
    config = digits.get_config()
    fields = {*config} - rules.hyperparameters(dstjax.methods.names(channels=True))
    nested = {f"{section}.{name}" for section in ("model", "optimizer") for name in config[section]}
    assert shown - {"FIELD"} == (fields - {"model", "optimizer"}) | nested
    listed = done.stdout[done.stdout.index("Fields of a config") :]
    assert max(map(len, listed.splitlines())) <= 80


@pytest.mark.parametrize(
    "name", ["x" * 300, "caf\udce9", "\udcff/run", "no\0name", "/".join(["y" * 200] * 25), "\U0001f600" * 80]
)
def test_a_workdir_with_a_name_that_cannot_be_is_one_line_and_status_2(name, tmp_path, capsys):
    assert train.main(["--config", DIGITS, "--workdir", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: workdir ")
    assert error.count("\n") == 1


def test_notebooks_are_not_run_to_say_what_the_command_does(monkeypatch, capsys):
    monkeypatch.setattr(run_colabs, "run", None)
    with pytest.raises(SystemExit) as ended:
        run_colabs.main(["--help"])
    assert ended.value.code == 0
    assert "Runs every notebook" in capsys.readouterr().out

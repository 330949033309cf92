"""Fingerprints of what a run reads: data, and the source of rules."""

import dataclasses
import sys

import numpy as np
import pytest

from experiments import data
from experiments.data import Stream
from experiments.training import inputs, rules

RULE = "import helper_of_rule\n\n\ndef grow(leaf):\n    return helper_of_rule.SCALE * leaf.gradient\n"
PARTIAL = "import functools\n\n\ndef _s(leaf, p):\n    return leaf.gradient**p\n\n\ngrow = functools.partial(_s, p=2)\n"
MODULES = ("rule_of_test", "helper_of_rule")


@pytest.fixture
def rule(tmp_path, monkeypatch):
    """Writes a rule and the module that it uses; returns the fingerprint."""
    monkeypatch.chdir(tmp_path)

    def forget():
        for name in [n for n in sys.modules if n.partition(".")[0] in (*MODULES, "package_of_rule")]:
            del sys.modules[name]

    def write(text=RULE, helper="SCALE = 2.0\n", named="rule_of_test:grow", files=MODULES):
        for name, content in zip(files, (text, helper), strict=True):
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
        forget()
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        return inputs.of_rule(rules.Own(rules.rule("grow", named), named))

    yield write
    forget()


def test_the_code_of_a_rule_counts_and_its_comments_do_not(rule):
    first = rule()
    assert rule(RULE.replace("    return", "    # why\n\n    return")) == first
    assert rule(RULE.replace("leaf.gradient", "-leaf.gradient")) != first


def test_the_module_of_a_rule_counts_where_another_made_the_rule(rule):
    """A partial is an object of functools, and says nothing of where it was made."""
    assert rule(PARTIAL.replace("p=2", "p=3")) != rule(PARTIAL)


@pytest.mark.parametrize(
    "used",
    [
        "import helper_of_rule\n\n\ndef grow(leaf):\n    return helper_of_rule.SCALE * leaf.gradient\n",
        "from helper_of_rule import SCALE\n\n\ndef grow(leaf):\n    return SCALE * leaf.gradient\n",
        "from helper_of_rule import *\n\n\ndef grow(leaf):\n    return SCALE * leaf.gradient\n",
        "def grow(leaf):\n    import helper_of_rule\n\n    return helper_of_rule.SCALE * leaf.gradient\n",
        "import importlib\n\nused = importlib.import_module('helper_of_rule')\n\n\ndef grow(_):\n    return used\n",
    ],
)
def test_modules_beside_a_rule_count_too(rule, used):
    assert rule(used, helper="SCALE = 3.0\n") != rule(used)


@pytest.mark.parametrize("used", ["from .helper import SCALE", "from . import helper", "import package_of_rule.helper"])
def test_modules_of_its_package_count(rule, used):
    text = f"{used}\n\n\ndef grow(leaf):\n    return leaf.gradient\n"
    files = ("package_of_rule/rule", "package_of_rule/helper")

    def written(helper):
        return rule(text, helper, "package_of_rule.rule:grow", files)

    assert written("SCALE = 3.0\n") != written("SCALE = 2.0\n")


def test_a_rule_without_source_has_its_name():
    first, again, other = (inputs.of_rule(rules.Own(f, f"builtins:{f.__name__}")) for f in (max, max, min))
    assert first == again != other


@pytest.mark.parametrize("change", ["label", "pixel", "split"])
def test_every_value_of_data_in_memory_counts(change):
    whole = data.load("digits")
    x, y, seeds = whole.x.copy(), whole.y.copy(), [0]
    if change == "label":
        y[1000] ^= 1
    elif change == "pixel":
        x[5, 3, 3, 0] += 1e-6
    else:
        seeds = [1]
    other = dataclasses.replace(whole, x=x, y=y)
    assert inputs.fingerprints(whole, [0], {}) == inputs.fingerprints(dataclasses.replace(whole), [0], {})
    assert inputs.fingerprints(other, seeds, {}) != inputs.fingerprints(whole, [0], {})


def test_of_streamed_data_samples_count_and_where_they_lie_does_not():
    def stream(shift, size, where):
        raw = [np.float32(i + shift) for i in range(size)]
        return Stream(raw, raw[:3], raw[:2], lambda r, rng: {"x": r}, lambda r: {"x": r}, 10, (), where)

    first = inputs.fingerprints(stream(0, 100, "here"), [0], {})
    assert inputs.fingerprints(stream(0, 100, "there"), [0], {}) == first
    assert inputs.fingerprints(stream(1, 100, "here"), [0], {}) != first
    assert inputs.fingerprints(stream(0, 101, "here"), [0], {}) != first


def test_files_count_by_what_is_in_them(tmp_path):
    whole, table = data.load("digits"), tmp_path / "table.json"

    def now(text):
        table.write_text(text)
        return inputs.fingerprints(whole, [0], {inputs.TABLE: table})

    first = now("1")
    assert now("1") == first
    with pytest.raises(inputs.ChangedError, match=r"than what is there now: the table of costs changed\. Put it"):
        inputs.check(now("2"), first, "run")


def test_a_change_is_named():
    with pytest.raises(inputs.ChangedError, match=r"run was trained .*: the data and the source of grow changed"):
        inputs.check({"data": "a", "grow": "b"}, {"data": "c", "grow": "d"}, "run")
    inputs.check({"data": "a"}, {"data": "a"}, "run")

"""Fingerprints of what a run reads: data, and the source of rules."""

import dataclasses
import sys

import numpy as np
import pytest

from experiments import data
from experiments.data import Stream
from experiments.training import inputs, rules

RULE = "import helper_of_rule\n\n\ndef grow(leaf):\n    return helper_of_rule.SCALE * leaf.gradient\n"


@pytest.fixture
def rule(tmp_path, monkeypatch):
    """Writes a rule and the module that it uses; returns the fingerprint."""
    monkeypatch.chdir(tmp_path)

    def write(text=RULE, helper="SCALE = 2.0\n"):
        (tmp_path / "rule_of_test.py").write_text(text)
        (tmp_path / "helper_of_rule.py").write_text(helper)
        for name in ("rule_of_test", "helper_of_rule"):
            sys.modules.pop(name, None)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        return inputs.of_rule(rules.rule("grow", "rule_of_test:grow"))

    yield write
    for name in ("rule_of_test", "helper_of_rule"):
        sys.modules.pop(name, None)


def test_the_code_of_a_rule_counts_and_its_comments_do_not(rule):
    first = rule()
    assert rule(RULE.replace("    return", "    # why\n\n    return")) == first
    assert rule(RULE.replace("leaf.gradient", "-leaf.gradient")) != first


def test_modules_beside_a_rule_count_too(rule):
    assert rule(helper="SCALE = 3.0\n") != rule()


def test_a_rule_without_source_has_its_name():
    assert inputs.of_rule(max) == inputs.of_rule(max) != inputs.of_rule(min)


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

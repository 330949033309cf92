"""Compiling for devices that are not here: what is read from their programs, and what is said where it cannot be."""

import importlib.util
import json
import math
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments.alone import alone
from experiments.benchmarks import accelerator_programs, accelerator_table, accelerators, chips, hlo, layouts
from experiments.benchmarks.traffic import traffic
from tests.thorough import slow

ROOT = Path(__file__).parents[3]
# As TPU's compiler writes it: no trip count, memories in the layouts, flags to wait for.
TPU = """HloModule jit_f, is_scheduled=true

%condition (arg: (s32[], f32[256])) -> pred[] {
  %end = s32[]{:T(128)} constant(11), metadata={op_name="f"}
  %arg = (s32[]{:T(128)}, f32[256]{0:T(256)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%arg), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %end), direction=LT
}

%body (arg.1: (s32[], f32[256])) -> (s32[], f32[256]) {
  %one = s32[]{:T(128)} constant(1)
  %arg.1 = (s32[]{:T(128)}, f32[256]{0:T(256)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  %x.1 = f32[256]{0:T(256)} get-tuple-element(%arg.1), index=1
  %near = f32[256]{0:T(256)S(1)} negate(%x.1)
  %all-reduce.1 = f32[256]{0:T(256)} all-reduce(%near), channel_id=1, to_apply=%add
  %next = s32[]{:T(128)} add(%i.1, %one), backend_config={"flags":[]}
  ROOT %tuple.1 = (s32[]{:T(128)}, f32[256]{0:T(256)}) tuple(%next, %all-reduce.1)
}

ENTRY %main (x: f32[256]) -> f32[256] {
  %x = f32[256]{0:T(256)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %begin = s32[]{:T(128)} copy(%zero)
  %copy-start = (f32[256]{0:T(256)S(1)}, f32[256]{0:T(256)}, u32[]{:S(2)}) copy-start(%x)
  %copy-done = f32[256]{0:T(256)S(1)} copy-done(%copy-start)
  %slice-start = ((f32[256]{0:T(256)}), f32[64]{0:T(128)S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:64]}
  %tuple = (s32[]{:T(128)}, f32[256]{0:T(256)}) tuple(%begin, %x)
  %while = (s32[]{:T(128)}, f32[256]{0:T(256)}) while(%tuple), condition=%condition, body=%body
  ROOT %out = f32[256]{0:T(256)} get-tuple-element(%while), index=1
}
"""


def test_a_loop_runs_as_often_as_its_counter_says():
    assert hlo.collectives(TPU).operations == {"all-reduce": 11}
    from_three = TPU.replace("constant(0)", "constant(3)")
    assert hlo.collectives(from_three).operations == {"all-reduce": 8}


def test_a_loop_that_may_be_left_out_is_a_branch():
    """Its counter begins with zero or with where it ends."""
    begin = "%begin = s32[]{:T(128)} copy(%zero)"
    assert begin in TPU
    either = """%ten = s32[1]{0:T(128)} constant({11})
  %none = s32[1]{0:T(128)} constant({0})
  %x.1 = pred[1]{0:T(512)} parameter(1)
  %chosen = s32[1]{0:T(128)} select(%x.1, %ten, %none)
  %begin = s32[]{:T(128)} bitcast(%chosen)"""
    text = TPU.replace(begin, either)
    bodies, entry = hlo.computations(text)
    assert hlo.executions(bodies, entry)["body"] == 11
    assert hlo.executions(bodies, entry, branches=False)["body"] == 0
    assert traffic(text, branches=False) < traffic(text)
    unknown = text.replace("constant({0})", "parameter(2)")
    assert math.isinf(hlo.executions(*hlo.computations(unknown), branches=False)["body"])


@pytest.mark.parametrize(
    "change",
    [
        ("constant(1)", "constant(2)"),
        ("direction=LT", "direction=NE"),
        ("%begin = s32[]{:T(128)} copy(%zero)", "%begin = s32[]{:T(128)} parameter(1)"),
        ("%next = s32[]{:T(128)} add(%i.1, %one)", "%next = s32[]{:T(128)} fusion(%i.1, %one)"),
        ("%end = s32[]{:T(128)} constant(11)", "%end = s32[]{:T(128)} parameter(1)"),
    ],
)
def test_a_counter_of_another_kind_tells_nothing(change):
    text = TPU.replace(*change)
    assert text != TPU
    bodies, entry = hlo.computations(text)
    assert math.isinf(hlo.executions(bodies, entry)["body"])
    for read in (hlo.collectives, traffic):
        with pytest.raises(ValueError, match="of unknown length"):
            read(text)


def test_memories_are_told_apart():
    array, counter, part = 4 * 256, 4, 4 * 64
    loop = 11 * (2 * array + 2 * array + 3 * counter)  # negate, all-reduce, add, each with what it reads and writes
    near = 11 * 2 * array  # what negate writes, and all-reduce reads
    entry = 2 * counter + 2 * array + 2 * part
    test = 11 * (2 * counter + 1)
    assert traffic(TPU) == loop + entry + test
    assert traffic(TPU, main=True) == loop + entry + test - near - array - part
    assert hlo.sorts(TPU.replace("negate(", "sort(")) == 1


def failing(capsys, *arguments):
    """The exit status and the one line of a run that does not begin."""
    status = accelerators.main([*arguments])
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return status, error


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--topologies", "v9"], "topology 'v9' is not known; expected v5e"),
        (["--topologies", "h100:0"], "topology 'h100:0' is not known"),
        (["--topologies", "v5e"], "libtpu, the compiler for TPUs, is not installed here; `make tpu`"),
        (["--topologies", "v5e:16x16"], "libtpu, the compiler for TPUs, is not installed here"),
        (["--topologies", "h100"], "is not installed here; `make cuda`"),
        (["--only", "networks"], "--only networks is not known; did you mean 'network'?"),
        (["--programs", "updates"], "--programs updates is not known"),
        (["--methods", "set,rigll"], "--methods rigll is not known; did you mean 'rigl'?"),
        (["--report"], "has no accelerators.jsonl; run without --report first"),
    ],
)
def test_bad_input_is_one_line(arguments, expected, capsys, monkeypatch, tmp_path):
    find = importlib.util.find_spec
    compilers = ("libtpu", "jax_cuda12_plugin")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in compilers else find(name, *a))
    status, error = failing(capsys, *arguments, "--out", str(tmp_path))
    assert status == 2
    assert expected in error


def test_a_missing_interpreter_is_one_line():
    for target in ("tpu", "cuda"):
        words = ["make", "--always-make", "--no-print-directory", f".venv-{target}/.stamp", "PYTHON=absent"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2
        assert f"name one that is, as in PYTHON=python3.12 make {target}\n" in done.stderr


def one_chip():
    return chips.Target("v5e", layouts.mesh(1, "auto"), "tpu", ("libtpu", "0"))


def program(name, fails=False):
    def lower(mesh):
        if fails:
            raise RuntimeError("no such\ninstruction")
        x = layouts.placed(mesh, jax.ShapeDtypeStruct((8, 8), jnp.float32), "2-d")
        return jax.jit(lambda x: jnp.sort(x) + 1).lower(x)

    return accelerator_programs.Program("network", {"tree": "t", "method": name, "program": "step"}, 64, lower)


@pytest.mark.slow
def test_a_run_goes_on_where_it_ended(monkeypatch, tmp_path, capsys):
    found = [program("dense"), program("set", fails=True)]
    monkeypatch.setattr(chips, "target", lambda name: one_chip())
    monkeypatch.setattr(accelerators, "programs", lambda *_: found)
    arguments = ["--topologies", "v5e", "--out", str(tmp_path)]
    assert accelerators.main(arguments) == 1
    assert "0 of 2 programs" in capsys.readouterr().out
    found[1] = program("set")
    assert accelerators.main(arguments) == 0
    out = capsys.readouterr().out
    assert "1 of 2 programs" in out
    assert "[1/1]" in out
    assert accelerators.main([*arguments, "--report"]) == 0
    assert accelerators.main([*arguments, "--again", "--texts", str(tmp_path / "texts")]) == 0
    assert len(list((tmp_path / "texts").iterdir())) == 2

    rows = json.loads((tmp_path / "results.json").read_text())
    assert rows[0]["versions"]["libtpu"] == "0"
    values = [row["values"] for row in rows[1:]]
    assert [v["sorts"] for v in values] == [1, 1]
    assert [v["array_bytes_per_weight"] for v in values] == [4, 4]  # what is sorted, before one is added
    assert all(v["bytes"] >= 2 * 4 * 64 and 0 <= v["compile_cpu_seconds"] < 60 for v in values)
    table = (tmp_path / "accelerators.md").read_text()
    assert table.count("| v5e |") == 2
    assert "(1.0x)" in table
    assert "Compiled for accelerators" in (tmp_path / "index.html").read_text()


def test_what_does_not_compile_is_named():
    case = {"topology": "v5e", "group": "network", "method": "set"}
    values = {"kind": "value", "case": {**case, "tree": "t", "program": "step"}}
    numbers = dict.fromkeys(("compile_cpu_seconds", "temporary_bytes_per_weight"), 1.0)
    numbers |= dict.fromkeys(("bytes", "bytes_of_all_memories", "branches", "sorts", "collective_largest_bytes"), 2)
    values["values"] = numbers | {"collective_kinds": "none"}
    table = accelerator_table.markdown([values, {"kind": "skipped", "case": case, "why": "it is too large"}])
    assert "v5e, network, set: it is too large" in table
    assert accelerator_table.markdown([]) == "no figures"


def test_every_program_has_a_name_of_its_own():
    groups = accelerator_programs.GROUPS
    for devices in (1, 256):
        found = list(accelerator_programs.programs(devices, ["set", "str", "static"], groups))
        titles = [repr((p.group, p.case)) for p in found]
        assert len(set(titles)) == len(titles)
        assert {p.group for p in found} == set(groups) - ({"layouts"} if devices == 1 else set())
        quick = [p.case["method"] for p in found if p.options == accelerator_programs.LEAST_EFFORT]
        assert quick == (["set"] if devices == 1 else [])


def test_the_quick_update_is_the_update_with_other_options():
    found = {p.case["program"]: p for p in accelerator_programs.programs(1, ["rigl"], ["network"])}
    one, other = found["update"], found[accelerator_programs.QUICK]
    assert (one.options, other.options) == (None, {"exec_time_optimization_effort": -1.0})
    tree, mesh = {"stage0": (16, 64)}, layouts.mesh(1, "auto")
    with jax.set_mesh(mesh):
        texts = [
            accelerator_programs._step("network", {}, tree, "rigl", p.case["program"]).lower(mesh) for p in (one, other)
        ]
        assert texts[0].as_text() == texts[1].as_text()
        assert texts[1].compile(compiler_options=other.options).as_text()


@pytest.mark.parametrize("name", [n if n in ("asp", "srigl") else slow(n) for n in accelerator_programs.names()])
@pytest.mark.filterwarnings("ignore")
def test_every_method_can_be_traced(name):
    mesh = layouts.mesh(1, "auto")
    tree = {"stage0": (16, 64), "bias": (64,)}  # a name that does not say what it is, as those of the real trees
    for step in accelerator_programs.STEPS:
        traced = accelerator_programs._step("network", {}, tree, name, step)
        with jax.set_mesh(mesh):
            assert traced.lower(mesh).as_text()


@pytest.mark.parametrize("name", ["NNX", *map(slow, ("plain JAX", "Linen", "Equinox", "Haiku"))])
def test_every_framework_can_be_traced(name):
    mesh = layouts.mesh(1, "auto")
    traced = accelerator_programs._framework(name)
    assert traced.weights == (784 + 1) * 512 + (512 + 1) * 10
    with jax.set_mesh(mesh):
        assert traced.lower(mesh).as_text()


def test_two_runs_do_not_write_into_one_folder(tmp_path, capsys):
    options = ["--topologies", "", "--out", str(tmp_path)]
    with alone(tmp_path):
        assert accelerators.main(options) == 2
    assert "is in use by another process" in capsys.readouterr().err

import dataclasses
import json
import re

import pytest

from experiments.benchmarks import __main__ as benchmarks
from experiments.benchmarks import charts, hlo, machine, page, records, scaling, shapes, targets, timing
from experiments.benchmarks.traffic import traffic
from tests.thorough import slow

HLO = """HloModule jit_f, is_scheduled=true

%add (a: s32[], b: s32[]) -> s32[] {
  %a = s32[] parameter(0)
  ROOT %sum = s32[] add(%a, %b)
}

%body (loop: (s32[], u32[4])) -> (s32[], u32[4]) {
  %all-reduce.1 = s32[3]{0} all-reduce(%x), channel_id=1, to_apply=%add
}

%condition (loop: (s32[], u32[4])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%branch_0 (p: bf16[2]) -> bf16[8,2] {
  ROOT %all-gather.3 = bf16[8,2]{1,0} all-gather(%p), channel_id=2, dimensions={0}
}

%branch_1 (p: bf16[2]) -> bf16[8,2] {
  ROOT %broadcast = bf16[8,2]{1,0} broadcast(%p)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %while.1 = (s32[], u32[4]) while(%t), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"16"}}
  %conditional.1 = bf16[8,2] conditional(%i, %p, %p), branch_computations={%branch_0, %branch_1}
  %all-gather-start.2 = (pred[2]{0}, pred[16]{0}) all-gather-start(%m), channel_id=3, dimensions={0}
  ROOT %done = pred[16]{0} all-gather-done(%all-gather-start.2)
}
"""


def test_collectives_count_as_often_as_they_run():
    found = hlo.collectives(HLO)
    assert found.operations == {"all-reduce": 16, "all-gather": 2}
    assert found.in_text == 3
    assert found.bytes == 16 * 3 * 4 + 8 * 2 * 2 + 16
    assert found.largest == 32
    assert hlo.branches(HLO) == 1


def test_a_collective_in_a_loop_of_unknown_length_is_refused():
    with pytest.raises(ValueError, match="unknown length"):
        hlo.collectives(HLO.replace("known_trip_count", "other"))


def test_shapes_have_the_published_sizes():
    resnet = shapes.resnet50()
    assert len(resnet) == 54
    assert shapes.weights(resnet) == 25_502_912
    assert shapes.weights(shapes.vit_b16()) == pytest.approx(86e6, rel=0.01)
    assert shapes.weights(shapes.gpt_1_3b()) == pytest.approx(1.3e9, rel=0.02)


def test_rounds_are_interleaved_and_ratios_paired():
    calls = []
    runs = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    times = timing.interleaved(runs, rounds=20, warmup=1)
    rounds = ["".join(calls[i : i + 2]) for i in range(0, len(calls), 2)]
    assert rounds[0] == "ab"
    assert len(rounds) == 21
    assert set(rounds[1:]) == {"ab", "ba"}
    assert [len(t) for t in times.values()] == [20, 20]
    assert timing.ratios({"a": [1.0, 2.0], "b": [2.0, 1.0]}, "a", "b") == [0.5, 2.0]
    assert timing.exponent([1e6, 1e7, 1e8], [1.0, 10.0, 100.0]) == pytest.approx(1.0)


def row(benchmark, contender, to, ratio, **case):
    spread = dict.fromkeys(("median", "q1", "q3", "min"), ratio) | {"n": 3}
    seconds = dict(spread, median=1.0)
    return {
        "kind": "time",
        "benchmark": benchmark,
        "case": {**case, "contender": contender},
        "seconds": seconds,
        "to": to,
        "ratio": spread,
        "load": 1.0,
    }


def test_a_quick_run_reaches_no_target():
    for outcome in targets.outcomes([]):
        reached = dataclasses.replace(outcome, values=(outcome.target.low,))
        assert targets.verdict(reached, quick=True) == "quick run"
        assert targets.verdict(reached, quick=False) == "reached"
        assert targets.verdict(dataclasses.replace(outcome, values=()), quick=True) == ""


def test_the_worst_figure_decides_whether_a_target_is_reached():
    rows = [row("update", name, "jaxpruner rigl", r, tree="resnet50") for name, r in (("rigl", 0.02), ("dst_ee", 0.05))]
    rows += [row("update", "rigl", "dense step", 12.5, tree="resnet50")]
    rows += [row("update", "jaxpruner rigl", "dense step", 400.0, tree="resnet50")]
    faster, dense = targets.outcomes(rows)[:2]
    assert (faster.measured, faster.reached) == ("20x to 50x", False)
    assert (dense.measured, dense.reached) == ("12.5x", True)
    assert "| ≥ 30x | 20x to 50x | missed |" in targets.markdown(rows)
    assert "not measured" in targets.markdown([])


def test_every_chart_has_something_to_draw_or_none():
    rows = [row("update", "rigl", "dense step", 12.5, tree="resnet50")]
    assert charts.updates(rows).startswith("<svg")
    assert charts.updates([]) is None
    assert charts.selection([]) is None
    assert "not measured" in page.page([])


def test_an_unknown_benchmark_is_refused(capsys):
    with pytest.raises(SystemExit) as error:
        benchmarks.main(["--only", "steps"])
    assert error.value.code == 2
    assert "expected some of selection, update" in capsys.readouterr().err


# Which rows a benchmark yields; one is named by what it measures.
MEASURED = {name: {name} for name in benchmarks.BENCHMARKS} | {"compile": {"compile", "state"}}


@pytest.mark.parametrize(
    "names", [("selection",), *map(slow, (("selection", "update"), tuple(benchmarks.BENCHMARKS)))], ids=len
)
def test_quick_run_end_to_end(names, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("JAXPRUNER", raising=False)
    assert benchmarks.main(["--quick", "--only", ",".join(names), "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "| figure | target | measured | |" in out

    rows = json.loads((tmp_path / "results.json").read_text())
    heads = [r for r in rows if r["kind"] == "run"]
    assert {r["benchmark"] for r in heads if r["device"]["platform"] == "cpu"} == set(names)
    for head in heads:
        assert head["quick"] is True
        assert head["versions"].keys() >= {"python", "jax", "jaxlib", "optax", "numpy"}
        assert head["machine"].keys() == {"cpu", "cores", "memory_bytes", "system"}
        assert head["malloc"]
        assert head["commit"]
        assert "--quick" in head["command"]
        assert head["bandwidth"] > 0
    for r in rows:
        assert r["kind"] in records.KINDS
        if r["kind"] == "time":
            assert 0 < r["seconds"]["min"] <= r["seconds"]["median"]
            assert ("to" in r) == ("ratio" in r)
        if r["kind"] == "value":
            assert r["values"]
    measured = {r["benchmark"] for r in rows if r["kind"] in ("time", "value")}
    assert measured == set().union(*(MEASURED[name] for name in names))
    found = [r["values"] for r in rows if r["benchmark"] == "collectives" and r["kind"] == "value"]
    assert all(v["masks_equal_one_device"] and not v["moves_a_tensor"] for v in found)
    assert all(v["values"]["conditionals"] == 1 for v in rows if "conditionals" in v.get("values", {}))

    page_text = (tmp_path / "index.html").read_text()
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)|url\((?!#)|@import""", page_text)
    assert page_text.count("<svg") >= min(len(names), 4)
    assert "A quick run" in page_text

    before = page_text
    assert benchmarks.main(["--report", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "index.html").read_text() == before


def test_the_machine_is_described_without_git(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "HERE", tmp_path)
    assert machine.commit() == "unknown"


def test_traffic_counts_operands_results_and_loops():
    # while body: 12 bytes of result, its operand unknown; gather: 16 + 2 bytes; conditional: 32 + unknown operands.
    whole, without = traffic(HLO), traffic(HLO, branches=False)
    assert whole - without == 2 * 8 * 2 * 2
    assert without == 16 * (12 + 1) + 16


IN_PARTS = """HloModule parts

%writes (big: f32[1000], small: f32[2,5]) -> f32[1000] {
  %big = f32[1000]{0} parameter(0)
  %small = f32[2,5]{1,0} parameter(1)
  %flat = f32[10]{0} bitcast(%small)
  %at = s32[] constant(7)
  ROOT %put = f32[1000]{0} dynamic-update-slice(%big, %flat, %at)
}

%reads (whole.1: f32[1000]) -> (f32[10], f32[20]) {
  %whole.1 = f32[1000]{0} parameter(0)
  %flat.1 = f32[1000]{0} bitcast(%whole.1)
  %some = f32[10]{0} slice(%flat.1), slice={[0:10]}
  %more = f32[20]{0} slice(%flat.1), slice={[10:30]}
  ROOT %both = (f32[10]{0}, f32[20]{0}) tuple(%some, %more)
}

%adds (whole.2: f32[1000]) -> f32[1000] {
  %whole.2 = f32[1000]{0} parameter(0)
  %first = f32[1]{0} slice(%whole.2), slice={[0:1]}
  %wide = f32[1000]{0} broadcast(%first), dimensions={}
  ROOT %sum = f32[1000]{0} add(%whole.2, %wide)
}

ENTRY %main (x: f32[1000], y: f32[2,5]) -> f32[1000] {
  %x = f32[1000]{0} parameter(0)
  %y = f32[2,5]{1,0} parameter(1)
  %one = f32[1000]{0} fusion(%x, %y), kind=kLoop, calls=%writes
  %two = (f32[10]{0}, f32[20]{0}) fusion(%one), kind=kLoop, calls=%reads
  %cut = f32[4]{0} slice(%one), slice={[0:4]}
  ROOT %all = f32[1000]{0} fusion(%one), kind=kLoop, calls=%adds
}
"""


def test_traffic_counts_of_an_operand_what_is_cut_out_of_it_or_written_into_it():
    put, cut = 2 * 40, 2 * (40 + 80)  # reads what it puts, and writes that
    assert traffic(IN_PARTS) == put + cut + 2 * 16 + 2 * 4000
    elsewhere = IN_PARTS.replace("%one = f32[1000]{0}", "%one = f32[1000]{0:T(1024)S(1)}")
    assert traffic(elsewhere, main=True) == 40 + (40 + 80) + 16 + 4000


@pytest.mark.slow
def test_scaling_of_a_tiny_model_is_compiled_and_predicted(tmp_path, capsys):
    assert scaling.main(["--models", "tiny", "--out", str(tmp_path), "--latency", "0"]) == 0
    head, *lines = (json.loads(line) for line in (tmp_path / "scaling-cpu.jsonl").read_text().splitlines())
    assert head["assumed"]["latency"] == 0
    of = {line["case"]["program"]: line["values"] for line in lines}
    assert of["dense"]["collectives"] == of["step"]["collectives"] == 0
    assert 0 < of["update"]["collectives"] < 200
    # Three bits a pass: seven counts of 4 bytes for each of the 14 matrices of two layers, and no tensor.
    assert of["update"]["largest_collective"] == 7 * 4 * 14
    weights = lines[0]["case"]["weights"]
    masked = weights - 2 * 256 * 64 - 64 - 3 * 2 * 64
    # A bit a weight over 8 devices; on each the numbers of active weights of 21 leaves, the step and the key.
    assert of["step"]["sparse_state"] == masked / 8 / 8 + 4 * 21 + 4 + 8
    assert of["dense"]["traffic"] < of["step"]["traffic"] < of["update"]["traffic"]
    assert of["predicted"]["update_seconds"] == pytest.approx(
        of["update"]["traffic"] / 3.35e12 + of["update"]["collective_bytes"] / 5e10
    )
    assert "| tiny | 8 |" in capsys.readouterr().out
    assert "<td>tiny</td>" in page.page([head, *lines])


def test_layers_that_are_not_compiled_are_like_the_second(monkeypatch):
    monkeypatch.setattr(scaling, "compiled", lambda model, layers, *_: {"traffic": 10 + 3 * layers} | dict.fromkeys(
        ("largest_collective",), layers))  # fmt: skip
    total = scaling.whole(scaling.MODELS["70B"], 8, "explicit", "step")
    assert total == {"traffic": 10 + 3 * 80, "largest_collective": 2}


def test_a_trillion_weights():
    model = scaling.MODELS["1T"]
    assert shapes.weights(scaling.tree(model, model.layers)) > 1e12


def test_rounds_that_others_disturb_are_thrown_away(monkeypatch):
    busy = iter([0.9, 0.0, 0.9])
    monkeypatch.setattr(timing.Watch, "elsewhere", lambda self: next(busy))
    monkeypatch.setattr(timing.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(timing, "BLOCK", 0.0)
    times = timing.interleaved({"a": lambda: None}, rounds=2, patience=1.0)
    assert times.thrown_away == 1  # the third would be another, but patience is spent
    assert len(times["a"]) == 2
    assert times.elsewhere == pytest.approx(0.45)


def test_a_place_that_cannot_be_written_to_is_refused_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr(benchmarks, "BENCHMARKS", {"start": lambda settings: pytest.fail("measured")})
    with pytest.raises(SystemExit) as ended:
        benchmarks.main(["--quick", "--out", str(tmp_path / "file" / "bench")])
    assert ended.value.code == 2
    assert "is not usable: Not a directory" in capsys.readouterr().err


def test_quick_figures_do_not_replace_real_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmarks, "_measure", lambda *given: True)
    monkeypatch.setattr(benchmarks, "_report", lambda out: None)
    assert benchmarks.main(["--quick"]) == benchmarks.main([]) == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["bench", "bench-quick"]

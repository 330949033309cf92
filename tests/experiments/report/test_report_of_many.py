"""The report on many methods, and on methods whose sparsity or number of weights is not the one asked for."""

import csv
import dataclasses
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import dstjax
from experiments.report import charts, collect, cost_chart, counting, findings, names, page, rows, style, tables
from experiments.report.names import method_label
from tests.experiments.report.test_report import compare, make_cell
from tests.thorough import few

RANKED = ("grasp", "gmp", "granet", "rigl", "set", "static", "snip", "accset", "srigl")  # from the best to the worst


def with_pattern(method, accuracy):
    return dataclasses.replace(make_cell(method, 0.5, accuracy), name=method, pattern="2:4")


def with_density(cell, share, counts="free"):
    """The cell with ``share`` of the active weights that were asked for."""
    layers = tuple(dataclasses.replace(x, active=np.round(x.active * share).astype(int)) for x in cell.layers)
    active = sum(int(x.active[0]) for x in layers)
    return dataclasses.replace(cell, layers=layers, density=active / cell.weights, active_weights=active, counts=counts)


@pytest.fixture(scope="module")
def many():
    grid = [make_cell("dense", 0.0, [98, 97, 98, 99, 98], 1.0)]
    for sparsity in (0.9, 0.95):
        grid += [make_cell(m, sparsity, 95 - i + np.arange(5) / 10) for i, m in enumerate(RANKED)]
        grid.append(with_density(make_cell("soft_deepr", sparsity, 97), 3))
    return compare([*grid, with_pattern("ste", 97), with_pattern("asp", 96)])


@pytest.fixture(scope="module")
def page_of_many(many):
    return page.page(many)


def test_every_method_is_grouped_by_the_family_of_the_catalogue():
    grouped = names.by_family([*dstjax.methods.names(), "one of my own"])
    assert [*grouped] == [*dstjax.methods.FAMILIES, names.OTHER]
    assert sorted(name for members in grouped.values() for name in members) == sorted(
        [*dstjax.methods.names(), "one of my own"]
    )
    assert {*names.DO} == {*dstjax.methods.FAMILIES} - {"baseline"}
    labels = [method_label(name) for name in dstjax.methods.names()]
    assert len({*labels}) == len(labels)


@few(2)
@pytest.mark.parametrize(
    "draw", [charts.accuracy, charts.differences, rows.ranks, cost_chart.accuracy_against_cost, charts.turnover]
)
def test_charts_of_many_methods_are_whole_and_repeat(draw, many):
    svg = draw(many)
    ET.fromstring(svg)
    assert draw is not rows.ranks or draw(many) == svg  # the charts of test_report.py all repeat
    assert not re.search("#010[23]", svg)


def test_the_accuracy_chart_has_a_row_per_method_below_its_family(many):
    svg = charts.accuracy(many)
    for method in many.all_methods:
        assert f">{method_label(method)}<" in svg
    for family in ("dense to sparse", "performance-driven", "structured"):
        assert f">{family}<" in svg
    assert svg.index("static") < svg.index("dense to sparse") < svg.index("sparse to sparse")


def test_colours_stand_for_families_where_there_are_many():
    assert style.colour("snip", list(RANKED)) == style.colour("grasp", list(RANKED))
    assert style.colour("snip", list(RANKED)) != style.colour("rigl", list(RANKED))
    assert style.colour("rigl", list(RANKED[:8])) == style.COLOURS["rigl"]


def test_a_method_with_a_pattern_is_never_at_a_sparsity_that_was_asked_for(many):
    assert many.sparsities == [0.9, 0.95]
    assert not {"ste", "asp"} & {*many.methods, *many.ranked}
    at_half = dataclasses.replace(many, grid=(*many.grid, make_cell("rigl", 0.5, 96), make_cell("set", 0.5, 96)))
    assert at_half.find("set", 0.5).name in tables.differences(at_half)
    for cell in at_half.patterned:
        assert cell.name not in tables.differences(at_half)
        assert cell.place == "2:4, 50\u00a0%"
        assert cell not in at_half.sparse
    text = tables.as_text(many)
    assert re.search(r"^STE +2:4, 50 % ", text, re.MULTILINE)
    assert "these rows are not at one that was asked for" in text
    assert "2:4, 50\u00a0% by the pattern" in cost_chart.accuracy_against_cost(many)


@pytest.mark.parametrize(
    ("hyperparameters", "pattern"),
    [
        ({"sparsity": 0.9, "structure": "n_m(2, 4)"}, ""),
        ({"n": 2, "m": 4}, "2:4"),
        ({"structure": "channels(budget=0.55)"}, "channels"),
        ({}, "its own"),
    ],
)
def test_what_gives_the_sparsity_where_it_is_no_hyperparameter(hyperparameters, pattern):
    assert collect._pattern({"method": "asp", "hyperparameters": hyperparameters, "layers": [1]}) == pattern


def test_every_method_of_the_catalogue_is_told_by_what_it_does():
    comparison = compare([make_cell("rigl", 0.9, 95)])
    told = {name: page._doc(name, comparison) for name in dstjax.methods.CATALOGUE}
    assert [name for name, text in told.items() if len(text) < 30 or text.rstrip(".") == method_label(name)] == []
    assert told["rigl"] == "Drops the smallest weights and grows where the gradient is largest."


def test_mask_updates_that_were_not_recorded_one_by_one_are_counted():
    often = dataclasses.replace(make_cell("static", 0.9, 95), name="deepr-0.9", method="deepr", mask_updates=50)
    comparison = compare([often, make_cell("rigl", 0.9, 95)])
    (said,) = counting.kept(comparison)
    assert said.startswith("At the end of every epoch and at 40 mask updates (of 290 mask updates over all runs), ")
    text = page.page(comparison)
    assert "<dt>mask updates</dt><dd>8 to 50</dd>" in text
    assert "Nor has DeepR, where nearly every step is a mask update." in text


def test_rows_that_were_not_trained_alike_are_named():
    usual, other = make_cell("rigl", 0.9, 95), make_cell("set", 0.9, 95)
    rate = {"optimizer": {"learning_rate": 0.1}, "batch_size": 32}
    usual = dataclasses.replace(usual, config={**usual.config, **rate})
    other = dataclasses.replace(other, config={**other.config, **rate, "maskable": "kernel$"})
    assert "Not all rows were trained alike. maskable: kernel$ for SET, None elsewhere." in findings.does_not_show(
        compare([usual, other])
    )
    slower = dataclasses.replace(other, config={**usual.config, "optimizer": {"learning_rate": 0.01}})
    assert "Not all rows were trained alike. optimizer.learning_rate: 0.01 for SET, 0.1 elsewhere." in (
        findings.does_not_show(compare([usual, slower]))
    )
    assert not any("trained alike" in said for said in findings.does_not_show(compare([usual])))


@pytest.mark.parametrize(("method", "pattern"), [("dense", ""), ("wide", "dense")])
def test_a_network_without_masks_is_dense_under_any_name(method, pattern):
    assert collect._pattern({"method": method, "hyperparameters": {"sparsity": 0.0}, "layers": []}) == pattern


def test_a_second_dense_network_is_a_row_of_its_own():
    dense = make_cell("dense", 0.0, 98, 1.0)
    second = dataclasses.replace(dense, name="wide", method="wide", pattern="dense", variant="dense with x = 1.")
    comparison = compare([dense, second, make_cell("rigl", 0.9, 95)])
    assert "dense, 0 %" in tables.as_text(comparison)
    assert "dense with x = 1." in page.page(comparison)


@pytest.mark.parametrize("grid", [["ste"], ["rigl", "ste"], ["rigl", "set", "sr_ste"]], ids=len)
def test_few_methods_with_a_pattern_give_a_page(grid):
    cells = [with_pattern(m, 96) if "ste" in m else make_cell(m, 0.9, 95) for m in grid]
    comparison = compare([make_cell("dense", 0.0, 98, 1.0), *cells])
    text = page.page(comparison)
    assert "2:4, 50\u00a0%" in text
    assert tables.as_text(comparison)


def test_a_method_that_is_denser_than_asked_is_not_ranked_nor_called_the_best(many):
    assert "soft_deepr" not in many.ranked
    assert many.ranked == list(RANKED)
    found = findings.shows(many)
    assert "Soft-DeepR" not in found[0]
    assert any("Soft-DeepR kept more weights than asked for" in s for s in found)
    assert any("in place of 10\u00a0%, 30\u00a0% with Soft-DeepR" in s for s in found)
    assert "soft_deepr" not in {c.method for c in cost_chart.front(list(many.sparse))}
    assert "The density is not the one that was asked for with Soft-DeepR." in tables.as_text(many)


def test_a_sparser_one_is_ranked_and_its_density_reported():
    sparser = with_density(make_cell("accset", 0.9, 99), 0.5)
    comparison = compare([make_cell("rigl", 0.9, 95), sparser])
    assert comparison.ranked == ["accset", "rigl"]
    assert any("in place of 10\u00a0%, 5\u00a0% with AccSET" in s for s in findings.shows(comparison))


def test_exact_counts_are_claimed_for_those_methods_that_promise_them():
    cells = [
        make_cell("rigl", 0.9, 95),
        dataclasses.replace(make_cell("gmp", 0.9, 95), counts="reached"),
        dataclasses.replace(make_cell("dsr", 0.9, 95), counts="total", off_count=4),
        dataclasses.replace(make_cell("snfs", 0.9, 95), counts="free", off_count=9),
    ]
    kept, reached, total = counting.kept(compare(cells))
    assert kept.startswith("At every recorded step")
    assert kept.endswith("asked for with RigL.")
    assert reached == (
        "After the last step, every layer had exactly the number of active weights that was asked for with GMP."
    )
    assert total == "After the last step, the number of active weights of the network was off by up to 4 with DSR."
    said = "SNFS promises no number of active weights and came out {} the one asked for."
    assert counting.missed(compare(cells)) == [said.format("at")]
    layer = cells[3].layers[0]
    more = dataclasses.replace(layer, active=layer.active + np.arange(len(layer.active)) % 2)
    cells[3] = dataclasses.replace(cells[3], layers=[more, *cells[3].layers[1:]])
    assert counting.missed(compare(cells)) == [said.format("within 1 weight of")]


@pytest.mark.slow
def test_pictures_are_limited_and_the_page_says_so(many, page_of_many):
    text = page_of_many
    assert many.shown == ["grasp", "gmp", "rigl", "static"]
    assert "Shown are 4 of 10 methods: GraSP, GMP, RigL and static; static, RigL and the best ranked" in text
    assert text.count('<svg class="map"') == 2 * 5
    few = compare([make_cell(m, 0.9, 95) for m in RANKED[:8]])
    assert few.shown == few.methods
    assert "Shown are" not in page.page(few)


def test_the_page_of_many_methods_is_well_formed_and_says_what_holds(many, page_of_many):
    text = page_of_many
    body = text.split("<body>")[1].split("</body>")[0]
    body = re.sub(r"<(br|img[^>]*)>", r"<\1/>", body).replace("<span class=clear>", "<span>")
    ET.fromstring(f"<body>{body}</body>")
    assert "What each of the 13 methods does" in text
    assert "from the first training step to the last" not in text
    assert ":func:" not in text
    assert "``" not in text
    assert len(findings.shows(many)) < 12


def test_ranks_need_blocks_and_many_methods(many):
    assert "critical distance" in rows.ranks(many)
    assert len(rows.blocks(many)["rigl"]) == 2 * 5
    few = dataclasses.replace(many, grid=many.grid[:9])
    assert rows.ranks(few) is None
    one_seed = compare([make_cell(m, s, 95, seeds=1) for m in RANKED for s in (0.9, 0.95)])
    assert rows.ranks(one_seed) is None


def test_costs_are_in_every_table(many, page_of_many):
    record = next(r for r in csv.DictReader(io.StringIO(tables.as_csv(many))) if r["cell"] == "rigl-0.9")
    assert float(record["dense_forward_flops"]) == 1e5
    assert float(record["inference_cost"]) == pytest.approx(0.1)
    assert float(record["training_cost_paper"]) == float(record["training_cost_exact"]) == pytest.approx(0.11)
    assert record["counts"] == "kept"
    assert re.search(r"^RigL +90 %.* 0\.110 +0\.100$", tables.as_text(many), re.MULTILINE)
    assert 'href="#conventions"' in page_of_many
    assert 'id="conventions"' in page_of_many


def test_a_run_without_costs_still_has_a_report():
    comparison = compare([dataclasses.replace(make_cell("rigl", 0.9, 95), cost=None)])
    assert cost_chart.accuracy_against_cost(comparison) is None
    assert "training cost" not in page.page(comparison)
    assert tables.as_csv(comparison)
    assert tables.as_text(comparison)


def test_the_front_is_what_none_beats_at_no_higher_cost():
    cells = [make_cell(m, 0.9, a) for m, a in (("static", 90), ("set", 95), ("rigl", 94), ("snip", 89))]
    assert [c.method for c in cost_chart.front(cells)] == ["static", "set"]

"""Tables declared, published numbers, ranks, and what is printed of them."""

import dataclasses

import numpy as np
import pytest

from experiments.reproduce import charts, grids, published, ranks
from experiments.reproduce.cells import Cell, config_of, folder_of
from experiments.reproduce.claims import judge
from experiments.reproduce.papers.catalogue import get, tables
from experiments.reproduce.papers.table import Table
from experiments.reproduce.reading import Measured
from experiments.reproduce.seeds import of_proxy

NAMES = (
    *(f"dst_ee_table{i}" for i in (1, 2, 3, 4)),
    *("dst_ee_figure1", "dst_ee_figure3", "dst_ee_figure3_accuracy", "dst_ee_propositions"),
    *("iee_table2", "iee_table3", "iee_table4", "iee_figure1", "iee_figure5"),
    *(f"criteria_figure{i}" for i in (*range(1, 9), *range(11, 19), *range(23, 31))),
    *("criteria_table2", "criteria_figure4_over_time", "criteria_figure6_dense"),
    *("criteria_figure11_criteria", "criteria_figure16_factor"),
    *("regrowing_table2", "regrowing_text", *(f"regrowing_figure{i}" for i in range(2, 7))),
)


def measured(method, values, *, sparsity=0.9, metric="accuracy", **names):
    cell = Cell("any", method, model="net", dataset="data", sparsity=sparsity, **names)
    return Measured(cell, tuple(range(len(values))), {metric: np.array(values, float)}, {}, "a network", 1.0)


def test_every_table_and_figure_is_there():
    assert {*NAMES} <= {*tables()}


@pytest.mark.parametrize("name", NAMES)
def test_cells_of_a_table_have_configs_and_different_runs(name):
    table = get(name)
    for proxy in (True, False)[: 1 if table.proxy_only else 2]:
        cells = table.cells(proxy)
        folders = [folder_of(c, config_of(c, seeds=2, proxy=proxy)) for c in cells[:: max(1, len(cells) // 6)]]
        assert len({*folders}) == len(folders)
        titles = [(c.title, c.probe) for c in cells]
        assert len({*titles}) == len(titles)


@pytest.mark.parametrize("name", NAMES)
def test_claims_name_cells_that_there_are(name):
    """Judged on invented numbers: each claim finds its cells, in the full table and in the proxy."""
    table = get(name)
    for proxy in (True, False)[: 1 if table.proxy_only else 2]:
        values = {m: np.array([1.0, 2.0]) for c in table.claims for m in (c.metric, c.other) if m}
        cells = table.derive([Measured(c, (0, 1), values, {}, "", 0.0) for c in table.cells(proxy)])
        lost = [v.claim for v in judge(table.claims, cells) if v.verdict == "not run"]
        if proxy:  # what a proxy leaves out it may not judge, but most it must
            assert len(lost) < max(1, len(table.claims))
        else:
            assert not lost


@pytest.mark.parametrize(
    ("name", "metric"),
    [("dst_ee_table1", "accuracy"), ("dst_ee_table3", "accuracy"), ("dst_ee_table4", "accuracy"),
     ("iee_table3", "accuracy"), ("iee_table4", "accuracy"), ("regrowing_table2", "connections")],
)  # fmt: skip
def test_every_published_number_has_its_cell(name, metric):
    table = get(name)
    wanted = {f for f in published.of_table(table.paper, table.printed) if f.metric == metric}
    assert wanted
    assert {published.find(table.paper, table.printed, c, metric) for c in table.cells(False)} >= wanted


def test_published_numbers_say_their_paper_and_table():
    assert len(published.figures()) > 300
    for figure in published.figures():
        assert figure.paper
        assert figure.table
        assert np.isfinite(figure.value)
    cell = Cell("any", "DST-EE", model="VGG-19", dataset="CIFAR-10", sparsity=0.9, epochs="160")
    assert published.find("DST-EE", "Table 1", cell, "accuracy").value == 93.84
    assert published.find("DST-EE", "Table 1", cell, "exploration") is None


def test_a_cell_that_fits_two_published_numbers_is_refused():
    cell = Cell("any", "DST-EE", model="VGG-19", dataset="CIFAR-10", sparsity=0.9)
    with pytest.raises(ValueError, match="2 published figures fit; give its epochs"):
        published.find("DST-EE", "Table 1", cell, "accuracy")


def test_ranks_and_diagram():
    cells = [
        measured(m, [a + b], sparsity=s, group=str(b))
        for m, a in (("good", 2.0), ("bad", 1.0))
        for s in (0.7, 0.9)
        for b in range(5)
    ]
    found = ranks.rankings(cells, "accuracy")
    assert [(r.name, r.blocks) for r in found] == [
        ("all densities", 10),
        ("densities up to 0.2", 5),
        ("densities above 0.2", 5),
    ]
    assert found[0].comparison.names == ("good", "bad")
    assert found[0].comparison.ranks == (1.0, 2.0)
    assert "critical distance" in ranks.diagram(found[0])


def test_a_change_of_method_leaves_out_what_it_has_not():
    config = config_of(Cell("dst_ee_vgg19_cifar10", "x", {"method": "static", "sparsity": 0.5}), seeds=2, proxy=True)
    assert config.coefficient is None
    assert config.sparsity == 0.85  # 0.3 of the density
    with pytest.raises(ValueError, match="has no field 'sparsety'"):
        config_of(Cell("dst_ee_vgg19_cifar10", "x", {"sparsety": 0.5}), seeds=2, proxy=True)


def test_equal_configs_share_a_folder():
    one, other = (Cell("regrowing_set_mlp_cifar10", m, {"method": "lset"}) for m in ("LSET", "another name"))
    assert folder_of(one, config_of(one, seeds=2, proxy=True)) == folder_of(
        other, config_of(other, seeds=2, proxy=True)
    )


def test_a_proxy_has_a_share_of_the_densities_of_its_paper():
    trained = [
        config_of(c, seeds=2, proxy=True).sparsity for c in get("dst_ee_table1").cells(True) if c.sparsity == 0.9
    ]
    assert {*trained} == {0.97}
    links = [config_of(c, seeds=2, proxy=True) for c in get("dst_ee_table4").cells(True) if c.sparsity]
    assert {c.sparsity for c in links} == {0.8, 0.9, 0.98}
    full = config_of(get("dst_ee_table1").cells(False)[1], seeds=2, proxy=False)
    assert full.sparsity == 0.9


def test_proxies_have_enough_seeds():
    assert {of_proxy(table) for table in tables().values()} == {8, 16}
    assert of_proxy(get("dst_ee_table1")) == of_proxy(get("dst_ee_table4")) == 16


def test_panels_of_a_chart_are_told_apart_by_their_data_where_networks_are_the_same():
    def of(dataset, **names):
        return dataclasses.replace(measured("RigL", [1.0]), cell=Cell("any", "RigL", {}, dataset=dataset, **names))

    assert [*charts._grouped([of("a", model="net"), of("b", model="net")])] == ["net, a", "net, b"]
    assert [*charts._grouped([of("a", model="net"), of("a", model="other")])] == ["net", "other"]


def test_numbers_of_a_table_as_markdown():
    def row(method, metric, values, dataset="a", epochs=""):
        cell = dict(model="", dataset=dataset, group="", sparsity=None, epochs=epochs, x=None)
        return dict(cell, method=method, metric=metric, per_seed=values)

    table = Table("t", "T", "P", "1", lambda proxy: [], metrics=("accuracy", "training share"), reference="RigL")
    rows = [row("RigL", "accuracy", [50.0, 52.0]), row("ours", "accuracy", [51.0, 54.0]),
            row("RigL", "accuracy", [60.0, 60.0], "b"), row("ours", "training share", [0.25, 0.25])]  # fmt: skip
    text = grids.markdown(table, rows).splitlines()
    assert text[:2] == ["| test accuracy (%) | a | b |", "|---|---|---|"]
    assert text[2] == "| RigL | 51.00 ± 1.41 | 60.00 |"
    assert text[3] == "| ours | +1.50 ± 6.35 |  |"  # 12.7 standard errors of 0.5
    assert "| ours | 0.250 |  |" in text
    many = grids.markdown(table, [row("RigL", m, [1.0, 2.0]) for m in ("accuracy", "loss", "chance")])
    assert many.splitlines()[0] == "| a | RigL |"
    assert len(many.splitlines()) == 5
    rows = [row("RigL", "accuracy", [50.0, 52.0], epochs="160")]
    rows += [row("ours", "accuracy", [v, v + 2], epochs=epochs) for epochs, v in (("160", 51), ("250", 60))]
    assert grids.markdown(table, rows).splitlines()[2:] == [
        "| RigL | 51.00 ± 1.41 |",
        "| ours (160 epochs) | +1.00 ± 0.00 |",
        "| ours (250 epochs) | +10.00 ± 0.00 |",
    ]


@pytest.mark.parametrize("name", ["own_growth", "own_growth_settings", "own_growth_losing", "own_growth_dst_ee"])
def test_claims_are_about_cells_that_run_by_default(name):
    table = get(name)
    values = {"accuracy": np.array([1.0, 2.0])}
    cells = [Measured(c, (0, 1), values, {}, "", 0.0) for c in table.cells(True) if table.usual(c)]
    lost = [v.claim for v in judge(table.claims, cells) if v.verdict == "not run"]
    assert [c for c in lost if "batch 256" not in c] == []

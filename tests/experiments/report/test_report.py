"""The report: what it computes from cells that are made up here, and that it stands on its own."""

import dataclasses
import io
import json
import math
import re
import xml.etree.ElementTree as ET

import matplotlib.image
import numpy as np
import pytest

import dstjax
from experiments.report import (
    charts,
    collect,
    cost_chart,
    findings,
    page,
    pictures,
    settings,
    style,
    tables,
)
from experiments.report.cells import CellResult, Comparison, Cost, Layer, UpdateRecords
from experiments.training import sealed
from experiments.training.finished import UnreadableError
from tests.thorough import few

SHAPES = (("Dense_0/kernel", (64, 30)), ("Dense_1/kernel", (30, 10)))
CHARTS = (
    *(charts.accuracy, charts.differences, charts.exploration, charts.layers, charts.turnover),
    cost_chart.accuracy_against_cost,
)
NO_UPDATES = UpdateRecords(np.zeros(0, int), *(np.zeros((0, 5)),) * 3)


def make_cell(method, sparsity, accuracy, exploration=0.1, coefficient=None, seeds=5):
    draw = np.random.default_rng(len(method) + int(1000 * sparsity))
    layers, masks, updates = (), None, NO_UPDATES
    if method != "dense":
        active = [round((1 - sparsity) * np.prod(shape)) for _, shape in SHAPES]
        layers = tuple(Layer(p, s, n, np.full(seeds, n)) for (p, s), n in zip(SHAPES, active, strict=True))
        initial = np.array([np.random.default_rng(i).permutation(64 * 30) < active[0] for i in range(seeds)])
        final = np.sort(initial, axis=1)[:, ::-1] if method != "static" else initial
        masks = initial.reshape(seeds, 64, 30), final.reshape(seeds, 64, 30)
    if method not in ("dense", "static"):
        rounds = np.linspace(1 - sparsity, exploration, 8)[:, None] + np.zeros(seeds)
        survival = draw.uniform(0, 1, (8, seeds))
        survival[0] = np.nan
        updates = UpdateRecords(np.arange(8) * 10 + 10, rounds, survival, draw.uniform(0, 0.1, (8, seeds)))
    weights = sum(math.prod(shape) for _, shape in SHAPES)
    active_weights = sum(layer.requested for layer in layers) or weights
    return CellResult(
        name="-".join([method, f"{sparsity:g}", *([f"c{coefficient:g}"] if coefficient else [])]),
        method=method,
        sparsity=sparsity,
        coefficient=coefficient,
        seeds=tuple(range(seeds)),
        accuracy=np.resize(np.asarray(accuracy, float), seeds),
        exploration=np.full(seeds, exploration),
        density=active_weights / weights,
        active_weights=active_weights,
        weights=weights,
        steps=100,
        seconds=1.5,
        settings={"share that moves": "0.5" if method == "dst_ee" else "0.3"} if len(updates) else {},
        config={"method": method, "sparsity": sparsity, "steps": 100, "coefficient": coefficient},
        versions={"dstjax": "0.1.0", "jax": "0.10.2", "optax": "0.2.8"},
        off_count=0,
        mask_updates=len(updates),
        updates=updates,
        layers=layers,
        first_masks=masks,
        cost=Cost(1e5, 1 - sparsity, *((1 - sparsity) * (1 + 0.1 * bool(len(updates))),) * 2),
    )


def compare(grid, sweep=()):
    return Comparison(
        tuple(grid),
        tuple(sweep),
        "digits",
        "digits: 10,000 test samples",
        10_000,
        "python -m experiments.compare --workdir DIR",
    )


@pytest.fixture
def comparison():
    grid = [make_cell("dense", 0.0, [98, 97, 98, 99, 98], 1.0)]
    for sparsity in (0.9, 0.95):
        grid += [
            make_cell("static", sparsity, [80, 85, 70, 90, 88]),
            make_cell("set", sparsity, [93, 92, 94, 93, 92], 0.3),
            make_cell("rigl", sparsity, [95, 94, 96, 95, 94], 0.2),
            make_cell("dst_ee", sparsity, [95, 95, 95, 95, 94], 0.25, 1e-3),
        ]
    sweep = [make_cell("dst_ee", 0.95, 94.5, 0.2, 1e-4), grid[-1], make_cell("dst_ee", 0.95, 93, 0.4, 1e-1)]
    return compare(grid, sweep)


@few(2)
@pytest.mark.parametrize("draw", CHARTS, ids=lambda f: f.__name__)
def test_a_chart_is_a_whole_svg_in_the_colours_of_the_page(draw, comparison):
    svg = draw(comparison)
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("viewBox")
    assert root.get("aria-label")
    assert "width" not in root.attrib
    assert "currentColor" in svg
    assert not re.search("#010[23]", svg)  # no stand-in is left
    ids = re.findall(r'\bid="([^"]*)"', svg)
    references = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', svg)
    assert {a or b for a, b in references} <= {*ids}
    assert draw(comparison) == svg  # the same cells give the same bytes


def test_ids_of_two_charts_differ(comparison):
    first, second = (set(re.findall(r'\bid="([^"]*)"', draw(comparison))) for draw in CHARTS[:2])
    assert not first & second


def test_the_accuracy_chart_names_axes_methods_and_sparsities(comparison):
    svg = charts.accuracy(comparison)
    for text in ("test accuracy", "sparsity", "dense", "static", "SET", "RigL", "DST-EE", "90\u00a0%", "95\u00a0%"):
        assert text in svg


def test_the_exploration_chart_has_every_coefficient_and_both_references(comparison):
    svg = charts.exploration(comparison)
    for text in ("c = 0.0001", "c = 0.001", "c = 0.1", "RigL", "SET", "exploration rate R", "test accuracy (%)"):
        assert text in svg


def test_the_page_holds_everything_and_asks_the_network_for_nothing(comparison):
    text = page.page(comparison)
    for section in (
        *("findings", "accuracy", "differences", "cost", "exploration", "layers", "turnover", "inputs", "raw"),
        *("numbers", "made"),
    ):
        assert f'<section id="{section}">' in text
    without_names = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert "http" not in without_names
    assert not re.search(r"<script|<link|<iframe|@import|url\((?!#)|src=\"(?!data:)", without_names)
    assert text.count("<figcaption>") == 8
    assert text.count("python -m experiments.compare") >= 8
    assert "98.00 ± 0.71" in text
    assert "dstjax 0.1.0" in text


def test_the_page_is_well_formed(comparison):
    body = page.page(comparison).split("<body>")[1].split("</body>")[0]
    body = re.sub(r"<(br|img[^>]*)>", r"<\1/>", body).replace("<span class=clear>", "<span>")
    ET.fromstring(f"<body>{body}</body>")


def test_text_from_outside_is_escaped(comparison):
    text = page.page(dataclasses.replace(comparison, data="<script>alert(1)</script>"))
    assert "<script" not in text


@few(2)
@pytest.mark.parametrize(
    "grid",
    [
        [make_cell("dense", 0.0, 98, 1.0)],
        [make_cell("static", 0.9, 80)],
        [make_cell("rigl", 0.9, [90, 91], seeds=1)],
        [make_cell("rigl", 0.9, 100), make_cell("set", 0.9, 100)],
        [make_cell("rigl", 0.9, 95), make_cell("set", 0.5, 93)],  # holes in the grid
        [make_cell(m, 0.9, 95) for m in ("rigl", "mest", "rigl_itop", "something_new")],
    ],
    ids=["dense", "static", "one seed", "no error", "holes", "unknown methods"],
)
def test_a_partial_grid_still_gives_a_page_and_tables(grid):
    comparison = compare(grid)
    assert "<h1>" in page.page(comparison)
    assert tables.as_text(comparison)
    assert tables.as_csv(comparison).count("\n") == 1 + sum(len(c.seeds) for c in grid)


def test_findings_follow_the_numbers():
    reference = make_cell("rigl", 0.9, [90, 91, 92, 93, 94])
    above = compare([reference, make_cell("dst_ee", 0.9, [92, 93, 94, 95, 96.1])])
    below = compare([reference, make_cell("dst_ee", 0.9, [88, 89, 90, 91, 92.1])])
    equal = compare([reference, make_cell("dst_ee", 0.9, [91, 90, 92, 92, 95])])
    assert any("DST-EE lies clearly above RigL" in s for s in findings.shows(above))
    assert any("DST-EE lies clearly below RigL" in s for s in findings.shows(below))
    assert any("DST-EE does not differ clearly from RigL" in s for s in findings.shows(equal))


def test_findings_name_what_else_differs_between_methods(comparison):
    limits = findings.does_not_show(comparison)
    assert any("share that moves: 0.3 for SET and RigL and 0.5 for DST-EE" in s for s in limits)
    assert any("8 differences to RigL" in s for s in limits)  # 3 methods x 2 sparsities, 2 more coefficients
    assert any("one of them is 0.01 percentage points" in s for s in limits)


def test_what_the_test_examples_do_not_resolve_is_not_clear():
    """A tenth of a point, the same in five seeds, is 0.4 of 360 examples: not clear, and said to be so."""
    reference = make_cell("rigl", 0.9, [90, 91, 92, 93, 94])
    close = make_cell("dst_ee", 0.9, [90.1, 91.1, 92.1, 93.11, 94.1])
    many, few = (dataclasses.replace(compare([reference, close]), n_test=n) for n in (10_000_000, 360))
    assert any("DST-EE lies clearly above RigL" in s for s in findings.shows(many))
    assert any("+0.10\u00a0±\u00a00.00 points, less than the test examples resolve" in s for s in findings.shows(few))
    limits = findings.does_not_show(few)
    assert any("360 different ones of all seeds resolve differences of 2.79 points" in s for s in limits)
    assert " ~" in tables.as_text(few)
    assert " *" in tables.as_text(many)
    more = dataclasses.replace(few, tested=1200)  # every seed has test examples of its own
    assert more.samples == 1200


def test_what_is_compared_together_is_corrected_together():
    """A difference that is clear alone (p = 0.02) is not among ten others; each cell counts once."""
    seeds = np.array([90, 91, 92, 93, 94.0])
    noise = np.array([1.0, 0.2, 1.4, 0.6, 0.8])
    alone = compare([make_cell("rigl", 0.9, seeds), make_cell("set", 0.9, seeds + noise)])
    names = ("mest", "static", "rigl_itop", "gmp", "dst_ee", "snip", "grasp", "str", "sis", "dsr")
    others = [make_cell(m, 0.9, seeds + noise[::-1] - 0.8) for m in names]
    among = compare([*alone.grid, *others])
    assert tables.differences(alone)["set-0.9"].known
    assert not tables.differences(among)["set-0.9"].known
    assert len(tables.differences(among)) == 11


def test_findings_report_counts_that_are_off(comparison):
    assert any("exactly the number of active weights" in s for s in findings.shows(comparison))
    off = dataclasses.replace(comparison.grid[-1], off_count=3)
    wrong = dataclasses.replace(comparison, grid=(*comparison.grid[:-1], off), sweep=())
    assert any("off by up to 3" in s for s in findings.shows(wrong))


def test_a_missing_cell_is_named(comparison):
    missing = dataclasses.replace(comparison, failures=("SET at 99 %: the loss is not finite",))
    assert any("SET at 99 %" in s for s in findings.does_not_show(missing))


def test_spread_apart_keeps_the_order_and_the_distance():
    places = [0.5, 0.1, 0.52, 0.11, 0.9]
    moved = style.spread_apart(places, 0.1)
    assert np.all(np.diff(np.array(moved)[np.argsort(places)]) >= 0.1 - 1e-9)
    assert moved[4] == 0.9


def test_a_raw_mask_survives_as_an_image():
    mask = np.random.default_rng(0).random((7, 13)) < 0.3
    image = matplotlib.image.imread(io.BytesIO(pictures.png(mask)))
    np.testing.assert_array_equal(image[..., 3] > 0.5, mask)


def test_input_maps_count_connections(comparison):
    cell = comparison.find("rigl", 0.9)
    counts = pictures.connections(cell.first_masks[1])
    assert counts.sum() == cell.layers[0].requested
    assert pictures.middle_share(np.ones(64), 8) == 0.25
    assert pictures.input_maps(comparison).count('<svg class="map"') == 2 * 5


def test_no_input_maps_where_the_inputs_are_no_square_or_the_layer_is_a_convolution():
    cell = make_cell("rigl", 0.9, 95)
    for shape in ((5, 60, 30), (5, 3, 3, 1, 16)):
        masks = np.zeros(shape, bool)
        comparison = compare([dataclasses.replace(cell, first_masks=(masks, masks))])
        assert pictures.input_maps(comparison) is None


def test_settings_are_those_in_force_and_not_those_of_a_signature():
    made = dstjax.methods.get("set", sparsity=0.9, update_period=10, end_step=100)
    described = settings.describe(made)
    assert described["drops"] == "set_fraction"
    assert described["grows"] == "random"
    assert described["share that moves"] == "0.3 always"
    made = dstjax.methods.get("dst_ee", sparsity=0.9, update_period=10, end_step=100)
    assert settings.describe(made, 1e-3)["coefficient"] == "0.001"
    assert settings.describe(dstjax.methods.get("dense")) == {}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("summary.json", "{", "summary.json cannot be read"),
        ("summary.json", "[]", "holds no JSON object"),
        ("summary.json", json.dumps({"layers": []}), "summary.json has no checksum"),
        ("summary.json", json.dumps(sealed.seal({"layers": []})), "does not hold a run of this version"),
        ("metrics.jsonl", "{}\n{", "metrics.jsonl cannot be read"),
    ],
)
def test_files_that_are_no_run_are_named(tmp_path, name, content, message):
    for file in ("summary.json", "config.json", "metrics.jsonl"):
        (tmp_path / file).write_text(json.dumps(sealed.seal({})) if file != "metrics.jsonl" else "")
    (tmp_path / name).write_text(content)
    with pytest.raises(UnreadableError, match=message):
        collect.cell(tmp_path, dstjax.methods.get("dense"))

"""Claims: verdicts by paired differences, corrected together, and what speaks against a verdict."""

import numpy as np
import pytest

from experiments.reproduce.cells import Cell
from experiments.reproduce.claims import Claim, judge
from experiments.reproduce.reading import Measured

NEW, OLD = {"method": "new"}, {"method": "old"}
CLAIM = Claim("it is so", NEW, OLD)


def measured(method, values, *, sparsity=0.9, metric="accuracy", seeds=None, recipe=None, changes=None, **names):
    cell = Cell("any", method, changes or {}, model="net", dataset="data", sparsity=sparsity, **names)
    seeds = tuple(range(len(values))) if seeds is None else seeds
    return Measured(cell, seeds, {metric: np.array(values, float)}, {}, "a network", 1.0, recipe or {})


def one(claim, cells, *others):
    return judge([claim], cells, *others)[0]


@pytest.mark.parametrize(
    ("kind", "left", "margin", "verdict"),
    [
        ("above", [3, 4, 5], 0, "shown"),
        ("above", [1, 2, 3], 0, "not shown"),  # 3.5 standard errors: Student's t wants 4.3 with three seeds
        ("above", [-3, -4, -5], 0, "reversed"),
        ("above", [-1, 0, 1], 0, "not shown"),
        ("above", [3, 4, 5], 3, "not shown"),
        ("above", [-2, -2.1, -2.2], 3, "not shown"),  # to be reversed it must pass the margin on the other side
        ("below", [-3, -4, -5], 0, "shown"),
        ("below", [3, 4, 5], 0, "reversed"),
        ("no worse", [-0.1, 0.0, 0.1], 0.5, "shown"),
        ("no worse", [-3, -4, -5], 0.5, "reversed"),
        ("no gain", [-3, -4, -5], 0.5, "shown"),
        ("no gain", [3, 4, 5], 0.5, "reversed"),
        ("close", [-0.1, 0.0, 0.1], 0.5, "shown"),
        ("close", [3, 4, 5], 0.5, "reversed"),
        ("close", [-3, -4, -5], 0.5, "reversed"),
        ("close", [-1, 0, 1], 0.5, "not shown"),
    ],
)
def test_verdict_by_paired_differences(kind, left, margin, verdict):
    base = np.array([90.0, 50.0, 70.0])  # seeds differ far more than methods: only pairs tell
    cells = [measured("new", base + left), measured("old", base)]
    found = one(Claim("it is so", NEW, OLD, kind=kind, margin=margin), cells)
    assert found.verdict == verdict
    assert f"{np.mean(left):+.2f} ± {np.std(left, ddof=1) / 3**0.5:.2f} points, 3 seeds" in found.evidence


def test_claims_of_a_table_are_corrected_together():
    """p = 0.04 alone, and of two such claims at once 0.08."""
    cells = [measured("new", [90.6, 91.5, 92.2, 91.9]), measured("old", [90.0, 91.0, 91.0, 91.8])]
    alone, both = one(CLAIM, cells), judge([CLAIM, Claim("so again", NEW, OLD)], cells)
    assert alone.verdict == "not shown" or alone.p <= 0.05
    assert [v.p for v in both] == pytest.approx([2 * alone.p] * 2)
    untested = judge([CLAIM, Claim("not run", {"method": "other"}, OLD)], cells)  # what is not tested costs nothing
    assert untested[0].p == alone.p


@pytest.mark.parametrize(
    ("claim", "direction"),
    [
        (CLAIM, "test accuracy (%): new - old > 0 points"),
        (Claim("", NEW, OLD, margin=0.5), "test accuracy (%): new - old > 0.5 points"),
        (Claim("", NEW, OLD, kind="below", margin=0.5), "test accuracy (%): new - old < -0.5 points"),
        (Claim("", NEW, OLD, kind="below", metric="gap"), "validation loss minus training loss: new - old < 0"),
        (Claim("", NEW, OLD, kind="no worse", margin=0.5), "test accuracy (%): new - old > -0.5 points"),
        (Claim("", NEW, OLD, kind="close", margin=1.0), "test accuracy (%): new - old between -1 and 1 points"),
        (Claim("", NEW, NEW, metric="b", other="a"), "b - a, new > 0"),
        (Claim("", {**NEW, "sparsity": 0.98}, {"group": ("x", "y")}), "test accuracy (%): new, 98 % - x/y > 0 points"),
        (Claim("", NEW, kind="falling"), "rank correlation of test accuracy (%) with x, new: < 0"),
    ],
)
def test_a_claim_spells_out_its_sign_and_margin(claim, direction):
    assert one(claim, []).direction == direction


def test_the_papers_difference_and_the_power_to_find_it():
    cells = [measured("new", [91.0, 92.5, 93.0, 92.0]), measured("old", [90.0, 90.5, 92.5, 91.0])]
    numbers = {"new": 94.0, "old": 92.5}
    found = one(CLAIM, cells, (), lambda cell, metric: numbers[cell.method])
    assert found.paper == 1.5
    assert (found.effect, found.effect_of) == (1.5, "the paper's")
    assert found.low < found.ours < found.high
    assert 0 < found.power < 1
    stated = one(CLAIM, cells)
    assert (stated.effect, stated.effect_of) == (0.5, "stated")
    assert stated.power < found.power
    wrong = one(
        CLAIM, cells, (), lambda cell, metric: -numbers[cell.method]
    )  # the paper's own numbers say the opposite
    assert (wrong.paper, wrong.effect_of) == (-1.5, "stated")


def test_one_seed_is_not_a_test():
    found = one(CLAIM, [measured("new", [9.0]), measured("old", [1.0])])
    assert found.verdict == "not tested"
    assert "+8.00 points, one seed has no spread" in found.evidence


@pytest.mark.parametrize("kind", ["above", "below", "close", "no gain", "no worse"])
def test_the_same_numbers_on_both_sides_test_nothing(kind):
    cells = [measured(m, [90.0, 91.0, 92.0]) for m in ("new", "old")]
    found = one(Claim("it is so", NEW, OLD, kind=kind, margin=1.0), cells)
    assert found.verdict == "not tested"
    assert "both sides are the same numbers" in found.evidence
    other = [measured(m, [90.0 + i, 91.0, 92.0], sparsity=0.8) for i, m in enumerate(("new", "old"))]
    assert (
        "in 1 of 2 settings both sides are the same numbers"
        in one(Claim("it is so", NEW, OLD, kind=kind, margin=1.0), [*cells, *other]).remarks
    )


def test_seeds_that_do_not_pair_are_left_out_and_said():
    cells = [measured("new", [9.0, 3.0, 4.0], seeds=(7, 0, 1)), measured("old", [1.0, 2.0, 5.0], seeds=(0, 1, 2))]
    found = one(CLAIM, cells)
    assert found.seeds == 2
    assert found.ours == 2.0  # 3 - 1 and 4 - 2
    assert "2 of 4 seeds do not pair and are left out" in found.remarks
    none = one(CLAIM, [measured("new", [1.0, 2.0], seeds=(8, 9)), measured("old", [1.0, 2.0])])
    assert (none.verdict, none.evidence) == ("not tested", "no seed was run on both sides")


def test_a_cell_that_failed_is_named():
    cells = [measured("new", [3.0, 4.0, 5.0]), measured("old", [1.0, 2.0, 2.5])]
    lost = [(Cell("any", "new", model="net", sparsity=0.98), "failed (the loss is not finite)")]
    assert one(CLAIM, cells, lost).remarks == ("without 1 cell(s), failed (the loss is not finite): net, new, 98 %",)
    found = one(CLAIM, cells[1:], lost)
    assert found.verdict == "not run"
    assert "failed (the loss is not finite): net, new" in found.evidence
    assert not one(CLAIM, cells, [(Cell("any", "another"), "failed")]).remarks


def test_a_number_that_is_not_finite_is_not_a_test():
    found = one(CLAIM, [measured("new", [3.0, np.nan]), measured("old", [1.0, 2.0])])
    assert found.verdict == "not tested"
    assert "not finite" in found.evidence


def test_rows_of_other_recipes_are_not_compared():
    cells = [
        measured("new", [3.0, 4.0, 5.0], recipe={"batch_size": 64, "optimizer.momentum": 0.9}),
        measured("old", [1.0, 2.0, 2.5], recipe={"batch_size": 64, "optimizer.momentum": 0.0}),
    ]
    found = one(CLAIM, cells)
    assert found.verdict == "not tested"
    assert "other recipes: optimizer.momentum" in found.evidence
    said = [cells[0], measured("old", [1.0, 2.0, 2.5], recipe=cells[1].recipe, changes={"optimizer.momentum": 0.0})]
    declared = one(CLAIM, said)  # the row says so itself
    assert declared.verdict != "not tested"
    assert "the rows differ by declaration in optimizer.momentum" in declared.remarks


def test_a_metric_that_a_cell_lacks_is_named():
    cells = [measured("new", [3.0, 4.0], metric="loss"), measured("old", [1.0, 2.5])]
    assert "no accuracy of net, data, new" in one(CLAIM, cells).evidence


def test_blocks_are_compared_within_and_averaged():
    cells = [
        *(measured("new", [s * 100 + 1.0, s * 100 + 2.0], sparsity=s) for s in (0.8, 0.9)),
        *(measured("old", [s * 100, s * 100], sparsity=s) for s in (0.8, 0.9)),
    ]
    found = one(CLAIM, cells)
    assert len(found.blocks) == 2
    assert "+1.50 ± 0.50 points, mean of 2 settings, 2 seeds" in found.evidence


def test_the_dense_network_serves_every_sparsity():
    cells = [
        measured("dense", [80.0, 81.0, 82.0], sparsity=0.0),
        measured("new", [82.0, 83.5, 84.2], sparsity=0.8, group="g"),
    ]
    assert one(Claim("it is so", NEW, {"method": "dense"}), cells).verdict == "shown"


def test_methods_are_not_mixed_where_a_claim_compares_groups():
    cells = [
        measured(m, [float(i), i + 0.5], group=g)
        for i, (m, g) in enumerate([("a", "x"), ("b", "x"), ("a", "y"), ("b", "y")])
    ]
    assert len(one(Claim("it is so", {"group": "y"}, {"group": "x"}), cells).blocks) == 2


@pytest.mark.parametrize(
    ("kind", "sign", "verdict"), [("rising", 1, "shown"), ("rising", -1, "reversed"), ("falling", -1, "shown")]
)
def test_trend_along_x(kind, sign, verdict):
    cells = [measured("m", [sign * x + s for s in range(5)], x=x) for x in (1.0, 2.0, 3.0, 4.0)]
    assert one(Claim("it rises", {"method": "m"}, kind=kind), cells).verdict == verdict


def test_a_trend_of_two_seeds_or_of_the_same_numbers_is_not_shown():
    """Two seeds that agree on the order of three places do so by chance too."""
    cells = [measured("m", [x, x + 5.0], x=x) for x in (1.0, 2.0, 3.0)]
    assert one(Claim("it rises", {"method": "m"}, kind="rising"), cells).verdict == "not shown"
    flat = [measured("m", [4.0, 5.0, 6.0], x=x) for x in (1.0, 2.0, 3.0)]
    assert one(Claim("it rises", {"method": "m"}, kind="rising"), flat).verdict == "not tested"


def test_a_claim_without_cells_is_not_run():
    assert one(CLAIM, []).verdict == "not run"


def test_what_both_sides_ask_for_alike_must_be_the_same_in_a_pair():
    cells = [
        measured(m, [float(i), i + 0.5], sparsity=s)
        for i, (m, s) in enumerate([("new", 0.8), ("new", 0.9), ("old", 0.8), ("old", 0.9)])
    ]
    both = (0.8, 0.9)
    assert len(one(Claim("it is so", {**NEW, "sparsity": both}, {**OLD, "sparsity": both}), cells).blocks) == 2


def test_a_claim_that_training_fails():
    claim = Claim("it diverges", NEW, kind="diverges")
    lost = [(Cell("any", "new"), "failed (the loss is not finite)")]
    assert one(claim, [], lost).verdict == "shown"
    assert one(claim, [measured("new", [1.0, 2.0])]).verdict == "reversed"
    assert one(claim, [measured("new", [1.0, 2.0])], lost).verdict == "not shown"
    assert one(claim, [], [(Cell("any", "new"), "left out by --only")]).verdict == "not run"
    stopped = [(Cell("any", "new", group=str(i)), "interrupted") for i in range(2)]
    found = one(claim, [], [*lost, *stopped])
    assert found.verdict == "not tested"
    assert found.remarks[0].startswith("without 2 cell(s), interrupted")


def test_a_trend_names_what_it_leaves_out():
    line = [measured("m", [x + s for s in range(5)], x=x) for x in (1.0, 2.0, 3.0, 4.0)]
    claim = Claim("it rises", {"method": "m"}, kind="rising")
    assert one(claim, line).remarks == ()
    for cells, said in (
        ([*line, measured("m", [5.0] * 5, x=5.0, metric="loss")], "no accuracy of net, data, m"),
        ([*line[:3], measured("m", [4.0, 5.0], x=4.0)], "3 of 5 seeds do not pair and are left out"),
        ([*line, *(measured("m", [x] * 5, x=x, group="g") for x in (1.0, 2.0))], "1 line(s) of fewer than three"),
    ):
        (remark,) = one(claim, cells).remarks
        assert said in remark


def test_a_cell_with_nothing_to_compare_with_is_named():
    cells = [measured(m, [i, i + 0.5, i + 1.5]) for i, m in enumerate(("old", "new"))]
    found = one(CLAIM, [*cells, measured("new", [1.0, 2.0, 3.0], sparsity=0.8)])
    assert found.remarks == ("without 1 cell(s), nothing to compare with: net, data, new, 80 %",)

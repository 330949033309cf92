"""The figures of the page, each with its title and caption."""

from collections.abc import Callable

from experiments.report import charts, cost_chart, pictures, rows
from experiments.report.cells import Comparison, percent
from experiments.report.document import escaped, listed
from experiments.report.markup import command
from experiments.report.names import method_label

OF_LINES = (
    "Higher is better. Markers are means, bars one standard deviation, faint dots single seeds; methods at one "
    "sparsity stand side by side. The band is the dense network. The axis spreads out small errors: the step "
    "from 98 to 99 % is as tall as the one from 80 to 90 %."
)
COLOURS_OF_MANY = "Colours and markers stand for families, whose best stand first."
NOT_ASKED = " A hollow marker has another density than was asked for, which stands beside it."


def figures(comparison: Comparison) -> list[str]:
    n = len(comparison.grid[0].seeds)
    over = f"mean and standard deviation over {n} seeds" if n > 1 else "one seed"
    reference = method_label(comparison.reference or "")
    swept = percent(comparison.sweep[0].sparsity) if comparison.sweep else ""
    middle = comparison.sparsities[len(comparison.sparsities) // 2] if comparison.sparsities else 0.0
    in_rows = comparison.many or bool(comparison.patterned)
    not_asked = NOT_ASKED if any(c.off_density for c in comparison.sparse) else ""
    found: list[tuple[str, str, Callable[[], str | None], str]] = [
        (
            "accuracy",
            f"Test accuracy against sparsity, {over}" if not in_rows else f"Test accuracy of every method, {over}",
            lambda: charts.accuracy(comparison),
            _of_rows(comparison) + not_asked if in_rows else OF_LINES,
        ),
        (
            "differences",
            f"Difference in test accuracy to {reference} on the same seeds",
            lambda: charts.differences(comparison),
            "Seeds are paired: each compares two methods on the same data split and initial weights. Bars are 95 % "
            "intervals by Student's t; the marker is hollow where the methods are not told apart, with Holm's "
            "correction over all differences and with what the test examples resolve. The axis is linear from -1 to 1 "
            "and logarithmic beyond."
            + (" Each column has a scale of its own." if comparison.many else "")
            + _denser(comparison),
        ),
        (
            "ranks",
            "Mean ranks over all sparsities and seeds",
            lambda: rows.ranks(comparison),
            _of_ranks(comparison),
        ),
        (
            "cost",
            "Test accuracy against the cost of training",
            lambda: cost_chart.accuracy_against_cost(comparison),
            "Up and to the left is better. The cost is that of the floating-point operations of training by the exact "
            "convention, as a share of dense training of as many steps; what it counts is said below the table of all "
            "numbers. The line joins the methods that none of the others beats at no higher cost"
            + (", which have their names, as has " + reference if comparison.many else "")
            + f". Each panel has its own scales; the grey square is the dense network.{_hollow(not_asked)}",
        ),
        (
            "exploration",
            f"Exploration rate of DST-EE for several coefficients c, at {swept} sparsity",
            lambda: charts.exploration(comparison),
            "R is the share of all weights that have been active at least once. Left: R after each mask update, the "
            "band is one standard deviation (often thinner than the line). Right: where each run ended, bars are one "
            "standard deviation. c weighs exploration (weights seldom active) against exploitation (large gradients); "
            "c = 0 would be RigL with the same drop fraction.",
        ),
        (
            "layers",
            "Density of each layer, requested and realised",
            lambda: charts.layers(comparison),
            "A ring is what the sparsity distribution asked for, the dot inside is what the masks had after the last "
            "step. Counts are active weights of all weights of the layer."
            + (" Methods that move weights between layers have dots without a ring." if comparison.many else ""),
        ),
        (
            "turnover",
            f"What was grown and dropped at each mask update, {over}",
            lambda: charts.turnover(comparison),
            "Top: the share of the weights grown by one mask update that the next one did not drop. Bottom: the mask "
            "error τ², the share of the squared weights that a mask update removed. Few "
            "weights move towards the end, so both get ragged there. A fixed mask has no line."
            + _unrecorded(comparison)
            + _limited(comparison, charts.moving(comparison), " that have grown weights to follow"),
        ),
        (
            "inputs",
            f"Connections of each input pixel, first and last step, mean over {n} seed{'s' * (n != 1)}",
            lambda: pictures.input_maps(comparison),
            "Each square is one pixel of the input image; the stronger its colour, the more active connections lead "
            "from it to the first hidden layer, on the scale at the left. A random mask spreads its connections "
            "evenly, with a quarter of them in the middle; a map that ends uneven has moved them to where they were of "
            "use. Hover over a pixel for its count." + _limited(comparison, comparison.shown, ""),
        ),
        (
            "raw",
            f"The first layer's mask at {percent(middle)} sparsity, first seed",
            lambda: pictures.raw_masks(comparison, middle),
            "Each dot is an active weight; rows are input pixels from the top left to the bottom right, columns are "
            "hidden units, ordered by their number of connections. An idle unit has no incoming connection left."
            + _limited(comparison, comparison.shown, ""),
        ),
    ]
    made: list[str] = []
    again = command(comparison)
    for name, title, draw, caption in found:
        drawn = draw()
        if drawn is not None:
            number = len(made) + 1
            made.append(
                f'<section id="{name}"><h2>{number}. {escaped(title)}</h2><figure>{drawn}<figcaption>{escaped(caption)}'
                f"<details><summary>The command that makes it again</summary>{again}</details></figcaption></figure>"
                "</section>"
            )
    return made


def _of_rows(comparison: Comparison) -> str:
    grouped = f"{COLOURS_OF_MANY} " if comparison.many else "The best of each family stand first. "
    apart = (
        " Methods whose sparsity is that of their pattern stand apart, at the bottom: they are not at the sparsities "
        "that were asked for."
        if comparison.patterned
        else ""
    )
    return (
        f"Further to the right is better. {grouped}Markers are means, bars one standard deviation, faint dots single "
        "seeds. The band is the dense network. Each panel has a scale of its own, which spreads out small errors: the "
        f"step from 98 to 99 % is as wide as the one from 80 to 90 %.{apart}"
    )


def _of_ranks(comparison: Comparison) -> str:
    scores = rows.blocks(comparison)
    n = min((len(v) for v in scores.values()), default=0)
    left_out = [method_label(m) for m in comparison.methods if m not in scores]
    missing = f" Left out: {listed(left_out)}, with more weights than asked for or a cell missing." if left_out else ""
    return (
        f"Methods are ranked within each of {n} blocks, a block being one seed at one sparsity; equal accuracies share "
        "a rank. Two methods whose mean ranks are less than the critical distance apart (Nemenyi's test, 5 %) are not "
        "told apart; each bar at the right spans methods of which this holds. The test takes blocks as independent; "
        "seeds at one sparsity and on one data set are less than that, so the true distance is larger rather than "
        f"smaller.{missing}"
    )


def _unrecorded(comparison: Comparison) -> str:
    """Says whose mask updates are too many to be recorded one by one."""
    labels = list(dict.fromkeys(c.label for c in comparison.sparse if c.unrecorded))
    if not labels:
        return ""
    return f" Nor ha{'s' if len(labels) == 1 else 've'} {listed(labels)}, where nearly every step is a mask update."


def _limited(comparison: Comparison, shown: list[str], which: str) -> str:
    """Says that a figure leaves methods out."""
    if not comparison.many or len(shown) >= len(comparison.methods):
        return ""
    first = [method_label(m) for m in dict.fromkeys(("static", comparison.reference)) if m in shown]
    return (
        f" Shown are {len(shown)} of {len(comparison.methods)} methods: {listed([method_label(m) for m in shown])}; "
        f"{listed([*first, 'the best ranked of the others'])}{which}."
    )


def _hollow(not_asked: str) -> str:
    return " A hollow marker has another density than was asked for." if not_asked else ""


def _denser(comparison: Comparison) -> str:
    dense = list(dict.fromkeys(c.label for c in comparison.sparse if c.too_dense and comparison.many))
    return f" {listed(dense)} has more weights than asked for; its density stands beside it." if dense else ""

"""What the numbers show and what they do not, in sentences that are computed from them."""

import math

import numpy as np

from experiments.report import tables
from experiments.report.cells import Cell, Comparison, method_label, percent
from experiments.report.pictures import middle_shares
from experiments.report.statistics import Difference, chance_of_clear, correlation, mean, paired


def points(difference: Difference) -> str:
    """A difference of accuracies in percentage points, with its standard error."""
    if difference.n < 2:
        return f"{_signed(difference.mean)} points"
    return f"{_signed(difference.mean)}\u00a0\u00b1\u00a0{difference.standard_error:.2f} points"


def shows(comparison: Comparison) -> list[str]:
    """Statements about what was measured."""
    found = [
        *_against_dense(comparison),
        *_against_reference(comparison),
        *_exploration(comparison),
        *_pictured(comparison),
    ]
    counted = [c for c in comparison.every if c.layers]
    if counted:
        worst = max(c.off_count for c in counted)
        rounds = sum(len(c.updates) * len(c.seeds) for c in counted)
        exact = (
            "every layer had exactly the number of active weights that was asked for"
            if worst == 0
            else f"the number of active weights of a layer was off by up to {worst:,}"
        )
        found.append(f"At every recorded step ({rounds:,} mask updates over all runs), {exact}.")
    return found


def does_not_show(comparison: Comparison) -> list[str]:
    """The limits of what was measured."""
    limits = [f"A cell is missing: {failure}" for failure in comparison.failures]
    n = len(comparison.grid[0].seeds)
    compared = [c for c in comparison.every if tables.difference(comparison, c) is not None]
    if n < 2:
        limits.append("There is one seed only, so nothing here says how far chance alone moves these numbers.")
    elif compared:
        chance, base = chance_of_clear(n), method_label(comparison.reference or "")
        limits.append(
            f"{f'{n} seeds are few. ' if n < 10 else ''}{len(compared)} differences to {base} were looked at; "
            f"if no method differed, about {chance * len(compared):.1f} of them would still lie beyond 2 standard "
            f"errors ({percent(round(chance, 2))} each). A difference that is not clear here is not "
            "shown to be zero either."
        )
    limits.append(
        f"The test set has {comparison.n_test:,} examples: one of them is {100 / comparison.n_test:.2f} percentage "
        "points of a seed's accuracy."
    )
    limits += _unequal(comparison)
    limits.append("One data set, one network and one training recipe: a ranking found here need not hold elsewhere.")
    if len(comparison.sparse) > 1:
        limits.append(
            "What is called the most accurate here was picked by the very test accuracy that is reported, which "
            "flatters it: it would have to be confirmed on new seeds."
        )
    limits.append(
        "Nothing about speed or memory: the networks are computed with dense arrays whose inactive weights are zero."
    )
    return limits


def _unequal(comparison: Comparison) -> list[str]:
    """The settings that methods share by name and yet do not have in common."""
    given: dict[str, dict[str, list[str]]] = {}
    for method in comparison.methods:
        cell = next(c for c in comparison.sparse if c.method == method)
        for name, value in cell.settings.items():
            if name not in ("drops", "grows", "coefficient"):
                given.setdefault(name, {}).setdefault(value, []).append(cell.label)
    parts = [
        f"{name}: " + _and([f"{value} for {_and(who)}" for value, who in values.items()])
        for name, values in given.items()
        if len(values) > 1
    ]
    if not parts:
        return []
    return [f"The methods differ in more than what they drop and grow: {'; '.join(parts)}."]


def _against_dense(comparison: Comparison) -> list[str]:
    dense = comparison.dense
    if dense is None or not comparison.sparse:
        return []
    found = []
    for sparsity in comparison.sparsities:
        cells = [c for c in comparison.sparse if c.sparsity == sparsity]
        best = max(cells, key=lambda c: c.mean)
        difference = paired(best.accuracy, dense.accuracy)
        found.append(
            f"by {points(difference)} at {percent(sparsity)} ({best.label}{'' if difference.clear else ', not clear'})"
        )
    return [
        f"The dense network reaches {dense.mean:.2f}\u00a0%. The most accurate sparse method differs from it "
        f"{_and(found)}."
    ]


def _against_reference(comparison: Comparison) -> list[str]:
    reference = comparison.reference
    found = []
    for method in comparison.methods:
        if method == reference:
            continue
        clear: dict[str, list[str]] = {"above": [], "below": []}
        unclear = []
        for sparsity in comparison.sparsities:
            cell, other = comparison.find(method, sparsity), comparison.find(reference, sparsity)
            if cell is None or other is None:
                continue
            difference = paired(cell.accuracy, other.accuracy)
            text = f"at {percent(sparsity)} ({points(difference)})"
            if difference.clear:
                clear["above" if difference.mean > 0 else "below"].append(text)
            else:
                unclear.append(text)
        name, base = method_label(method), method_label(reference or "")
        parts = [f"lies clearly {side} {base} {_and(texts)}" for side, texts in clear.items() if texts]
        if unclear:
            parts.append(f"does not differ clearly from {base} {_and(unclear)}")
        if parts:
            found.append(f"{name} {'; it '.join(parts)}.")
    if found and len(comparison.grid[0].seeds) > 1:
        found[0] += " (Clearly means: by more than 2 standard errors of the paired difference.)"
    return found


def _exploration(comparison: Comparison) -> list[str]:
    sweep = comparison.sweep
    if len(sweep) < 2:
        return []
    rates = np.array([mean(c.exploration) for c in sweep])
    accuracies = np.array([c.mean for c in sweep])
    rises = bool(np.all(np.diff(rates) > 0))
    sparsity = percent(sweep[0].sparsity)
    spans = f"from {rates[0]:.3f} at c = {sweep[0].coefficient:g} to {rates[-1]:.3f} at c = {sweep[-1].coefficient:g}"
    ordered = "rises with the coefficient throughout" if rises else "does not rise with the coefficient throughout"
    first = f"At {sparsity}, the exploration rate of DST-EE {ordered}: {spans}"
    rigl = comparison.find("rigl", sweep[0].sparsity)
    first += f" (RigL: {mean(rigl.exploration):.3f})." if rigl is not None else "."
    best: Cell = sweep[int(accuracies.argmax())]
    linked = correlation(rates, accuracies)
    second = f"The most accurate of these coefficients is c = {best.coefficient:g} ({best.mean:.2f}\u00a0%"
    if rigl is not None:
        difference = paired(best.accuracy, rigl.accuracy)
        clear = "clear" if difference.clear else "not clear"
        second += f"; {points(difference)} from RigL, {clear}"
    second += ")."
    if not math.isnan(linked):
        second += (
            f" Over the {len(sweep)} coefficients, more exploration went with {'higher' if linked > 0 else 'lower'} "
            f"accuracy (correlation of the means {_signed(linked)})."
        )
    return [first, second]


def _pictured(comparison: Comparison) -> list[str]:
    """Where the connections of the first layer went, at the middle sparsity."""
    if not comparison.sparsities:
        return []
    sparsity = comparison.sparsities[len(comparison.sparsities) // 2]
    starts, moved = [], []
    for method in comparison.methods:
        cell = comparison.find(method, sparsity)
        shares = middle_shares(cell) if cell is not None and len(cell.updates) else None
        if cell is not None and shares is not None:
            starts.append(shares[0])
            moved.append(f"{percent(round(shares[1], 2))} with {cell.label}")
    if not moved:
        return []
    start = percent(round(mean(np.array(starts)), 2))
    return [
        f"At {percent(sparsity)}, the middle quarter of the input image has {start} "
        f"of the first layer's connections at the first step and {_and(moved)} at the last."
    ]


def _and(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\u2212")

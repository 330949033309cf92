"""What the numbers show and what they do not, in sentences that are computed from them."""

import math
from typing import Any

import numpy as np

from experiments.report import counting, tables
from experiments.report.cells import CellResult, Comparison, percent
from experiments.report.document import listed, signed
from experiments.report.names import by_family, method_label
from experiments.report.pictures import middle_shares
from experiments.report.statistics import LEVEL, Difference, correlation, detectable, mean, paired

# Of a config: what rows that differ in the method alone have in common.
TRAINING = ("optimizer", "steps", "epochs", "batch_size", "accumulate", "label_smoothing", "on_nonfinite")
RECIPE = (*TRAINING, "structure", "maskable")


def points(difference: Difference) -> str:
    """A difference of accuracies in percentage points, with its standard error."""
    if difference.n < 2:
        return f"{signed(difference.mean)} points"
    return f"{signed(difference.mean)}\u00a0\u00b1\u00a0{difference.standard_error:.2f} points{_fine(difference)}"


def _fine(difference: Difference) -> str:
    """Said where the seeds make a difference clear and the test examples do not."""
    return ", less than the test examples resolve" if difference.known and not difference.clear else ""


def shows(comparison: Comparison) -> list[str]:
    """Statements about what was measured."""
    found = [
        *_against_dense(comparison),
        *_clearly(comparison),
        *_families(comparison),
        *_exploration(comparison),
        *_pictured(comparison),
    ]
    return [*found, *counting.kept(comparison), *counting.missed(comparison)]


def does_not_show(comparison: Comparison) -> list[str]:
    """The limits of what was measured."""
    limits = [f"A cell is missing: {failure}" for failure in comparison.failures]
    n = len(comparison.grid[0].seeds)
    compared = tables.differences(comparison)
    if n < 2:
        limits.append("There is one seed only, so nothing here says how far chance alone moves these numbers.")
    elif compared:
        base, gaps = method_label(comparison.reference or ""), [*compared.values()]
        least = float(np.median([detectable(d.standard_error, n, LEVEL / len(gaps)) for d in gaps]))
        limits.append(
            f"{f'{n} seeds are few. ' if n < 10 else ''}{len(gaps)} differences to {base} were looked at, and "
            f"corrected together: were there none, one would be called clear in {percent(LEVEL)} of such comparisons "
            f"at most. With these seeds a true difference of {least:.2f} points is found in four of five cases (the "
            "median over the cells). A difference that is not clear here is not shown to be zero either."
        )
    limits.append(
        f"The test set has {comparison.n_test:,} examples: one of them is {100 / comparison.n_test:.2f} percentage "
        f"points of a seed's accuracy. {_resolved(comparison)}"
    )
    limits += _unequal(comparison)
    limits += _recipes(comparison)
    limits.append("One data set, one network and one training recipe: a ranking found here need not hold elsewhere.")
    if len(comparison.sparse) > 1:
        limits.append(
            "What is called the most accurate here was picked by the very test accuracy that is reported, which "
            "flatters it: it would have to be confirmed on new seeds."
        )
    limits.append(
        "Nothing about measured speed or memory: the networks are computed with dense arrays whose inactive weights "
        "are zero. Costs are operations counted, not timed."
    )
    return limits


def _resolved(comparison: Comparison) -> str:
    """What the test examples of all seeds resolve."""
    values = [d.resolution for d in tables.differences(comparison).values()]
    over = f"The {comparison.samples:,} different ones of all seeds resolve"
    if not values:
        return f"{comparison.samples:,} different ones are behind the mean over the seeds."
    span = sorted({f"{v:.2f}" for v in (min(values), max(values))}, key=float)
    return f"{over} differences of {' to '.join(span)} points: less is not called clear, however alike the seeds are."


def _unequal(comparison: Comparison) -> list[str]:
    """The settings that methods share by name and yet do not have in common."""
    given: dict[str, dict[str, list[str]]] = {}
    for method in comparison.methods:
        cell = next(c for c in comparison.sparse if c.method == method)
        for name, value in cell.settings.items():
            if name not in ("drops", "grows", "coefficient"):
                given.setdefault(name, {}).setdefault(value, []).append(cell.label)
    parts = [
        f"{name}: " + listed([f"{value} for {listed(who)}" for value, who in values.items()])
        for name, values in given.items()
        if len(values) > 1
    ]
    if not parts:
        return []
    if comparison.many:
        names = [name for name, values in given.items() if len(values) > 1]
        return [
            f"The methods differ in more than what they drop and grow, namely in {listed(names)}: the settings of each "
            "cell stand at the end. One setting of each method says little of what it could reach with another."
        ]
    return [f"The methods differ in more than what they drop and grow: {'; '.join(parts)}."]


def _recipes(comparison: Comparison) -> list[str]:
    """The fields of the training, or of what is masked, that cells do not have in common."""
    shared = {c.name: RECIPE if c.layers else TRAINING for c in comparison.every}  # dense masks nothing
    every = [(c, flattened({n: c.config.get(n) for n in shared[c.name]})) for c in comparison.every]
    names = dict.fromkeys(name for _, fields in every for name in fields)
    parts = []
    for name in names:
        given: dict[str, list[str]] = {}
        for cell, fields in every:
            if name in fields:
                given.setdefault(str(fields[name]), []).append(cell.label)
        if len(given) > 1:
            usual = max(given, key=lambda value: len(given[value]))
            others = [f"{v} for {listed(list(dict.fromkeys(who)))}" for v, who in given.items() if v != usual]
            parts.append(f"{name}: {listed(others)}, {usual} elsewhere")
    return [f"Not all rows were trained alike. {'; '.join(parts)}."] if parts else []


def flattened(config: dict[str, Any], before: str = "") -> dict[str, Any]:
    """The fields of a config, those of a section as ``section.field``."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= flattened(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}": value}
    return found


def _against_dense(comparison: Comparison) -> list[str]:
    dense = comparison.dense
    if dense is None or not (comparison.sparse or comparison.patterned):
        return []
    found, gaps = [], tables.to_dense(comparison)
    for sparsity in comparison.sparsities:
        cells = [c for c in comparison.sparse if c.sparsity == sparsity]
        cells = [c for c in cells if not c.too_dense]
        if not cells:
            continue
        best = max(cells, key=lambda c: c.mean)
        difference = gaps[best.name]
        found.append(
            f"by {points(difference)} at {percent(sparsity)} ({best.label}{'' if difference.clear else ', not clear'})"
        )
    reached = f"The dense network reaches {dense.mean:.2f}\u00a0%."
    if found:
        reached += f" The most accurate sparse method differs from it {listed(found)}."
    apart = [f"{points(paired(c.accuracy, dense.accuracy))} ({c.label}, {c.place})" for c in comparison.patterned]
    if apart:
        reached += f" Those whose pattern gives the sparsity differ by {listed(apart)}."
    return [reached]


def _clearly(comparison: Comparison) -> list[str]:
    """How the methods compare with the reference, the word explained where it is first used."""
    found = _many_against_reference(comparison) if comparison.many else _against_reference(comparison)
    if found and len(comparison.grid[0].seeds) > 1:
        found[0] += (
            " (Clearly means: beyond chance at 5\u00a0% by Student's t for the paired differences, corrected over all "
            "of them by Holm's method, and by more than the test examples resolve.)"
        )
    return found


def _against_reference(comparison: Comparison) -> list[str]:
    reference = comparison.reference
    found, gaps = [], tables.differences(comparison)
    for method in comparison.methods:
        if method == reference:
            continue
        clear: dict[str, list[str]] = {"above": [], "below": []}
        unclear = []
        for sparsity in comparison.sparsities:
            cell = comparison.find(method, sparsity)
            if cell is None or cell.name not in gaps:
                continue
            difference = gaps[cell.name]
            text = f"at {percent(sparsity)} ({points(difference)})"
            if difference.clear:
                clear["above" if difference.mean > 0 else "below"].append(text)
            else:
                unclear.append(text)
        name, base = method_label(method), method_label(reference or "")
        parts = [f"lies clearly {side} {base} {listed(texts)}" for side, texts in clear.items() if texts]
        if unclear:
            parts.append(f"does not differ clearly from {base} {listed(unclear)}")
        if parts:
            found.append(f"{name} {'; it '.join(parts)}.")
    return found


def _many_against_reference(comparison: Comparison) -> list[str]:
    """One sentence per sparsity where there are too many methods for one each."""
    base, found, gaps = method_label(comparison.reference or ""), [], tables.differences(comparison)
    for sparsity in comparison.sparsities:
        sides: dict[str, list[tuple[float, str]]] = {"above": [], "below": [], "": []}
        for method in comparison.methods:
            cell = comparison.find(method, sparsity)
            if cell is None or cell.name not in gaps or cell.too_dense:
                continue
            difference = gaps[cell.name]
            side = "" if not difference.clear else "above" if difference.mean > 0 else "below"
            sides[side].append((difference.mean, cell.label))
        parts = []
        for side, members in sides.items():
            names = listed([name for _, name in sorted(members, reverse=True)]) if members else ""
            if members and side:
                parts.append(f"{len(members)} lie clearly {side} {base} ({names})")
            elif members:
                parts.append(f"{len(members)} do not differ clearly ({names})")
        if parts:
            found.append(f"Of the methods at {percent(sparsity)}, {'; '.join(parts)}.")
    return found


def _families(comparison: Comparison) -> list[str]:
    """The best of each family, where there are many methods."""
    if not comparison.many:
        return []
    found = []
    for sparsity in comparison.sparsities:
        parts = []
        for name, members in by_family(comparison.methods).items():
            cells = [c for m in members if (c := comparison.find(m, sparsity)) and not c.too_dense]
            if cells:
                best = max(cells, key=lambda c: c.mean)
                parts.append(f"{name} {best.mean:.2f}\u00a0% ({best.label})")
        if parts:
            found.append(f"The best of each family at {percent(sparsity)}: {listed(parts)}.")
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
    best: CellResult = sweep[int(accuracies.argmax())]
    linked = correlation(rates, accuracies)
    second = f"The most accurate of these coefficients is c = {best.coefficient:g} ({best.mean:.2f}\u00a0%"
    if rigl is not None:
        difference = tables.differences(comparison)[best.name]  # RigL is the reference where it is there
        clear = "clear" if difference.clear else "not clear"
        second += f"; {points(difference)} from RigL, {clear}"
    second += ")."
    if not math.isnan(linked):
        second += (
            f" Over the {len(sweep)} coefficients, more exploration went with {'higher' if linked > 0 else 'lower'} "
            f"accuracy (correlation of the means {signed(linked)})."
        )
    return [first, second]


def _pictured(comparison: Comparison) -> list[str]:
    """Where the connections of the first layer went, at the middle sparsity."""
    if not comparison.sparsities:
        return []
    sparsity = comparison.sparsities[len(comparison.sparsities) // 2]
    starts, moved = [], []
    for method in comparison.shown:
        cell = comparison.find(method, sparsity)
        shares = middle_shares(cell) if cell is not None and len(cell.updates) else None
        if cell is not None and shares is not None:
            starts.append(shares[0])
            moved.append(f"{percent(round(shares[1], 2))} with {cell.label}")
    if not moved:
        return []
    shares_at_first = sorted({round(s, 2) for s in starts}) if comparison.many else [round(mean(np.array(starts)), 2)]
    start = listed([percent(s) for s in ([*shares_at_first[:1], *shares_at_first[1:][-1:]])])
    start = start.replace(" and ", " to ")
    return [
        f"At {percent(sparsity)}, the middle quarter of the input image has {start} "
        f"of the first layer's connections at the first step and {listed(moved)} at the last."
    ]

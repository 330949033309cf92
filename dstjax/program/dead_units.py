"""Finds what of a masked network can be removed so that its results stay the same.

A group of indices is needed if, at some sum, one of its terms can be other than zero and reaches a result that is
needed; the results of the program are. The smallest set of needed groups is found by going through the sums from the
last to the first until nothing changes. So a unit without inputs whose value is zero is dead, one without outputs, and
whatever feeds or is fed by dead units alone. A unit that is constant is dead where its constant can be added to the
bias that follows.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from dstjax.program.channel_record import Record, Side, Site
from dstjax.program.labels import Ints
from dstjax.program.seen import spread

IN_A_NORM = "it adds to a mean or a norm, though to nothing else"
NO_BIAS = "a constant is passed on, and no bias of its own follows that could take it"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Says what can be removed."""

    gone: Ints  # groups, sorted
    added: Mapping[str, np.ndarray]  # path -> what to add to the leaf, float64, where constants are removed
    kept: Mapping[str, frozenset[int]]  # groups that are constant or without use, and stay: by reason


def judge(record: Record, masked: Collection[str], *, round_to: int = 1) -> Verdict:
    """Finds what can be removed.

    Args:
      record: of the program, with the numbers of the parameters.
      masked: leaves with a mask, whose inactive entries take no constant.
      round_to: widths to keep, as multiples of this.
    """
    roots = record.labels.roots(np.arange(len(record.labels)))
    axes = [roots[a.labels] for leaf in record.leaves.values() for a in leaf]
    groups = np.unique(np.concatenate([np.zeros(1, np.int64), *axes]))[1:]
    refused = {id(s): _refusal(record, s, masked) for s in record.sites}
    products = [site for site in record.sites if len(site.sides) == 2]
    ideal, _ = _needed(record.sites, roots, {}, [])
    without_norms, _ = _needed(products, roots, refused, [])
    seeds: list[int] = []
    padding: set[int] = set()
    while True:
        needed, constant = _needed(record.sites, roots, refused, seeds)
        more = _to_keep(axes, needed, padding, round_to)
        if not more:
            break
        # A constant that is kept must not be added to a bias as well: it is needed then.
        seeds += [g for g in more if constant[g]]
        padding |= {g for g in more if not constant[g]}
    stays = needed.copy()
    stays[list(padding)] = True
    gone = groups[~stays[groups]]
    added = _added(record, roots, refused, stays)
    kept: dict[str, set[int]] = {}
    for site in record.sites:
        if refused[id(site)]:
            _, constants = _terms(site, roots, needed)
            for axis, some in constants:
                found = {int(g) for g in np.unique(roots[axis[some]]) if not ideal[g] and needed[g]}
                kept.setdefault(refused[id(site)], set()).update(found)
    kept[IN_A_NORM] = {int(g) for g in groups if needed[g] and not without_norms[g]} - {*seeds}
    extra = {*padding, *seeds}
    kept[f"widths are multiples of {round_to}" if round_to > 1 else "an axis keeps one index at least"] = extra
    return Verdict(gone, added, {why: frozenset(found) for why, found in kept.items() if found})


def holds(record: Record, masked: Collection[str], verdict: Verdict, gone: Ints) -> bool:
    """Returns whether a verdict is true of the same network with arguments of other shapes.

    A longer sequence may read rows of a parameter that a shorter one does not, and sum up more constants.

    Args:
      record: of the program with these arguments, with the numbers of the parameters.
      masked: as in :func:`judge`.
      verdict: what was found with others.
      gone: the groups of this record that it removed.
    """
    roots = record.labels.roots(np.arange(len(record.labels)))
    stays = np.ones(len(roots), bool)
    stays[gone] = False
    refused = {id(s): _refusal(record, s, masked) for s in record.sites}
    needed, constant = _needed(record.sites, roots, refused, [])
    seeds = np.flatnonzero(constant & stays & ~needed & (roots == np.arange(len(roots))))
    needed, _ = _needed(record.sites, roots, refused, seeds.tolist())
    added = _added(record, roots, refused, stays)
    return (
        not needed[gone].any()
        and added.keys() == verdict.added.keys()
        and all(np.allclose(x, verdict.added[path], rtol=1e-5, atol=1e-6) for path, x in added.items())
    )


def _refusal(record: Record, site: Site, masked: Collection[str]) -> str:
    """Says why constants cannot be made up for at a sum; empty where they can."""
    if site.refusal:
        return site.refusal
    if site.weight is None or site.target is None or site.users != 1 or record.uses[site.target[0]] != 1:
        return NO_BIAS
    path = site.target[0]
    if path in masked:
        return f"a constant is passed on, and the leaf {path!r} that could take it is masked"
    return ""


def _needed(
    sites: Sequence[Site], roots: Ints, refused: Mapping[int, str], seeds: Collection[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns which groups are needed, and which are constant where they are used; bool, by label.

    A sum that ``refused`` does not name takes all constants.
    """
    needed = np.zeros(len(roots), bool)
    needed[[0, *seeds]] = True
    constant = np.zeros(len(roots), bool)
    while True:
        before = int(needed.sum())
        for site in reversed(sites):
            terms, constants = _terms(site, roots, needed)
            for axis, some in terms:
                needed[roots[axis[some]]] = True
            for axis, some in constants:
                (needed if refused.get(id(site)) else constant)[roots[axis[some]]] = True
        if int(needed.sum()) == before:
            return needed, constant


def _terms(
    site: Site, roots: Ints, needed: np.ndarray
) -> tuple[list[tuple[Ints, np.ndarray]], list[tuple[Ints, np.ndarray]]]:
    """Returns, for each axis that is summed over, its labels and which have a term that reaches what is needed.

    Once for terms that depend on the data or are not known, and once for those that are constant and not zero.
    """
    axes = [a.labels for a in site.sides[0].contracted if len(a)]
    shape = tuple(map(len, axes))
    active = np.ones(shape, bool)
    for side in site.sides:
        reached = _reached(side, roots, needed, shape)
        if reached is None:
            return [], []
        active &= reached
        for k, a in enumerate(a for a in side.contracted if len(a)):
            active &= ~(a.value == 0).reshape([-1 if i == k else 1 for i in range(len(shape))])
    numbers = _numbers(site)
    constant = active & (~np.isnan(numbers) if numbers is not None else False)

    def by_axis(where: np.ndarray) -> list[tuple[Ints, np.ndarray]]:
        others = range(len(axes))
        return [(a, np.asarray(where.any(axis=tuple(i for i in others if i != k)))) for k, a in enumerate(axes)]

    return by_axis(active & ~constant), by_axis(constant)


def _numbers(site: Site) -> np.ndarray | None:
    """Returns the numbers of the data that are summed up, NaN where they are not constant."""
    if len(site.sides) == 2 and site.weight is None and not site.refusal:
        return None
    data = site.sides[0 if site.weight in (None, 1) else 1]
    return spread([a.value for a in data.contracted if len(a)])


def _reached(side: Side, roots: Ints, needed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Returns which contracted indices have an element, other than zero, in what is needed; None: nothing is."""
    kept = [needed[roots[a.labels]] for a in side.kept]
    if not all(k.any() or not k.size for k in kept):  # an example without samples says nothing of what they need
        return None
    if side.pattern is None or not side.pattern.size:
        return np.ones(shape, bool)
    where = side.pattern
    for k, some in enumerate(kept):
        if not some.all():
            where = np.compress(some, where, axis=len(shape) + k)
    return np.asarray(where.any(axis=tuple(range(len(shape), where.ndim))))


def _to_keep(axes: list[Ints], needed: np.ndarray, padding: Collection[int], round_to: int) -> list[int]:
    """Returns groups to keep besides, of the first axis that would become empty, or no multiple of ``round_to``."""
    kept = needed.copy()
    kept[list(padding)] = True
    for axis in axes:
        width = int(kept[axis].sum())
        if (width and width % round_to == 0) or kept[axis].all():
            continue
        wanted = max(1, -(-width // round_to)) * round_to
        found: list[int] = []
        for group, size in zip(*np.unique(axis[~kept[axis]], return_counts=True), strict=True):
            if width >= wanted:
                break
            found.append(int(group))
            width += int(size)
        return found
    return []


def _added(record: Record, roots: Ints, refused: Mapping[int, str], stays: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what removed constants have added to the results of sums, by the leaf that is to take it."""
    found: dict[str, np.ndarray] = {}
    for site in record.sites:
        if refused[id(site)] or site.weight is None or site.target is None:
            continue
        data, weight = site.sides[1 - site.weight], site.sides[site.weight]
        numbers, array = spread([a.value for a in data.contracted]), weight.array
        assert array is not None  # that of such a site is known
        gone = np.zeros(numbers.shape, bool)
        for k, a in enumerate(data.contracted):
            gone |= ~stays[roots[a.labels]].reshape([-1 if i == k else 1 for i in range(gone.ndim)])
        some = gone & ~np.isnan(numbers) & (numbers != 0)
        if some.any():
            path, sign = site.target
            taken = np.tensordot(numbers[some], array[some], axes=1)
            found[path] = found.get(path, 0.0) + sign * taken
    return found

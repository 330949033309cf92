"""Divides the overall sparsity over the layers: shapes -> numbers of active weights.

A layer is a leaf, or one of those that a stacked leaf holds (:mod:`dstjax.layouts`); its shape is (window..., in, out).
"""

import dataclasses
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dstjax._arrays import dealing
from dstjax._arrays.shares import floor_share
from dstjax._arrays.trees import is_traced
from dstjax.checks import check_number, suggest
from dstjax.rules import bind, described

Shapes = Mapping[str, tuple[int, ...]]  # path -> shape, in the order of the tree
Distribution = str | Mapping[str, float] | Callable[[Shapes, float], Mapping[str, float]]

_log = logging.getLogger(__name__)


def active_counts(
    distribution: Distribution, shapes: Shapes, sparsity: float | None, *, raise_to_one: bool = False
) -> dict[str, int]:
    """Returns the number of active weights of each masked leaf.

    A layer of n weights at sparsity s gets exactly n - floor(s * n). ER and ERK fix the total in the same way, N -
    floor(S * N) over all layers, and deal it by largest remainder, so that each has its density within one weight.
    Where remainders are equal the first layers of the network get the rest, and stacked layers are dealt to like the
    same layers written out.

    Args:
      distribution: 'uniform', 'er', 'erk', a ``{regex: density}`` map (the shapes are then those that it masks), or a
        function of shapes and sparsity that returns densities by path.
      shapes: path -> shape of the layers to mask, (window..., in, out).
      sparsity: overall sparsity in [0, 1); a map does not need it. A traced one gives traced counts of its precision.
      raise_to_one: whether a leaf too small for its density gets one weight and is not refused, as where a structure
        that spans leaves decides.

    Raises:
      ValueError: a leaf is so small that less than one weight would be active, a function forgets a leaf, or a map
        contradicts ``sparsity``.
    """
    sizes = {path: math.prod(shape) for path, shape in shapes.items()}
    if is_traced(sparsity):
        return _traced_counts(distribution, shapes, sizes, sparsity)
    if isinstance(distribution, Mapping):
        densities = {path: _first_match(distribution, path) for path in shapes}
        counts = {p: n - floor_share(n, 1.0 - float(densities[p])) for p, n in sizes.items()}
        _check_total(sum(counts.values()), sizes, sparsity)
    elif callable(distribution):
        found: Any = distribution(shapes, sparsity if sparsity is not None else 0.0)
        if not isinstance(found, Mapping):
            raise ValueError(
                f"distribution={described(distribution)} returned {found!r}; expected {{path: density}} with one for "
                f"each of {list(shapes)}."
            )
        densities = dict(found)
        if densities.keys() != shapes.keys():
            raise ValueError(
                f"the distribution returned densities for {sorted(densities)}, expected one for each of {list(shapes)}."
            )
        for path, density in densities.items():
            check_number(f"density of {path!r}", density, "a number in (0, 1]", lambda d: 0 < d <= 1)
        counts = {p: n - floor_share(n, 1.0 - float(densities[p])) for p, n in sizes.items()}
    elif sparsity is None:
        raise ValueError(f"sparsity=None is not accepted with distribution={distribution!r}; expected one in [0, 1).")
    elif distribution == "uniform":
        densities = dict.fromkeys(shapes, 1.0 - sparsity)
        counts = {p: n - floor_share(n, sparsity) for p, n in sizes.items()}
    else:
        densities = {"er": er, "erk": erk}[distribution](shapes, sparsity)
        total = sum(sizes.values())
        counts = dealing.deal(total - floor_share(total, sparsity), densities, sizes)
    for path, n in sizes.items():
        wanted = densities[path] * n
        if raise_to_one:
            counts[path] = max(counts[path], 1)
        elif wanted < 1 - 1e-6 or counts[path] < 1:
            raise ValueError(
                f"leaf {path!r} of shape {shapes[path]} is too small for its density {densities[path]:.3g}: "
                f"{wanted:.3g} of its {n} weights would be active. Exclude it with maskable=, or give it a density "
                f"of at least {1 / max(n, 1):.3g} with a {{regex: density}} map."
            )
    check_countable(counts)
    return counts


def check_countable(counts: Mapping[str, int]) -> None:
    """Refuses numbers of active weights that 32 bits cannot hold.

    Raises:
      ValueError: one is 2**31 or more.
    """
    for path, n in counts.items():
        if n >= 2**31:
            raise ValueError(
                f"layer {path!r} would have {n:,} active weights; at most 2,147,483,647 of a layer can be counted. "
                "Expected a layout= that names the stack axes of its leaf, or the leaf in parts."
            )


def uniform(shapes: Shapes, sparsity: float) -> dict[str, float]:
    """Returns the same density 1 - sparsity for each leaf."""
    return dict.fromkeys(shapes, 1.0 - sparsity)


def er(shapes: Shapes, sparsity: float) -> dict[str, float]:
    """Returns Erdos-Renyi densities: proportional to (n_in + n_out) / (n_in * n_out) of the last two axes.

    Reference: Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity", 2018.
    """
    return _erdos_renyi({p: _fan_ratio(shape) for p, shape in shapes.items()}, shapes, sparsity)


def erk(shapes: Shapes, sparsity: float) -> dict[str, float]:
    """Returns Erdos-Renyi-kernel densities: proportional to the sum of a leaf's axes over their product.

    A leaf that would exceed density 1 becomes dense and the others are solved again until none exceeds it.

    Reference: Evci et al., "Rigging the lottery: making all tickets winners", 2020.
    """
    return _erdos_renyi({p: _kernel_ratio(shape) for p, shape in shapes.items()}, shapes, sparsity)


def epsilon(value: float) -> Callable[[Shapes, float], dict[str, float]]:
    """Returns SET's own rule: density min(1, value * (n_in + n_out) / (n_in * n_out)), whatever the sparsity.

    Raises:
      ValueError: it is not above 0.

    Reference: Mocanu et al., 2018, Eq. 3.
    """
    check_number("epsilon", value, "a number > 0", lambda v: v > 0)
    return bind(_epsilon, value)


def _epsilon(value: float, shapes: Shapes, sparsity: float) -> dict[str, float]:
    del sparsity
    return {p: min(1.0, value * _fan_ratio(shape)) for p, shape in shapes.items()}


@dataclasses.dataclass(frozen=True, repr=False)
class DensityMap(Mapping[str, float]):
    """Maps ``{regex: density}`` and cannot change, so that it can be hashed; the order counts."""

    entries: tuple[tuple[str, float], ...]

    def __getitem__(self, pattern: str) -> float:
        """Returns the density of a pattern."""
        return dict(self.entries)[pattern]

    def __iter__(self) -> Iterator[str]:
        """Yields the patterns in their order."""
        return iter(dict(self.entries))

    def __len__(self) -> int:
        """Returns the number of patterns."""
        return len(self.entries)

    def __repr__(self) -> str:
        """Prints like a dict."""
        return repr(dict(self.entries))


def check(distribution: Any, sparsity: float | None) -> None:
    """Refuses an unknown distribution, a density out of range and a missing sparsity.

    Raises:
      ValueError: with the name, the value and what is accepted.
    """
    if isinstance(distribution, Mapping):
        if not distribution:
            raise ValueError("distribution={} is not accepted; expected at least one {regex: density} entry.")
        for pattern, density in distribution.items():
            try:
                re.compile(pattern if pattern != "*" else "")
            except (re.error, TypeError) as error:
                raise ValueError(f"distribution pattern {pattern!r} is no regular expression: {error}.") from None
            check_number(f"distribution[{pattern!r}]", density, "a density in (0, 1]", lambda d: 0 < d <= 1)
        if sparsity is None:
            return
    elif callable(distribution):
        if sparsity is None:
            return
    elif not isinstance(distribution, str) or distribution not in ("uniform", "er", "erk"):
        raise ValueError(
            f"distribution={distribution!r} is not known; {suggest(distribution, ('uniform', 'er', 'erk'))} "
            "A {regex: density} map and a function are accepted too."
        )
    check_number("sparsity", sparsity, "a number in [0, 1)", lambda s: 0 <= s < 1)


def masked_by_map(densities: Mapping[str, float], maskable: Sequence[str], paths: Sequence[str]) -> list[str]:
    """Returns the maskable paths that a ``{regex: density}`` map masks: first match wins, density 1 keeps a leaf dense.

    Args:
      densities: regular expressions, searched for in the path; ``"*"`` stands for all that no other matches.
      maskable: the leaves that may be masked; each must be covered, lest one is forgotten.
      paths: all leaves, for error messages.

    Raises:
      ValueError: a pattern that matches no maskable leaf first, or a maskable leaf that none matches.
    """
    used = dict.fromkeys(densities, 0)
    masked = []
    uncovered = []
    for path in maskable:
        pattern = _pattern(densities, path)
        if pattern is None:
            uncovered.append(path)
            continue
        used[pattern] += 1
        _log.info("density %g for %s by pattern %r", densities[pattern], path, pattern)
        if densities[pattern] < 1:
            masked.append(path)
    unused = [p for p, n in used.items() if not n and p != "*" and (densities[p] < 1 or not _finds(p, paths))]
    if unused:
        others = [path for path in paths if path not in maskable]
        raise ValueError(
            f"distribution patterns {unused} are the first match of no leaf that is maskable; those that are: "
            f"{list(maskable)}; others, which maskable= could add: {others}."
        )
    if uncovered:
        raise ValueError(
            f"no distribution pattern matches {uncovered}; add one (density 1.0 keeps a leaf dense), or a default for "
            f"all others with '*'. Patterns: {list(densities)}."
        )
    return masked


def _first_match(densities: Mapping[str, float], path: str) -> Any:
    pattern = _pattern(densities, re.sub(r"\[[\d, ]+\]$", "", path))  # of a leaf, though a layer was given
    return None if pattern is None else densities[pattern]


def _finds(pattern: str, paths: Sequence[str]) -> bool:
    return any(re.search(pattern, path) for path in paths)


def _pattern(densities: Mapping[str, float], path: str) -> str | None:
    default = "*" if "*" in densities else None
    return next((p for p in densities if p != "*" and re.search(p, path)), default)


def _fan_ratio(shape: tuple[int, ...]) -> float:
    fan_in, fan_out = (1, *shape)[-2:]
    return (fan_in + fan_out) / (fan_in * fan_out)


def _erdos_renyi(raw: dict[str, float], shapes: Shapes, sparsity: float) -> dict[str, float]:
    sizes = {p: math.prod(shape) for p, shape in shapes.items()}
    dense: set[str] = set()
    total = sum(sizes.values())
    active = total - floor_share(total, sparsity)  # of the sum, so that rounding leaves nothing to be taken away
    while len(dense) < len(shapes):
        budget = active - sum(sizes[p] for p in dense)
        scale = budget / sum(raw[p] * n for p, n in sizes.items() if p not in dense)
        top = max(raw[p] for p in shapes if p not in dense)
        if top * scale <= 1:
            break
        saturated = {p for p in shapes if raw[p] == top}
        _log.info("these layers become dense: %s", ", ".join(sorted(saturated)))
        dense |= saturated
    return {p: 1.0 if p in dense else scale * raw[p] for p in shapes}


def _traced_counts(distribution: Any, shapes: Shapes, sizes: Mapping[str, int], sparsity: Any) -> dict[str, Any]:
    """Does what active_counts does for a sparsity known only inside a trace; it can refuse no leaf as too small."""
    if distribution not in ("uniform", "er", "erk"):
        raise ValueError(f"a traced sparsity needs distribution 'uniform', 'er' or 'erk'; got {distribution!r}.")
    together = sum(sizes.values()) if distribution != "uniform" else max(sizes.values(), default=0)
    if together >= 2**31:
        raise ValueError(
            f"a traced sparsity is not accepted with distribution={distribution!r} for {together:,} weights, which 32 "
            "bits do not count; expected a sparsity that is known outside of the trace."
        )
    if distribution == "uniform":
        return dealing.traced_uniform(sizes, sparsity)
    ratio = _fan_ratio if distribution == "er" else _kernel_ratio
    return dealing.traced_counts(sizes, [ratio(shape) for shape in shapes.values()], sparsity)


def _kernel_ratio(shape: tuple[int, ...]) -> float:
    return sum(shape) / math.prod(shape)


def _check_total(active: int, sizes: Mapping[str, int], sparsity: float | None) -> None:
    total = sum(sizes.values())
    if sparsity is not None and abs(active - (1 - sparsity) * total) > len(sizes):
        raise ValueError(
            f"sparsity={sparsity} contradicts the {{regex: density}} map, which gives {1 - active / total:.6g} over "
            "the leaves that it masks; leave sparsity out."
        )

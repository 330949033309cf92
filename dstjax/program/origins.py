"""Tells which leaves make up the arrays inside a program, without computing them; see :mod:`dstjax.program.flops`."""

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple


class Origin(NamedTuple):
    """Says which leaves make up an array."""

    data: bool = False  # whether it depends on the arguments beside the parameters
    parts: tuple[tuple[str, Fraction], ...] = ()  # leaves and their shares of the elements; empty: of none
    size: int = 0  # elements of these leaves
    spread: bool = False  # whether elements were repeated, as a scale is over a batch
    doubt: int = 0  # 1: combined with data element by element, as with a mask or as in a norm; 2: picked by data


def strongest(values: Sequence[Origin]) -> Origin:
    """Picks the value whose leaves feed a combination: the least doubtful, then the largest; none if they tie."""
    fed = sorted((v for v in values if v.parts), key=lambda v: (v.doubt, -v.size))
    tied = [v for v in fed if (v.doubt, v.size) == (fed[0].doubt, fed[0].size)]
    return fed[0] if fed and all(v.parts == fed[0].parts for v in tied) else Origin()


def combined(operands: list[Origin], sizes: Sequence[int], size: int) -> Origin:
    """Describes an array of ``size`` elements that is computed element by element from operands of these sizes."""
    grown = [v._replace(spread=v.spread or n < size) for v, n in zip(operands, sizes, strict=True)]
    data = any(v.data for v in grown)
    chosen = strongest(grown)
    if data and not chosen.data and chosen.parts:
        # A weight repeated over a batch and joined with the batch is an activation.
        return Origin(data=True) if chosen.spread else chosen._replace(data=True, doubt=1)
    return chosen._replace(data=data)


def picked(value: Origin, *, by_data: bool) -> Origin:
    """Describes some elements of an array: of a joined one it is not known whose."""
    if len(value.parts) != 1 or value.parts[0][1] != 1:
        return Origin(data=value.data or by_data)
    return value._replace(data=True, doubt=2) if by_data else value


def joined(operands: list[Origin], sizes: Sequence[int]) -> Origin:
    """Describes arrays of these sizes put together into one."""
    data = any(v.data for v in operands)
    if any(v.data and not v.parts for v in operands):
        return Origin(data=True)
    shares: dict[str, Fraction] = {}
    for value, size in zip(operands, sizes, strict=True):
        for path, share in value.parts:
            shares[path] = shares.get(path, Fraction(0)) + share * Fraction(size, max(sum(sizes), 1))
    spread, doubt = any(v.spread for v in operands), max(v.doubt for v in operands)
    return Origin(data, tuple(shares.items()), sum(v.size for v in operands), spread, doubt)


def either(a: Origin, b: Origin) -> Origin:
    """Keeps what holds of both: of two branches, or of a round of a loop and the next."""
    if a.parts != b.parts:
        return Origin(data=a.data or b.data)
    return a._replace(data=a.data or b.data, spread=a.spread or b.spread, doubt=max(a.doubt, b.doubt))

"""Tells which leaves make up the arrays inside a program, without computing them; see :mod:`dstjax.program.flops`."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from dstjax.program.primitives import KEEP_ZEROS, NONLINEAR, SCALES

CERTAIN, MASKED, ADDED, PICKED = range(4)  # how sure it is that an array is that of its leaves, from the surest


class Origin(NamedTuple):
    """Says which leaves make up an array."""

    data: bool = False  # whether it depends on the arguments beside the parameters
    parts: tuple[tuple[str, Fraction], ...] = ()  # leaves and their shares of the elements; empty: of none
    size: int = 0  # different elements of these leaves that it has
    spread: bool = False  # whether it was repeated, or got another axis, as a scale does over a batch
    doubt: int = CERTAIN
    filled: bool = False  # whether it may differ from zero where its leaves are zero
    value: float | None = None  # of a constant that shows in the program


def strongest(values: Sequence[Origin]) -> Origin:
    """Picks the value whose leaves feed a combination: the least doubtful, then the largest; none if they tie."""
    fed = sorted((v for v in values if v.parts), key=lambda v: (v.doubt, -v.size))
    tied = [v for v in fed if (v.doubt, v.size) == (fed[0].doubt, fed[0].size)]
    return fed[0] if fed and all(v.parts == fed[0].parts for v in tied) else Origin()


def combined(eqn: Any, operands: Sequence[Origin], sizes: Sequence[int], size: int) -> Origin:
    """Describes an array of ``size`` elements that is computed element by element from operands of these sizes.

    A leaf that is scaled, masked or added to is still that leaf; one that is repeated over a batch and joined with it,
    or added to data and then put through an activation, is an activation.
    """
    name = eqn.primitive.name
    grown = [v._replace(spread=v.spread or n < size) for v, n in zip(operands, sizes, strict=True)]
    data = any(v.data for v in grown)
    chosen = strongest(grown)
    if not chosen.parts:
        return Origin(data=data, value=operands[0].value if name == "convert_element_type" else None)
    others = [v for v in grown if v.parts != chosen.parts]
    if any(v.data and not v.parts for v in others):
        if chosen.spread:
            return Origin(data=True)
        chosen = chosen._replace(doubt=max(chosen.doubt, MASKED if name in SCALES else ADDED))
    if chosen.doubt == ADDED and name in NONLINEAR:
        return Origin(data=True)
    return chosen._replace(data=data, filled=_is_filled(eqn, grown, chosen), value=None)


def _is_filled(eqn: Any, operands: Sequence[Origin], chosen: Origin) -> bool:
    """Whether a function of each element may make something of the zeros of its leaves.

    Data that are added are taken to be the update of a weight, which leaves zero what is inactive.
    """
    name = eqn.primitive.name
    kept = [v.parts == chosen.parts and not v.filled for v in operands]
    mask = any(not v.parts and not v.spread and v.value is None for v in operands)
    nothing = [k or v.value == 0 for k, v in zip(kept, operands, strict=True)]
    if name in ("mul", "and"):
        return not (any(kept) or mask)
    if name == "select_n":  # by something else, between itself and zero: a mask
        return not (all(nothing[1:]) or (not operands[0].parts and any(v.value == 0 for v in operands[1:])))
    if name in ("add", "add_any", "sub", "or", "xor"):
        return not all(n or (v.data and not v.parts) for n, v in zip(nothing, operands, strict=True))
    if name in ("max", "min", "clamp"):
        signs = {"max": (-1, -1), "min": (1, 1), "clamp": (-1, 0, 1)}[name]
        bounds = [v.value is not None and sign != 0 <= sign * v.value for v, sign in zip(operands, signs, strict=True)]
        return not all(k or bound for k, bound in zip(kept, bounds, strict=True))
    if name in ("div", "rem"):
        return not kept[0]
    if name == "pow":
        return not (kept[0] and (operands[1].value or 0) > 0)
    if name == "integer_pow":
        return not (kept[0] and eqn.params["y"] > 0)
    return not (name in KEEP_ZEROS and all(kept))


def picked(value: Origin, size: int, *, by_data: bool) -> Origin:
    """Describes ``size`` elements of an array: of a joined one it is not known whose."""
    if len(value.parts) != 1 or value.parts[0][1] != 1:
        return Origin(data=value.data or by_data)
    value = value._replace(size=min(value.size, size))
    return value._replace(data=True, doubt=PICKED) if by_data else value


def joined(operands: Sequence[Origin], sizes: Sequence[int]) -> Origin:
    """Describes arrays of these sizes put together into one."""
    data = any(v.data for v in operands)
    if any(v.data and not v.parts for v in operands):
        return Origin(data=True)
    shares: dict[str, Fraction] = {}
    for value, size in zip(operands, sizes, strict=True):
        for path, share in value.parts:
            shares[path] = shares.get(path, Fraction(0)) + share * Fraction(size, max(sum(sizes), 1))
    spread, filled = any(v.spread for v in operands), any(v.filled for v in operands)
    doubt, size = max(v.doubt for v in operands), sum(v.size for v in operands)
    return Origin(data, tuple(shares.items()), size, spread, doubt, filled)


def replaced(value: Origin, by: Origin, share: Fraction) -> Origin:
    """Describes an array of which a share is replaced by another one, in places that data may tell."""
    if not value.parts and not value.data:  # a frame of numbers around it
        return by._replace(parts=tuple((path, part * share) for path, part in by.parts), value=None)
    if not by.parts and (value.parts or not by.data):
        return value._replace(data=value.data or by.data, filled=value.filled or by.value != 0, value=None)
    return Origin(data=value.data or by.data)


def either(a: Origin, b: Origin) -> Origin:
    """Keeps what holds of both: of two branches, or of a round of a loop and the next."""
    if a.parts != b.parts:
        return Origin(data=a.data or b.data)
    return Origin(
        a.data or b.data,
        a.parts,
        max(a.size, b.size),
        a.spread or b.spread,
        max(a.doubt, b.doubt),
        a.filled or b.filled,
        a.value if a.value == b.value else None,
    )

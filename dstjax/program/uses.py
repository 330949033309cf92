"""Records what a program does with its leaves, and says it as layouts; see :mod:`dstjax.program.layout_reader`."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from dstjax.layouts import UNKNOWN
from dstjax.program.axes import DOUBTFUL, Axis, Tag, View, tags_of

INNER = "inner"  # contracted with another leaf
LOW_RANK = "low rank"  # likewise, and the product of the leaves was added to a weight


class Use(NamedTuple):
    """One product of a leaf with data, or one look-up."""

    path: str
    roles: tuple[frozenset[str], ...]  # of each axis; several where its parts differ
    is_lookup: bool


class Record:
    """Collects the uses of leaves while a program is read."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = dict(shapes)
        self.uses: list[Use] = []
        self.cancelled: set[int] = set()
        self.held: set[int] = set()  # products with constants, which may turn out to be data or a change of the leaf
        self.stacks: set[Tag] = set()  # outputs that later turn out to be layers
        self.inner: set[tuple[Tag, Tag]] = set()
        self.lost: dict[str, set[str]] = defaultdict(set)

    def add(self, view: View, roles: Iterable[tuple[Iterable[Tag], str]], *, is_lookup: bool = False) -> frozenset[int]:
        """Notes what the axes of a view mean, and returns the numbers of these uses."""
        said: dict[Tag, set[str]] = defaultdict(set)
        for tags, role in [*roles, *(((tag,), role) for tag, role in view.taken)]:
            for tag in tags:
                said[tag].add(role)
        first = len(self.uses)
        for path in sorted(view.leaves):
            words = tuple(frozenset(said[path, axis]) for axis in range(len(self.shapes[path])))
            self.uses.append(Use(path, words, is_lookup))
        before = {i for i in view.uses if self.uses[i].path in view.leaves}
        if not is_lookup and view.doubt == DOUBTFUL:  # rows that were picked to multiply with: no table
            self.cancelled |= {i for i in before if self.uses[i].is_lookup}
        self.cancelled |= before & self.held
        return frozenset(range(first, len(self.uses)))

    def hold(self, view: View, roles: Iterable[tuple[Iterable[Tag], str]]) -> frozenset[int]:
        """Notes a product with a constant: a use if the constant is data, as what comes of it tells."""
        numbers = self.add(view, roles)
        self.held |= numbers
        return numbers

    def holds(self, view: View) -> frozenset[int]:
        """Returns the products with constants that an array of leaves came from, and that are still uses."""
        return frozenset(i for i in view.uses & self.held - self.cancelled if self.uses[i].path in view.leaves)

    def cancel(self, view: View, other: View) -> None:
        """Forgets products that were made only to scale the leaf itself, as a spectral norm makes them."""
        if view.doubt < DOUBTFUL:
            axes = tags_of(view.axes) | {tag for tag, _ in view.taken}
            whole = {p for p in view.leaves if all((p, a) in axes or n == 1 for a, n in enumerate(self.shapes[p]))}
            self.cancelled |= {i for i in other.uses if not self.uses[i].is_lookup and self.uses[i].path in whole}

    def number_layers(self, axis: Axis) -> None:
        """Notes that an axis of data, which may be the outputs of leaves, is one of several layers."""
        for factor in axis:
            self.stacks |= {(path, a) for path, a in factor.tags if path and self.shapes[path][a] == factor.size}

    def lose(self, view: View, name: str) -> None:
        """Notes that leaves go where their axes cannot be followed."""
        if view.doubt < DOUBTFUL and tags_of(view.axes):
            for path in view.leaves:
                self.lost[path].add(f"goes into primitive {name!r}, which cannot be looked into")

    def meet(self, pairs: Iterable[tuple[Tag, Tag]]) -> None:
        """Notes that axes of leaves are contracted with each other."""
        for pair in pairs:
            self.inner.add(pair)
            for path, _ in pair:
                self.lost[path].add("is multiplied with another leaf, and what comes of it not with data")

    def snapshot(self) -> "Record":
        """Returns a copy."""
        other = Record(self.shapes)
        other.restore(self)
        return other

    def restore(self, other: "Record") -> None:
        """Forgets what was noted since the copy was taken."""
        self.uses, self.cancelled, self.held = [*other.uses], {*other.cancelled}, {*other.held}
        self.stacks, self.inner = {*other.stacks}, {*other.inner}
        self.lost = defaultdict(set, {path: {*names} for path, names in other.lost.items()})

    def written(self) -> dict[str, tuple[str | None, str]]:
        """Returns the layout of each leaf, None where it is no weight, and why where it is ``"?"``."""
        ends = self._ends_of_inner_axes()
        found: dict[str, tuple[str | None, str]] = {}
        for path, shape in self.shapes.items():
            said = [
                self._words(use, shape, ends)
                for i, use in enumerate(self.uses)
                if use.path == path and i not in self.cancelled
            ]
            problems = sorted({why for _, why in said if why})
            layouts = sorted({words for words, why in said if words and not why})
            if problems:
                found[path] = UNKNOWN, "; ".join(problems)
            elif len(layouts) > 1:
                found[path] = UNKNOWN, f"{_number(len(layouts))} uses that disagree: {_quoted(layouts)}"
            elif layouts:
                found[path] = layouts[0], ""
            elif self.lost.get(path):
                found[path] = UNKNOWN, "; ".join(sorted(self.lost[path]))
            else:
                found[path] = None, ""
        return found

    def _words(self, use: Use, shape: tuple[int, ...], ends: Mapping[Tag, str]) -> tuple[str, str]:
        """Writes down one use: the layout, empty where it is that of no weight, and what is wrong with it."""
        words = [self._axis(use.path, a, roles, ends) for a, roles in enumerate(use.roles)]
        inputs = [a for a, w in enumerate(words) if w & {"in", "lookup"}]
        for a, w in enumerate(words):
            if w == {"out"} and (use.path, a) in self.stacks and inputs and a < min(inputs):
                words[a] = {"stack"}
        for a, w in enumerate(words):
            if len(w) > 1 and shape[a] == 1:  # what it is called makes no difference, but there must be inputs
                words[a] = {"in"} if w >= {"in"} and inputs == [a] else {max(w)}
        inputs = [a for a, w in enumerate(words) if w & {"in", "lookup"}]
        everything = set().union(*words)
        if {INNER, LOW_RANK} & everything:
            axes = ", ".join(str(a) for a, w in enumerate(words) if {INNER, LOW_RANK} & w)
            return "", f"axis {axes} is contracted with another leaf, which does not say what is in and what is out"
        if not inputs or "out" not in everything:
            return "", ""  # such as a vector for each layer
        for a, w in enumerate(words):
            if len(w) > 1:
                return "", f"axis {a} is in part {' and in part '.join(map(repr, sorted(w)))}"
            if not w and shape[a] > 1:
                return "", f"axis {a} is gone before the product"
        return " ".join(min(w, default="stack") for w in words), ""

    def _axis(self, path: str, axis: int, roles: frozenset[str], ends: Mapping[Tag, str]) -> set[str]:
        words = {ends.get((path, axis), w) if w == LOW_RANK else w for w in roles}
        return words - {"window"} if words == {"in", "window"} else words

    def _ends_of_inner_axes(self) -> dict[Tag, str]:
        """Tells for inner axes of a product of low rank whether they are inputs or outputs.

        Of a product of leaves one has the inputs and ends in outputs, which are the inputs of the next.
        """
        ends: dict[Tag, str] = {}
        opposite = {"in": "out", "out": "in"}
        while True:
            before = len(ends)
            for use in self.uses:
                sides = {w for roles in use.roles for w in roles if w in opposite}
                if len(sides) == 1:
                    for a, roles in enumerate(use.roles):
                        if LOW_RANK in roles:
                            ends.setdefault((use.path, a), opposite[min(sides)])
            for pair in sorted(self.inner):
                for tag, other in (pair, pair[::-1]):
                    if tag in ends:
                        ends.setdefault(other, opposite[ends[tag]])
            if len(ends) == before:
                return ends


def _number(n: int) -> str:
    return {2: "two", 3: "three"}.get(n, str(n))


def _quoted(words: list[str]) -> str:
    """Lists layouts, a look-up first."""
    ordered = sorted(words, key=lambda w: ("lookup" not in w, w))
    return " and ".join(map(repr, ordered))

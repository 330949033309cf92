"""What the axes of a leaf mean, and which leaves are weights.

A layout is a short string with a word for each axis:

======== =========================================================================================
in       inputs of the layer; several such axes multiply
out      outputs, likewise: ``"in out out"`` is a projection to (heads, head_dim)
window   the window of a convolution
stack    several layers in one leaf: a scan over layers, experts, seeds
lookup   rows of a table that are looked up (an embedding); inputs where the table is masked on request
======== =========================================================================================

``"in out"`` is a dense layer of Flax, ``"out in"`` one of Equinox or PyTorch, ``"window window in out"`` a convolution
of Flax, ``"stack in out"`` a network that is scanned over its layers. A depthwise or grouped convolution has as inputs
those of one group. None stands for a leaf that is no weight (bias, scale, norm, token, position table), ``"?"`` for one
of which nothing is known.

``dstjax.sparsify(..., layout=)`` takes such a string, a ``{regex: layout}`` map (first match wins), a preset from here,
what :func:`dstjax.program.layouts` has read from the program of the model, or a list of these, of which the first that
knows a leaf decides. What is left goes by the names of the frameworks (:func:`by_name`).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dstjax._arrays.layout import WORDS, Layout
from dstjax.checks import suggest
from dstjax.layouts.names import (
    UNKNOWN,
    Written,
    by_name,
    ends,
    equinox,
    flax,
    haiku,
    looks_like_convolution,
    reason,
    torch,
)
from dstjax.rules import Value, value

__all__ = [
    "UNKNOWN",
    "First",
    "Layout",
    "LayoutMap",
    "OfRank",
    "Preset",
    "Written",
    "by_name",
    "equinox",
    "flax",
    "haiku",
    "looks_like_convolution",
    "parse",
    "preset_of",
    "read",
    "reason",
    "torch",
]

Preset = Callable[[str, Any], Written]


def parse(written: str, name: str = "layout") -> Layout:
    """Reads a layout such as ``"window window in out"``.

    Raises:
      ValueError: an unknown word, or no ``in`` or no ``out``.

    >>> parse("stack in out").stack, parse("out in window window").order
    ((0,), (2, 3, 1, 0))
    """
    words = tuple(written.replace(",", " ").split()) if isinstance(written, str) else ()
    for word in words:
        if word not in WORDS:
            raise ValueError(f"{name}={written!r} has the unknown word {word!r}; {suggest(word, WORDS)}")
    if "out" not in words or not {"in", "lookup"} & {*words}:
        raise ValueError(
            f"{name}={written!r} is not accepted; expected a word for each axis ({', '.join(WORDS)}) with at least one "
            "`in` (or `lookup`) and one `out`, such as 'window window in out'; None for a leaf that is no weight."
        )
    return Layout(words)


@value
class LayoutMap(Value):
    """Maps ``{regex: layout}``, the first match wins; cannot change, so that it can be hashed."""

    entries: tuple[tuple[str, Written], ...]

    def __call__(self, path: str, leaf: Any) -> Written:
        """Returns the layout of the first pattern that is found in the path, ``"?"`` if there is none."""
        del leaf
        return next((layout for pattern, layout in self.entries if re.search(pattern, path)), UNKNOWN)


@value
class OfRank(Value):
    """Gives one layout to all leaves of its number of axes."""

    written: str

    def __call__(self, path: str, leaf: Any) -> Written:
        """Returns the layout where the leaf has as many axes and is no bias or scale by its name, else ``"?"``."""
        fits = len(leaf.shape) == len(parse(self.written).axes) and by_name(path, leaf) is not None
        return self.written if fits else UNKNOWN


@value
class First(Value):
    """Asks several presets in turn."""

    presets: tuple[Preset, ...]

    def __call__(self, path: str, leaf: Any) -> Written:
        """Returns what the first that knows the leaf says."""
        return next((found for preset in self.presets if (found := preset(path, leaf)) != UNKNOWN), UNKNOWN)


def preset_of(layout: Any) -> Preset | None:
    """Turns what people give as ``layout=`` into a rule that can be hashed.

    Raises:
      ValueError: it is nothing of the kind; or a pattern or a layout in it is wrong.
    """
    if layout is None or isinstance(layout, LayoutMap | OfRank | First):
        return layout
    if isinstance(layout, str):
        parse(layout)
        return OfRank(layout)
    if callable(layout):  # what dstjax.program.layouts returns is called with a path too
        return layout
    if isinstance(layout, Mapping):
        for pattern, written in layout.items():
            try:
                re.compile(pattern)
            except (re.error, TypeError) as error:
                raise ValueError(f"layout pattern {pattern!r} is no regular expression: {error}.") from None
            if written is not None and written != UNKNOWN:
                parse(written, f"layout[{pattern!r}]")
        return LayoutMap(tuple(layout.items()))
    if isinstance(layout, Sequence):
        return First(tuple(p for one in layout if (p := preset_of(one)) is not None))
    raise ValueError(
        f"layout={layout!r} is not accepted; expected a string such as 'in out', a {{regex: layout}} map, a preset of "
        "dstjax.layouts, what dstjax.program.layouts returns, or a list of these."
    )


def read(layout: Any, leaves: Mapping[str, Any], *, names: bool = True) -> dict[str, Layout | str | None]:
    """Returns what is known of each leaf: a layout, None for what is no weight, ``"?"`` where nothing is known.

    Args:
      layout: as in :func:`dstjax.sparsify`.
      leaves: path -> array, or its shape and dtype.
      names: whether names tell what the layout does not.

    Raises:
      ValueError: a layout has a wrong number of axes, or a pattern or a string fits no leaf.
    """
    preset = preset_of(layout)
    _check_used(preset, leaves)
    found: dict[str, Layout | str | None] = {}
    for path, leaf in leaves.items():
        written = UNKNOWN if preset is None else _asked(preset, path, leaf, leaves)
        if written == UNKNOWN and names:
            written = _asked(by_name, path, leaf, leaves)
        if written is None or written == UNKNOWN:
            found[path] = written
            continue
        parsed = parse(written, f"layout of {path!r}")
        if len(parsed.axes) != len(leaf.shape):
            raise ValueError(
                f"layout {written!r} of leaf {path!r} has {len(parsed.axes)} axes, but its shape is "
                f"{tuple(leaf.shape)}; expected a word for each axis."
            )
        found[path] = parsed
    return found


def _asked(preset: Preset, path: str, leaf: Any, leaves: Mapping[str, Any]) -> Written:
    """What a preset says; those that go by names are helped by the leaves beside."""
    if isinstance(preset, First):
        every = (_asked(one, path, leaf, leaves) for one in preset.presets)
        return next((found for found in every if found != UNKNOWN), UNKNOWN)
    if preset not in (by_name, flax, haiku, equinox, torch):
        return preset(path, leaf)
    name, ndim = ends(path.replace(".", "/") if preset is torch else path)[0], len(leaf.shape)
    at = path.rfind(name)
    before, after = path[:at], path[at + len(name) :]  # NNX adds a word
    # Short names are common in trees written by hand: a `b` is a bias beside a `w`.
    if preset is by_name and name == "b" and ndim >= 2:
        return None if f"{before}w{after}" in leaves else UNKNOWN
    beside = leaves.get(f"{before}{'b' if name == 'w' else 'bias'}{after}")
    bias = tuple(beside.shape) if name in ("kernel", "w", "weight") and beside is not None else None
    # A norm has a scale for each of its biases, also where several are stacked; a layer has more weights.
    if name != "kernel" and bias == tuple(leaf.shape):
        return None
    written = preset(path, leaf, bias)
    if written == UNKNOWN and preset is by_name and ndim == 2:
        return _beside_bias(path, tuple(leaf.shape), leaves)
    return written


def _beside_bias(path: str, shape: tuple[int, ...], leaves: Mapping[str, Any]) -> Written:
    """A matrix without a name that we know, beside one vector, as in ``[(w, b), ...]``: its outputs are as many."""
    folder = path.rpartition("/")[0]
    vectors = [x for p, x in leaves.items() if p.rpartition("/")[0] == folder and len(x.shape) == 1]
    matrices = [x for p, x in leaves.items() if p.rpartition("/")[0] == folder and len(x.shape) > 1]
    if not folder or len(vectors) != 1 or len(matrices) != 1:
        return UNKNOWN
    return "in out" if vectors[0].shape[0] == shape[1] else "out in" if vectors[0].shape[0] == shape[0] else UNKNOWN


def _check_used(preset: Preset | None, leaves: Mapping[str, Any]) -> None:
    if isinstance(preset, First):
        for one in preset.presets:
            _check_used(one, leaves)
    elif isinstance(preset, OfRank):
        rank = len(parse(preset.written).axes)
        if all(len(leaf.shape) != rank for leaf in leaves.values()):
            raise ValueError(
                f"layout={preset.written!r} has {rank} axes, and no leaf has as many; the leaves: "
                f"{ {path: tuple(leaf.shape) for path, leaf in leaves.items()} }."
            )
    elif isinstance(preset, LayoutMap):
        unused = [pattern for pattern, _ in preset.entries if not any(re.search(pattern, path) for path in leaves)]
        if unused:
            raise ValueError(f"layout patterns {unused} match no leaf; the leaves: {list(leaves)}.")
    elif isinstance(preset, Mapping) and len(preset) and preset.keys().isdisjoint(leaves):
        raise ValueError(
            f"the layout is that of other leaves: {[*preset]}; expected some of {[*leaves]}, as "
            "dstjax.program.layouts finds them in a program with the same parameters."
        )

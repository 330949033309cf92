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

import jax.numpy as jnp

from dstjax._arrays.layout import WORDS, Layout
from dstjax.checks import suggest
from dstjax.rules import Value, value

UNKNOWN = "?"
Written = str | None  # as people write it
Preset = Callable[[str, Any], Written]

_NO_WEIGHT = re.compile(
    r"(^|_)(bias|biases|scale|gain|gamma|beta|offset|mean|var|variance|token|tokens|query_tokens)(_\w{1,2})?\d*$"
    r"|^(cls|mask|dist|register|class)_?tokens?$|(^|_)pos(ition(s|al)?)?($|_?(emb|enc|table))|^wpe$|rel(ative)?_?(pos|bias)"
)
_LEAF = re.compile(rf"^(kernel|weight|embedding|embeddings|b|w)$|{_NO_WEIGHT.pattern}")
_NORM = re.compile(
    r"(^|_)(ln|bn|gn)(_\w*)?\d*$|norm(ali[sz]ation)?(_?\w{0,5})?\d*$|^(layer|batch|group|rms|instance)_?norm", re.I
)
_TABLE = re.compile(r"^(embedding|embeddings|embed|wte|table|vocab|codebook)$|tok(en)?_?emb")
_TABLE_MODULE = re.compile(r"embed(ding|dings|der|dings?)?(_?\d+)?$|^wte$|^embed", re.I)
_ATTENTION = re.compile(r"(^|_)(query|key|value|qkv|q|k|v)(_proj)?(_\d+)?$", re.I)
_ATTENTION_OUT = re.compile(r"(^|_)(out|o|output)(_proj)?(_\d+)?$", re.I)
_DENSE = re.compile(
    r"dense|linear|proj|^(fc|ff|mlp|head|logits|wi|wo|w\d?|hidden|gate|up|down)(_?\d+)?$|lstm|gru|rnn", re.I
)
_HAND = re.compile(r"^(w|kernel)(_?\w{1,3})?$", re.I)
_CONV = re.compile(r"conv|downsample|stem|patch|embed", re.I)
_EXPERTS = re.compile(r"expert", re.I)
_TRANSPOSED = re.compile(r"conv_?t|transpose|deconv|(^|_)up(_?conv|_?sample)?\d*$", re.I)


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


def read(layout: Any, leaves: Mapping[str, Any]) -> dict[str, Layout | str | None]:
    """Returns what is known of each leaf: a layout, None for what is no weight, ``"?"`` where nothing is known.

    Args:
      layout: as in :func:`dstjax.sparsify`.
      leaves: path -> array, or its shape and dtype.

    Raises:
      ValueError: a layout has a wrong number of axes, or a pattern or a string fits no leaf.
    """
    preset = preset_of(layout)
    _check_used(preset, leaves)
    found: dict[str, Layout | str | None] = {}
    for path, leaf in leaves.items():
        written = UNKNOWN if preset is None else _asked(preset, path, leaf, leaves)
        if written == UNKNOWN:
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


def reason(path: str, leaf: Any) -> str:
    """Says in a word or two why a leaf is no weight to mask, judging by its name and shape."""
    name, parent = _ends(path)
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        return f"dtype {dtype or type(leaf).__name__}; only real floating leaves can be masked"
    if _TABLE.search(name) or _TABLE_MODULE.search(parent):
        return "embedding"
    if _NORM.search(parent) and name != "kernel":
        return "norm"
    if _NO_WEIGHT.search(name) or name == "b":
        return "token or position" if re.search("token|pos|wpe", name) else "bias or scale"
    return "one axis" if len(leaf.shape) < 2 else "no weight"


def by_name(path: str, leaf: Any) -> Written:
    """Goes by the names of Flax (``kernel``), Haiku (``w``), Equinox and PyTorch (``weight``)."""
    name, _ = _ends(path)
    if name == "w":
        return haiku(path, leaf)
    if name.startswith("weight"):
        return equinox(path, leaf)
    return flax(path, leaf)


def flax(path: str, leaf: Any) -> Written:
    """Preset of Flax, Linen and NNX: inputs before outputs, stacks and windows before both."""
    name, parent = _ends(path)
    if (common := _common(name, parent, leaf)) != UNKNOWN:
        return common
    if name != "kernel":
        return _bare(name, leaf)
    return _inputs_first(parent, leaf)


def haiku(path: str, leaf: Any) -> Written:
    """Preset of Haiku: as Flax, with ``w``, ``b``, ``scale``, ``offset`` and ``embeddings``."""
    name, parent = _ends(path)
    if name == "b":
        return None
    if (common := _common(name, parent, leaf)) != UNKNOWN:
        return common
    return _inputs_first(parent, leaf) if name == "w" else _bare(name, leaf)


def equinox(path: str, leaf: Any) -> Written:
    """Preset of Equinox: outputs before inputs, windows last."""
    name, parent = _ends(path)
    if (common := _common(name, parent, leaf)) != UNKNOWN:
        return common
    return _outputs_first(parent, leaf) if name.startswith("weight") else _bare(name, leaf)


def torch(path: str, leaf: Any) -> Written:
    """Preset of PyTorch's ``state_dict``, and of Flax NNX or plain trees that were loaded from one.

    As Equinox, but a transposed convolution has inputs first; it is known by the name of its module.
    """
    name, parent = _ends(path.replace(".", "/"))
    if (common := _common(name, parent, leaf)) != UNKNOWN:
        return common
    if not name.startswith(("weight", "in_proj_weight")):
        return _bare(name, leaf)
    windows = len(leaf.shape) - 2
    if windows > 0 and _TRANSPOSED.search(parent):
        return " ".join(["in", "out", *["window"] * windows])
    return _outputs_first(parent, leaf)


def _asked(preset: Preset, path: str, leaf: Any, leaves: Mapping[str, Any]) -> Written:
    """What a preset says; those that go by names are helped by the leaves beside."""
    if isinstance(preset, First):
        every = (_asked(one, path, leaf, leaves) for one in preset.presets)
        return next((found for found in every if found != UNKNOWN), UNKNOWN)
    if preset not in (by_name, flax, haiku, equinox, torch):
        return preset(path, leaf)
    name, ndim = _ends(path)[0], len(leaf.shape)
    beside = path[: len(path) - len(name)]
    # Short names are common in trees written by hand: a `b` is a bias beside a `w`.
    if preset is by_name and name == "b" and ndim >= 2:
        return None if beside + "w" in leaves else UNKNOWN
    # A norm has a scale for each of its biases, also where several are stacked; a layer has more weights.
    bias = leaves.get(beside + ("b" if name == "w" else "bias"))
    if name in ("w", "weight") and bias is not None and tuple(bias.shape) == tuple(leaf.shape):
        return None
    return preset(path, leaf)


def _ends(path: str) -> tuple[str, str]:
    """Returns the last word of a path, and the last before it that is no number; NNX adds ``value`` to each path."""
    *before, name = path.split("/")
    if name == "value" and before and _LEAF.search(before[-1]):
        *before, name = before
    words = [word for word in before if not word.isdigit()]
    return name, words[-1] if words else ""


def _common(name: str, parent: str, leaf: Any) -> Written:
    """What all frameworks have in common: what is no weight, and tables."""
    ndim = len(leaf.shape)
    if ndim < 2 or _NO_WEIGHT.search(name):
        return None
    if name != "kernel" and _NORM.search(parent):
        return None
    if _TABLE.search(name) or (name in ("weight", "w") and ndim < 4 and _TABLE_MODULE.search(parent)):
        return " ".join([*["stack"] * (ndim - 2), "lookup", "out"])
    return UNKNOWN


def _bare(name: str, leaf: Any) -> Written:
    """A leaf that is named like a layer, as in trees written by hand, has its inputs first; one axis is no weight."""
    ndim = len(leaf.shape)
    if ndim < 2:
        return None
    if ndim == 2 and (_DENSE.search(name) or _ATTENTION.search(name) or _HAND.search(name)):
        return "in out"
    return "window window in out" if ndim == 4 and _CONV.search(name) and is_window(leaf.shape[:2]) else UNKNOWN


def _inputs_first(parent: str, leaf: Any) -> Written:
    shape, ndim = tuple(leaf.shape), len(leaf.shape)
    if ndim == 2:
        return "in out"
    if _EXPERTS.search(parent):
        return " ".join([*["stack"] * (ndim - 2), "in", "out"])
    if _CONV.search(parent) and ndim in (3, 4):
        return " ".join([*["window"] * (ndim - 2), "in", "out"])
    if _ATTENTION.search(parent) and ndim in (3, 4):
        return " ".join([*["stack"] * (ndim - 3), "in", "out", "out"])
    if _ATTENTION_OUT.search(parent) and ndim in (3, 4):
        return " ".join([*["stack"] * (ndim - 3), "in", "in", "out"])
    if _DENSE.search(parent) and ndim == 3:
        return "stack in out"
    if ndim == 4 and is_window(shape[:2]):
        return "window window in out"
    return UNKNOWN


def _outputs_first(parent: str, leaf: Any) -> Written:
    shape, ndim = tuple(leaf.shape), len(leaf.shape)
    if ndim == 2:
        return "out in"
    if _CONV.search(parent) and ndim in (3, 4, 5):
        return " ".join(["out", "in", *["window"] * (ndim - 2)])
    if ndim == 3 and (_DENSE.search(parent) or _EXPERTS.search(parent) or _ATTENTION.search(parent)):
        return "stack out in"
    if ndim == 4 and is_window(shape[2:]):
        return "out in window window"
    return UNKNOWN


def is_window(sizes: Sequence[int]) -> bool:
    """Whether some axes look like the window of a convolution: small, and of equal or of odd size."""
    return max(sizes) <= 16 and (len({*sizes}) == 1 or all(n % 2 for n in sizes))


def looks_like_convolution(shape: Sequence[int]) -> bool:
    """Whether a leaf of four axes looks like a convolution, windows first or last."""
    return len(shape) == 4 and (is_window(shape[:2]) or is_window(shape[2:]))


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

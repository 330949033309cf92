"""Presets: what the axes of a leaf mean by the names that the frameworks give it."""

import re
from collections.abc import Sequence
from typing import Any

from dstjax._arrays.trees import is_array, is_weight
from dstjax.layouts import biases
from dstjax.layouts.biases import UNKNOWN, Shape, Written

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
_GENERAL = re.compile(r"general|einsum", re.I)  # axes in any order
_HAND = re.compile(r"^(w|kernel|matrix)(_?\w{1,3})?$", re.I)
_CONV = re.compile(r"conv|downsample|stem|patch|embed", re.I)
_EXPERTS = re.compile(r"expert", re.I)
_TRANSPOSED = re.compile(r"conv(\d?_?d)?_?transpose|deconv|(^|_)convt(\d?d)?(_?\d+)?$", re.I)
_UP = re.compile(r"(^|_)up(_?conv|_?sample)?\d*$", re.I)  # a transposed convolution, or a layer that widens
_LAYER = re.compile(r"conv|dense|linear|proj|mlp|(^|_)(fc|ff|ffn)(_|\d|$)", re.I)


def reason(path: str, leaf: Any) -> str:
    """Says in a word or two why a leaf is no weight to mask, judging by its name and shape."""
    name, parent = ends(path)
    if not is_weight(leaf):
        kind = leaf.dtype if is_array(leaf) else type(leaf).__name__
        return f"dtype {kind}; only real floating leaves can be masked"
    if _TABLE.search(name) or _TABLE_MODULE.search(parent):
        return "embedding"
    if _is_norm(name, parent, leaf, None):
        return "norm"
    if _NO_WEIGHT.search(name) or name == "b":
        return "token or position" if re.search("token|pos|wpe", name) else "bias or scale"
    return "one axis" if len(leaf.shape) < 2 else "no weight"


def by_name(path: str, leaf: Any, bias: Shape | None = None) -> Written:
    """Goes by the names of Flax (``kernel``), Haiku (``w``), Equinox and PyTorch (``weight``).

    Args:
      path: of the leaf, words between slashes.
      leaf: an array, or its shape and dtype.
      bias: the shape of the bias beside it, which decides what the name leaves open, and against the name; None: there
        is none.
    """
    name, _ = ends(path)
    if name == "w":
        return haiku(path, leaf, bias)
    if name.startswith("weight"):
        return equinox(path, leaf, bias)
    return flax(path, leaf, bias)


def flax(path: str, leaf: Any, bias: Shape | None = None) -> Written:
    """Preset of Flax, Linen and NNX: inputs before outputs, stacks and windows before both; see :func:`by_name`."""
    name, parent = ends(path)
    if (common := _common(name, parent, leaf, bias)) != UNKNOWN:
        return common
    if name != "kernel":
        return _bare(name, leaf)
    return _inputs_first(parent, leaf, bias)


def haiku(path: str, leaf: Any, bias: Shape | None = None) -> Written:
    """Preset of Haiku: as Flax, with ``w``, ``b``, ``scale``, ``offset`` and ``embeddings``."""
    name, parent = ends(path)
    if name == "b":
        return None
    if (common := _common(name, parent, leaf, bias)) != UNKNOWN:
        return common
    return _inputs_first(parent, leaf, bias) if name == "w" else _bare(name, leaf)


def equinox(path: str, leaf: Any, bias: Shape | None = None) -> Written:
    """Preset of Equinox: outputs before inputs, windows last."""
    name, parent = ends(path)
    if (common := _common(name, parent, leaf, bias)) != UNKNOWN:
        return common
    return _outputs_first(parent, leaf, bias) if name.startswith("weight") else _bare(name, leaf)


def torch(path: str, leaf: Any, bias: Shape | None = None) -> Written:
    """Preset of PyTorch's ``state_dict``, and of Flax NNX or plain trees that were loaded from one.

    As Equinox, but a transposed convolution has inputs first; it is known by the name of its module.
    """
    name, parent = ends(path.replace(".", "/"))
    if (common := _common(name, parent, leaf, bias)) != UNKNOWN:
        return common
    if not name.startswith(("weight", "in_proj_weight")):
        return _bare(name, leaf)
    shape, windows = tuple(leaf.shape), len(leaf.shape) - 2
    # Of three axes what is named "up" is as often a stack of layers that widen, as in experts.
    if windows > 0 and (_TRANSPOSED.search(parent) or (windows > 1 and _UP.search(parent))):
        usual, swapped = biases.windows_last(len(shape), convolves=True)
        return biases.settled(" ".join(["in", "out", *["window"] * windows]), [swapped, usual], shape, bias)
    return _outputs_first(parent, leaf, bias)


def ends(path: str) -> tuple[str, str]:
    """Returns the last word of a path, and the last before it that is no number; NNX adds ``value`` to each path."""
    *before, name = path.split("/")
    if name == "value" and before and _LEAF.search(before[-1]):
        *before, name = before
    words = [word for word in before if not word.isdigit()]
    return name, words[-1] if words else ""


def _common(name: str, parent: str, leaf: Any, bias: Shape | None) -> Written:
    """What all frameworks have in common: what is no weight, and tables."""
    ndim = len(leaf.shape)
    if ndim < 2 or _NO_WEIGHT.search(name):
        return None
    if _is_norm(name, parent, leaf, bias):
        return None
    if _TABLE.search(name) or (name in ("weight", "w") and ndim < 4 and _TABLE_MODULE.search(parent)):
        return " ".join([*["stack"] * (ndim - 2), "lookup", "out"])
    return UNKNOWN


def _is_norm(name: str, parent: str, leaf: Any, bias: Shape | None) -> bool:
    """Whether a leaf of a module that is named like a norm can be its scale: one axis of it, the others stacks or 1."""
    if name == "kernel" or not _NORM.search(parent):
        return False
    shape = tuple(leaf.shape)
    long = sum(n > 1 for n in shape)
    if long > 1 and bias is not None:
        return bias == shape
    if long > 1 and _LAYER.search(parent):  # `ln_mlp` may be the norm of a layer, `w` is no name of its scale
        return name != "w" and long == 2
    return long <= 3  # over seeds and over layers


def _bare(name: str, leaf: Any) -> Written:
    """A leaf that is named like a layer, as in trees written by hand, has its inputs first; one axis is no weight."""
    ndim = len(leaf.shape)
    if ndim < 2:
        return None
    if ndim == 2 and (_DENSE.search(name) or (len(name) > 1 and _ATTENTION.search(name)) or _HAND.search(name)):
        return "in out"
    return "window window in out" if ndim == 4 and _CONV.search(name) and max(leaf.shape[:2]) <= 16 else UNKNOWN


def _inputs_first(parent: str, leaf: Any, bias: Shape | None) -> Written:
    shape = tuple(leaf.shape)
    # Haiku, and Flax with transpose_kernel, swap inputs and outputs, of which the name says nothing.
    transposed = len(shape) > 2 and _TRANSPOSED.search(parent) is not None
    written = UNKNOWN if transposed else _inputs_before(parent, shape)
    convolves = transposed or _CONV.search(parent) is not None or "window" in written
    usual, swapped = biases.windows_first(len(shape), convolves=convolves)
    return biases.settled(written, [usual + swapped] if transposed else [usual, swapped], shape, bias)


def _inputs_before(parent: str, shape: Shape) -> str:
    ndim = len(shape)
    if ndim == 2:
        return "in out"
    if _GENERAL.search(parent):
        return UNKNOWN
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


def _outputs_first(parent: str, leaf: Any, bias: Shape | None) -> Written:
    shape = tuple(leaf.shape)
    written = _outputs_before(parent, shape)
    convolves = _CONV.search(parent) is not None or "window" in written
    others = biases.windows_last(len(shape), convolves=convolves)
    return biases.settled(written, others, shape, bias)


def _outputs_before(parent: str, shape: Shape) -> str:
    ndim = len(shape)
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

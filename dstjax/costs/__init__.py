"""Counts what training and inference cost in FLOPs: as the papers count, and as the passes add up.

``sparse`` (f_S) and ``dense`` (f_D) are the FLOPs of one forward pass of the sparse and of the dense network for one
sample; a multiplication and an addition are two. A backward pass is two more passes, the gradient of the activations
and that of the weights, so dense training costs 3 f_D. All training costs are a mean over training, per sample.

The convention 'paper' makes the papers' tables. 'exact' counts in each pass the weights that take part in it, and
includes the dense gradients of mask updates. Both leave out the optimiser, the selection and the scoring before the
first step, and neither subtracts the gradient of the input, which the first layer does not need. docs/costs.md has the
formulas in one table, and says where printed figures differ; :mod:`dstjax.costs.formulas` has the sources.

>>> training_flops("rigl", sparse=2.0, dense=8.0, convention="exact", update_period=100)
6.06
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dstjax import methods
from dstjax.checks import check_choice, check_integer, check_number, suggest
from dstjax.costs import formulas
from dstjax.costs import knapsack as knapsack

CONVENTIONS = ("paper", "exact")

Formula = Callable[..., float]

# What is no method of the catalogue of its own.
_BESIDE: dict[str, Formula] = {"interspace": formulas.shared_basis}

# Of one stretch of a recorded run: what moves f_S is in the record already.
_OF_A_STRETCH: dict[Formula, Formula] = {
    formulas.soft_memory_bound: formulas.always_sparse,
    formulas.cubic_ramp: formulas.always_sparse,
    formulas.dense_partition: formulas.always_sparse,
    formulas.dense_then_sparse: formulas.always_sparse,
    formulas.ramp_with_growth: formulas.dense_gradient_at_updates,
}


def _formula(name: str | methods.Entry, *, recorded: bool = False) -> Formula:
    """Returns the formula of a method: its entry in the catalogue says which."""
    if isinstance(name, str) and name not in methods.CATALOGUE:
        if name not in _BESIDE:
            raise ValueError(f"the cost of method {name!r} is not known; {suggest(name, names())}")
        return _BESIDE[name]
    cost = methods.about(name).cost
    formula: Formula | None = getattr(formulas, cost, None)
    if formula is None:
        raise ValueError(f"cost={cost!r} of method {name!r} is no function of dstjax.costs.formulas.")
    return _OF_A_STRETCH.get(formula, formula) if recorded else formula


def names() -> list[str]:
    """Returns the methods whose cost is known: the catalogue, and interspace pruning."""
    return sorted([*methods.CATALOGUE, *_BESIDE])


def needs(name: str | methods.Entry, *, recorded: bool = False) -> dict[str, Any]:
    """Returns what a formula takes beside f_S and f_D, with defaults; ``inspect.Parameter.empty`` where there is none.

    Args:
      name: one of :func:`names`, or an entry of your own.
      recorded: of :func:`training_flops_of_run` instead of :func:`training_flops`.

    Raises:
      ValueError: there is no such method.
    """
    parameters = inspect.signature(_formula(name, recorded=recorded)).parameters
    return {n: p.default for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def training_flops(name: str | methods.Entry, *, sparse: float, dense: float, convention: str, **given: Any) -> float:
    """Returns the FLOPs of training per sample, forward and backward, as a mean over training.

    Args:
      name: one of :func:`names`, or an entry of your own.
      sparse: f_S, FLOPs of one forward pass at the method's density, for one sample; at the final density where it
        falls along a ramp.
      dense: f_D, the same of the dense network, in the same unit.
      convention: 'paper' or 'exact', see the head of this module.
      **given: what the formula of the method needs, see :func:`needs` and the formula.

    Raises:
      ValueError: an unknown name or convention, a number out of range, or a quantity that is missing or not needed.
    """
    known = needs(name)
    _check(name, dense, convention, given, known)
    _check_flops("sparse", sparse, dense)
    for key in given.keys() & {"start", "backward"}:
        _check_flops(key, given[key], dense, sparse)
    _check_stages(given.get("stages", ()), sparse, dense)
    if "ramp_start" in given and given["ramp_start"] > given["ramp_end"]:
        raise ValueError(
            f"ramp_start={given['ramp_start']} is not accepted with ramp_end={given['ramp_end']}; expected it earlier."
        )
    return float(_formula(name)(sparse, dense, convention, **given))


def training_flops_of_run(
    name: str | methods.Entry,
    *,
    sparse: Sequence[float],
    dense: float,
    convention: str,
    lengths: Sequence[float] | None = None,
    **given: Any,
) -> float:
    """Returns the FLOPs of training per sample, from the densities that a run really had.

    Applies the formula of the method to each stretch and weights it by its length. Where the density is part of a
    method's formula (gmp, granet, gap, mest, one_shot, ...) the record takes its place: gmp costs 3 times the mean.

    Args:
      name: one of :func:`names`, or an entry of your own.
      sparse: f_S of each stretch between two changes of the mask, in order.
      dense: f_D.
      convention: 'paper' or 'exact'.
      lengths: steps of each stretch; equal by default.
      **given: see ``needs(name, recorded=True)``. ``update_share`` is a share of the whole run.

    Raises:
      ValueError: as in :func:`training_flops`, or records of different lengths, empty or of no length.
    """
    known = needs(name, recorded=True)
    _check(name, dense, convention, given, known)
    steps = [1.0] * len(sparse) if lengths is None else list(lengths)
    if len(steps) != len(sparse) or not steps:
        raise ValueError(f"lengths has {len(steps)} entries and sparse {len(sparse)}; expected as many, at least one.")
    for f, length in zip(sparse, steps, strict=True):
        _check_flops("sparse", f, dense)
        check_number("length of a stretch", length, "a finite number >= 0", lambda x: 0 <= x < math.inf)
    total = math.fsum(steps)
    if not total:
        raise ValueError("lengths are all 0; expected the steps of each stretch.")
    formula, share, begin, cost = (
        _formula(name, recorded=True),
        given.get("update_share", known.get("update_share")),
        0.0,
        0.0,
    )
    for f, length in zip(sparse, steps, strict=True):
        if length and share is not None:  # the part of this stretch that lies before the end of the updates
            given["update_share"] = min(max((share * total - begin) / length, 0.0), 1.0)
        cost += length / total * formula(f, dense, convention, **given)
        begin += length
    return float(cost)


def inference_flops(name: str | methods.Entry, *, sparse: float, dense: float) -> float:
    """Returns the FLOPs of one forward pass of the trained network, per sample: f_S, but f_D if dense.

    Interspace pruning adds 0.07 f_D for the shared basis. Use the f_S of the final masks.

    Raises:
      ValueError: an unknown name, or a number out of range.
    """
    needs(name)
    _check_flops("dense", dense)
    _check_flops("sparse", sparse, dense)
    return dense if name == "dense" else sparse + formulas.BASIS_OVERHEAD * dense * (name == "interspace")


def relative(flops: float, *, dense: float, epochs: float = 1.0, dense_epochs: float = 1.0) -> float:
    """Returns the cost of a whole training as a multiple of dense training: flops / (3 f_D) * epochs / dense_epochs.

    Raises:
      ValueError: a number is not positive and finite.
    """
    for key, value in {"flops": flops, "dense": dense, "epochs": epochs, "dense_epochs": dense_epochs}.items():
        _check_flops(key, value)
    return flops / (3 * dense) * epochs / dense_epochs


def mean_density_of_cubic(final: float, initial: float = 1.0, updates: int | None = None) -> float:
    """Averages the ramp final + (initial - final) (1 - x)^3, x from 0 to 1: final + (initial - final) / 4.

    Args:
      final: density, or FLOPs, at the end.
      initial: the same at the start.
      updates: n, for stairs at x = 0, 1/n, ..., of which the last is not part of the ramp: (n + 1)^2 / (4 n^2) stands
        in place of 1/4. None for the smooth ramp.

    Raises:
      ValueError: ``updates`` is no positive integer.
    """
    if updates is not None:
        check_integer("updates", updates, 1)
    return formulas.mean_of_cubic(final, initial, updates)


def layer_flops(
    fan_in: int, outputs: int, *, density: float = 1.0, convention: str, bias: bool = True, relu: bool = True
) -> float:
    """Counts the FLOPs of one convolution or dense layer in a forward pass, for one sample.

    'paper': 2 * fan_in * density * outputs. 'exact': a dot product of length n has n multiplications and n - 1
    additions; a bias is one addition more, a ReLU counts as one multiplication.

    Args:
      fan_in: inputs of one output: kernel height * width * input channels / groups.
      outputs: height * width * channels of the output.
      density: realised density of the kernel.
      convention: 'paper' or 'exact'.
      bias: count one addition per output; 'exact' alone.
      relu: count one multiplication per output; 'exact' alone.

    Raises:
      ValueError: a number is out of range.

    Reference: RigL's released FLOP counter, after the MicroNet challenge, which counts a bias and a ReLU everywhere.
    """
    check_choice("convention", convention, CONVENTIONS)
    check_integer("fan_in", fan_in, 1)
    check_integer("outputs", outputs, 1)
    check_number("density", density, "a number in [0, 1]", lambda d: 0 <= d <= 1)
    length = fan_in * density
    if convention == "paper":
        return 2 * length * outputs
    return (length + max(length - 1, 0) + bias + relu) * outputs


def storage_bits(weights: int, *, density: float = 1.0, bits: int = 32, biases: int = 0) -> float:
    """Counts the bits that hold a layer: the active weights, a bit mask unless it is dense, and the biases.

    Raises:
      ValueError: a number is out of range.

    Reference: RigL's released FLOP counter, after the MicroNet challenge.
    """
    check_integer("weights", weights, 0)
    check_integer("bits", bits, 1)
    check_integer("biases", biases, 0)
    check_number("density", density, "a number in [0, 1]", lambda d: 0 <= d <= 1)
    return weights * bits * density + weights * (density < 1) + biases * bits


def _check(
    name: str | methods.Entry, dense: float, convention: str, given: Mapping[str, Any], known: Mapping[str, Any]
) -> None:
    check_choice("convention", convention, CONVENTIONS)
    _check_flops("dense", dense)
    for key, value in given.items():
        if key not in known:
            accepted = suggest(key, known) if known else "it takes sparse, dense and convention alone."
            raise ValueError(f"the cost of {name!r} has no use for {key!r}; {accepted}")
        if key.endswith("_share") or key.startswith("ramp_"):
            check_number(key, value, "a share of training in [0, 1]", lambda x: 0 <= x <= 1)
        elif key in ("improvement", "exploration"):
            check_integer(key, value, 0)
        elif key in ("update_period", "window", "partitions", "estimation") or (key == "updates" and value is not None):
            check_integer(key, value, 1)
    if "window" in given and given["window"] > given.get("update_period", given["window"]):
        raise ValueError(f"window={given['window']} is longer than update_period={given['update_period']}.")
    missing = [key for key, default in known.items() if default is inspect.Parameter.empty and key not in given]
    if missing:
        raise ValueError(f"the cost of {name!r} needs {', '.join(missing)} as well; give it as a keyword.")


def _check_stages(stages: Any, sparse: float, dense: float) -> None:
    if not isinstance(stages, Sequence) or not all(isinstance(s, Sequence) and len(s) == 2 for s in stages):
        raise ValueError(f"stages={stages!r} is not accepted; expected pairs (share of training, FLOPs).")
    for share, f in stages:
        check_number("share of a stage", share, "a share of training in [0, 1]", lambda x: 0 <= x <= 1)
        _check_flops("FLOPs of a stage", f, dense, sparse)
    if math.fsum(share for share, _ in stages) > 1 + 1e-9:
        raise ValueError(f"stages={stages!r} take more than all of training; expected shares that add up to at most 1.")


def _check_flops(key: str, value: float, most: float = math.inf, least: float = 0.0) -> None:
    expected = f"a finite number above {least:g}" if least == 0 else f"a number >= {least:g}"
    expected += f" and <= {most:g}" if most < math.inf else ""
    check_number(key, value, expected, lambda f: 0 < f < math.inf and least <= f <= most)

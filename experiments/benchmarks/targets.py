"""The figures that matter most, each with the value that it must reach, and the table of them for the README."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from experiments.benchmarks.records import Row

Pick = Callable[[Row], float | None]  # the figure that a row contributes, or None


@dataclasses.dataclass(frozen=True)
class Target:
    """One figure; the worst of all that are picked counts."""

    name: str
    pick: Pick
    shown: Callable[[float], str]
    low: float = -math.inf
    high: float = math.inf

    @property
    def wanted(self) -> str:
        if self.low == self.high or self.shown is _share:
            return self.shown(self.high)
        if math.isinf(self.low):
            return f"≤ {self.shown(self.high)}"
        if math.isinf(self.high):
            return f"≥ {self.shown(self.low)}"
        return f"{self.shown(self.low)} to {self.shown(self.high)}"


@dataclasses.dataclass(frozen=True)
class TargetOutcome:
    """What was measured for a target; nothing where no row has it."""

    target: Target
    values: tuple[float, ...]

    @property
    def reached(self) -> bool | None:
        return all(self.target.low <= v <= self.target.high for v in self.values) if self.values else None

    @property
    def measured(self) -> str:
        if not self.values:
            return "not measured"
        low, high = self.target.shown(min(self.values)), self.target.shown(max(self.values))
        return low if low == high else f"{low} to {high}"


def outcomes(rows: Sequence[Row]) -> list[TargetOutcome]:
    picked = [[t.pick(row) for row in rows if row["kind"] in ("time", "value")] for t in TARGETS]
    return [
        TargetOutcome(t, tuple(v for v in values if v is not None)) for t, values in zip(TARGETS, picked, strict=True)
    ]


def verdict(outcome: TargetOutcome, *, quick: bool) -> str:
    """In a word whether a target is reached; a quick run, on small shapes and few rounds, decides nothing."""
    if outcome.reached is None:
        return ""
    return "quick run" if quick else "reached" if outcome.reached else "missed"


def markdown(rows: Sequence[Row], *, quick: bool = False) -> str:
    """The table for the README."""
    lines = ["| figure | target | measured | |", "|---|---|---|---|"]
    for outcome in outcomes(rows):
        mark = verdict(outcome, quick=quick)
        lines.append(f"| {outcome.target.name} | {outcome.target.wanted} | {outcome.measured} | {mark} |")
    return "\n".join(lines)


def _ratio(benchmark: str, to: str, contender: str, *, inverse: bool = False, **case: Any) -> Pick:
    """The ratio to one contender, of every contender whose name ends so."""

    def pick(row: Row) -> float | None:
        if row["benchmark"] != benchmark or row.get("to") != to or not row["case"]["contender"].endswith(contender):
            return None
        if not _matches(row, case) or row["case"]["contender"].startswith("jaxpruner"):
            return None
        return 1 / row["ratio"]["median"] if inverse else row["ratio"]["median"]

    return pick


def _value(benchmark: str, field: str, **case: Any) -> Pick:
    def pick(row: Row) -> float | None:
        if row["benchmark"] != benchmark or row["kind"] != "value" or field not in row["values"]:
            return None
        return float(row["values"][field]) if _matches(row, case) else None

    return pick


def _matches(row: Row, case: Row) -> bool:
    return all(row["case"].get(k.replace("_", " "), row["case"].get(k)) == v for k, v in case.items())


def _times(x: float) -> str:
    return f"{x:.3g}x" if x >= 10 else f"{x:.2f}x"


def _share(x: float) -> str:
    return "yes" if x else "no"


TARGETS = (
    Target(
        "mask update, ResNet-50, 90 % ERK: faster than jaxpruner's RigL by",
        _ratio("update", "jaxpruner rigl", "", inverse=True, tree="resnet50"),
        _times,
        low=30,
    ),
    Target("the same, in dense optimiser steps", _ratio("update", "dense step", "", tree="resnet50"), _times, high=20),
    Target(
        "48 scanned layers of 512 x 512, a mask update against that of one leaf of their size",
        _ratio("update", "one leaf", "", tree="stack"),
        _times,
        high=1.1,
    ),
    *(
        Target(
            f"step between updates, {label}, {shown}, against dense",
            _ratio("step", "dense", how, tree="resnet50", optimiser=optimiser),
            _times,
            high=high,
        )
        for optimiser, label in (("sgd", "SGD with momentum"), ("adamw", "AdamW"))
        for how, shown, high in (
            ("host decides", "host decides, state split", 1.05),
            ("branch inside", "branch inside", 1.20),
        )
    ),
    Target(
        "whole training step, small convolutional network, against dense",
        _ratio("step", "dense", "", training=True),
        _times,
        high=1.02,
    ),
    Target(
        "exact selection of 3 % of 10⁷ float32, against argsort",
        _ratio("selection", "argsort", "counting", entries=10**7, dtype="float32"),
        lambda x: f"{100 * x:.2g} %",
        high=0.03,
    ),
    Target(
        "tracing and compiling the update of 54 leaves",
        _value("compile", "seconds", tree="resnet50", program="mask update"),
        "{:.1f} s".format,
        high=6,
    ),
    Target(
        "tracing and compiling init of 54 leaves, against their update",
        _value("start", "init_to_update", tree="resnet50"),
        _times,
        high=0.25,
    ),
    Target(
        "tracing and compiling a step between updates of 1,000 leaves, AdamW, against dense",
        _value("start", "step_to_dense", tree="1,000 leaves"),
        _times,
        high=3,
    ),
    *(
        Target(
            f"temporaries of a mask update, {shown}, a weight",
            _value("compile", "temporary_bytes_per_weight", tree=tree, program="mask update"),
            "{:.2f} byte".format,
            high=1.5,
        )
        for tree, shown in (("vit_b16", "ViT-B/16"), ("gpt_1.3b", "GPT of 1.3 billion weights"))
    ),
    Target(
        "sparse state of RigL, a weight",
        _value("state", "bytes_per_weight", method="rigl", mask_updates=249),
        "{:.2g} byte".format,
        high=0.2,
    ),
    Target(
        "sparse state of DST-EE, a weight",
        _value("state", "bytes_per_weight", method="dst_ee", mask_updates=249),
        "{:.2g} byte".format,
        high=1.2,
    ),
    Target("8 devices: a tensor is moved", _value("collectives", "moves_a_tensor", devices=8), _share, high=0),
    Target(
        "8 devices: sent for a leaf and update",
        _value("collectives", "bytes_per_leaf", devices=8),
        lambda x: f"{x / 1024:.3g} KiB",
        high=65535,
    ),
    Target(
        "8 devices: masks bit-equal to one device",
        _value("collectives", "masks_equal_one_device", devices=8),
        _share,
        low=1,
        high=1,
    ),
    Target("4 and 16 seeds under vmap in a scan, against dense", _ratio("seeds", "dense", ""), _times, high=1.15),
    Target("branches in that program", _value("seeds", "conditionals"), "{:.0f}".format, low=1, high=1),
    Target(
        "update time grows with the size to the power of, 10⁶ to 10⁸ weights",
        _value("update", "exponent"),
        "{:.2f}".format,
        low=0.9,
        high=1.1,
    ),
    *(
        Target(
            f"blocks of 32 x 32, 4096 x 4096, batch 32, {sparsity:.0%} sparse: {what}, times faster than dense",
            _ratio("sparse_layers", "dense", "block 32", inverse=True, what=what, sparsity=sparsity, batch=32),
            _times,
            low=low,
        )
        for what, sparsity, low in (
            ("forward", 0.9, 5),
            ("forward", 0.95, 10),
            ("forward and backward", 0.9, 3),
        )
    ),
    Target(
        "the same blocks at 90 %: training step of an MLP, times faster than dense",
        _ratio("sparse_layers", "dense", "packed", inverse=True, what="training step"),
        _times,
        low=3,
    ),
)

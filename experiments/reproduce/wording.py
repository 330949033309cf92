"""Verdicts in words and numbers: what stands behind each."""

import math

from experiments.reproduce.claims import Verdict


def details(verdict: Verdict) -> list[str]:
    """What stands behind a verdict, in lines: direction, the paper's number, interval, power, remarks."""
    found = [verdict.direction] if verdict.direction else []
    if verdict.low is not None and verdict.high is not None:
        found.append(f"95 % interval {interval(verdict)}, p {chance(verdict)}; power {power(verdict)}")
    if verdict.paper is not None:
        found.append(f"the paper's difference: {number(verdict.paper)}")
    return [*found, *verdict.remarks]


def summarised(verdict: Verdict) -> tuple[str, ...]:
    """The cells of a verdict in a table of all: what was claimed, what shows it, what became of it and why."""
    said = "; ".join([verdict.evidence, *verdict.remarks])
    return (
        verdict.claim,
        verdict.direction,
        number(verdict.paper),
        verdict.verdict,
        said,
        interval(verdict),
        power(verdict),
    )


def interval(verdict: Verdict) -> str:
    """The 95 % interval of a verdict, '-' where it has none."""
    if verdict.low is None or verdict.high is None:
        return "-"
    return f"{number(verdict.low)} to {number(verdict.high)}"


def chance(verdict: Verdict) -> str:
    """The corrected p of a verdict."""
    return "-" if verdict.p is None else "< 0.001" if verdict.p < 0.001 else f"{verdict.p:.3f}"


def power(verdict: Verdict) -> str:
    """The power of a verdict, and the true difference that it is about."""
    if verdict.power is None or not math.isfinite(verdict.power):
        return "-"
    about = "for equal sides" if verdict.effect_of == "none" else f"for {verdict.effect:.3g} ({verdict.effect_of})"
    return f"{verdict.power:.2f} {about}"


def number(value: float | None) -> str:
    """A number with its sign, in as many digits as say something; '-' for none."""
    if value is None:
        return "-"
    digits = 2 if abs(value) >= 0.1 or value == 0 else min(12, 2 - math.floor(math.log10(abs(value))))
    return f"{value:+,.0f}" if abs(value) >= 1000 else f"{value:+.{digits}f}"

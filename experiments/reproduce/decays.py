"""The 'linear' decay of the drop fraction of the pruning-criteria study: times 0.99 each 600 steps (Appendix J)."""

from typing import Any


def study(step: Any) -> Any:
    """The drop fraction of a step, from 0.5: as in the study, whose runs have 35,200 steps."""
    return 0.5 * 0.99 ** (step // 600)


def study_proxy(step: Any) -> Any:
    """The same for a proxy of 600 steps: as many factors in all."""
    return 0.5 * 0.99 ** (step // 10)

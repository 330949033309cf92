"""Says when to update the masks, and how large a share of the active weights moves."""

from dstjax.schedules.shares import HOST_CALLS, NAMES, Cubic, Fractions, Shares, StepFunction
from dstjax.schedules.times import Schedule, Stages, UpdateSchedule

__all__ = [
    "HOST_CALLS",
    "NAMES",
    "Cubic",
    "Fractions",
    "Schedule",
    "Shares",
    "Stages",
    "StepFunction",
    "UpdateSchedule",
]

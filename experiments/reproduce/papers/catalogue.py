"""All tables by name, in the order of the papers."""

from dstjax.checks import suggest
from experiments.reproduce.papers import (
    criteria,
    criteria_more,
    curves,
    dst_ee,
    dst_ee_more,
    iee,
    iee_channels,
    iee_more,
    overlap,
    own_growth,
    own_growth_why,
    regrowing,
    statements,
)
from experiments.reproduce.papers.table import Table

MODULES = (
    dst_ee,
    dst_ee_more,
    iee,
    iee_channels,
    iee_more,
    criteria,
    criteria_more,
    curves,
    overlap,
    regrowing,
    statements,
    own_growth,
    own_growth_why,
)


def tables() -> dict[str, Table]:
    """All tables, in the order of the papers."""
    return {t.name: t for module in MODULES for t in module.TABLES}


def get(name: str) -> Table:
    """The table of a name.

    Raises:
      ValueError: there is none.
    """
    found = tables()
    if name not in found:
        raise ValueError(f"table {name!r} is not known; {suggest(name, list(found))}")
    return found[name]

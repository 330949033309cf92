"""How many seeds the cells of a proxy have."""

from experiments.reproduce.papers.table import Table

LEAST = 8
OF_PAIR = 16  # where DST-EE is compared with RigL, which are close
PAIRED = ("dst_ee_table1", "dst_ee_table3", "dst_ee_table4")


def of_proxy(table: Table) -> int:
    """The seeds of a table's proxy where the command gives none."""
    return max(table.proxy_seeds, OF_PAIR if table.name in PAIRED else LEAST)

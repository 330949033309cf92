"""The tables and figures of the papers, declared: the cells that each needs, and what it is said to show."""

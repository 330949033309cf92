"""The tables and figures of the papers: what each needs, running it, and comparing it with what was published."""

"""What methods are called, and which of them belong together: what the catalogue says, and words for reports."""

from dstjax import methods

OTHER = "other"  # a method that is not in the catalogue
DO = {  # what a family does, in a report that has several
    "pruned at initialisation": "those pruned at initialisation choose the connections before the first step",
    "dense to sparse": "dense to sparse ones thin out a network while it trains",
    "sparse to sparse": "sparse to sparse ones drop some connections every so often and grow as many new ones",
    "performance-driven": "performance-driven ones grow fewer the better the network gets",
    "structured": "structured ones keep a pattern that hardware can use",
}


def method_label(method: str) -> str:
    """The name of a method as its paper writes it; of one's own as it was given."""
    return methods.about(method).label if method in methods.CATALOGUE else method


def family(method: str) -> str:
    """The family of a method."""
    return methods.about(method).family if method in methods.CATALOGUE else OTHER


def by_family(names: list[str]) -> dict[str, list[str]]:
    """Methods in the order of the families, those without any left out."""
    grouped = {name: [m for m in names if family(m) == name] for name in (*methods.FAMILIES, OTHER)}
    return {name: members for name, members in grouped.items() if members}

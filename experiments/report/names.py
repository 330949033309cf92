"""What methods are called, and which of them belong together."""

LABELS = {
    "dense": "dense",
    "static": "static",
    "magnitude": "Magnitude",
    "snip": "SNIP",
    "grasp": "GraSP",
    "synflow": "SynFlow",
    "iterative_snip": "Iterative SNIP",
    "force": "FORCE",
    "gmp": "GMP",
    "one_shot": "one-shot",
    "str": "STR",
    "sis": "SIS",
    "granet": "GraNet",
    "gap": "GaP",
    "dpf": "DPF",
    "dcil": "DCIL",
    "admm": "ADMM",
    "set": "SET",
    "rigl": "RigL",
    "rigl_itop": "RigL-ITOP",
    "mest": "MEST",
    "dst_ee": "DST-EE",
    "snfs": "SNFS",
    "dsr": "DSR",
    "deepr": "DeepR",
    "soft_deepr": "Soft-DeepR",
    "top_kast": "Top-KAST",
    "accset": "AccSET",
    "lset": "LSET",
    "dynset": "DynSET",
    "iee": "IEE",
    "asp": "ASP",
    "ste": "STE",
    "sr_ste": "SR-STE",
    "srigl": "SRigL",
}

FAMILIES = {
    "static": ("static", "magnitude", "snip", "grasp", "synflow", "iterative_snip", "force"),
    "dense to sparse": ("gmp", "one_shot", "str", "sis", "granet", "gap", "dpf", "dcil", "admm"),
    "sparse to sparse": (
        *("set", "rigl", "rigl_itop", "mest", "dst_ee", "snfs", "dsr", "deepr", "soft_deepr", "top_kast", "iee"),
    ),
    "performance-driven": ("accset", "lset", "dynset"),
    "structured": ("srigl", "asp", "ste", "sr_ste"),
}
OTHER = "other"  # a method that is not in the catalogue
DO = {  # what a family does, in a report that has several
    "static": "static ones choose the connections before the first step",
    "dense to sparse": "dense to sparse ones thin out a network while it trains",
    "sparse to sparse": "sparse to sparse ones drop some connections every so often and grow as many new ones",
    "performance-driven": "performance-driven ones grow fewer the better the network gets",
    "structured": "structured ones keep a pattern that hardware can use",
}


def method_label(method: str) -> str:
    """The name of a method as its paper writes it."""
    return LABELS.get(method, method.upper())


def family(method: str) -> str:
    """The family of a method."""
    return next((name for name, members in FAMILIES.items() if method in members), OTHER)


def by_family(methods: list[str]) -> dict[str, list[str]]:
    """Methods in the order of the families, those without any left out."""
    grouped = {name: [m for m in methods if family(m) == name] for name in (*FAMILIES, OTHER)}
    return {name: members for name, members in grouped.items() if members}

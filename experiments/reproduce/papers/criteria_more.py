"""The pruning criteria's study: counts of parameters, the gap over time, more overlaps, one more schedule."""

import itertools
from typing import Any

from experiments.reproduce.cells import Cell
from experiments.reproduce.claims import Claim
from experiments.reproduce.criteria import DROPS
from experiments.reproduce.papers.criteria import PAPER
from experiments.reproduce.papers.criteria_cells import DENSE, GROWTHS, PERIODS, SPARSE, criteria, figure4, of_pair
from experiments.reproduce.papers.overlap import JACCARD
from experiments.reproduce.papers.table import Table

CRITERIA = {"drop": "the criteria that are compared", "grow": "random and gradient growth", "sparsity": "the densities"}
FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5)  # the paper prints no list
OVERLAPPING = ("large-MLP", "small-CNN", "ResNet-56")
OTHER_WAY = tuple(f"J({b}, {a})" for a, b in itertools.combinations(DROPS, 2))  # the index need not be symmetric


def table2(proxy: bool) -> list[Cell]:
    """How many parameters the networks have; nothing is trained."""
    del proxy
    imagenet = {"config": "criteria_resnet50_imagenet", "model": "ResNet-50", "dataset": "ImageNet"}
    of = [of_pair(m) for m in ("small-MLP", "large-MLP", "small-CNN", "ResNet-56")]
    cells = [Cell(**p, method="Dense", changes=DENSE, sparsity=0.0, probe="parameters") for p in (*of, imagenet)]
    sparse: dict[str, Any] = {"method": "95% sparse", "changes": {"sparsity": 0.95}, "sparsity": 0.95}
    return [*cells, *(Cell(**p, **sparse, probe="parameters") for p in of[:3])]


def figure4_over_time(proxy: bool) -> list[Cell]:
    """The cells of Figure 4, and dense training with dropout."""
    changes = {**DENSE, "model.name": "large_mlp_dropout"}
    dropout = Cell(**of_pair("large-MLP"), method="dense with dropout", changes=changes, sparsity=0.0)
    return [*figure4(proxy), dropout]


def figure6_dense(proxy: bool) -> list[Cell]:
    """What the criteria would drop first of a dense network."""
    first = {"drop": "magnitude", "grow": "random", "drop_schedule": "constant", "sparsity": 0.0}
    of: dict[str, Any] = {"method": "first drop", "changes": first, "sparsity": 0.0, "probe": "first_drops"}
    return [Cell(**of_pair(m), **of) for m in OVERLAPPING[: 2 if proxy else 3]]


def figure17(proxy: bool) -> list[Cell]:
    """What the criteria would drop first, by the share that is dropped."""
    fractions = FRACTIONS[::2] if proxy else FRACTIONS
    changes = {"drop": "magnitude", "grow": "random", "drop_schedule": "constant", "sparsity": 0.8}
    return [
        Cell(
            **of_pair(m),
            method="first drop",
            changes={**changes, "drop_fraction": rho},
            sparsity=0.8,
            x=rho,
            probe="first_drops",
        )
        for m in OVERLAPPING[: 1 if proxy else 3]
        for rho in fractions
    ]


def figure18(proxy: bool) -> list[Cell]:
    """What each criterion would drop of the network that another one trains, over time."""
    rules = ("magnitude", "SNIP") if proxy else tuple(DROPS)
    return [
        Cell(**{**vars(c), "probe": "drops_in_time"})
        for m in OVERLAPPING[: 1 if proxy else 3]
        for c in criteria(m, (0.2,), ("gradient",), rules)
    ]


def figure11_criteria(proxy: bool) -> list[Cell]:
    """The exploration rate of each criterion by the update period."""
    periods, rules = ((10, 150), ("magnitude", "MEST", "SNIP")) if proxy else (PERIODS, SPARSE)
    return [
        c
        for growth in GROWTHS
        for period in periods
        for c in criteria("large-MLP", (0.1,), (growth,), rules, x=period, update_period=period)
    ]


def figure16_factor(proxy: bool) -> list[Cell]:
    """The decay by a factor of 0.99, and the cosine."""
    decay = f"experiments.reproduce.decays:{'study_proxy' if proxy else 'study'}"
    periods, rules = ((5, 20, 80), ("magnitude",)) if proxy else (PERIODS, SPARSE)
    density = 0.05 if proxy else 0.2
    groups: dict[str, dict[str, Any]] = {"factor 0.99": {"drop_schedule": decay}, "cosine": {}}
    return [
        c
        for name, changes in groups.items()
        for period in periods
        for c in criteria(
            "large-MLP", (density,), ("random",), rules, group=name, x=period, update_period=period, **changes
        )
    ]


def _more_alike(text: str, pair: str, other: str, **side: Any) -> Claim:
    return Claim(text, side, side, metric=f"J({pair})", other=f"J({other})")


def _explores_alike(rule: str) -> Claim:
    return Claim(
        f"With random growth {rule} explores as much as magnitude (within 0.02).",
        {"method": rule, "group": "random growth"},
        {"method": "magnitude", "group": "random growth"},
        kind="close",
        metric="exploration",
        margin=0.02,
    )


TABLES = (
    Table(
        "criteria_table2",
        "The number of parameters",
        PAPER,
        "Table 2",
        table2,
        metrics=("parameters",),
        seeds=1,
        proxy_seeds=1,
        axis="",
        note="In the paper sparse networks have a twentieth of all parameters, biases too, though none is pruned.",
        varies=CRITERIA,
    ),
    Table(
        "criteria_figure4_over_time",
        "Validation loss minus training loss over time, with dropout, large-MLP at density 0.5",
        PAPER,
        "Figure 4",
        figure4_over_time,
        metrics=("gap", "accuracy"),
        claims=(
            Claim(
                "Dynamic sparse training has a smaller gap than dense training with dropout.",
                {"method": "magnitude"},
                {"method": "dense with dropout"},
                kind="below",
                metric="gap",
            ),
            Claim(
                "Dropout has a smaller gap than none.",
                {"method": "dense with dropout"},
                {"method": "dense"},
                kind="below",
                metric="gap",
            ),
        ),
        seeds=5,
        curve="gap",
        note="Dropout of 0.05 after each hidden layer; the paper does not say where.",
        varies={**CRITERIA, "model.name": "dropout"},
    ),
    Table(
        "criteria_figure6_dense",
        "Overlap of what the criteria drop first of a dense network",
        PAPER,
        "Figure 6a",
        figure6_dense,
        metrics=(*JACCARD, "chance"),
        claims=(
            _more_alike(
                "From a dense network, magnitude and SET drop more of the same weights than magnitude and SNIP.",
                "magnitude, SET",
                "magnitude, SNIP",
                method="first drop",
            ),
        ),
        seeds=5,
        axis="",
        note="Table 3 of the paper says density 1.0 for Figure 6a.",
        varies={**CRITERIA, "drop_schedule": "of the first drop alone, which is measured once"},
    ),
    Table(
        "criteria_figure11_criteria",
        "Exploration rate of each criterion by the update period, large-MLP at density 0.1",
        PAPER,
        "Figure 11 by criterion",
        figure11_criteria,
        metrics=("exploration", "accuracy"),
        claims=(
            *(_explores_alike(rule) for rule in ("SET", "MEST", "SNIP", "RSensitivity")),
            Claim(
                "With gradient growth and a short period magnitude explores more than SNIP.",
                {"method": "magnitude", "group": "gradient growth", "x": (10, 25)},
                {"method": "SNIP", "group": "gradient growth", "x": (10, 25)},
                metric="exploration",
            ),
        ),
        seeds=5,
        axis="update period (steps)",
        varies={**CRITERIA, "update_period": "the axis of the figure"},
    ),
    Table(
        "criteria_figure16_factor",
        "The decay of the drop fraction by 0.99 each 600 steps, by the update period",
        PAPER,
        "Figure 16a",
        figure16_factor,
        metrics=("validation accuracy", "accuracy"),
        claims=(
            Claim(
                "The decay by a factor is like the cosine (within one point).",
                {"group": "factor 0.99"},
                {"group": "cosine"},
                kind="close",
                metric="validation accuracy",
                margin=1.0,
            ),
        ),
        seeds=5,
        axis="update period (steps)",
        varies={**CRITERIA, "update_period": "the axis of the figure", "drop_schedule": "the schedules"},
    ),
    Table(
        "criteria_figure17",
        "Overlap of what the criteria drop first, by the share that is dropped",
        PAPER,
        "Figure 17",
        figure17,
        metrics=(*JACCARD, "chance"),
        claims=(
            _more_alike(
                "Whatever is dropped, magnitude and SET agree more than magnitude and SNIP.",
                "magnitude, SET",
                "magnitude, SNIP",
                method="first drop",
            ),
            Claim(
                "The less is dropped, the less magnitude and SNIP agree.",
                {"method": "first drop"},
                kind="rising",
                metric="J(magnitude, SNIP)",
            ),
        ),
        seeds=5,
        axis="share that is dropped",
        varies={
            **CRITERIA,
            "drop_fraction": "the axis of the figure",
            "drop_schedule": "of the first drop alone, which is measured once",
        },
    ),
    Table(
        "criteria_figure18",
        "Overlap of what the criteria drop over time",
        PAPER,
        "Figure 18",
        figure18,
        metrics=(*JACCARD, *OTHER_WAY),
        claims=(
            _more_alike(
                "Through training magnitude and SET agree more than magnitude and SNIP.",
                "magnitude, SET",
                "magnitude, SNIP",
                method="magnitude",
            ),
            _more_alike(
                "Through training magnitude and MEST agree more than magnitude and SNIP.",
                "magnitude, MEST",
                "magnitude, SNIP",
                method="magnitude",
            ),
        ),
        seeds=5,
        curve="J(magnitude, SNIP)",
        note="Each cell is trained by one criterion; the others say what they would drop of the same network.",
        varies=CRITERIA,
    ),
)

"""IEE, Figure 1 left: accuracy against the operations of training."""

import dataclasses

from experiments.reproduce.cells import Cell
from experiments.reproduce.claims import Claim
from experiments.reproduce.papers.iee import PAPER, table2
from experiments.reproduce.papers.table import Table

ADDED = ("SNFS [ERK]", "Top-KAST [ERK]", "IEE x0.8 [ERK]")  # to the proxy of Table 2
STEPS, PERIOD = 960, 20  # of a proxy with four fifths of the steps; of a method whose updates have a period


def cells(proxy: bool) -> list[Cell]:
    """The cells of Table 2; as a proxy with the rows besides that the claims need."""
    if not proxy:
        return table2(False)
    return [*table2(True), *(_small(c) for c in table2(False) if c.method in ADDED and c.sparsity == 0.9)]


def _small(cell: Cell) -> Cell:
    changes = {name: value for name, value in cell.changes.items() if name != "epochs"}
    if cell.epochs == "80":
        changes["steps"] = STEPS
    if changes.get("update_period", 1) > 1:
        changes["update_period"] = PERIOD
    return dataclasses.replace(cell, changes=changes)


ITSELF = {"method": "IEE [ERK]"}

TABLES = (
    Table(
        "iee_figure1",
        "Accuracy against training and inference operations, unstructured, ResNet-50 on ImageNet",
        PAPER,
        "Figure 1 left",
        cells,
        metrics=("accuracy", "training share", "inference GFLOPs"),
        claims=(
            Claim(
                "IEE costs less to train than Top-KAST.",
                ITSELF,
                {"method": "Top-KAST [ERK]"},
                kind="below",
                metric="training share",
            ),
            Claim(
                "IEE costs less to train than SNFS.",
                ITSELF,
                {"method": "SNFS [ERK]"},
                kind="below",
                metric="training share",
            ),
            Claim(
                "With four fifths of the epochs IEE is more accurate than RigL with all.",
                {"method": "IEE x0.8 [ERK]"},
                {"method": "RigL [ERK]", "epochs": "100"},
            ),
            Claim("IEE is more accurate than SNFS, which costs more.", ITSELF, {"method": "SNFS [ERK]"}),
        ),
        seeds=2,
        against="training share",
        note="The right of the figure is structured and needs frames a second of one GPU.",
        varies={
            "sparsity": "the columns of Table 2",
            "distribution": "uniform and ERK densities",
            "scope": "non-uniform: one ranking over all layers",
            **dict.fromkeys(("epochs", "steps"), "the rows of other lengths"),
        },
    ),
)

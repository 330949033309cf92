"""Regrowing strategies: the percentages of its text."""

from experiments.reproduce import derived
from experiments.reproduce.cells import Cell
from experiments.reproduce.claims import Claim
from experiments.reproduce.papers.regrowing import CONFIG, OF, PAPER, table2
from experiments.reproduce.papers.table import Table


def cells(proxy: bool) -> list[Cell]:
    """The cells of Table 2, and a dense network."""
    return [*table2(proxy), Cell(CONFIG, "dense MLP", {"method": "dense"}, **OF, epochs="1000")]


TABLES = (
    Table(
        "regrowing_text",
        "How many connections are saved",
        PAPER,
        "text",
        cells,
        metrics=("connections", "fewer than SET", "fewer than dense"),
        claims=(
            Claim(
                "DynSET by the validation accuracy saves the most connections: more than by the loss.",
                {"method": "DynSET_3"},
                {"method": "DynSET"},
                metric="fewer than SET",
            ),
            Claim(
                "DynSET by the validation accuracy saves as many as AccSET (within two percent).",
                {"method": "DynSET_3"},
                {"method": "AccSET"},
                kind="close",
                metric="fewer than SET",
                margin=2.0,
            ),
        ),
        seeds=1,
        note="In percent of the connections of SET, and of dense training.",
        derive=derived.fewer({"fewer than SET": "SET", "fewer than dense": "dense MLP"}),
        varies={"method": "dense training", "epochs": "that of Table 2"},
    ),
)

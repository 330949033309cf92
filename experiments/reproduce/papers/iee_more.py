"""IEE, Figure 1 left: accuracy against the operations of training."""

from experiments.reproduce.claims import Claim
from experiments.reproduce.papers.iee import PAPER, table2
from experiments.reproduce.papers.table import Table

ITSELF = {"method": "IEE [ERK]"}

TABLES = (
    Table(
        "iee_figure1",
        "Accuracy against training and inference operations, unstructured, ResNet-50 on ImageNet",
        PAPER,
        "Figure 1 left",
        table2,
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
            "epochs": "the rows of other lengths",
        },
    ),
)

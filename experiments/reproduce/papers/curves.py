"""The pruning criteria's study: validation accuracy over training for each pair (Figures 23 to 30)."""

from experiments.reproduce.cells import Cell
from experiments.reproduce.claims import Claim
from experiments.reproduce.papers.criteria import PAPER
from experiments.reproduce.papers.criteria_cells import PAIRS, SPARSE, criteria
from experiments.reproduce.papers.table import Table

FIGURES = {
    23: "LeNet-5-Caffe",
    24: "small-MLP",
    25: "small-CNN",
    26: "ResNet-56",
    27: "ResNet-56 (100)",
    28: "large-MLP",
    29: "EfficientNet-B0",
    30: "VGG-16",
}
DENSITIES = (0.05, 0.1, 0.2, 0.5)  # the text does not list them


def cells(model: str, proxy: bool) -> list[Cell]:
    """Every criterion at some densities; those of Figure 1 are run once."""
    if proxy:
        return criteria(model, (0.05,), ("gradient",), ("magnitude", "SNIP", "RSensitivity"))
    return criteria(model, DENSITIES, rules=SPARSE)


def _unsteady(rule: str) -> Claim:
    return Claim(
        f"{rule} is less steady than magnitude.", {"method": rule}, {"method": "magnitude"}, metric="unsteadiness"
    )


def _table(number: int, model: str) -> Table:
    name = model.partition(" (")[0]
    return Table(
        f"criteria_figure{number}",
        f"Validation accuracy over training, {name} on {PAIRS[model][1]}",
        PAPER,
        f"Figure {number}",
        lambda proxy: cells(model, proxy),
        metrics=("validation accuracy", "best validation accuracy", "unsteadiness"),
        claims=(_unsteady("SNIP"), _unsteady("RSensitivity")),
        seeds=5,
        proxy_seeds=5,
        curve="validation accuracy",
        note="Steadiness is the mean change from one evaluation to the next, which the paper leaves to the eye.",
        varies={"drop": "the criteria", "grow": "random and gradient growth", "sparsity": "the panels of the figure"},
    )


TABLES = tuple(_table(number, model) for number, model in FIGURES.items())

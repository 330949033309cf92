"""Scholte, "Regrowing strategies for dynamic sparse training", 2022."""

from typing import Any

from experiments.reproduce.cells import Cell
from experiments.reproduce.claims import Claim
from experiments.reproduce.papers.table import Table

PAPER = "Regrowing strategies"
CONFIG = "regrowing_set_mlp_cifar10"
OF: dict[str, Any] = {"model": "SET-MLP 3072-4000-1000-4000-10", "dataset": "CIFAR-10"}
# What the paper reports comes before the removal of the last epoch.
REPORTED = {"last_drops": False}
RULES: dict[str, tuple[str | None, dict[str, Any]]] = {
    "SET": (None, {}),
    "AccSET": ("accset", {}),
    "LSET": ("lset", {}),
    "DynSET": ("dynset", {}),
    "DynSET_2": ("dynset", {"performance": "validation_loss"}),
    "DynSET_3": ("dynset", {"performance": "accuracy"}),
}
ADDITIONS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "SET, random": (None, {}),
    "AccSET, random": ("accset", {}),
    "AccSET, one neighbour": ("accset", {"grow": "one_neighbour"}),
    "AccSET, most neighbours": ("accset", {"grow": "most_neighbours"}),
}


def table2(proxy: bool) -> list[Cell]:
    """How many connections are grown back."""
    del proxy
    return [_row(method, *rule, epochs="1000") for method, rule in RULES.items()]


def figures23(proxy: bool) -> list[Cell]:
    """Which connections are grown back."""
    shorter = {} if proxy else {"epochs": 100.0}
    return [_row(method, recipe, changes | shorter) for method, (recipe, changes) in ADDITIONS.items()]


def _row(method: str, recipe: str | None, changes: dict[str, Any], epochs: str = "") -> Cell:
    return Cell(CONFIG, method, changes | (REPORTED if recipe else {}), **OF, epochs=epochs, recipe=recipe)


def _no_gain(rule: str, metric: str) -> Claim:
    left, right = {"method": f"AccSET, {rule}"}, {"method": "AccSET, random"}
    if metric == "accuracy":
        return Claim(
            f"Growing next to {rule} gains nothing over random (half a point).", left, right, kind="no gain", margin=0.5
        )
    return Claim(
        f"Growing next to {rule} does not lower the loss (by 0.02).",
        right,
        left,
        kind="no gain",
        metric=metric,
        margin=0.02,
    )


SET_BEST = Claim("SET is the most accurate (here against AccSET).", {"method": "SET"}, {"method": "AccSET"})
BEST = tuple(
    Claim(f"SET is more accurate than {other}.", {"method": "SET"}, {"method": other})
    for other in ("LSET", "DynSET", "DynSET_2", "DynSET_3")
)
PERFORMANCE = (
    SET_BEST,
    *BEST,
    Claim(
        "DynSET by the validation accuracy is more accurate than AccSET.", {"method": "DynSET_3"}, {"method": "AccSET"}
    ),
    Claim("DynSET by the loss is more accurate than AccSET.", {"method": "DynSET"}, {"method": "AccSET"}),
    Claim("DynSET is more accurate than LSET, which makes no pauses.", {"method": "DynSET"}, {"method": "LSET"}),
    Claim(
        "DynSET has fewer connections than SET.",
        {"method": "DynSET"},
        {"method": "SET"},
        kind="below",
        metric="connections",
    ),
    Claim(
        "By the validation accuracy there are fewer still.",
        {"method": "DynSET_3"},
        {"method": "DynSET"},
        kind="below",
        metric="connections",
    ),
    Claim(
        "Each connection yields more accuracy with AccSET than with SET.",
        {"method": "AccSET"},
        {"method": "SET"},
        metric="alpha",
    ),
)
ACCURACY = tuple(c for c in PERFORMANCE if c.metric == "accuracy")
CONNECTIONS = tuple(c for c in PERFORMANCE if c.metric == "connections")
NOTE = (
    "The validation samples of the paper's code are its test samples, under the protocol 'set'; a proxy has its own. "
    "Connections, alpha and beta are counted after additions, as in the paper: the removal after the last epoch, which "
    "adds nothing, comes after them and is left out. SET's code makes its optimiser anew after each epoch; here only "
    "the momentum of grown weights starts anew."
)
VARIES = {
    "epochs": "the figures of 100 epochs",
    "grow": "which connections are grown back",
}
ADDITION_NOTE = "Neighbours are the eight around a weight; hidden units have no order, so only pixels have real ones."

TABLES = (
    Table(
        "regrowing_table2",
        "SET and its adaptive variants on CIFAR-10",
        PAPER,
        "Table 2",
        table2,
        metrics=("accuracy", "loss", "connections", "alpha", "beta"),
        claims=PERFORMANCE,
        seeds=1,
        note=NOTE,
        varies=VARIES,
    ),
    Table(
        "regrowing_figure2",
        "Accuracy of various additions (100 epochs)",
        PAPER,
        "Figure 2",
        figures23,
        metrics=("accuracy", "connections"),
        claims=(_no_gain("one neighbour", "accuracy"), _no_gain("most neighbours", "accuracy")),
        seeds=1,
        curve="validation accuracy",
        note=ADDITION_NOTE,
        varies=VARIES,
    ),
    Table(
        "regrowing_figure3",
        "Loss of various additions (100 epochs)",
        PAPER,
        "Figure 3",
        figures23,
        metrics=("loss", "training loss"),
        claims=(_no_gain("one neighbour", "loss"), _no_gain("most neighbours", "loss")),
        seeds=1,
        curve="training loss",
        note=ADDITION_NOTE,
        varies=VARIES,
    ),
    Table(
        "regrowing_figure4",
        "Accuracy of SET and its adaptive variants (1000 epochs)",
        PAPER,
        "Figure 4",
        table2,
        claims=ACCURACY,
        seeds=1,
        zoom="validation accuracy",
        curve="validation accuracy",
        note=NOTE,
        varies=VARIES,
    ),
    Table(
        "regrowing_figure5",
        "Loss of SET and its adaptive variants (1000 epochs)",
        PAPER,
        "Figure 5",
        table2,
        metrics=("loss", "training loss"),
        claims=(
            Claim(
                "SET has a lower loss than AccSET.",
                {"method": "SET"},
                {"method": "AccSET"},
                kind="below",
                metric="loss",
            ),
        ),
        seeds=1,
        curve="training loss",
        zoom="training loss",
        note=NOTE,
        varies=VARIES,
    ),
    Table(
        "regrowing_figure6",
        "Connections of SET and its adaptive variants (1000 epochs)",
        PAPER,
        "Figure 6",
        table2,
        metrics=("connections",),
        claims=CONNECTIONS,
        seeds=1,
        zoom="connections",
        curve="connections",
        note=NOTE,
        varies=VARIES,
    ),
)

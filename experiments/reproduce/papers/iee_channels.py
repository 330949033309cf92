"""IEE, Table 1, Figure 1 right and Figure 3: channels under a budget."""

from collections.abc import Callable
from typing import Any

from experiments.reproduce.cells import Cell
from experiments.reproduce.claims import Claim
from experiments.reproduce.papers.iee import PAPER
from experiments.reproduce.papers.table import Table

BUDGETS = {0.55: "55%", 0.3: "30%"}
EPOCHS = {"Dense": 90, "HALP": 90, "IEE": 130, "Random": 130}  # of each training
STEPS = 3  # of a proxy, for an epoch


def _cell(config: str, model: str, row: str, budget: float, proxy: bool) -> Cell:
    epochs, name = EPOCHS[row], BUDGETS.get(budget, "")
    changes: dict[str, Any] = {"steps": STEPS * epochs} if proxy else {"epochs": float(epochs)}
    if row == "Dense":
        changes |= {"method": "dense"}
    else:
        changes |= {"structure": f"channels(budget={budget}, costs='flops')"}
    label = {
        "HALP": f"HALP-{name} [pretrained]",
        "IEE": f"IEE-{name} [scratch]",
        "Random": f"random channels, {name}",
    }.get(row, row)
    if row == "Random":
        changes |= {"sparsity": round(1 - budget, 2), "distribution": "uniform"}
    return Cell(
        config,
        label,
        changes,
        model=model,
        dataset="ImageNet",
        sparsity=round(1 - budget, 2),
        epochs=f"{epochs}+{epochs}" if row == "HALP" else str(epochs),
        times=epochs / EPOCHS["Dense"],
        recipe={"HALP": "halp", "Random": "static"}.get(row),
    )


def _cells(config: str, model: str, proxy: bool) -> list[Cell]:
    rows = [_cell(config, model, "Dense", 1.0, proxy)]
    return rows + [_cell(config, model, row, b, proxy) for b in BUDGETS for row in ("HALP", "IEE", "Random")]


def table1(proxy: bool) -> list[Cell]:
    """ResNet-50."""
    return _cells("iee_channels_imagenet", "ResNet-50", proxy)


def figure3(proxy: bool) -> list[Cell]:
    """MobileNet-V1."""
    return _cells("iee_channels_mobilenet", "MobileNet-V1", proxy)


def _against(other: str, budget: float) -> tuple[dict[str, Any], dict[str, Any]]:
    name, sparsity = BUDGETS[budget], round(1 - budget, 2)
    right = {"HALP": f"HALP-{name} [pretrained]", "random": f"random channels, {name}"}[other]
    return {"method": f"IEE-{name} [scratch]", "sparsity": sparsity}, {"method": right, "sparsity": sparsity}


CLAIMS = (
    Claim(
        "At 55 %, IEE from scratch is as accurate as HALP on a trained network (half a point).",
        *_against("HALP", 0.55),
        kind="no worse",
        margin=0.5,
    ),
    Claim("At 30 %, IEE from scratch is more accurate than HALP on a trained network.", *_against("HALP", 0.3)),
    *(
        Claim(
            f"At {BUDGETS[b][:-1]} %, IEE from scratch costs less to train than HALP.",
            *_against("HALP", b),
            kind="below",
            metric="training share",
        )
        for b in BUDGETS
    ),
    *(
        Claim(
            f"At {BUDGETS[b][:-1]} %, IEE is more accurate than random channels (not in the paper).",
            *_against("random", b),
        )
        for b in BUDGETS
    ),
)
VARIES = {
    "structure": "the budget, which the names of the rows say",
    "sparsity": "random channels: what the budget leaves out",
    "distribution": "random channels: the same share of each layer",
    "epochs": "IEE trains for 130, HALP for 90 twice, dense for 90",
    "steps": "the same in a proxy: three for an epoch",
}
NOTE = (
    "The budget is one of operations: the paper has one of latency, from a table of a TITAN V that is not printed. "
    "With a table of the machine at hand (experiments.latency_table) it is one of latency here too, and "
    "experiments.compact measures images a second. Rows that go on from a trained network with IEE, and those of other "
    "papers, are left out. The proxy changes its masks in the first quarter of training, so that there are six cycles."
)


def _table(name: str, title: str, printed: str, cells: Callable[[bool], list[Cell]], **other: Any) -> Table:
    return Table(
        name,
        title,
        PAPER,
        printed,
        cells,
        metrics=("accuracy", "inference GMACs", "training share"),
        seeds=2,
        proxy_seeds=8,
        note=NOTE,
        varies=VARIES,
        **other,
    )


TABLES = (
    _table("iee_table1", "Channels of ResNet-50 on ImageNet under a budget", "Table 1", table1, claims=CLAIMS),
    _table(
        "iee_figure1_right",
        "Accuracy against training operations, channels of ResNet-50 on ImageNet",
        "Figure 1 right",
        table1,
        claims=CLAIMS[2:4],
        against="training share",
    ),
    _table(
        "iee_figure3",
        "Accuracy against operations, channels of MobileNet-V1 on ImageNet under a budget",
        "Figure 3",
        figure3,
        claims=CLAIMS,
        against="inference GMACs",
    ),
)

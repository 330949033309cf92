"""IEE: Sun et al., "Advancing weight and channel sparsification with enhanced saliency", WACV 2025."""

from typing import Any

from experiments.reproduce.cells import Cell
from experiments.reproduce.claims import Claim
from experiments.reproduce.papers.table import Table

PAPER = "IEE"
UNIFORM = {"distribution": "uniform"}
# Rows of Table 2: the recipe, the changes and the epochs.
IMAGENET: dict[str, tuple[str | None, dict[str, Any], int]] = {
    "Static [uniform]": ("static", UNIFORM, 100),
    "SNIP [uniform]": ("snip", UNIFORM, 100),
    "SET [uniform]": ("set", UNIFORM, 100),
    "RigL [uniform]": ("rigl", UNIFORM, 100),
    "IEE [uniform]": (None, UNIFORM, 100),
    "Static [ERK]": ("static", {}, 100),
    "RigL [ERK]": ("rigl", {}, 100),
    "SNFS [ERK]": ("snfs", {}, 100),
    "DCIL [ERK]": ("dcil", {}, 100),
    "Top-KAST [ERK]": ("top_kast", {}, 100),
    "IEE x0.8 [ERK]": (None, {}, 80),
    "IEE [ERK]": (None, {}, 100),
    "IEE x2 [ERK]": (None, {}, 200),
    "RigL [ERK] x5": ("rigl", {}, 500),
    "IEE x5 [ERK]": (None, {}, 500),
    "MEST [non-uniform]": ("mest", {"scope": "global"}, 100),
    "DSR [non-uniform]": ("dsr", {}, 100),
    "ITOP [non-uniform]": ("itop", {}, 100),
    "GraNet (initial sparsity 0.5) [non-uniform]": ("granet", {}, 100),
    "IEE uniform-init [non-uniform]": (None, {**UNIFORM, "scope": "global"}, 100),
    "IEE ERK-init [non-uniform]": (None, {"scope": "global"}, 100),
}
PROXIED = ("Static [ERK]", "RigL [uniform]", "IEE [uniform]", "RigL [ERK]", "IEE [ERK]", "IEE ERK-init [non-uniform]")
WRN: dict[str, tuple[str | None, int]] = {
    "Pruning": ("gmp", 250),
    "Static": ("static", 250),
    "RigL": ("rigl, CIFAR", 250),
    "IEE": (None, 250),
    "Static x2": ("static", 500),
    "RigL x2": ("rigl, CIFAR", 500),
    "IEE x2": (None, 500),
}
SPARSITIES = {"sparsity": "the columns of the table"}
STAGES = (
    (100, 100, 100),
    (150, 150, 150),
    (200, 200, 200),
    (100, 100, 150),
    (150, 150, 100),
    (200, 200, 150),
    (100, 1, 1),
)


def table2(proxy: bool) -> list[Cell]:
    """ImageNet."""
    config = "iee_resnet50_imagenet"
    of: dict[str, Any] = {"model": "ResNet-50", "dataset": "ImageNet"}
    cells = [Cell(config, "Dense", {"method": "dense"}, **of, sparsity=0.0)]
    for s in (0.9,) if proxy else (0.8, 0.9):
        for method, (recipe, changes, epochs) in IMAGENET.items():
            if proxy and method not in PROXIED:
                continue
            changes = {**changes, "sparsity": s, **({} if proxy else {"epochs": float(epochs)})}
            label, times = method.removesuffix(" x5"), 1.0 if proxy else epochs / 100
            row = Cell(config, label, changes, **of, sparsity=s, epochs=str(epochs), times=times, recipe=recipe)
            cells.append(row)
    return cells


def table3(proxy: bool) -> list[Cell]:
    """WideResNet-22-2 on CIFAR-10."""
    config = "iee_wrn22_cifar10"
    of: dict[str, Any] = {"model": "WideResNet-22-2", "dataset": "CIFAR-10"}
    cells = [Cell(config, "Dense", {"method": "dense"}, **of, sparsity=0.0)]
    for s in (0.9,) if proxy else (0.8, 0.9):
        for method, (recipe, epochs) in WRN.items():
            if proxy and method not in ("Static", "RigL", "IEE"):
                continue
            changes = {"sparsity": s, **({} if proxy else {"epochs": float(epochs)})}
            label = method if method.startswith("IEE") else method.removesuffix(" x2")
            cells.append(Cell(config, label, changes, **of, sparsity=s, epochs=str(epochs), recipe=recipe))
    return cells


def table4(proxy: bool) -> list[Cell]:
    """The ablations."""
    config = "iee_ablations_imagenet"
    of: dict[str, Any] = {"model": "ResNet-50", "dataset": "ImageNet", "sparsity": 0.9}

    def row(stages: tuple[int, ...], changes: dict[str, Any], **named: str) -> Cell:
        grow, start, freeze = ({"grow": "Magnitude", "start": "MRU", "freeze": "yes"} | named).values()
        improve = "yes" if stages[1] else "no"
        # A stage has at least one step here: without improvement there is one.
        own = tuple(max(s if s < 2 or not proxy else round(s / 15), 1) for s in stages)
        label = f"IEE grow {grow}, from {start}, freeze {freeze}, improve {improve}, stages {stages}"
        label = label.replace("(", "").replace(")", "").replace("1, ", "1,").replace("0, ", "0,")
        return Cell(config, label, {**changes, "stages": own, "update_period": sum(own)}, **of)

    usual = (150, 150, 150)
    return [
        *(row(stages, {}) for stages in STAGES),
        row(usual, {"freeze": False}, freeze="no"),
        row((150, 0, 150), {}),
        row(usual, {"grown_from": "zero"}, start="ZeroInit"),
        row(usual, {"growth": "random"}, grow="Random"),
        # Not in the paper: other readings of its words.
        row(usual, {"explore_from": "zero"}, start="zero at each prune"),
        row(usual, {"drop_fraction": 0.003}, start="MRU, budget of 0.3 %"),
    ]


def table5(proxy: bool) -> list[Cell]:
    """Two of four weights along the inputs."""
    of: dict[str, Any] = {"model": "ResNet-50", "dataset": "ImageNet", "sparsity": 0.5}
    rows = {"ASP": "asp", "STE": "ste", "SR-STE": "sr_ste", "SRigL": "rigl", "IEE": None}
    return [Cell("iee_n_m_imagenet", method, {}, **of, recipe=recipe) for method, recipe in rows.items()]


def figure5(proxy: bool) -> list[Cell]:
    """Convergence of the masks, survival."""
    config = "iee_ablations_imagenet"
    of: dict[str, Any] = {"model": "ResNet-50", "dataset": "ImageNet", "sparsity": 0.9, "probe": "stability"}
    del proxy
    return [
        Cell(config, "IEE", {}, **of),
        Cell(config, "IEE, constant budget", {"drop_schedule": "constant"}, **of),
        Cell(config, "RigL", {}, **of, recipe="rigl, as often as IEE"),
    ]


def _ablation(text: str, other: Cell) -> Claim:
    usual = table4(False)[1]
    return Claim(text, {"method": usual.method}, {"method": other.method})


ABLATIONS = (
    _ablation("Freezing the active weights while others are explored helps.", table4(False)[7]),
    _ablation("The stage of accuracy improvement helps.", table4(False)[8]),
    _ablation("Starting from most recent values helps, compared with zero.", table4(False)[9]),
    _ablation("Stages of 150 steps are better than of 100.", table4(False)[0]),
    _ablation("Stages of 150 steps are better than of 200.", table4(False)[2]),
    _ablation("Equal stages are better than a longer exploration.", table4(False)[3]),
    _ablation("Equal stages are better than a shorter exploration.", table4(False)[4]),
    Claim("Random growth diverges.", {"method": table4(False)[10].method}, kind="diverges"),
    _ablation("Long stages help, compared with 100, 1 and 1 steps.", table4(False)[6]),
    _ablation("Growing by importance helps, compared with random growth.", table4(False)[10]),
    _ablation("Most recent values help, compared with zeros at each prune (our other reading).", table4(False)[11]),
    _ablation("A first budget of 30 % is better than one of 0.3 %, as printed (our reading).", table4(False)[12]),
)

TABLES = (
    Table(
        "iee_table2",
        "ResNet-50 on ImageNet, unstructured",
        PAPER,
        "Table 2",
        table2,
        metrics=("accuracy", "inference share", "inference GFLOPs", "training share"),
        claims=(
            *(
                Claim(f"IEE is more accurate than {other}.", {"method": "IEE [ERK]"}, {"method": other})
                for other in ("SNFS [ERK]", "DCIL [ERK]", "Top-KAST [ERK]")
            ),
            *(
                Claim(
                    f"IEE is more accurate than {other}.",
                    {"method": "IEE ERK-init [non-uniform]"},
                    {"method": f"{other} [non-uniform]"},
                )
                for other in ("DSR", "ITOP", "GraNet (initial sparsity 0.5)")
            ),
            Claim(
                "IEE is more accurate than MEST.",
                {"method": "IEE uniform-init [non-uniform]"},
                {"method": "MEST [non-uniform]"},
            ),
            Claim("IEE gains from twice the epochs.", {"method": "IEE x2 [ERK]"}, {"method": "IEE [ERK]"}),
            Claim(
                "With five times the epochs IEE at 80 % is more accurate than dense.",
                {"method": "IEE x5 [ERK]", "sparsity": 0.8},
                {"method": "Dense"},
            ),
            Claim(
                "IEE is more accurate than RigL, ERK densities.",
                {"method": "IEE [ERK]"},
                {"method": "RigL [ERK]", "epochs": "100"},
            ),
            Claim(
                "IEE is more accurate than RigL, uniform densities.",
                {"method": "IEE [uniform]"},
                {"method": "RigL [uniform]"},
            ),
            Claim(
                "Ranking all layers together helps IEE.",
                {"method": "IEE ERK-init [non-uniform]"},
                {"method": "IEE [ERK]"},
            ),
            Claim(
                "RigL is more accurate than a static mask.",
                {"method": "RigL [ERK]", "epochs": "100"},
                {"method": "Static [ERK]"},
            ),
        ),
        seeds=2,
        proxy_seeds=3,
        note="IP-FT is not in the catalogue. MEST is without data sieving and layer freezing. The rows of other papers "
        "have the schedules of those papers (RigL every 400 steps at this batch, ITOP and GraNet every 500: as many "
        "samples as there) and the optimiser of this one.",
        varies={
            **SPARSITIES,
            "distribution": "the first word in brackets",
            "scope": "non-uniform: one ranking over all layers",
            "epochs": "the rows of other lengths",
        },
    ),
    Table(
        "iee_table3",
        "WideResNet-22-2 on CIFAR-10",
        PAPER,
        "Table 3",
        table3,
        metrics=("accuracy", "inference GFLOPs"),
        claims=(
            Claim("IEE gains from twice the epochs.", {"method": "IEE x2"}, {"method": "IEE"}),
            Claim(
                "At 80 %, IEE with 500 epochs loses almost nothing to dense (half a point).",
                {"method": "IEE x2", "sparsity": 0.8},
                {"method": "Dense"},
                kind="no worse",
                margin=0.5,
            ),
            Claim("IEE is more accurate than RigL.", {"method": "IEE"}, {"method": "RigL", "epochs": "250"}),
            Claim(
                "RigL is more accurate than a static mask.",
                {"method": "RigL", "epochs": "250"},
                {"method": "Static", "epochs": "250"},
            ),
            Claim(
                "At 90 %, IEE with 250 epochs is more accurate than RigL with 500.",
                {"method": "IEE", "sparsity": 0.9},
                {"method": "RigL", "epochs": "500", "sparsity": 0.9},
            ),
        ),
        proxy_seeds=3,
        note="The two columns of FLOPs seem swapped in print and are not compared. As in RigL's code: momentum of 0.9 "
        "without Nesterov, dropout of 0.3 in the blocks, and with 500 epochs the steps of the rate come at the same "
        "shares of the run.",
        varies={**SPARSITIES, "epochs": "the rows of twice the length"},
    ),
    Table(
        "iee_table4",
        "Ablations, ResNet-50 on ImageNet at 90 %",
        PAPER,
        "Table 4",
        table4,
        claims=ABLATIONS,
        seeds=2,
        proxy_seeds=5,
        note="ZeroInit starts grown weights at zero, as the paper says; a row besides sets all inactive weights to "
        "zero at each prune. The paper prints 0.3 % for the first budget, which hardly moves anything; we take 30 % "
        "of the active weights, and a row besides takes 0.3 %. Random growth diverged in the paper, which prints no "
        "number. Without accuracy improvement that stage has one step. The proxy is an MLP at 98 % with stages a "
        "fifteenth as long.",
        varies=dict.fromkeys(
            ("stages", "update_period", "freeze", "grown_from", "explore_from", "growth", "drop_fraction"),
            "what the ablation is about",
        ),
    ),
    Table(
        "iee_table5",
        "ResNet-50 on ImageNet, two of four weights",
        PAPER,
        "Table 5",
        table5,
        metrics=("accuracy", "training share"),
        claims=tuple(
            Claim(f"IEE is more accurate than {other}.", {"method": "IEE"}, {"method": other})
            for other in ("ASP", "STE", "SR-STE", "SRigL")
        ),
        seeds=2,
        proxy_seeds=3,
        note="SRigL is RigL with swaps inside the groups of four. The first convolution, with three input channels, "
        "stays dense. In SR-STE's code the last layer is dense as well; here it has two of four weights, in all rows. "
        "The paper prints no epochs; its share of training operations counts the backward pass as dense. ASP trains "
        "twice, each time with the whole schedule of the rate.",
    ),
    Table(
        "iee_figure5",
        "Convergence of the masks (IoU) and survival of what is grown",
        PAPER,
        "Figure 5",
        figure5,
        metrics=("accuracy", "first IoU", "final IoU", "survival"),
        claims=(
            Claim(
                "The masks of IEE converge: the IoU of successive cycles rises.",
                {"method": "IEE"},
                {"method": "IEE"},
                metric="final IoU",
                other="first IoU",
            ),
            Claim(
                "With a constant budget they converge too (not in the paper).",
                {"method": "IEE, constant budget"},
                {"method": "IEE, constant budget"},
                metric="final IoU",
                other="first IoU",
            ),
            Claim(
                "More of what IEE grows survives than of what RigL grows.",
                {"method": "IEE"},
                {"method": "RigL"},
                metric="survival",
            ),
        ),
        seeds=2,
        curve="IoU",
        note="What IEE grows is the largest of its pool, and it drops the smallest: high survival is nearly built in. "
        "So is the rise of the IoU, since the budget decays to a hundredth; a row with a constant budget tells how "
        "much of it is convergence. RigL updates as often as IEE grows. These cells are trained without checkpoints. "
        "The proxy is an MLP at 98 %.",
        varies={"drop_schedule": "the constant budget"},
    ),
)

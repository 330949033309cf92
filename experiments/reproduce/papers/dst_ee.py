"""DST-EE: Huang et al., "Dynamic sparse training via balancing the exploration-exploitation trade-off", 2023."""

from typing import Any

from experiments.reproduce.cells import Cell
from experiments.reproduce.claims import Claim
from experiments.reproduce.papers.table import Table

PAPER = "DST-EE"
# Rows of Table 1. All but DST-EE are quoted there from other papers; here they are run.
METHODS: dict[str, dict[str, Any]] = {
    **{
        label: {"method": label.lower()} for label in ("SNIP", "GraSP", "SynFlow", "STR", "SIS", "DeepR", "SET", "RigL")
    },
    "DST-EE": {},
}
UNIFORM = {
    "distribution": "uniform",
    "drop_fraction": 0.3,
    "drop_schedule": "cosine",
    "end_percent": 75.0,
    "rounding": "floor",
    "update_order": "skip",
}
IMAGENET: dict[str, dict[str, Any]] = {
    "SNIP": {"method": "snip", "distribution": "uniform"},
    "GraSP": {"method": "grasp", "distribution": "uniform", "epochs": 150.0},
    "DeepR": {"method": "deepr", "distribution": "uniform"},
    "SNFS": {"method": "snfs"},
    "DSR": {"method": "dsr"},
    "SET": {"method": "set", **UNIFORM},
    "RigL": {"method": "rigl", **UNIFORM},
    "MEST": {"method": "mest", **UNIFORM},
    "RigL-ITOP": {"method": "rigl"},  # the config's settings are those of ITOP
    "DST-EE": {},
}
COEFFICIENTS = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def table1(proxy: bool) -> list[Cell]:
    """CIFAR."""
    cells = []
    pairs = [
        (m, n, d, e)
        for m, n in (("vgg19", "VGG-19"), ("resnet50", "ResNet-50"))
        for d, e in (("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100"))
    ]
    for model, name, data, title in pairs[:1] + pairs[2:3] if proxy else pairs:
        config = f"dst_ee_{model}_{data}"
        of: dict[str, Any] = {"model": name, "dataset": title}
        methods: dict[str, dict[str, Any]] = METHODS
        sparsities: tuple[float, ...] = (0.9, 0.95, 0.98)
        if proxy:
            short = ("SNIP", "DeepR", "SET", "RigL", "DST-EE") if model == "vgg19" else ("RigL", "DST-EE")
            methods, sparsities = {m: METHODS[m] for m in short}, (0.9, 0.95)[: 2 if model == "vgg19" else 1]
        if not proxy or model == "vgg19":
            cells.append(Cell(config, "Dense", {"method": "dense"}, **of, sparsity=0.0, epochs="160"))
        for s in sparsities:
            cells += [
                Cell(config, method, {**changes, "sparsity": s}, **of, sparsity=s, epochs="160")
                for method, changes in methods.items()
            ]
            if not proxy or model == "vgg19":
                longer = {"steps": 1562} if proxy else {"epochs": 250.0}
                cells.append(Cell(config, "DST-EE", {"sparsity": s, **longer}, **of, sparsity=s, epochs="250"))
    return cells


def table2(proxy: bool) -> list[Cell]:
    """ImageNet."""
    config = "dst_ee_resnet50_imagenet"
    of: dict[str, Any] = {"model": "ResNet-50", "dataset": "ImageNet"}
    methods = {m: IMAGENET[m] for m in ("SET", "RigL", "RigL-ITOP", "DST-EE")} if proxy else IMAGENET
    cells = [Cell(config, "Dense", {"method": "dense"}, **of, sparsity=0.0)]
    for s in (0.8, 0.9):
        cells += [Cell(config, m, {**changes, "sparsity": s}, **of, sparsity=s) for m, changes in methods.items()]
    return cells


def links(dataset: str, title: str, epoch: int, proxy: bool) -> list[Cell]:
    """Link prediction; ``epoch``: steps in one."""
    config = "dst_ee_links_ia_email" if proxy else f"dst_ee_links_{dataset}"  # one proxy serves both graphs
    of: dict[str, Any] = {"model": "2-FC-layer link classifier", "dataset": title}
    if proxy:
        epoch = 16  # 800 steps stand for 50 epochs
    admm = {
        "method": "admm",
        "update_period": epoch,
        "start_step": 20 * epoch,
        "end_step": 40 * epoch,
        "optimizer.learning_rate": 0.05,
        "optimizer.momentum": 0.0,
        "optimizer.nesterov": False,
        "optimizer.schedule": "constant",
        "optimizer.weight_decay": 0.0,
        **({"steps": 60 * epoch} if proxy else {"epochs": 60.0}),
    }
    rows: dict[str, tuple[dict[str, Any], str]] = {
        "Prune-from-dense (ADMM)": (admm, "60"),
        "SET": ({"method": "set"}, "50"),
        "RigL": ({"method": "rigl"}, "50"),
        "DST-EE": ({}, "50"),
    }
    cells = [Cell(config, "Dense", {"method": "dense"}, **of, sparsity=0.0)]
    for s in (0.8, 0.9, 0.98):
        cells += [Cell(config, m, {**c, "sparsity": s}, **of, sparsity=s, epochs=e) for m, (c, e) in rows.items()]
    return cells


def figure3(proxy: bool) -> list[Cell]:
    """Exploration by the coefficient."""
    panels = (
        ("cifar100", "CIFAR-100", 0.95),
        ("cifar10", "CIFAR-10", 0.95),
        ("cifar10", "CIFAR-10", 0.98),
        ("cifar100", "CIFAR-100", 0.9),
    )
    values = (0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0) if proxy else COEFFICIENTS
    return [
        Cell(f"dst_ee_vgg19_{data}", "DST-EE", {"sparsity": s, "coefficient": c}, "VGG-19", title, s, x=c)
        for data, title, s in (panels[1:2] if proxy else panels)
        for c in values
    ]


BETTER = Claim("DST-EE is more accurate than RigL.", {"method": "DST-EE", "epochs": "160"}, {"method": "RigL"})
LINK_CLAIMS = (
    Claim(
        "DST-EE is more accurate than pruning from dense by ADMM.",
        {"method": "DST-EE"},
        {"method": "Prune-from-dense (ADMM)"},
    ),
    Claim(
        "DST-EE is more accurate than pruning from dense at 98 % sparsity, where most is at stake.",
        {"method": "DST-EE", "sparsity": 0.98},
        {"method": "Prune-from-dense (ADMM)", "sparsity": 0.98},
    ),
    Claim("DST-EE is more accurate than RigL (not in the paper).", {"method": "DST-EE"}, {"method": "RigL"}),
)
LINK_NOTE = (
    "The paper reports the best epoch on the test pairs, ours is the last one. SET and RigL are added: they tell what "
    "is owed to sparse training and what to its rule of growth."
)

TABLES = (
    Table(
        "dst_ee_table1",
        "VGG-19 and ResNet-50 on CIFAR-10 and CIFAR-100",
        PAPER,
        "Table 1",
        table1,
        metrics=("accuracy", "exploration"),
        claims=(
            BETTER,
            Claim("RigL is more accurate than SET.", {"method": "RigL"}, {"method": "SET"}),
            Claim("SET is more accurate than DeepR.", {"method": "SET"}, {"method": "DeepR"}),
            Claim(
                "With 250 epochs, DST-EE at 90 % loses nothing to dense (half a point at most).",
                {"method": "DST-EE", "sparsity": 0.9, "epochs": "250"},
                {"method": "Dense"},
                kind="no worse",
                margin=0.5,
            ),
            Claim(
                "DST-EE gains from 250 epochs in place of 160.",
                {"method": "DST-EE", "epochs": "250"},
                {"method": "DST-EE", "epochs": "160"},
            ),
        ),
        proxy_seeds=3,
        note="All rows share one schedule of the learning rate; the rows that the paper quotes had another one.",
    ),
    Table(
        "dst_ee_table2",
        "ResNet-50 on ImageNet",
        PAPER,
        "Table 2",
        table2,
        metrics=("accuracy", "inference share", "training share"),
        claims=(
            Claim("DST-EE is more accurate than RigL-ITOP.", {"method": "DST-EE"}, {"method": "RigL-ITOP"}),
            Claim("RigL-ITOP is more accurate than RigL.", {"method": "RigL-ITOP"}, {"method": "RigL"}),
            Claim("RigL is more accurate than SET.", {"method": "RigL"}, {"method": "SET"}),
        ),
        proxy_seeds=3,
        note="The training share that the paper prints for DST-EE is that of uniform densities, its inference share "
        "that of ERK; ours are both of the densities that the runs had.",
    ),
    Table(
        "dst_ee_table3",
        "Link prediction on wiki-talk",
        PAPER,
        "Table 3",
        lambda proxy: links("wiki_talk", "wiki-talk", 9179, proxy),
        claims=LINK_CLAIMS,
        note=LINK_NOTE,
    ),
    Table(
        "dst_ee_table4",
        "Link prediction on ia-email",
        PAPER,
        "Table 4",
        lambda proxy: links("ia_email", "ia-email", 1345, proxy),
        claims=(
            *LINK_CLAIMS,
            Claim(
                "At 80 % sparsity DST-EE is more accurate than dense.",
                {"method": "DST-EE", "sparsity": 0.8},
                {"method": "Dense"},
            ),
        ),
        note=LINK_NOTE,
    ),
    Table(
        "dst_ee_figure3",
        "Exploration degree and accuracy by the coefficient c, VGG-19",
        PAPER,
        "Figure 3",
        figure3,
        metrics=("accuracy", "exploration"),
        claims=(
            Claim("The exploration rate rises with c.", {"method": "DST-EE"}, kind="rising", metric="exploration"),
            Claim("The accuracy rises with c.", {"method": "DST-EE"}, kind="rising"),
        ),
        axis="coefficient c",
        curve="exploration",
        note="The paper prints no values of c; c = 0 is RigL.",
    ),
)

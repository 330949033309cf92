"""The cells of the pruning criteria's study, see :mod:`experiments.reproduce.papers.criteria`."""

from collections.abc import Iterable
from typing import Any

from experiments.reproduce.cells import Cell
from experiments.reproduce.criteria import DROPS

PAIRS = {
    "small-MLP": ("criteria_small_mlp_higgs", "Higgs"),
    "large-MLP": ("criteria_large_mlp_cifar10", "CIFAR-10"),
    "small-CNN": ("criteria_small_cnn_cifar10", "CIFAR-10"),
    "LeNet-5-Caffe": ("criteria_lenet5_fashion_mnist", "Fashion-MNIST"),
    "ResNet-56": ("criteria_resnet56_cifar10", "CIFAR-10"),
    "ResNet-56 (100)": ("criteria_resnet56_cifar100", "CIFAR-100"),
    "VGG-16": ("criteria_vgg16_cifar100", "CIFAR-100"),
    "EfficientNet-B0": ("criteria_efficientnet_tiny_imagenet", "Tiny-ImageNet"),
}
DENSITIES = (0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
GROWTHS = ("random", "gradient")
PERIODS = tuple(25 * 2**k for k in range(9))
SPARSE = tuple(DROPS)
RULES = {**DROPS, "Sensitivity": "sensitivity"}
STATIC = {"method": "static"}
DENSE = {"method": "dense"}


def of_pair(model: str) -> dict[str, Any]:
    """Config, network and data of a pair."""
    config, dataset = PAIRS[model]
    return {"config": config, "model": model.partition(" (")[0], "dataset": dataset}


def criteria(
    model: str,
    densities: Iterable[float],
    growths: Iterable[str] = GROWTHS,
    rules: Iterable[str] = SPARSE,
    *,
    group: str | None = None,
    x: float | None = None,
    **changes: Any,
) -> list[Cell]:
    """One cell for each density, growth and criterion."""
    return [
        Cell(
            **of_pair(model),
            method=rule,
            changes={"drop": RULES[rule], "grow": growth, "sparsity": round(1 - d, 4), **changes},
            sparsity=round(1 - d, 4),
            group=f"{growth} growth" if group is None else group,
            x=x,
        )
        for d in densities
        for growth in growths
        for rule in rules
    ]


def others(model: str, densities: Iterable[float]) -> list[Cell]:
    """The dense network, and a static mask at each density."""
    pair = of_pair(model)
    static = [
        Cell(**pair, method="static", changes={**STATIC, "sparsity": round(1 - d, 4)}, sparsity=round(1 - d, 4))
        for d in densities
    ]
    return [Cell(**pair, method="dense", changes=DENSE, sparsity=0.0), *static]


def figure1(proxy: bool) -> list[Cell]:
    """Accuracy against density."""
    densities = (0.05, 0.3) if proxy else DENSITIES
    models = ("large-MLP", "small-CNN") if proxy else tuple(PAIRS)
    return [c for m in models for c in (*others(m, densities), *criteria(m, densities))]


def figure2(proxy: bool) -> list[Cell]:
    """ImageNet."""
    of: dict[str, Any] = {"config": "criteria_resnet50_imagenet", "model": "ResNet-50", "dataset": "ImageNet"}
    rules = ("magnitude", "SNIP", "RSensitivity") if proxy else SPARSE
    cells = [Cell(**of, method=r, changes={"drop": DROPS[r]}, sparsity=0.8, group="gradient growth") for r in rules]
    return [Cell(**of, method="dense", changes=DENSE, sparsity=0.0), *cells]


def figure3(proxy: bool) -> list[Cell]:
    """The cells of Figure 1 that have a criterion."""
    return [c for c in figure1(proxy) if c.method in SPARSE]


def figure4(proxy: bool) -> list[Cell]:
    """The gap between validation and training loss."""
    del proxy
    return [*others("large-MLP", (0.5,)), *criteria("large-MLP", (0.5,), ("random",))]


def figure5(proxy: bool) -> list[Cell]:
    """The update period."""
    models = ("large-MLP",) if proxy else ("large-MLP", "small-CNN", "ResNet-56")
    densities = (0.05,) if proxy else (0.1, 0.2)
    rules = ("magnitude", "SNIP") if proxy else SPARSE
    periods = (2, 10, 40, 150) if proxy else PERIODS
    cells = [c for m in models for c in others(m, densities) if c.method == "static"]
    for m in models:
        for period in periods:
            cells += criteria(m, densities, rules=rules, x=period, update_period=period)
    return cells


def figure7(proxy: bool) -> list[Cell]:
    """The lambda of MEST."""
    densities = (0.05,) if proxy else DENSITIES
    cells = criteria("large-MLP", densities, ("random",), ("magnitude",))
    for exponent in range(-3, 4):
        value = 10.0**exponent
        changes: dict[str, Any] = {"method": "mest", "lambda_": value, "drop": None}
        cells += criteria("large-MLP", densities, ("random",), ("MEST",), x=value, **changes)
    return cells


def figure8(proxy: bool) -> list[Cell]:
    """Sensitivity and its reciprocal."""
    densities = (0.05, 0.2) if proxy else DENSITIES
    rules = "RSensitivity", "Sensitivity"
    return [c for rule in rules for c in criteria("large-MLP", densities, ("random",), (rule,))]


def figure11(proxy: bool) -> list[Cell]:
    """The exploration rate by the update period."""
    periods = (10, 20, 40, 80, 150) if proxy else PERIODS
    return [
        Cell(
            **of_pair("large-MLP"),
            method=f"{growth} growth, update period {period}",
            changes={"drop": "magnitude", "grow": growth, "sparsity": 0.9, "update_period": period},
            sparsity=0.9,
            epochs="" if proxy else "100",
            group=growth,
            x=period,
        )
        for growth in GROWTHS
        for period in periods
    ]


def figure12(proxy: bool) -> list[Cell]:
    """A larger batch."""
    densities = (0.1,) if proxy else DENSITIES
    rules = ("magnitude", "SNIP", "MEST") if proxy else SPARSE
    wide: dict[str, Any] = {"batch_size": 1024, "update_period": 100, "optimizer.learning_rate": 0.08}
    if proxy:  # as many samples a mask update and in all
        wide = {"batch_size": 512, "update_period": 5, "steps": 100, "optimizer.learning_rate": 0.8}
    cells = []
    for growth in GROWTHS[1:] if proxy else GROWTHS:
        cells += criteria("LeNet-5-Caffe", densities, (growth,), rules, group=f"usual batch, {growth} growth")
        cells += criteria("LeNet-5-Caffe", densities, (growth,), rules, group=f"large batch, {growth} growth", **wide)
    return cells


def figure15(proxy: bool) -> list[Cell]:
    """One ranking over all layers."""
    densities = (0.05, 0.1) if proxy else (0.05, 0.1, 0.15)
    model, rules = "small-CNN" if proxy else "ResNet-56", tuple(r for r in SPARSE if r != "SET")
    cells = []
    for scope, name in (("layer", "local"), ("global", "global")):
        cells += criteria(model, densities, ("random",), rules, group=name, scope=scope)
    return cells


def figure16(proxy: bool) -> list[Cell]:
    """Schedules of the drop fraction, and a batch twice as large, by the update period."""
    periods = (5, 20, 80) if proxy else PERIODS
    batch = 128 if proxy else 256
    groups: dict[str, dict[str, Any]] = {
        "linear": {"drop_schedule": "linear"},
        "constant": {"drop_schedule": "constant"},
        "cosine": {},
        "cosine, batch twice as large": {"batch_size": batch, **({"steps": 750} if proxy else {})},
    }
    rules = ("magnitude",) if proxy else SPARSE
    density = 0.05 if proxy else 0.2
    return [
        c
        for name, changes in groups.items()
        for period in periods
        for c in criteria(
            "large-MLP", (density,), ("random",), rules, group=name, x=period, update_period=period, **changes
        )
    ]

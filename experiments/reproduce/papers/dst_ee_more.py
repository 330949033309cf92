"""DST-EE: what its Figure 1 and the right of Figure 3 show, and the propositions as an experiment."""

from typing import Any

from experiments.reproduce.cells import Cell
from experiments.reproduce.claims import Claim
from experiments.reproduce.papers.dst_ee import PAPER, figure3
from experiments.reproduce.papers.table import Table

ROUNDS, PERIOD = (4, 32, 256), 4
# Pixels to classes in place of a network; the config gives the updates of DST-EE.
LEAST_SQUARES: dict[str, Any] = {
    "dataset": "digits",
    "model.name": "mlp",
    "model.sizes": (1,),
    "distribution": "uniform",
    "update_period": PERIOD,
    "batch_size": 64,
    "epochs": None,
}


def figure1(proxy: bool) -> list[Cell]:
    """What greedy growth ignores, and DST-EE with two coefficients."""
    config = "dst_ee_vgg19_cifar100"
    of: dict[str, Any] = {"model": "VGG-19", "dataset": "CIFAR-100", "sparsity": 0.95}
    rows: dict[str, dict[str, Any]] = {
        "RigL": {"coefficient": 0.0},
        "DST-EE, c = 0.001": {"coefficient": 1e-3},
        "DST-EE, c = 1": {"coefficient": 1.0},
    }
    del proxy
    return [
        Cell(config, method, {**changes, "sparsity": 0.95}, **of, probe="ignored") for method, changes in rows.items()
    ]


def propositions(proxy: bool) -> list[Cell]:
    """Least squares with and without masks, by the number of rounds."""
    del proxy  # seconds either way
    rows: dict[str, tuple[dict[str, Any], float]] = {"Dense": ({"method": "dense"}, 0.0)}
    rows["static"] = {"method": "static", "sparsity": 0.9}, 0.9
    rows["RigL"] = {"coefficient": 0.0, "sparsity": 0.9}, 0.9
    rows["DST-EE"] = {"coefficient": 1e-3, "sparsity": 0.9}, 0.9
    return [
        Cell(
            "dst_ee_vgg19_cifar10",
            method,
            {**LEAST_SQUARES, "steps": rounds * PERIOD, **changes},
            "least squares",
            "digits",
            sparsity,
            x=rounds,
            probe="convergence",
        )
        for method, (changes, sparsity) in rows.items()
        for rounds in ROUNDS
    ]


def _falls(method: str, text: str) -> Claim:
    return Claim(text, {"method": method}, kind="falling", metric="gradient norm")


TABLES = (
    Table(
        "dst_ee_figure1",
        "What growth ignores of the weights that become important, VGG-19 at 95 %",
        PAPER,
        "Figure 1",
        figure1,
        metrics=("ignored", "layers above 90 %", "chance", "grown against the gradient"),
        claims=(
            Claim(
                "Growth by the gradient ignores more than 90 % of what becomes important.",
                {"method": "RigL"},
                {"method": "RigL"},
                metric="ignored",
                other="nine tenths",
            ),
            Claim(
                "DST-EE ignores less of it.",
                {"method": ("DST-EE, c = 0.001", "DST-EE, c = 1")},
                {"method": "RigL"},
                kind="below",
                metric="ignored",
            ),
            Claim(
                "DST-EE grows weights whose gradient is small.",
                {"method": ("DST-EE, c = 0.001", "DST-EE, c = 1")},
                {"method": "RigL"},
                metric="grown against the gradient",
            ),
        ),
        proxy_seeds=8,
        curve="ignored by layer",
        note="The paper does not say what is important: here the largest gradients of a mask update, as many "
        "as the one before grew, among the weights that were inactive before that; at a quarter of the updates, since "
        "at the first one no counter differs. What growth at random ignores is beside it. RigL is DST-EE with c = 0.",
        varies={"coefficient": "greedy growth against DST-EE", "sparsity": "not printed; we take 95 %"},
    ),
    Table(
        "dst_ee_figure3_accuracy",
        "Accuracy by epoch for each coefficient c, VGG-19",
        PAPER,
        "Figure 3 right",
        figure3,
        metrics=("best validation accuracy", "validation accuracy", "accuracy"),
        claims=(
            Claim(
                "The best accuracy of an epoch rises with c.",
                {"method": "DST-EE"},
                kind="rising",
                metric="best validation accuracy",
            ),
        ),
        axis="coefficient c",
        curve="validation accuracy",
        note="By validation samples; test samples are looked at once, in the end.",
        varies={"coefficient": "the axis of the figure", "sparsity": "its panels"},
    ),
    Table(
        "dst_ee_propositions",
        "Propositions 1 and 2: the gradient norm by the number of rounds, least squares",
        PAPER,
        "Propositions 1 and 2",
        propositions,
        metrics=("gradient norm", "mask error"),
        claims=(
            _falls("Dense", "Without masks the mean squared gradient falls with the number of rounds."),
            _falls("DST-EE", "With the masks of DST-EE it falls too."),
            Claim(
                "Masks leave an error that dense training has not.",
                {"method": "DST-EE"},
                {"method": "Dense", "x": ROUNDS},
                metric="gradient norm",
            ),
            Claim(
                "A better search of the mask leaves less of it: DST-EE below RigL.",
                {"method": "DST-EE"},
                {"method": "RigL"},
                kind="below",
                metric="gradient norm",
            ),
            Claim(
                "A search leaves less of it than a static mask.",
                {"method": "DST-EE"},
                {"method": "static"},
                kind="below",
                metric="gradient norm",
            ),
        ),
        seeds=8,
        proxy_seeds=8,
        axis="rounds Q",
        note="A problem that keeps the assumptions, with the step of Proposition 2. The proof's constants are not "
        "tested, only the direction. 'mask error' is tau^2 of Assumption 3.",
        varies={
            **dict.fromkeys((*LEAST_SQUARES, "steps"), "least squares in place of a network"),
            "sparsity": "the size of the error",
            "coefficient": "DST-EE against RigL",
        },
    ),
)

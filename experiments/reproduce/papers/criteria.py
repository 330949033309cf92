"""Nowak et al., "Fantastic weights and how to find them: where to prune in dynamic sparse training", NeurIPS 2023."""

from collections.abc import Mapping
from typing import Any

from experiments.reproduce import derived
from experiments.reproduce.claims import Claim
from experiments.reproduce.papers import criteria_cells
from experiments.reproduce.papers.table import Table

PAPER = "Fantastic weights"
MAGNITUDE = {"method": "magnitude"}
# What the figures of the study vary: all else is the same in every row.
DENSITY = {"sparsity": "the axis of the figure, or its panels"}
RULES = {"drop": "the criteria that are compared", "grow": "random and gradient growth, each in a panel of its own"}
PERIOD = {"update_period": "the axis of the figure"}
BATCH = dict.fromkeys(
    ("batch_size", "optimizer.learning_rate", "update_period", "steps"),
    "Appendix G: a larger batch, with the rate and the samples between updates that go with it",
)
CODE = (
    "The drop fraction never falls below 0.005, as in the released code; the text has a plain cosine. All criteria "
    "change the masks after the optimiser's step; in the released code those that read the gradient do so before it."
)
ABOVE_STATIC = Claim(
    "Dynamic sparse training (magnitude, random growth) is more accurate than a static mask.",
    {"method": "magnitude", "group": "random growth"},
    {"method": "static", "group": ""},
)
SNIP_BELOW = Claim("SNIP is less accurate than magnitude.", {"method": "SNIP"}, MAGNITUDE, kind="below")


def _close(rule: str) -> Claim:
    return Claim(f"{rule} is within one point of magnitude.", {"method": rule}, MAGNITUDE, kind="close", margin=1.0)


def _alike(text: str, left: Mapping[str, Any], right: Mapping[str, Any], metric: str = "accuracy") -> Claim:
    return Claim(f"{text} (within one point).", left, right, kind="close", metric=metric, margin=1.0)


def _smaller_gap(what: str, method: str) -> Claim:
    text = f"{what} has a smaller gap than dense training."
    return Claim(text, {"method": method}, {"method": "dense"}, kind="below", metric="gap")


LOW, HIGH = (0.8, 0.85, 0.9, 0.91, 0.92, 0.93, 0.94, 0.95), (0.5, 0.6, 0.7)  # sparsities up to density 0.2 and above
GRADIENT = "SNIP", "RSensitivity"


def _ranked(text: str, better: str, other: str, sparsities: tuple[float, ...]) -> Claim:
    left, right = _at(better, sparsities), _at(other, sparsities)
    return Claim(text, left, right, kind="below", metric="rank")


def _like(rule: str) -> Claim:
    text = f"Up to density 0.2 {rule} ranks like magnitude (within one place)."
    return Claim(text, _at(rule, LOW), _at("magnitude", LOW), kind="close", metric="rank", margin=1.0)


def _at(method: str, sparsities: tuple[float, ...]) -> dict[str, Any]:
    return {"method": method, "sparsity": sparsities}


TABLES = (
    Table(
        "criteria_figure1",
        "Test accuracy against density, eight pairs of network and data",
        PAPER,
        "Figure 1",
        criteria_cells.figure1,
        claims=(
            ABOVE_STATIC,
            Claim(
                "Dynamic sparse training (magnitude, gradient growth) is more accurate than a static mask.",
                {"method": "magnitude", "group": "gradient growth"},
                {"method": "static", "group": ""},
            ),
            _alike("Random and gradient growth are alike", {"group": "random growth"}, {"group": "gradient growth"}),
            Claim(
                "Dynamic sparse training can be more accurate than dense training (small-MLP).",
                {"method": "magnitude", "model": "small-MLP"},
                {"method": "dense"},
            ),
            _close("SET"),
            _close("MEST"),
            Claim(
                "SNIP is less accurate than magnitude, all but on VGG-16.", {"method": "SNIP"}, MAGNITUDE, kind="below"
            ),
        ),
        seeds=5,
        proxy_seeds=3,
        note=f"The paper takes the epoch that validates best; ours is the last one. {CODE}",
        varies=DENSITY | RULES,
    ),
    Table(
        "criteria_figure2",
        "ResNet-50 on ImageNet, density 0.2, gradient growth",
        PAPER,
        "Figure 2",
        criteria_cells.figure2,
        metrics=("validation accuracy", "accuracy", "training loss"),
        claims=(SNIP_BELOW, _close("RSensitivity"), _close("SET"), _close("MEST")),
        proxy_seeds=3,
        curve="training loss",
        varies=RULES,
    ),
    Table(
        "criteria_figure3",
        "Average ranks of the criteria and critical distances",
        PAPER,
        "Figure 3",
        criteria_cells.figure3,
        metrics=("accuracy", "rank"),
        claims=(
            *(_ranked(f"Up to density 0.2 magnitude ranks above {rule}.", "magnitude", rule, LOW) for rule in GRADIENT),
            *(_like(rule) for rule in ("SET", "MEST")),
            _ranked("Above density 0.2 RSensitivity ranks above magnitude.", "RSensitivity", "magnitude", HIGH),
        ),
        derive=derived.ranks("accuracy"),
        seeds=5,
        proxy_seeds=3,
        ranks=True,
        note="A block is a network, a density and a growth; its score is the mean over seeds. The cells are those of "
        "Figure 1.",
        varies=DENSITY | RULES,
    ),
    Table(
        "criteria_figure4",
        "Validation loss minus training loss, large-MLP at density 0.5",
        PAPER,
        "Figure 4",
        criteria_cells.figure4,
        metrics=("gap", "accuracy"),
        curve="gap",
        claims=(
            _smaller_gap("Dynamic sparse training", "magnitude"),
            _smaller_gap("A static mask", "static"),
        ),
        seeds=5,
        note="Dense training with dropout is left out: large-MLP has none here.",
        varies=DENSITY | RULES,
    ),
    Table(
        "criteria_figure5",
        "Accuracy by the update period",
        PAPER,
        "Figure 5",
        criteria_cells.figure5,
        metrics=("validation accuracy", "accuracy"),
        claims=(
            Claim(
                "Even few updates are better than a static mask (longest period, random growth).",
                {"method": "magnitude", "group": "random growth", "x": (150, 6400)},
                {"method": "static", "group": "", "x": None},
            ),
            Claim(
                "Very frequent updates hurt gradient growth (shortest period against a middle one).",
                {"group": "gradient growth", "x": (2, 25)},
                {"group": "gradient growth", "x": (40, 800)},
                kind="below",
                metric="validation accuracy",
            ),
            Claim(
                "Gradient criteria lose more by frequent updates than magnitude (SNIP).",
                {"method": "SNIP", "x": (2, 25)},
                {"method": "magnitude", "x": (2, 25)},
                metric="lost by frequent updates",
            ),
        ),
        derive=derived.cost_of_frequency("validation accuracy"),
        seeds=5,
        proxy_seeds=3,
        axis="update period (steps)",
        varies=DENSITY | RULES | PERIOD,
    ),
    Table(
        "criteria_figure7",
        "The lambda of MEST, large-MLP, random growth",
        PAPER,
        "Figure 7",
        criteria_cells.figure7,
        claims=(
            Claim(
                "A small lambda is like magnitude (0.001, within one point).",
                {"method": "MEST", "x": 0.001},
                {**MAGNITUDE, "x": None},
                kind="close",
                margin=1.0,
            ),
            Claim(
                "A large lambda is worse (1000).",
                {"method": "MEST", "x": 1000.0},
                {**MAGNITUDE, "x": None},
                kind="below",
            ),
        ),
        seeds=5,
        axis="lambda",
        varies=DENSITY | RULES | {"lambda_": "the axis of the figure"},
    ),
    Table(
        "criteria_figure8",
        "Sensitivity and its reciprocal, large-MLP, random growth",
        PAPER,
        "Figure 8",
        criteria_cells.figure8,
        claims=(Claim("The reciprocal is more accurate.", {"method": "RSensitivity"}, {"method": "Sensitivity"}),),
        seeds=5,
        curve="validation accuracy",
        varies=DENSITY | RULES,
    ),
    Table(
        "criteria_figure11",
        "Exploration rate by the update period, large-MLP at density 0.1",
        PAPER,
        "Figure 11",
        criteria_cells.figure11,
        metrics=("exploration", "accuracy"),
        claims=(
            Claim(
                "Random growth explores more than gradient growth.",
                {"group": "random", "method": None},
                {"group": "gradient", "method": None},
                metric="exploration",
            ),
        ),
        seeds=5,
        axis="update period (steps)",
        varies=DENSITY | RULES | PERIOD,
    ),
    Table(
        "criteria_figure12",
        "A larger batch, LeNet-5-Caffe",
        PAPER,
        "Figure 12",
        criteria_cells.figure12,
        claims=(
            _alike(
                "With a large batch MEST is still like magnitude",
                {"method": "MEST", "group": ("large batch, random growth", "large batch, gradient growth")},
                {"method": "magnitude", "group": ("large batch, random growth", "large batch, gradient growth")},
            ),
        ),
        seeds=5,
        proxy_seeds=3,
        note="Batches of 1,024 have a rate of 0.08, as the text says.",
        varies=DENSITY | RULES | BATCH,
    ),
    Table(
        "criteria_figure15",
        "One ranking over all layers against one in each layer",
        PAPER,
        "Figure 15",
        criteria_cells.figure15,
        claims=(
            _alike("Global and local pruning are alike", {"group": "global"}, {"group": "local"}),
            Claim("There is a slight preference for global pruning.", {"group": "global"}, {"group": "local"}),
        ),
        seeds=5,
        proxy_seeds=3,
        note="SET is left out, as in the paper. It does not say how weights grow here; we grow at random. A layer "
        "grows as many as it lost, as in the released code. The proxy is a small CNN in place of ResNet-56.",
        varies=DENSITY | RULES | {"scope": "one ranking against one in each layer"},
    ),
    Table(
        "criteria_figure16",
        "Schedules of the drop fraction, and the batch, by the update period",
        PAPER,
        "Figure 16",
        criteria_cells.figure16,
        metrics=("validation accuracy", "accuracy"),
        seeds=5,
        proxy_seeds=3,
        axis="update period (steps)",
        claims=(
            _alike(
                "A constant fraction is like the cosine",
                {"group": "constant"},
                {"group": "cosine"},
                "validation accuracy",
            ),
            _alike(
                "A linear schedule is like the cosine", {"group": "linear"}, {"group": "cosine"}, "validation accuracy"
            ),
        ),
        note="The linear schedule falls in equal steps; that of the paper is a factor of 0.99 each 600 steps. "
        "The paper prints no density here; we take 0.2, that of Figure 5.",
        varies=DENSITY
        | RULES
        | PERIOD
        | {
            "drop_schedule": "the schedules that are compared",
            **dict.fromkeys(("batch_size", "steps"), "the batch that is twice as large"),
        },
    ),
)

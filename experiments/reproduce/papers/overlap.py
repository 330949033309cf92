"""The figures of the pruning criteria's study that compare masks, or train from other beginnings."""

import itertools

from experiments.reproduce.cells import Cell
from experiments.reproduce.claims import Claim
from experiments.reproduce.criteria import DROPS
from experiments.reproduce.papers.criteria import DENSITY, PAPER, RULES
from experiments.reproduce.papers.criteria_cells import GROWTHS, criteria, of_pair
from experiments.reproduce.papers.table import Table

JACCARD = tuple(f"J({a}, {b})" for a, b in itertools.combinations(DROPS, 2))


def figure6(proxy: bool) -> list[Cell]:
    """What the criteria would drop first, and the masks that they end with."""
    models = ("large-MLP", "small-CNN") if proxy else ("large-MLP", "small-CNN", "ResNet-56")
    cells = []
    for m in models:
        first = {"drop": "magnitude", "grow": "random", "drop_schedule": "constant", "sparsity": 0.8}
        last = {"drop": "magnitude", "grow": "gradient", "sparsity": 0.8}
        pair = of_pair(m)
        cells += [
            Cell(**pair, method="first drop", changes=first, sparsity=0.8, group="first drop", probe="first_drops"),
            Cell(**pair, method="all 5 criteria", changes=last, sparsity=0.8, group="final", probe="final_masks"),
        ]
    return cells


def figure13(proxy: bool) -> list[Cell]:
    """Scores by the gradient of more samples."""
    densities = (0.1,) if proxy else (0.05, 0.1, 0.2)
    rules = ("MEST", "SNIP", "RSensitivity") if proxy else tuple(DROPS)
    cells = []
    for m in ("large-MLP",) if proxy else ("large-MLP", "LeNet-5-Caffe"):
        for growth in GROWTHS[1:] if proxy else GROWTHS:
            for probe, name in (("scores_of_1_batch", "128 samples"), ("scores_of_8_batches", "1024 samples")):
                group = f"{name}, {growth} growth"
                cells += [
                    Cell(**{**vars(c), "probe": probe})
                    for c in criteria(m, densities, (growth,), rules, group=group, update_order="skip")
                ]
    return cells


def figure14(proxy: bool) -> list[Cell]:
    """From scratch, and from a dense network that was trained on other classes."""
    assert proxy, "the table has no full run"
    scratch = criteria("small-CNN", (0.05, 0.3), ("gradient",), ("magnitude", "SNIP"), group="from scratch")
    tuned = criteria("small-CNN", (0.05, 0.3), ("gradient",), ("magnitude", "SNIP"), group="fine-tuned")
    return [
        *(Cell(**{**vars(c), "probe": "from_scratch"}) for c in scratch),
        *(Cell(**{**vars(c), "probe": "fine_tuned"}) for c in tuned),
    ]


def _overlap(text: str, pair: str, other: str, where: str) -> Claim:
    group = {"group": where}
    return Claim(text, group, group, metric=f"J({pair})", other=f"J({other})")


TABLES = (
    Table(
        "criteria_figure6",
        "Overlap of what the criteria drop first and of the masks that they end with",
        PAPER,
        "Figure 19",
        figure6,
        metrics=(
            *JACCARD,
            *(f"J(initial, {name})" for name in DROPS),
            "J_init",
            "kept by all",
            "removed by all",
            "chance",
        ),
        claims=(
            _overlap(
                "At first, magnitude and SET drop more of the same weights than magnitude and SNIP.",
                "magnitude, SET",
                "magnitude, SNIP",
                "first drop",
            ),
            _overlap(
                "At first, magnitude and MEST drop more of the same weights than magnitude and SNIP.",
                "magnitude, MEST",
                "magnitude, SNIP",
                "first drop",
            ),
            Claim(
                "At first, SNIP and RSensitivity agree less than chance.",
                {"group": "first drop"},
                {"group": "first drop"},
                kind="below",
                metric="J(SNIP, RSensitivity)",
                other="chance",
            ),
            _overlap(
                "In the end, magnitude and SET share more than magnitude and SNIP.",
                "magnitude, SET",
                "magnitude, SNIP",
                "final",
            ),
            Claim(
                "In the end, masks share little more with their first than two first masks do (within 0.05).",
                {"group": "final"},
                {"group": "final"},
                kind="close",
                metric="J(initial, magnitude)",
                other="J_init",
                margin=0.05,
            ),
        ),
        seeds=5,
        proxy_seeds=3,
        axis="",
        note="The share kept by all criteria is that of the paper's Figure 19. The first drop is at density 0.2. "
        "Overlaps are means over the layers (Eq. 1).",
        varies=DENSITY | RULES | {"drop_schedule": "of the first drop alone, which is measured once"},
    ),
    Table(
        "criteria_figure13",
        "A larger batch for the gradient of mask updates alone",
        PAPER,
        "Figure 13",
        figure13,
        claims=(
            *(
                Claim(
                    f"It is not beneficial with {growth} growth: no gain of half a point.",
                    {"group": f"1024 samples, {growth} growth"},
                    {"group": f"128 samples, {growth} growth"},
                    kind="no gain",
                    margin=0.5,
                )
                for growth in GROWTHS
            ),
        ),
        seeds=5,
        proxy_seeds=3,
        note="Mask updates take the place of a step, so that the larger batch serves nothing else. No checkpoints.",
        varies=DENSITY | RULES | {"update_order": "updates take no step, so that their batch serves nothing else"},
    ),
    Table(
        "criteria_figure14",
        "Fine-tuning against training from scratch",
        PAPER,
        "Figure 14",
        figure14,
        claims=(
            Claim(
                "SNIP is better when fine-tuning than from scratch.",
                {"method": "SNIP", "group": "fine-tuned"},
                {"method": "SNIP", "group": "from scratch"},
            ),
            Claim(
                "At low density fine-tuning is worse than training from scratch.",
                {"method": "magnitude", "group": "fine-tuned", "sparsity": 0.95},
                {"method": "magnitude", "group": "from scratch", "sparsity": 0.95},
                kind="below",
            ),
        ),
        seeds=5,
        proxy_seeds=3,
        note="The proxy: a small CNN learns the digits 0 to 4, then a sparse one 5 to 9 from its weights.",
        proxy_only="it needs EfficientNet-B0 weights trained on ImageNet, which nothing here reads",
        varies=DENSITY | RULES,
    ),
)

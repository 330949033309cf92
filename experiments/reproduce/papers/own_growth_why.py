"""Why balanced momentum grows other weights, and where it loses: what was tried to cure that."""

from typing import Any

from experiments.reproduce.cells import Cell
from experiments.reproduce.claims import Claim
from experiments.reproduce.papers.own_growth import (
    ALL,
    FIRST_SEED,
    HELD_OUT,
    ONE,
    OURS,
    PAPER,
    ROWS,
    SEEDS,
    TITLES,
    VARIES,
)
from experiments.reproduce.papers.table import Table

AVERAGE, ALIVE = "Average alone", "RigL, dead outputs last"
PLAIN, NORMALISED = TITLES["teacher95"], TITLES["vgg97"]
OF_WHY: dict[str, tuple[str, ...]] = {
    "teacher95": ("RigL", AVERAGE, OURS, ALL),
    "vgg97": ("SET", "RigL", ALIVE, AVERAGE, OURS),
}


def why(proxy: bool) -> list[Cell]:
    """What ranks growth, and what grows, in a network without normalisation and in one with batch normalisation."""
    del proxy
    rows = ROWS | {ALIVE: {"method": "rigl", "avoid_dead": True}}
    return [
        Cell(f"task_{task}", row, rows[row], group=TITLES[task], probe="growth")
        for task, of_task in OF_WHY.items()
        for row in of_task
    ]


LOSING = HELD_OUT["noisydigits97"]
RULES = "experiments.reproduce.growth_rules"
ADAPTS, DECAYS = f"{OURS}, random share that adapts", f"{OURS}, score decays"
OF_VALIDATION, RIGL_OF_VALIDATION = f"{ONE}, validation gradients", "RigL, validation gradients"
STRONGER = "weight decay 0.005"
CURES: dict[str, dict[str, Any]] = {
    ADAPTS: {"method": "balanced_momentum", "grow": f"{RULES}:adaptive_share"},
    DECAYS: {"method": "balanced_momentum", "grow": f"{RULES}:decayed"},
}


def losing(proxy: bool) -> list[Cell]:
    """The task on which growth by gradients loses, cures of it, and what these do on a task where it wins."""
    del proxy
    found = [
        Cell("task_noisydigits97", row, changes, "", LOSING)
        for row, changes in ({r: ROWS[r] for r in ("SET", "RigL", ONE, OURS, ALL)} | CURES).items()
    ]
    found += [
        Cell("task_noisydigits97", row, ROWS[of], "", LOSING, probe="scores_of_validation")
        for row, of in ((OF_VALIDATION, ONE), (RIGL_OF_VALIDATION, "RigL"))
    ]
    found += [
        Cell("task_noisydigits97", row, {**ROWS[row], "optimizer.weight_decay": 5e-3}, "", LOSING, group=STRONGER)
        for row in ("SET", "RigL", OURS)
    ]
    teacher = {"RigL": ROWS["RigL"], OURS: ROWS[OURS], **CURES}
    return found + [Cell("task_teacher95", row, changes, "", PLAIN) for row, changes in teacher.items()]


def _why(text: str, left: str, right: str, group: str, metric: str, **more: Any) -> Claim:
    return Claim(text, {"method": left, "group": group}, {"method": right, "group": group}, metric=metric, **more)


def _cures(cure: str, than: str, task: str, **of: Any) -> Claim:
    return Claim(
        f"{cure} is more accurate than {than}: {task}{', ' + of['group'] if 'group' in of else ''}.",
        {"method": cure, "dataset": task, "group": "", **of},
        {"method": than, "dataset": task, "group": "", **of},
    )


TABLES = (
    Table(
        "own_growth_why",
        "What ranks growth and what grows: noise, dead outputs, balance",
        PAPER,
        "Table 5",
        why,
        metrics=(
            *("agreement", "grown as all samples would", "survival"),
            *("growth into dead outputs", "dead outputs", "inflation", "changed by balance"),
            *("inputs reached", "outputs reached", "noise of one gradient", "accuracy"),
        ),
        claims=(
            _why(
                "An average is closer to the gradient of all samples than one gradient is: teacher.",
                AVERAGE,
                "RigL",
                PLAIN,
                "agreement",
            ),
            _why("More survives of what an average grew: teacher.", AVERAGE, "RigL", PLAIN, "survival"),
            _why("More survives of what the whole rule grew: teacher.", OURS, "RigL", PLAIN, "survival"),
            _why(
                "RigL grows into dead outputs more than at random: small VGG.",
                "RigL",
                "RigL",
                NORMALISED,
                "growth into dead outputs",
                other="dead outputs",
            ),
            _why(
                "Balance grows less into dead outputs than the average alone: small VGG.",
                OURS,
                AVERAGE,
                NORMALISED,
                "growth into dead outputs",
                kind="below",
            ),
            _why("Balance spreads growth over more inputs: teacher.", OURS, AVERAGE, PLAIN, "inputs reached"),
            _why("Balance spreads growth over more outputs: small VGG.", OURS, AVERAGE, NORMALISED, "outputs reached"),
        ),
        seeds=SEEDS,
        proxy_seeds=8,
        first_seed=FIRST_SEED,
        axis="",
        drawn=11,
        curves={
            "changed by balance": "layer, from the first",
            "size of gradients": "tenth of the outputs of a layer, the least variance first",
            "growth": "tenth of the outputs of a layer, the least variance first",
        },
        note="A dead output is one that no active weight feeds; batch normalisation divides by its standard deviation, "
        "which is near 0. The gradient of all training samples stands for the signal. Looks at every eighth update.",
        proxy_only="it is about the tasks of the proxies",
        varies=VARIES | {"avoid_dead": "what the row is about"},
    ),
    Table(
        "own_growth_losing",
        "Where balanced momentum loses, and what was tried to cure it",
        PAPER,
        "Table 6",
        losing,
        claims=(
            *(_cures(cure, OURS, LOSING) for cure in CURES),
            _cures(OF_VALIDATION, ONE, LOSING),
            _cures(RIGL_OF_VALIDATION, "RigL", LOSING),
            _cures(OURS, "SET", LOSING, group=STRONGER),
            *(_cures(cure, OURS, PLAIN) for cure in CURES),
        ),
        seeds=SEEDS,
        proxy_seeds=SEEDS,
        first_seed=FIRST_SEED,
        reference="RigL",
        axis="",
        proxy_only="it is about the tasks of the proxies",
        note="Rows of validation gradients grow by a batch of validation samples, which they so learn from.",
        varies=VARIES,
    ),
)

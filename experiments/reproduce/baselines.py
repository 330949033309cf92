"""The recipe of each baseline, from its own paper, in one place; see :mod:`experiments.reproduce.recipes`."""

import math

from ml_collections import ConfigDict

from experiments.reproduce.recipes import UPDATES, Given, Period, Recipe

_RIGL = "Evci et al. 2020"
_ITOP = "Liu et al. 2021 (ITOP)"
_GRANET = "Liu et al. 2021 (GraNet)"
_STEP = Given("step_then_update", "its masks change after the optimiser's step")

_PLAIN = "the code that DST-EE quotes trains it by plain descent at 0.05"
_STR_RATE, _STR_END = 0.1, 50.0
_DSR_WEIGHTS, _RESNET50 = 400_000, 25_502_912


# Training samples of the data sets of STR's rows, to know the steps of a run before the data are read.
_SAMPLES = {"cifar10": 45_000, "cifar100": 50_000}


def _threshold_decay(config: ConfigDict) -> float:
    """The decay that multiplies the thresholds of STR by exp(-D) until its masks are fixed, D by the sparsity."""
    steps = config.steps or round(config.epochs * (_SAMPLES[config.dataset] // config.batch_size))
    fall = max(1.0, 3.5 - 4.5 * math.log10((1 - config.sparsity) / 0.1))
    return round(fall / (_STR_RATE * steps * _STR_END / 100), 9)


def _dsr_fraction(config: ConfigDict) -> float:
    return round(_DSR_WEIGHTS / _RESNET50 / (1 - config.sparsity), 4)


_COSINE_30 = {
    "drop_fraction": Given(0.3, f"{_RIGL}: alpha = 0.3"),
    "drop_schedule": Given("cosine", f"{_RIGL}: cosine annealing"),
    "rounding": Given("floor", "its code cuts the number off"),
}
_RIGL_GIVEN = {
    **_COSINE_30,
    "end_percent": Given(78.125, f"{_RIGL}: to step 25,000 of 32,000"),
    "update_order": Given("skip", f"{_RIGL}, Algorithm 1: an update takes the place of a step"),
}
_WHOLE_RUN = {
    "drop_fraction": Given(0.5, "its code: half of the weights at first"),
    "drop_schedule": Given("cosine_floor", "its code: a cosine over the whole run, never below 0.005"),
    "rounding": Given("ceil", "its code rounds up"),
    "end_percent": Given(100.0, "its code: to the last step"),
    "update_order": _STEP,
}
_OVER_IMAGENET = Period(100, 4096, f"{_RIGL}: every 100 steps of batch 4096")
_SGD_ALONE = "Bellec et al. 2018, Algorithm 1: gradient descent with noise, without momentum or decay"
_AT_INIT = Given(None, "its paper ranks all layers together")

_ADMM_PHASES = {
    "start_percent": Given(100 / 3, "DST-EE: 20 epochs of dense training, 20 of ADMM, 20 of retraining"),
    "end_percent": Given(67.5, "prunes after 40 of 60 epochs, the last update before this"),
    "period_percent": Given(100 / 60, "the code that DST-EE quotes: Z and U change once an epoch"),
}
_SIXTY = Given(lambda config: None if config.epochs is None else 60.0, "DST-EE: 20 + 20 + 20 epochs")
_SIXTY_STEPS = Given(
    lambda config: None if config.steps is None else 60 * (config.steps // 50), "as 60 epochs to 50 of sparse training"
)

RECIPES: dict[str, Recipe] = {
    "static": Recipe("static", "Liu et al. 2022"),
    "snip": Recipe("snip", "Lee et al. 2019", {"distribution": _AT_INIT}),
    "grasp": Recipe("grasp", "Wang et al. 2020", {"distribution": _AT_INIT}),
    "synflow": Recipe("synflow", "Tanaka et al. 2020", {"distribution": _AT_INIT}),
    "str": Recipe(
        "str",
        "Kusupati et al. 2020",
        {
            "s_init": Given(-8.0, "chosen here: its paper fits it to each network and sparsity"),
            "threshold_learning_rate": Given(_STR_RATE, "chosen here: its paper has the optimiser of the weights"),
            "threshold_decay": Given(_threshold_decay, "chosen here: its paper fits it to each network and sparsity"),
            "end_percent": Given(_STR_END, "chosen here: its sparsity has settled by the middle of training"),
        },
    ),
    "sis": Recipe(
        "sis",
        "Verma and Pesquet 2021",
        {"prune_percent": Given(50.0, "chosen here: it trains dense, prunes and fine-tunes, half of the run each")},
    ),
    "deepr": Recipe(
        "deepr",
        "Bellec et al. 2018",
        {
            "optimizer.momentum": Given(0.0, _SGD_ALONE),
            "optimizer.nesterov": Given(False, _SGD_ALONE),
            "optimizer.weight_decay": Given(0.0, _SGD_ALONE),
        },
    ),
    "deepr, shared": Recipe("deepr", "Bellec et al. 2018"),
    "set, as DST-EE": Recipe("set", "Mocanu et al. 2018, as run by GraNet's code", takes=UPDATES),
    "rigl, as DST-EE": Recipe("rigl", "Evci et al. 2020, as run by ITOP's and GraNet's code", takes=UPDATES),
    "rigl": Recipe("rigl", _RIGL, _RIGL_GIVEN, _OVER_IMAGENET),
    "rigl, as often as IEE": Recipe("rigl", _RIGL, _RIGL_GIVEN, takes=("update_period",)),
    "rigl, CIFAR": Recipe(
        "rigl",
        _RIGL,
        {
            **_RIGL_GIVEN,
            "end_percent": Given(76.8, f"{_RIGL}: to step 75,000 of 97,656"),
        },
        Period(100, 128, f"{_RIGL}: every 100 steps of batch 128"),
    ),
    "set": Recipe(
        "set",
        f"Mocanu et al. 2018, as run by {_RIGL}",
        {
            **_COSINE_30,
            "end_percent": _RIGL_GIVEN["end_percent"],
            "update_order": _STEP,
        },
        _OVER_IMAGENET,
    ),
    "itop": Recipe("rigl_itop", _ITOP, _WHOLE_RUN, Period(4000, 128, f"{_ITOP}: every 4,000 steps of batch 128")),
    "snfs": Recipe(
        "snfs",
        "Dettmers and Zettlemoyer 2019",
        _WHOLE_RUN,
        Period(10_009, 128, "Dettmers and Zettlemoyer 2019: after each epoch (of ImageNet)"),
    ),
    "dsr": Recipe(
        "dsr",
        "Mostafa and Wang 2019",
        {
            "drop_fraction": Given(_dsr_fraction, "its code: 400,000 weights of ResNet-50"),
            "end_percent": Given(95.0, "its code: to epoch 95 of 100"),
            "distribution": Given("uniform", "its code starts with the same sparsity in every layer"),
        },
        # Its period doubles from 1,000 to 8,000 steps: one in between makes as many updates.
        Period(2000, 256, "its code: about 230 updates in 100 epochs of batch 256"),
    ),
    "mest": Recipe(
        "mest",
        "Yuan et al. 2021",
        {
            "drop_fraction": Given(0.2, "its code: 2 % of all weights at 90 % sparsity, 1 % at 95 %"),
            "drop_schedule": Given("stages", "its code: constant, halved for the last stage"),
            "rounding": Given("floor", "its code cuts the number off"),
            "end_percent": Given(75.0, "its code: to epoch 120 of 160"),
            "update_order": _STEP,
        },
        Period(50_045, 128, "its code: every five epochs (of ImageNet)"),
    ),
    "granet": Recipe(
        "granet",
        _GRANET,
        {**_WHOLE_RUN, "prune_end_percent": Given(30.0, f"{_GRANET}: prunes to epoch 30 of 100 on ImageNet")},
        Period(4000, 128, f"{_GRANET}: every 4,000 steps of batch 128"),
    ),
    "dcil": Recipe(
        "dcil",
        "Kim et al. 2021",
        {
            "prune_end_percent": Given(75.0, "its code: the sparsity rises to epoch 225 of 300"),
            "update_period": Given(16, "its code: masks are chosen anew every 16 steps"),
            "end_percent": Given(None, "its code: to the end"),
            "scope": Given("global", "its code: one ranking over all layers"),
        },
    ),
    "top_kast": Recipe(
        "top_kast",
        "Jayakumar et al. 2020",
        {
            "update_period": Given(1, "Jayakumar et al. 2020: both sets are chosen anew after every step"),
            "end_percent": Given(None, "Jayakumar et al. 2020: to the end"),
        },
    ),
    "gmp": Recipe(
        "gmp",
        f"Zhu and Gupta 2017, as run by {_RIGL}",
        {
            "start_percent": Given(20.48, f"{_RIGL}: from step 20,000 of 97,656"),
            "end_percent": Given(76.85, f"{_RIGL}: to step 75,000 of 97,656"),
        },
        Period(1000, 128, f"{_RIGL}: every 1,000 steps"),
    ),
    "asp": Recipe(
        "asp",
        "Mishra et al. 2021",
        {
            "prune_percent": Given(50.0, "Mishra et al. 2021: trains dense, prunes, and repeats the whole training"),
            "optimizer.trainings": Given(2, "Mishra et al. 2021: trains dense, prunes, and repeats the whole training"),
        },
        trainings=2,
    ),
    "halp": Recipe(
        "halp",
        "Shen et al. 2022",
        {
            "start_percent": Given(50.0, "Shen et al. 2022: trains dense, prunes, and repeats the whole training"),
            "optimizer.trainings": Given(2, "Shen et al. 2022: trains dense, prunes, and repeats the whole training"),
            "update_period": Given(
                lambda config: 4 if config.proxy else 40,
                "its code: 30 pruning steps, one in 40 steps; in a proxy, one in 4",
            ),
            "importance": Given("batch_norm", "its code: gamma and beta of the batch norms"),
        },
        trainings=2,
    ),
    "accset": Recipe("accset", "Lapshyna 2020, as given by Scholte 2022", takes=UPDATES),
    "lset": Recipe("lset", "Scholte 2022", takes=UPDATES),
    "dynset": Recipe("dynset", "Scholte 2022", takes=UPDATES),
    "ste": Recipe("ste", "Zhou et al. 2021"),
    "sr_ste": Recipe("sr_ste", "Zhou et al. 2021"),
    "admm": Recipe(
        "admm",
        "Zhang et al. 2018, as run by DST-EE's quoted code",
        {
            **_ADMM_PHASES,
            "epochs": _SIXTY,
            "steps": _SIXTY_STEPS,
            "optimizer.learning_rate": Given(0.05, _PLAIN),
            "optimizer.momentum": Given(0.0, _PLAIN),
            "optimizer.nesterov": Given(False, _PLAIN),
            "optimizer.weight_decay": Given(0.0, _PLAIN),
            "optimizer.schedule": Given("exponential", "the same code: the rate times 0.98 an epoch"),
            "optimizer.factor": Given(round(0.98**60, 6), "the same code: the rate times 0.98 an epoch, 60 times"),
        },
    ),
    "admm, shared": Recipe(
        "admm",
        "Zhang et al. 2018, with the optimiser of the other rows",
        {**_ADMM_PHASES, "epochs": _SIXTY, "steps": _SIXTY_STEPS},
    ),
}


def get(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
      ValueError: there is none.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe {name!r} is not known; expected one of {', '.join(RECIPES)}.")
    return RECIPES[name]

"""Tasks that tell methods of dynamic sparse training apart within seconds a network, on two CPU cores.

Each was chosen since methods differ on it by more than their seeds do: the standard error of a paired difference is at
most a third of what lies between a static mask and the best dynamic method, which ``python -m experiments.reproduce
--proxies`` measures. At lower sparsities, or on easier data, all methods reach the same ceiling.

All have one recipe: SGD with Nesterov momentum, a cosine from 0.1, ERK densities, 30 % of the weights moved every 20
steps at first, by a cosine to 0 at 75 % of training. The transformer has AdamW, since SGD does not train it.
"""

import dataclasses

from ml_collections import ConfigDict

import dstjax
from experiments.configs.base import base

PERIOD = 20


@dataclasses.dataclass(frozen=True)
class Task:
    """Data, network and sparsity."""

    dataset: str
    sparsity: float
    steps: int
    model: str = "mlp"
    sizes: tuple[int, ...] | None = (300, 100)
    batch_size: int = 64
    distribution: str = "erk"
    eval_every_epochs: int = 5
    optimizer: str = "sgd"


TASKS = {
    "tabular97": Task("tabular", 0.97, 1500, sizes=(200, 100)),
    "digits98": Task("digits", 0.98, 1500, eval_every_epochs=25),
    "digits99": Task("digits", 0.99, 1500, eval_every_epochs=25),
    "teacher95": Task("teacher", 0.95, 1500, sizes=(256, 64)),
    "teacher98": Task("teacher", 0.98, 1500, sizes=(256, 64)),
    "spectra90": Task("spectra", 0.90, 1500),
    "spectra95": Task("spectra", 0.95, 1500),
    "mnist98": Task("mnist5000", 0.98, 1000, sizes=(128, 64)),
    "mnist99": Task("mnist5000", 0.99, 1000, sizes=(128, 64)),
    "vgg97": Task("digits", 0.97, 1000, model="conv", sizes=(8, 16, 32), batch_size=32, eval_every_epochs=10),
    "vit97": Task(
        "digits", 0.97, 1000, model="vit", sizes=(32, 64, 64), batch_size=32, eval_every_epochs=10, optimizer="adamw"
    ),
    "noisydigits97": Task("noisydigits", 0.97, 1500, eval_every_epochs=25),
    "links": Task(
        "blockgraph", 0.98, 2800, model="link_mlp", sizes=None, batch_size=512, distribution="uniform",
        eval_every_epochs=10,
    ),
}  # fmt: skip


# The share of the densities of an experiment that its proxy has: a small network on an easy task is told apart by what
# it loses at densities lower than those that the papers have. What is not named here has the densities of its paper.
DENSITY_SHARES = {
    **dict.fromkeys(
        (
            *(f"dst_ee_{model}_{data}" for model in ("vgg19", "resnet50") for data in ("cifar10", "cifar100")),
            *("dst_ee_resnet50_imagenet", "iee_resnet50_imagenet", "iee_wrn22_cifar10"),
            *("criteria_large_mlp_cifar10", "criteria_small_cnn_cifar10", "criteria_resnet50_imagenet"),
        ),
        0.3,
    )
}


def thinned(config: str, sparsity: float) -> float:
    """The sparsity of a proxy.

    Args:
      config: the file of the experiment, without its ending.
      sparsity: of the cell that it stands for.
    """
    return round(1 - DENSITY_SHARES.get(config, 1.0) * (1 - sparsity), 6)


def on_task(config: ConfigDict, name: str) -> None:
    """Puts an experiment on a task: its data, network, sparsity, length and recipe.

    Args:
      config: not locked; keeps its method, its criteria and what else is its own.
      name: one of :data:`TASKS`.
    """
    task = TASKS[name]
    small(config, steps=task.steps, period=PERIOD)
    config.dataset = task.dataset
    config.model.name, config.model.sizes = task.model, task.sizes
    config.sparsity = task.sparsity
    config.distribution = task.distribution
    config.batch_size = task.batch_size
    config.eval_every_epochs = task.eval_every_epochs
    config.optimizer = base().optimizer  # Nesterov, a cosine from 0.1
    if task.optimizer == "adamw":
        config.optimizer.name, config.optimizer.learning_rate, config.optimizer.weight_decay = "adamw", 3e-3, 1e-2
    config.label_smoothing = 0.0
    if {"rounding", "update_order"} <= dstjax.methods.hyperparameters(config.method).keys():
        usual_updates(config)  # others, such as IEE, have updates of their own


def usual_updates(config: ConfigDict) -> None:
    """Moves 30 % of the weights at first, by a cosine to 0 at 75 % of training; an update takes the place of a step."""
    config.end_percent = 75.0
    config.drop_fraction = 0.3
    config.drop_schedule = "cosine"
    config.rounding = "floor"
    config.update_order = "skip"


def small(config: ConfigDict, *, steps: int, period: int) -> None:
    """What every proxy has: a number of steps, one device, few records."""
    config.proxy = True
    config.steps, config.epochs = steps, None
    config.update_period = period
    config.devices = 1
    config.model.dtype = None
    config.protocol = None
    config.seeds = 1
    config.eval_every_epochs = 5
    config.checkpoint_every_epochs = 1000


def task_config(name: str) -> ConfigDict:
    """The config of a task with RigL, not locked."""
    config = base()
    config.method = "rigl"
    on_task(config, name)
    return config

"""What the experiments of one paper share; each file of this folder adds what is its own.

A proxy is the same experiment with a smaller network of the same family on data that ship with the repository, short
enough for two CPU cores.
"""

import itertools
import json

from ml_collections import ConfigDict

from experiments.configs.base import base
from experiments.configs.tasks import PERIOD, TASKS, on_task, small, usual_updates


def dst_ee_cifar(model: str, dataset: str, proxy: bool) -> ConfigDict:
    """VGG-19 or ResNet-50 on CIFAR: DST-EE, Section 5; 160 epochs of batch 128, cosine from 0.1.

    What the paper leaves open is as in the code of GraNet and ITOP, whose numbers it compares with: momentum, weight
    decay, drop fraction, rounding, period, and the 50,000 training images of CIFAR-100. That code reports the best
    epoch on the test samples; we report the last one.
    """
    config = base()
    config.method = "dst_ee"
    config.sparsity = 0.95
    config.coefficient = 1e-3  # the paper prints none
    itop_updates(config, period=1000)
    config.dataset = dataset
    if dataset == "cifar100":
        config.protocol = "reference-code"  # trains on all 50,000 images
    config.model.name = model
    config.optimizer.learning_rate = 0.1
    config.epochs = 160.0
    config.seeds = 3
    config.eval_every_epochs = 1
    config.checkpoint_every_epochs = 10
    if proxy:
        on_task(config, "vgg97" if model == "vgg19" else "tabular97")
    return config


def itop_updates(config: ConfigDict, period: int) -> None:
    """Mask updates as in the code of ITOP and GraNet: half of the weights at first, to the last step."""
    config.update_period = period
    config.end_percent = 100.0
    config.drop_fraction = 0.5
    config.drop_schedule = "cosine_floor"
    config.rounding = "ceil"
    config.update_order = "step_then_update"


def imagenet(config: ConfigDict, *, batch_size: int, epochs: float) -> None:
    """ResNet-50 on ImageNet on all devices, multiplied in bfloat16."""
    config.dataset = "imagenet"
    config.model.name = "resnet50"
    config.model.dtype = "bfloat16"
    config.batch_size = batch_size
    config.epochs = epochs
    config.devices = "all"
    config.eval_every_epochs = 1
    config.checkpoint_every_epochs = 1
    config.log_every_epochs = 1


def links(dataset: str, proxy: bool) -> ConfigDict:
    """Link prediction by two fully connected layers, uniform sparsity: DST-EE, Tables 3 and 4; 50 epochs.

    The rest is as in the public code of its authors: batch 1024, Nesterov, cosine from 0.1.
    """
    config = base()
    config.method = "dst_ee"
    config.sparsity = 0.9
    config.distribution = "uniform"
    config.coefficient = 1e-3
    itop_updates(config, period=500)
    config.dataset = dataset
    config.model.name = "link_mlp"
    config.optimizer.learning_rate = 0.1
    config.batch_size = 1024
    config.epochs = 50.0
    config.seeds = 3
    config.eval_every_epochs = 1
    config.checkpoint_every_epochs = 5
    if proxy:
        task = TASKS["links"]
        small(config, steps=task.steps, period=PERIOD)
        usual_updates(config)
        config.dataset, config.batch_size = task.dataset, task.batch_size
        config.eval_every_epochs = task.eval_every_epochs
    return config


def iee(config: ConfigDict, *, sparsity: float, cycle: int) -> None:
    """IEE: three equal stages a cycle, an update budget of 0.3, for three quarters of training."""
    config.method = "iee"
    config.sparsity = sparsity
    config.update_period = cycle
    config.end_percent = 75.0
    config.drop_fraction = 0.3


def iee_imagenet(proxy: bool) -> ConfigDict:
    """ResNet-50 on ImageNet: IEE, Section 4; 100 epochs of batch 1024.

    Rate, momentum and decay are those of the recipe that its code inherits from HALP.
    """
    config = base()
    iee(config, sparsity=0.9, cycle=450)
    imagenet(config, batch_size=1024, epochs=100.0)
    config.optimizer.learning_rate = 1.024
    config.optimizer.momentum = 0.875
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 2**-15
    config.optimizer.warmup_steps = 8 * 1251
    config.label_smoothing = 0.1
    config.seeds = 2
    if proxy:
        on_task(config, "teacher95")
        config.update_period = 60  # two thirds of most cycles train few weights or others
    return config


def iee_channels(model: str, proxy: bool) -> ConfigDict:
    """Channels on ImageNet under a budget: IEE, Section 4.1; 130 epochs of batch 1024, updates in the first five.

    The budget is one of operations, which are the same everywhere: the table of latencies of the paper's GPU is not
    printed. The optimiser is that of :func:`iee_imagenet`; for MobileNet-V1 the paper says that it is similar.
    """
    config = iee_imagenet(False)
    config.method = "iee_structured"
    config.sparsity = None  # the budget says it
    config.structure = "channels(budget=0.55, costs='flops')"
    config.importance = "batch_norm"
    config.model.name = model
    config.epochs = 130.0
    config.end_percent = 100 * 5 / 130
    if proxy:
        small(config, steps=390, period=15)
        config.dataset = "digits"
        config.model.name, config.model.sizes = "conv", (4, 8, 16)  # wider ones lose nothing to any method
        config.batch_size = 64
        config.eval_every_epochs = 10
        config.optimizer = base().optimizer
        config.label_smoothing = 0.0
        config.end_percent = 25.0  # so that there are six cycles
    return config


def criteria(
    model: str, dataset: str, *, epochs: float, learning_rate: float, weight_decay: float = 5e-4, batch_size: int = 128
) -> ConfigDict:
    """One pair of the study of pruning criteria: SGD with Nesterov momentum, a tenth of the rate at 50 and 75 %.

    As in its code the drop fraction never falls below 0.005. All criteria change the masks after the step, where that
    code has those that read the gradient change them before it.
    """
    config = base()
    config.method = "rigl"
    config.sparsity = 0.9
    config.drop = "magnitude"
    config.grow = "random"
    itop_updates(config, period=800)
    config.dataset = dataset
    config.model.name = model
    config.optimizer.learning_rate = learning_rate
    config.optimizer.schedule = "steps"
    config.optimizer.weight_decay = weight_decay
    config.batch_size = batch_size
    config.epochs = epochs
    config.seeds = 5
    config.eval_every_epochs = 1
    config.checkpoint_every_epochs = 10
    return config


def regrowing(dataset: str, proxy: bool) -> ConfigDict:
    """The MLP of SET: the study of regrowing strategies; 1000 epochs of batch 100 with one mask update an epoch.

    Dropout and initial values are those of SET's code, whose recipe the study takes over. That code makes its optimiser
    anew after each epoch, which sets the momentum of all weights to zero; here only that of grown weights is.
    """
    config = base()
    config.method = "set"
    config.distribution = set_densities((3072, 4000, 1000, 4000), 20)
    config.drop_fraction = 0.3
    config.update_period = 500  # the steps of an epoch
    config.update_order = "step_then_update"
    config.end_percent = 100.0
    config.dataset = dataset
    config.protocol = "set"
    config.model.name = "set_mlp"
    config.optimizer.learning_rate = 0.01
    config.optimizer.schedule = "constant"
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 0.0
    config.batch_size = 100
    config.epochs = 1000.0
    config.eval_every_epochs = 1
    config.checkpoint_every_epochs = 10
    if proxy:
        on_digits(config, sizes=(200, 50, 200), steps=600, period=16)
        config.distribution = set_densities((64, 200, 50, 200), 5)
        config.optimizer.learning_rate = 0.05
        config.batch_size = 64
    return config


def set_densities(sizes: tuple[int, ...], epsilon: float) -> str:
    """SET's rule epsilon * (n_in + n_out) / (n_in * n_out) for each layer but the last, which stays dense."""
    pairs = itertools.pairwise(sizes)
    densities = {f"Dense_{i}/kernel": min(1.0, epsilon * (a + b) / (a * b)) for i, (a, b) in enumerate(pairs)}
    return json.dumps({**densities, f"Dense_{len(sizes) - 1}/kernel": 1.0})


def on_digits(config: ConfigDict, *, sizes: tuple[int, ...] | None, steps: int, period: int) -> None:
    """The proxy of an image experiment: scikit-learn's digits, 8 x 8 pixels."""
    small(config, steps=steps, period=period)
    config.dataset = "digits"
    config.model.sizes = sizes
    config.batch_size = 64

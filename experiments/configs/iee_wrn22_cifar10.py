"""IEE: WideResNet-22-2 on CIFAR-10, 90 % sparsity.

    python -m experiments.train --config experiments/configs/iee_wrn22_cifar10.py --workdir DIR

250 epochs of batch 128, the rate divided by 5 every 30,000 steps, ERK densities. ``--config.epochs=500`` is x2 of the
paper.

Expected time: 10 minutes a seed on one accelerator at 20 TFLOP/s (an estimate from the operations of dense training,
not measured: 3 x 0.32 GFLOPs x 50,000 images x 250).

The paper's number: 93.6 % at 90 % and 93.8 % at 80 % sparsity; dense 94.6 %, RigL 92.9 and 93.5 % (IEE, Table 3, three
runs).

``--config.proxy=True``: the task ``tabular97``, an MLP on generated data; see docs/reproduce.md.
"""

from ml_collections import ConfigDict

from experiments.configs import base, families, tasks


def get_config(proxy: bool = False) -> ConfigDict:
    """The configuration, locked; ``proxy`` makes it small."""
    config = base.base()
    families.iee(config, sparsity=0.9, cycle=450)
    config.dataset = "cifar10"
    config.protocol = "rigl"
    config.model.name = "wrn22_2"
    config.optimizer.learning_rate = 0.1
    config.optimizer.nesterov = False  # plain momentum of 0.9, as in RigL's code
    config.optimizer.schedule = "steps"
    config.optimizer.milestones = (0.3077, 0.6154, 0.9231)  # 30,000 steps each
    config.optimizer.factor = 0.2
    config.epochs = 250.0
    config.seeds = 3
    config.eval_every_epochs = 1
    config.checkpoint_every_epochs = 10
    if proxy:
        tasks.on_task(config, "tabular97")
        config.update_period = 60
    return config.lock()

"""Pruning criteria: VGG-16 on CIFAR-100.

    python -m experiments.train --config experiments/configs/criteria_vgg16_cifar100.py --workdir DIR

With batch normalisation, 200 epochs. The other criteria: ``--config.drop=set``, ``mest``, ``snip``, ``rsensitivity``;
``--config.grow=gradient`` for the other growth.

Expected time: 14 minutes a seed on one accelerator at 20 TFLOP/s (an estimate from the operations of dense training,
not measured: 3 x 0.63 GFLOPs x 45,000 images x 200).

The paper's number: curves only (pruning criteria, Figure 1).

``--config.proxy=True``: a VGG of two stages on scikit-learn's digits, 400 steps, under a minute on two cores.
"""

from ml_collections import ConfigDict

from experiments.configs import families


def get_config(proxy: bool = False) -> ConfigDict:
    """The configuration, locked; ``proxy`` makes it small."""
    config = families.criteria("vgg16", "cifar100", epochs=200.0, learning_rate=0.01, weight_decay=1e-4)
    if proxy:
        families.on_digits(config, sizes=(8, 16), steps=400, period=20)
        config.optimizer.learning_rate = 0.1
    return config.lock()

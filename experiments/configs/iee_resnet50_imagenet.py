"""IEE: ResNet-50 on ImageNet, 90 % sparsity.

    python -m experiments.train --config experiments/configs/iee_resnet50_imagenet.py --workdir DIR

100 epochs of batch 1024 on all devices, ERK densities, cycles of 450 steps for three quarters of training.
``--config.epochs=200`` is x2 of the paper; ``--config.distribution=uniform`` and ``--config.scope=global`` are its
other distributions.

Expected time: 1.1 hours a seed on eight accelerators at 100 TFLOP/s (an estimate from the operations of dense training,
not measured: 3 x 8.2 GFLOPs x 1,281,167 images x 100).

The paper's number: 74.3 % at 90 % and 76.2 % at 80 % sparsity; dense 76.8 % (IEE, Table 2, two runs).

``--config.proxy=True``: the task ``teacher95``, an MLP on generated data; see docs/reproduce.md.
"""

from ml_collections import ConfigDict

from experiments.configs import families


def get_config(proxy: bool = False) -> ConfigDict:
    """The configuration, locked; ``proxy`` makes it small."""
    return families.iee_imagenet(proxy).lock()

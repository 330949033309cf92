"""DST-EE: VGG-19 on CIFAR-10, 95 % sparsity.

    python -m experiments.train --config experiments/configs/dst_ee_vgg19_cifar10.py --workdir DIR

VGG-19, 160 epochs of batch 128, cosine from 0.1, ERK densities. Other rows of the table: ``--config.method=rigl``,
``set``, ``snip``, ``deepr`` and ``--config.sparsity``; without ``--config.coefficient=None`` the methods that have no
coefficient refuse it. ``python -m experiments.reproduce --table dst_ee_table1`` sets all that.

Expected time: 14 minutes a seed on one accelerator at 20 TFLOP/s (an estimate from the operations of dense training,
not measured: 3 x 0.8 GFLOPs x 45,000 images x 160).

The paper's number: 93.84, 93.53 and 92.55 % at 90, 95 and 98 % sparsity; dense 93.85 % (DST-EE, Table 1, three seeds).

``--config.proxy=True``: the task ``vgg97``, a small VGG on scikit-learn's digits; see docs/reproduce.md.
"""

from ml_collections import ConfigDict

from experiments.configs import families


def get_config(proxy: bool = False) -> ConfigDict:
    """The configuration, locked; ``proxy`` makes it small."""
    return families.dst_ee_cifar("vgg19", "cifar10", proxy).lock()

"""DST-EE: ResNet-50 on CIFAR-100, 95 % sparsity.

    python -m experiments.train --config experiments/configs/dst_ee_resnet50_cifar100.py --workdir DIR

ResNet-50, 160 epochs of batch 128, cosine from 0.1, ERK densities. Other rows of the table: ``--config.method=rigl``,
``set``, ``snip``, ``deepr`` and ``--config.sparsity``; without ``--config.coefficient=None`` the methods that have no
coefficient refuse it. ``python -m experiments.reproduce --table dst_ee_table1`` sets all that.

Expected time: 47 minutes a seed on one accelerator at 20 TFLOP/s (an estimate from the operations of dense training,
not measured: 3 x 2.6 GFLOPs x 50,000 images x 160).

The paper's number: 78.15, 77.54 and 75.68 % at 90, 95 and 98 % sparsity; dense 78.23 % (DST-EE, Table 1, three seeds).

``--config.proxy=True``: the task ``tabular97``, an MLP on generated data; see docs/reproduce.md.
"""

from ml_collections import ConfigDict

from experiments.configs import families


def get_config(proxy: bool = False) -> ConfigDict:
    """The configuration, locked; ``proxy`` makes it small."""
    return families.dst_ee_cifar("resnet50_cifar", "cifar100", proxy).lock()

"""IEE: ResNet-50 on ImageNet, two of four weights along the input channels.

    python -m experiments.train --config experiments/configs/iee_n_m_imagenet.py --workdir DIR

As the unstructured runs, with swaps inside each group of four; the first convolution stays dense. The paper prints no
epochs; these are the 100 of its other runs.

Expected time: 1.1 hours a seed on eight accelerators at 100 TFLOP/s (an estimate from the operations of dense training,
not measured).

The paper's number: 77.5 %; SR-STE 77.0 %, ASP 76.8 %, SRigL 76.6 %, STE 76.4 % (IEE, Table 5).

``--config.proxy=True``: the network and data of the task ``teacher95``, an MLP; see docs/reproduce.md.
"""

from ml_collections import ConfigDict

from experiments.configs import families


def get_config(proxy: bool = False) -> ConfigDict:
    """The configuration, locked; ``proxy`` makes it small."""
    config = families.iee_imagenet(proxy)
    config.sparsity = 0.5
    config.maskable = "^(?!Conv_0/)"  # the first one has three input channels: no group of four
    config.structure = "n_m(2, 4)"
    return config.lock()

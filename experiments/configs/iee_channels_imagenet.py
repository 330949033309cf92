"""IEE: channels of ResNet-50 on ImageNet under a budget, from scratch.

    python -m experiments.latency_table --model resnet50 --dtype bfloat16 --out resnet50.json
    python -m experiments.train --config experiments/configs/iee_channels_imagenet.py --workdir DIR
                                --config.structure="channels(budget=0.55, costs='resnet50.json')"

130 epochs of batch 1024 on all devices; masks change in the first five. Without ``--config.structure`` the budget is
one of operations, 55 % of the dense ones. ``--config.method=halp --config.update_period=40`` prunes a dense
network. In the end ``python -m experiments.compact --workdir DIR`` takes the channels out and measures how fast it is.

Expected time: 1.1 hours a seed on eight accelerators at 100 TFLOP/s (an estimate from the operations of training at
0.7 of the dense ones, not measured).

The paper's number: 76.6 % at 55 % of the latency and 74.6 % at 30 %, from scratch; dense 77.2 % (IEE, Table 1).

``--config.proxy=True``: a convolutional network on scikit-learn's digits; see docs/reproduce.md.
"""

from ml_collections import ConfigDict

from experiments.configs import families


def get_config(proxy: bool = False) -> ConfigDict:
    """The configuration, locked; ``proxy`` makes it small."""
    return families.iee_channels("resnet50", proxy).lock()

"""IEE: channels of MobileNet-V1 on ImageNet under a budget, from scratch.

    python -m experiments.latency_table --model mobilenet_v1 --dtype bfloat16 --out mobilenet.json
    python -m experiments.train --config experiments/configs/iee_channels_mobilenet.py --workdir DIR
                                --config.structure="channels(budget=0.55, costs='mobilenet.json')"

As ``iee_channels_imagenet.py``. Expected time: 0.2 hours a seed on eight accelerators at 100 TFLOP/s (an estimate from
the operations, not measured; such networks reach less of what a device can do).

The paper's number: none, but curves (IEE, Figure 3).

``--config.proxy=True``: a convolutional network on scikit-learn's digits; see docs/reproduce.md.
"""

from ml_collections import ConfigDict

from experiments.configs import families


def get_config(proxy: bool = False) -> ConfigDict:
    """The configuration, locked; ``proxy`` makes it small."""
    return families.iee_channels("mobilenet_v1", proxy).lock()

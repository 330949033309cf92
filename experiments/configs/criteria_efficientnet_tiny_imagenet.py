"""Pruning criteria: EfficientNet-B0 on Tiny-ImageNet.

    python -m experiments.train --config experiments/configs/criteria_efficientnet_tiny_imagenet.py --workdir DIR

100 epochs, every convolution masked. Rate, decay and period are those of the text; the released script has a weight
decay of 1e-3, plain momentum and a period of 100. The other criteria: ``--config.drop=set``, ``mest``, ``snip``,
``rsensitivity``; ``--config.grow=gradient`` for the other growth.

Expected time: 13 minutes a seed on one accelerator (an estimate from 78,100 steps of 10 ms, not measured).

The paper's number: curves only (pruning criteria, Figures 1 and 14).

``--config.proxy=True``: the whole network on scikit-learn's digits, since it takes no sizes, 12 steps: it shows that
the path runs, no accuracy.
"""

from ml_collections import ConfigDict

from experiments.configs import families


def get_config(proxy: bool = False) -> ConfigDict:
    """The configuration, locked; ``proxy`` makes it small."""
    config = families.criteria("efficientnet_b0", "tiny_imagenet", epochs=100.0, learning_rate=0.01, weight_decay=1e-4)
    config.optimizer.factor = 0.001  # as Appendix A.2 prints it; the other networks have 0.1
    if proxy:
        families.on_digits(config, sizes=None, steps=12, period=4)
        config.batch_size = 16
    return config.lock()

"""Pruning criteria: small-MLP on Higgs.

    python -m experiments.train --config experiments/configs/criteria_small_mlp_higgs.py --workdir DIR

One logit, no scaling of the features, 100 epochs. The other criteria: ``--config.drop=set``, ``mest``, ``snip``,
``rsensitivity``; ``--config.grow=gradient`` for the other growth.

Expected time: 2 minutes a seed on one accelerator (an estimate from 514,200 steps of 0.2 ms, not measured).

The paper's number: curves only (pruning criteria, Figure 1).

``--config.proxy=True``: two hidden layers on the pairs of a generated graph, 400 steps, seconds on two cores.
"""

from ml_collections import ConfigDict

from experiments.configs import families


def get_config(proxy: bool = False) -> ConfigDict:
    """The configuration, locked; ``proxy`` makes it small."""
    config = families.criteria("small_mlp", "higgs", epochs=100.0, learning_rate=0.01)
    if proxy:
        families.small(config, steps=400, period=20)
        config.dataset = "blockgraph"
        config.model.sizes = (64, 64)
        config.optimizer.learning_rate = 0.1
        config.batch_size = 512
    return config.lock()

"""Regrowing strategies: the MLP of SET on CIFAR-10.

    python -m experiments.train --config experiments/configs/regrowing_set_mlp_cifar10.py --workdir DIR

3072-4000-1000-4000-10 with LeakyReLU, epsilon 20, a dense output layer, 1000 epochs of batch 100 with a mask update
each. ``--config.method=accset``, ``lset`` and ``dynset`` grow back fewer connections the better the network performs.

Expected time: 8 minutes a seed on one accelerator (an estimate from 500,000 steps of 1 ms, not measured).

The paper's number: SET 66.82 % with 342,493 connections, AccSET 64.94 % with 218,730, LSET 66.11 % with 254,087, DynSET
66.53 % with 253,916 (regrowing strategies, Table 2, one run).

``--config.proxy=True``: 64-200-50-200-10 on scikit-learn's digits, 600 steps, seconds on two cores.
"""

from ml_collections import ConfigDict

from experiments.configs import families


def get_config(proxy: bool = False) -> ConfigDict:
    """The configuration, locked; ``proxy`` makes it small."""
    return families.regrowing("cifar10", proxy).lock()

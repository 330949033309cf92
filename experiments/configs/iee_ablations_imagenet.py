"""IEE: the ablations, ResNet-50 on ImageNet, 90 % sparsity.

    python -m experiments.train --config experiments/configs/iee_ablations_imagenet.py --workdir DIR

The setting that the ablations start from. ``--config.stages='(200, 200, 200)' --config.update_period=600`` changes the
three stages, ``--config.freeze=False`` trains the active weights while the others are explored,
``--config.explore_from=zero`` has no most recent values.

Expected time: 1.1 hours a variant on eight accelerators at 100 TFLOP/s (an estimate from the operations of dense
training, not measured).

The paper's number: 74.3 %; 73.6 % without freezing, 73.4 % without accuracy improvement, 74.0 % from zero (IEE, Table
4).

``--config.proxy=True``: the task ``digits98``, an MLP on scikit-learn's digits; see docs/reproduce.md.
"""

from ml_collections import ConfigDict

from experiments.configs import families, tasks


def get_config(proxy: bool = False) -> ConfigDict:
    """The configuration, locked; ``proxy`` makes it small."""
    config = families.iee_imagenet(proxy=False)
    config.stages = (150, 150, 150)
    if proxy:
        tasks.on_task(config, "digits98")
        config.stages = (10, 10, 10)
        config.update_period = 30
    return config.lock()

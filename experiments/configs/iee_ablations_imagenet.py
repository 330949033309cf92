"""IEE: the ablations, ResNet-50 on ImageNet, 90 % sparsity.

    python -m experiments.train --config experiments/configs/iee_ablations_imagenet.py --workdir DIR

The setting that the ablations start from. ``--config.stages='(200, 200, 200)' --config.update_period=600`` changes the
three stages, ``--config.freeze=False`` trains the active weights while the others are explored,
``--config.explore_from=zero`` has no most recent values.

Expected time: 1.1 hours a variant on eight accelerators at 100 TFLOP/s (an estimate from the operations of dense
training, not measured).

The paper's number: 74.3 %; 73.6 % without freezing, 73.4 % without accuracy improvement, 74.0 % from zero (IEE, Table
4).

``--config.proxy=True``: an MLP on scikit-learn's digits at 98 % sparsity, 900 steps, under half a minute on two cores.
"""

from ml_collections import ConfigDict

from experiments.configs import families


def get_config(proxy: bool = False) -> ConfigDict:
    """The configuration, locked; ``proxy`` makes it small."""
    config = families.iee_imagenet(proxy=False)
    config.stages = (150, 150, 150)
    if proxy:
        families.on_digits(config, sizes=(300, 100), steps=900, period=30)
        config.model.name = "mlp"
        config.sparsity = 0.98
        config.stages = (10, 10, 10)
        config.optimizer.learning_rate = 0.1
        config.optimizer.momentum = 0.9
        config.optimizer.weight_decay = 5e-4
        config.optimizer.warmup_steps = 0
        config.label_smoothing = 0.0
    return config.lock()

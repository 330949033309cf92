"""Pruning criteria: ResNet-50 on ImageNet, density 0.2.

    python -m experiments.train --config experiments/configs/criteria_resnet50_imagenet.py --workdir DIR

90 epochs of batch 256, gradient growth. The steps of the rate are those of the text; the released code divides at 30,
60 and 80 epochs. The other criteria: ``--config.drop=set``, ``mest``, ``snip``, ``rsensitivity``;
``--config.grow=gradient`` for the other growth.

Expected time: 8 hours a seed on one accelerator at 100 TFLOP/s (an estimate from the operations of dense training, not
measured: 3 x 8.2 GFLOPs x 1,281,167 images x 90).

The paper's number: curves only (pruning criteria, Figure 2).

``--config.proxy=True``: the task ``teacher95``, an MLP on generated data; see docs/reproduce.md.
"""

from ml_collections import ConfigDict

from experiments.configs import families, tasks


def get_config(proxy: bool = False) -> ConfigDict:
    """The configuration, locked; ``proxy`` makes it small."""
    config = families.criteria(
        "resnet50", "imagenet", epochs=90.0, learning_rate=0.1, weight_decay=1e-4, batch_size=256
    )
    families.imagenet(config, batch_size=256, epochs=90.0)
    config.sparsity = 0.8
    config.grow = "gradient"
    config.seeds = 3
    if proxy:
        tasks.on_task(config, "teacher95")
    return config.lock()

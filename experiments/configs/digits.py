"""A small network on scikit-learn's digits: 1,797 real handwritten digits of 8 x 8 pixels.

    python -m experiments.train --config experiments/configs/digits.py --workdir runs/digits --config.seeds=5

RigL at 98 % sparsity, 1,004 of 50,200 weights, 2,000 steps. Expected: 10 seconds on 2 CPU cores, half of them
compilation, and a test accuracy of 95.3 % (mean of seeds 0 to 4, standard deviation 1.1). Other methods in the same
place, ``--config.method=...``: static 84.1 %, set 93.7 %, dst_ee 94.7 %, dense 97.8 %.
"""

from ml_collections import ConfigDict, config_dict

from experiments.configs import fields


def get_config() -> ConfigDict:
    """The configuration, locked. A field that is None leaves the matter to the method or the model."""
    # Every hyper-parameter of every method is a field, see dstjax.methods.hyperparameters(name). Rules may be given as
    # module:function, a distribution as '{"regex": density, ...}', a structure as 'n_m(2, 4)'.
    config = fields.hyperparameters()
    config.method = "rigl"
    config.sparsity = 0.98
    config.update_period = 25
    config.end_percent = 75.0  # of all steps; where end_step is None
    config.prune_percent = 50.0  # of all steps; where prune_step is None: methods that train dense and prune once

    config.dataset = "digits"
    config.model = ConfigDict()
    config.model.name = "mlp"  # see experiments.models.names()
    config.model.sizes = config_dict.placeholder(tuple)  # hidden layers of the mlp, stages of conv; None: its own

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # sgd (Nesterov) or adamw
    config.optimizer.learning_rate = 0.1  # at the start of a cosine that ends at 0
    config.optimizer.momentum = 0.9  # sgd only
    config.optimizer.weight_decay = 5e-4
    config.batch_size = 64
    config.steps = 2000

    config.seeds = config_dict.placeholder(object)  # a number n for 0 .. n-1, or a tuple of seeds
    config.seeds = 1
    config.seeds_mode = "auto"  # vmap, sequential, or auto: vmap on accelerators
    config.eval_every_epochs = 5
    config.checkpoint_every_epochs = 50
    config.log_every_epochs = 25  # where there is no terminal for a progress bar
    config.tensorboard = False
    return config.lock()

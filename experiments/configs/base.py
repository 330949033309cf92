"""All fields of a config, with defaults that stand for nothing in particular; each experiment sets what is its own."""

from ml_collections import ConfigDict, config_dict

from experiments.configs import fields


def base() -> ConfigDict:
    """The fields, not locked. A field that is None leaves the matter to the method, the model or the data."""
    # Every hyper-parameter of every method is a field, see dstjax.methods.hyperparameters(name). Rules may be given as
    # module:function, a distribution as '{"regex": density, ...}', a structure as 'n_m(2, 4)', the leaves
    # to mask as a regular expression of their paths.
    config = fields.hyperparameters()
    config.method = "rigl"
    config.end_percent = 75.0  # of all steps; where end_step is None
    config.prune_percent = 50.0  # of all steps; where prune_step is None: methods that train dense and prune once
    config.start_percent = config_dict.placeholder(float)  # of all steps; where start_step is None
    config.prune_end_percent = config_dict.placeholder(float)  # of all steps; where prune_end_step is None
    config.period_percent = config_dict.placeholder(float)  # of all steps; where update_period is None
    config.proxy = False  # whether get_config made the small stand-in of the experiment

    config.dataset = "digits"  # see experiments.data.names()
    config.protocol = config_dict.placeholder(str)  # the split and preprocessing of a paper; None: the data set's own
    config.data_root = config_dict.placeholder(str)  # folder of data sets; None: $DSTJAX_DATA, else ~/dstjax_data
    config.model = ConfigDict()
    config.model.name = "mlp"  # see experiments.models.names()
    config.model.sizes = config_dict.placeholder(tuple)  # of its layers or stages; None: its own
    config.model.dtype = config_dict.placeholder(str)  # of the computation, such as bfloat16; None: that of the input

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # sgd or adamw
    config.optimizer.learning_rate = 0.1
    # cosine: to 0 at the end; constant; steps: times factor at each milestone; exponential: to factor at the end
    config.optimizer.schedule = "cosine"
    config.optimizer.milestones = (0.5, 0.75)  # shares of all steps
    config.optimizer.factor = 0.1
    config.optimizer.warmup_steps = 0  # the rate rises from 0 before the schedule begins
    config.optimizer.trainings = 1  # so many of equal length, each with the schedule from its beginning
    config.optimizer.momentum = 0.9  # sgd only
    config.optimizer.nesterov = True  # sgd only
    config.optimizer.weight_decay = 5e-4
    config.label_smoothing = 0.0
    config.batch_size = 128
    config.steps = config_dict.placeholder(int)  # one of steps and epochs
    config.epochs = config_dict.placeholder(float)

    config.devices = config_dict.placeholder(object)  # a number, or 'all': the batch is spread over them
    config.devices = 1
    config.shard_params = False  # whether parameters and state are spread over the devices too
    config.accumulate = 1  # micro-batches in a step
    config.on_nonfinite = "raise"  # a gradient that is not finite: 'skip' leaves the step out, 'pass' takes it

    config.seeds = config_dict.placeholder(object)  # a number n for 0 .. n-1, or a tuple of seeds
    config.seeds = 1
    config.seeds_mode = "auto"  # vmap, sequential, or auto: vmap on accelerators
    config.eval_every_epochs = 5
    config.checkpoint_every_epochs = 50
    config.log_every_epochs = 25  # where there is no terminal for a progress bar
    config.tensorboard = False  # write DIR/tensorboard too: see docs/reproduce.md
    return config

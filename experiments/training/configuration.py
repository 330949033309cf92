"""From a config to what it stands for; everything wrong with it is found here, before anything runs."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import optax
from ml_collections import ConfigDict

import dstjax
from dstjax.checks import check_choice, check_integer, check_number, check_step, suggest
from experiments import data, models
from experiments.training import inputs, optimisers, rules
from experiments.training.trainer import MakeTransformation

# The fields that are no hyper-parameters of a method.
RUN_FIELDS = (
    *("method", "proxy", "dataset", "protocol", "data_root", "model", "optimizer"),
    *("end_percent", "prune_percent", "start_percent", "prune_end_percent", "period_percent"),
    *("label_smoothing", "batch_size", "steps", "epochs", "devices", "shard_params", "accumulate", "on_nonfinite"),
    *("seeds", "seeds_mode"),
    *("eval_every_epochs", "checkpoint_every_epochs", "log_every_epochs", "tensorboard"),
)
# What a method without such a hyper-parameter may leave aside, as long as nobody has set it for this run.
SHARED_FIELDS = (
    *("sparsity", "distribution", "update_period", "start_step", "end_step", "end_percent", "prune_percent"),
    *("start_percent", "period_percent", "drop_fraction", "drop_schedule", "structure", "maskable"),
)
# What rows that differ in the method alone have in common besides.
SAME_UPDATES = ("rounding", "update_order")
NESTED_FIELDS = {
    "model": ("name", "sizes", "dtype"),
    "optimizer": (
        *("name", "learning_rate", "schedule", "milestones", "factor", "warmup_steps", "trainings"),
        *("momentum", "nesterov", "weight_decay"),
    ),
}
# A share of all steps for a number of them.
STANDS_FOR = {
    **{"end_percent": "end_step", "prune_percent": "prune_step", "start_percent": "start_step"},
    **{"prune_end_percent": "prune_end_step", "period_percent": "update_period"},
}
# What changes no result, or on devices of another number the rounding alone: a run may go on with others.
DISPLAY_FIELDS = ("log_every_epochs", "tensorboard", "devices", "shard_params")
MOST_SEEDS = 100_000


class Plan(NamedTuple):
    """A checked config."""

    method: dstjax.Method
    hyperparameters: dict[str, Any]  # those of the method, defaults included, JSON values
    model: nn.Module
    schedule: Callable[[Any], Any]  # learning rate of a step, counted from 0
    make_tx: MakeTransformation
    data: data.Data | data.Stream
    seeds: list[int]
    mode: str  # 'vmap' or 'sequential'
    steps: int
    devices: list[jax.Device]
    rules: dict[str, rules.Own | Path]  # the user's own, by the field that names them, and files
    changed: Callable[..., dstjax.Method]  # the method with other hyper-parameters, traced ones too
    wrap: Callable[[dstjax.Method], MakeTransformation]  # ``make_tx`` of another method


def plan(config: ConfigDict, defaults: ConfigDict | None = None) -> Plan:
    """Checks a config and makes what it names.

    Args:
      config: see ``experiments/configs/digits.py``.
      defaults: the config before anyone changed it for this run; None where nobody did.

    Raises:
      ValueError: an unknown field or name, a value that is not accepted, or fields that contradict each other.
    """
    _check_fields(config)
    check_choice("dataset", config.dataset, data.names())
    if (task := data.DATASETS[config.dataset].task) != "classification":
        raise ValueError(
            f"dataset={config.dataset!r} is not accepted; it is one of {task}; expected one of classification."
        )
    streamed = data.DATASETS[config.dataset].load is None
    read = data.stream if streamed else data.load
    dataset = read(config.dataset, root=config.data_root, protocol=config.protocol)
    if config.batch_size > dataset.sizes[0]:
        raise ValueError(
            f"batch_size={config.batch_size} is not accepted; expected at most {dataset.sizes[0]}, the samples of "
            f"{config.dataset}."
        )
    steps = _steps(config, dataset.sizes[0])
    model = models.make(config.model.name, classes=dataset.classes, sizes=config.model.sizes, dtype=config.model.dtype)
    sample = tuple(dataset.shape if isinstance(dataset, data.Stream) else dataset.x.shape[1:])
    method, hyperparameters, own, changed = _method(config, defaults or config, steps, (model, sample))
    _check_times(method, hyperparameters, steps)
    schedule = optimisers.schedule(config.optimizer, steps)
    inner = optimisers.make(config.optimizer, schedule)
    track = () if method.masking is None else ("exploration",) if method.updates is None else dstjax.transform.TRACKABLE

    def wrap(method: dstjax.Method) -> MakeTransformation:
        def make_tx(seed: Any, initial_masks: Any = None) -> optax.GradientTransformationExtraArgs:
            lost = "skip" if config.on_nonfinite == "skip" else "pass"  # with 'raise' the run stops after an epoch
            return dstjax.sparsify(
                inner, method, seed=seed, track=track, initial_masks=initial_masks, on_nonfinite=lost
            )

        return make_tx

    mode = config.seeds_mode
    if mode == "auto":
        mode = "sequential" if jax.default_backend() == "cpu" else "vmap"
    devices = _devices(config)
    if mode == "vmap" and (streamed or len(devices) > 1):
        if config.seeds_mode == "vmap":
            raise ValueError("seeds_mode='vmap' is not accepted with streamed data or several devices; use sequential.")
        mode = "sequential"
    seeds = _seeds(config.seeds)
    made = wrap(method)
    return Plan(
        method, hyperparameters, model, schedule, made, dataset, seeds, mode, steps, devices, own, changed, wrap
    )


def identity(config: ConfigDict) -> dict[str, Any]:
    """What makes a run this run: the config as JSON values.

    Raises:
      ValueError: a field holds something else.
    """
    try:
        return json.loads(json.dumps(config.to_dict()))
    except TypeError as error:
        raise ValueError(f"a field of the config cannot be written down: {error}; expected JSON values.") from error


def without_display(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity without what only concerns the display, and without what is None.

    So a run stays the one it was when a later version has hyper-parameters more.
    """
    return {name: value for name, value in identity.items() if name not in DISPLAY_FIELDS and value is not None}


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """The fields in which two identities differ, other than what only concerns the display."""
    found = []
    for name in sorted((ours.keys() | theirs.keys()) - set(DISPLAY_FIELDS)):
        a, b = ours.get(name), theirs.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += [f"{name}.{difference}" for difference in differences(a, b)]
        elif a != b:
            found.append(f"{name} ({b!r} there, {a!r} now)")
    return found


def foreign(config: ConfigDict, methods: Iterable[str]) -> set[str]:
    """The fields of a config that are hyper-parameters, but of none of the methods."""
    every = dstjax.methods.names(channels=True)
    return (rules.hyperparameters(every) - rules.hyperparameters(methods)) & {*config.keys()}


def change_method(config: ConfigDict, method: str, instead: Mapping[str, Any] | None = None) -> None:
    """Sets the method; a hyper-parameter that it does not have becomes None.

    Where ``instead`` is given, the config before anyone changed it for this run, one of ``SHARED_FIELDS`` becomes what
    it is there, since a method may leave it aside; and what the config sets for its own method, such as a criterion,
    becomes None, but ``SAME_UPDATES``.
    """
    own = config.method
    with config.unlocked():
        config.method = method
        for name in foreign(config, [method]):
            config[name] = None if instead is None or name not in SHARED_FIELDS else instead[name]
        if instead is None or method == own:
            return
        for name in rules.hyperparameters([method]) & {*config.keys()} - {*SHARED_FIELDS, *SAME_UPDATES}:
            if config[name] == instead.get(name):
                config[name] = None


def _check_fields(config: ConfigDict) -> None:
    known = {*RUN_FIELDS, *rules.hyperparameters([*dstjax.methods.names(channels=True), config.method])}
    for name in config:
        if name not in known:
            raise ValueError(f"config field {name!r} is not known; {suggest(name, sorted(known))}")
    for name in RUN_FIELDS:
        if name not in config:
            raise ValueError(f"config field {name!r} is missing.")
    for section, names in NESTED_FIELDS.items():
        for name in {*config[section], *names}:
            if name not in names:
                raise ValueError(f"config field '{section}.{name}' is not known; {suggest(name, names)}")
            if name not in config[section]:
                raise ValueError(f"config field '{section}.{name}' is missing.")
    for name in ("batch_size", "accumulate", "eval_every_epochs", "checkpoint_every_epochs", "log_every_epochs"):
        check_integer(name, config[name], 1)
    if config.batch_size % config.accumulate:
        raise ValueError(f"accumulate={config.accumulate} is not accepted; expected a divisor of the batch size, "
                         f"{config.batch_size}.")  # fmt: skip
    check_choice("on_nonfinite", config.on_nonfinite, ("raise", "skip", "pass"))
    check_number("label_smoothing", config.label_smoothing, "a number in [0, 1)", lambda v: 0 <= v < 1)
    for name in ("shard_params", "proxy", "tensorboard"):
        if not isinstance(config[name], bool):
            raise ValueError(f"{name}={config[name]!r} is not accepted; expected True or False.")
    for name in STANDS_FOR:
        if config[name] is not None:
            check_number(name, config[name], "a number in (0, 100]", lambda p: 0 < p <= 100)
    check_choice("seeds_mode", config.seeds_mode, ("auto", "vmap", "sequential"))


def _method(
    config: ConfigDict, defaults: ConfigDict, steps: int, network: tuple[nn.Module, tuple[int, ...]]
) -> tuple[dstjax.Method, dict[str, Any], dict[str, rules.Own | Path], Callable[..., dstjax.Method]]:
    accepted = rules.defaults(config.method)
    given: dict[str, Any] = {}
    for name in config:
        value = config[name]
        if (name in RUN_FIELDS and name not in STANDS_FOR) or value is None:
            continue
        if STANDS_FOR.get(name, name) in accepted:
            given[name] = value
        elif name not in SHARED_FIELDS or value != defaults.get(name):
            others = suggest(name, accepted) if accepted else "it has none."
            if value == defaults.get(name) and defaults.method != config.method:
                others = f"the config sets it for {defaults.method!r}; leave it out by --config.{name}=None."
            raise ValueError(f"method {config.method!r} has no hyper-parameter {name!r}; {others}")
    for short, name in STANDS_FOR.items():
        percent = given.pop(short, None)
        if percent is not None and given.get(name) is None:
            given[name] = max(1, share_of_steps(short, percent, steps))
        elif percent is not None and percent != defaults[short]:
            raise ValueError(f"{name}={given[name]} is not accepted together with {short}={percent}; give one.")
    if config.method == "set" and "epsilon" in given and config.get("sparsity") == defaults.get("sparsity"):
        given.pop("sparsity", None)
    shown = {n: v for n, v in {**accepted, **given}.items() if isinstance(v, str | int | float)}
    resolved = {
        n: rules.resolved(n, v, network) if n in (*rules.RULES, "structure", "maskable") else v
        for n, v in given.items()
    }
    own: dict[str, rules.Own | Path] = {
        name: rules.Own(resolved[name], given[name]) for name in rules.RULES if rules.is_rule(given.get(name))
    }
    table = rules.costs_of(given.get("structure"))
    own |= {} if table is None else {inputs.TABLE: table}
    make = rules.entry(config.method)

    def changed(**others: Any) -> dstjax.Method:
        return make(**{**resolved, **others})

    if not rules.is_rule(config.method):
        return changed(), shown, own, changed
    try:
        method = changed()
    except TypeError as error:
        raise ValueError(f"method={config.method!r} is not accepted: {error}.") from error
    if not isinstance(method, dstjax.Method):
        raise ValueError(f"method={config.method!r} returns {type(method).__name__}; expected a dstjax.Method.")
    return method, shown, {**own, "method": rules.Own(make, config.method)}, changed


def _check_times(method: dstjax.Method, hyperparameters: Mapping[str, Any], steps: int) -> None:
    """Refuses a training without a mask update, or one that ends before the network is as sparse as it is to be."""
    times: Any = None if method.updates is None else method.updates.schedule
    first, last = getattr(times, "first", None), getattr(times, "last", None)
    if first is not None and first > steps:
        raise ValueError(
            f"the first mask update of {method.name!r} is that of step {first}, and the training has {steps} steps; "
            "expected a shorter update_period, an earlier start_step or prune_step, or more steps."
        )
    if method.promises == "kept" or (method.promises == "free" and method.seen.view is None):
        return
    ends = [n for name in ("end_step", "prune_step") if (n := hyperparameters.get(name)) is not None]
    end = max(ends, default=0) if last is None else last
    most = steps - 1 if method.start.prune_step else steps  # a pruner is called between two steps
    if end > most:
        raise ValueError(
            f"{method.name!r} has its final sparsity at step {end}, and the training has {steps} steps; expected an "
            f"end_step or prune_step of at most {most}."
        )


def share_of_steps(field: str, percent: float, steps: int) -> int:
    """The steps that a percentage stands for: a period to the nearest number, a time rounded down."""
    return round(percent / 100 * steps) if field == "period_percent" else math.floor(percent / 100 * steps)


def _steps(config: ConfigDict, samples: int) -> int:
    """The steps of the run."""
    if (config.steps is None) == (config.epochs is None):
        raise ValueError(
            f"steps={config.steps} and epochs={config.epochs} are not accepted together; give one of them."
        )
    if config.steps is not None:
        check_step("steps", config.steps, 1)
        return int(config.steps)
    check_number("epochs", config.epochs, "a finite number > 0", lambda v: 0 < v < math.inf)
    return max(1, round(config.epochs * (samples // config.batch_size)))


def _devices(config: ConfigDict) -> list[jax.Device]:
    """The devices that share the batch."""
    found = jax.devices()
    if config.devices == "all":
        chosen = found
    else:
        check_integer("devices", config.devices, 1)
        if config.devices > len(found):
            raise ValueError(f"devices={config.devices} is not accepted; there are {len(found)}.")
        chosen = found[: config.devices]
    if (config.batch_size // config.accumulate) % len(chosen):
        raise ValueError(
            f"batch_size={config.batch_size} is not accepted with {len(chosen)} devices and {config.accumulate} "
            "micro-batches; expected a multiple of their product."
        )
    return chosen


def _seeds(value: Any) -> list[int]:
    accepted = f"expected a number of seeds from 1 to {MOST_SEEDS:,}, or different integers in [0, 2**31)"
    if isinstance(value, str):
        parts = value.split(",")
        numbers = [int(part) for part in parts] if all(p.strip().isdecimal() for p in parts) else []
        value = numbers[0] if len(numbers) == 1 else numbers or value  # 05 is a number of seeds, as 5 is
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_SEEDS:
        return list(range(value))
    seeds = list(value) if isinstance(value, list | tuple) else []
    integers = all(isinstance(s, int) and not isinstance(s, bool) and 0 <= s < 2**31 for s in seeds)
    if not seeds or not integers or len({*seeds}) < len(seeds):
        raise ValueError(f"seeds={value!r} is not accepted; {accepted}.")
    return seeds

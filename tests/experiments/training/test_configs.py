"""Every config makes a valid plan and trains, on generated data of its true shape; its proxy is small."""

import functools
import importlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import configs, data, models
from experiments.data import Data, Stream
from experiments.training import configuration, feeds
from experiments.training.run import train_and_evaluate
from tests.thorough import few, slow

FILES = sorted(Path(configs.__file__).parent.glob("*.py"))
SHARED = ("__init__", "base", "fields", "families", "tasks", "digits")
NAMES = [p.stem for p in FILES if p.stem not in SHARED and not p.stem.startswith("task_")]
# Shape of a sample, classes, and how many there are for training.
TRUE = {
    "cifar10": ((32, 32, 3), 10, 45_000),
    "cifar100": ((32, 32, 3), 100, 45_000),
    "fashion_mnist": ((28, 28, 1), 10, 54_000),
    "higgs": ((24,), 2, 658_112),
    "imagenet": ((224, 224, 3), 1000, 1_281_167),
    "tiny_imagenet": ((64, 64, 3), 200, 100_000),
    "ia_email": ((16,), 2, 1_377_684),
    "wiki_talk": ((16,), 2, 9_399_768),
}
# Widths that compile in seconds; pictures keep their true shape. None: the network as it is.
NARROW = {
    "vgg19": (4, 4),
    "vgg16": (4, 4),
    "resnet50_cifar": (4,),
    "resnet50": (4,),
    "resnet56": (4,),
    "wrn22_2": (4,),
    "set_mlp": (40, 10, 40),
    "large_mlp": (64, 32),
}
WHOLE = "efficientnet"  # takes no widths: with the slow tests


def get(name, **options):
    return importlib.import_module(f"experiments.configs.{name}").get_config(**options)


def generated(name, *, samples=12):
    """Noise of the true shape, a dozen samples; ``samples`` is what it says that there are for training."""
    count = 12
    shape, classes, _ = TRUE[name]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3 * count, *shape)).astype(np.float32)
    y = (np.arange(3 * count) % min(classes, count)).astype(np.int32)
    if data.DATASETS[name].load is not None:
        return Data(x, y, classes, (samples, count, count), f"generated {name}")

    def sample(i, rng=None):
        return {"x": x[i], "y": y[i]}

    parts = (range(samples), range(count, 2 * count), range(2 * count, 3 * count))
    return Stream(*parts, sample, sample, classes, shape, f"generated {name}")


@pytest.fixture
def tiny_data(monkeypatch):
    monkeypatch.setattr(feeds, "EVALUATION_BATCH", 4)
    monkeypatch.setattr(data, "load", lambda name, **_: generated(name))
    monkeypatch.setattr(data, "stream", lambda name, **_: generated(name))


def shrunk(config, *, narrow):
    """The config with two steps of a small batch; what is a share of training follows."""
    with config.unlocked():
        config.batch_size = 4
        if narrow:
            config.model.sizes = NARROW.get(config.model.name)
        config.steps, config.epochs = 2, None
        config.update_period, config.seeds, config.devices = 1, 1, 1
        config.optimizer.warmup_steps = min(config.optimizer.warmup_steps, 1)
        config.eval_every_epochs = 100
        if config.method in ("iee", "iee_structured"):
            config.steps, config.update_period, config.stages = 6, 4, (2, 1, 1)
            config.end_percent = 75.0  # some end in the first steps
    return config


def test_there_is_a_config_for_each_experiment():
    papers = {name.split("_")[0] for name in NAMES}
    assert papers == {"dst", "iee", "criteria", "regrowing"}
    assert len(NAMES) >= 20


@pytest.mark.parametrize("name", NAMES)
def test_docstring_says_command_time_and_number(name):
    doc = importlib.import_module(f"experiments.configs.{name}").__doc__
    assert f"python -m experiments.train --config experiments/configs/{name}.py" in doc
    for part in ("Expected time: ", "estimate", "The paper's number: ", "--config.proxy=True"):
        assert part in doc


@functools.cache
def trace(model, shape):
    """Raises if the network does not take a sample."""
    x = jax.ShapeDtypeStruct((1, *shape), np.float32)
    jax.eval_shape(lambda k, x: model.init(k, x, train=False), jax.random.key(0), x)


# Reading the channels of a network takes seconds.
@few(4)
@pytest.mark.parametrize("name", [slow(n) if n.startswith("iee_channels") else n for n in NAMES])
def test_plan_at_full_size(name, monkeypatch):
    """The true config, with the true number of samples; nothing is trained."""
    config = get(name)
    shape, classes, samples = TRUE[config.dataset]
    for read in ("load", "stream"):
        monkeypatch.setattr(data, read, lambda name, **_: generated(name, samples=samples))
    with config.unlocked():
        config.devices = 1
    found = configuration.plan(config)
    assert found.steps > 10_000
    assert found.model.classes == classes
    trace(found.model, shape)
    period, first = config.update_period, 0 if config.end_percent < 50 else found.steps // 2
    assert any(found.method.is_update_step(t) for t in range(first, first + 2 * period))


# Of pairs of nodes, and of pictures by convolutions with statistics of a batch; the slow tests train all.
QUICK = ["dst_ee_links_ia_email", "dst_ee_vgg19_cifar10"]


@few(1)
@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else slow(n) for n in NAMES if WHOLE not in n],
)
def test_trains_on_data_of_the_true_shape(name, tmp_path, tiny_data):
    summary = train_and_evaluate(shrunk(get(name), narrow=True), tmp_path, quiet=True)
    assert np.isfinite(summary["test_loss"]).all()


# Narrow ones of the same layers are trained above, and all are traced at full size.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["dst_ee_vgg19_cifar10", *(n for n in NAMES if WHOLE in n)])
def test_trains_the_whole_network(name, tmp_path, tiny_data):
    summary = train_and_evaluate(shrunk(get(name), narrow=False), tmp_path, quiet=True)
    assert np.isfinite(summary["test_loss"]).all()


@pytest.mark.parametrize("name", NAMES)
def test_proxy_is_small_and_needs_no_files(name):
    config = get(name, proxy=True)
    assert config.proxy
    assert config.dataset in ("digits", "blockgraph", "tabular", "teacher")
    assert config.model.name in models.names()
    assert configuration.plan(config).steps <= 2800


def test_no_proxy_has_the_settings_of_the_full_run_changed_in_the_module():
    first = json.dumps(configuration.identity(get("iee_n_m_imagenet")), sort_keys=True)
    get("iee_n_m_imagenet", proxy=True)
    assert json.dumps(configuration.identity(get("iee_n_m_imagenet")), sort_keys=True) == first


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_proxy_trains_to_its_end(name, tmp_path):
    summary = train_and_evaluate(get(name, proxy=True), tmp_path, quiet=True)
    assert summary["steps"] == configuration.plan(get(name, proxy=True)).steps
    assert np.isfinite(summary["test_loss"]).all()

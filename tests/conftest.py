"""Settings that every test runs under; pytest reads this file before it imports any test."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Eight virtual devices, for the tests of sharding. XLA reads this when jax makes its first array.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ["JAX_PLATFORMS"] = "cpu"

import hypothesis
import jax
import pytest
from jax.sharding import AxisType

from tests import contexts
from tests.hearing import hearing
from tests.thorough import leave_to_make_slow

MANY_MAPS = 30_000

# (3,) + (2, 3) is more often a bug than meant.
jax.config.update("jax_numpy_rank_promotion", "raise")


# Compiling is most of what the tests do, and few of them ask how good a program is: the others leave out what takes XLA
# longest. The partitioner comes before that, so collectives are those of any program. Processes that a test starts do
# so too.
CHEAP = "jax_disable_most_optimizations"
# One module of code a program: XLA makes 32 by default, for as many cores, each with what it costs to begin.
# XLA ends a process that gives it a flag it does not know, as those after jax 0.10 do with the emitters'.
CHEAP_FLAGS = " ".join(
    [
        "--xla_cpu_parallel_codegen_split_count=1",
        *(["--xla_cpu_use_fusion_emitters=false"] if jax.__version_info__ < (0, 11) else []),
    ]
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--optimised", action="store_true", help="run the tests marked optimised alone, with all of XLA's optimisations"
    )


def is_thorough(config: pytest.Config) -> bool:
    """Whether these are the slow tests, as in ``make slow``: properties are among them then, with all examples."""
    return config.getoption("markexpr") == "slow"


def pytest_itemcollected(item: pytest.Item) -> None:
    if is_thorough(item.config) and hypothesis.is_hypothesis_test(getattr(item, "obj", None)):
        item.add_marker("slow")


def pytest_configure(config: pytest.Config) -> None:
    # Compilation takes far longer than any tiny example, so no deadline. In CI the same examples every time.
    examples = 100 if is_thorough(config) else 25
    hypothesis.settings.register_profile(
        "tests", deadline=None, derandomize=bool(os.environ.get("CI")), max_examples=examples
    )
    hypothesis.settings.load_profile("tests")
    # Nobody reads from which line an operation of a program came, and to write it down takes a twentieth of the time.
    settings: dict[str, Any] = {"jax_traceback_in_locations_limit": 0}
    if not config.getoption("--optimised"):
        os.environ["XLA_FLAGS"] += f" {CHEAP_FLAGS}"
        settings[CHEAP] = True
    # A second run takes the programs of the first.
    cache = getattr(config, "cache", None)
    if cache is not None:
        settings["jax_compilation_cache_dir"] = str(cache.mkdir("jax"))
        settings["jax_persistent_cache_min_compile_time_secs"] = 0.0
        settings["jax_persistent_cache_min_entry_size_bytes"] = -1
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)
    contexts.share()


@pytest.hookimpl(tryfirst=True)  # before pytest looks for what is slow
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A process compiles one way or the other, since XLA reads its flags once."""
    leave_to_make_slow(items)
    kinds: dict[bool, list[pytest.Item]] = {True: [], False: []}
    for item in items:
        marked = item.get_closest_marker("optimised") is not None
        if marked and "dstjax" not in item.path.relative_to(config.rootpath).parts:
            raise pytest.UsageError(f"{item.nodeid}: --optimised runs on tests/dstjax alone, which is quick to import")
        kinds[marked].append(item)
    wanted = config.getoption("--optimised")
    items[:] = kinds[wanted]
    config.hook.pytest_deselected(items=kinds[not wanted])


def pytest_collection_finish() -> None:
    """Python looks for garbage less often, and not among modules and tests: tracing makes much that is none."""
    gc.freeze()
    gc.set_threshold(20_000, 10, 20)


@pytest.fixture(autouse=True, scope="module")
def few_programs() -> Iterator[None]:
    """Lets go of compiled programs once there are many: each holds memory maps, of which a process may have 65,530."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MANY_MAPS:
        trainer = sys.modules.get("experiments.training.trainer")
        if trainer is not None:
            trainer.Program.compiled.clear()
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True, scope="session")
def heard_signals() -> Iterator[None]:
    """Signals reach the processes that tests start, wherever the tests run."""
    with hearing():
        yield


@pytest.fixture
def one_device() -> Iterator[None]:
    """As in a process of one device: arrays lie on it alone, and tensors can be counted as rows, and together."""
    with jax.set_mesh(jax.make_mesh((1,), ("one",), axis_types=(AxisType.Auto,))):
        yield

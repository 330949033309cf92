"""A fault of each quick kind, and in ``make slow`` all; ``python -m tests.faults`` makes a table of them."""

import contextlib
import gc
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.kinds import KINDS, Kind
from tests.faults.lab import BIT_FOR_BIT, REFUSED, Lab
from tests.faults.under_way import NotPermittedError

# What orbax has begun, and the system then refuses, it does not await. Python says so when it finds the garbage, which
# may be in the test of something else: so it is looked for here.
# A limit may also meet the programs that a first run of the tests keeps for later ones.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Error (reading|writing) persistent compilation cache"),
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def garbage() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    before = Path.cwd()
    # Processes that are started take the programs of the tests: see tests/conftest.py.
    with contextlib.chdir(tmp_path_factory.mktemp("faults")):
        yield Lab(Path.cwd())
    os.chdir(before)


def fails(lab: Lab, kind: Kind, numbers: range) -> list[str]:
    found = []
    for number in numbers:
        try:
            outcome = kind.fault(lab, random.Random(f"{kind.name} {number}"))
        except NotPermittedError:
            pytest.skip("this machine does not let it happen")  # a file system of its own needs rights
        if outcome.end not in (BIT_FOR_BIT, REFUSED):
            found.append(f"{number}: {outcome.end}: {outcome.said}")
    return found


@pytest.mark.parametrize("kind", [k for k in KINDS if k.quick], ids=lambda kind: kind.name)
def test_one_fault_is_survived_or_explained(kind, lab):
    assert not fails(lab, kind, range(1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_all_faults_are_survived_or_explained(kind, lab):
    assert not fails(lab, kind, range(kind.number))

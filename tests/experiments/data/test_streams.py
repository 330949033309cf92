import dataclasses

import numpy as np
import pytest

from experiments import data
from experiments.data import Position

SIZE = 23


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Samples that are their own index."""

    size: int

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return index


def numbers(train: int = SIZE, test: int = 7) -> data.Stream:
    return data.Stream(
        train=Numbers(train),
        validation=Numbers(test),
        test=Numbers(test),
        augmented=lambda i, rng: {"x": rng.random(2, np.float32), "y": np.int32(i)},
        plain=lambda i: {"x": np.zeros(2, np.float32), "y": np.int32(i)},
        classes=2,
        shape=(2,),
        provenance="numbers",
    )


def take(count: int, position: Position, batch_size: int = 5, **options) -> list:
    stream = data.batches(numbers(), batch_size, position, **options)
    return [next(stream) for _ in range(count)]


def same(ours: list, theirs: list) -> bool:
    return all(
        a[1] == b[1] and all((a[0][name] == b[0][name]).all() for name in ("x", "y"))
        for a, b in zip(ours, theirs, strict=True)
    )


def test_an_epoch_sees_a_sample_once_and_every_epoch_is_another():
    found = take(8, Position(3))
    assert [position for _, position in found] == [
        *(Position(3, 0, i) for i in (1, 2, 3)),
        *(Position(3, 1, i) for i in range(4)),
        Position(3, 2, 0),
    ]
    epochs = [np.concatenate([batch["y"] for batch, _ in found[i : i + 4]]) for i in (0, 4)]
    assert all(len({*epoch}) == 20 for epoch in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()
    # What happens to a sample differs from epoch to epoch too.
    draws = [
        {int(y): x[0] for batch, _ in found[i : i + 4] for x, y in zip(batch["x"], batch["y"], strict=True)}
        for i in (0, 4)
    ]
    assert all(draws[0][y] != draws[1][y] for y in draws[0].keys() & draws[1].keys())
    assert found[0][0]["x"].shape == (5, 2)
    assert found[0][0]["x"].dtype == np.float32


def test_a_stream_goes_on_from_every_batch():
    whole = take(9, Position(3))
    assert same(whole, take(9, Position(3), threads=1))
    assert not same(whole, take(9, Position(4)))
    for done in range(1, 9):
        assert same(take(9 - done, whole[done - 1][1]), whole[done:])
    # The end of an epoch and the beginning of the next are one place.
    assert same(take(2, Position(3, 0, 4)), take(2, Position(3, 1, 0)))


def test_hosts_share_each_batch():
    whole = take(6, Position(0), batch_size=6)
    shares = [take(6, Position(0), batch_size=6, shard=(host, 3)) for host in range(3)]
    for i, (batch, position) in enumerate(whole):
        for name in ("x", "y"):
            np.testing.assert_array_equal(batch[name], np.concatenate([share[i][0][name] for share in shares]))
        assert all(share[i][1] == position for share in shares)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 10])
def test_evaluation_counts_every_sample_once(batch_size):
    batches = list(data.evaluation_batches(numbers(), "test", batch_size))
    assert all(len(batch["y"]) == batch_size for batch in batches)
    weights = np.concatenate([batch["weight"] for batch in batches])
    labels = np.concatenate([batch["y"] for batch in batches])
    assert weights.dtype == np.float32
    assert labels[weights == 1].tolist() == list(range(7))
    assert (labels[weights == 0] == 6).all()
    if batch_size % 2 == 0:
        halves = [list(data.evaluation_batches(numbers(), "test", batch_size, shard=(i, 2))) for i in range(2)]
        again = [y for a, b in zip(*halves, strict=True) for y in (*a["y"], *b["y"])]
        assert again == labels.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((24, Position(0)), "batch_size=24 is not accepted; expected at most the 23 training samples"),
        ((0, Position(0)), "batch_size=0"),
        ((5, Position(-1)), r"position\.seed=-1"),
        ((5, Position(0, 0, 5)), r"position\.batch=5 is not accepted; an epoch has 4 batches"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        next(data.batches(numbers(), *arguments))


def test_bad_hosts_and_splits():
    with pytest.raises(ValueError, match="a multiple of the 2 hosts"):
        next(data.batches(numbers(), 5, Position(0), shard=(0, 2)))
    with pytest.raises(ValueError, match=r"expected a host in \[0, 2\)"):
        next(data.batches(numbers(), 4, Position(0), shard=(2, 2)))
    with pytest.raises(ValueError, match="did you mean 'test'"):
        next(data.evaluation_batches(numbers(), "tests", 4))
    with pytest.raises(ValueError, match="the validation split is empty"):
        numbers(test=0)

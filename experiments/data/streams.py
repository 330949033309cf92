"""Data sets that are read batch by batch, with grain.

What a batch holds depends on seed, epoch and number of the batch alone, so a run goes on where another has stopped.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dstjax.checks import check_choice, check_integer

Batch = Mapping[
    str, Any
]  # of arrays: 'x' float32[batch, ...], and what the data set has beside: 'y' int32[batch] mostly
Raw = Any  # what the files hold of one sample


@dataclasses.dataclass(frozen=True)
class Stream:
    """A data set with random access to its samples."""

    train: Sequence[Raw]
    validation: Sequence[Raw]
    test: Sequence[Raw]
    augmented: Callable[[Raw, np.random.Generator], Batch]  # a sample as training sees it, without batch axis
    plain: Callable[[Raw], Batch]  # a sample as evaluation sees it
    classes: int
    shape: tuple[int, ...]  # of the x of a sample
    provenance: str  # one line: what it is, how many, from where

    def __post_init__(self) -> None:
        for split, size in zip(("train", "validation", "test"), self.sizes, strict=True):
            if not size:
                raise ValueError(f"{self.provenance}: the {split} split is empty; expected at least one sample.")

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Samples for training, validation and test."""
        return len(self.train), len(self.validation), len(self.test)


class Position(NamedTuple):
    """The batch that comes next; all of the state of an input pipeline."""

    seed: int
    epoch: int = 0
    batch: int = 0


def batches(
    stream: Stream, batch_size: int, position: Position, *, shard: tuple[int, int] = (0, 1), threads: int = 8
) -> Iterator[tuple[Batch, Position]]:
    """Batches of augmented training samples without end, each with the position after it.

    Each epoch is a permutation of the training samples without those that do not fill a batch.

    Args:
      stream: the data set.
      batch_size: samples in a batch, all hosts together.
      position: where to begin; save the one that came with the last batch that was used.
      shard: this host and the number of hosts; it gets its share of each batch, in order.
      threads: that read ahead.

    Raises:
      ValueError: a batch larger than the data, hosts that do not divide it, or a position that does not exist.
    """
    size, (host, hosts) = stream.sizes[0], shard
    _check(batch_size, size, host, hosts)
    in_epoch = size // batch_size
    for name, value in position._asdict().items():
        check_integer(f"position.{name}", value, 0)
    if position.batch > in_epoch:
        raise ValueError(f"position.batch={position.batch} is not accepted; an epoch has {in_epoch} batches.")
    seed, epoch, first = position
    share = batch_size // hosts
    while True:
        order = np.random.default_rng((2, seed, epoch)).permutation(size)[: in_epoch * batch_size]
        own = order.reshape(in_epoch, batch_size)[:, host * share : (host + 1) * share].ravel()
        places, sample = range(first * share, in_epoch * share), _Augmented(stream, own, seed, epoch)
        for done, batch in enumerate(_read(places, sample, share, threads), first + 1):
            yield batch, Position(seed, epoch, done) if done < in_epoch else Position(seed, epoch + 1)
        epoch, first = epoch + 1, 0


def evaluation_batches(
    stream: Stream, split: str, batch_size: int, *, shard: tuple[int, int] = (0, 1), threads: int = 8
) -> Iterator[Batch]:
    """Every sample of a split once, in order, in batches of one size.

    'weight', float32[batch], is 1 for a sample and 0 for the repetitions of the last one that fill the last batch.

    Args:
      stream: the data set.
      split: 'train', 'validation' or 'test', never augmented.
      batch_size: samples in a batch, all hosts together; may be larger than the split.
      shard: this host and the number of hosts.
      threads: that read ahead.

    Raises:
      ValueError: an unknown split, or hosts that do not divide the batch.
    """
    check_choice("split", split, ("train", "validation", "test"))
    source, (host, hosts) = getattr(stream, split), shard
    _check(batch_size, None, host, hosts)
    share = batch_size // hosts
    rows = np.arange(-(-len(source) // batch_size) * batch_size)
    own = rows.reshape(-1, batch_size)[:, host * share : (host + 1) * share].ravel()

    def sample(i: int) -> Batch:
        row = own[i]
        return {**stream.plain(source[min(row, len(source) - 1)]), "weight": np.float32(row < len(source))}

    yield from _read(range(len(own)), sample, share, threads)


def _read(places: range, sample: Callable[[int], Batch], batch: int, threads: int) -> Iterator[Batch]:
    """Batches of the samples at some places, in order; threads read ahead."""
    import grain  # few data sets need it, and where jaxlib is older it says so in each command

    ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2 * batch, threads))
    yield from grain.MapDataset.range(places.start, places.stop).map(sample).to_iter_dataset(ahead).batch(batch)


class _Augmented:
    """The sample at a place of an epoch; place, epoch and seed decide what happens to it."""

    def __init__(self, stream: Stream, order: np.ndarray, seed: int, epoch: int) -> None:
        self.stream, self.order, self.seed, self.epoch = stream, order, seed, epoch

    def __call__(self, place: int) -> Batch:
        index = int(self.order[place])
        rng = np.random.default_rng((3, self.seed, self.epoch, index))
        return self.stream.augmented(self.stream.train[index], rng)


def _check(batch_size: int, size: int | None, host: int, hosts: int) -> None:
    check_integer("batch_size", batch_size, 1)
    if size is not None and batch_size > size:
        raise ValueError(f"batch_size={batch_size} is not accepted; expected at most the {size:,} training samples.")
    check_integer("shard[1]", hosts, 1)
    if not 0 <= host < hosts:
        raise ValueError(f"shard={(host, hosts)} is not accepted; expected a host in [0, {hosts}).")
    if batch_size % hosts:
        raise ValueError(f"batch_size={batch_size} is not accepted; expected a multiple of the {hosts} hosts.")

"""Where the batches of each network come from: arrays in memory, or files that are read batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import Data, Position, Stream, batches, evaluation_batches
from experiments.training import hosts
from experiments.training.steps import Source

EVALUATION_BATCH = 256


class Span(NamedTuple):
    """Some batches that one call of a program trains on: rows ``start`` to ``stop`` of ``order`` in ``source``."""

    source: Source
    order: Any  # int32[batches, batch size]
    start: np.int32
    stop: np.int32


class Feed(Protocol):
    """The batches of the networks of a run; a group is what one call of a program trains."""

    batches: int  # in an epoch

    def begin(self, epoch: int) -> None:
        """Gets ready for an epoch."""
        ...

    def spans(self, group: int, start: int, stop: int) -> Iterator[Span]:
        """The batches ``start`` to ``stop`` of the epoch."""
        ...

    def first(self, network: int) -> tuple[Source, np.ndarray, np.ndarray]:
        """The samples of one network, the rows of its first batch, and all rows for training that are at hand."""
        ...

    def evaluation(self, group: int, split: str) -> Iterator[tuple[Source, Any, Any, Any]]:
        """Source, rows, number of rows and which of the samples count, over a split of each network of a group."""
        ...


class InMemory:
    """All samples lie on the devices; an epoch is an order of rows."""

    def __init__(
        self, data: Data, seeds: Sequence[int], batch_size: int, batched: bool, place: Callable[..., Any]
    ) -> None:
        self.seeds, self.batch_size, self.batched, self.place = seeds, batch_size, batched, place
        self.splits = [data.split(seed) for seed in seeds]
        self.batches = len(self.splits[0].train) // batch_size
        x, y = place(data.x), place(data.y)
        means = self.groups([s.mean for s in self.splits])
        keys = self.groups([np.uint32(seed) for seed in seeds])
        self.sources = [Source(x, y, place(m), place(k)) for m, k in zip(means, keys, strict=True)]
        self.orders: list[Any] = []

    def groups(self, values: list[Any]) -> list[Any]:
        """One array for each network becomes one for each group."""
        return [np.stack(values)] if self.batched else values

    def begin(self, epoch: int) -> None:
        self.orders = [
            self.place(o, "data") for o in self.groups([self.order(i, epoch) for i in range(len(self.seeds))])
        ]

    def order(self, network: int, epoch: int) -> np.ndarray:
        """The samples of each batch of an epoch, int32[batches, batch size]: seed and epoch decide, nothing else."""
        permuted = np.random.default_rng((2, self.seeds[network], epoch)).permutation(self.splits[network].train)
        return permuted[: self.batches * self.batch_size].reshape(self.batches, self.batch_size)

    def spans(self, group: int, start: int, stop: int) -> Iterator[Span]:
        yield Span(self.sources[group], self.orders[group], np.int32(start), np.int32(stop))

    def first(self, network: int) -> tuple[Source, np.ndarray, np.ndarray]:
        source = self.sources[0 if self.batched else network]
        if self.batched:
            source = Source(source.x, source.y, source.mean[network], source.seed[network])
        return source, self.order(network, 0)[0], self.splits[network].train

    def evaluation(self, group: int, split: str) -> Iterator[tuple[Source, Any, Any, Any]]:
        chosen = self.splits if self.batched else [self.splits[group]]
        size = len(getattr(chosen[0], split))
        most = max(len(chosen[0].validation), len(chosen[0].test))  # one program serves both
        padded = -(-most // EVALUATION_BATCH) * EVALUATION_BATCH
        rows = [np.resize(getattr(s, split), padded).reshape(-1, EVALUATION_BATCH) for s in chosen]
        stop = np.int32(-(-size // EVALUATION_BATCH))
        counts = np.arange(padded) < size
        yield self.sources[group], self.place(np.stack(rows) if self.batched else rows[0], "data"), stop, counts


class Streamed:
    """Samples are read from files; each batch is a source of its own."""

    def __init__(self, stream: Stream, seeds: Sequence[int], batch_size: int, place: Callable[..., Any]) -> None:
        self.stream, self.seeds, self.batch_size, self.place = stream, seeds, batch_size, place
        self.batches = stream.sizes[0] // batch_size
        self.mean = place(np.zeros(stream.shape, np.float32))
        self.keys = [place(np.uint32(seed)) for seed in seeds]
        self.rows = place(np.arange(batch_size, dtype=np.int32)[None], "data")
        self.epoch = 0
        self.running: dict[int, tuple[Position, Iterator[Any]]] = {}

    def begin(self, epoch: int) -> None:
        self.epoch = epoch

    def spans(self, group: int, start: int, stop: int) -> Iterator[Span]:
        for number in range(start, stop):
            at = Position(self.seeds[group], self.epoch, number)
            known, iterator = self.running.get(group, (None, iter(())))
            if known != at:
                iterator = batches(self.stream, self.batch_size, at, shard=hosts.shard())
            batch, after = next(iterator)
            self.running[group] = after, iterator
            yield Span(self._source(group, batch), self.rows, np.int32(0), np.int32(1))

    def _source(self, network: int, batch: Any) -> Source:
        x, y = self.place(batch["x"], "batch"), self.place(batch["y"], "batch")
        return Source(x, y, self.mean, self.keys[network])

    def first(self, network: int) -> tuple[Source, np.ndarray, np.ndarray]:
        batch, _ = next(batches(self.stream, self.batch_size, Position(self.seeds[network]), shard=hosts.shard()))
        rows = np.arange(self.batch_size)
        return self._source(network, batch), rows, rows

    def evaluation(self, group: int, split: str) -> Iterator[tuple[Source, Any, Any, Any]]:
        size = len(getattr(self.stream, split))
        for i, batch in enumerate(evaluation_batches(self.stream, split, self.batch_size, shard=hosts.shard())):
            counts = i * self.batch_size + np.arange(self.batch_size) < size  # of all hosts, which have a share each
            yield self._source(group, batch), self.rows, np.int32(1), counts


def placing(devices: Sequence[jax.Device]) -> Callable[..., Any]:
    """A function that puts an array on the devices: whole on each, or spread over them.

    Its second argument says which axis is spread: 'data' the last one, that of the rows of a batch, 'batch' the first
    one, of which each of several processes gives its share. An axis that the devices do not divide stays whole.
    """
    if len(devices) == 1:
        return lambda x, kind=None: jnp.array(x)
    mesh = _mesh(devices)

    def place(x: Any, kind: str | None = None) -> Any:
        spec: list[str | None] = [None] * np.ndim(x)
        axis = {"data": -1, "batch": 0}.get(kind or "")
        put, times = (hosts.put_shares, jax.process_count()) if kind == "batch" else (hosts.put, 1)
        if axis is not None and np.shape(x)[axis] * times % len(devices) == 0:
            spec[axis] = "data"
        return put(x, jax.sharding.NamedSharding(mesh, jax.P(*spec)))

    return place


def _mesh(devices: Sequence[jax.Device]) -> jax.sharding.Mesh:
    """The devices in a row, those of each process side by side: its share of a batch is one piece."""
    return jax.sharding.Mesh(np.array(sorted(devices, key=lambda d: d.process_index)), ("data",))


def placing_params(devices: Sequence[jax.Device], spread: bool) -> Callable[[Any], Any]:
    """A function that puts a tree of parameters on the devices: whole on each, or spread along the largest axis."""
    place = placing(devices)
    n = len(devices)
    if n == 1:
        return lambda tree: tree
    mesh = _mesh(devices)

    def one(x: Any) -> Any:
        fits = [a for a in range(np.ndim(x)) if spread and x.shape[a] % n == 0 and x.size >= 2**10]
        if not fits:
            return place(x)
        axis = max(fits, key=lambda a: x.shape[a])
        spec = ["data" if a == axis else None for a in range(x.ndim)]
        return hosts.put(x, jax.sharding.NamedSharding(mesh, jax.P(*spec)))

    return lambda tree: jax.tree.map(one, tree)

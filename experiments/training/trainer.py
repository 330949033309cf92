"""The training of networks, one or many at once; each distinct program is compiled once in a process."""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import dstjax
from experiments.data import Data, Stream
from experiments.training import feeds, hosts, pruning, steps
from experiments.training.partial import Begun, Pace
from experiments.training.program import Program
from experiments.training.steps import Lost, Recipe, Source, Sums, TrainState, Tree

MakeTransformation = Callable[..., optax.GradientTransformationExtraArgs]  # of a seed or key, and initial masks
# Makes a mask update: of the number of the group and of the step, the program and its arguments; returns its results.
UpdateHook = Callable[[int, int, Callable[..., Any], tuple[Any, ...]], Any]


class Epoch(NamedTuple):
    """What happened in an epoch; arrays have a leading axis of seeds."""

    loss: np.ndarray  # float64[seeds], mean over the batches that are not lost; NaN: there are none
    accuracy: np.ndarray  # float64[seeds]
    topology: dict[str, np.ndarray]  # at the end, see steps.inspect
    mask_updates: list[tuple[int, dict[str, np.ndarray]]]  # step and topology after each mask update that was looked at
    updates: int  # how many there were
    lost: Lost  # int32[seeds] each: steps whose gradient is not finite


class Trainer:
    """The training of networks that differ in their seed alone.

    In mode 'sequential' they take turns in the same programs, in mode 'vmap' they share one: the same numbers up to the
    rounding of differently fused programs (for the MLP of the digits config on a CPU the same bits). The host decides
    which steps are mask updates, so that the program of the other steps has no branch; it loops over any number.
    """

    def __init__(
        self,
        model: nn.Module,
        make_tx: MakeTransformation,
        method: dstjax.Method,
        data: Data | Stream,
        seeds: Sequence[int],
        mode: str,
        batch_size: int,
        *,
        devices: Sequence[jax.Device] | None = None,
        shard_params: bool = False,
        warm_up: int = 0,
        label_smoothing: float = 0.0,
        accumulate: int = 1,
        on_nonfinite: str = "raise",
        on_update: UpdateHook = lambda group, step, program, arguments: program(*arguments),
    ) -> None:
        self.on_update = on_update
        logging.getLogger("dstjax.views").setLevel(logging.ERROR)  # the step takes its gradients at the view
        self.model, self.make_tx, self.method, self.seeds = model, make_tx, method, seeds
        self.batched, self.batch_size = mode == "vmap", batch_size
        devices = jax.devices()[:1] if devices is None else devices
        self.spread = len(devices) > 1
        place = feeds.placing(devices)
        self.place_params = feeds.placing_params(devices, shard_params)
        self.place = place if self.spread else jnp.array
        self.feed: feeds.Feed
        if isinstance(data, Stream):
            self.feed, shape, augment = feeds.Streamed(data, seeds, batch_size, place), data.shape, None
        else:
            self.feed = feeds.InMemory(data, seeds, batch_size, self.batched, place)
            shape, augment = data.x.shape[1:], data.augment
        self.batches, self.shape = self.feed.batches, tuple(shape)
        self.metric = method.metric if "metric" in method.needs else None
        self.prune_step = method.start.prune_step
        source, metric = Source(None, None, 0, 0), None if self.metric is None else 0
        # Where nearly every step is a mask update the state decides, since the host would be the slower one.
        due = [bool(method.is_update_step(t)) for t in range(1, 101)]
        self.often = sum(due) > len(due) // 2 and metric is None
        decides = None if self.often else False
        self.recipe = Recipe(
            model, make_tx(0, None), method, augment, warm_up, label_smoothing, accumulate, on_nonfinite
        )
        self.run = self._program(steps.run, self.recipe, decides, axes=(0, 0, source, 0, None, None), donate=(0, 1))
        self.rewire = self._program(steps.rewire, self.recipe, axes=(0, 0, source, 0, None, metric), donate=(0, 1))
        self.evaluation = self._program(steps.evaluate, model, axes=(0, source, 0, None))
        self.inspection = self._program(steps.inspect, axes=(0,))
        self.picture = self._program(steps.picture, axes=(0,))
        self.pace = Pace()
        self.sums: list[Any] = []
        self.states = self._init(shape)

    def epoch(
        self, number: int, batches: int, begun: Begun | None = None, stop: Callable[[], int] = lambda: 0
    ) -> Epoch | Begun:
        """Trains for the first ``batches`` batches of an epoch; epochs count from 0.

        Args:
          number: of the epoch.
          batches: at which to end.
          begun: where the epoch was left before.
          stop: asked every half a second or so; not 0 where the epoch is to be left, on whichever process.

        Returns:
          What happened, or where the epoch was left.
        """
        self.feed.begin(number)
        if begun is None:
            zeros = np.zeros(len(self.seeds), np.float32)
            begun = Begun(
                0, zeros, zeros.astype(np.int32), np.zeros((len(self.seeds), len(Lost._fields)), np.int32), []
            )
        self.sums = self._split(Sums(begun.loss, begun.correct, Lost(*begun.lost.T)))
        first, done = number * self.batches, begun.done
        updates: list[tuple[int, Any]] = []
        for i in range(done, batches + 1):
            pruned = self.prune_step > 0 and first + i == self.prune_step and i < batches
            rewired = i < batches and not self.often and bool(self.method.is_update_step(first + i + 1))
            if not (i == batches or pruned or rewired):
                continue
            while done < i:
                done, leaves = self._piece(done, i, stop)
                if leaves and done < batches:
                    return self._begun(done, begun, updates)
            if pruned:
                self._prune()
            if rewired:
                topology = []
                metrics = self._metrics()
                for g in range(len(self.states)):
                    (span,) = self.feed.spans(g, i, i + 1)
                    arguments = (self.states[g], self.sums[g], *span[:3], metrics[g])
                    self.states[g], self.sums[g], after = self.on_update(g, first + i + 1, self.rewire, arguments)
                    topology.append(after)
                updates.append((first + i + 1, topology))
                done = i + 1
                if self._leaves(1, stop) and done < batches:  # there may be nothing but updates
                    return self._begun(done, begun, updates)
        total, final = self._host(self.sums), self._host([self.inspection(s) for s in self.states])
        return Epoch(
            loss=total.mean_loss(batches),
            accuracy=total.correct.astype(np.float64) / (batches * self.batch_size),
            topology=final,
            mask_updates=begun.mask_updates + self._fetched(updates),
            lost=total.lost,
            updates=sum(bool(self.method.is_update_step(first + i + 1)) for i in range(batches)),
        )

    def _piece(self, start: int, stop: int, asked: Callable[[], int]) -> tuple[int, bool]:
        """Trains all networks from batch ``start`` on, not beyond ``stop``; how far, and whether to leave there."""
        stop = min(stop, start + self.pace.size)
        for g in range(len(self.states)):
            for span in self.feed.spans(g, start, stop):
                self.states[g], self.sums[g] = self.run(self.states[g], self.sums[g], *span)
        return stop, self._leaves(stop - start, asked)

    def _leaves(self, steps: int, asked: Callable[[], int]) -> bool:
        """Whether to leave after so many steps more; waits for the devices where it is time to."""
        if not self.pace.due(steps):
            return False
        jax.block_until_ready(self.sums)
        seconds, leave = hosts.most(self.pace.seconds, asked())  # all processes must decide alike
        self.pace.took(seconds)
        return leave > 0

    def _begun(self, done: int, begun: Begun, updates: list[tuple[int, Any]]) -> Begun:
        """What an epoch that is left after ``done`` batches hands on."""
        sums = self._host(self.sums)
        lost = np.stack(sums.lost, axis=-1)
        return Begun(done, sums.loss, sums.correct, lost, begun.mask_updates + self._fetched(updates))

    def _fetched(self, updates: list[tuple[int, Any]]) -> list[tuple[int, dict[str, np.ndarray]]]:
        return [(step, self._host(topology)) for step, topology in updates]

    def evaluate(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean loss and accuracy of each network on the 'validation' or 'test' samples of its seed, float64[seeds]."""
        found: list[tuple[Any, Any]] = []
        for g, state in enumerate(self.states):
            parts = []
            for source, rows, stop, counts in self.feed.evaluation(g, split):
                results = hosts.fetch(self.evaluation(state, source, rows, stop))
                parts.append([r.reshape(-1, counts.size)[:, counts] for r in results])
            losses, right = (np.concatenate(r, axis=1) for r in zip(*parts, strict=True))
            found.append((losses, right))
        losses, right = (np.concatenate(r) for r in zip(*found, strict=True))
        return losses.mean(axis=1, dtype=np.float64), right.mean(axis=1, dtype=np.float64)

    def network(self, index: int) -> TrainState:
        """One of the networks."""
        return _at(index, self.states[0]) if self.batched else self.states[index]

    def state(self) -> TrainState:
        """All of the state, as host arrays with a leading axis of seeds whatever the mode."""
        return self._host(self.states)

    def set_state(self, state: TrainState) -> None:
        """Goes on from what :meth:`state` has returned."""
        self.states = [self._placed(*pair) for pair in zip(self._split(state), self.states, strict=True)]

    def _placed(self, network: TrainState, now: TrainState) -> TrainState:
        """A state on the devices where the one of now lies."""
        return jax.tree.map(
            lambda x, like: hosts.put(jnp.array(x), like.sharding) if self.spread else jnp.array(x), network, now
        )

    def topology(self) -> dict[str, np.ndarray]:
        """The topology of each network now, see :class:`Epoch`."""
        return self._host([self.inspection(state) for state in self.states])

    def pictures(self) -> dict[str, np.ndarray]:
        """The first masked layer of each network: mask, weights ever active, and mask rounds where they are counted."""
        return self._host([self.picture(state) for state in self.states])

    def leaves(self) -> list[str]:
        """The paths of the parameters, in their order."""
        return list(dstjax.masks.by_name(self.states[0].params))

    def masks(self) -> list[dict[str, np.ndarray]]:
        """The masks of each network by the path of their leaf."""
        networks = [self.network(i).opt_state for i in range(len(self.seeds))]
        return hosts.fetch([steps.masked_leaves(state) for state in networks])

    def _init(self, shape: tuple[int, ...]) -> list[TrainState]:
        make, networks = Program(functools.partial(steps.initial_parameters, self.model)), []
        for i, seed in enumerate(self.seeds):
            params, model_state = make(np.uint32(seed), np.zeros((1, *shape), np.float32))
            params = self.place_params(params)
            given = None
            if pruning.before_training(self.method):
                source, rows, known = self.feed.first(i)
                weights, source = hosts.local((params, source))
                labels = known, np.asarray(source.y)[known]
                given = pruning.masks(self.method, self.model, weights, model_state, source, rows, labels)
                if hosts.several():  # whole on every device: the masks are counted on the host
                    given = jax.tree.map(self.place, given)
            # Not under jit: the number of active weights would make another program for each sparsity.
            opt_state = self.make_tx(jax.random.fold_in(jax.random.key(seed), 2), given).init(params)
            networks.append(TrainState(dstjax.apply_masks(params, opt_state), opt_state, model_state))
        states = self._groups(networks)
        if self.spread:  # what is not spread is whole on every device
            states = [jax.tree.map(lambda x: x if len(x.devices()) > 1 else self.place(x), s) for s in states]
        return states

    def _prune(self) -> None:
        """Prunes every network by its activations, in the middle of training."""
        networks, before = [], self.states
        for i in range(len(self.seeds)):
            source, _, known = self.feed.first(i)
            state, source = hosts.local((self.network(i), source))
            rows = pruning.some_of_each_class(known, np.asarray(source.y)[known])
            x = source.x[rows] - source.mean[None]
            found = pruning.sis(self.method, self.model, state.params, state.model_state, x)
            opt_state = dstjax.set_masks(state.opt_state, found.masks)
            networks.append(TrainState(dstjax.apply_masks(found.params, opt_state), opt_state, state.model_state))
        self.states = self._groups(networks)
        if hosts.several():
            self.states = [self._placed(*pair) for pair in zip(self.states, before, strict=True)]

    def _metrics(self) -> list[Any]:
        """What the methods read that adapt to the validation performance: accuracy, or the loss; None for others."""
        if self.metric is None:
            return [None] * len(self.states)
        loss, accuracy = self.evaluate("validation")
        wanted = accuracy if self.metric == "accuracy" else loss
        return self._groups([np.float32(v) for v in wanted])

    def _groups(self, values: list[Any]) -> list[Any]:
        """One tree for each network becomes one for each call of a program."""
        if not self.batched:
            return values
        stack: Any = np.stack if isinstance(values[0], np.ndarray) else jnp.stack
        return [jax.tree.map(lambda *x: stack(x), *values)]

    def _split(self, tree: Any) -> list[Any]:
        """A tree with a leading axis of seeds becomes one for each call of a program."""
        return [tree] if self.batched else [_at(i, tree) for i in range(len(self.seeds))]

    def _host(self, groups: list[Any]) -> Any:
        fetched = hosts.fetch(groups)
        return fetched[0] if self.batched else jax.tree.map(lambda *x: np.stack(x), *fetched)

    def _program(self, function: Callable[..., Any], *static: Any, axes: Any, donate: tuple[int, ...] = ()) -> Program:
        bound = functools.partial(function, *static)
        if self.spread:
            bound = functools.partial(self._staying, bound)
        return Program(jax.vmap(bound, in_axes=axes) if self.batched else bound, donate)

    def _staying(self, function: Callable[..., Any], *args: Any) -> Any:
        """A program whose new state lies on the devices as the old one did."""
        result = function(*args)
        if not (isinstance(result, tuple) and isinstance(result[0], TrainState)):
            return result
        shardings = jax.tree.map(lambda x: x.sharding, self.states[0])
        return jax.lax.with_sharding_constraint(result[0], shardings), *result[1:]


def _at(index: int, tree: Tree) -> Tree:
    return jax.tree.map(lambda x: x[index], tree)

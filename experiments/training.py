"""The steps of training, for one network or many at once; each distinct program is compiled once in a process."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import dstjax
from experiments.data import Data

EVALUATION_BATCH = 256
Tree = Any
MakeTransformation = Callable[[Any], optax.GradientTransformationExtraArgs]  # of a seed or key


class TrainState(NamedTuple):
    """One network in training."""

    params: Tree
    opt_state: Any  # of dstjax.sparsify
    model_state: Tree  # running statistics, {} where the network has none


class Sums(NamedTuple):
    """What an epoch adds up."""

    loss: Any  # float32[]
    correct: Any  # int32[]


class Source(NamedTuple):
    """Where the batches of a network come from."""

    x: Any  # float32[n, ...], all samples
    y: Any  # int32[n]
    mean: Any  # float32[...], subtracted from every sample


class Epoch(NamedTuple):
    """What happened in an epoch; arrays have a leading axis of seeds."""

    loss: np.ndarray  # float64[seeds], mean over the batches
    accuracy: np.ndarray  # float64[seeds]
    topology: dict[str, np.ndarray]  # at the end, see _inspect
    mask_updates: list[tuple[int, dict[str, np.ndarray]]]  # step and topology after each mask update


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
        data: Data,
        seeds: Sequence[int],
        mode: str,
        batch_size: int,
    ) -> None:
        self.model, self.make_tx, self.seeds = model, make_tx, seeds
        self.batched, self.batch_size = mode == "vmap", batch_size
        self.splits = [data.split(seed) for seed in seeds]
        self.batches = len(self.splits[0].train) // batch_size  # in an epoch
        x, y = jnp.array(data.x), jnp.array(data.y)
        self.sources = [Source(x, y, jnp.array(mean)) for mean in self._groups([s.mean for s in self.splits])]
        tx, source = make_tx(0), Source(None, None, 0)
        self.run = self._program(_run, model, tx, axes=(0, 0, source, 0, None, None), donate=(0, 1))
        self.rewire = self._program(_rewire, model, tx, axes=(0, 0, source, 0, None), donate=(0, 1))
        self.evaluation = self._program(_evaluate, model, axes=(0, source, 0, None))
        self.inspection = self._program(_inspect, axes=(0,))
        self.picture = self._program(_picture, axes=(0,))
        self.states = self._init(x.shape[1:])

    def epoch(self, number: int, steps: int, is_update: Callable[[int], bool]) -> Epoch:
        """Trains for the first ``steps`` batches of an epoch; epochs count from 0."""
        orders = self._groups([self.order(i, number) for i in range(len(self.seeds))])
        zeros = np.zeros(len(self.seeds) if self.batched else (), np.float32)
        sums = [Sums(zeros, zeros.astype(np.int32)) for _ in self.states]
        first = number * self.batches
        updates: list[tuple[int, Any]] = []
        done = 0
        for i in range(steps + 1):
            if i < steps and not is_update(first + i + 1):
                continue
            for g, (source, order) in enumerate(zip(self.sources, orders, strict=True)):
                if done < i:
                    span = np.int32(done), np.int32(i)
                    self.states[g], sums[g] = self.run(self.states[g], sums[g], source, order, *span)
            if i < steps:
                topology = []
                for g, (source, order) in enumerate(zip(self.sources, orders, strict=True)):
                    self.states[g], sums[g], after = self.rewire(self.states[g], sums[g], source, order, np.int32(i))
                    topology.append(after)
                updates.append((first + i + 1, topology))
            done = i + 1
        total, final = self._host(sums), self._host([self.inspection(s) for s in self.states])
        return Epoch(
            loss=total.loss.astype(np.float64) / steps,
            accuracy=total.correct.astype(np.float64) / (steps * self.batch_size),
            topology=final,
            mask_updates=[(step, self._host(topology)) for step, topology in updates],
        )

    def evaluate(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean loss and accuracy of each network on the 'validation' or 'test' samples of its seed, float64[seeds]."""
        size = len(getattr(self.splits[0], split))
        most = max(len(self.splits[0].validation), len(self.splits[0].test))  # one program serves both
        padded = -(-most // EVALUATION_BATCH) * EVALUATION_BATCH
        rows = [np.resize(getattr(s, split), padded).reshape(-1, EVALUATION_BATCH) for s in self.splits]
        stop = np.int32(-(-size // EVALUATION_BATCH))
        groups = zip(self.states, self.sources, self._groups(rows), strict=True)
        losses, right = self._host([self.evaluation(*group, stop) for group in groups])
        flat = len(self.seeds), -1
        return (
            losses.reshape(flat)[:, :size].mean(axis=1, dtype=np.float64),
            right.reshape(flat)[:, :size].mean(axis=1, dtype=np.float64),
        )

    def order(self, network: int, epoch: int) -> np.ndarray:
        """The samples of each batch of an epoch, int32[batches, batch size]: seed and epoch decide, nothing else."""
        permuted = np.random.default_rng((2, self.seeds[network], epoch)).permutation(self.splits[network].train)
        return permuted[: self.batches * self.batch_size].reshape(self.batches, self.batch_size)

    def network(self, index: int) -> TrainState:
        """One of the networks."""
        return _at(index, self.states[0]) if self.batched else self.states[index]

    def state(self) -> TrainState:
        """All of the state, as host arrays with a leading axis of seeds whatever the mode."""
        return self._host(self.states)

    def set_state(self, state: TrainState) -> None:
        """Goes on from what :meth:`state` has returned."""
        networks = [state] if self.batched else [_at(i, state) for i in range(len(self.seeds))]
        self.states = [jax.tree.map(lambda x: jnp.array(x), network) for network in networks]

    def topology(self) -> dict[str, np.ndarray]:
        """The topology of each network now, see :class:`Epoch`."""
        return self._host([self.inspection(state) for state in self.states])

    def pictures(self) -> dict[str, np.ndarray]:
        """The first masked layer of each network: mask, weights ever active, and mask rounds where they are counted."""
        return self._host([self.picture(state) for state in self.states])

    def _init(self, shape: tuple[int, ...]) -> list[TrainState]:
        make, networks = Program(functools.partial(_initial_parameters, self.model)), []
        for seed in self.seeds:
            params, model_state = make(np.uint32(seed), np.zeros((1, *shape), np.float32))
            # Not under jit: the number of active weights would make another program for each sparsity.
            opt_state = self.make_tx(jax.random.fold_in(jax.random.key(seed), 2)).init(params)
            networks.append(TrainState(dstjax.apply_masks(params, opt_state), opt_state, model_state))
        return self._groups(networks)

    def _groups(self, values: list[Any]) -> list[Any]:
        """One tree for each network becomes one for each call of a program."""
        if not self.batched:
            return values
        stack: Any = np.stack if isinstance(values[0], np.ndarray) else jnp.stack
        return [jax.tree.map(lambda *x: stack(x), *values)]

    def _host(self, groups: list[Any]) -> Any:
        fetched = jax.device_get(groups)
        return fetched[0] if self.batched else jax.tree.map(lambda *x: np.stack(x), *fetched)

    def _program(
        self, function: Callable[..., Any], *static: Any, axes: Any, donate: tuple[int, ...] = ()
    ) -> "Program":
        bound = functools.partial(function, *static)
        return Program(jax.vmap(bound, in_axes=axes) if self.batched else bound, donate)


class Program:
    """A function for arguments of fixed shapes, compiled unless the process has compiled the same program before.

    Functions made anew for each run (another method, another sparsity) often lower to the same text: jit alone would
    compile each of them.
    """

    compiled: dict[str, Any] = {}  # noqa: RUF012  # one for the process, on purpose

    def __init__(self, function: Callable[..., Any], donate: tuple[int, ...] = ()) -> None:
        self.function, self.donate = function, donate
        self.call: Any = None

    def lower(self, *args: Any) -> Any:
        """The program before compilation."""

        def program(*args: Any) -> Any:  # one name for all, since the text begins with it
            return self.function(*args)

        return jax.jit(program, donate_argnums=self.donate).lower(*args)

    def __call__(self, *args: Any) -> Any:
        if self.call is None:
            lowered = self.lower(*args)
            # The text lacks arguments that the program does not read, and the containers of the results.
            parts = (lowered.as_text(), str(lowered.args_info), str(lowered.out_tree), jax.default_backend())
            key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
            if key not in Program.compiled:
                Program.compiled[key] = lowered.compile()
            self.call = Program.compiled[key]
        return self.call(*args)


def _at(index: int, tree: Tree) -> Tree:
    return jax.tree.map(lambda x: x[index], tree)


def scale_at_step(schedule: Callable[[Any], Any]) -> optax.GradientTransformationExtraArgs:
    """Scales by minus the learning rate at the step of the run, which the loop passes as ``step=``.

    A mask update that takes the place of an optimiser step is a step too, which optax's own counters do not see.
    """

    def update(updates: Tree, state: Any, params: Tree | None = None, *, step: Any, **_: Any) -> tuple[Tree, Any]:
        rate = schedule(step)
        return jax.tree.map(lambda u: (-rate * u).astype(u.dtype), updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _initial_parameters(model: nn.Module, seed: Any, sample: Any) -> tuple[Tree, Tree]:
    variables = model.init(jax.random.fold_in(jax.random.key(seed), 1), sample, train=False)
    return variables["params"], {name: tree for name, tree in variables.items() if name != "params"}


def _step(model: nn.Module, tx: Any, rewire: bool, state: TrainState, sums: Sums, source: Source, rows: Any) -> Any:
    x, y = source.x[rows] - source.mean[None], source.y[rows]

    def loss_of(params: Tree) -> Any:
        variables = {"params": dstjax.forward_params(params, state.opt_state), **state.model_state}
        logits, model_state = model.apply(variables, x, train=True, mutable=list(state.model_state))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return losses.mean(), (model_state, jnp.sum(logits.argmax(-1) == y, dtype=jnp.int32))

    (loss, (model_state, correct)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = tx.update(
        grads, state.opt_state, state.params, rewire=rewire, value=loss, step=state.opt_state.step
    )
    params = optax.apply_updates(state.params, updates)
    return TrainState(params, opt_state, model_state), Sums(sums.loss + loss, sums.correct + correct)


def _run(
    model: nn.Module, tx: Any, state: TrainState, sums: Sums, source: Source, order: Any, start: Any, stop: Any
) -> tuple[TrainState, Sums]:
    """Steps without a mask update: batches ``start`` to ``stop`` of an epoch."""

    def body(i: Any, carry: tuple[TrainState, Sums]) -> tuple[TrainState, Sums]:
        return _step(model, tx, False, *carry, source, order[i])

    return jax.lax.fori_loop(start, stop, body, (state, sums))


def _rewire(model: nn.Module, tx: Any, state: TrainState, sums: Sums, source: Source, order: Any, i: Any) -> Any:
    """The step of a mask update, and the topology after it."""
    state, sums = _step(model, tx, True, state, sums, source, order[i])
    after = _inspect(state)
    after["survival_rate"] = dstjax.metrics.survival_rate(state.opt_state)
    after["mask_error"] = dstjax.metrics.last_mask_error(state.opt_state)
    return state, sums, after


def _evaluate(model: nn.Module, state: TrainState, source: Source, rows: Any, stop: Any) -> tuple[Any, Any]:
    """The loss of each sample in the first ``stop`` rows, and whether the answer is right."""
    variables = {"params": dstjax.forward_params(state.params, state.opt_state), **state.model_state}

    def body(i: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        logits: Any = model.apply(variables, source.x[rows[i]] - source.mean[None], train=False)
        y = source.y[rows[i]]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return carry[0].at[i].set(losses), carry[1].at[i].set(logits.argmax(-1) == y)

    return jax.lax.fori_loop(0, stop, body, (jnp.zeros(rows.shape), jnp.zeros(rows.shape, bool)))


def masked_leaves(opt_state: Any) -> dict[str, Any]:
    """The boolean masks by path, in the order of the tree, dense leaves left out."""
    by_name = dstjax.masks.by_name(dstjax.get_masks(opt_state))
    return {name: mask for name, mask in by_name.items() if mask is not None}


def _inspect(state: TrainState) -> dict[str, Any]:
    """Active weights and exploration rate of each masked leaf, in the order of the tree, and of the network.

    ``strays`` counts the inactive weights that are not zero: there must be none.
    """
    masks, weights = masked_leaves(state.opt_state), dstjax.masks.by_name(state.params)
    if not masks:
        empty = jnp.zeros(0)
        return {
            "active": empty.astype(jnp.int32),
            "strays": jnp.int32(0),
            "layer_exploration_rate": empty,
            "exploration_rate": jnp.float32(1),
        }
    explored = dstjax.metrics.exploration_rate_per_leaf(state.opt_state)
    return {
        "active": jnp.stack([jnp.sum(m, dtype=jnp.int32) for m in masks.values()]),
        "strays": jnp.stack([jnp.sum((weights[n] != 0) & ~m, dtype=jnp.int32) for n, m in masks.items()]).sum(),
        "layer_exploration_rate": jnp.stack([explored[name] for name in masks]),
        "exploration_rate": dstjax.metrics.exploration_rate(state.opt_state),
    }


def _picture(state: TrainState) -> dict[str, Any]:
    name, mask = next(iter(masked_leaves(state.opt_state).items()))
    picture = {"mask": mask}
    if state.opt_state.counters is not None:
        picture["rounds"] = dstjax.masks.by_name(state.opt_state.counters)[name]
        picture["ever"] = picture["rounds"] > 0
    elif state.opt_state.tracked is not None and state.opt_state.tracked.ever is not None:
        ever: Any = dstjax.masks.by_name(state.opt_state.tracked.ever)[name]
        picture["ever"] = dstjax.masks.unpack(ever)
    return picture

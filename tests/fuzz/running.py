"""Trains a configuration for its few steps, and checks what holds after every call."""

import contextlib
import dataclasses
import functools
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import dstjax
from tests.fuzz import invariants, making, saving, wrong
from tests.fuzz.drawing import Configuration
from tests.fuzz.invariants import BrokenError, Seen, hold

RAN, REFUSED, LATE, ALONE, BROKEN = ENDS = (
    "ran",
    "refused in one line",
    "refused at the first mask update",  # in one line too
    "the optimiser fails alone",
    "broken",
)
HOME = str(Path(dstjax.__file__).parent)

# Their masks go by the sign of numbers near zero: see tests/conformance.py.
NOISY = ("deepr", "soft_deepr")


class Outcome(NamedTuple):
    """What became of a configuration."""

    end: str  # one of ENDS
    said: str = ""


def is_refusal(error: BaseException) -> bool:
    """Whether an error is dstjax's own, and one line that says something."""
    if type(error) is not ValueError or not str(error).strip() or "\n" in str(error):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.startswith(HOME)


def outcome_of(c: Configuration) -> Outcome:
    """Runs a configuration."""
    with _settings(c):
        training = None
        try:
            if c.wrong != "nothing":
                return Outcome(REFUSED, wrong.attempt(c, is_refusal))
            training = Training(c)
            training.run()
            return Outcome(RAN)
        except BrokenError as error:
            return Outcome(BROKEN, str(error))
        except Exception as error:
            if is_refusal(error) and (training is None or not training.updated):
                return Outcome(LATE if training and training.calls else REFUSED, str(error))
            if fails_alone(c):
                return Outcome(ALONE, f"{type(error).__name__}: {str(error)[:200]}")
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(last.filename).name}:{last.lineno}"
            return Outcome(BROKEN, f"{type(error).__name__} at {where}: {str(error)[:400]}")


@contextlib.contextmanager
def _settings(c: Configuration) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.enable_x64(c.x64))
        if c.program in ("auto", "explicit"):
            stack.enter_context(jax.set_mesh(making.mesh(c)))
        yield


def fails_alone(c: Configuration) -> bool:
    """Whether optax itself cannot take the first steps of these parameters."""
    try:
        params = making.parameters(c)
        tx = making.alone(c, params)
        state = tx.init(params)
        for t in (1, 2):
            updates, state = tx.update(making.gradient(c, params, t), state, params)
            making.applied(params, updates)
    except Exception:
        return True
    return False


def _needs_masks(method: Any) -> bool:
    return method.start.pruner is not None and not method.start.prune_step


class Training:
    """A training under way."""

    def __init__(self, c: Configuration, seed: Any = None) -> None:
        """Makes the method and the optimiser, and begins."""
        self.c, self.calls, self.lone_seed = c, 0, seed
        self.method = making.method_of(c.method, c.hyperparameters)
        self.dense = making.parameters(c)
        has = self.method.masking is not None and (_needs_masks(self.method) or c.given)
        self.given = making.masks_of_someone(c, self.method, self.dense) if has else None
        self.tx = self.optimiser(self.given)
        if c.program in ("donated", "auto", "explicit"):
            self.params, self.state = dstjax.start(self.tx, self.dense)
        else:
            self.state = self.tx.init(self.dense)
            self.params = dstjax.apply_masks(self.dense, self.state)
        self.types = invariants.types((self.params, self.state))
        self.step = self.program()
        self.first = self.last = invariants.look(self.params, self.state)
        self.expected = 0  # steps of the sparse state
        self.unfinite = self.waiting = 0
        self.updated = False  # there was a mask update
        self.exact = True  # no mask update was lost so far
        self.finite = True  # no gradient was infinite or NaN so far
        self.masks: list[list[np.ndarray]] = []  # after each call
        self.check_state()

    def optimiser(self, given: Any = None) -> Any:
        """The optimiser, made anew."""
        seed = making.seed_of(self.c) if self.lone_seed is None else self.lone_seed
        return making.optimiser(self.c, self.method, self.dense, seed, given)

    def program(self) -> Callable[..., Any]:
        """One call of update, compiled or not."""
        tx = self.tx

        def step(params: Any, state: Any, grads: Any, extra: Any, rewire: Any = None) -> Any:
            updates, state = tx.update(grads, state, params, rewire=rewire, **extra)
            return making.applied(params, updates), state

        if self.c.program in ("eager", "vmap", "both"):
            return step
        donated = (0, 1) if self.c.program == "donated" else ()
        return jax.jit(step, static_argnames="rewire", donate_argnums=donated)

    def run(self) -> None:
        """All steps, with what happens in the middle."""
        c = self.c
        saved = None
        for t in range(1, c.steps + 1):
            self.call(t)
            if t == c.middle:
                self.happen()
                if c.save != "none":
                    saved = saving.saved(c.save, (self.params, self.state))
        invariants.helpers_agree(self.params, self.state, dict(c.arguments)["track"])
        if saved is not None:
            self.compare_restored(saved)
        if c.program == "vmap":
            self.compare_vmapped()
        if c.program in ("auto", "explicit"):
            self.compare_sharded()

    def rewire(self) -> bool | None:
        """What the host says of this call."""
        if self.c.rewire == "host":
            return bool(self.method.is_update_step(self.last[0].step + 1))
        return {"none": None, "never": False, "always": True}[self.c.rewire]

    def arguments(self, t: int) -> tuple[Any, Any]:
        """The gradient of a call, and what is passed besides."""
        grads = making.gradient(self.c, self.dense, t)
        return grads, making.extra(self.method, grads, t, always=self.c.number % 2 == 0)

    def call(self, t: int) -> None:
        """One call, and what must hold after it."""
        grads, extra = self.arguments(t)
        rewire = self.rewire()
        now = rewire if rewire is not None else self.method.is_update_step(self.last[0].step + 1)
        finite = invariants.are_finite((grads, extra))
        before = self.params, self.state
        new = self.step(self.params, self.state, grads, extra, rewire=rewire)
        if self.c.program == "donated":
            kept = [x for x in jax.tree.leaves(before[0]) if isinstance(x, jax.Array) and not x.is_deleted()]
            hold(not kept, "parameters were donated and kept")
        self.params, self.state = new
        passed = self.counted(finite)
        if self.c.program == "both":
            self.compare_compiled(before, grads, extra, rewire)
        old, self.last = self.last, invariants.look(self.params, self.state)
        self.calls += 1
        self.updated |= bool(now)
        self.finite &= finite
        skips = dict(self.c.arguments)["on_nonfinite"] == "skip"
        if now and (not passed or (skips and not finite)):
            self.exact = False
        self.check_state()
        self.check_call(t, old, skips and not finite)
        self.masks.append([p.mask for seen in self.last for p in seen.parts])

    def counted(self, finite: bool) -> bool:
        """Whether the wrapper passes this call on; counts those it does."""
        passed = True
        if self.c.wrapper.startswith("MultiSteps"):
            self.waiting = (self.waiting + 1) % 2
            passed = self.waiting == 0
        if self.c.wrapper == "apply_if_finite":
            self.unfinite = 0 if finite else self.unfinite + 1
            passed = finite or self.unfinite > 2
        self.expected += passed
        return passed

    # --- What holds ---------------------------------------------------------------------------------------------------

    def check_state(self) -> None:
        """What holds of the parameters and the state alone."""
        hold(invariants.types((self.params, self.state)) == self.types, "tree, shapes or dtypes of the state changed")
        for seen in self.last:
            invariants.masks_fit(seen)
            hold(seen.step == self.expected, f"{seen.step} steps counted of {self.expected}")
            later = range(seen.step + 1, seen.step + 130)
            ended = seen.step > 0 and not any(self.method.is_update_step(t) for t in later)
            moves = self.c.inner in making.FREEZING or self.c.zero_leaf or self.c.rewire in ("never", "always")
            zero = "zero" in self.c.gradients or "tiny" in self.c.gradients
            exact = self.exact and self.finite and not moves and not zero and self.c.event == "none"
            invariants.counts_are_promised(self.c, self.method, seen, exact, ended)
        invariants.memory_is_finite(self.state)
        invariants.moments_are_masked(self.state)

    def check_call(self, t: int, before: list[Seen], lost: bool) -> None:
        """What holds of a call."""
        guarded = dict(self.c.arguments)["on_nonfinite"] == "skip"
        for first, old, new in zip(self.first, before, self.last, strict=True):
            if self.method.seen.view is None:
                invariants.inactive_are_zero(old, new, guarded and self.finite)
            everywhere = range(len(jax.tree.leaves(self.params)))
            if self.c.rewire == "never":
                for a, b in zip(first.parts, new.parts, strict=True):
                    hold((a.mask == b.mask).all(), f"{b.name}: masks moved in a step without a mask update")
            if lost and not self.c.wrapper.startswith("MultiSteps"):
                invariants.stands_still(old, new, everywhere, True, "a lost call:")
            invariants.stands_still(
                first, new, invariants.frozen_places(self.c, self.params), True, "a frozen leaf"
            )
            still = invariants.still_places(self.c, self.dense, t)
            restless = invariants.may_move(self.c, self.method, self.finite)
            invariants.stands_still(first, new, still, not restless, "a leaf without gradient")

    # --- What happens in the middle -----------------------------------------------------------------------------------

    def happen(self) -> None:
        """The event of the configuration."""
        kind, _, name = self.c.event.partition(" ")
        try:
            if kind == "set_masks":
                masks = jax.tree.map(lambda m: jnp.roll(m, 4, -1), dstjax.get_masks(self.state))
                self.state = dstjax.set_masks(self.state, masks)
                self.params = dstjax.apply_masks(self.params, self.state)
                hold(invariants.same_bits(dstjax.get_masks(self.state), masks), "other masks than were set")
            elif kind == "split":
                moving, still = dstjax.split_state(self.state)
                merged = dstjax.merge_state(moving, still)
                hold(invariants.same_bits(merged, self.state), "another state after split and merge")
                self.state = merged
            elif kind == "adopt":
                method = making.method_of(name, self.c.adopted)
                layout = making.layout_of(self.c) if method.masking is not None else None
                params, state = dstjax.adopt(self.state, self.params, method, layout=layout)
                self.method, self.params, self.state = method, params, state
                self.given = dstjax.get_masks(state) if _needs_masks(method) else None
                self.tx = self.optimiser(self.given)
                self.step = self.program()
                self.types = invariants.types((self.params, self.state))
        except ValueError as error:
            if not is_refusal(error):
                raise
            return
        self.first = self.last = invariants.look(self.params, self.state)
        self.check_state()

    # --- The same training otherwise ----------------------------------------------------------------------------------

    def compare_restored(self, saved: Any) -> None:
        """A restored training ends as the one that was not interrupted."""
        end = self.params, self.state
        self.tx = self.optimiser(self.given)
        self.step = self.program()
        self.params, self.state = saving.restored(self.c.save, saved, self.tx, self.dense)
        hold(invariants.types((self.params, self.state)) == self.types, "another tree after a restore")
        self.last = invariants.look(self.params, self.state)
        for t in range(self.c.middle + 1, self.c.steps + 1):
            grads, extra = self.arguments(t)
            self.params, self.state = self.step(self.params, self.state, grads, extra, rewire=self.rewire())
            self.last = invariants.look(self.params, self.state)
        hold(invariants.same_bits((self.params, self.state), end), "a restored training ends otherwise")

    def excused(self) -> bool:
        """Whether rounding may decide about masks: half precision, or numbers near zero."""
        return self.c.dtype not in ("float32", "float64") or self.method.name in NOISY or not self.finite

    def compare_compiled(self, before: Any, grads: Any, extra: Any, rewire: Any) -> None:
        """A compiled call gives the masks of one that is not."""
        tx = self.tx
        if not hasattr(self, "compiled"):
            self.compiled = jax.jit(lambda g, s, p, x, r: tx.update(g, s, p, rewire=r, **x), static_argnums=4)
        _, state = self.compiled(grads, before[1], before[0], extra, rewire)
        hold(invariants.types(state) == invariants.types(self.state), "another tree under jit")
        if not self.excused():
            same = invariants.same_bits(dstjax.get_masks(state), dstjax.get_masks(self.state))
            hold(same, "other masks under jit")

    def compare_vmapped(self) -> None:
        """Two seeds under vmap have the masks of each alone."""
        c = self.c

        def init(seed: Any) -> Any:
            return making.optimiser(c, self.method, self.dense, seed, self.given).init(self.dense)

        axes = dstjax.vmap_axes(jax.eval_shape(init, 0))
        states = jax.vmap(init, out_axes=axes)(jnp.arange(2))
        params = jax.vmap(lambda s: dstjax.apply_masks(self.dense, s), in_axes=(axes,))(states)
        members = [Training(c, seed) for seed in (0, 1)]
        for t in range(1, c.steps + 1):
            grads, extra = self.arguments(t)
            one = functools.partial(self.step, rewire=members[0].rewire())
            step = jax.vmap(one, in_axes=(0, axes, None, None), out_axes=(0, axes))
            params, states = step(params, states, grads, extra)
            masks = [np.asarray(m) for m in jax.tree.leaves(dstjax.get_masks(states))]
            for i, member in enumerate(members):
                member.call(t)
                alone = [np.asarray(m) for m in jax.tree.leaves(dstjax.get_masks(member.state))]
                if not self.excused():
                    same = all((a == m[i]).all() for a, m in zip(alone, masks, strict=True))
                    hold(same, f"other masks of member {i} under vmap at call {t}")

    def compare_sharded(self) -> None:
        """One device gives the masks of eight."""
        lone = Training(dataclasses.replace(self.c, program="eager", save="none", event="none"))
        lone.run()
        if not self.excused():
            for t, (a, b) in enumerate(zip(self.masks, lone.masks, strict=True), 1):
                same = all((x == y).all() for x, y in zip(a, b, strict=True))
                hold(same, f"other masks on eight devices at call {t}")

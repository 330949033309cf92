"""Trains a configuration for its few steps, and checks what holds after every call."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import dstjax
from tests.fuzz import comparing, invariants, making, saving
from tests.fuzz.drawing import COMPILED, PARTIAL, Configuration
from tests.fuzz.invariants import Seen, hold, is_refusal


def _needs_masks(method: Any) -> bool:
    return method.start.pruner is not None and not method.start.prune_step


class Training:
    """A training under way."""

    def __init__(self, c: Configuration, seed: Any = None) -> None:
        """Makes the method and the optimiser, and begins."""
        self.c, self.calls = c, 0
        self.seed = (0 if c.program == "vmap" else making.seed_of(c)) if seed is None else seed
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
        self.may_refuse = True  # there was no mask update yet, and no adoption
        self.exact = True  # no mask update was lost so far
        self.finite = True  # no gradient was infinite or NaN so far
        self.compiled: Any = None  # the same call under jit
        self.masks: list[list[np.ndarray]] = []  # after each call
        self.check_state()

    def optimiser(self, given: Any = None) -> Any:
        """The optimiser, made anew."""
        return making.optimiser(self.c, self.method, self.dense, self.seed, given)

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
        if c.program == "vmap":
            comparing.vmapped(self)
        if c.program in ("auto", "explicit"):
            comparing.on_eight_devices(self)
        if saved is not None:
            comparing.restored(self, saved)

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
        finite = invariants.are_finite((making.clipped(self.c, grads), extra))
        before = self.params, self.state
        new = self.step(self.params, self.state, grads, extra, rewire=rewire)
        if self.c.program == "donated":
            kept = [x for x in jax.tree.leaves(before[0]) if isinstance(x, jax.Array) and not x.is_deleted()]
            hold(not kept, "parameters were donated and kept")
        self.params, self.state = new
        passed = self.counted(finite)
        if self.c.program == "both":
            comparing.compiled(self, before, grads, extra, rewire)
        old, self.last = self.last, invariants.look(self.params, self.state)
        self.calls += 1
        self.may_refuse &= not now and self.calls < self.c.steps
        self.finite &= finite
        self.exact &= passed or not now
        self.check_state()
        self.check_call(t, old, dict(self.c.arguments)["on_nonfinite"] == "skip" and not finite)
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
        if (
            self.finite or dict(self.c.arguments)["on_nonfinite"] == "skip"
        ):  # decay makes moments of a weight that is NaN
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
            if lost and self.c.wrapper not in (*COMPILED, *PARTIAL):  # which hold gradients back
                invariants.stands_still(old, new, everywhere, True, "a lost call:")
            invariants.stands_still(first, new, invariants.frozen_places(self.c, self.params), True, "a frozen leaf")
            if self.method.seen.gradient is None:  # which the optimiser sees in its place
                still = invariants.still_places(self.c, self.dense, t)
                moves, prunes = invariants.may_move(self.c, self.method, self.finite), invariants.prunes(self.method)
                invariants.stands_still(first, new, still, not moves, "a leaf without gradient", shrinks=prunes)

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
                if not {self.c.wrapper, self.c.inner} & {*COMPILED}:  # whose branches hide that nothing was changed
                    grads, extra = self.arguments(self.c.middle)
                    _, state = self.tx.update(grads, merged, self.params, rewire=False, **extra)
                    dstjax.split_state(state, still)
            elif kind == "adopt":
                method = making.method_of(name, self.c.adopted)
                layout = making.layout_of(self.c) if method.masking is not None else None
                track = dict(self.c.arguments).get("track")
                params, state = dstjax.adopt(self.state, self.params, method, layout=layout, track=track)
                self.method, self.params, self.state = method, params, state
                self.may_refuse = False
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

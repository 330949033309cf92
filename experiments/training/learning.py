"""Warns of networks that cannot learn, because no active weights lead from their inputs to their outputs.

And of growth that does not read the gradients, because the coefficient of DST-EE is far above them.
"""

import sys
from typing import Any

import jax
import numpy as np

import dstjax
from experiments.training import hosts
from experiments.training.program import Program
from experiments.training.trainer import Epoch, Trainer


class Watch:
    """Looks at the masks of each network, and says once of each that is cut through."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.warned: set[int] = set()
        self.counted = False
        self.connections = Program(self._connections)

    def look(self, step: int, masks: list[dict[str, Any]] | None = None) -> list[str]:
        """Prints a line for each reason why networks cannot learn after a step; returns these lines.

        All processes call it together, and the first one looks: at the masks of the trainer, or at others of its
        networks.
        """
        masks = self.trainer.masks() if masks is None else masks
        if not hosts.is_first():
            return []
        reasons: dict[str, list[int]] = {}
        for seed, of_network in zip(self.trainer.seeds, masks, strict=True):
            if seed in self.warned or all(np.all(mask) for mask in of_network.values()):
                continue
            found = self.connections(of_network)
            if found.collapsed:
                reasons.setdefault(str(found), []).append(seed)
        self.warned.update(seed for seeds in reasons.values() for seed in seeds)
        lines = [f"warning: seed(s) {', '.join(map(str, s))}, step {step}: {why}" for why, s in reasons.items()]
        for line in lines:
            print(line, file=sys.stderr, flush=True)
        return lines

    def growth(self, epoch: Epoch, names: list[str]) -> str:
        """Prints a line, once in a run, where growth by DST-EE was by the counters alone; returns it, or ''."""
        for step, after in () if self.counted or not hosts.is_first() else epoch.mask_updates:
            layers = np.any(after.get("by_counters", np.zeros((1, len(names)), bool)), axis=0)
            if not layers.any():
                continue
            self.counted = True
            first, more = names[int(np.argmax(layers))], int(layers.sum()) - 1
            which = f"layer {first!r}" + (f" and {more} more" if more else "")
            line = (
                f"warning: step {step}, {which}: the coefficient of DST-EE outweighs every gradient, so that growth is "
                "by the counters alone; take a smaller one, or scale='gradient', which takes the gradients as its unit."
            )
            print(line, file=sys.stderr, flush=True)
            return line
        return ""

    def _connections(self, masks: dict[str, Any]) -> dstjax.program.Connections:
        trainer, network = self.trainer, self.trainer.network(0)
        params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), network.params)
        statistics = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), network.model_state)

        def forward(params: Any, x: Any) -> Any:
            return trainer.model.apply({"params": params, **statistics}, x, train=False)

        x = jax.ShapeDtypeStruct((1, *trainer.shape), np.float32)
        return dstjax.program.connections(forward, params, masks, x)

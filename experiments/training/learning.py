"""Warns of networks that cannot learn, because no active weights lead from their inputs to their outputs."""

import sys
from typing import Any

import jax
import numpy as np

import dstjax
from experiments.training import hosts
from experiments.training.trainer import Trainer


class Watch:
    """Looks at the masks of each network, and says once of each that is cut through."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.warned: set[int] = set()

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
            found = self._connections(of_network)
            if found.collapsed:
                reasons.setdefault(str(found), []).append(seed)
        self.warned.update(seed for seeds in reasons.values() for seed in seeds)
        lines = [f"warning: seed(s) {', '.join(map(str, s))}, step {step}: {why}" for why, s in reasons.items()]
        for line in lines:
            print(line, file=sys.stderr, flush=True)
        return lines

    def _connections(self, masks: dict[str, Any]) -> dstjax.program.Connections:
        trainer, network = self.trainer, self.trainer.network(0)
        params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), network.params)
        statistics = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), network.model_state)

        def forward(params: Any, x: Any) -> Any:
            return trainer.model.apply({"params": params, **statistics}, x, train=False)

        x = jax.ShapeDtypeStruct((1, *trainer.shape), np.float32)
        return dstjax.program.connections(forward, params, masks, x)

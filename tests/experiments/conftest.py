import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments.configs import digits


@pytest.fixture(scope="session")
def small() -> Callable[..., ConfigDict]:
    """The digits config, small: 48 steps in 3 epochs, 8 mask updates, a checkpoint after each epoch."""

    def make(**fields: Any) -> ConfigDict:
        config = digits.get_config()
        config.model.sizes = (16,)
        config.steps, config.update_period, config.sparsity = 48, 4, 0.8
        config.eval_every_epochs = config.checkpoint_every_epochs = 1
        for name, value in fields.items():
            section, _, nested = name.partition("__")
            if nested:
                config[section][nested] = value
            else:
                config[name] = value
        return config

    return make


@pytest.fixture(scope="session")
def files() -> Callable[[Path], dict[str, Any]]:
    """What a run has left behind, without what may differ between two runs of the same config: the time."""

    def read(workdir: Path) -> dict[str, Any]:

        summary = json.loads((workdir / "summary.json").read_text())
        assert summary.pop("seconds") > 0
        assert len(summary.pop("sha256")) == 64  # of the seconds too
        masks = {}
        if (workdir / "masks.npz").exists():
            with np.load(workdir / "masks.npz") as archive:
                masks = {name: archive[name].tobytes() for name in archive.files}
        metrics = (workdir / "metrics.jsonl").read_bytes()
        return {"summary": summary, "masks": masks, "metrics": metrics}

    return read

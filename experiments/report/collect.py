"""Reads the files of finished runs into cells."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

import dstjax
from experiments.report import settings
from experiments.report.cells import CellResult, Cost, Layer, UpdateRecords
from experiments.training import finished, sealed
from experiments.training.finished import UnreadableError


def cell(workdir: Path, method: dstjax.Method, called: str | None = None, variant: str = "") -> CellResult:
    """The finished run in a folder.

    Args:
      workdir: the folder.
      method: what its config stands for.
      called: the name that it is reported by; None: that of its config.
      variant: what that name stands for; '': nothing that the method's own does not say.

    Raises:
      UnreadableError: a file is missing, cut short or of another format.
    """
    run = finished.read(workdir)
    summary = run.summary
    try:
        layers = tuple(
            Layer(x["path"], tuple(x["shape"]), x["requested"], np.asarray(x["active"])) for x in summary["layers"]
        )
        active = float(np.mean(np.sum([x.active for x in layers], axis=0))) if layers else summary["active_weights"]
        # That of the rule itself: where no hyper-parameter gives one, it has a default.
        coefficient = None if method.updates is None else getattr(method.updates.grow_score, "coefficient", None)
        return CellResult(
            name=workdir.name,
            method=summary["method"] if called is None else called,
            sparsity=summary["sparsity"],
            coefficient=coefficient,
            seeds=tuple(summary["seeds"]),
            accuracy=np.asarray(summary["test_accuracy"], np.float64) * 100,
            exploration=np.asarray(summary["exploration_rate"], np.float64),
            density=active / summary["weights"],
            active_weights=round(active),
            weights=summary["weights"],
            steps=summary["steps"],
            seconds=summary["seconds"],
            settings=settings.describe(method, coefficient),
            config=run.config,
            versions=sealed.read(workdir / "versions.json") if (workdir / "versions.json").exists() else {},
            off_count=_off_count(layers, run.records, method.promises),
            mask_updates=summary["mask_updates"],
            updates=_updates(run.of("mask_update"), len(summary["seeds"])),
            layers=layers,
            first_masks=_first_masks(workdir / "masks.npz"),
            counts=method.promises,
            pattern=_pattern(summary if called is None else {**summary, "method": called}),
            variant=variant,
            cost=Cost(**summary["cost"]) if summary.get("cost") else None,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UnreadableError(
            f"{workdir} does not hold a run of this version of experiments.train ({error!r})."
        ) from error


def _pattern(summary: dict[str, Any]) -> str:
    """What gives the sparsity of a method that does not take one."""
    hyperparameters = summary["hyperparameters"]
    if summary["method"] == "dense" or ("sparsity" in hyperparameters and summary["layers"]):
        return ""
    if not summary["layers"]:
        return "dense"  # beside the dense network of the comparison
    if "channels(" in str(hyperparameters.get("structure")):
        return "channels"
    return f"{hyperparameters['n']}:{hyperparameters['m']}" if "n" in hyperparameters else "its own"


def _updates(records: list[dict[str, Any]], n_seeds: int) -> UpdateRecords:
    def column(name: str) -> np.ndarray:
        return finished.floats([r[name] for r in records]).reshape(len(records), n_seeds)

    return UpdateRecords(
        np.asarray([r["step"] for r in records], np.int64),
        column("exploration_rate"),
        column("survival_rate"),
        column("mask_error"),
    )


def _off_count(layers: tuple[Layer, ...], records: list[dict[str, Any]], counts: str) -> int:
    """The largest distance between a count of active weights and the one that the method promises (Method.counts)."""
    final = [np.asarray(x.active) - x.requested for x in layers]
    if counts == "free" or not final:
        return 0
    if counts == "total":
        return int(np.abs(np.sum(final, axis=0)).max())
    gaps = list(final)
    if counts == "kept":
        total = sum(x.requested for x in layers)
        for record in records:
            if record["kind"] == "mask_update":
                gaps += [np.asarray(record["active"][p]) - n for p, n in record["requested"].items()]
            elif record["kind"] == "train":
                gaps.append(np.asarray(record["active_weights"]) - total)
    return max(int(np.abs(gap).max()) for gap in gaps)


def _first_masks(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    if not path.exists():
        return None
    try:
        with np.load(path) as stored:
            return np.asarray(stored["initial"], bool), np.asarray(stored["final"], bool)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UnreadableError(f"{path} cannot be read: {error}.") from error

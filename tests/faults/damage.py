"""Faults of files that lie still: flipped, cut, emptied, deleted, swapped, copied, changed."""

import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from tests.faults.lab import RULE, SAVED, Lab, Outcome, arguments, command

HOW = ("flip", "cut", "empty", "delete", "garbage")


def hurt(path: Path, how: str, rng: random.Random) -> None:
    """Damages one file."""
    content = bytearray(path.read_bytes())
    if how == "flip" and content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif how == "cut":
        content = content[: rng.randrange(max(1, len(content)))]
    elif how == "garbage":
        content = bytearray(rng.randbytes(max(1, len(content))))
    elif how == "empty":
        content = bytearray()
    if how == "delete":
        path.unlink()
    else:
        path.write_bytes(content)


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def putting_back(path: Path) -> Callable[[], object]:
    """What brings a file or folder back as it is now."""
    kept = path.with_name(path.name + ".kept")
    kept = path.parents[1] / f"kept-{path.parent.name}-{path.name}"
    if kept.is_dir():
        shutil.rmtree(kept)
    if path.is_dir():
        shutil.copytree(path, kept)
    else:
        shutil.copy2(path, kept)

    def back() -> None:
        if path.is_dir():
            shutil.rmtree(path)
        if kept.is_dir():
            shutil.copytree(kept, path)
        else:
            shutil.copy2(kept, path)

    return back


def checkpoint_file(how: str) -> Callable[[Lab, random.Random], Outcome]:
    """One file of the newest checkpoint, or of every one."""

    def fault(lab: Lab, rng: random.Random) -> Outcome:
        workdir = lab.half()
        back = putting_back(workdir / "checkpoints")
        every = rng.random() < 0.3
        for step in (16, 32) if every else (32,):
            hurt(rng.choice(files_of(workdir / "checkpoints" / str(step))), how, rng)
        return lab.after(workdir, back)

    return fault


def swapped_checkpoint_file(lab: Lab, rng: random.Random) -> Outcome:
    """A file of the newest checkpoint is that of an older one."""
    workdir = lab.half()
    newest, older = (workdir / "checkpoints" / step for step in ("32", "16"))
    both = [path for path in files_of(newest) if (older / path.relative_to(newest)).exists()]
    chosen = rng.choice(both)
    shutil.copy2(older / chosen.relative_to(newest), chosen)
    return lab.after(workdir, None)


def copied_checkpoint(lab: Lab, rng: random.Random) -> Outcome:
    """The folder of a checkpoint stands a second time under a step that is to come, or under another name."""
    workdir = lab.half()
    source = workdir / "checkpoints" / rng.choice(("16", "32"))
    name = rng.choice(("48", "40", "33", "32 (copy)", "backup", "32.bak", "0", "00032"))
    shutil.copytree(source, workdir / "checkpoints" / name)
    return lab.after(workdir, lambda: shutil.rmtree(workdir / "checkpoints" / name, ignore_errors=True))


def changed_record(lab: Lab, rng: random.Random) -> Outcome:
    """A number of the record of a checkpoint is another one, in JSON that is as good as before."""
    workdir = lab.half()
    back = putting_back(workdir / "checkpoints")
    (path,) = [p for p in files_of(workdir / "checkpoints" / "32" / "meta") if b'"record"' in p.read_bytes()]
    content = json.loads(path.read_text())
    record = content["record"]
    name = rng.choice([n for n, v in record.items() if isinstance(v, int | float)])
    record[name] += rng.choice((1, -1, 16, 64))
    path.write_text(json.dumps(content))
    return lab.after(workdir, back)


def foreign_checkpoint(lab: Lab, rng: random.Random) -> Outcome:
    """A checkpoint of another run has taken the place of the newest."""
    other = lab.folder / "other"
    if not (other / "summary.json").exists():
        command(lab.train, arguments(other, sparsity="0.7"))
    workdir = lab.half()
    step = rng.choice(("32", "48"))
    shutil.rmtree(workdir / "checkpoints" / step, ignore_errors=True)
    shutil.copytree(other / "checkpoints" / step, workdir / "checkpoints" / step)
    return lab.after(workdir, None)


def checkpoints_gone(lab: Lab, rng: random.Random) -> Outcome:
    """All checkpoints are deleted, or their folder."""
    workdir = lab.half(saved=48)
    back = putting_back(workdir / "checkpoints")
    if rng.random() < 0.5:
        shutil.rmtree(workdir / "checkpoints")
    else:
        for step in SAVED:
            shutil.rmtree(workdir / "checkpoints" / str(step))
    return lab.after(workdir, back)


def file_of(name: str, *, whole: bool) -> Callable[[Lab, random.Random], Outcome]:
    """A file of a run that is half-way or finished."""

    def fault(lab: Lab, rng: random.Random) -> Outcome:
        workdir = lab.finished() if whole else lab.half()
        back = putting_back(workdir / name)
        how = rng.choice(HOW)
        hurt(workdir / name, how, rng)
        return lab.after(workdir, back)

    return fault


def swapped_file(lab: Lab, rng: random.Random) -> Outcome:
    """A file of a finished run is that of another run."""
    other = lab.folder / "other"
    if not (other / "summary.json").exists():
        command(lab.train, arguments(other, sparsity="0.7"))
    workdir = lab.finished()
    name = rng.choice(("summary.json", "masks.npz", "metrics.jsonl", "config.json"))
    back = putting_back(workdir / name)
    shutil.copy2(other / name, workdir / name)
    return lab.after(workdir, back)


def changed_data(lab: Lab, rng: random.Random) -> Outcome:
    """Labels or pixels are others than those that the run began with."""
    from experiments import data

    workdir = lab.finished() if rng.random() < 0.4 else lab.half()
    kept = data.DATASETS["digits"]
    found = kept.load(root=None, protocol="paper")  # type: ignore[misc]
    what = rng.choice(("all labels", "one label", "one pixel", "order"))
    x, y = found.x.copy(), found.y.copy()
    row = rng.randrange(len(y))
    if what == "all labels":
        y = (y + 1) % 10
    elif what == "one label":
        y[row] = (y[row] + 1) % 10
    elif what == "one pixel":
        x[row, 3, 3] += 1
    else:
        x, y = x[::-1].copy(), y[::-1].copy()
    made = data.Data(x, y, found.classes, found.sizes, found.provenance)
    data.DATASETS["digits"] = data.Dataset(kept.protocols, lambda root, protocol: made)

    def back() -> None:
        data.DATASETS["digits"] = kept

    try:
        ended = command(lab.train, arguments(workdir))
    finally:
        back()
    return lab.outcome(workdir, ended, back)


def changed_rule(lab: Lab, rng: random.Random) -> Outcome:
    """The growth rule has other source than when the run began; comments do not count."""
    workdir = lab.finished() if rng.random() < 0.4 else lab.half()
    path = lab.folder / "faults_rule.py"
    new = rng.choice(
        (
            RULE.replace("jnp.abs(leaf.gradient)", "-jnp.abs(leaf.gradient)"),
            RULE.replace("jnp.abs(leaf.gradient)", "jnp.square(leaf.gradient)"),
            RULE.replace("import jax.numpy as jnp\n", "import jax.numpy as jnp\n\nSCALE = 2.0\n"),
            RULE.replace("    return", "    # nothing new\n    return"),
        )
    )

    def put(text: str) -> None:
        path.write_text(text)
        sys.modules.pop("faults_rule", None)
        shutil.rmtree(lab.folder / "__pycache__", ignore_errors=True)

    put(new)
    try:
        ended = command(lab.train, arguments(workdir))
    finally:
        put(RULE)
    return lab.outcome(workdir, ended, lambda: None)


def changed_fields(lab: Lab, rng: random.Random) -> Outcome:
    """The command is given another value of a field."""
    workdir = lab.finished() if rng.random() < 0.4 else lab.half()
    name, value = rng.choice(
        (
            ("sparsity", "0.7"),
            ("steps", "64"),
            ("seeds", "(0, 2)"),
            ("optimizer.momentum", "0"),
            ("model.sizes", "(9,)"),
        )
    )
    return lab.outcome(workdir, command(lab.train, arguments(workdir, **{name: value})), lambda: None)

"""Compares methods of dynamic sparse training: methods x sparsities, each over the same seeds.

    python -m experiments.compare --config experiments/configs/digits.py --methods dense,static,set,rigl,dst_ee \
      --sparsities 0.95,0.98,0.99 --seeds 5 --workdir DIR [--config.steps=1000 ...]

  --methods NAMES           names of dstjax.methods with commas between them, or all
  --coefficients C,C,...    DST-EE is also run with these at one sparsity, for its exploration figure (default, where
                            dst_ee is among the methods: 1e-4,1e-3,1e-2,1e-1; none: without them)
  --coefficient-sparsity S  that sparsity (default: the one in the middle of --sparsities)
  --seeds N                 seeds 0 to N-1, or different seeds as N,N,...
  --config.FIELD=VALUE      changes the config for every cell whose method has such a field

Each cell trains in a folder of its own in DIR. The same command again continues where it was interrupted and does not
run finished cells again. DIR holds in the end results.csv (a row per cell and seed) and report.html (for a browser).

Exit status: 0; 1 where a cell's loss is no longer finite (the others are run and reported); 2 for anything wrong with
the arguments, the config or DIR.
"""

import copy
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

import dstjax
from dstjax.checks import check_choice
from experiments import command_line, data, train
from experiments.report import collect, page, tables
from experiments.report.cells import Comparison, method_label, percent
from experiments.training import configuration
from experiments.training.recording import write_atomically

OPTIONS = {
    "methods": "dense,static,set,rigl,dst_ee",
    "sparsities": "0.95,0.98,0.99",
    "seeds": "5",
    "workdir": None,
    "coefficients": "default",
    "coefficient-sparsity": "middle",
}
COEFFICIENTS = "1e-4,1e-3,1e-2,1e-1"
SET_BY = {"method": "--methods", "sparsity": "--sparsities", "seeds": "--seeds"}
PACKAGES = ("jax", "jaxlib", "optax", "numpy")


class Planned(NamedTuple):
    """A cell that is to be run."""

    name: str  # its folder
    title: str
    config: ConfigDict


class Grid(NamedTuple):
    """What a command asks for."""

    cells: list[Planned]  # each once, in the order in which they are run
    grid: list[str]  # names of the cells of methods x sparsities
    sweep: list[str]  # names of the cells of DST-EE by rising coefficient
    workdir: Path
    command: str


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit status."""
    if {"-h", "--help"} & {*arguments}:
        print(__doc__)
        return 0
    try:
        grid = plan(arguments)
        failures = run(grid)
        if not report(grid, failures):
            return 1
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues here.", file=sys.stderr)
        return 130
    return 1 if failures else 0


def plan(arguments: Sequence[str]) -> Grid:
    """Everything that the command asks for, checked before anything runs.

    Raises:
      ValueError: an argument is missing, unknown or not accepted, or a cell's folder holds another run.
    """
    config, defaults, options = command_line.parse(arguments, OPTIONS)
    for field, option in SET_BY.items():
        if config.get(field) != defaults.get(field):
            raise ValueError(f"config field {field!r} is not accepted here; use {option}.")
    methods = in_order() if options["methods"] == "all" else _list("methods", options["methods"])
    for method in methods:
        check_choice("method", method, dstjax.methods.names())
    sparse = [m for m in methods if _has_sparsity(m)]
    sparsities = [_number("sparsities", s) for s in _list("sparsities", options["sparsities"])] if sparse else []
    wanted = options["coefficients"]
    if wanted == "default":
        wanted = COEFFICIENTS if "dst_ee" in methods else "none"
    coefficients = sorted(_number("coefficients", c) for c in _list("coefficients", wanted)) if wanted != "none" else []
    at = sorted(sparsities)[len(sparsities) // 2] if sparsities else None
    if options["coefficient-sparsity"] != "middle":
        at = _number("coefficient-sparsity", options["coefficient-sparsity"])
    if coefficients and at is None:
        raise ValueError("--coefficients need a sparsity; give --coefficient-sparsity.")
    _check_changes(config, defaults, [*methods, "dst_ee"] if coefficients else methods)
    command_line.set_field(config, "seeds", options["seeds"])

    cells: dict[str, Planned] = {}

    def add(name: str, method: str, sparsity: float | None, coefficient: float | None = None) -> str:
        own = _config_of(config, defaults, method, sparsity, coefficient)
        configuration.plan(own)
        title = method_label(method) + ("" if sparsity is None else f" at {percent(sparsity)}")
        title += "" if coefficient is None else f", c = {coefficient:g}"
        return cells.setdefault(name, Planned(name, title, own)).name

    names = [
        add(method if s is None else f"{method}-{s:g}", method, s)
        for method in methods
        for s in (sparsities if _has_sparsity(method) else [None])
    ]
    usual = config.get("coefficient")
    if usual is None:
        usual = dstjax.methods.hyperparameters("dst_ee")["coefficient"]
    sweep = []
    for c in coefficients:
        name = f"dst_ee-{at:g}"
        sweep.append(name if c == usual and name in names else add(f"{name}-c{c:g}", "dst_ee", at, c))
    workdir = Path(options["workdir"])
    for cell in cells.values():
        _check_folder(workdir / cell.name, cell.config)
    return Grid(list(cells.values()), names, sweep, workdir, _command(arguments))


def run(grid: Grid) -> dict[str, str]:
    """Runs what is not finished; returns why cells failed, by name.

    Raises:
      ValueError: of a cell's config or folder.
    """
    waiting = [c for c in grid.cells if not (grid.workdir / c.name / "summary.json").exists()]
    done = len(grid.cells) - len(waiting)
    print(
        f"{len(grid.cells)} cells in {grid.workdir}" + (f", {done} of them finished before" if done else ""), flush=True
    )
    failures: dict[str, str] = {}
    width = max(len(c.title) for c in grid.cells)
    start = time.perf_counter()
    for i, cell in enumerate(waiting, 1):
        print(f"[{done + i:>{len(str(len(grid.cells)))}}/{len(grid.cells)}] {cell.title:<{width}} ", end="", flush=True)
        folder = grid.workdir / cell.name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / "versions.json", json.dumps(_versions()).encode())
            summary = train.train_and_evaluate(cell.config, folder, quiet=True)
        except train.DivergedError as error:
            failures[cell.name] = f"{cell.title}: {error}"
            print(f"failed: {error}", flush=True)
            continue
        except (ValueError, OSError) as error:
            print(flush=True)
            raise ValueError(f"cell {cell.name}: {error}") from error
        elapsed = time.perf_counter() - start
        rest = f", about {_clock(elapsed / i * (len(waiting) - i))} to go" if i < len(waiting) else ""
        print(f"{_result(summary)}   {_clock(elapsed)} gone{rest}", flush=True)
    return failures


def report(grid: Grid, failures: dict[str, str]) -> bool:
    """Prints the table and writes results.csv and report.html; False where no cell of the grid is finished.

    Raises:
      ValueError: a file of a cell cannot be read, or a report cannot be written.
    """
    found = {
        c.name: collect.cell(grid.workdir / c.name, configuration.plan(c.config).method)
        for c in grid.cells
        if c.name not in failures
    }
    cells = [found[name] for name in grid.grid if name in found]
    if not cells:
        return False
    dataset = grid.cells[0].config.dataset
    loaded = data.load(dataset)
    comparison = Comparison(
        grid=tuple(cells),
        sweep=tuple(found[name] for name in grid.sweep if name in found),
        dataset=dataset,
        data=loaded.provenance,
        n_test=loaded.sizes[2],
        command=grid.command,
        failures=tuple(failures.values()),
    )
    print(f"\n{tables.as_text(comparison)}\n")
    try:
        write_atomically(grid.workdir / "results.csv", tables.as_csv(comparison).encode())
        write_atomically(grid.workdir / "report.html", page.page(comparison).encode())
    except OSError as error:
        raise ValueError(f"workdir {grid.workdir} is not writable: {error.strerror}.") from error
    print(
        f"Open {grid.workdir / 'report.html'} in a browser: the charts, the masks, and what they show and do not show."
    )
    return True


def in_order() -> list[str]:
    """All methods, as the catalogue lists them."""
    return list(dstjax.methods.CATALOGUE)


def _has_sparsity(method: str) -> bool:
    """Whether a method takes a sparsity; the dense one has none, and N:M sparsity has its own."""
    return "sparsity" in dstjax.methods.hyperparameters(method)


def _list(name: str, text: str) -> list[str]:
    values = [v.strip() for v in text.split(",")]
    if "" in values or len({*values}) < len(values):
        raise ValueError(f"--{name}={text!r} is not accepted; expected different values with commas between them.")
    return values


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--{name}: {text!r} is not accepted; expected a number.") from None


def _hyperparameters(methods: Sequence[str]) -> set[str]:
    return {name for method in methods for name in dstjax.methods.hyperparameters(method)}


def _check_changes(config: ConfigDict, defaults: ConfigDict, methods: Sequence[str]) -> None:
    """Refuses a changed hyper-parameter that none of the methods has."""
    for name in (_hyperparameters(dstjax.methods.names()) - _hyperparameters(methods)) & {*config.keys()}:
        if config[name] != defaults[name]:
            raise ValueError(f"config field {name!r} is not accepted; none of {', '.join(methods)} has it.")


def _config_of(
    config: ConfigDict, defaults: ConfigDict, method: str, sparsity: float | None, coefficient: float | None
) -> ConfigDict:
    """The config of one cell: without the changes of hyper-parameters that its method does not have."""
    own = copy.deepcopy(config)
    own.method = method
    for name in (_hyperparameters(dstjax.methods.names()) - _hyperparameters([method])) & {*own.keys()}:
        own[name] = defaults[name]
    with own.unlocked():
        if sparsity is not None:
            own.sparsity = sparsity
        if coefficient is not None:
            own.coefficient = coefficient
    return own


def _check_folder(folder: Path, config: ConfigDict) -> None:
    """Refuses the folder of another run before anything runs."""
    if not (folder / "config.json").exists():
        return
    different = configuration.differences(configuration.identity(config), collect.read_json(folder / "config.json"))
    if different:
        raise ValueError(f"cell {folder} is that of another run; it differs in {', '.join(different)}.")


def _result(summary: dict[str, Any]) -> str:
    spread = summary["test_accuracy_std"]
    shown = f"{100 * summary['test_accuracy_mean']:6.2f}" + (f" ± {100 * spread:5.2f}" if spread is not None else "")
    return f"{shown} %   R {summary['exploration_rate_mean']:.3f}"


def _versions() -> dict[str, str]:
    return {
        "dstjax": dstjax.__version__,
        **{p: metadata.version(p) for p in PACKAGES},
        "python": platform.python_version(),
    }


def _command(arguments: Sequence[str]) -> str:
    """The command that makes the same again, without what only this machine has."""
    parts = ["python -m experiments.compare"]
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        value = value if equals else next(rest)
        if name in ("--config", "--workdir"):
            relative = os.path.relpath(value)
            value = Path(value).name if os.path.isabs(value) and relative.startswith("..") else relative
        parts.append(f"{name}={shlex.quote(value)}" if name.startswith("--config.") else f"{name} {shlex.quote(value)}")
    return " ".join(parts)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

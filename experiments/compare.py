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
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

import dstjax
from dstjax.checks import check_choice
from experiments import command_line, data, queue
from experiments.report import collect, page, tables
from experiments.report.cells import Comparison, percent
from experiments.report.names import method_label
from experiments.training import configuration, run, sealed
from experiments.training.recording import versions, write_atomically

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


class Grid(NamedTuple):
    """What a command asks for."""

    cells: dict[str, ConfigDict]  # by the name of their folder, in the order in which they are run
    titles: dict[str, str]
    grid: list[str]  # names of the cells of methods x sparsities
    sweep: list[str]  # names of the cells of DST-EE by rising coefficient
    workdir: Path
    command: str


def main(arguments: Sequence[str]) -> int:
    """Runs the command and returns its exit status."""
    return command_line.run(arguments, __doc__, _compare, "the same command continues here.")


def _compare(arguments: Sequence[str]) -> int:
    grid = plan(arguments)
    failures = queue.run([_job(grid, name) for name in grid.cells], place=f" in {grid.workdir}")
    return 1 if not report(grid, failures) or failures else 0


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

    cells: dict[str, ConfigDict] = {}
    titles: dict[str, str] = {}

    def add(name: str, method: str, sparsity: float | None, coefficient: float | None = None) -> str:
        own = _config_of(config, defaults, method, sparsity, coefficient)
        configuration.plan(own)
        title = method_label(method) + ("" if sparsity is None else f" at {percent(sparsity)}")
        title += "" if coefficient is None else f", c = {coefficient:g}"
        cells.setdefault(name, own)
        titles.setdefault(name, title)
        return name

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
    for name, own in cells.items():
        _check_folder(workdir / name, own)
    return Grid(cells, titles, names, sweep, workdir, _command(arguments))


def _job(grid: Grid, name: str) -> queue.Job:
    folder = grid.workdir / name

    def work() -> str:
        folder.mkdir(parents=True, exist_ok=True)
        sealed.write(folder / "versions.json", {"dstjax": dstjax.__version__, **versions()})
        return f"{_result(run.train_and_evaluate(grid.cells[name], folder, quiet=True))}   "

    return queue.Job(name, grid.titles[name], folder, work)


def report(grid: Grid, failures: dict[str, str]) -> bool:
    """Prints the table and writes results.csv and report.html; False where no cell of the grid is finished.

    Raises:
      ValueError: a file of a cell cannot be read, or a report cannot be written.
    """
    found = {
        name: collect.cell(grid.workdir / name, configuration.plan(config).method)
        for name, config in grid.cells.items()
        if grid.titles[name] not in failures
    }
    cells = [found[name] for name in grid.grid if name in found]
    if not cells:
        return False
    dataset = grid.cells[grid.grid[0]].dataset
    loaded = data.load(dataset)
    comparison = Comparison(
        grid=tuple(cells),
        sweep=tuple(found[name] for name in grid.sweep if name in found),
        dataset=dataset,
        data=loaded.provenance,
        n_test=loaded.sizes[2],
        command=grid.command,
        failures=tuple(f"{title}: {why}" for title, why in failures.items()),
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


def _check_changes(config: ConfigDict, defaults: ConfigDict, methods: Sequence[str]) -> None:
    """Refuses a changed hyper-parameter that none of the methods has."""
    for name in configuration.foreign(config, methods):
        if config[name] != defaults[name]:
            raise ValueError(f"config field {name!r} is not accepted; none of {', '.join(methods)} has it.")


def _config_of(
    config: ConfigDict, defaults: ConfigDict, method: str, sparsity: float | None, coefficient: float | None
) -> ConfigDict:
    """The config of one cell: without the changes of hyper-parameters that its method does not have."""
    own = copy.deepcopy(config)
    configuration.change_method(own, method, defaults)
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
    different = configuration.differences(configuration.identity(config), sealed.read(folder / "config.json"))
    if different:
        raise ValueError(f"cell {folder} is that of another run; it differs in {', '.join(different)}.")


def _result(summary: dict[str, Any]) -> str:
    spread = summary["test_accuracy_std"]
    shown = f"{100 * summary['test_accuracy_mean']:6.2f}" + (f" ± {100 * spread:5.2f}" if spread is not None else "")
    return f"{shown} %   R {summary['exploration_rate_mean']:.3f}"


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

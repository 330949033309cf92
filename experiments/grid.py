"""The grid of a comparison: methods x sparsities, and variants and methods of one's own among them."""

import itertools
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

import dstjax
from dstjax.checks import check_choice
from experiments import command_line, data, queue
from experiments.report import collect, page, tables
from experiments.report.cells import Comparison, percent
from experiments.report.names import method_label
from experiments.training import configuration, inputs, sealed
from experiments.training.recording import versions, write_atomically
from experiments.training.workdir import check_name, look
from experiments.variants import SET_BY, Variant, config_of, has_sparsity, in_order, reported, variant

OPTIONS = {
    "methods": "dense,static,set,rigl,dst_ee",
    "sparsities": "0.95,0.98,0.99",
    "seeds": "5",
    "workdir": None,
    "coefficients": "default",
    "coefficient-sparsity": "middle",
    "path": "fast",
}
COEFFICIENTS = "1e-4,1e-3,1e-2,1e-1"


class Grid(NamedTuple):
    """What a command asks for."""

    cells: dict[str, ConfigDict]  # by the name of their folder, in the order in which they are run
    titles: dict[str, str]
    called: dict[str, str]  # the method of each cell, as it is reported
    meant: dict[str, str]  # what that name stands for, where it is the user's own; else ''
    grid: list[str]  # names of the cells of methods x sparsities
    sweep: list[str]  # names of the cells of DST-EE by rising coefficient
    workdir: Path
    path: str  # see experiments.queue
    command: str


def plan(arguments: Sequence[str]) -> Grid:
    """Everything that the command asks for, checked before anything runs.

    Raises:
      ValueError: an argument is missing, unknown or not accepted, or a cell's folder holds another run.
    """
    config, defaults, options = command_line.parse(arguments, OPTIONS)
    for field, option in SET_BY.items():
        if config.get(field) != defaults.get(field):
            raise ValueError(f"config field {field!r} is not accepted here; use {option}.")
    listed = in_order() if options["methods"] == "all" else _list("methods", options["methods"])
    variants = [variant(text) for text in listed]
    if len({method_label(v.name).casefold() for v in variants}) < len(variants):
        raise ValueError(
            f"--methods={options['methods']!r} is not accepted; expected different names, as reports and folders "
            "write them."
        )
    methods = [v.method for v in variants]
    sparse = [v for v in variants if has_sparsity(v, config)]
    sparsities = [_number("sparsities", s) for s in _list("sparsities", options["sparsities"])] if sparse else []
    wanted = options["coefficients"]
    if wanted == "default":
        wanted = COEFFICIENTS if any(v.name == "dst_ee" for v in variants) else "none"
    coefficients = sorted(_number("coefficients", c) for c in _list("coefficients", wanted)) if wanted != "none" else []
    for option, values in (("sparsities", sparsities), ("coefficients", coefficients)):
        if len({*values}) < len(values):
            raise ValueError(f"--{option}={options[option]!r} is not accepted; expected different numbers.")
    at = sorted(sparsities)[len(sparsities) // 2] if sparsities else None
    if options["coefficient-sparsity"] != "middle":
        at = _number("coefficient-sparsity", options["coefficient-sparsity"])
    if coefficients and at is None:
        raise ValueError("--coefficients need a sparsity; give --coefficient-sparsity.")
    _check_changes(config, defaults, [*methods, "dst_ee"] if coefficients else methods)
    command_line.set_field(config, "seeds", options["seeds"])

    cells: dict[str, ConfigDict] = {}
    titles: dict[str, str] = {}
    called: dict[str, str] = {}
    meant: dict[str, str] = {}

    def add(name: str, of: Variant, sparsity: float | None, coefficient: float | None = None) -> str:
        own = config_of(config, defaults, of, sparsity, coefficient)
        if name in cells:
            if cells[name].to_dict() != own.to_dict():
                raise ValueError(
                    f"two different cells of the grid are called {name!r}; give a method another name, as mine=rigl."
                )
            return name
        cells[name] = own
        called[name], meant[name] = reported(of, own), of.meaning
        title = method_label(called[name]) + ("" if sparsity is None else f" at {percent(sparsity)}")
        titles[name] = title + ("" if coefficient is None else f", c = {coefficient:.15g}")
        _check_cell(workdir / name, own)
        return name

    workdir = Path(options["workdir"])
    names = [
        add(v.name if s is None else f"{v.name}-{s:.15g}", v, s)
        for v in variants
        for s in (sparsities if has_sparsity(v, config) else [None])
    ]
    usual = config.get("coefficient")
    if usual is None:
        usual = dstjax.criteria.dst_ee(scale=config.get("scale") or "absolute").coefficient
    sweep = []
    for c in coefficients:
        name = f"dst_ee-{at:.15g}"
        known = c == usual and name in names
        sweep.append(name if known else add(f"{name}-c{c:.15g}", Variant("dst_ee", "dst_ee", {}), at, c))
    check_choice("path", options["path"], queue.PATHS)
    return Grid(cells, titles, called, meant, names, sweep, workdir, options["path"], _command(arguments))


def job(grid: Grid, name: str) -> queue.Job:
    folder = grid.workdir / name

    def begin() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        sealed.write(folder / "versions.json", {"dstjax": dstjax.__version__, **versions()})

    what = queue.Training(grid.cells[name], begin, lambda summary: f"{_result(summary)}  ")
    return queue.training(name, grid.titles[name], folder, what)


def report(grid: Grid, failures: Mapping[Path, str]) -> bool:
    """Writes results.csv and report.html and prints the table; False where no cell of the grid is finished.

    Raises:
      ValueError: a file of a cell cannot be read, or a report cannot be written.
    """
    plans = {name: configuration.plan(config) for name, config in grid.cells.items()}
    found = {
        name: collect.cell(grid.workdir / name, planned.method, grid.called[name], grid.meant[name])
        for name, planned in plans.items()
        if grid.workdir / name not in failures
    }
    cells = [found[name] for name in grid.grid if name in found]
    if not cells:
        print("No cell of the grid is finished: there is no table and no report.")
        return False
    read = plans[grid.grid[0]].data
    comparison = Comparison(
        grid=tuple(cells),
        sweep=tuple(found[name] for name in grid.sweep if name in found),
        dataset=grid.cells[grid.grid[0]].dataset,
        data=read.provenance,
        n_test=read.sizes[2],
        command=grid.command,
        failures=tuple(f"{grid.titles[n]}: {why}" for n in grid.cells if (why := failures.get(grid.workdir / n))),
        tested=_tested(read, cells[0].seeds),
    )
    try:
        write_atomically(grid.workdir / "results.csv", tables.as_csv(comparison).encode())
        write_atomically(grid.workdir / "report.html", page.page(comparison).encode())
    except OSError as error:
        raise ValueError(f"workdir {grid.workdir} is not writable: {error.strerror}.") from error
    print(f"\n{tables.as_text(comparison)}\n")
    print(
        f"Open {grid.workdir / 'report.html'} in a browser: the charts, the masks, and what they show and do not show."
    )
    return True


def _tested(read: data.Data | data.Stream, seeds: Sequence[int]) -> int | None:
    """How many different test samples the seeds have together, None where all have the same."""
    if isinstance(read, data.Stream):
        return None
    return len({int(i) for seed in seeds for i in read.split(seed).test})


def _list(name: str, text: str) -> list[str]:
    """The parts of a text between its commas; those within brackets belong to a part."""
    ends = [-1, *(i for i, c in enumerate(text) if c == "," and _depth(text[:i]) <= 0), len(text)]
    values = [text[a + 1 : b].strip() for a, b in itertools.pairwise(ends)]
    if "" in values or len({*values}) < len(values):
        raise ValueError(f"--{name}={text!r} is not accepted; expected different values with commas between them.")
    return values


def _depth(text: str) -> int:
    """How many brackets are open at the end of a text."""
    return sum((c in "([{") - (c in ")]}") for c in text)


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


def _check_cell(folder: Path, config: ConfigDict) -> None:
    """Refuses a config that is not accepted, and the folder of another run, before anything runs."""
    planned = configuration.plan(config)
    check_name(folder)
    if not (folder / "config.json").exists():
        return
    identity = configuration.identity(config)
    different = configuration.differences(identity, sealed.read(folder / "config.json"))
    if different:
        raise ValueError(f"cell {folder} is that of another run; it differs in {', '.join(different)}.")
    look(folder, identity, inputs.fingerprints(planned.data, planned.seeds, planned.rules))


def _result(summary: dict[str, Any]) -> str:
    spread = summary["test_accuracy_std"]
    shown = f"{100 * summary['test_accuracy_mean']:6.2f}" + (f" ± {100 * spread:5.2f}" if spread is not None else "")
    return f"{shown} %  R {summary['exploration_rate_mean']:.3f}"


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

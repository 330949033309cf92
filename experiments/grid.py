"""The grid of a comparison: methods x sparsities, and variants and methods of one's own among them."""

import copy
import itertools
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict, config_dict

import dstjax
from dstjax.checks import check_choice
from experiments import command_line, data, queue
from experiments.report import collect, page, tables
from experiments.report.cells import Comparison, percent
from experiments.report.names import method_label
from experiments.training import configuration, inputs, rules, sealed
from experiments.training.recording import versions, write_atomically
from experiments.training.workdir import check_name, look

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
SET_BY = {"method": "--methods", "sparsity": "--sparsities", "seeds": "--seeds"}


class Variant(NamedTuple):
    """A method of the grid, under the name that it is reported by."""

    name: str
    method: str  # of the catalogue, or module:function
    changes: dict[str, str]  # fields of its config, as they are typed


class Grid(NamedTuple):
    """What a command asks for."""

    cells: dict[str, ConfigDict]  # by the name of their folder, in the order in which they are run
    titles: dict[str, str]
    called: dict[str, str]  # the method of each cell, as it is reported
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
    if len({v.name for v in variants}) < len(variants):
        raise ValueError(f"--methods={options['methods']!r} is not accepted; expected different names.")
    methods = [v.method for v in variants]
    sparse = [v for v in variants if _has_sparsity(v, config)]
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

    def add(name: str, of: Variant, sparsity: float | None, coefficient: float | None = None) -> str:
        own = _config_of(config, defaults, of, sparsity, coefficient)
        if name in cells:
            if cells[name].to_dict() != own.to_dict():
                raise ValueError(
                    f"two different cells of the grid are called {name!r}; give a method another name, as mine=rigl."
                )
            return name
        cells[name] = own
        called[name] = reported(of, own)
        title = method_label(called[name]) + ("" if sparsity is None else f" at {percent(sparsity)}")
        titles[name] = title + ("" if coefficient is None else f", c = {coefficient:g}")
        _check_cell(workdir / name, own)
        return name

    workdir = Path(options["workdir"])
    names = [
        add(v.name if s is None else f"{v.name}-{s:.15g}", v, s)
        for v in variants
        for s in (sparsities if _has_sparsity(v, config) else [None])
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
    return Grid(cells, titles, called, names, sweep, workdir, options["path"], _command(arguments))


def variant(text: str) -> Variant:
    """Reads one of ``--methods``.

    Raises:
      ValueError: it is not written as one, or has a name that is not accepted.
    """
    name, equals, rest = re.fullmatch(r"(?:([^:=]*)(=))?(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    method, _, changed = rest.partition(":")
    if changed and (method not in dstjax.methods.CATALOGUE):  # module:function, and perhaps fields after it
        function, _, changed = changed.partition(":")
        method = f"{method}:{function}"
    name = name if equals else method.rpartition(":")[2]
    rules.entry(method)
    if not re.fullmatch(r"[A-Za-z][\w.-]*", name) or (name in dstjax.methods.CATALOGUE and (changed or name != method)):
        raise ValueError(
            f"--methods: {text!r} is not accepted; expected a name of your own before the =, of letters, digits, _, . "
            "and -, as in mine=rigl:grow=my_rules:f."
        )
    changes = {}
    for change in re.split(r"\+(?=\w+=)", changed) if changed else []:
        field, equals, value = change.partition("=")
        if not equals:
            raise ValueError(f"--methods: {change!r} of {text!r} is not accepted; expected FIELD=VALUE.")
        changes[field] = value
    return Variant(name, method, changes)


def reported(of: Variant, config: ConfigDict) -> str:
    """What a method is called: by its name, and by other rules than its own that the whole grid was given."""
    usual = rules.defaults(of.method)
    own = [
        f"{n}={config[n]}"
        for n in rules.RULES
        if n not in of.changes
        and (rules.is_rule(config[n]) or (n in ("drop", "grow") and config[n] not in (None, usual.get(n))))
    ]
    return f"{method_label(of.name)} with {', '.join(own)}" if own else of.name


def job(grid: Grid, name: str) -> queue.Job:
    folder = grid.workdir / name

    def begin() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        sealed.write(folder / "versions.json", {"dstjax": dstjax.__version__, **versions()})

    what = queue.Training(grid.cells[name], begin, lambda summary: f"{_result(summary)}  ")
    return queue.training(name, grid.titles[name], folder, what)


def report(grid: Grid, failures: dict[str, str]) -> bool:
    """Prints the table and writes results.csv and report.html; False where no cell of the grid is finished.

    Raises:
      ValueError: a file of a cell cannot be read, or a report cannot be written.
    """
    found = {
        name: collect.cell(grid.workdir / name, configuration.plan(config).method, grid.called[name])
        for name, config in grid.cells.items()
        if grid.titles[name] not in failures
    }
    cells = [found[name] for name in grid.grid if name in found]
    if not cells:
        return False
    first = grid.cells[grid.grid[0]]
    loaded = data.load(first.dataset, root=first.data_root, protocol=first.protocol)
    comparison = Comparison(
        grid=tuple(cells),
        sweep=tuple(found[name] for name in grid.sweep if name in found),
        dataset=first.dataset,
        data=loaded.provenance,
        n_test=loaded.sizes[2],
        command=grid.command,
        failures=tuple(f"{title}: {why}" for title, why in failures.items()),
        tested=len({int(i) for seed in cells[0].seeds for i in loaded.split(seed).test}),
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
    """All methods but those of channels, which need a structure of the network's own, as the catalogue lists them."""
    every = dstjax.methods.names()
    return [name for name in dstjax.methods.CATALOGUE if name in every]


def _has_sparsity(of: Variant, config: ConfigDict) -> bool:
    """Whether a method takes a sparsity; the dense one has none, and N:M and SET with an epsilon have their own."""
    given = {*of.changes, *(["epsilon"] if config.get("epsilon") is not None else [])}
    own = of.method == "set" and "epsilon" in given
    return "sparsity" in rules.hyperparameters([of.method]) and not own


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


def _config_of(
    config: ConfigDict, defaults: ConfigDict, of: Variant, sparsity: float | None, coefficient: float | None
) -> ConfigDict:
    """The config of one cell: without the changes of hyper-parameters that its method does not have."""
    own = copy.deepcopy(config)
    configuration.change_method(own, of.method, defaults)
    with own.unlocked():
        for name in rules.hyperparameters([of.method]) & {*of.changes} - {*own.keys()}:
            own[name] = config_dict.placeholder(object)  # of a method of one's own
        if sparsity is not None:
            own.sparsity = sparsity
        if coefficient is not None:
            own.coefficient = coefficient
    for name, text in of.changes.items():
        if name in SET_BY:
            raise ValueError(f"config field {name!r} is not accepted in --methods; use {SET_BY[name]}.")
        command_line.set_field(own, name, text)
    return own


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

"""What differs between the rows of a table, and why each may: the papers' own recipes, and what a table is about."""

import importlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.reproduce import baselines
from experiments.reproduce.cells import Cell, config_of
from experiments.reproduce.papers.table import Table
from experiments.training import configuration, rules

# What changes how a run is carried out or looked at, not what it is.
CARRIED_OUT = (
    *("method", "proxy", "data_root", "devices", "shard_params", "accumulate", "on_nonfinite", "seeds", "seeds_mode"),
    *("eval_every_epochs", "checkpoint_every_epochs", "log_every_epochs", "tensorboard"),
)
DEFINING = ("drop", "grow")  # the rules that make a method what it is, where they are its defaults
HOMONYMS = ("epsilon",)  # of SET, and of DST-EE: the name alone is the same


class Difference(NamedTuple):
    """A field of a row that is not as in the experiment of its table."""

    row: str
    field: str
    theirs: Any  # of the experiment
    ours: Any  # of the row
    why: str | None  # None: nothing allows it


def fields(config: ConfigDict) -> dict[str, Any]:
    """What a config amounts to: run fields, and hyper-parameters of its method with their defaults."""
    found: dict[str, Any] = {}
    for name in configuration.RUN_FIELDS:
        if name in (*CARRIED_OUT, *configuration.STANDS_FOR):
            continue
        value = config[name]
        if isinstance(value, ConfigDict):
            found |= {f"{name}.{n}": v for n, v in value.items()}
        else:
            found[name] = value
    stand = {long: short for short, long in configuration.STANDS_FOR.items()}
    for name, default in rules.defaults(config.method).items():
        if name not in config:  # it follows from others
            continue
        short = stand.get(name)
        percent = None if short is None else config[short]
        if config[name] is None and percent is not None:
            found[name] = f"{percent:g} % of the run"
        else:
            found[name] = default if config[name] is None else config[name]
    return found


class Row(NamedTuple):
    """A cell with what its config amounts to."""

    cell: Cell
    theirs: dict[str, Any]  # the fields of its experiment
    ours: dict[str, Any]
    same_method: bool
    defaults: dict[str, Any]  # of its method


def rows(cells: Iterable[Cell], *, proxy: bool) -> list[Row]:
    """The cells of a table with their fields."""
    experiments: dict[str, tuple[str, dict[str, Any]]] = {}
    found = []
    for cell in cells:
        if cell.config not in experiments:
            config = importlib.import_module(f"experiments.configs.{cell.config}").get_config(proxy=proxy)
            experiments[cell.config] = config.method, fields(config)
        method, theirs = experiments[cell.config]
        own = config_of(cell, seeds=1, proxy=proxy)
        found.append(Row(cell, theirs, fields(own), own.method == method, rules.defaults(own.method)))
    return found


def differences(table: Table, of: Iterable[Row]) -> list[Difference]:
    """The fields in which each row differs from the experiment of its table, in the order of the rows."""
    found: dict[tuple[Any, ...], Difference] = {}
    for row in of:
        for one in of_row(row, table.varies):
            found.setdefault((one.row, one.field, str(one.ours)), one)
    return list(found.values())


def of_row(row: Row, varies: Mapping[str, str]) -> list[Difference]:
    """The fields in which one row differs from its experiment; what only one of the methods has is not compared."""
    found = []
    for name in sorted(row.theirs.keys() & row.ours.keys()):
        theirs, ours = row.theirs[name], row.ours[name]
        if theirs == ours or (name in HOMONYMS and not row.same_method):
            continue
        why = _declared(row.cell, name) or varies.get(name)
        if why is None and name in DEFINING and ours == row.defaults.get(name):
            why = f"what makes {row.cell.method} that method"
        found.append(Difference(row.cell.method, name, theirs, ours, why))
    return found


def unfair_claims(table: Table, of: Iterable[Row]) -> list[str]:
    """The claims that compare rows whose optimisers are not the same."""
    unfair = []
    for claim in table.claims:
        left, right = ([r for r in of if _fits(r.cell, wanted)] for wanted in (claim.left, claim.right or claim.left))
        if any(_optimiser(a) != _optimiser(b) for a in left for b in right if _compared(a.cell, b.cell)):
            unfair.append(claim.text)
    return unfair


def listing(tables: Iterable[Table], *, proxy: bool) -> tuple[str, bool]:
    """The differences of tables as text, and whether all are declared."""
    lines, fair = [], True
    for table in tables:
        if table.proxy_only and not proxy:
            continue
        groups: dict[tuple[str, str, str], list[str]] = {}
        found = rows(table.cells(proxy), proxy=proxy)
        for row, field, theirs, ours, why in differences(table, found):
            fair = fair and why is not None
            values = f"{_short(ours)} (the experiment: {_short(theirs)})"
            groups.setdefault((field, values, why or "NOT DECLARED"), []).append(row)
        lines.append(f"{table.name}: {table.title}")
        lines += [f"  {f} = {v}: {_names(of)}\n      {why}" for (f, v, why), of in groups.items()]
        for text in unfair_claims(table, found):
            fair = False
            lines.append(f"  NOT FAIR, other optimisers: {text}")
    return "\n".join(lines), fair


def _declared(cell: Cell, field: str) -> str | None:
    names = [field, *(short for short, long in configuration.STANDS_FOR.items() if long == field)]
    if cell.recipe is None or any(name in cell.changes for name in names):
        return None
    recipe = baselines.get(cell.recipe)
    return next((why for why in map(recipe.why, names) if why is not None), None)


def _fits(cell: Cell, wanted: Mapping[str, Any]) -> bool:
    for name, value in wanted.items():
        found = getattr(cell, name)
        if value is not None and (found not in value if isinstance(value, tuple) else found != value):
            return False
    return True


def _optimiser(row: Row) -> dict[str, Any]:
    """The fields of the optimiser, other than how many trainings there are."""
    return {n: v for n, v in row.ours.items() if n.startswith("optimizer.") and n != "optimizer.trainings"}


def _compared(a: Cell, b: Cell) -> bool:
    return (a.config, a.model, a.dataset, a.group) == (b.config, b.model, b.dataset, b.group)


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _names(rows: list[str]) -> str:
    different = list(dict.fromkeys(rows))
    return ", ".join(different[:6]) + (f" and {len(different) - 6} more" if len(different) > 6 else "")

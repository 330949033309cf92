"""What differs between the rows of a table, and why each may: the papers' own recipes, and what a table is about."""

import importlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.reproduce import recipes
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


def differences(table: Table, *, proxy: bool) -> list[Difference]:
    """The fields in which each row differs from the experiment of its table, in the order of the rows."""
    found: dict[tuple[Any, ...], Difference] = {}
    for cell in table.cells(proxy):
        for one in of_cell(cell, table.varies, proxy=proxy):
            found.setdefault((one.row, one.field, str(one.ours)), one)
    return list(found.values())


def of_cell(cell: Cell, varies: Mapping[str, str], *, proxy: bool) -> list[Difference]:
    """The fields in which one cell differs from its experiment; what only one of the methods has is not compared."""
    module = importlib.import_module(f"experiments.configs.{cell.config}")
    experiment, own = module.get_config(proxy=proxy), config_of(cell, seeds=1, proxy=proxy)
    theirs, ours = fields(experiment), fields(own)
    defaults = rules.defaults(own.method)
    found = []
    for name in sorted(theirs.keys() & ours.keys()):
        if theirs[name] == ours[name] or (name in HOMONYMS and experiment.method != own.method):
            continue
        why = _declared(cell, name) or varies.get(name)
        if why is None and name in DEFINING and ours[name] == defaults.get(name):
            why = f"what makes {own.method} that method"
        found.append(Difference(cell.method, name, theirs[name], ours[name], why))
    return found


def unfair_claims(table: Table, *, proxy: bool) -> list[str]:
    """The claims that compare rows whose optimisers are not the same."""
    cells = table.cells(proxy)
    unfair = []
    for claim in table.claims:
        left, right = ([c for c in cells if _fits(c, wanted)] for wanted in (claim.left, claim.right or claim.left))
        pairs = [(a, b) for a in left for b in right if (a.model, a.dataset, a.config) == (b.model, b.dataset, b.config)]
        if any(_optimiser(a, proxy) != _optimiser(b, proxy) for a, b in pairs if a.group == b.group):
            unfair.append(claim.text)
    return unfair


def listing(tables: Iterable[Table], *, proxy: bool) -> tuple[str, bool]:
    """The differences of tables as text, and whether all are declared."""
    lines, fair = [], True
    for table in tables:
        if table.proxy_only and not proxy:
            continue
        groups: dict[tuple[str, str, str], list[str]] = {}
        for row, field, theirs, ours, why in differences(table, proxy=proxy):
            fair = fair and why is not None
            values = f"{_short(ours)} (the experiment: {_short(theirs)})"
            groups.setdefault((field, values, why or "NOT DECLARED"), []).append(row)
        lines.append(f"{table.name}: {table.title}")
        lines += [f"  {f} = {v}: {_rows(rows)}\n      {why}" for (f, v, why), rows in groups.items()]
        for text in unfair_claims(table, proxy=proxy):
            fair = False
            lines.append(f"  NOT FAIR, other optimisers: {text}")
    return "\n".join(lines), fair


def _declared(cell: Cell, field: str) -> str | None:
    names = [field, *(short for short, long in configuration.STANDS_FOR.items() if long == field)]
    if cell.recipe is None or any(name in cell.changes for name in names):
        return None
    recipe = recipes.get(cell.recipe)
    return next((why for why in map(recipe.why, names) if why is not None), None)


def _fits(cell: Cell, wanted: Mapping[str, Any]) -> bool:
    for name, value in wanted.items():
        found = getattr(cell, name)
        if value is not None and (found not in value if isinstance(value, tuple) else found != value):
            return False
    return True


def _optimiser(cell: Cell, proxy: bool) -> dict[str, Any]:
    config = config_of(cell, seeds=1, proxy=proxy)
    return {n: v for n, v in config.optimizer.items() if n != "trainings"}


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _rows(rows: list[str]) -> str:
    different = list(dict.fromkeys(rows))
    return ", ".join(different[:6]) + (f" and {len(different) - 6} more" if len(different) > 6 else "")

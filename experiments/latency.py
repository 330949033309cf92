"""Trains a small network under a budget of latency, makes it really smaller, and measures it.

    python -m experiments.latency --workdir runs/latency [--budgets 0.55,0.3] [--seeds 10] [--steps 300]
                                  [--sizes 16,32,64] [--table FILE] [--timed 3] [--at_least 0]
                                  [--data digits] [--period 15] [--until 0.25] [--batch 256] [--first 0]

A small convolutional network, from scratch, on the digits or on other pictures that are in memory (--data
cluttereddigits). First a table is measured on the machine at hand: each layer at some of its widths, for --batch
pictures at once, fitted to the whole network with all, 40 and 10 % of its weights. Then for each budget, seed by seed:
structured IEE in cycles of --period steps, until a share of the training; HALP, dense at first and pruned once, where
the cycles of IEE end; and random channels that stay. All take as many steps. The networks of the first ``timed`` seeds
are compacted and timed beside the dense one. Seeds are numbered from --first on. Prints a table, and writes table.json
and results.json into the directory. ``--table FILE`` takes one of before, and ``--table flops`` one of operations.
The same command goes on where it was interrupted, network by network, and with other seeds or budgets adds to what is
there; other settings need another directory.
"""

import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dstjax
from dstjax import costs, latency, methods, program, structures
from dstjax.checks import check_integer
from experiments import command_line, data, latency_table, models
from experiments.alone import alone
from experiments.models import shapes
from experiments.report.budgets import Row, report
from experiments.training.recording import to_json, write_atomically

_OPTIONS = [
    *("workdir", "budgets", "seeds", "steps", "sizes", "table", "timed", "at_least", "data", "period", "until"),
    *("batch", "first"),
]
_BATCH = 64
_STAGES = 3  # of a cycle of IEE, equally long


class Setting(NamedTuple):
    """What all networks have in common."""

    model: Any
    fields: Any  # of the data
    steps: int
    period: int = 15  # steps of a cycle, or of as many as are given
    until: float = 0.25  # share of the training after which channels stay as they are

    @property
    def stages(self) -> tuple[int, int, int]:
        """Steps of each stage of a cycle of IEE."""
        each = self.period // _STAGES
        return each, each, each

    @property
    def end(self) -> int:
        """Where the channels stop to change: after whole cycles, one at least."""
        return max(self.period, int(self.steps * self.until) // self.period * self.period)

    def forward(self, params: Any, model_state: Any, x: jax.Array) -> jax.Array:
        """The logits, in evaluation."""
        logits: jax.Array = self.model.apply({"params": params, **model_state}, x, train=False)
        return logits

    def start(self, seed: int) -> tuple[Any, Any]:
        """The initial parameters and running statistics."""
        variables = self.model.init(jax.random.key(seed), jnp.zeros((1, *self.fields.x.shape[1:])), train=False)
        return variables["params"], {"batch_stats": variables["batch_stats"]}


def methods_of(setting: Setting, found: Any, table: Any, budget: float, at_least: float = 0.0) -> dict[str, Any]:
    """The methods that are compared at a budget, where each layer keeps a share of its channels in any case."""
    structure = structures.channels(found, costs=table, budget=budget, at_least=at_least)
    cycle, end = setting.period, setting.end
    return {
        "iee_structured": methods.iee_structured(
            structure=structure, update_period=cycle, stages=setting.stages, end_step=end
        ),
        "halp, once": methods.halp(structure=structure, update_period=cycle, start_step=end, updates=1),
        "random": methods.static(sparsity=1 - budget, distribution="uniform", structure=structure),
    }


def trainer(setting: Setting, method: Any) -> Callable[[int], tuple[Any, Any, Any]]:
    """Returns a function of the seed that trains a network: parameters, running statistics, optimiser state."""
    rate = optax.cosine_decay_schedule(0.1, setting.steps)
    inner = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(rate, momentum=0.9))
    updates = dstjax.sparsify(inner, method, seed=0)
    x, y = (jnp.asarray(a) for a in (setting.fields.x, setting.fields.y))

    @jax.jit
    def step(carry: Any, rows: jax.Array) -> Any:
        params, model_state, opt_state = carry

        def loss(seen: Any) -> Any:
            logits, new = setting.model.apply({"params": seen, **model_state}, x[rows], train=True, mutable=True)
            new = {"batch_stats": new["batch_stats"]}
            return optax.softmax_cross_entropy_with_integer_labels(logits, y[rows]).mean(), new

        exploring = dstjax.is_exploring(opt_state)
        gradients, new = jax.grad(loss, has_aux=True)(dstjax.forward_params(params, opt_state))
        model_state = jax.tree.map(lambda a, b: jnp.where(exploring, a, b), model_state, new)
        moves, opt_state = updates.update(gradients, opt_state, params)
        return optax.apply_updates(params, moves), model_state, opt_state

    def run(seed: int) -> tuple[Any, Any, Any]:
        train, rng = setting.fields.split(seed).train, np.random.default_rng(seed)
        params, model_state = setting.start(seed)
        opt_state = dstjax.sparsify(inner, method, seed=seed).init(params)
        carry = dstjax.apply_masks(params, opt_state), model_state, opt_state
        for _ in range(setting.steps):
            carry = step(carry, train[rng.integers(0, len(train), _BATCH)])
        params, model_state, opt_state = jax.block_until_ready(carry)
        return dstjax.forward_params(params, opt_state, training=False), model_state, opt_state

    return run


def evaluate(setting: Setting, seed: int, params: Any, model_state: Any) -> tuple[float, float]:
    """The shares of test samples whose class is the first, and among the first five."""
    rows = setting.fields.split(seed).test
    logits = np.asarray(jax.jit(setting.forward)(params, model_state, setting.fields.x[rows]))
    own = np.take_along_axis(logits, setting.fields.y[rows][:, None], axis=1)
    ranks = (~(logits < own)).sum(axis=1) - 1  # what is equal, or NaN, counts as above
    return float((ranks < 1).mean()), float((ranks < 5).mean())


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    given = sys.argv[1:] if arguments is None else arguments
    return command_line.run(given, __doc__, _main, "the same command goes on from the last network.")


def _main(arguments: Sequence[str]) -> int:
    options = command_line.read(arguments, _OPTIONS)
    if not options.get("workdir"):
        raise ValueError("option --workdir is missing; expected a directory.")
    workdir = Path(options["workdir"])
    usual = (("seeds", "10"), ("steps", "300"), ("timed", "3"), ("batch", "256"))
    seeds, steps, number, batch = (_number(name, options.get(name, default)) for name, default in usual)
    budgets = [_budget(text) for text in options.get("budgets", "0.55,0.3").split(",")]
    sizes = [_number("sizes", text) for text in options.get("sizes", "16,32,64").split(",")]
    first = _number("first", options.get("first", "0"), least=0)
    at_least = _share("at_least", options.get("at_least", "0"), "of the channels")
    until = _share("until", options.get("until", "0.25"), "of the training")
    period = _number("period", options.get("period", "15"))
    if period % _STAGES or period > steps:
        raise ValueError(f"period={period} is not accepted; expected a multiple of 3, at most the {steps} steps.")
    fields = _pictures(options.get("data", "digits"))
    if batch > len(fields.x):
        raise ValueError(
            f"batch={batch} is not accepted; expected at most the {len(fields.x)} pictures that there are."
        )
    setting = Setting(models.make("conv", classes=fields.classes, sizes=sizes), fields, steps, period, until)
    x = jnp.asarray(fields.x[:batch])
    params, model_state = setting.start(0)
    found = shapes.channels_of(setting.model, x.shape[1:])
    compared = functools.partial(_compared, setting, found, budgets, at_least)
    table = _given(options["table"], setting, params, model_state, x) if "table" in options else None
    chosen = {} if table is None else compared(table)  # refuses a table of other channels before all else
    settings = {"data": options.get("data", "digits"), "sizes": list(sizes), "steps": steps, "period": period}
    settings |= {"until": until, "at_least": at_least, "batch": batch, "table": options.get("table")}
    with alone(workdir):
        rows, known = _before(workdir, settings), _table_of(workdir, settings)
        if rows and table is not None and known is not None and known.work != table.work:
            raise ValueError(
                f"{workdir} holds results under another table than {options['table']}; name another directory."
            )
        if table is None:  # the networks that are there were trained under the table that is there
            table = known or latency_table.measured(setting.model, params, model_state, x)
            chosen = compared(table)
        table.save(workdir / "table.json")
        write_atomically(workdir / "settings.json", to_json(settings, indent=1).encode() + b"\n")
        for row in _rows(setting, chosen, table, range(first, first + seeds), number, x, rows):
            rows.append(row)
            found = to_json([r._asdict() for r in rows], indent=1)  # null where a network was not timed
            write_atomically(workdir / "results.json", found.encode() + b"\n")
    print(report(rows))
    return 0


def _before(workdir: Path, settings: Mapping[str, Any]) -> list[Row]:
    """The rows of an earlier run of these settings in the directory."""
    path = workdir / "results.json"
    if not path.exists():
        return []
    try:
        known = json.loads((workdir / "settings.json").read_text())
        found: list[dict[str, Any]] = json.loads(path.read_text())
        null: Any = float("nan")
        rows = [Row(**{n: null if x is None else x for n, x in row.items()}) for row in found]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{workdir} holds results that cannot be read ({error}); name another directory.") from error
    if different := [n for n in settings if known.get(n) != settings[n]]:
        told = ", ".join(f"{n} ({known.get(n)!r} there, {settings[n]!r} now)" for n in different)
        raise ValueError(f"{workdir} holds results of other settings: {told}; name another directory.")
    return rows


def _table_of(workdir: Path, settings: Mapping[str, Any]) -> latency.Table | None:
    """The table of an earlier run of these settings in the directory; None where there was none."""
    written = workdir / "settings.json"
    if not written.exists() or json.loads(written.read_text()) != settings:
        return None
    return latency.load(workdir / "table.json")


def _given(table: str, setting: Setting, params: Any, model_state: Any, x: jax.Array) -> latency.Table:
    """The table of a file, or that of operations."""
    if table != "flops":
        return latency.load(table)
    return latency.analytic(lambda params, x: setting.forward(params, model_state, x), params, x)


def _compared(
    setting: Setting, found: Any, budgets: Sequence[float], at_least: float, table: latency.Table
) -> dict[tuple[str, float], Any]:
    """All methods by name and budget."""
    compared: dict[tuple[str, float], Any] = {("dense", 1.0): methods.dense()}
    for budget in budgets:
        of_budget = methods_of(setting, found, table, budget, at_least)
        compared |= {(name, budget): method for name, method in of_budget.items()}
    return compared


def _rows(
    setting: Setting,
    compared: Mapping[tuple[str, float], Any],
    table: latency.Table,
    seeds: Sequence[int],
    number: int,
    x: jax.Array,
    done: Sequence[Row],
) -> Any:
    there = {(row.method, row.budget, row.seed) for row in done}
    whole = program.flops.count(setting.forward, *setting.start(0), x).dense() / 2
    trainers = {key: trainer(setting, method) for key, method in compared.items()}
    for seed in seeds:
        for (name, budget), method in compared.items():
            if (name, budget, seed) in there:
                continue
            params, model_state, opt_state = trainers[name, budget](seed)
            top1, top5 = evaluate(setting, seed, params, model_state)
            if name == "dense":
                dense = functools.partial(jax.jit(setting.forward), params, model_state, x)
                row = Row(
                    name,
                    budget,
                    seed,
                    top1,
                    top5,
                    1.0,
                    1.0,
                    len(x) / latency_table.fastest([dense])[0],
                    whole / len(x),
                    1.0,
                )
            else:
                masks = dstjax.get_masks(opt_state)
                before, after, work = (float("nan"),) * 3
                if seed < seeds[0] + number:
                    before, after, work = latency_table.compared(setting.model, params, model_state, masks, x)
                predicted = table.predict(method.masking.structure.widths_of(masks)) / table.dense
                share, frames, each = after / before, len(x) / after, work / len(x)
                cost = _training(name, setting, work / whole)
                row = Row(name, budget, seed, top1, top5, predicted, share, frames, each, cost)
            print(f"{name} {budget:g} seed {seed}: {top1:.4f}, {row.measured:.3f} of the latency", file=sys.stderr)
            yield row


def _training(name: str, setting: Setting, share: float) -> float:
    """The cost of training relative to dense, as the papers count."""
    end = setting.end / setting.steps
    given: Mapping[str, Any] = {}
    if np.isnan(share):
        return share
    entry, sparse = {"iee_structured": "iee_structured", "halp, once": "halp"}.get(name, "static"), min(share, 1.0)
    if entry == "iee_structured":
        given = dict(zip(("estimation", "improvement", "exploration"), setting.stages, strict=True))
        given = {**given, "update_share": end}
    elif entry == "halp":
        given = {"dense_share": end}
    flops = costs.training_flops(entry, sparse=sparse, dense=1.0, convention="paper", **given)
    return costs.relative(flops, dense=1.0)


def _number(name: str, text: str, least: int = 1) -> int:
    check_integer(name, int(text) if text.isdecimal() else text, least)
    return int(text)


def _budget(text: str) -> float:
    share = _real(text)
    if not 0 < share <= 1:
        raise ValueError(f"budgets has {text!r}; expected shares of the dense latency in (0, 1], such as 0.55,0.3.")
    return share


def _share(name: str, text: str, of: str) -> float:
    share = _real(text)
    if not 0 <= share <= 1:
        raise ValueError(f"{name}={text!r} is not accepted; expected a share {of} in [0, 1], such as 0.25.")
    return share


def _pictures(name: str) -> Any:
    """A data set of pictures in memory."""
    fields = data.load(name)
    shape = getattr(getattr(fields, "x", None), "shape", ())
    if len(shape) != 4:
        raise ValueError(f"data={name!r} has no pictures in memory; expected such as digits or cluttereddigits.")
    return fields


def _real(text: str) -> float:
    """The number that a text is, NaN if none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


if __name__ == "__main__":
    command_line.start(main)

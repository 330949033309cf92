"""The page of charts."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.benchmarks import accelerator_table, charts, records, scaling, targets
from experiments.benchmarks.records import Row, duration, line
from experiments.report.document import document, escaped, table

CHARTS: dict[str, tuple[str, Callable[[Sequence[Row]], str | None], str]] = {
    "selection": (
        "Selection",
        charts.selection,
        "Exact selection of 3 % of a tensor. Counting and argsort give ties to the lower index; sort finds a threshold "
        "and is not exact where scores are equal. The floor is reading the scores and writing the mask once.",
    ),
    "update": (
        "Mask update",
        charts.updates,
        "The step that drops and grows, over a whole network, in steps of the same optimiser without a mask. Points "
        "are medians of paired rounds, whiskers the quartiles.",
    ),
    "step": (
        "The step between updates",
        charts.steps,
        "Parameters and state donated. A branch in the program decides whether the masks change, or the host does and "
        "may set them aside meanwhile.",
    ),
    "seeds": ("Many seeds in one program", charts.seeds, "vmap over seeds inside a scan."),
    "sparse_layers": (
        "Sparse layers",
        lambda rows: None,
        "One layer with random weights of each structure, against the dense product with zeros, which runs beside; and "
        "a training step between mask updates, with parameters and moments held as blocks.",
    ),
    "collectives": (
        "Communication",
        charts.collectives,
        "Counted in the compiled program, loops as often as they run and both sides of every branch.",
    ),
    "compile": ("Tracing and compiling", lambda rows: None, ""),
    "start": ("To the first step", lambda rows: None, ""),
    "state": ("Sparse state", lambda rows: None, ""),
    "scaling": (
        "Past one machine",
        lambda rows: None,
        "Compiled for that many devices, not run; the times are predicted, see docs/scaling.md.",
    ),
    "accelerators": (
        "Compiled for accelerators",
        lambda rows: None,
        "Compiled on a CPU and not run; bytes with loops as often as they run, in brackets against the dense step.",
    ),
}
TABLES: dict[str, Callable[[Sequence[Row]], list[dict[str, str]]]] = {
    "scaling": scaling.cells,
    "accelerators": accelerator_table.cells,
}


def write(out: Path) -> list[Row]:
    """Writes the page and one file of all figures beside the files that a folder holds; returns their rows."""
    rows = list(records.read(out))
    (out / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    (out / "index.html").write_text(page(rows))
    return rows


def page(rows: Sequence[Row]) -> str:
    """The whole page.

    Args:
      rows: as :func:`experiments.benchmarks.records.read` gives them, each run before its figures.
    """
    runs: list[tuple[Row, list[Row]]] = []
    for row in rows:
        if row["kind"] == "run":
            runs.append((row, []))
        else:
            runs[-1][1].append(row)
    every = [row for _, figures in runs for row in figures]
    sections = [_targets(every, _quick(runs))] + [
        _section(name, run) for name in CHARTS for run in [_of(name, runs)] if run
    ]
    warning = '<p class="lead"><b>A quick run: its figures mean nothing.</b></p>' if _quick(runs) else ""
    lead = (
        '<p class="lead">Run time, compile time, memory and communication, each beside an optimiser without a mask. '
        "The contenders of a race run in turn in one process, on the same parameters; ratios are taken round by "
        "round and their median is shown.</p>"
    )
    return document("dstjax: what it costs", [lead, warning, *sections])


def _of(name: str, runs: list[tuple[Row, list[Row]]]) -> list[tuple[Row, list[Row]]]:
    """The runs that hold rows of a benchmark, with these rows alone."""
    found = [(run, [row for row in rows if row["benchmark"] == name]) for run, rows in runs]
    return [(run, rows) for run, rows in found if rows]


def _quick(runs: list[tuple[Row, list[Row]]]) -> bool:
    return any(run.get("quick") for run, _ in runs)


def _targets(rows: list[Row], quick: bool) -> str:
    body = "".join(
        f'<tr><th scope="row" class="settings">{escaped(o.target.name)}</th><td>{escaped(o.target.wanted)}</td>'
        f'<td class="clear">{escaped(o.measured)}</td><td>{targets.verdict(o, quick=quick)}</td></tr>'
        for o in targets.outcomes(rows)
    )
    columns = "figure", "target", "measured", ""
    return f'<section id="targets"><h2>Targets</h2>{table(columns, body)}</section>'


def _section(name: str, found: list[tuple[Row, list[Row]]]) -> str:
    title, chart, note = CHARTS[name]
    parts = [f'<section id="{name}"><h2>{escaped(title)}</h2>']
    for number, (run, rows) in enumerate(found):
        if len(found) > 1:
            parts.append(f"<h3>{escaped(run['device']['kind'])}</h3>")
        svg = chart(rows)
        if svg:
            svg = svg if number == 0 else svg.replace(f"{name}-", f"{name}{number}-")
            parts.append(f"<figure>{svg}<figcaption>{escaped(note)}</figcaption></figure>")
        elif note:
            parts.append(f'<p class="note">{escaped(note)}</p>')
        if lines := TABLES[name](rows) if name in TABLES else []:
            body = "".join("<tr>" + "".join(f"<td>{escaped(v)}</td>" for v in x.values()) + "</tr>" for x in lines)
            parts.append(table(lines[0], body))
        listed = "\n".join(escaped(line(row)) for row in rows)
        opened = "" if svg or lines else " open"
        parts.append(f"<details{opened}><summary>{len(rows)} figures</summary><pre>{listed}</pre></details>")
        parts.append(f'<p class="note">{escaped(_provenance(run, rows))}</p>')
    return "".join([*parts, "</section>"])


def _provenance(run: Row, rows: list[Row]) -> str:
    """The command and the machine."""
    machine, versions = run["machine"], run["versions"]
    others = [row["elsewhere"] for row in rows if row.get("elsewhere") is not None]
    words = [
        f"Made with `{run['command']}` at commit {run['commit']}, {run['time']}",
        f"{machine['cores']} cores of {machine['cpu']}, {(machine['memory_bytes'] or 0) / 2**30:.0f} GiB",
        f"device {run['device']['kind']}",
        ", ".join(f"{k} {v}" for k, v in versions.items()),
        f"malloc: {run['malloc']}",
    ]
    if "bandwidth" in run:
        words.append(
            f"stream in place {run['bandwidth'] / 1e9:.1f} GB/s, a pass over 100 MB {duration(1e8 / run['bandwidth'])}"
        )
    if others:
        words.append(f"other processes used {max(others):.2f} cores at most")
    return "; ".join(words) + "."

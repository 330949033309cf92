"""The table of what was compiled for accelerators."""

from collections.abc import Sequence

from experiments.benchmarks.records import Row

OF_CASE = ("tree", "layout", "framework", "dtype", "method", "program")


def markdown(rows: Sequence[Row]) -> str:
    """All programs as a Markdown table, with the dates, and why some are not there."""
    found = cells(rows)
    if not found:
        return "no figures"
    lines = [f"| {' | '.join(found[0])} |", "|" + "---|" * len(found[0])]
    lines += [f"| {' | '.join(line.values())} |" for line in found]
    failed = [f"- {', '.join(str(x) for x in row['case'].values())}: {row['why']}" for row in rows if "why" in row]
    return "\n".join([*lines, *([""] if failed else []), *failed])


def cells(rows: Sequence[Row]) -> list[dict[str, str]]:
    """One line for each program: what the table shows, by the name of its column."""
    values = [row for row in rows if row["kind"] == "value"]
    dense = {_place(row): row["values"] for row in values if row["case"].get("method") == "dense"}
    return [_cells(row, dense.get(_place(row))) for row in values]


def _place(row: Row) -> tuple[str, ...]:
    return tuple(str(row["case"].get(name)) for name in ("topology", "group", "tree", "layout"))


def _cells(row: Row, dense: dict[str, float] | None) -> dict[str, str]:
    case, values = row["case"], row["values"]
    moved, anywhere = (_bytes(row, name) for name in ("bytes", "bytes_of_all_memories"))
    base = None if dense is None or dense is values else dense
    return {
        "for": case["topology"],
        "program": ", ".join(str(case[name]) for name in OF_CASE if name in case),
        "compile": _beside(f"{values['compile_cpu_seconds']:.1f} s", values, base, "compile_cpu_seconds"),
        "main memory": _moved(moved, base, "bytes"),
        "all memories": _moved(anywhere, base, "bytes_of_all_memories"),
        "arrays": _a_weight(values, "array_bytes_per_weight"),
        "temporaries": _a_weight(values, "temporary_bytes_per_weight"),
        "branches": str(values["branches"]),
        "sorts": str(values["sorts"]),
        "collectives": values["collective_kinds"],
        "largest": f"{values['collective_largest_bytes']:,} B",
    }


def _bytes(row: Row, name: str) -> float:
    """Bytes read and written with loops as often as they run; where the update is a branch, that is among them.

    Elsewhere branches are left out: they search among equal scores, which few weights have.
    """
    inside = row["case"].get("program") in ("branch", "training step")
    return float(row["values"][f"{name}_with_branches" if inside else name])


def _moved(moved: float, base: dict[str, float] | None, name: str) -> str:
    return f"{moved / 1e6:,.0f} MB" + ("" if base is None else f" ({moved / max(base[name], 1):.1f}x)")


def _beside(shown: str, values: dict[str, float], base: dict[str, float] | None, name: str) -> str:
    return shown if base is None or not base[name] else f"{shown} ({values[name] / base[name]:.1f}x)"


def _a_weight(values: dict[str, float], name: str) -> str:
    return f"{values[name]:.2f} B/weight" if name in values else "not read"  # by an older version

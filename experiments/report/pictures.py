"""Pictures of the first layer's masks, drawn by hand: squares whose opacity is a count, and masks as they are."""

import base64
import html
import struct
import zlib

import numpy as np

from experiments.report.cells import CellResult, Comparison, percent
from experiments.report.names import method_label

INK = (0x2F, 0x86, 0xD6)  # of raw masks: visible on light and on dark paper


def side_of(n_inputs: int) -> int | None:
    """The side of a square input image, None where the inputs are no square."""
    side = round(n_inputs**0.5)
    return side if side * side == n_inputs and side > 1 else None


def connections(masks: np.ndarray) -> np.ndarray:
    """Active connections of each input, averaged over seeds: [seeds, inputs, units] -> [inputs]."""
    return np.asarray(masks.sum(2).mean(0), np.float64)


def input_maps(comparison: Comparison) -> str | None:
    """Connections per input pixel at the start and at the end: a row per sparsity, a column per method."""
    cells = [c for c in comparison.sparse if _flat(c) and c.method in comparison.shown]
    sides = {side_of(c.first_masks[0].shape[1]) for c in cells if c.first_masks}
    side = next(iter(sides)) if len(sides) == 1 else None
    if side is None:
        return None
    same = all(_same_start([c for c in cells if c.sparsity == s]) for s in comparison.sparsities)
    # Of many methods some start dense: a mean of all first steps would show none of them.
    start = comparison.reference if comparison.many and not same else None
    names = [
        "every method, first step" if same else f"{method_label(start) if start else 'mean of methods'}, first step"
    ]
    names += [f"{method_label(m)}, last step" for m in comparison.shown]
    rows = []
    for sparsity in comparison.sparsities:
        here = [c for c in cells if c.sparsity == sparsity and c.first_masks is not None]
        of = [c.first_masks[0] for c in here if c.first_masks is not None and start in (None, c.method)]
        starts = np.concatenate(of) if of else None
        ends = [
            next((c.first_masks[1] for c in here if c.first_masks and c.method == m), None) for m in comparison.shown
        ]
        maps = [None if m is None else connections(m) for m in (starts, *ends)]
        largest = max(float(m.max()) for m in maps if m is not None) or 1.0
        drawn = "".join(
            "<td></td>" if m is None else f"<td>{_grid(m, side, largest, f'{name}, {percent(sparsity)}')}</td>"
            for m, name in zip(maps, names, strict=True)
        )
        rows.append(f'<tr><th scope="row">{percent(sparsity)}{_scale(largest)}</th>{drawn}</tr>')
    head = "".join(f'<th scope="col">{html.escape(name).replace(", ", "<br><span>")}</span></th>' for name in names)
    return f'<table class="maps"><thead><tr><td></td>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def raw_masks(comparison: Comparison, sparsity: float) -> str | None:
    """The first layer's masks of the first seed at one sparsity: rows are inputs, columns hidden units."""
    cells = [c for c in comparison.sparse if c.sparsity == sparsity and _flat(c) and c.method in comparison.shown]
    parts = []
    for cell in cells:
        assert cell.first_masks is not None
        final = cell.first_masks[1][0]
        if cell is cells[0]:
            whose = "every method" if _same_start(cells) else cell.label
            parts.append(_raw(cell.first_masks[0][0], f"{whose}, first step"))
        parts.append(_raw(final, f"{cell.label}, last step"))
    return f'<div class="raw">{"".join(parts)}</div>' if parts else None


def idle_units(mask: np.ndarray) -> int:
    """Hidden units without any incoming connection: [inputs, units] -> count."""
    return int((~mask.any(0)).sum())


def middle_shares(cell: CellResult) -> tuple[float, float] | None:
    """Share of the connections that come from the middle of the input image, at the first and at the last step."""
    side = side_of(cell.first_masks[0].shape[1]) if cell.first_masks is not None and _flat(cell) else None
    if side is None or cell.first_masks is None:
        return None
    first, last = (middle_share(connections(m), side) for m in cell.first_masks)
    return first, last


def _flat(cell: CellResult) -> bool:
    return cell.first_masks is not None and cell.first_masks[0].ndim == 3


def _same_start(cells: list[CellResult]) -> bool:
    first = [c.first_masks[0] for c in cells if c.first_masks is not None]
    return all(f.shape == first[0].shape and np.array_equal(f, first[0]) for f in first)


def middle_share(counts: np.ndarray, side: int) -> float:
    """Share of the connections that come from the square in the middle whose side is half of the image's."""
    edge = side // 4
    image = counts.reshape(side, side)
    middle = image[edge : side - edge, edge : side - edge]
    return float(middle.sum() / max(image.sum(), 1e-9))


def _grid(counts: np.ndarray, side: int, largest: float, label: str) -> str:
    squares = []
    for i, count in enumerate(counts):
        row, column = divmod(i, side)
        tip = f"row {row + 1}, column {column + 1}: {count:.3g} connections"
        squares.append(
            f'<rect x="{column}.04" y="{row}.04" width=".92" height=".92" fill-opacity="{count / largest:.3f}">'
            f"<title>{tip}</title></rect>"
        )
    box = f'viewBox="-.15 -.15 {side + 0.3:g} {side + 0.3:g}"'
    frame = f'<rect class="frame" x="-.1" y="-.1" width="{side + 0.2:g}" height="{side + 0.2:g}"/>'
    share = middle_share(counts, side)
    return (
        f'<svg class="map" {box} role="img" aria-label="{html.escape(label)}">{frame}{"".join(squares)}</svg>'
        f"<span>{percent(round(share, 2))} in the middle</span>"
    )


def _scale(largest: float) -> str:
    steps = "".join(
        f'<rect x="{i * 8}" y="0" width="8" height="9" fill-opacity="{(i + 0.5) / 8:.3f}"/>' for i in range(8)
    )
    return (
        f'<svg class="bar" viewBox="0 0 66 22" role="img" aria-label="0 to {largest:.3g} connections">{steps}'
        f'<text x="0" y="20">0</text><text x="64" y="20" text-anchor="end">{largest:.2g}</text></svg>'
    )


def _raw(mask: np.ndarray, label: str) -> str:
    order = np.argsort(-mask.sum(0), kind="stable")
    idle = idle_units(mask)
    source = base64.b64encode(png(mask[:, order])).decode()
    units = mask.shape[1]
    text = f"{html.escape(label)}: {int(mask.sum()):,} active, {idle:,} of {units:,} units idle"
    return (
        f'<div><img alt="{text}" src="data:image/png;base64,{source}" style="width: {units * max(900 // units, 1)}px">'
        f"<span>{text}</span></div>"
    )


def png(mask: np.ndarray) -> bytes:
    """A one-bit image: active weights in ink, the rest transparent."""
    height, width = mask.shape
    rows = np.packbits(mask, axis=1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 1, 3, 0, 0, 0)
    palette = bytes((255, 255, 255, *INK))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"PLTE", palette)
        + chunk(b"tRNS", bytes((0, 255)))
        + chunk(b"IDAT", zlib.compress(data, 9))
        + chunk(b"IEND", b"")
    )

"""Numbers that follow from several cells."""

import numpy as np
import pytest

from experiments.reproduce import derived
from experiments.reproduce.cells import Cell
from experiments.reproduce.reading import Measured


def measured(method, values, metric="accuracy", **names):
    cell = Cell("any", method, model="net", dataset="data", sparsity=0.9, **names)
    return Measured(cell, tuple(range(len(values))), {metric: np.array(values, float)}, {}, "a network", 1.0)


def test_ranks_are_places_within_a_block_and_seed():
    cells = [
        measured("a", [90, 80]),
        measured("b", [91, 80]),
        measured("c", [92, 70]),
        measured("a", [1, 2], group="g"),
    ]
    ranks = [m.values["rank"].tolist() for m in derived.ranks("accuracy")(cells)]
    assert ranks == [[3, 1.5], [2, 1.5], [1, 3], [1, 1]]
    lower = [
        m.values["rank"].tolist()
        for m in derived.ranks("loss")([measured("a", [1.0], "loss"), measured("b", [2.0], "loss")])
    ]
    assert lower == [[1], [2]]
    assert "rank" not in cells[0].values  # the cells that were given stay as they are
    (other,) = derived.ranks("loss")(cells[:1])
    assert "rank" not in other.values


def test_shares_of_the_papers_text():
    """The numbers of its Table 2 give the percentages of its text."""
    counts = {"SET": 342_493, "DynSET": 253_916, "DynSET_3": 218_322, "dense MLP": 20_328_000}
    cells = [measured(m, [n], "connections") for m, n in counts.items()]
    add = derived.fewer({"fewer than SET": "SET", "fewer than dense": "dense MLP"})
    found = {m.cell.method: m.values for m in add(cells)}
    assert found["DynSET"]["fewer than SET"] == pytest.approx([25.9], abs=0.05)
    assert found["DynSET_3"]["fewer than SET"] == pytest.approx([36.3], abs=0.05)
    assert found["SET"]["fewer than dense"] == pytest.approx([98.3], abs=0.05)
    assert "fewer than SET" not in found["SET"]


def test_what_frequent_updates_cost():
    cells = [measured("a", [50.0 + x, 51.0], x=float(x)) for x in (1, 2, 4)]
    found = derived.cost_of_frequency("accuracy")(cells)
    assert found[0].values["lost by frequent updates"].tolist() == [1, 0]
    assert all("lost by frequent updates" not in m.values for m in found[1:])

"""The table of docs/which-method.md against the methods themselves."""

import re
from pathlib import Path

import pytest

import dstjax
from dstjax import methods
from tests import channel_network as small

PAGE = Path(__file__).parents[3] / "docs" / "which-method.md"
COLUMNS = ("method", "family", "drops", "grows", "schedule", "needs", "count", "FLOPs")


def table():
    lines = PAGE.read_text().splitlines()
    start = lines.index("| " + " | ".join(COLUMNS) + " |") + 2
    rows = {}
    for line in lines[start:]:
        if not line.startswith("|"):
            return rows
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert len(cells) == len(COLUMNS), line
        name = cells[0].strip("`")
        assert name not in rows
        rows[name] = dict(zip(COLUMNS, cells, strict=True))
    raise AssertionError("the table has no end")


ROWS = table()


def made(name):
    known = dstjax.methods.hyperparameters(name)
    values = {"sparsity": 0.9, "end_step": 9000, "prune_step": 5}
    values |= {"structure": small.structure_of(0.5)} if methods.CHANNELS in methods.about(name).needs else {}
    return dstjax.methods.get(name, **{k: v for k, v in values.items() if k in known})


def test_the_table_has_a_row_for_every_method_in_one_run_of_each_family():
    assert sorted(ROWS) == methods.names(channels=True)
    families = [row["family"] for row in ROWS.values()]
    runs = [f for i, f in enumerate(families) if i == 0 or families[i - 1] != f]
    assert len(runs) == len(set(runs))


@pytest.mark.parametrize("name", methods.names(channels=True))
def test_a_row_says_what_the_method_says(name):
    method, row = made(name), ROWS[name]
    about = dstjax.methods.about(name)
    assert row["family"] == about.family
    assert sorted(re.findall("`(.*?)`", row["needs"])) == sorted(about.needs)
    signals = [n for n in about.needs if n.removesuffix("=") in ("value", "metric", "full_gradient")]
    if name in ("lset", "dynset"):  # by what they are told to measure
        other = dstjax.methods.get(name, sparsity=0.9, end_step=900, performance="validation_loss")
        assert signals == [f"{n}=" for n in (*method.needs, *other.needs)]
    else:
        assert signals == [f"{n}=" for n in method.needs]
    assert ("forward_params" in about.needs) == (method.seen.view is not None)
    pruner, step = method.start.pruner, method.start.prune_step
    assert ("initial_masks=" in about.needs) == (pruner is not None and not step)
    assert ("set_masks" in about.needs) == (pruner is not None and step > 0)
    assert (row["count"] or "kept").replace(",", " ").replace(":", " ").split()[0] == method.promises
    defaults = dstjax.methods.hyperparameters(name)
    if not row["schedule"].startswith("as `"):
        period = defaults.get("update_period", 100)
        assert (f"P {period}" in row["schedule"]) == (period not in (1, 100))
        assert (f"ρ {defaults.get('drop_fraction')}" in row["schedule"]) == ("drop_fraction" in defaults)


@pytest.mark.parametrize("name", methods.names(channels=True))
def test_every_method_has_a_cost_and_the_row_gives_it(name):
    needed = dstjax.costs.needs(name)
    row = ROWS[name]["FLOPs"]
    assert row
    example = {"update_period": 100, "dense_share": 0.5, "backward": 0.4, "ramp_start": 0.0, "ramp_end": 0.75}
    example |= {"start": 0.5, "ramp_share": 0.5, "partitions": 4, "grow_share": 0.5, "window": 20}
    given = {k: v for k, v in example.items() if k in needed}
    flops = dstjax.costs.training_flops(name, sparse=0.2, dense=1.0, convention="paper", **given)
    simple = {
        "3 f_D": 3.0,
        "3 f_S": 0.6,
        "f_S + 2 f_D": 2.2,
        "5 f_D + f_S": 5.2,
        "2 f_S + f_D": 1.4,
        "2 f_S + f_B, of the wider set": 0.8,
        "(3 f_S P + 2 f_S + f_D) / (P + 1)": (0.6 * 100 + 1.4) / 101,
        ROWS["balanced_momentum"]["FLOPs"]: (0.6 * 81 + 20 * 1.4) / 101,
        "(11 f_S + f_D) / 4": 0.8,
        "as `rigl`": (0.6 * 100 + 1.4) / 101,
        "3 times the mean of f_S": 0.6,
        ROWS["iee_structured"]["FLOPs"]: 0.6 + 0.8 * 5 / 130 / 3,
    }
    if row in simple:
        assert flops == pytest.approx(simple[row])
    else:
        assert 0.6 < flops < 3 or name == "mest"

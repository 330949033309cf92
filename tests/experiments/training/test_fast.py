"""The fast path leaves what the ordinary one leaves.

As users compile it does so byte for byte; the cheap programs of the tests may round otherwise.
"""

import importlib
import json

import numpy as np
import pytest

import dstjax
from experiments.configs.base import base
from experiments.configs.tasks import TASKS, on_task, task_config
from experiments.training import configuration, fast, finished, lane
from experiments.training.run import DivergedError, train_and_evaluate


def config_of(method="rigl", **changes):
    config = base()
    configuration.change_method(config, method)
    known = dstjax.methods.hyperparameters(method)
    usual = {"sparsity": 0.9, "update_period": 10, "steps": 44, "seeds": 2, "eval_every_epochs": 2, "batch_size": 64}
    for name, value in {**usual, **changes}.items():
        if name in config and (name in known or name in configuration.RUN_FIELDS):
            config[name] = value
    config.model.sizes = (12,)  # groups of four fit
    return config


def planned(folder, *configs):
    return [fast.planned(f"cell {i}", folder / str(i), config) for i, config in enumerate(configs)]


def train(*cells):
    """What became of cells, in their order."""
    return [result for _, result in sorted(fast.train(cells), key=lambda found: found[0])]


def check_same(cell, folder):
    """The folder of a cell is that of the ordinary path, but for the seconds and the last digits."""
    expected = train_and_evaluate(cell.config, folder, quiet=True)
    found = json.loads((cell.folder / "summary.json").read_text())
    assert found.keys() - {"sha256"} == expected.keys()
    for name in expected.keys() - {"seconds", "files"}:
        check_alike(found[name], expected[name])
    assert (cell.folder / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    ours, theirs = (finished.read_records(f / "metrics.jsonl") for f in (cell.folder, folder))
    check_alike(ours, theirs)
    assert finished.read(cell.folder).records == ours
    if (folder / "masks.npz").exists():
        with np.load(cell.folder / "masks.npz") as first, np.load(folder / "masks.npz") as second:
            for name in second:
                np.testing.assert_array_equal(first[name], second[name])
    assert {p.name for p in folder.iterdir()} - {"checkpoints"} == {p.name for p in cell.folder.iterdir()}


def check_alike(ours, theirs):
    """Two JSON values are the same, floats to their last digits."""
    assert type(ours) is type(theirs)
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for name in theirs:
            check_alike(ours[name], theirs[name])
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for pair in zip(ours, theirs, strict=True):
            check_alike(*pair)
    else:
        assert ours == (pytest.approx(theirs, rel=1e-5) if isinstance(theirs, float) else theirs)


def test_cells_of_one_program_leave_what_ordinary_runs_leave(tmp_path):
    cells = planned(
        tmp_path,
        config_of("dst_ee", sparsity=0.9, drop_fraction=0.3, coefficient=1e-3),
        config_of("dst_ee", sparsity=0.8, drop_fraction=0.4, coefficient=1e-1),
    )
    assert cells[0].refused == ""
    assert cells[0].kind == cells[1].kind
    first, second = train(*cells)
    assert first["test_accuracy"] != second["test_accuracy"]
    assert first["mask_updates"] == 3
    for i, cell in enumerate(cells):
        check_same(cell, tmp_path / f"ordinary {i}")
    # What is finished is not trained again.
    (again,) = train(*planned(tmp_path, cells[0].config))
    assert again == first


@pytest.mark.slow
@pytest.mark.parametrize("method", dstjax.methods.names())
def test_each_method_takes_either_path(method, tmp_path):
    changes = {"update_period": 12, "prune_step": None}
    (cell,) = planned(tmp_path, config_of(method, **changes))
    if cell.refused:
        assert cell.refused in ("the host evaluates before its mask updates", "the host prunes in its middle")
        return
    (result,) = train(cell)
    assert result["method"] == method
    check_same(cell, tmp_path / "ordinary")


def test_only_cells_that_share_a_program_are_of_one_kind(tmp_path):
    usual = config_of(drop_fraction=0.3)
    same = config_of(drop_fraction=0.2, sparsity=0.5)
    others = [config_of(drop_fraction=0.3, **{n: v}) for n, v in (("steps", 45), ("seeds", 3), ("grow", "random"))]
    kinds = [cell.kind for cell in planned(tmp_path, usual, same, config_of(), *others)]
    assert kinds[0] == kinds[1] == kinds[2]
    assert len({*kinds}) == len(kinds) - 2
    # Two kinds side by side, the first of each ahead: it compiles.
    assert fast._order([*"aaabcb"], 2) == [0, 3, 1, 2, 5, 4]


def test_what_the_fast_path_cannot_do_is_said(tmp_path):
    (tmp_path / "4" / "checkpoints" / "20").mkdir(parents=True)
    events = config_of()
    events.tensorboard = True
    cells = planned(
        tmp_path, config_of("dynset", metric="accuracy"), config_of("sis", prune_step=20), events,
        config_of(steps=10**8), config_of(),
    )  # fmt: skip
    assert [cell.refused for cell in cells][1:] == [
        "the host prunes in its middle",
        "it writes events as it goes",
        "it is long enough for checkpoints",
        "it has checkpoints to go on from",
    ]
    assert all(cell.kind is None for cell in cells if cell.refused)
    with pytest.raises(ValueError, match=r"cell cell 0: sparsity=2"):
        planned(tmp_path, config_of(sparsity=2.0))


def test_an_interrupted_cell_is_run_again_and_a_lost_one_is_a_result(tmp_path):
    lost = config_of("static")
    lost.optimizer.learning_rate = 1e30
    lost.steps = 20
    (cell,) = planned(tmp_path, lost)
    cell.folder.mkdir()
    (cell.folder / "metrics.jsonl").write_text("cut")
    (cell.folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="cell 0"):
        train(cell)
    (cell.folder / "config.json").unlink()
    (cell.folder / "metrics.jsonl").unlink()
    (error,) = train(cell)
    with pytest.raises(DivergedError) as ordinary:
        train_and_evaluate(lost, tmp_path / "ordinary", quiet=True)
    assert str(error) == str(ordinary.value)
    assert sorted(p.name for p in cell.folder.iterdir()) == [".lock", "config.json"]
    (again,) = train(cell)
    assert str(again) == str(error)


@pytest.mark.parametrize(("total", "batches", "period", "every"), [(44, 16, 10, 2), (7, 3, 1, 1), (5, 9, 2, 4)])
def test_pieces_cover_each_step_once(total, batches, period, every):
    of = lane.pieces(total, batches, lambda t: t % period == 0, every)
    seen = []
    for epoch, start, stop, rewires, ends in zip(of.epoch, of.start, of.stop, of.rewires, of.ends, strict=True):
        steps = [(epoch * batches + i + 1, False) for i in range(start, stop)]
        seen += steps + ([(epoch * batches + stop + 1, True)] if rewires else [])
        assert rewires + ends == 1 or (len(seen) == total and start == stop)
    assert seen == [(t, t % period == 0) for t in range(1, total + 1)]
    assert of.ends.sum() == -(-total // batches)
    assert of.evaluates[-1] == of.split[-1] == of.split.sum() == 1
    assert of.evaluates.sum() == 1 + len({*range(every, -(-total // batches) + 1, every), -(-total // batches)})


def test_a_task_keeps_what_is_the_experiments_own():
    config = config_of("dst_ee", coefficient=1e-2)
    config.optimizer.nesterov = False
    on_task(config, "teacher98")
    assert (config.method, config.coefficient, config.sparsity) == ("dst_ee", 1e-2, 0.98)
    assert config.optimizer.nesterov
    assert config.proxy


@pytest.mark.parametrize("name", [n for n in TASKS if not n.startswith("mnist")])
def test_each_task_takes_the_fast_path(name, tmp_path):
    module = importlib.import_module(f"experiments.configs.task_{name}")
    assert module.get_config().to_dict() == task_config(name).to_dict()
    assert planned(tmp_path, module.get_config())[0].refused == ""

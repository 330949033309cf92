"""Channels in a config: structures of the network that it names, tables of costs, and what such a run leaves."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import dstjax
from experiments import compact, latency_table, models
from experiments.models import shapes
from experiments.training import configuration, rules
from experiments.training.inputs import ChangedError
from experiments.training.run import train_and_evaluate

NETWORK = models.make("conv", classes=10, sizes=(4, 6)), (8, 8, 1)


def structure(costs=None, budget=0.5):
    return dstjax.structures.channels(shapes.channels_of(*NETWORK), costs=costs, budget=budget)


@pytest.fixture
def conv(small):
    def make(**fields):
        usual = dict(
            model__name="conv", model__sizes=(4, 6), structure="channels(budget=0.5)", update_period=6, steps=24
        )
        return small(**(usual | fields))

    return make


def test_a_structure_is_of_the_network_of_the_config(conv, tmp_path):
    table = shapes.channel_flops(*NETWORK)
    table.save(tmp_path / "table.json")
    written = {
        "channels(budget=0.5)": structure(),
        "channels(budget=0.5, costs='flops')": structure(table),
        f"channels(budget=0.5, costs='{tmp_path}/table.json')": structure(table),
    }
    for text, expected in written.items():
        plan = configuration.plan(conv(method="halp", structure=text))
        assert plan.method.masking.structure == expected
        assert (rules.costs_of(text) is None) == ("json" not in text) == (not plan.rules)


def test_a_table_of_another_machine_is_taken(conv, tmp_path):
    table = shapes.channel_flops(*NETWORK)
    work = dataclasses.replace(table.work, unit="seconds")
    dataclasses.replace(table, work=work, about={"device": "another"}).save(tmp_path / "table.json")
    plan = configuration.plan(conv(method="halp", structure=f"channels(budget=0.5, costs='{tmp_path}/table.json')"))
    assert plan.method.masking.structure.work.unit == "seconds"


def test_channels_that_all_stay_are_left_out_of_the_table_of_operations(conv):
    text = "channels(budget=0.5, costs='flops', whole=['ShiftedConv_0'], at_least=0.2)"
    found = configuration.plan(conv(method="halp", structure=text)).method.masking.structure
    assert found == dstjax.structures.channels(
        shapes.channels_of(*NETWORK), costs=shapes.channel_flops(*NETWORK, ("ShiftedConv_0",)), budget=0.5,
        whole=["ShiftedConv_0"], at_least=0.2,
    )  # fmt: skip
    assert found != structure(shapes.channel_flops(*NETWORK))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("0.5", "is not accepted"),
        ("budget=0.5, costs=5", "costs=5 is not accepted; expected a table of dstjax.latency"),
        ("budget=0.5, whole='Dense'", r"whole='Dense' is not accepted; expected a sequence .* such as \['Dense'\]"),
        ("budget=0.5, whole=['(']", r"whole='\(' is not accepted; as a regular expression it fails"),
        ("budget=0.5, whole=['no'], costs='flops'", "whole='no' is in no path of"),
        ("budget='half'", "budget='half' is not accepted; expected a share"),
    ],
)
def test_what_is_wrong_with_channels(arguments, said, conv):
    with pytest.raises(ValueError, match=said):
        configuration.plan(conv(method="halp", structure=f"channels({arguments})"))


def test_without_a_network_there_are_no_channels():
    with pytest.raises(ValueError, match="is not accepted here; channels are those of a network"):
        rules.resolved("structure", "channels(budget=0.5)")


def test_a_table_of_another_network_is_refused(conv, tmp_path):
    other = models.make("conv", classes=10, sizes=(3, 5)), (8, 8, 1)
    shapes.channel_flops(*other).save(tmp_path / "table.json")
    with pytest.raises(ValueError, match="the table of costs is of 4 pools of 16 channels, the network has 4 of 20"):
        configuration.plan(conv(method="halp", structure=f"channels(budget=0.5, costs='{tmp_path}/table.json')"))


@pytest.mark.slow
def test_a_run_counts_what_compaction_leaves_and_notices_another_table(conv, tmp_path):
    table = shapes.channel_flops(*NETWORK)
    table.save(tmp_path / "table.json")
    config = conv(method="iee_structured", structure=f"channels(budget=0.5, costs='{tmp_path}/table.json')")
    summary = train_and_evaluate(config, tmp_path / "run", quiet=True)
    trainer, plan = compact.load(tmp_path / "run")
    network = trainer.network(0)
    masks = dstjax.get_masks(network.opt_state)
    variables = {"params": network.params, **network.model_state}
    x = np.zeros((1, 8, 8, 1), np.float32)
    _, _, report = dstjax.compact(lambda v, x: plan.model.apply(v, x, train=False), variables, masks, x)
    before, after = report.flops
    assert after / before == pytest.approx(summary["cost"]["inference"])
    assert after / before <= 0.5
    widths = plan.method.masking.structure.widths_of(masks)
    assert table.predict(widths) / table.dense == pytest.approx(after / before)
    read = json.loads((tmp_path / "table.json").read_text())
    (tmp_path / "table.json").write_text(json.dumps(read))
    with pytest.raises(ChangedError, match="the table of costs changed"):
        train_and_evaluate(config, tmp_path / "run", quiet=True)


@pytest.mark.slow
def test_the_command_measures_a_table_that_a_structure_takes(conv, tmp_path, capsys):
    out = tmp_path / "table.json"
    options = ["--model", "conv", "--sizes", "4,6", "--batch-size", "8", "--out", str(out)]
    assert latency_table.main(options) == 0
    assert "5 layers; " in capsys.readouterr().out
    plan = configuration.plan(conv(method="halp", structure=f"channels(budget=1.0, costs='{out}')"))
    assert plan.method.masking.structure.work.unit == "seconds"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "convv"], "'convv' is not known; did you mean 'conv'?"),
        (["--model", "conv", "--batch-size", "0"], "batch-size=0 is not accepted"),
        (["--model", "conv", "--sizes", "4,x"], "sizes='4,x' is not accepted"),
        (["--model", "conv", "--out", "nowhere/table.json"], "expected a file in a directory that is there"),
    ],
)
def test_bad_options_of_the_command(options, said, capsys, tmp_path):
    assert latency_table.main(["--out", str(tmp_path / "table.json"), *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_networks_have_channels_by_their_shapes_alone():
    for name in ("conv", "mobilenet_v1"):
        model, shape = models.make(name), models.MODELS[name].shape
        pools = dstjax.structures.channels(shapes.channels_of(model, shape)).pools
        assert pools.number > 100
        assert jax.tree.leaves(pools.sizes)

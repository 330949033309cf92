"""Rows of a table differ in what its paper, or the paper of a baseline, gives, and in nothing else."""

import dataclasses
import importlib

import pytest

import dstjax
from experiments.reproduce import __main__ as command
from experiments.reproduce import baselines, fairness, recipes
from experiments.reproduce.cells import Cell, config_of
from experiments.reproduce.claims import Claim
from experiments.reproduce.papers.catalogue import get, tables
from experiments.training import configuration
from tests.thorough import slow

CIFAR, LINKS, IMAGENET = "dst_ee_vgg19_cifar10", "dst_ee_links_ia_email", "iee_resnet50_imagenet"


def checked(name, *, proxy):
    table = get(name)
    rows = fairness.rows(table.cells(proxy), proxy=proxy)
    return fairness.differences(table, rows), fairness.unfair_claims(table, rows)


# The study of criteria has hundreds of cells, which differ from those of its proxies in a density or a period.
FULL = [slow(n) if n.startswith("criteria") else n for n, t in tables().items() if not t.proxy_only]


@pytest.mark.parametrize("name", sorted(tables()))
def test_rows_of_a_proxy_differ_in_what_is_declared(name):
    found, unfair = checked(name, proxy=True)
    assert not [d for d in found if d.why is None]
    assert not unfair


@pytest.mark.parametrize("name", FULL)
def test_rows_of_a_table_differ_in_what_is_declared(name):
    found, unfair = checked(name, proxy=False)
    assert not [d for d in found if d.why is None]
    assert not unfair


UNDECLARED = {
    "another rate": ({"optimizer.learning_rate": 0.05}, "rigl, as DST-EE", "optimizer.learning_rate"),
    "a recipe that a cell overrules": ({"optimizer.momentum": 0.5}, "deepr", "optimizer.momentum"),
    "a method without a recipe": ({"method": "gmp"}, None, "distribution"),
    "a rule that is not the method's": ({"drop": "snip"}, "set, as DST-EE", "drop"),
}


@pytest.mark.parametrize("case", UNDECLARED)
def test_what_nothing_declares_is_found(case):
    changes, recipe, field = UNDECLARED[case]
    (row,) = fairness.rows([Cell(CIFAR, "row", changes, recipe=recipe)], proxy=False)
    assert field in {d.field for d in fairness.of_row(row, {}) if d.why is None}
    assert field not in {d.field for d in fairness.of_row(row, {field: "so says the table"}) if d.why is None}


def test_a_claim_across_optimisers_is_found():
    table = get("dst_ee_table4")
    claim = Claim("It is so.", {"method": "DST-EE"}, {"method": "Prune-from-dense (ADMM)"})
    table = dataclasses.replace(table, claims=(*table.claims, claim))
    rows = fairness.rows(table.cells(True), proxy=True)
    assert fairness.unfair_claims(table, rows) == ["It is so."]


def test_the_command_prints_and_fails(capsys, monkeypatch):
    assert command.main(["--fairness", "--table", "dst_ee_table4", "--proxy"]) == 0
    printed = capsys.readouterr().out
    assert "optimizer.momentum = 0 (the experiment: 0.9): Prune-from-dense (ADMM)\n" in printed
    assert "NOT DECLARED" not in printed
    bare = dataclasses.replace(get("dst_ee_table4"), varies={})
    monkeypatch.setattr(command, "get", lambda name: bare)
    assert command.main(["--fairness", "--table", "dst_ee_table4", "--proxy"]) == 1
    assert "NOT DECLARED" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(baselines.RECIPES))
def test_a_recipe_has_nothing_of_another_method(name):
    """Whatever the hyper-parameters of an experiment are, those of a baseline do not change with them."""
    module = importlib.import_module(f"experiments.configs.{CIFAR}")
    recipe = baselines.get(name)
    made = []
    for poison in (False, True):
        config = module.get_config(proxy=True)
        with config.unlocked():
            if poison:
                config.epsilon, config.coefficient, config.drop = 7.0, 9.0, "snip"
                config.end_percent, config.drop_fraction, config.drop_schedule = 33.0, 0.77, "linear"
                config.rounding, config.update_order, config.scope = "floor", "update_then_step", "global"
                config.prune_percent, config.start_step = 12.0, 3
            recipes.apply(config, recipe, module.get_config())
        made.append(config)
    plain, poisoned = map(fairness.fields, made)
    assert {n for n in plain if plain[n] != poisoned[n]} <= {*recipe.takes}


def made(config, recipe, *, proxy=True, **changes):
    return config_of(Cell(config, "row", changes, recipe=recipe), seeds=1, proxy=proxy)


@pytest.mark.parametrize(
    ("config", "recipe", "period"),
    [
        ("dst_ee_resnet50_imagenet", "rigl", 3200),  # 128 a batch
        (IMAGENET, "rigl", 400),  # 1024 a batch
        (IMAGENET, "itop", 500),
        (IMAGENET, "granet", 500),
        ("iee_wrn22_cifar10", "rigl, CIFAR", 100),
        ("iee_wrn22_cifar10", "gmp", 1000),
    ],
)
def test_a_period_is_of_samples(config, recipe, period):
    assert made(config, recipe, proxy=False).update_period == period


def test_updates_of_a_proxy_are_closer_together_by_the_same_factor():
    full, proxy = (made(IMAGENET, None, proxy=p).update_period for p in (False, True))
    assert made(IMAGENET, "rigl").update_period == round(400 * proxy / full)


def test_admm_prunes_after_two_thirds():
    for recipe in ("admm", "admm, shared"):
        config = made(LINKS, recipe, sparsity=0.9)
        plan = configuration.plan(config)
        times = plan.method.updates.schedule
        epoch = plan.steps // 60
        assert (times.first, times.last, times.update_period) == (20 * epoch, 40 * epoch, epoch)
    plain, shared = made(LINKS, "admm").optimizer, made(LINKS, "admm, shared").optimizer
    assert (plain.momentum, plain.nesterov, plain.learning_rate, plain.weight_decay) == (0.0, False, 0.05, 0.0)
    assert shared.to_dict() == made(LINKS, None).optimizer.to_dict()
    assert made(LINKS, "admm", proxy=False).epochs == 60


def test_str_has_half_of_the_run_to_prune_and_half_to_train():
    plan = configuration.plan(made(CIFAR, "str", sparsity=0.9))
    assert plan.method.updates.schedule.end_step == plan.steps // 2
    decays = [made(CIFAR, "str", sparsity=s).threshold_decay for s in (0.9, 0.95, 0.98)]
    assert decays == sorted(decays)
    longer = made(CIFAR, "str", sparsity=0.9, steps=2 * plan.steps)
    assert longer.threshold_decay == pytest.approx(decays[0] / 2, rel=1e-4)


def test_asp_trains_twice():
    cell = Cell("iee_n_m_imagenet", "ASP", recipe="asp", times=1.5)
    config, once = config_of(cell, seeds=1, proxy=True), made("iee_n_m_imagenet", None)
    plan = configuration.plan(config)
    assert plan.steps == 2 * once.steps
    assert plan.method.updates.schedule.first == once.steps
    assert float(plan.schedule(once.steps + 500)) == pytest.approx(float(plan.schedule(500)))
    assert cell.length == 3.0


def test_a_recipe_that_there_is_not():
    with pytest.raises(ValueError, match="recipe 'rigle' is not known; expected one of static, snip"):
        made(CIFAR, "rigle")


def test_every_recipe_makes_a_method_of_the_catalogue():
    assert {r.method for r in baselines.RECIPES.values()} <= {*dstjax.methods.names(channels=True)}
    assert all(r.source for r in baselines.RECIPES.values())


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        ("criteria_efficientnet_tiny_imagenet", "optimizer.factor", 0.001),
        ("criteria_vgg16_cifar100", "optimizer.factor", 0.1),
        ("dst_ee_vgg19_cifar100", "protocol", "reference-code"),
        ("dst_ee_resnet50_cifar100", "protocol", "reference-code"),
        ("dst_ee_vgg19_cifar10", "protocol", None),
        ("iee_wrn22_cifar10", "optimizer.nesterov", False),
        ("regrowing_set_mlp_cifar10", "update_order", "step_then_update"),
    ],
)
def test_what_the_papers_and_their_code_print(config, field, value):
    assert fairness.fields(made(config, None, proxy=False))[field] == value


def test_a_table_has_as_many_seeds_as_its_paper():
    five = {n for n, t in tables().items() if n.startswith("criteria")} - {"criteria_figure2", "criteria_table2"}
    assert {tables()[n].seeds for n in five} == {5}
    assert tables()["criteria_figure2"].seeds == 3  # of ImageNet

import json
import math
import re

import pytest

from dstjax import costs
from experiments import flops


def output(capsys, *arguments):
    assert flops.main(list(arguments)) == 0
    return capsys.readouterr().out


def test_the_command_of_the_readme_prints_what_resnet50_costs(capsys):
    out = output(capsys, "--model", "resnet50", "--distribution", "erk", "--sparsity", "0.9", "--method", "rigl")
    for line in (
        r"parameters +25,557,032",
        r"maskable weights +25,502,912",
        r"active weights +2,550,29\d  \(erk, sparsity 0\.9\)",
        r"dense +8\.178 GFLOPs",
        r"sparse +1\.978 GFLOPs  0\.242x",
        r"sparse +2\.000 GFLOPs  0\.24x",
        r"training, FLOPs for one example, rigl \(update_period=100\)",
        r"dense +24\.535 GFLOPs",
        r"paper convention +5\.995 GFLOPs  0\.244x",
    ):
        assert re.search(line, out), line


def test_the_json_report_adds_up(capsys):
    arguments = ("--model=small_cnn", "--sparsity=0.8", "--method=iee", "--json")
    found = json.loads(output(capsys, *arguments))
    layers, inference = found["layers"], found["inference"]
    assert [layer["shape"] for layer in layers] == [[3, 3, 3, 32], [3, 3, 32, 64], [3, 3, 64, 128], [128, 10]]
    assert 2 * sum(layer["multiply_adds"] for layer in layers) == inference["dense_flops"] == 2 * 5_073_536
    sparse = sum(2 * layer["multiply_adds"] * layer["density"] for layer in layers)
    assert inference["sparse_flops"] == pytest.approx(sparse)
    active = sum(math.prod(layer["shape"]) * layer["density"] for layer in layers)
    assert found["active_weights"] == round(active) == 94_304 - math.floor(0.8 * 94_304)
    # IEE's formulas with equal phases; a third of three quarters of training explores.
    f_s, f_d = inference["sparse_flops"], inference["dense_flops"]
    assert found["training"]["paper"]["flops"] == pytest.approx((11 * f_s + f_d) / 4)
    assert found["training"]["exact"]["flops"] == pytest.approx(0.25 * (3 * f_d - f_s) + 0.75 * 3 * f_s)
    assert found["training"]["paper"]["of_dense"] == pytest.approx((11 * f_s + f_d) / 12 / f_d)


def test_options_reach_the_network_the_mask_and_the_formula(capsys):
    found = json.loads(
        output(
            capsys,
            *("--model=vgg16", "--classes=5", "--sizes=4,8", "--shape=8,10,2", "--keep-dense=^Conv_0", "--json"),
            *("--sparsity=0.5", "--distribution=uniform", "--method=rigl", "--cost=update_period=7"),
        )
    )
    densities = {layer["path"]: layer["density"] for layer in found["layers"]}
    assert densities == {"Conv_0/kernel": 1.0, **dict.fromkeys(list(densities)[1:], 0.5)}
    assert found["layers"][-1]["shape"] == [8, 5]
    assert found["layers"][0]["multiply_adds"] == 8 * 10 * 9 * 2 * 4
    f_s, f_d = (found["inference"][f"{kind}_flops"] for kind in ("sparse", "dense"))
    expected = costs.training_flops("rigl", sparse=f_s, dense=f_d, convention="exact", update_period=7)
    assert found["training"]["exact"]["flops"] == expected
    assert found["method_options"] == {"update_period": 7}


def test_a_table_of_layers_on_request(capsys):
    out = output(capsys, "--model=small_mlp", "--sparsity=0.9", "--layers")
    assert re.search(r"Dense_1/kernel +256 x 256 +65,536 +0\.068\d\n", out)
    assert "Dense_0/bias" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=resnet5"], "did you mean 'resnet5"),
        (["--method=rigel"], "did you mean 'rigl'"),
        (["--method=gmp"], "ramp_start"),
        (["--cost=update_period=7"], "update_period"),
        (["--cost=update_period"], "KEY=VALUE"),
        (["--distribution=erdos"], "distribution='erdos'"),
        (["--sparsity=1"], "sparsity=1.0"),
        (["--sparsity=0.99999"], "too small"),
        (["--keep-dense=Conv"], "matches no leaf"),
        (["--keep-dense=kernel"], "matches every leaf"),
        (["--keep-dense=("], "no regular expression"),
        (["--sizes=4,x"], "sizes='4,x'"),
        (["--shape=0"], "shape='0'"),
        (["--classes=1"], "classes=1"),
        (["--shape=99999999999,99999999999,9999999999"], "is not accepted; expected at most 2,147,483,647 entries"),
        (["--model=conv", "--shape=8,8"], "shape=8,8 is not accepted; model 'conv' expects 3 numbers, such as 8,8,1."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_arguments_are_one_line_and_status_2(arguments, message, capsys):
    assert flops.main(["--model=small_mlp", "--sparsity=0.9", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert captured.out == ""

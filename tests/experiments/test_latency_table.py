import pytest

from dstjax import latency as tables
from experiments import latency_table


def test_a_network_too_narrow_for_a_tenth_of_its_weights_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(latency_table, "_ROUNDS", 2)
    asked, fastest = [], latency_table.compared

    def compared(model, params, state, masks, x):
        asked.append(int(masks["Dense_0"]["bias"].sum()))
        return fastest(model, params, state, masks, x)

    monkeypatch.setattr(latency_table, "compared", compared)
    out = tmp_path / "table.json"
    options = ["--model", "mlp", "--sizes", "8", "--shape", "4", "--batch-size", "2", "--out", str(out)]
    assert latency_table.main(options) == 0
    assert "2 layers; " in capsys.readouterr().out
    assert tables.load(out).work.full == (8,)
    assert asked == [8, 3, 1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--shape=8,8"], "shape=8,8 is not accepted; model 'conv' expects 3 numbers, such as 8,8,1."),
        (["--shape=8"], "shape=8 is not accepted; model 'conv' expects 3 numbers, such as 8,8,1."),
        (["--shape=99999999999,99999999999,9"], "is not accepted; expected at most 2,147,483,647 entries"),
        (["--batch-size=99999999999"], "shape=8,8,1 with batch-size=99999999999 is not accepted; expected at most"),
        (["--sizes=2147483647,2147483647"], "parameters; expected at most 2,147,483,647: give smaller sizes"),
        (["--classes=99999999999999999999"], "parameters; expected at most 2,147,483,647"),
    ],
)
def test_shapes_and_sizes_that_cannot_be_are_refused(options, said, tmp_path, capsys):
    assert latency_table.main(["--model=conv", "--sizes=4,4", f"--out={tmp_path / 'table.json'}", *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1

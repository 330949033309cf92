"""Tables of latency: exact where they are made from FLOPs, and interpolated between what a clock said."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dstjax import latency, program, structures
from tests import channel_network as small


def sizes(call, *operands):
    """A clock that counts: how many numbers go in, times a thousandth."""
    del call
    return sum(x.size for x in operands) / 1000


def test_flops_are_those_of_the_program():
    table = latency.analytic(small.network, small.params(), small.X)
    assert table.dense == program.flops.count(small.network, small.params(), small.X).dense()
    assert [x.name for x in table.work.layers] == ["a/kernel", "b/kernel", "c/kernel", "out/kernel"]
    pixels = 2 * 2 * 16
    stream, inside = 4, 3
    wanted = pixels * (9 * stream + 9 * stream * inside + inside * stream) + 2 * 2 * stream * 3
    assert table.predict((stream, inside)) == wanted


def conv(x, w, **options):
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)


FED = {
    "normalised": lambda w: w / jnp.sqrt(jnp.sum(w**2, (0, 1, 2))),
    "standardised": lambda w: (w - w.mean((0, 1, 2))) / w.std((0, 1, 2)),
    "masked": lambda w: w * np.ones(w.shape, np.float32),
    "cut": lambda w: w[..., :8],
    "indexed": lambda w: jnp.stack([w, w])[0],
}


@pytest.mark.parametrize("fed", FED.values(), ids=FED)
def test_a_layer_is_found_whatever_is_done_to_its_weight(fed):
    params = {"a": jnp.zeros((3, 3, 6, 16)), "b": jnp.zeros((1, 1, 16 if fed is not FED["cut"] else 8, 8))}
    x = jnp.zeros((2, 8, 8, 6))

    def network(p, x):
        return conv(jax.nn.relu(conv(x, fed(p["a"]))), p["b"])

    with jax.numpy_rank_promotion("allow"):
        table, found = latency.analytic(network, params, x), program.flops.count(network, params, x)
    assert table.dense == found.dense()
    assert [layer.name for layer in table.work.layers] == ["a", "b"]


def test_a_transposed_convolution_costs_what_meets_its_input():
    params = {"a": jnp.zeros((3, 3, 6, 8)), "up": jnp.zeros((3, 3, 8, 4))}

    def network(p, x):
        return jax.lax.conv_transpose(jax.nn.relu(conv(x, p["a"])), p["up"], (2, 2), "SAME")

    table = latency.analytic(network, params, jnp.zeros((1, 5, 5, 6)))
    assert table.dense == 2 * (25 * 9 * 6 * 8 + 25 * 9 * 8 * 4)
    assert table.predict((4,)) == table.dense / 2


def test_what_cannot_be_resized_is_a_constant_or_said(caplog):
    params = {"q": jnp.zeros((16, 4)), "k": jnp.zeros((16, 8)), "out": jnp.zeros((12, 3))}

    def network(p, x):
        return jax.nn.relu(x @ jnp.concatenate([p["q"], p["k"]], 1)) @ p["out"]

    table = latency.analytic(network, params, jnp.zeros((5, 16)))
    assert (table.work.constant, table.dense) == (2 * 5 * 16 * 12, 2 * 5 * (16 * 12 + 36))
    assert latency.measure(network, params, jnp.zeros((5, 16)), timer=sizes).work.constant == 0
    assert "The table lacks k, q, whose products cannot be resized: 0.00096 million multiply-adds" in caplog.text


def test_seconds_are_arithmetic_and_traffic():
    params = {"a": jnp.zeros((4, 8)), "b": jnp.zeros((8, 2))}

    def network(p, x):
        return jax.nn.relu(x @ p["a"]) @ p["b"]

    table = latency.analytic(network, params, jnp.zeros((3, 4)), flops_per_second=10.0, bytes_per_second=40.0)
    for h in (8, 5, 1):
        work, numbers = 2 * 3 * (4 * h + h * 2), (12 + 4 * h + 3 * h) + (3 * h + 2 * h + 6)
        assert table.predict((h,)) == pytest.approx(work / 10 + numbers / 10)


def test_depthwise_and_looped_and_flattened_layers():
    params = {"depth": jnp.zeros((3, 3, 1, 8)), "first": jnp.zeros((1, 8)), "loop": jnp.zeros((8, 8)),
              "out": jnp.zeros((32, 3))}  # fmt: skip
    x = jnp.zeros((2, 2, 2, 1))

    def network(p, x):
        h = jax.lax.conv_general_dilated(
            x @ p["first"],
            p["depth"],
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=8,
        )
        h = jax.lax.scan(lambda h, _: (jax.nn.relu(h @ p["loop"]), None), h, length=3)[0]
        return h.reshape(2, -1) @ p["out"]

    table = latency.analytic(network, params, x)
    assert table.dense == program.flops.count(network, params, x).dense()
    assert table.work.full == (8,)
    assert table.predict((4,)) == 2 * 8 * (4 + 9 * 4 + 3 * 16) + 2 * 2 * 16 * 3
    measured = latency.measure(network, params, x, timer=sizes, fractions=(0.5, 1))
    for n in (8, 4):  # operands of each product: data and weights
        counted = (8 + n) + (8 * n + 9 * n) + 3 * (8 * n + n * n) + (2 * 4 * n + 4 * n * 3)
        assert measured.predict((n,)) == pytest.approx(counted / 1000)


def test_measured_layers_are_interpolated():
    table = latency.measure(small.network, small.params(), small.X, timer=sizes, fractions=(0.5, 1))
    layer = table.work.layers[1]
    assert (layer.at_inputs, layer.at_outputs) == ((0, 3, 6), (0, 2, 5))
    assert layer.costs[1][1] == (2 * 16 * 3 + 9 * 3 * 2) / 1000
    assert layer.costs[0] == (0.0, 0.0, 0.0)
    corners = [table.predict(w) for w in ((3, 2), (6, 2), (3, 5), (6, 5))]
    assert min(corners) == corners[0]
    assert max(corners) == corners[3]
    middle = latency.Table(dataclasses.replace(table.work, layers=(layer,))).predict((4, 3))
    cell = np.array(layer.costs)[1:, 1:]
    assert middle == pytest.approx(np.array([2 / 3, 1 / 3]) @ cell @ np.array([2 / 3, 1 / 3]))
    assert table.predict((3, 2)) < table.predict((4, 2)) < table.predict((6, 2))


def test_each_shape_is_measured_once_and_really_runs():
    calls = []

    def clock(call, *operands):
        y = call(*operands)
        calls.append((y.shape, *(x.shape for x in operands)))
        return 1.0

    params = {"a": jnp.zeros((4, 4)), "b": jnp.zeros((4, 4)), "c": jnp.zeros((4, 4)), "d": jnp.zeros((4, 4))}

    def network(p, x):
        for name in "abcd":
            x = jnp.tanh(x @ p[name])
        return x

    table = latency.measure(network, params, jnp.zeros((2, 4)), timer=clock, fractions=(0.5, 1))
    assert sorted(calls) == sorted(((2, m), (2, n), (n, m)) for n in (2, 4) for m in (2, 4))
    assert table.dense == 4.0


def test_a_network_as_measured_shifts_and_scales():
    table = latency.measure(small.network, small.params(), small.X, timer=sizes)
    known = [((6, 5), 2 * table.predict((6, 5)) + 0.3), ((2, 2), 2 * table.predict((2, 2)) + 0.3)]
    fitted = table.fitted(known)
    assert fitted.predict((4, 3)) == pytest.approx(2 * table.predict((4, 3)) + 0.3)
    through_zero = table.fitted([((6, 5), 3.0), ((2, 2), 3.0 * table.predict((2, 2)) / table.predict((6, 5)) * 0.5)])
    assert through_zero.work.constant == 0
    for wrong in (known[:1], known[:1] * 2, [((6, 5), -1.0), ((2, 2), 1.0)]):
        with pytest.raises(ValueError, match="expected positive costs at two widths"):
            table.fitted(wrong)


def test_files_and_devices(tmp_path):
    table = latency.measure(small.network, small.params(), small.X, timer=sizes)
    table.save(tmp_path / "table.json")
    again = latency.load(tmp_path / "table.json")
    assert again == table
    assert again.about["versions"]["jax"] == jax.__version__
    assert {"device", "date", "arguments"} <= again.about.keys()
    entry = json.loads((tmp_path / "table.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps({**entry, "device": "gpu: Imaginary"}))
    with pytest.raises(ValueError, match="was measured on 'gpu: Imaginary'"):
        latency.load(tmp_path / "other.json")
    assert latency.load(tmp_path / "other.json", any_device=True).work == table.work
    fewer = json.dumps({**entry, "layers": entry["layers"][1:]})
    wrong = [json.dumps({**entry, **field}) for field in ({"constant": -1.0}, {"unit": "bananas"})]
    del entry["layers"][0]["costs"]
    for text in ("", "{}", json.dumps(entry), fewer, *wrong):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match="is no table of latencies") as error:
            latency.load(tmp_path / "bad.json")
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="is no table of latencies"):
        latency.load(tmp_path / "none.json")


def test_bad_input():
    params, x = small.params(), small.X
    for options, said in (
        (dict(flops_per_second=0), "flops_per_second=0"),
        (dict(bytes_per_second=1.0), "without flops_per_second"),
    ):
        with pytest.raises(ValueError, match=said):
            latency.analytic(small.network, params, x, **options)
    with pytest.raises(ValueError, match="fractions="):
        latency.measure(small.network, params, x, fractions=(0.5,), timer=sizes)
    with pytest.raises(ValueError, match="no product with a leaf"):
        latency.analytic(lambda p, x: x * p["a"], {"a": jnp.zeros(3)}, jnp.zeros((3,)))
    table = latency.analytic(small.network, params, x)
    for widths in ((6,), (7, 5), (-1, 5), (1.5, 2)):
        with pytest.raises(ValueError, match="expected at most"):
            table.predict(widths)
        with pytest.raises(ValueError, match="expected at most"):
            table.fitted([(widths, 1.0), ((2, 2), 0.5)])
    layer = table.work.layers[0]
    with pytest.raises(ValueError, match="expected one cost for each pair"):
        dataclasses.replace(layer, at_outputs=(0, 3, 6))
    with pytest.raises(ValueError, match="expected finite costs"):
        dataclasses.replace(layer, costs=((0.0, 0.0), (0.0, float(np.nan))))
    with pytest.raises(ValueError, match="the layer has 1 x 5"):
        dataclasses.replace(table.work, full=(5, 5))


def deep(params, x):
    return jax.nn.relu(jax.nn.relu(x @ params["one"]) @ params["two"]) @ params["out"]


def changed(table, layers):
    return latency.Table(dataclasses.replace(table.work, layers=tuple(layers)))


def test_a_table_of_costs_is_that_of_the_network():
    params, x = {"one": jnp.ones((8, 16)), "two": jnp.ones((16, 16)), "out": jnp.ones((16, 3))}, jnp.ones((32, 8))
    found, table = program.channels(deep, params, x), latency.analytic(deep, params, x)
    one, two, out = table.work.layers
    for layers, said in (
        ([one], "lacks entries: out, two"),
        ([one, out], "lacks entries: two"),
        ([two, out], "lacks entries: one"),
        ([one, two, dataclasses.replace(out, name="oat")], "has an entry 'oat', which is no leaf; did you mean 'out'"),
        ([dataclasses.replace(one, name="out"), two, out], "the entry 'out' of the table of costs is of other"),
    ):
        with pytest.raises(ValueError, match=said):
            structures.channels(found, costs=changed(table, layers), budget=0.5)
    with pytest.raises(ValueError, match="channels of None are not accepted"):
        structures.channels(None, budget=0.5)
    structure = structures.channels(found, costs=table, budget=0.5)
    masks = {"one": jnp.ones((8, 16), bool), "two": jnp.ones((16, 16), bool), "out": jnp.ones((16, 3), bool)}
    assert structure.widths_of(masks) == (16, 16)
    with pytest.raises(ValueError, match="active in part"):
        structure.widths_of({**masks, "one": masks["one"].at[0, 0].set(False)})


def test_what_is_added_needs_no_entry():
    """Biases of heads have channels along two axes, and are multiplied by nothing."""

    def network(params, x):
        heads = jnp.tanh(jnp.einsum("bi,ihd->bhd", x, params["in"]) + params["bias"][None])
        return jnp.einsum("bhd,hdo->bo", heads, params["out"])

    params = {"in": jnp.ones((6, 4, 8)), "bias": jnp.ones((4, 8)), "out": jnp.ones((4, 8, 3))}
    x = jnp.ones((2, 6))
    found, table = program.channels(network, params, x), latency.analytic(network, params, x)
    assert found.multiplied() == {"in", "out"}
    assert structures.channels(found, costs=table, budget=0.6).budget == 0.6

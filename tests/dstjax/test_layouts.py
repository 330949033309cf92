"""Layouts: what axes mean, what is a weight, and how many weights of each layer are active."""

import logging
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dstjax
from dstjax import distributions, layouts, methods, metrics
from dstjax.structures import block, fan_in, filters, heads, n_m
from tests.stepping import compiled

SHAPE = jax.ShapeDtypeStruct


def rigl(**fields):
    return methods.rigl(**{"update_period": 1, "end_step": 4, **fields})


def leaves(**shapes):
    return {name: SHAPE(shape, jnp.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("Dense_0/kernel", (4, 5), "in out"),
        ("blocks/Dense_0/kernel", (6, 4, 5), "stack in out"),
        ("Conv_0/kernel", (3, 3, 4, 8), "window window in out"),
        ("Conv_0/kernel", (3, 4, 8), "window in out"),
        ("attention/query/kernel", (8, 2, 4), "in out out"),
        ("blocks/attention/query/kernel", (6, 8, 2, 4), "stack in out out"),
        ("attention/out/kernel", (2, 4, 8), "in in out"),
        ("blocks/attention/out/kernel", (6, 2, 4, 8), "stack in in out"),
        ("attention/query/bias", (2, 4), None),
        ("blocks/LayerNorm_1/scale", (6, 8), None),
        ("blocks/norm1/weight", (6, 8), None),
        ("layers/0/weight", (5, 4), "out in"),
        ("conv1/weight", (8, 4, 3, 3), "out in window window"),
        ("conv1/bias", (8, 1, 1), None),
        ("blocks/q_proj/weight", (6, 5, 4), "stack out in"),
        ("mlp/~/linear_0/w", (4, 5), "in out"),
        ("batch_norm/~/scale", (1, 1, 1, 8), None),
        ("batch_norm/~/offset", (1, 1, 1, 8), None),
        ("experts/w", (3, 4, 5), "stack in out"),
        ("cls_token", (1, 1, 8), None),
        ("pos_embedding", (1, 9, 8), None),
        ("Embed_0/embedding", (10, 8), "lookup out"),
        ("token_embedder/embeddings", (10, 8), "lookup out"),
        ("mystery", (4, 5), "?"),
        ("mystery", (4,), None),
    ],
)
def test_names_of_the_frameworks(path, shape, expected):
    found = layouts.read(None, leaves(**{path: shape}))[path]
    assert (found if found is None or isinstance(found, str) else str(found)) == expected


def test_leaves_beside_tell_norms_and_biases():
    found = layouts.read(layouts.equinox, leaves(**{"a/weight": (6, 8), "a/bias": (6, 8), "c/weight": (6, 8)}))
    assert found["a/weight"] is None
    assert str(found["c/weight"]) == "out in"
    found = layouts.read(None, leaves(**{"0/0": (6, 8), "0/1": (8,), "1/0": (3, 8), "1/1": (3,), "2/0": (3, 3)}))
    assert [str(found[n]) for n in ("0/0", "1/0", "2/0")] == ["in out", "out in", "?"]
    biases = {"Dense_0/bias": (3, 4), "DenseGeneral_0/bias": (2, 4), "f/bias": (6, 5)}
    kernels = {"Dense_0/kernel": (3, 5, 4), "DenseGeneral_0/kernel": (8, 2, 4), "f/weight": (6, 5, 3)}
    found = layouts.read(None, leaves(**biases, **kernels, **{"DenseGeneral_1/kernel": (8, 2, 4)}))
    assert [str(found[n]) for n in kernels] == ["stack in out", "in out out", "stack out in"]
    assert found["DenseGeneral_1/kernel"] == "?"
    found = layouts.read(None, leaves(**{"a/b": (6, 8), "a/w": (6, 4, 8), "b": (6, 8)}))
    assert (found["a/b"], found["b"]) == (None, "?")


@pytest.mark.parametrize(
    ("path", "shape", "bias", "expected"),
    [
        ("Conv_0/kernel", (6, 3, 16, 16), (6, 16), "stack window in out"),  # Linen's Conv(16, (3,)) under nn.scan
        ("Conv_0/kernel", (6, 3, 3, 8, 16), (6, 16), "stack window window in out"),
        ("conv1_d/w", (6, 3, 16, 16), (6, 16), "stack window in out"),
        ("conv/weight", (6, 16, 8, 3), (6, 16, 1), "stack out in window"),
        ("conv/weight", (16, 8, 3, 3), (16, 1, 1), "out in window window"),
        ("ConvLocal_0/kernel", (7, 9, 54, 5), (7, 9, 5), "stack stack in out"),
        ("conv2_d_transpose/w", (3, 3, 8, 32), (8,), "window window out in"),
        ("conv2_d_transpose/w", (3, 3, 8, 8), (8,), "?"),
        ("conv2_d_transpose/w", (3, 3, 8, 32), None, "?"),
        ("ConvTranspose_0/kernel", (3, 3, 8, 32), (32,), "window window in out"),
        ("ConvTranspose_0/kernel", (3, 3, 8, 32), (8,), "window window out in"),  # transpose_kernel=True
        ("ConvTranspose_0/kernel", (6, 3, 8, 32), (6, 32), "stack window in out"),
        ("Conv_0/kernel", (3, 3, 8, 32), (8,), "window window out in"),
        ("Conv_0/kernel", (3, 3, 8, 32), (3, 3), "?"),
        ("out/kernel", (6, 4, 8), (6, 8), "stack in out"),  # no projection of six heads
        ("out/kernel", (6, 4, 8), (8,), "in in out"),
        ("query/kernel", (6, 8, 2, 4), (6, 2, 4), "stack in out out"),
        ("Dense_0/kernel", (4, 5), (5,), "in out"),
        ("Dense_0/kernel", (4, 5), (1, 5), "in out"),
        ("Dense_0/kernel", (4, 5), (4,), "out in"),
        ("Dense_0/kernel", (4, 5), (1,), "in out"),  # of all outputs
        ("Dense_0/kernel", (4, 5), (7,), "in out"),  # of other outputs: the kernel is packed
        ("Dense_0/kernel", (6, 4, 5), (6, 4), "stack out in"),
        ("Dense_0/kernel/value", (6, 4, 5), (6, 5), "stack in out"),  # NNX
        ("bn_relu_conv/w", (3, 3, 16, 32), None, "window window in out"),
        ("norm_mlp/w", (16, 64), None, "in out"),
        ("ln_mlp/w", (16, 64), (64,), "in out"),
        ("ln_mlp/weight", (64, 16), (64,), "out in"),
        ("ln_mlp/weight", (6, 16), None, None),  # the norms before the perceptrons of six blocks
        ("ln_mlp/weight", (6, 16), (6, 16), None),
        ("norm1/weight", (2, 6, 16), None, None),  # over seeds and layers
        ("norm1/weight", (16, 1, 1), None, None),
    ],
)
def test_the_bias_beside_decides(path, shape, bias, expected):
    *before, name = path.removesuffix("/value").split("/")
    beside = "/".join([*before, "b" if name == "w" else "bias"]) + path[len(path.removesuffix("/value")) :]
    found = layouts.read(None, leaves(**{path: shape}, **({} if bias is None else {beside: bias})))[path]
    assert (found if found is None or isinstance(found, str) else str(found)) == expected


@pytest.mark.parametrize(
    ("path", "shape", "bias", "expected"),
    [
        ("experts.up.weight", (8, 64, 32), None, "stack out in"),
        ("experts.gate.weight", (8, 64, 32), None, "stack out in"),
        ("up.weight", (64, 32, 2, 2), None, "in out window window"),
        ("up.weight", (64, 32, 2, 2), (64,), "out in window window"),
        ("deconv1.weight", (64, 32, 2, 2), (32,), "in out window window"),
        ("convt2.weight", (64, 32, 2), None, "in out window"),
        ("ConvTranspose2d_0.weight", (64, 32, 2, 2), None, "in out window window"),
        *[
            (f"conv_{name}.weight", (32, 16, 3, 3), None, "out in window window")
            for name in ("temporal", "top", "tail", "transition")
        ],
    ],
)
def test_names_of_torch_beside_a_bias(path, shape, bias, expected):
    beside = {} if bias is None else {path.replace("weight", "bias"): bias}
    assert str(layouts.read(layouts.torch, leaves(**{path: shape}, **beside))[path]) == expected


def test_torch_knows_transposed_convolutions():
    found = layouts.read(layouts.torch, leaves(**{"up.conv_transpose.weight": (4, 8, 3, 3), "fc.weight": (5, 4)}))
    assert [str(x) for x in found.values()] == ["in out window window", "out in"]


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("in outt", r"unknown word 'outt'.*'out'"),
        ("in in", r"at least one `in` .* and one `out`"),
        ("stack out", r"at least one `in` .* and one `out`"),
        ("in out out out", r"has 4 axes, and no leaf has as many"),
        ({"w": "in out out"}, r"'in out out' of leaf 'w' has 3 axes, but its shape is \(8, 8\)"),
        ({"nothing": "in out"}, r"patterns \['nothing'\] match no leaf; the leaves: \['w'\]"),
        ({"(": "in out"}, r"no regular expression"),
        ({"w": "inn out"}, r"layout\['w'\]='inn out' has the unknown word"),
        (3, r"layout=3 is not accepted"),
    ],
)
def test_layouts_that_are_refused(layout, message):
    with pytest.raises(ValueError, match=message):
        dstjax.sparsify(optax.sgd(0.1), rigl(sparsity=0.5), layout=layout).init({"w": jnp.ones((8, 8))})


@pytest.mark.parametrize("structure", [n_m(2, 4), block(2, 2), fan_in(), filters()])
def test_a_structure_needs_the_meaning_of_axes(structure):
    params = {"mystery": jnp.ones((8, 8))}
    method = rigl(sparsity=0.5, structure=structure)
    with pytest.raises(ValueError, match=r"needs the meaning of the axes of leaf 'mystery'.*layout="):
        dstjax.sparsify(optax.sgd(0.1), method).init(params)
    dstjax.sparsify(optax.sgd(0.1), method, layout="in out").init(params)


def test_erk_refuses_what_it_would_have_to_guess():
    params = {"mystery": jnp.ones((6, 8, 8))}
    with pytest.raises(ValueError, match=r"distribution='erk' needs the meaning of the axes of leaf 'mystery'"):
        dstjax.sparsify(optax.sgd(0.1), rigl(sparsity=0.5)).init(params)
    uniform = rigl(sparsity=0.5, distribution="uniform")
    assert dstjax.get_masks(dstjax.sparsify(optax.sgd(0.1), uniform).init(params))["mystery"].sum() == 192
    with pytest.raises(ValueError, match=r"method 'dense', which masks nothing"):
        dstjax.sparsify(optax.sgd(0.1), methods.dense(), layout="in out")


def test_stacked_layers_that_are_too_small():
    params = {"w": jnp.ones((4, 3, 3))}
    method = rigl(sparsity=0.95, distribution="uniform")
    with pytest.raises(ValueError, match=r"'w\[0\]' of shape \(3, 3\) is too small"):
        dstjax.sparsify(optax.sgd(0.1), method, layout="stack in out").init(params)


def test_what_is_masked_is_said(caplog):
    params = {"mlp": {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}, "odd": jnp.ones((4, 4))}
    tx = dstjax.sparsify(optax.sgd(0.1), rigl(sparsity=0.5))
    with caplog.at_level(logging.INFO, logger="dstjax"):
        state = tx.init(params)
    said = [record for record in caplog.records if "masks" in record.message]
    assert [r.levelname for r in said] == ["INFO", "WARNING"]
    assert "masks 2 of 3 leaves; dense: 1 bias or scale" in said[0].message
    assert "odd (4, 4)" in said[1].message
    table = str(dstjax.summary(params, state))
    assert "in out" in table
    assert "bias or scale" in table
    assert "layout not known" in table


def test_dead_units_by_layout():
    mask = np.ones((8, 2, 4), bool)
    mask[:, 1] = False  # a head
    assert metrics.dead_neurons({"query": {"kernel": jnp.asarray(mask)}})["query/kernel"] == (0, 4)
    flat = jnp.asarray(mask.reshape(8, 8))
    assert metrics.dead_neurons({"weight": flat.T})["weight"] == (0, 4)
    stacked = metrics.dead_neurons({"w": jnp.stack([flat, ~flat])}, layout={"w": "stack in out"})["w"]
    assert [x.tolist() for x in stacked] == [[0, 0], [4, 4]]


def test_groups_along_inputs_padded_or_over_several_axes():
    rng = np.random.default_rng(0)
    score = jnp.asarray(rng.standard_normal((10, 3)), jnp.float32)
    layout = (layouts.parse("in out"),)
    assert n_m(2, 4, pad=True).counts({"w": (10, 3)}, {"w": 1}) == {"w": 18}
    mask = n_m(2, 4, pad=True).best([score], [18], layout)[0]
    assert [mask[i : i + 4].sum(0).tolist() for i in (0, 4, 8)] == [[2, 2, 2]] * 3
    over = jnp.asarray(rng.standard_normal((2, 6, 3)), jnp.float32)  # 6 is no multiple of 4, but 12 is
    mask = n_m(2, 4).best([over], [18], (layouts.parse("in in out"),))[0]
    np.testing.assert_array_equal(mask.reshape(3, 4, 3).sum(1), 2)
    flat = n_m(2, 4).best([over.reshape(12, 3)], [18], layout)[0]
    np.testing.assert_array_equal(mask.reshape(12, 3), flat)
    stacked = jnp.stack([-over.reshape(12, 3), over.reshape(12, 3)])
    mask = n_m(2, 4).best([stacked], [36], (layouts.parse("stack in out"),))[0]
    np.testing.assert_array_equal(mask[1], flat)  # each layer as if it stood alone


def test_whole_filters_and_heads():
    params = {"conv": {"kernel": jnp.ones((3, 3, 4, 8))}, "fc": {"kernel": jnp.ones((8, 8))}}
    tx = dstjax.sparsify(optax.sgd(0.1), rigl(sparsity=0.5, structure=filters()))
    params, state = dstjax.start(tx, params)
    for seed in range(2):
        kernel = dstjax.get_masks(state)["conv"]["kernel"].reshape(-1, 8)
        assert sorted({*kernel.sum(0).tolist()}) == [0, 36]
        grads = jax.tree.map(lambda w, s=seed: jax.random.normal(jax.random.key(s), w.shape), params)
        updates, state = compiled(tx).update(grads, state, params)
        params = optax.apply_updates(params, updates)
    params = {name: {"kernel": jnp.ones(s)} for name, s in {"query": (8, 4, 2), "out": (4, 2, 8)}.items()}
    tx = dstjax.sparsify(optax.sgd(0.1), rigl(sparsity=0.5, structure=heads()))
    params, state = dstjax.start(tx, params)
    masks = dstjax.get_masks(state)
    assert sorted(masks["query"]["kernel"].sum((0, 2)).tolist()) == [0, 0, 16, 16]
    assert sorted(masks["out"]["kernel"].sum((1, 2)).tolist()) == [0, 0, 16, 16]
    with pytest.raises(ValueError, match=r"heads\(\) is not accepted for leaf 'w' of shape \(4, 4\), 'in out'"):
        dstjax.sparsify(optax.sgd(0.1), rigl(sparsity=0.5, structure=heads())).init({"w": jnp.ones((4, 4))})


shape_lists = st.lists(st.lists(st.integers(2, 48), min_size=2, max_size=4).map(tuple), min_size=1, max_size=24)


def check_dealt(shapes, sparsity, kind):
    shapes = {f"layer{i}": s for i, s in enumerate(shapes)}
    sizes = {n: math.prod(s) for n, s in shapes.items()}
    densities = getattr(distributions, kind)(shapes, sparsity)
    if min(densities[n] * sizes[n] for n in shapes) < 1:
        return
    counts = distributions.active_counts(kind, shapes, sparsity)
    size = sum(sizes.values())
    assert sum(counts.values()) == size - distributions.floor_share(size, sparsity)
    assert all(abs(counts[n] - densities[n] * sizes[n]) < 1 + 1e-6 for n in shapes)


@given(shape_lists, st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.98]), st.sampled_from(["er", "erk"]))
def test_every_layer_has_its_density_within_a_weight(shapes, sparsity, kind):
    check_dealt(shapes, sparsity, kind)


@pytest.mark.slow
@settings(max_examples=6000)
@given(shape_lists, st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.98]), st.sampled_from(["er", "erk"]))
def test_every_layer_has_its_density_within_a_weight_in_6000_trees(shapes, sparsity, kind):
    check_dealt(shapes, sparsity, kind)


def test_a_surplus_is_dealt_evenly():
    """64 layers of 32 x 32 at 98 %: none pays for all, stacked or not, known or traced."""
    shapes = {f"layer{i}": (32, 32) for i in range(64)}
    counts = distributions.active_counts("erk", shapes, 0.98)
    assert sorted({*counts.values()}) == [20, 21]
    traced = jax.jit(lambda s: distributions.active_counts("erk", shapes, s))(jnp.float32(0.98))
    assert {n: int(c) for n, c in traced.items()} == counts
    # Twelve blocks of two leaves, written out and stacked: the same blocks get the rest.
    apart = {f"block_{i}/{n}": (32, 32) for i in range(12) for n in ("a", "b")}
    stack = {f"block/{n}[{i}]": (32, 32) for n in ("a", "b") for i in range(12)}
    written = distributions.active_counts("erk", dict(sorted(apart.items())), 0.98)
    together = distributions.active_counts("erk", stack, 0.98)
    assert all(written[f"block_{i}/{n}"] == together[f"block/{n}[{i}]"] for i in range(12) for n in ("a", "b"))
    assert [written[f"block_{i}/a"] for i in (0, 11)] == [21, 20]
    stacked = distributions.active_counts("erk", {f"layer[{i}]": (32, 32) for i in range(64)}, 0.98)
    assert list(stacked.values()) == list(counts.values())

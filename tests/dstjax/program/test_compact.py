"""The smaller network computes what the masked one does: results and gradients, to rounding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import dstjax
from dstjax import masks as masks_lib
from dstjax import program
from dstjax.program import flops
from tests.layout_reading import conv, f32
from tests.small_networks import NETWORKS, like, normal, pruned, relative
from tests.thorough import slow


def sizes(tree):
    return {name: x.shape for name, x in tree.items()}


@pytest.mark.parametrize(
    "name", ["convolutional", "recurrent", *(slow(n) for n in ("residual", "attention", "looping", "custom"))]
)
def test_removing_groups_changes_neither_results_nor_gradients(name):
    function, params, x = NETWORKS[name]
    found, gone, masks, masked = pruned(function, params, x, 0.5)
    smaller, fewer, report = dstjax.compact(function, params, masks, x, check=False)
    for path, axes in found.of.items():
        left = tuple(int((~np.isin(groups, list(gone))).sum()) for groups in axes)
        assert all(n <= m for n, m in zip(fewer[path].shape, left, strict=True)), f"{path} has units left"

    def both(function):
        def loss(p, x):
            y = function(p, x)
            return jnp.sum(jnp.sin(y)), y

        return jax.jit(jax.grad(loss, has_aux=True))

    gradients, results = both(function)(masked, x)
    of_smaller, found_results = both(smaller)(fewer, x)
    assert relative(results, found_results) < 1e-5
    assert relative(report.cut_state(gradients), of_smaller) < 1e-5


def mlp(p, x):
    h = jax.nn.relu(x @ p["a"] + p["b"].reshape(1, -1))
    h = jax.nn.relu(h @ p["c"] + p["d"].reshape(1, -1))
    return h @ p["e"] + p["f"].reshape(1, -1)


PARAMS = like({"a": (4, 6), "b": (6,), "c": (6, 5), "d": (5,), "e": (5, 2), "f": (2,)})


def masks_without(inactive):
    """Masks of the kernels, without some entries by index."""
    masks = {name: jnp.ones(PARAMS[name].shape, bool) for name in "ace"}
    for name, at in inactive:
        masks[name] = masks[name].at[at].set(False)
    return {**dict.fromkeys(PARAMS), **masks}


def test_dead_units_take_with_them_what_only_they_use():
    # Of the second layer unit 3 has no outputs; units 0 and 1 of the first lead to it alone, and unit 5 nowhere.
    inactive = [("e", np.s_[3]), ("c", np.s_[:2, [0, 1, 2, 4]]), ("c", np.s_[5])]
    smaller, fewer, report = dstjax.compact(mlp, PARAMS, masks_without(inactive), f32(3, 4))
    assert sizes(fewer) == {"a": (4, 3), "b": (3,), "c": (3, 4), "d": (4,), "e": (4, 2), "f": (2,)}
    assert report.kept == {}
    x = normal(3, 4)
    assert relative(mlp(masks_lib.apply(PARAMS, masks_without(inactive)), x), smaller(fewer, x)) < 1e-6


def test_a_constant_unit_goes_into_the_next_bias_and_comes_back():
    params = {**PARAMS, "b": jnp.asarray([1.0, -1, 2, 0.1, 0.2, 0.3])}
    masks = masks_without([("a", np.s_[:, :3])])  # constants 1, 0 and 2
    masked = masks_lib.apply(params, masks)
    smaller, fewer, report = dstjax.compact(mlp, params, masks, f32(3, 4))
    assert sizes(fewer) == {"a": (4, 3), "b": (3,), "c": (3, 5), "d": (5,), "e": (5, 2), "f": (2,)}
    np.testing.assert_allclose(fewer["d"], params["d"] + params["c"][0] + 2 * params["c"][2], rtol=1e-6)
    x = normal(3, 4)
    assert relative(mlp(masked, x), smaller(fewer, x)) < 1e-6
    assert relative(masked, report.expand(fewer, masked)) < 1e-6
    changed = jax.tree.map(lambda leaf: leaf * 1.1, fewer)
    assert relative(mlp(report.expand(changed, masked), x), smaller(changed, x)) < 1e-5


def test_a_constant_stays_where_no_bias_can_take_it_and_the_report_says_so():
    def bare(p, x):
        return jax.nn.relu(x @ p["a"] + p["b"].reshape(1, -1)) @ p["e"]

    params = {"a": normal(4, 6), "b": jnp.arange(-3.0, 3), "e": normal(6, 2)}
    masks = {"a": jnp.ones((4, 6), bool).at[:, [0, 5]].set(False), "b": None, "e": None}
    _, fewer, report = dstjax.compact(bare, params, masks, f32(3, 4), check=False)
    assert fewer["a"].shape == (4, 5)
    ((why, found),) = report.kept.items()
    assert "no bias of its own follows" in why
    assert found == {"a": 1, "b": 1, "e": 1}
    # A bias that is masked, or used elsewhere too, cannot take it either.
    shared = {**params, "g": normal(2)}
    for function, mask in (
        (lambda p, x: bare(p, x) + p["g"].reshape(1, -1), jnp.ones(2, bool)),
        (lambda p, x: (bare(p, x) + p["g"].reshape(1, -1)) * p["g"].reshape(1, -1), None),
    ):
        _, fewer, _ = dstjax.compact(function, shared, {**masks, "g": mask}, f32(3, 4), check=False)
        assert fewer["a"].shape == (4, 5)


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_padding_forbids_to_remove_a_constant(padding):
    def network(p, x):
        h = jax.nn.relu(conv(p["a"], x) + p["b"].reshape(1, 1, 1, -1))
        h = lax.conv_general_dilated(h, p["c"], (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return (h - p["mean"].reshape(1, 1, 1, -1)) * 2

    params = {"a": normal(1, 1, 2, 4), "b": jnp.asarray([1.0, -1, 2, 3]), "c": normal(3, 3, 4, 2), "mean": normal(2)}
    masks = {**dict.fromkeys(params), "a": jnp.ones((1, 1, 2, 4), bool).at[..., :2].set(False)}
    x = normal(1, 4, 4, 2)
    smaller, fewer, report = dstjax.compact(network, params, masks, x)  # compares the results
    assert fewer["c"].shape == (3, 3, 2 if padding == "VALID" else 3, 2)
    assert ("meets the padding" in str(report)) == (padding == "SAME")
    if padding == "VALID":
        np.testing.assert_allclose(fewer["mean"], params["mean"] - params["c"][:, :, 0].sum((0, 1)), rtol=1e-5)
    assert smaller(fewer, normal(2, 5, 5, 2)).shape == network(params, normal(2, 5, 5, 2)).shape


def test_a_norm_that_subtracts_its_mean_first_needs_all_that_it_is_over():
    def network(p, x):
        h = x @ p["a"]
        h = h - h.mean(-1, keepdims=True)
        return h * lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-3) @ p["b"]

    params = like({"a": (3, 5), "b": (5, 2)})
    masks = {"a": jnp.ones((3, 5), bool).at[:, 0].set(False), "b": None}
    _, fewer, _ = dstjax.compact(network, params, masks, f32(2, 3), check=False)
    assert fewer["a"].shape == (3, 5)
    _, fewer, _ = dstjax.compact(network, params, {**masks, "b": jnp.ones((5, 2), bool).at[0].set(False)}, f32(2, 3))
    assert fewer["a"].shape == (3, 5), "the variance has a term of it"


def test_a_layer_that_is_dead_keeps_one_unit():
    masks = masks_without([("c", np.s_[:])])
    x = normal(3, 4)
    smaller, fewer, report = dstjax.compact(mlp, PARAMS, masks, x)
    assert sizes(fewer) == {"a": (1, 1), "b": (1,), "c": (1, 1), "d": (1,), "e": (1, 2), "f": (2,)}
    assert "an axis keeps one index at least" in report.kept
    assert relative(mlp(masks_lib.apply(PARAMS, masks), x), smaller(fewer, x)) < 1e-6


def test_widths_are_multiples_of_what_is_asked_for():
    masks = masks_without([("a", np.s_[:, 0]), ("c", np.s_[1:4])])
    _smaller, fewer, report = dstjax.compact(mlp, PARAMS, masks, normal(3, 4), round_to=4)
    assert fewer["a"].shape == (4, 4)
    assert fewer["c"].shape == (4, 5), "four of five cannot be had"
    assert any("multiples of 4" in why for why in report.kept)
    with pytest.raises(ValueError, match="round_to=0"):
        dstjax.compact(mlp, PARAMS, masks, f32(3, 4), round_to=0)


def test_the_report_has_the_flops_of_the_smaller_network():
    masks = masks_without([("c", np.s_[:2])])
    _smaller, fewer, report = dstjax.compact(mlp, PARAMS, masks, f32(3, 4), check=False)
    assert report.flops == (2 * 3 * (4 * 6 + 6 * 5 + 5 * 2), 2 * 3 * (4 * 4 + 4 * 5 + 5 * 2))
    assert report.flops[1] == flops.count(mlp, fewer, f32(3, 4)).dense()
    assert report.parameters == (24 + 6 + 30 + 5 + 10 + 2, 16 + 4 + 20 + 5 + 10 + 2)
    assert report.widths == {"a": 4, "c": 5, "e": 2}
    text = str(report)
    assert "(6, 5)" in text
    assert "30 -> 20" in text
    assert "parameters: 77 -> 57, 1.35 times smaller" in text


def test_it_takes_other_batches_and_works_under_jit_vmap_and_grad():
    masks = masks_without([("c", np.s_[:2])])
    masked, x = masks_lib.apply(PARAMS, masks), normal(3, 4)
    smaller, fewer, _ = dstjax.compact(jax.jit(mlp), PARAMS, masks, f32(1, 4), check=False)
    assert relative(mlp(masked, x), jax.jit(smaller)(fewer, x)) < 1e-6
    each = jax.vmap(lambda one: smaller(fewer, one[None])[0])(x)
    assert relative(mlp(masked, x), each) < 1e-6
    slopes = jax.grad(lambda x: smaller(fewer, x).sum())(x)
    assert relative(jax.grad(lambda x: mlp(masked, x).sum())(x), slopes) < 1e-6


@pytest.mark.parametrize("name", ["vmap", "grad"])
def test_the_program_may_be_transformed(name):
    masks, x = masks_without([("c", np.s_[:2])]), normal(2, 3, 4)
    function = {
        "vmap": jax.vmap(mlp, (None, 0)),
        "grad": jax.vmap(jax.grad(lambda p, x: mlp(p, x).sum(), 1), (None, 0)),
    }
    smaller, fewer, _ = dstjax.compact(function[name], PARAMS, masks, x, check=False)
    assert fewer["a"].shape == (4, 4)
    assert relative(function[name](masks_lib.apply(PARAMS, masks), x), smaller(fewer, x)) < 1e-6


def test_several_networks_at_once_lose_what_is_dead_in_all_of_them():
    stacked = {name: jnp.stack([leaf, leaf * 2]) for name, leaf in PARAMS.items()}
    masks = {name: jnp.ones(stacked[name].shape, bool) for name in "ace"}
    masks["c"] = masks["c"].at[:, 0].set(False).at[0, 1].set(False)
    masks = {**dict.fromkeys(PARAMS), **masks}
    _smaller, fewer, _ = dstjax.compact(jax.vmap(mlp, (0, None)), stacked, masks, normal(3, 4))
    assert sizes(fewer)["a"] == (2, 4, 5)


def test_masks_may_be_those_of_a_part_of_the_parameters():
    def applied(variables, x):
        return mlp(variables["params"], x) + variables["stats"]["mean"].reshape(1, -1)

    variables = {"params": PARAMS, "stats": {"mean": normal(2)}}
    _, fewer, report = dstjax.compact(applied, variables, masks_without([("c", np.s_[:2])]), f32(3, 4), check=False)
    assert fewer["params"]["a"].shape == (4, 4)
    assert report.cut_state(masks_without([]))["a"].shape == (4, 4)


def test_without_masks_the_zeros_of_the_parameters_count():
    params = masks_lib.apply(PARAMS, masks_without([("c", np.s_[:2])]))
    assert dstjax.compact(mlp, params, None, f32(3, 4), check=False)[1]["a"].shape == (4, 4)


@pytest.mark.parametrize(
    ("masks", "match"),
    [
        ({"other": jnp.ones((4, 6), bool)}, "which the parameters do not have"),
        ({"a": jnp.ones((6, 4), bool)}, r"the mask of 'a' has shape \(6, 4\)"),
        ({"a": jnp.ones((4, 6))}, "a tree of boolean masks"),
    ],
)
def test_masks_of_another_network_are_refused(masks, match):
    with pytest.raises(ValueError, match=match):
        dstjax.compact(mlp, PARAMS, masks, f32(3, 4))


def test_what_cannot_be_done_is_refused():
    masks = masks_without([("c", np.s_[:2])])
    with pytest.raises(ValueError, match="branches on values"):
        dstjax.compact(lambda p, x: mlp(p, x) if x.sum() > 0 else x, PARAMS, masks, f32(3, 4))
    with pytest.raises(ValueError, match="are traced"):
        jax.eval_shape(lambda p: dstjax.compact(mlp, p, masks, f32(3, 4))[1], PARAMS)
    smaller, fewer, report = dstjax.compact(mlp, PARAMS, masks, f32(3, 4), check=False)
    with pytest.raises(ValueError, match="not the parameters of the smaller network: 'a'"):
        smaller(PARAMS, normal(3, 4))
    with pytest.raises(ValueError, match=r"leaf 'a' of the parameters has shape \(4, 4\)"):
        report.cut(fewer)


def test_a_network_whose_results_would_change_is_refused():
    def infinite(p, x):
        return ((x @ p["g"]) * jnp.asarray([[jnp.inf, 1, 1]])) @ p["h"]

    params = {"g": normal(4, 3), "h": normal(3, 2)}
    masks = {"g": jnp.ones((4, 3), bool).at[:, 0].set(False), "h": None}
    with pytest.raises(ValueError, match="computes something else"):
        dstjax.compact(infinite, params, masks, normal(3, 4))


def test_a_unit_behind_what_is_unknown_stays():
    def network(p, x):
        return jnp.real(jnp.fft.fft(x @ p["a"])) @ p["b"]

    masks = {"a": jnp.ones((4, 6), bool).at[:, 0].set(False), "b": None}
    _, fewer, report = dstjax.compact(network, {"a": normal(4, 6), "b": normal(6, 2)}, masks, f32(3, 4), check=False)
    assert fewer["a"].shape == (4, 6)
    assert "kept whole, since an axis goes through the primitive 'fft'" in str(report)


def test_noise_is_that_of_the_full_network_and_data_keep_the_units_that_they_meet():
    def network(p, x, key, gate):
        h = jnp.tanh(x @ p["a"])
        h = jnp.where(jax.random.bernoulli(key, 0.5, h.shape), h * 2, 0)
        return (h @ p["c"]) * gate @ p["e"]

    masks = {**dict.fromkeys("ace"), "a": jnp.ones((4, 6), bool).at[:, :2].set(False)}
    masks["e"] = jnp.ones((5, 2), bool).at[0].set(False)
    params, given = {name: PARAMS[name] for name in "ace"}, (normal(3, 4), jax.random.key(1), normal(1, 5))
    _, fewer, report = dstjax.compact(network, params, masks, *given)  # compares the results
    assert sizes(fewer) == {"a": (4, 4), "c": (4, 5), "e": (5, 2)}
    assert report.fixed == {"meets data index by index": ("c",)}


def test_inputs_that_no_weight_reads_are_left_out():
    masks = masks_without([("a", np.s_[1])])
    smaller, fewer, _ = dstjax.compact(lambda p, x: mlp(p, x.reshape(x.shape[0], -1)), PARAMS, masks, normal(3, 2, 2))
    assert fewer["a"].shape == (3, 6)
    assert smaller(fewer, normal(2, 2, 2)).shape == (2, 2)


def test_bound_options_are_constants():
    def network(p, x, *, scale):
        return jnp.tanh((x @ p["a"]) * scale) @ p["e"]

    params = like({"a": (4, 6), "e": (6, 2)})
    scale = jnp.arange(6.0)[None]
    _smaller, fewer, _ = dstjax.compact(functools.partial(network, scale=scale), params, None, normal(3, 4))
    assert fewer["a"].shape == (4, 5)
    assert program.channels(functools.partial(network, scale=scale), params, f32(3, 4)).n_groups == 6


@pytest.mark.parametrize("along", ["sort", "cumsum", "cummax", "cummin", "cumprod", "cumlogsumexp"])
def test_what_is_sorted_or_summed_along_channels_is_at_another_place(along):
    """A zero among the channels says nothing of the same place after them: an output reads that place alone."""
    draw = np.random.default_rng(0).normal
    params = {"a": draw(size=(4, 5)), "b": draw(size=(5, 3)), "c": draw(size=(3, 2))}
    params = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), params)
    masks = {
        "a": jnp.ones((4, 5), bool).at[:, 2].set(False),
        "b": jnp.ones((5, 3), bool).at[:, 0].set(False).at[2, 0].set(True),
        "c": None,
    }
    x = jnp.asarray(draw(size=(3, 4)), jnp.float32)

    def network(p, x):
        h = jnp.tanh(x @ p["a"])
        h = jax.lax.sort(h) if along == "sort" else getattr(jax.lax, along)(h, axis=1)
        return jnp.tanh(h @ p["b"]) @ p["c"]

    smaller, fewer, report = dstjax.compact(network, params, masks, jax.ShapeDtypeStruct(x.shape, x.dtype))
    np.testing.assert_allclose(smaller(fewer, x), network(dstjax.masks.apply(params, masks), x), rtol=1e-5, atol=1e-6)
    assert any(along in why for why in report.fixed)


def test_active_weights_that_are_zero_are_told():
    params = {"a": jnp.ones((4, 6)), "b": jnp.zeros((6, 2)).at[0].set(1.0)}
    masks = jax.tree.map(lambda w: jnp.ones(w.shape, bool), params)

    def network(p, x):
        return jnp.tanh(x @ p["a"]) @ p["b"]

    report = dstjax.compact(network, params, masks, jnp.ones((1, 4)))[2]
    assert report.zeros == {"b": 10}
    assert "removed, though active: 10 of b, which are 0" in str(report)
    assert dstjax.compact(network, params, None, jnp.ones((1, 4)))[2].zeros == {}


@pytest.mark.parametrize("through", ["unstack", "scan", "scatter"])
def test_why_channels_stay_is_told(through):
    params, x = {"a": jnp.ones((4, 6)), "b": jnp.ones((6, 2))}, jnp.ones((3, 4))
    masks = {"a": jnp.ones((4, 6), bool).at[:, :3].set(False), "b": None}
    ways = {
        "unstack": lambda h: jnp.stack(jnp.unstack(h, axis=1), 1),
        "scan": lambda h: jax.lax.map(jnp.tanh, h.T).T,
        "scatter": lambda h: jnp.zeros_like(h).at[:, jnp.array([3, 1, 4, 0, 5, 2])].add(h),
    }

    def network(p, x):
        return ways[through](x @ p["a"]) @ p["b"]

    _, fewer, report = dstjax.compact(network, params, masks, x)
    assert fewer["a"].shape == (4, 6)
    assert {"a"} <= {path for paths in report.fixed.values() for path in paths}

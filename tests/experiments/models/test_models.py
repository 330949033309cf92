import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import InvalidRngError

from experiments import models
from experiments.models import layers, mobile, wide_resnet
from tests.thorough import few, slow


@pytest.mark.parametrize("shape", [(2, 8, 8, 1), (3, 5, 7, 4)])
def test_a_convolution_of_shifts_is_the_convolution(shape):
    x = jax.random.normal(jax.random.key(0), shape)
    layer = models.ShiftedConv(6)
    variables = jax.jit(layer.init)(jax.random.key(1), x)
    kernel = variables["params"]["kernel"]
    assert kernel.shape == (3, 3, shape[-1], 6)
    layout = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
    expected = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)
    np.testing.assert_allclose(jax.jit(layer.apply)(variables, x), expected, rtol=1e-4, atol=1e-5)
    with_channels_first = jax.jit(models.ShiftedConv(6, axis=0).apply)(variables, x.transpose(3, 1, 2, 0))
    np.testing.assert_allclose(with_channels_first.transpose(3, 1, 2, 0), expected, rtol=1e-4, atol=1e-5)


def test_the_convolutional_network_is_the_same_function_outside_of_training():
    model = models.make("conv", sizes=(3, 4))
    x = jax.random.normal(jax.random.key(0), (5, 6, 8, 2))

    @jax.jit
    def both(x):
        variables = model.init(jax.random.key(1), x, train=False)
        trained, changed = model.apply(variables, x, train=True, mutable=["batch_stats"])
        # Running statistics that are those of the batch.
        new = jax.tree.map(lambda o, n: (n - 0.9 * o) / 0.1, variables["batch_stats"], changed["batch_stats"])
        return trained, model.apply({"params": variables["params"], "batch_stats": new}, x, train=False)

    trained, predicted = both(x)
    np.testing.assert_allclose(predicted, trained, rtol=1e-3, atol=1e-4)


def test_max_pool_takes_the_largest_of_each_square():
    x = jnp.arange(2 * 5 * 4 * 1.0).reshape(2, 5, 4, 1)
    np.testing.assert_array_equal(models.max_pool(x)[0, :, :, 0], [[5, 7], [13, 15]])


def shapes_of(model, x, *, train):
    """Logits and variables of a network, and the variables that a step of training changes, by shape alone."""
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}

    def run(x):
        variables = model.init(rngs, x, train=False)
        logits, changed = model.apply(variables, x, train=train, rngs=rngs, mutable=["batch_stats"])
        return logits, variables, changed

    return jax.eval_shape(run, x)


# In bfloat16 by default; the test below has the networks whose layers differ. The slow ones are others with more
# layers, or with other sizes; the counts of all are checked in test_models_counts.py.
LARGE = {"vgg16", "resnet50", "mlp", "small_mlp"}


@few(4)
@pytest.mark.parametrize("dtype", ["bfloat16", slow(None)])
@pytest.mark.parametrize("name", [slow(name) if name in LARGE else name for name in models.names()])
def test_networks_give_one_float32_logit_a_class(name, dtype):
    entry = models.MODELS[name]
    x = jax.ShapeDtypeStruct((3, *entry.shape), jnp.float32)
    logits, variables, changed = shapes_of(models.make(name, dtype=dtype), x, train=True)
    # Two classes share the logit of the second.
    assert logits.shape == (3, 1 if entry.classes == 2 else entry.classes)
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, variables, changed))} == {jnp.dtype("float32")}
    statistics = variables.get("batch_stats", {})
    assert jax.tree.structure(changed.get("batch_stats", {})) == jax.tree.structure(statistics)


@pytest.mark.parametrize("name", ["vgg16", "resnet56", "efficientnet_b0", "large_mlp", "conv"])
def test_bfloat16_is_what_the_layers_compute_in(name):
    x = jax.ShapeDtypeStruct((1, *models.MODELS[name].shape), jnp.float32)
    model = models.make(name, dtype="bfloat16")
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    program = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=False))(variables, x)
    products = [e for e in program.eqns if e.primitive.name in ("dot_general", "conv_general_dilated")]
    dtypes = [e.invars[0].aval.dtype for e in products]
    # All but the last layer, whose logits are float32.
    assert dtypes == [jnp.bfloat16] * (len(dtypes) - 1) + [jnp.float32]
    assert len(dtypes) >= 3


def test_the_networks_of_the_digits_config():
    x = jnp.ones((1, 8, 8, 1))
    mlp = jax.eval_shape(lambda: models.make("mlp", classes=10).init(jax.random.key(0), x, train=False))
    kernels = {name: layer["kernel"].shape for name, layer in mlp["params"].items()}
    assert kernels == {"Dense_0": (64, 300), "Dense_1": (300, 100), "Dense_2": (100, 10)}
    conv = jax.eval_shape(lambda: models.make("conv", classes=10).init(jax.random.key(0), x, train=False))
    assert sorted(conv["params"]) == sorted(
        [f"{kind}_{i}" for kind in ("ShiftedConv", "BatchNorm") for i in range(6)] + ["Dense_0"]
    )
    weights = sum(leaf.size for leaf in jax.tree.leaves(conv["params"]) if leaf.ndim >= 2)
    assert weights == 72_208


@few(2)
@pytest.mark.parametrize(
    ("name", "sizes", "kernels"),
    [
        ("vgg16", (4, 6), 2 + 2 + 1),
        ("resnet50_cifar", (4, 8), 1 + (3 + 4) * 3 + 2 + 1),
        ("resnet56", (4,), 1 + 18 + 1),
        ("wrn22_2", (16, 8), 1 + 12 + 1 + 1),
        ("lenet5_caffe", (4, 16), 1 + 2),
        ("set_mlp", (7, 5), 3),
    ],
)
def test_sizes_make_small_networks_of_the_same_kind(name, sizes, kernels):
    x = jax.ShapeDtypeStruct((2, 16, 16, 1), jnp.float32)
    logits, variables, _ = shapes_of(models.make(name, classes=7, sizes=sizes), x, train=True)
    assert logits.shape == (2, 7)
    assert len([leaf for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim >= 2]) == kernels


def test_a_block_of_a_wide_resnet_drops_out_and_normalises_by_the_batch():
    block = wide_resnet.PreActivation(features=4, stride=1, dropout=0.3)
    x = 5 + jax.random.normal(jax.random.key(0), (4, 6, 6, 4))

    @jax.jit
    def step(key):
        variables = block.init(jax.random.key(1), x, train=False)
        out, changed = block.apply(variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": key})
        return out, changed["batch_stats"], variables["batch_stats"]

    (a, after, before), (b, *_), (c, *_) = (step(jax.random.key(i)) for i in (2, 2, 3))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-3
    # A tenth of the batch's mean, nine tenths of the zero before.
    np.testing.assert_allclose(after["BatchNorm_0"]["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
    assert all(np.abs(m - n).min() > 0 for m, n in zip(*map(jax.tree.leaves, (after, before)), strict=True))


@pytest.mark.parametrize("name", ["wrn22_2", "efficientnet_b0", "set_mlp"])
def test_training_asks_for_the_random_stream_of_dropout(name):
    model, x = models.make(name), jnp.zeros((1, 32, 32, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
    with pytest.raises(InvalidRngError, match="dropout"):
        jax.eval_shape(lambda v: model.apply(v, x, train=True, mutable=["batch_stats"]), variables)


def test_stochastic_depth_leaves_whole_examples_out():
    block = mobile.InvertedBottleneck(features=4, expansion=1, size=3, stride=1, stochastic_depth=0.5)
    x = jax.random.normal(jax.random.key(0), (32, 4, 4, 4))

    @jax.jit
    def run(x):
        variables = block.init(jax.random.key(1), x, train=False)
        rngs = {"dropout": jax.random.key(2)}
        return block.apply(variables, x, train=True, mutable=["batch_stats"], rngs=rngs)[0]

    left_out = np.all(np.asarray(run(x)) == x, axis=(1, 2, 3))
    assert 0 < left_out.sum() < 32
    assert np.abs(np.asarray(run(x)) - x)[~left_out].min() > 0


def test_initial_values_are_pytorchs_uniform_ones():
    variables = jax.jit(lambda: models.make("link_mlp").init(jax.random.key(0), jnp.ones((1, 16)), train=False))()
    layer = variables["params"]["Dense_0"]
    for values in (layer["kernel"], layer["bias"]):
        assert 0.9 / 4 < np.abs(values).max() <= 1 / 4  # 1 / sqrt(16 inputs)
    spread = np.std(jax.jit(layers.KAIMING, static_argnums=1)(jax.random.key(0), (3, 3, 64, 32)))
    assert spread == pytest.approx(np.sqrt(2 / (9 * 32)), rel=0.05)  # fan-out


@pytest.mark.parametrize("sizes", [(), (0,), (3, 2.5), (True,), (-4,)])
def test_sizes_are_positive_integers(sizes):
    with pytest.raises(ValueError, match=r"model\.sizes"):
        models.make("mlp", classes=10, sizes=sizes)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vgg", {}, r"model\.name='vgg' is not known; did you mean 'vgg1"),
        ("vgg16", {"sizes": (4,) * 6}, "at most 5 positive integers"),
        ("resnet50", {"sizes": (4,) * 5}, "at most 4 positive integers"),
        ("mobilenet_v1", {"sizes": (4,)}, "has sizes of its own"),
        ("mlp", {"classes": 1}, "classes=1"),
        ("mlp", {"dtype": "bfloat"}, r"model\.dtype='bfloat'"),
        ("mlp", {"dtype": "int32"}, r"model\.dtype='int32'"),
    ],
)
def test_what_no_network_has_is_an_error(name, options, message):
    with pytest.raises(ValueError, match=message):
        models.make(name, **options)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("vgg16", (15, 16, 3)),
        ("vgg19", (24,)),
        ("small_cnn", (17, 18, 3)),
        ("lenet5_caffe", (28, 15, 1)),
        ("resnet50", (224, 224)),
        ("efficientnet_b0", (64,)),
    ],
)
def test_images_too_small_or_none_at_all_are_refused(name, shape):
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    with pytest.raises(ValueError, match=r"expected \[batch, rows, columns, channels\] with at least"):
        jax.eval_shape(lambda x: models.make(name).init(jax.random.key(0), x, train=False), x)


def test_the_smallest_images_that_pass():
    for name, shape in (("vgg16", (16, 16, 3)), ("small_cnn", (18, 18, 3)), ("lenet5_caffe", (16, 16, 1))):
        x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        logits, variables, _ = shapes_of(models.make(name), x, train=False)
        assert min(leaf.size for leaf in jax.tree.leaves((logits, variables))) > 0


def test_a_transformer_without_positions_takes_its_patches_in_any_order():
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    model = models.make("vit", sizes=(16, 24))
    variables = jax.jit(lambda key: model.init(key, x, train=False))(jax.random.key(1))
    turned = jnp.flip(x.reshape(2, 4, 2, 8, 1), axis=1).reshape(x.shape)  # rows of patches, last first
    logits = jax.jit(lambda v, x: model.apply(v, x, train=False))
    assert not np.allclose(logits(variables, x), logits(variables, turned), atol=1e-4)
    variables["params"]["pos_embedding"] *= 0
    np.testing.assert_allclose(logits(variables, x), logits(variables, turned), atol=1e-5)


def test_a_transformer_has_a_block_for_each_hidden_layer_and_whole_heads():
    x = jnp.zeros((1, 8, 8, 1))
    for sizes in [(8,), (8, 12), (8, 12, 20)]:
        _, variables, _ = shapes_of(models.make("vit", sizes=sizes), x, train=False)
        assert sum(name.startswith("MultiHead") for name in variables["params"]) == len(sizes) - 1
    with pytest.raises(ValueError, match=r"sizes=\(6, 8\) is not accepted; .* expected a multiple of 4"):
        shapes_of(models.make("vit", sizes=(6, 8)), x, train=False)


def test_patches_cover_the_picture():
    with pytest.raises(ValueError, match=r"shape \(1, 7, 8, 1\); expected rows and columns that patches of 2 divide"):
        shapes_of(models.make("vit"), jnp.zeros((1, 7, 8, 1)), train=False)

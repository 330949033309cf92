import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import models


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


def test_max_pool_takes_the_largest_of_each_square():
    x = jnp.arange(2 * 5 * 4 * 1.0).reshape(2, 5, 4, 1)
    np.testing.assert_array_equal(models.max_pool(x)[0, :, :, 0], [[5, 7], [13, 15]])


@pytest.mark.parametrize("name", models.MODELS)
def test_networks_give_one_logit_a_class(name):
    model = models.make(name, classes=10, sizes=(4, 6))
    x = jnp.ones((3, 8, 8, 1))
    logits, _ = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), x, train=False))
    assert logits.shape == (3, 10)


def test_the_networks_of_the_digits_config():
    x = jnp.ones((1, 8, 8, 1))
    mlp = jax.eval_shape(lambda: models.make("mlp", classes=10).init(jax.random.key(0), x, train=False))
    kernels = [leaf.shape for leaf in jax.tree.leaves(mlp) if leaf.ndim == 2]
    assert kernels == [(64, 300), (300, 100), (100, 10)]
    conv = jax.eval_shape(lambda: models.make("conv", classes=10).init(jax.random.key(0), x, train=False))
    weights = sum(leaf.size for leaf in jax.tree.leaves(conv["params"]) if leaf.ndim >= 2)
    assert weights == 72_208


@pytest.mark.parametrize("sizes", [(), (0,), (3, 2.5), (True,)])
def test_sizes_are_positive_integers(sizes):
    with pytest.raises(ValueError, match=r"model\.sizes"):
        models.make("mlp", classes=10, sizes=sizes)

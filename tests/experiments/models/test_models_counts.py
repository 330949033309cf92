"""Parameters and multiply-adds of the papers' networks, to the digit, and FLOPs at ERK densities."""

import functools
import math

import jax
import jax.numpy as jnp
import pytest

from dstjax import distributions
from dstjax.program import flops
from experiments import models
from experiments.flops import network, with_bias_and_relu
from experiments.models.shapes import Network
from tests.thorough import few

# Name, classes and shape of the input (None: the paper's), masked tensors, weights, all parameters, multiply-adds.
# "The pruning-criteria study" prints the totals of the small networks and of ResNet-56 and the weights of ResNet-50,
# the study of regrowing strategies the weights of SET's MLP; RigL, DST-EE and IEE print 8.2e9 FLOPs for ResNet-50.
COUNTS = [
    ("vgg19", None, None, 17, 20_070_080, 20_081_188, 398_182_400),
    ("vgg19", 10, None, 17, 20_024_000, 20_035_018, 398_136_320),
    ("vgg16", None, None, 14, 14_761_664, 14_770_212, 313_247_744),
    ("vgg16", 10, None, 14, 14_715_584, 14_724_042, 313_201_664),
    ("resnet50", None, None, 54, 25_502_912, 25_557_032, 4_089_184_256),
    ("resnet50_cifar", 10, None, 54, 23_467_712, 23_520_832, 1_297_829_888),
    ("resnet50_cifar", None, None, 54, 23_652_032, 23_705_152, 1_298_014_208),
    ("resnet56", None, None, 58, 851_504, 855_770, 125_747_840),
    ("resnet56", 100, None, 58, 857_264, 861_620, 125_753_600),
    ("wrn22_2", None, None, 23, 1_076_912, 1_079_642, 157_730_048),
    ("efficientnet_b0", None, None, 82, 4_212_192, 4_263_748, 32_222_592),
    ("efficientnet_b0", 1000, (224, 224, 3), 82, 5_236_192, 5_288_548, 385_814_752),
    ("mobilenet_v1", None, None, 28, 4_209_088, 4_231_976, 568_740_352),
    ("lenet5_caffe", None, None, 4, 430_500, 431_080, 2_293_000),
    ("small_mlp", None, None, 3, 71_936, 72_449, 71_936),
    ("large_mlp", None, None, 3, 3_675_136, 3_676_682, 3_675_136),
    ("small_cnn", None, None, 4, 94_304, 94_538, 5_073_536),
    ("set_mlp", None, None, 4, 20_328_000, 20_337_010, 20_328_000),
    ("link_mlp", None, None, 2, 2_176, 2_305, 2_176),
]

# Share of the dense FLOPs that ERK leaves at sparsities 0.8, 0.9, 0.95 and 0.98.
ERK = {
    "resnet50": (0.4138, 0.2418, 0.1217, 0.0487),
    "wrn22_2": (0.3521, 0.1736, 0.0881, 0.0352),
    "vgg19": (0.4028, 0.2180, 0.1084, 0.0458),
    "resnet50_cifar": (0.3851, 0.2247, 0.1136, 0.0454),
    "vgg16": (0.4384, 0.2368, 0.1170, 0.0500),
    "resnet56": (0.3659, 0.1822, 0.0905, 0.0362),
    "mobilenet_v1": (0.4507, 0.2712, 0.1472, 0.0597),
    "efficientnet_b0": (0.3799, 0.2094, 0.1046, 0.0418),
    "small_cnn": (0.3776, 0.2512, 0.1140, 0.0446),
    "lenet5_caffe": (0.2913, 0.2040, 0.1262, 0.0484),
}


@functools.cache
def traced(name: str, classes: int | None = None, shape: tuple[int, ...] | None = None) -> Network:
    return network(name, classes=classes, shape=shape)


def densities(net: Network, distribution: str, sparsity: float, *keep_dense: str) -> dict[str, float]:
    masked = net.maskable(keep_dense)
    counts = distributions.active_counts(distribution, masked, sparsity)
    return {path: counts[path] / math.prod(shape) for path, shape in masked.items()}


@few(4)
@pytest.mark.parametrize(("name", "classes", "shape", "tensors", "weights", "total", "multiply_adds"), COUNTS)
def test_counts_are_the_papers_to_the_digit(name, classes, shape, tensors, weights, total, multiply_adds):
    net = traced(name, classes, shape)
    masked = net.maskable()
    assert len(masked) == tensors
    assert sum(math.prod(shape) for shape in masked.values()) == weights
    assert net.parameters == total
    assert net.flops.dense() == 2 * multiply_adds
    # Each product belongs to one weight tensor, and biases and norms multiply nothing.
    assert net.flops.other == 0
    assert {path for path, n in net.flops.multiply_adds.items() if n} == set(masked)


def test_the_small_cnn_of_the_text_pads_and_costs_twice_as_much():
    model = models.make("small_cnn").clone(padding="SAME")
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    params = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    found = flops.count(lambda params, x: model.apply(params, x, train=False), params, x)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 94_538
    assert found.dense() == 2 * 10_323_200


@pytest.mark.parametrize(
    ("name", "path", "shape", "multiply_adds", "density", "sparsity"),
    [
        ("resnet50", "Conv_0/kernel", (7, 7, 3, 64), 118_013_952, 0.8572, 0.8),
        ("resnet50", "Bottleneck_3/Conv_1/kernel", (3, 3, 128, 128), 115_605_504, 0.0867, 0.9),
        ("resnet50", "Bottleneck_13/Conv_3/kernel", (1, 1, 1024, 2048), 102_760_448, 0.0715, 0.9),
        ("resnet50", "Dense_0/kernel", (2048, 1000), 2_048_000, 0.0726, 0.9),
        ("wrn22_2", "PreActivation_6/Conv_2/kernel", (1, 1, 64, 128), 524_288, 0.8510, 0.9),
        ("efficientnet_b0", "InvertedBottleneck_1/Conv_1/kernel", (3, 3, 1, 96), 221_184, 0.9674, 0.9),
        ("efficientnet_b0", "InvertedBottleneck_3/SqueezeExcite_0/Conv_0/kernel", (1, 1, 144, 6), 864, 0.7097, 0.95),
        ("mobilenet_v1", "Conv_26/kernel", (1, 1, 1024, 1024), 51_380_224, 0.0567, 0.9),
        ("vgg19", "Dense_0/kernel", (512, 100), 51_200, 0.4291, 0.98),
        ("lenet5_caffe", "Dense_0/kernel", (800, 500), 400_000, 0.0884, 0.9),
    ],
)
def test_layers_have_the_shapes_work_and_erk_densities_of_the_papers(
    name, path, shape, multiply_adds, density, sparsity
):
    net = traced(name)
    assert net.shapes[path] == shape
    assert net.flops.multiply_adds[path] == multiply_adds
    assert densities(net, "erk", sparsity)[path] == pytest.approx(density, abs=6e-4)


@pytest.mark.parametrize("name", ERK)
def test_erk_leaves_the_known_share_of_the_flops(name):
    net = traced(name)
    for sparsity, expected in zip((0.8, 0.9, 0.95, 0.98), ERK[name], strict=True):
        # The known shares are of real numbers of weights; whole ones move the last digit.
        assert net.flops.sparse(densities(net, "erk", sparsity)) / net.flops.dense() == pytest.approx(
            expected, abs=2e-4
        )


@pytest.mark.parametrize(
    ("distribution", "keep_dense", "sparsity", "gigaflops", "printed"),
    [
        ("erk", (), 0.8, 3.4, "0.42"),
        ("erk", (), 0.9, 2.0, "0.24"),
        ("uniform", ("^Conv_0",), 0.8, None, "0.23"),
        ("uniform", ("^Conv_0",), 0.9, None, "0.13"),
    ],
)
def test_resnet50_has_the_flops_that_rigl_and_its_successors_print(
    distribution, keep_dense, sparsity, gigaflops, printed
):
    net = traced("resnet50")
    found = densities(net, distribution, sparsity, *keep_dense)
    assert f"{net.flops.dense() / 1e9:.1f}" == "8.2"
    if gigaflops is not None:  # IEE, Table 2
        assert f"{net.flops.sparse(found) / 1e9:.1f}" == f"{gigaflops}"
    dense, sparse = with_bias_and_relu(net, found)
    assert f"{dense / 1e9:.1f}" == "8.2"
    assert f"{sparse / dense:.2f}" == printed
    # Multiply-adds alone come within a hundredth.
    assert net.flops.sparse(found) / net.flops.dense() == pytest.approx(float(printed), abs=0.01)

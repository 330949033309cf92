"""Products that hold active weights alone, against NumPy's dense product in float64; packing and unpacking."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies

from dstjax import kernels
from dstjax._arrays.layout import Layout
from dstjax.program.kernels import blocks as blocks_lib
from dstjax.program.kernels import csr
from dstjax.program.kernels.forms import Blocks, Rows, block_of, n_m_of
from dstjax.program.kernels.pallas import kernel
from dstjax.program.kernels.products import Product, candidates
from tests.structure_oracles import balanced_best
from tests.thorough import few, slow

ROWS, INPUTS, OUTPUTS = 6, 16, 12


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def uneven():
    """Blocks of 4 x 2 of which one column has three, one none, the others one."""
    blocks = np.zeros((4, 6), bool)
    blocks[[0, 2, 3], 0] = True
    blocks[1, 2:] = True
    return np.kron(blocks, np.ones((4, 2), bool))


def fans():
    """Single weights, of another number for each output."""
    return np.random.default_rng(5).random((INPUTS, OUTPUTS)) < np.linspace(0.05, 0.6, OUTPUTS)


MASKS = {
    "balanced": balanced_best(drawn(INPUTS, OUTPUTS, seed=1), 4, 2, 2),
    "uneven": uneven(),
    "fans": fans(),
    "2:4": np.asarray(np.argsort(np.argsort(drawn(4, 4, OUTPUTS, seed=2), 1), 1) < 2).reshape(INPUTS, OUTPUTS),
}
PRODUCTS = {
    "block": (kernels.block_product, ["balanced", "uneven"]),
    "pallas": (kernels.pallas_product, ["uneven", slow("balanced")]),
    "fan_in": (kernels.fan_in_product, ["fans", slow("2:4"), slow("uneven")]),
    "n_m": (functools.partial(kernels.n_m_product, n=2, m=4), ["2:4"]),
}
CASES = [
    pytest.param(name, *m.values, marks=m.marks) if hasattr(m, "values") else (name, m)
    for name, (_, masks) in PRODUCTS.items()
    for m in masks
]


def held(name, mask):
    shape = block_of(mask) if name in ("block", "pallas") else (1, 1)
    return Blocks((INPUTS, OUTPUTS), Layout(("in", "out")), *shape)


@few(2)
@pytest.mark.parametrize(("name", "which"), CASES)
def test_products_and_both_derivatives_are_those_of_the_dense_weight(name, which):
    mask, product = MASKS[which], PRODUCTS[name][0]
    x, weight, slope = drawn(ROWS, INPUTS), drawn(INPUTS, OUTPUTS, seed=3) * mask, drawn(ROWS, OUTPUTS, seed=4)
    form = held(name, mask)
    table = form.table(mask)
    values = form.values(weight, table)[0]
    assert values.size < weight.size

    @jax.jit
    def both(x, values):
        result, back = jax.vjp(lambda x, v: product(x, v, table["blocks"][0]), x, values)
        return result, *back(slope)

    result, of_x, of_values = both(x, values)
    np.testing.assert_allclose(result, x.astype(np.float64) @ weight, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(of_x, slope.astype(np.float64) @ weight.T, rtol=1e-5, atol=1e-5)
    expected = (x.astype(np.float64).T @ slope) * mask
    np.testing.assert_allclose(form.full(of_values[None], table), expected, rtol=1e-5, atol=1e-5)
    padding = np.asarray(table["blocks"][0]) == INPUTS // form.h
    assert not np.asarray(of_values)[padding].any(), "what is no block has no gradient, so that it stays zero"
    assert padding.any() == (which in ("uneven", "fans"))


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_the_kernels_of_both_accelerators_as_they_are_interpreted(platform):
    form, mask = held("block", MASKS["uneven"]), MASKS["uneven"]
    table, weight, x = form.table(mask), drawn(INPUTS, OUTPUTS) * mask, drawn(ROWS, INPUTS, seed=2)
    found = kernel(jnp.asarray(x), form.values(weight, table)[0], table["blocks"][0], platform=platform, interpret=True)
    np.testing.assert_allclose(found, x @ weight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wrong", [np.inf, np.nan])
@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_a_column_that_ends_early_reads_nothing_past_its_end(platform, wrong):
    """Not even times zero, which would not be zero where the last block holds what is not finite."""
    x = np.concatenate([np.ones((ROWS, 4), np.float32), np.full((ROWS, 4), wrong, np.float32)], axis=1)
    values = jnp.ones((3, 2, 4, 2)).at[0, 1].set(0).at[1].set(0)
    table = jnp.array([[0, 2], [2, 2], [0, 1]])
    found = kernel(jnp.asarray(x), values, table, platform=platform, interpret=True)
    np.testing.assert_array_equal(found, blocks_lib.block_product(jnp.asarray(x), values, table))
    np.testing.assert_array_equal(found[:, :4], [[4, 4, 0, 0]] * ROWS)


@pytest.mark.slow
@pytest.mark.parametrize(("platform", "size"), [("tpu", 128), ("cuda", 32)])
def test_the_kernels_lower_for_their_accelerators(platform, size):
    """As far as a machine without one can tell: the kernel is translated, not compiled."""
    x, values = drawn(64, 4 * size), drawn(4, 2, size, size)
    table = jnp.array([[0, 1], [2, 3], [1, 2], [0, 3]], jnp.int32)
    function = jax.jit(functools.partial(kernel, platform=platform))
    unchecked = [jax.export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")]
    exported = jax.export.export(function, platforms=[platform], disabled_checks=unchecked)(x, values, table)
    assert "custom_call" in exported.mlir_module()


@pytest.mark.slow
def test_the_kernel_compiles_for_a_tpu(monkeypatch):
    """By libtpu, where it is installed; no chip is needed."""
    pytest.importorskip("libtpu")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nothing is run
    chip = jax.sharding.SingleDeviceSharding(topologies.get_topology_desc("v5e:2x2", "tpu").devices[0])
    shapes = [((32, 512), jnp.float32), ((4, 2, 128, 128), jnp.float32), ((4, 2), jnp.int32)]
    operands = [jax.ShapeDtypeStruct(*s, sharding=chip) for s in shapes]
    lowered = jax.jit(functools.partial(kernel, platform="tpu")).lower(*operands)
    assert "tpu_custom_call" in lowered.compile().as_text()


@pytest.mark.parametrize(
    ("platform", "h", "w", "compiles"),
    [
        ("cpu", 128, 128, False),
        ("tpu", 128, 256, True),
        ("tpu", 64, 128, False),
        ("gpu", 32, 64, True),
        ("gpu", 48, 64, False),
    ],
)
def test_auto_measures_the_kernel_where_it_compiles(platform, h, w, compiles, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    form = Blocks((512, 512), Layout(("in", "out")), h, w)
    given = {name: Product(name, form) for name in ("block", "pallas", "csr")}
    assert ("pallas" in candidates(given, derivative=False)) == compiles
    assert ("csr" in candidates(given, derivative=False)) == (platform == "cpu")
    assert "csr" not in candidates(given, derivative=True)


def test_a_large_copy_is_made_in_parts(monkeypatch):
    """The same numbers, and one part at a time in memory."""
    mask = MASKS["balanced"]
    form, weight, x = held("block", mask), drawn(INPUTS, OUTPUTS) * mask, jnp.asarray(drawn(ROWS, INPUTS))
    table = form.table(mask)
    values, at = form.values(weight, table)[0], table["blocks"][0]

    def slopes(values):
        return jax.value_and_grad(lambda v: jnp.sum(kernels.block_product(x, v, at) ** 2))(values)

    whole = slopes(values)
    monkeypatch.setattr(blocks_lib, "_COPY", {jax.default_backend(): 2 * values[0].size * ROWS * 4 // 2})
    assert "scan" in str(jax.make_jaxpr(slopes)(values))
    for a, b in zip(slopes(values), whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("which", ["balanced", "uneven"])
def test_blocks_one_by_one_and_columns_at_once_give_the_same(which, dtype, at_once, monkeypatch):
    """Sums of two-byte numbers are made in four bytes."""
    monkeypatch.setattr(blocks_lib, "_BY_ITSELF", {} if at_once else {jax.default_backend(): 2**30})
    mask = MASKS[which]
    form, weight = held("block", mask), np.asarray(jnp.asarray(drawn(INPUTS, OUTPUTS) * mask, dtype), np.float64)
    table = form.table(mask)
    x = np.asarray(jnp.asarray(drawn(ROWS, INPUTS), dtype), np.float64)
    values, at = jnp.asarray(form.values(weight, table)[0], dtype), table["blocks"][0]
    given = jnp.asarray(x, dtype)
    found = jax.jit(lambda x, v: kernels.block_product(x, v, at))(given, values)
    products = str(jax.make_jaxpr(lambda x, v: kernels.block_product(x, v, at))(given, values)).count("reduce_sum")
    assert found.dtype == dtype
    assert products == (0 if at_once else 1)
    tolerance = 1e-5 if dtype == jnp.float32 else 2**-8
    np.testing.assert_allclose(np.asarray(found, np.float64), x @ weight, rtol=tolerance, atol=1e-5)


LAYOUTS = ["in out", "out in", "in in out", "in out out", "stack in out", "out stack in", slow("in stack out out")]
SIZES = {"in": 4, "out": 6, "stack": 3}


@few(2)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("block", [(2, 3), slow((1, 1))])
def test_packing_and_unpacking_is_exact(layout, block):
    words = tuple(layout.split())
    shape = tuple(SIZES[w] for w in words)
    form = Blocks(shape, Layout(words), *block)
    layers, inputs, outputs = form.size
    rng = np.random.default_rng(0)
    flags = rng.random((layers, inputs // block[0], outputs // block[1])) < 0.5
    mask = form.leaf(np.kron(flags, np.ones((1, *block), bool)))
    x = np.asarray(rng.standard_normal(shape), np.float32) * mask
    table = form.table(mask)
    packed = form.pack(x, table)
    assert packed.ndim == len(shape), "what reads the axes of a leaf must find as many"
    np.testing.assert_array_equal(form.unpack(packed, table), x)
    assert np.count_nonzero(packed) == np.count_nonzero(x)
    np.testing.assert_array_equal(form.unpack(form.pack(mask, table), table), mask)


def test_a_csr_matrix_packs_exactly_and_multiplies():
    mask = MASKS["fans"]
    mask = mask.copy()
    mask[:, 3] = False  # an output without inputs
    form = Rows((OUTPUTS, INPUTS), Layout(("out", "in")))
    weight = (drawn(INPUTS, OUTPUTS) * mask).T
    table = form.table(mask.T)
    packed = form.pack(weight, table)
    assert packed.size == mask.sum()
    np.testing.assert_array_equal(form.unpack(packed, table), weight)
    x = drawn(ROWS, INPUTS, seed=8)
    found = jax.jit(csr.csr_product)(x, form.values(weight, table), table["inputs"], table["starts"])
    np.testing.assert_allclose(found, x @ weight.T, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="no product of bfloat16"):
        csr.csr_product(jnp.asarray(x, jnp.bfloat16), jnp.ones((1, 1)), table["inputs"], table["starts"])


def test_blocks_and_groups_are_found():
    assert block_of(MASKS["balanced"]) in ((4, 2), (8, 2), (4, 4))
    assert block_of(MASKS["uneven"]) == (4, 2)
    assert block_of(MASKS["fans"]) == (1, 1)
    assert block_of(np.ones((6, 4), bool)) == (6, 4)
    assert n_m_of(MASKS["2:4"][None]) == (2, 4)
    assert n_m_of(MASKS["fans"][None]) is None
    assert n_m_of((np.arange(4)[:, None] == np.zeros(3))[None]) is None, "equal fan-ins alone are no n:m"
    across = np.array([1, 1, 0, 0, 1, 0, 0, 1, 1, 1, 0, 0], bool)  # 2:4 in all 12, but two layers have six inputs each
    assert n_m_of(across.reshape(1, 12, 1)) == (2, 4)
    assert n_m_of(across.reshape(2, 6, 1)) is None, "no group reaches into the next layer"


def test_a_mask_that_has_no_whole_blocks_is_refused():
    mask = MASKS["uneven"].copy()
    mask[0, 0] = False
    with pytest.raises(ValueError, match="blocks of 4 x 2 that are active in part"):
        held("block", MASKS["uneven"]).table(mask)


def test_a_derivative_of_csr_is_refused_by_name():
    pytest.importorskip("scipy")
    mask = {"w": jnp.asarray(np.arange(32).reshape(8, 4) % 3 == 0)}
    params, x = {"w": jnp.ones((8, 4))}, jnp.ones((2, 8))
    fast, packed, _ = kernels.rewrite(lambda p, x: x @ p["w"], params, mask, x, product="csr")
    np.testing.assert_allclose(fast(packed, x), x @ jnp.where(mask["w"], 1.0, 0.0))
    with pytest.raises(ValueError, match="the product 'csr' has no derivative; expected product="):
        jax.grad(lambda p: fast(p, x).sum())(packed)

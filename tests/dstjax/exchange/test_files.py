"""Files of NumPy and of safetensors: what was written comes back bit by bit, and what is wrong is said."""

import json
import sys
import zipfile

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dstjax
from dstjax import exchange, methods
from tests import trees
from tests.thorough import few, slow

FORMATS = {
    "npz": (exchange.save_npz, exchange.load_npz),
    "safetensors": (exchange.save_safetensors, exchange.load_safetensors),
}
DTYPES = ["float32", "bfloat16", "float8_e4m3fn", slow("float16"), slow("float8_e5m2"), slow("float8_e4m3fnuz")]
both = pytest.mark.parametrize("kind", FORMATS)


def sparse(dtype=jnp.float32, sparsity=0.5):
    tx = dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=sparsity))
    return dstjax.start(tx, trees.everything(dtype))


def assert_bits(a, b):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def assert_round_trip(found, params, masks):
    wanted, flags = trees.names(params), trees.names(masks)
    assert trees.names(found[0]).keys() == wanted.keys()
    assert trees.names(found[1]).keys() == flags.keys()
    for name, x in trees.names(found[0]).items():
        assert isinstance(x, np.ndarray)
        assert_bits(x, wanted[name])
    for name, mask in trees.names(found[1]).items():
        assert_bits(mask, flags[name])


@few(2)
@both
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_was_written_comes_back(kind, dtype, tmp_path):
    """An active weight that is 0, one that is -0.0, NaN and the smallest number too."""
    save, load = FORMATS[kind]
    params, state = sparse(jnp.dtype(dtype))
    masks = dstjax.get_masks(state)
    special = [0.0, jnp.nan, -float(jnp.finfo(dtype).smallest_subnormal), -0.0]
    at = np.argwhere(masks["conv"]["kernel"])[: len(special)]
    kernel = np.array(params["conv"]["kernel"])
    kernel[tuple(at.T)] = np.array(special, kernel.dtype)
    params["conv"]["kernel"] = kernel
    for given in (state, masks):
        save(tmp_path / "net", params, given)
        assert [p.name for p in tmp_path.iterdir()] == ["net"]
        assert_round_trip(load(tmp_path / "net", like=params), params, masks)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
        assert_round_trip(load(tmp_path / "net", like=shapes), params, masks)
    found = load(tmp_path / "net", like=params)
    assert jax.tree.structure(found[0]) == jax.tree.structure(params)
    assert found[1]["list"][1] is None
    tx = dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=0.5), initial_masks=found[1])
    assert dstjax.check_sparse(found[0], tx.init(found[0]))


@both
def test_without_a_tree_dictionaries_come_back(kind, tmp_path):
    save, load = FORMATS[kind]
    params, state = sparse()
    save(tmp_path / "net", params, state)
    found, masks = load(tmp_path / "net")
    assert jax.tree.map(np.shape, found) == {
        "conv": {"bias": (4,), "kernel": (3, 3, 2, 4)},
        "dense": {"bias": (5,), "kernel": (6, 5)},
        "list": {"0": (5, 4), "1": (4,)},
        "scale": (),
    }
    assert masks["list"]["1"] is None
    np.testing.assert_array_equal(masks["list"]["0"], dstjax.get_masks(state)["list"][0])
    save(tmp_path / "one", params["dense"]["kernel"])
    assert_bits(load(tmp_path / "one")[0], params["dense"]["kernel"])
    assert load(tmp_path / "one")[1] is None


@both
@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "complex64", slow("float64"), slow("int64")])
def test_other_leaves(kind, dtype, tmp_path):
    save, load = FORMATS[kind]
    tree = {"x": np.arange(6).reshape(2, 3).astype(dtype), "none": np.zeros((0, 2), dtype), "one": np.ones((), dtype)}
    save(tmp_path / "tree", tree)
    for name, x in load(tmp_path / "tree")[0].items():
        assert_bits(x, tree[name])


@both
def test_a_model_that_is_a_class(kind, tmp_path):
    save, load = FORMATS[kind]
    model = eqx.nn.MLP(4, 2, 8, 1, key=jax.random.key(0))
    arrays = eqx.filter(model, eqx.is_array)
    arrays, state = dstjax.start(dstjax.sparsify(optax.sgd(0.1), methods.static(sparsity=0.5)), arrays)
    save(tmp_path / "net", arrays, state)
    found, masks = load(tmp_path / "net", like=model)  # functions and all
    assert found.activation is model.activation
    assert dstjax.check_sparse(found, masks)
    trees.assert_same(jax.tree.leaves(eqx.filter(found, eqx.is_array)), jax.tree.leaves(arrays))


def test_names_that_only_a_file_could_mistake(tmp_path):
    tree = {"file": np.ones(2), "a b/ü": {"..": np.ones((3, 3))}, "dstjax": np.zeros(1)}
    exchange.save_npz(tmp_path / "net.npz", tree, {"a b/ü": {"..": np.ones((3, 3), bool)}})
    assert_round_trip(
        exchange.load_npz(tmp_path / "net.npz", like=tree), tree, {"a b/ü": {"..": np.ones((3, 3), bool)}}
    )


def test_the_file_is_small_and_anyone_can_read_it(tmp_path):
    size = 256 * 256
    mask = np.random.default_rng(0).random((256, 256)) < 0.1
    weight = np.where(mask, np.float32(1.5), 0).astype(np.float32)
    exchange.save_npz(tmp_path / "net.npz", {"w": weight, "b": np.ones(3)}, {"w": mask, "b": None})
    assert (tmp_path / "net.npz").stat().st_size < 4 * mask.sum() + size / 8 + 2000
    with np.load(tmp_path / "net.npz") as members:
        assert sorted(members) == ["dense/b", "dstjax", "mask/w", "values/w"]
        np.testing.assert_array_equal(members["values/w"], weight[mask])
        bits = np.unpackbits(members["mask/w"], bitorder="little")[:size].reshape(256, 256)
    np.testing.assert_array_equal(bits, mask)
    from safetensors.numpy import load_file

    exchange.save_safetensors(tmp_path / "net.st", {"w": weight}, {"w": mask})
    found = load_file(tmp_path / "net.st")
    np.testing.assert_array_equal(found["w"], weight)
    np.testing.assert_array_equal(found["w.mask"], mask)


# --- What is refused --------------------------------------------------------------------------------------------------


@both
def test_parameters_that_cannot_be_written(kind, tmp_path):
    save, _ = FORMATS[kind]
    params, state = sparse()
    path = tmp_path / "net"
    with pytest.raises(ValueError, match=r"leaf 'conv/kernel' has \d+ weights outside its mask .*training=False"):
        save(path, trees.everything(), state)
    for wrong, name in (
        (1.5, "float"),
        (jax.random.key(0), ""),
        (jnp.tanh, ""),
        (jax.ShapeDtypeStruct((2,), "f4"), "S"),
    ):
        with pytest.raises(ValueError, match=f"leaf 'scale' is a {name}.*, which cannot be written; expected arrays"):
            save(path, {**params, "scale": wrong}, state)
    with pytest.raises(ValueError, match=r"leaf 'w' is a .*Tracer, which cannot be written"):
        jax.jit(lambda w: save(path, {"w": w}))(jnp.ones(3))
    with pytest.raises(ValueError, match=r"'list/0' of the parameters has shape \(2, 2\); expected \(5, 4\)"):
        save(path, {**params, "list": [jnp.ones((2, 2)), jnp.ones(4)]}, state)
    with pytest.raises(ValueError, match="expected an optimiser state of dstjax"):
        save(path, params, params)
    assert not [*tmp_path.iterdir()]
    with pytest.raises(FileNotFoundError, match=r"no folder/net cannot be written: .*no folder is no folder"):
        save(tmp_path / "no folder" / "net", params)


@both
def test_a_dense_weight_behind_masks_is_written_as_it_is_seen(kind, tmp_path):
    save, load = FORMATS[kind]
    tx = dstjax.sparsify(optax.sgd(0.1), methods.top_kast(sparsity=0.5))
    params, state = dstjax.start(tx, trees.everything())
    with pytest.raises(ValueError, match="outside its mask"):
        save(tmp_path / "net", params, state)
    seen = dstjax.forward_params(params, state, training=False)
    save(tmp_path / "net", seen, state)
    trees.assert_same(load(tmp_path / "net", like=seen)[0], jax.device_get(seen))


@both
def test_trees_that_do_not_fit_the_file(kind, tmp_path):
    save, load = FORMATS[kind]
    params, state = sparse()
    save(tmp_path / "net", params, state)
    with pytest.raises(ValueError, match=r"net lacks \['more'\] of the tree that is expected, and has \['scale'\]"):
        load(tmp_path / "net", like={**{n: x for n, x in params.items() if n != "scale"}, "more": jnp.ones(2)})
    with pytest.raises(
        ValueError, match=r"'scale' of .*net has shape \(\) and dtype float32; expected \(2,\) and float"
    ):
        load(tmp_path / "net", like={**params, "scale": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"'scale' of .*net has .* float32; expected \(\) and bfloat16"):
        load(tmp_path / "net", like={**params, "scale": jnp.ones((), jnp.bfloat16)})
    save(tmp_path / "crossed", {"a": {"b": np.ones(2)}, "a/b/c": np.ones(2)})
    with pytest.raises(ValueError, match="goes through another leaf, so that no dictionaries hold it; give like="):
        load(tmp_path / "crossed")


@both
def test_damaged_files(kind, tmp_path):
    save, load = FORMATS[kind]
    params, state = sparse()
    save(tmp_path / "net", params, state)
    whole = (tmp_path / "net").read_bytes()
    for i, damaged in enumerate((b"", b"text", whole[: len(whole) // 2], whole[:-1], b"\xff" * 9 + whole[9:])):
        (tmp_path / "bad").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"bad is no file of .*, or is damaged: "):
            load(tmp_path / "bad")
        assert i < 5
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing")


def test_an_npz_file_with_one_wrong_byte_is_read_as_it_was_or_refused(tmp_path):
    """Among what such a byte seems: a password, a seek before the start."""
    w = np.array([[1, 0], [0, 2]], np.float32)
    exchange.save_npz(tmp_path / "net", {"w": w, "b": w[0]}, {"w": w != 0, "b": None})
    whole, refused = (tmp_path / "net").read_bytes(), 0
    for place in range(len(whole)):
        for byte in {1, 255, whole[place] ^ 1} - {whole[place]}:
            (tmp_path / "bad").write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
            try:
                params, masks = exchange.load_npz(tmp_path / "bad")
            except ValueError:
                refused += 1
                continue
            np.testing.assert_array_equal(params["w"], w)
            np.testing.assert_array_equal(params["b"], w[0])
            np.testing.assert_array_equal(masks["w"], w != 0)
    assert refused > len(whole)


def test_npz_files_of_others(tmp_path):
    np.savez(tmp_path / "other.npz", w=np.ones(3))
    with pytest.raises(ValueError, match=r"is no file of dstjax\.exchange\.save_npz, or is damaged: .*dstjax"):
        exchange.load_npz(tmp_path / "other.npz")
    np.savez(tmp_path / "objects.npz", dstjax=np.array([{}], object))
    with pytest.raises(ValueError, match="is no file of dstjax"):
        exchange.load_npz(tmp_path / "objects.npz")

    def written(header, **arrays):
        text = np.frombuffer(json.dumps(header).encode(), np.uint8)
        np.savez(tmp_path / "made.npz", **{"dstjax": text, **arrays})
        with pytest.raises(ValueError, match="is no file of dstjax") as error:
            exchange.load_npz(tmp_path / "made.npz")
        return str(error.value)

    assert "version 2, where 1 is known" in written({"version": 2})
    w = {"version": 1, "leaves": {"w": {"shape": [9], "dtype": "float32", "masked": True}}}
    one = np.ones(1, np.float32)
    assert "1 bytes of mask for the 9 weights" in written(w, **{"mask/w": np.ones(1, np.uint8), "values/w": one})
    bits = {"mask/w": np.array([3, 0], np.uint8)}
    assert "1 values for the 2 active weights of 'w'" in written(w, **bits, **{"values/w": one})
    assert "float64 where float32 was written" in written(w, **bits, **{"values/w": np.ones(2)})
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as file:
        file.writestr("dstjax.npy", b"no array")
    with pytest.raises(ValueError, match="is no file of dstjax"):
        exchange.load_npz(tmp_path / "zip.npz")


def test_safetensors_of_others(tmp_path):
    from safetensors.numpy import save_file

    save_file({"w": np.ones((2, 2), np.float32), "w.mask": np.ones(4, bool)}, tmp_path / "net")
    with pytest.raises(
        ValueError, match=r"tensor 'w.mask' of .*net has shape \(4,\) and dtype bool; expected \(2, 2\)"
    ):
        exchange.load_safetensors(tmp_path / "net")
    save_file({"w.mask": np.ones(4, np.float32)}, tmp_path / "net")  # no mask: there is no `w`
    assert exchange.load_safetensors(tmp_path / "net")[0]["w.mask"].shape == (4,)
    with pytest.raises(ValueError, match=r"leaves \['w.mask'\] would read as the masks of others"):
        exchange.save_safetensors(tmp_path / "net", {"w": np.ones(2), "w.mask": np.ones(2)})
    with pytest.raises(ValueError, match="leaf 'w' has dtype int4, which safetensors cannot hold; use save_npz"):
        exchange.save_safetensors(tmp_path / "net", {"w": jnp.ones(2, jnp.int4)})


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("safetensors", lambda path: exchange.save_safetensors(path, {"w": np.ones(2)})),
        ("safetensors", exchange.load_safetensors),
        ("scipy", lambda path: exchange.to_scipy({"w": np.ones((2, 2))}, {"w": np.ones((2, 2), bool)})),
    ],
)
def test_a_package_that_is_missing_is_named(package, call, tmp_path, monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"needs {package}, which is not installed; pip install {package}"):
        call(tmp_path / "net")


def test_keys_with_slashes_need_the_tree_that_is_expected(tmp_path):
    params = {"m": {"w": jnp.ones(1)}, "m/w": jnp.zeros(1)}
    exchange.save_npz(tmp_path / "x.npz", params)
    with pytest.raises(ValueError, match=r"path 'm//w' has keys with slashes.*give like="):
        exchange.load_npz(tmp_path / "x.npz")
    found = exchange.load_npz(tmp_path / "x.npz", like=params)[0]
    assert jax.tree.all(jax.tree.map(np.array_equal, found, params))

"""Programs in files: a fresh process, without the code that made them, computes the same."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dstjax
from dstjax import exchange, kernels
from tests.small_networks import normal

ROOT = Path(__file__).resolve().parents[3]
X = normal(5, 16, seed=3)


def network(p, x):
    return jax.nn.relu(x @ p["in"]["kernel"] + p["in"]["bias"][None]) @ p["out"]["kernel"]


def masked():
    """Whole blocks of 4 x 2, so that some units have no inputs."""
    params = {"in": {"kernel": normal(16, 12), "bias": jnp.zeros(12)}, "out": {"kernel": normal(12, 4)}}
    flags = np.random.default_rng(0).random((4, 6)) < 0.5
    flags[:, 2] = False
    masks = {
        "in": {"kernel": jnp.asarray(np.kron(flags, np.ones((4, 2), bool))), "bias": None},
        "out": {"kernel": jnp.ones((12, 4), bool)},
    }
    return dstjax.masks.apply(params, masks), masks


# The second half needs neither dstjax nor the network: JAX alone reads the program.
FRESH = """
import sys, json, numpy as np, jax, jax.export
x = np.load(sys.argv[1])
found = []
for path in sys.argv[2:]:
    members = np.load(path)
    leaves = [members["dense/" + n] for n in json.loads(members["dstjax"].tobytes())["leaves"]]
    found.append(jax.export.deserialize(bytearray(members["program"].tobytes())).call(leaves, x))
assert "dstjax" not in sys.modules
from dstjax import exchange
for path, other in zip(sys.argv[2:], found):
    function, params = exchange.load_program(path)
    np.testing.assert_array_equal(function(params, x), other)
compact, _ = exchange.load_npz(sys.argv[2])
own = np.maximum(x @ compact["in"]["kernel"] + compact["in"]["bias"], 0) @ compact["out"]["kernel"]
np.testing.assert_allclose(own, found[0], rtol=1e-4, atol=1e-5)
np.save(sys.argv[1], np.stack(found))
"""


def test_compact_and_rewritten_programs_in_a_fresh_process(tmp_path):
    params, masks = masked()
    smaller, fewer, _ = dstjax.compact(network, params, masks, X)
    fast, packed, report = kernels.rewrite(network, params, masks, X, product="block")
    assert fewer["in"]["kernel"].shape[1] <= 10, "two units have no inputs"
    assert report.chosen["in/kernel"] == "block"
    exchange.save_program(tmp_path / "compact.npz", smaller, fewer, X)
    exchange.save_program(tmp_path / "blocks.npz", fast, packed, jax.ShapeDtypeStruct(X.shape, X.dtype))
    np.save(tmp_path / "x.npy", X)
    files = [str(tmp_path / name) for name in ("x.npy", "compact.npz", "blocks.npz")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", FRESH, *files], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "x.npy")
    for other in found:
        np.testing.assert_allclose(other, network(params, X), rtol=1e-4, atol=1e-5)


def test_what_is_no_program_is_refused(tmp_path):
    params, masks = masked()
    path = tmp_path / "p.npz"
    exchange.save_npz(path, params)
    with pytest.raises(ValueError, match="holds no program"):
        exchange.load_program(path)
    fast, packed, _ = kernels.rewrite(network, params, masks, X, product="csr")
    with pytest.raises(ValueError, match=r"cannot be written.*without calls back to Python"):
        exchange.save_program(path, fast, packed, X)
    exchange.save_program(path, lambda p, x: p["w"] * x, {"w": jnp.ones(3)}, jnp.ones(3))
    function, found = exchange.load_program(path)
    np.testing.assert_array_equal(function(found, np.full(3, 2.0, np.float32)), [2, 2, 2])
    with pytest.raises(ValueError, match=r"leaves \['v'\]; expected \['w'\]"):
        function({"v": found["w"]}, np.ones(3, np.float32))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="is damaged"):
        exchange.load_program(path)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ValueError, match="needs flatbuffers"):
        exchange.save_program(tmp_path / "p.npz", lambda p: p, jnp.ones(3))


# It runs nothing of ours: onnxruntime alone.
RUNTIME = """
import sys, numpy as np, onnxruntime
x = np.load(sys.argv[1])
for path in sys.argv[2:]:
    session = onnxruntime.InferenceSession(path)
    np.save(path, session.run(None, {session.get_inputs()[0].name: x})[0])
"""


@pytest.mark.slow
def test_onnx_by_jax2onnx(tmp_path):
    """As docs/faster.md says; where jax2onnx and onnxruntime are installed, which nothing else here needs."""
    jax2onnx = pytest.importorskip("jax2onnx")
    pytest.importorskip("onnxruntime")
    params, masks = masked()
    smaller, fewer, _ = dstjax.compact(network, params, masks, X)
    fast, packed, _ = kernels.rewrite(network, params, masks, X, product="block")
    np.save(tmp_path / "x.npy", X)
    files = [tmp_path / "compact.onnx", tmp_path / "blocks.onnx"]
    for file, function, leaves in zip(files, (smaller, fast), (fewer, packed), strict=True):
        whole = functools.partial(function, leaves)
        shape = jax.ShapeDtypeStruct(X.shape, X.dtype)
        jax2onnx.to_onnx(lambda x, f=whole: f(x), [shape], return_mode="file", output_path=str(file))
    done = subprocess.run(
        [sys.executable, "-c", RUNTIME, str(tmp_path / "x.npy"), *map(str, files)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for file in files:
        np.testing.assert_allclose(np.load(f"{file}.npy"), network(params, X), rtol=1e-4, atol=1e-5)


def test_other_shapes_are_named(tmp_path):
    params = {"a": jnp.ones((6, 8)), "o": jnp.ones((8, 4))}
    exchange.save_program(tmp_path / "x.npz", lambda p, x: x @ p["a"] @ p["o"], params, jnp.ones((2, 6)))
    function, params = exchange.load_program(tmp_path / "x.npz")
    with pytest.raises(ValueError, match=r"not those of the program: 'a' \(5, 4\) in place of \(6, 8\)\."):
        function({**params, "a": jnp.ones((5, 4))}, jnp.ones((2, 6)))
    with pytest.raises(ValueError, match=r"the other arguments \[\(5, 6\)\] in place of \[\(2, 6\)\]"):
        function(params, jnp.ones((5, 6)))
    assert function(params, jnp.ones((2, 6))).shape == (2, 4)

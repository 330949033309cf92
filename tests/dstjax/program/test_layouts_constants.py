"""Leaves that are multiplied with constants: changed weights, tables that are made, layers whose data are constant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.layout_reading import NHWC, conv, f32, one, read

HADAMARD = jnp.asarray(np.sign(np.sin(np.arange(64.0))).reshape(8, 8), jnp.float32)
ZEROS = jnp.zeros((5, 8))


def resize(w, *shape):
    return jax.image.resize(w, shape, "bilinear")


def blurred(w):
    """A kernel whose windows are images of one channel, one for each pair of an input and an output."""
    images = w.transpose(2, 3, 0, 1).reshape(-1, 8, 8, 1)
    return conv(HADAMARD[:3, :3, None, None], images).reshape(8, 3, 8, 8).transpose(2, 3, 0, 1)


def cpb(p, x):
    """A table of biases by a network of coordinates, as Swin v2 has it."""
    coordinates = jnp.stack(jnp.meshgrid(jnp.arange(4.0), jnp.arange(4.0)), -1).reshape(16, 2)
    table = jax.nn.relu(coordinates @ p["in"] + p["bias"][None]) @ p["out"]
    return jax.nn.softmax(x @ x.swapaxes(-1, -2) + table.T.reshape(1, 1, 4, 4)) @ x @ p["w"]


# A product with a constant changes a leaf, unless what comes of it is put through an activation, or nothing follows.
CONSTANTS = {
    "a weight turned": (lambda p, x: x @ (p["w"] @ HADAMARD), {"w": "in out"}),
    "its inputs turned": (lambda p, x: x @ (HADAMARD @ p["w"]), {"w": "in out"}),
    "a kernel resized": (
        lambda p, x: conv(resize(p["k"], 4, 4, 8, 3), x[:, None, None]),
        {"k": "window window in out"},
    ),
    "a kernel blurred": (lambda p, x: conv(blurred(p["k"]), x[:, None, None]), {"k": "window window in out"}),
    "a table resized": (lambda p, x: (x + resize(p["t"], 5, 8)) @ p["w"], {"t": None, "w": "in out"}),
    "a table summed up": (lambda p, x: (x + jnp.tril(jnp.ones((5, 5))) @ p["t"]) @ p["w"], {"t": None, "w": "in out"}),
    "a bias repeated": (lambda p, x: x @ p["w"] + jnp.ones((5, 1)) @ p["b"], {"w": "in out", "b": None}),
    "a scale repeated": (lambda p, x: x * (jnp.ones((5, 1)) @ p["b"]), {"b": None}),
    "a mean": (lambda p, x: x + jnp.full((1, 5), 0.2) @ p["t"], {"t": None}),
    "a constant is the data": (lambda p, x: jnp.tanh(HADAMARD @ p["w"]) @ p["v"], {"w": "in out", "v": "in out"}),
    "normalised data": (
        lambda p, x: jax.nn.standardize(HADAMARD @ p["w"]) @ p["v"] @ p["u"],
        {"w": "in out", "v": "in out", "u": "in out"},
    ),
    "swish": (lambda p, x: jax.nn.swish(HADAMARD @ p["w"]) @ p["v"], {"w": "in out", "v": "in out"}),
    "a linear loss": (lambda p, x: jnp.mean((HADAMARD @ p["w"] - 1) ** 2), {"w": "in out"}),
    "a first state of zeros": (
        lambda p, x: jnp.tanh(x @ p["w"] + jnp.zeros((5, 8)) @ p["v"]),
        {"w": "in out", "v": "in out"},
    ),
    "one that is closed over": (lambda p, x: jnp.tanh(x @ p["w"] + ZEROS @ p["v"]), {"w": "in out", "v": "in out"}),
    "tangents": (
        lambda p, x: jax.vmap(jax.jacfwd(lambda x: jnp.tanh(x @ p["w"]) @ p["v"]))(x),
        {"w": "in out", "v": "in out"},
    ),
}


@pytest.mark.parametrize(("function", "expected"), CONSTANTS.values(), ids=CONSTANTS)
def test_products_with_constants(function, expected):
    shapes = {"w": (8, 8), "v": (8, 8), "u": (8, 8), "k": (8, 8, 8, 3), "t": (5, 8), "b": (1, 8)}
    assert read(function, {name: f32(*shapes[name]) for name in expected}, f32(5, 8)) == expected


def test_a_network_of_constants_that_makes_a_table():
    params = {"in": f32(2, 6), "bias": f32(6), "out": f32(6, 1), "w": f32(8, 3)}
    assert read(cpb, params, f32(1, 3, 4, 8)) == {"in": "in out", "bias": None, "out": "in out", "w": "in out"}


def patches(w, x):
    found = jax.lax.conv_general_dilated_patches(x, (3, 3), (1, 1), "VALID", dimension_numbers=NHWC)
    return jnp.einsum("bhwcij,ijco->bhwo", found.reshape(*found.shape[:3], 6, 3, 3), w)


def stacked(w, x):
    rows = [jnp.stack([x[:, i : i + 7, j : j + 9] for j in range(3)], 3) for i in range(3)]
    return jnp.einsum("bhwijc,ijco->bhwo", jnp.stack(rows, 3), w)


def joined(w, x):
    copies = [x[:, i : i + 7, j : j + 9] for i in range(3) for j in range(3)]
    return jnp.concatenate(copies, -1) @ w.reshape(54, 4)


@pytest.mark.parametrize("written_out", [patches, stacked, joined])
def test_a_convolution_written_out_has_its_window(written_out):
    assert one(written_out, f32(3, 3, 6, 4), f32(2, 9, 11, 6)) == "window window in out"

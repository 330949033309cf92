"""What each axis of a leaf means, read from programs whose equations say it.

Tables, and leaves that are no weights.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dstjax import program
from tests.layout_reading import f32, i32, one, read

# --- Tables and other leaves that are no weights ----------------------------------------------------------------------

LOOK_UPS = {
    "index": lambda e, t: e[t],
    "take": lambda e, t: jnp.take(e, t, axis=0),
    "one-hot": lambda e, t: jax.nn.one_hot(t, 24) @ e,
    "vmapped": lambda e, t: jax.vmap(lambda t: e[t])(t),
    "dynamic slice": lambda e, t: jax.vmap(lambda t: lax.dynamic_index_in_dim(e, t, keepdims=False))(t),
    "scaled": lambda e, t: e[t] * np.sqrt(16.0),
}


@pytest.mark.parametrize("look_up", LOOK_UPS.values(), ids=LOOK_UPS)
def test_rows_that_data_pick_are_looked_up(look_up):
    params = {"e": f32(24, 16), "w": f32(16, 4), "pos": f32(7, 16)}

    def function(p, tokens):
        return jnp.tanh((look_up(p["e"], tokens) + p["pos"]) @ p["w"])

    tokens = i32(7)
    assert read(function, params, tokens) == {"e": "lookup out", "pos": None, "w": "in out"}
    batch = read(jax.vmap(function, (None, 0)), params, i32(3, 7))
    assert batch == {"e": "lookup out", "pos": None, "w": "in out"}
    seeds = read(jax.vmap(function, (0, None)), {"e": f32(5, 24, 16), "w": f32(5, 16, 4), "pos": f32(5, 7, 16)}, tokens)
    assert seeds == {"e": "stack lookup out", "pos": None, "w": "stack in out"}


def test_a_batch_may_be_closed_over():
    tokens, x = np.ones((3, 7), np.int32), np.ones((3, 6), np.float32)
    params = {"e": f32(24, 16), "pos": f32(9, 16), "w": f32(16, 4), "v": f32(6, 4)}

    def function(p):
        h = p["e"][tokens] + p["pos"][jnp.arange(7)][None]
        return h @ p["w"], p["e"][tokens[0]] @ p["w"], x @ p["v"]

    assert read(function, params) == {"e": "lookup out", "pos": None, "v": "in out", "w": "in out"}
    assert one(lambda w: x @ w[np.array([4, 0, 2, 3, 1, 1])], f32(5, 8)) == "in out"


def test_two_factors_of_a_recommender_are_looked_up():
    def score(p, users, items):
        return jnp.einsum("bd,bd->b", p["u"][users], p["v"][items])

    assert read(score, {"u": f32(9, 4), "v": f32(8, 4)}, i32(5), i32(5)) == {"u": "lookup out", "v": "lookup out"}


def test_a_table_that_gives_the_logits_too_has_two_uses():
    found = program.layouts(lambda p, t: jnp.tanh(p["e"][t]) @ p["e"].T, {"e": f32(24, 16)}, i32(7))
    assert dict(found) == {"e": "?"}
    assert found.unread == {"e": "two uses that disagree: 'lookup out' and 'out in'"}
    both = program.layouts(lambda w, x: jnp.tanh(x @ w) @ w.T, f32(6, 8), f32(3, 6))
    assert both.unread == {"": "two uses that disagree: 'in out' and 'out in'"}
    assert one(lambda w, x: jnp.tanh(x @ w) @ w, f32(8, 8), f32(3, 8)) == "in out"


def test_an_axis_that_is_in_part_an_input_cannot_be_said():
    def function(w, x):  # blocks along the diagonal, out of one axis
        return jnp.einsum("bni,nio->bno", x.reshape(3, 2, 3), w.reshape(2, 3, 8))

    found = program.layouts(function, f32(6, 8), f32(3, 6))
    assert found.unread == {"": "axis 0 is in part 'in' and in part 'stack'"}
    gone = program.layouts(lambda w, x: x @ w.mean(0), f32(4, 6, 8), f32(3, 6))
    assert gone.unread == {"": "axis 0 is gone before the product"}


def test_what_is_only_added_or_scales_is_no_weight():
    params = {"pos": f32(1, 7, 16), "cls": f32(1, 1, 16), "scale": f32(8, 16), "bias": f32(1, 1, 16), "w": f32(16, 4)}

    def function(p, x):
        x = jnp.concatenate([jnp.broadcast_to(p["cls"], (3, 1, 16)), x + p["pos"]], axis=1)
        x = (x - x.mean(-1, keepdims=True)) * p["scale"][None] + p["bias"]
        return jnp.tanh(x @ p["w"]) + sum(jnp.sum(leaf**2) for leaf in p.values())

    assert read(function, params, f32(3, 7, 16)) == dict(pos=None, cls=None, scale=None, bias=None, w="in out")


def attention(q, k, v, bias):
    return jax.nn.softmax(
        jnp.einsum("...qhd,...khd->...hqk", q, k) + jnp.broadcast_to(bias, (*q.shape[:-3], 4, 7, 7))
    ) @ v.swapaxes(-2, -3)


@pytest.mark.parametrize("batch", [(), (3,)])
def test_attention_multiplies_data_with_data(batch):
    params = {"q": f32(16, 4, 2), "k": f32(16, 4, 2), "v": f32(4, 16, 2), "o": f32(4, 2, 16), "bias": f32(4, 7, 7)}

    def function(p, x):
        q, k = (jnp.einsum("...sd,dhk->...shk", x, p[name]) for name in "qk")
        v = jnp.einsum("...sd,hdk->...shk", x, p["v"])
        return jnp.einsum("...hsk,hkd->...sd", attention(q, k, v, p["bias"]), p["o"])

    found = read(function, params, f32(*batch, 7, 16))
    assert found == dict(q="in out out", k="in out out", v="out in out", o="in in out", bias=None)


def test_learned_queries_are_data_to_the_leaf_that_projects_them():
    def function(p, x):
        queries = jnp.broadcast_to(p["queries"], (3, 5, 16)) @ p["q"]
        return jax.nn.softmax(queries @ (x @ p["k"]).swapaxes(1, 2)) @ x

    params = {"queries": f32(5, 16), "q": f32(16, 8), "k": f32(16, 8)}
    expected = {"queries": None, "q": "in out", "k": "in out"}
    assert read(function, params, f32(3, 7, 16)) == expected

    def pooled(p, x):
        return jax.nn.softmax((jnp.tile(p["queries"], (3, 1, 1)) @ p["q"]) @ (x @ p["k"]).swapaxes(1, 2)) @ x

    assert read(pooled, {**params, "queries": f32(1, 1, 16)}, f32(3, 7, 16)) == expected


def test_experts_are_a_stack_however_they_are_picked():
    params = {"gate": f32(16, 5), "up": f32(5, 16, 32), "down": f32(5, 32, 16)}
    expected = {"gate": "in out", "up": "stack in out", "down": "stack in out"}

    def dense(p, x):  # each expert sees each token
        gates = jax.nn.softmax(x @ p["gate"])
        return jnp.einsum("te,etd->td", gates, jax.nn.relu(jnp.einsum("td,edf->etf", x, p["up"])) @ p["down"])

    def dispatched(p, x):
        best = jax.nn.one_hot(jnp.argmax(x @ p["gate"], -1), 5)
        hidden = jnp.einsum("te,td,edf->etf", best, x, p["up"])
        return jnp.einsum("te,etd->td", best, jax.nn.relu(hidden) @ p["down"])

    def slots(p, x):
        best = jax.nn.one_hot(jnp.argmax(x @ p["gate"], -1), 5)
        place = jax.nn.one_hot((jnp.cumsum(best, 0) * best).sum(1).astype(int), 4)
        send = best[:, :, None] * place[:, None]
        hidden = jax.nn.relu(jnp.einsum("ecd,edf->ecf", jnp.einsum("tec,td->ecd", send, x), p["up"]))
        return jnp.einsum("tec,ecd->td", send, jnp.einsum("ecf,efd->ecd", hidden, p["down"]))

    def picked(p, x):
        best = jnp.argmax(x @ p["gate"], -1)
        hidden = jax.nn.relu(jnp.einsum("td,tdf->tf", x, p["up"][best]))
        return jnp.einsum("tf,tfd->td", hidden, p["down"][best])

    for function in (dense, dispatched, slots, picked):
        assert read(function, params, f32(7, 16)) == expected, function.__name__


def multi_query(p, x):
    q, k, v = jnp.einsum("bsd,dhk->bshk", x, p["q"]), x @ p["k"], x @ p["v"]
    return jnp.einsum("bhqt,btk->bqhk", jax.nn.softmax(jnp.einsum("bqhk,btk->bhqt", q, k)), v)


def selective(p, x):
    """A state space whose step, inputs and outputs come from the data, as in Mamba."""

    def step(h, x):
        decay = jnp.exp(jax.nn.softplus(x @ p["dt"])[..., None] * -jnp.exp(p["a"])[None])
        h = decay * h + x[..., None] * (x @ p["b"])[:, None]
        return h, jnp.einsum("bdn,bn->bd", h, x @ p["c"])

    return lax.scan(step, jnp.zeros((3, 6, 4)), x.swapaxes(0, 1))[1]


def spectral_layer(p, x):
    """A product for each frequency, as in Fourier neural operators."""
    frequencies = jnp.einsum("bsi,sio->bso", jnp.fft.rfft(x, axis=1), p["re"] + 1j * p["im"])
    return jnp.fft.irfft(frequencies, axis=1)


def short_convolution(p, x):
    taps = [jnp.pad(x, ((0, 0), (i, 0), (0, 0)))[:, :7] * p["taps"][i][None, None] for i in range(3)]
    return sum(taps) @ p["w"]


def equilibrium(p, x):
    def body(z):
        return jnp.tanh(z @ p["w"] + x @ p["u"] + p["b"])

    return lax.while_loop(lambda z: jnp.sum(z) > 1, body, jnp.zeros((3, 8)))


def drawn_twice(p, x):  # the codebook of a quantiser: distances, then rows
    nearest = jnp.argmin(jnp.sum(p["c"] ** 2, -1)[None] - 2 * (x @ p["w"]) @ p["c"].T, -1)
    return p["c"][nearest] @ p["v"]


LAYERS = {
    "multi-query attention": (multi_query, dict(q="in out out", k="in out", v="in out"), "6,4,8 6,8 6,8", (3, 7, 6)),
    "state space": (
        selective,
        dict(dt="in out", a=None, b="in out", c="in out"),
        "6,6 6,4 6,4 6,4",
        (3, 7, 6),
    ),
    "Fourier": (spectral_layer, dict(re="stack in out", im="stack in out"), "4,6,8 4,6,8", (3, 7, 6)),
    "taps": (short_convolution, dict(taps=None, w="in out"), "3,6 6,4", (3, 7, 6)),
    "equilibrium": (equilibrium, dict(w="in out", u="in out", b=None), "8,8 6,8 1,8", (3, 6)),
    "codebook": (drawn_twice, dict(c="?", w="in out", v="in out"), "9,8 6,8 8,2", (3, 6)),
    "bilinear": (lambda p, x: jnp.einsum("bi,ijo,bj->bo", x, p["w"], x), dict(w="in in out"), "6,6,8", (3, 6)),
    "Kronecker": (lambda p, x: x @ jnp.kron(p["a"], p["b"]), dict(a="in out", b="in out"), "2,4 3,5", (3, 6)),
    "blocks": (
        lambda p, x: jnp.einsum("bnq,nqp->bpn", x.reshape(3, 2, 3), p["w"]).reshape(3, -1) @ p["v"],
        dict(w="stack in out", v="in out"),
        "2,3,4 8,5",
        (3, 6),
    ),
    "tokens mixed": (
        lambda p, x: x.swapaxes(1, 2) @ p["w"] @ p["v"],
        dict(w="in out", v="in out"),
        "7,9 9,7",
        (3, 7, 6),
    ),
    "gram penalty": (
        lambda p, x: (x @ p["w"], jnp.sum((p["w"].T @ p["w"] - jnp.eye(8)) ** 2)),
        dict(w="in out"),
        "6,8",
        (3, 6),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_the_field(name):
    function, expected, shapes, x = LAYERS[name]
    leaves = [f32(*map(int, shape.split(","))) for shape in shapes.split()]
    assert read(function, dict(zip(expected, leaves, strict=True)), f32(*x)) == expected

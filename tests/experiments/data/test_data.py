import numpy as np
import pytest

from experiments import data


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


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        data.load("digit")

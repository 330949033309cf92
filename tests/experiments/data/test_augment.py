import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from experiments.data import augment

IMAGES = np.random.default_rng(0).random((64, 6, 6, 2)).astype(np.float32)


def apply(step: augment.Augment, seed: int = 0) -> np.ndarray:
    return np.asarray(jax.jit(step)(jax.random.key(seed), IMAGES))


def test_flip_mirrors_about_half():
    out = apply(augment.flip)
    flipped = [(image == original[:, ::-1]).all() for image, original in zip(out, IMAGES, strict=True)]
    kept = [(image == original).all() for image, original in zip(out, IMAGES, strict=True)]
    assert [a != b for a, b in zip(flipped, kept, strict=True)] == [True] * 64
    assert 16 < sum(flipped) < 48


@pytest.mark.parametrize("mode", ["reflect", "constant"])
def test_crops_are_windows_of_the_padded_image(mode):
    out = apply(augment.pad_and_crop(2, mode))
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)), mode=mode)
    corners = set()
    for image, source in zip(out, padded, strict=True):
        found = [(i, j) for i in range(5) for j in range(5) if (image == source[i : i + 6, j : j + 6]).all()]
        assert len(found) == 1
        corners.add(found[0])
    assert {i for i, _ in corners} == {j for _, j in corners} == set(range(5))


def test_rotation_and_shift():
    # Neither: the image itself.
    np.testing.assert_allclose(apply(augment.rotate_and_shift(0, 0)), IMAGES, atol=1e-6)
    out = apply(augment.rotate_and_shift(10, 0.1))
    assert out.shape == IMAGES.shape
    assert (out.min() >= IMAGES.min(), out.max() <= IMAGES.max()) == (True, True)
    # The draws of the first image, followed in float64.
    angle = np.deg2rad(
        float(jax.random.uniform(jax.random.fold_in(jax.random.key(0), 0), (64,), minval=-10, maxval=10)[0])
    )
    shift = np.asarray(jax.random.uniform(jax.random.fold_in(jax.random.key(0), 1), (64, 2), minval=-1, maxval=1)[0])
    y, x = np.meshgrid(np.arange(6) - 2.5, np.arange(6) - 2.5, indexing="ij")
    y, x = y + 0.6 * shift[0], x + 0.6 * shift[1]
    at = [np.cos(angle) * y - np.sin(angle) * x + 2.5, np.sin(angle) * y + np.cos(angle) * x + 2.5]
    expected = [ndimage.map_coordinates(IMAGES[0, ..., c], at, order=1, mode="nearest") for c in range(2)]
    np.testing.assert_allclose(out[0], np.stack(expected, axis=-1), atol=1e-5)


def test_standardised_images():
    out = np.asarray(augment.standardise(jnp.asarray(3 * IMAGES + 5)))
    axes = (1, 2, 3)
    expected = (IMAGES - IMAGES.mean(axes, keepdims=True)) / IMAGES.std(axes, keepdims=True)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    flat = np.asarray(augment.standardise(jnp.full((1, 4, 4, 3), 0.3)))
    np.testing.assert_allclose(flat, 0, atol=0.25)  # two roundings of its mean


def test_a_chain_is_drawn_by_its_key():
    step = augment.chain(augment.pad_and_crop(2, "reflect"), augment.flip)
    np.testing.assert_array_equal(apply(step, 3), apply(step, 3))
    assert (apply(step, 3) != apply(step, 4)).any()


def test_bad_arguments():
    with pytest.raises(ValueError, match="mode='mirror' is not known"):
        augment.pad_and_crop(4, "mirror")
    with pytest.raises(ValueError, match="padding=0"):
        augment.pad_and_crop(0, "reflect")

"""What training does to a batch of images: pure functions of a key, for use inside ``jit``.

Images are float arrays [n, rows, columns, channels] and keep shape and dtype.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dstjax.checks import check_choice, check_integer

Augment = Callable[[jax.Array, jax.Array], jax.Array]  # of a key and the images of a batch


def chain(*steps: Augment) -> Augment:
    """One step after another, each with a key of its own."""

    def apply(key: jax.Array, images: jax.Array) -> jax.Array:
        for number, step in enumerate(steps):
            images = step(jax.random.fold_in(key, number), images)
        return images

    return apply


def flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors left and right with probability 1/2."""
    flipped = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def pad_and_crop(padding: int, mode: str) -> Augment:
    """Pads every side, then cuts out the old size at a uniform place.

    Args:
      padding: pixels on each side.
      mode: 'reflect' (the edge pixel is not repeated) or 'constant' (zeros: black, as the mean is subtracted later).

    Raises:
      ValueError: an argument that is not accepted.
    """
    check_integer("padding", padding, 1)
    check_choice("mode", mode, ("reflect", "constant"))

    def apply(key: jax.Array, images: jax.Array) -> jax.Array:
        padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode=mode)
        corners = jax.random.randint(key, (len(images), 2), 0, 2 * padding + 1)

        def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

        return jax.vmap(crop)(padded, corners)

    return apply


def rotate_and_shift(degrees: float, share: float) -> Augment:
    """Rotates about the centre and shifts, both uniformly; what comes from outside is the nearest edge pixel.

    Args:
      degrees: the largest angle, either way.
      share: the largest shift, either way, as a share of rows and columns.
    """

    def apply(key: jax.Array, images: jax.Array) -> jax.Array:
        n, rows, columns, _ = images.shape
        angles = jnp.deg2rad(jax.random.uniform(jax.random.fold_in(key, 0), (n,), minval=-degrees, maxval=degrees))
        most = jnp.array([[share * rows, share * columns]])
        shifts = jax.random.uniform(jax.random.fold_in(key, 1), (n, 2), minval=-1, maxval=1) * most
        y, x = jnp.meshgrid(jnp.arange(rows) - (rows - 1) / 2, jnp.arange(columns) - (columns - 1) / 2, indexing="ij")

        def move(image: jax.Array, angle: jax.Array, shift: jax.Array) -> jax.Array:
            down, right = y + shift[0], x + shift[1]
            at = jnp.stack(
                [
                    jnp.cos(angle) * down - jnp.sin(angle) * right + (rows - 1) / 2,
                    jnp.sin(angle) * down + jnp.cos(angle) * right + (columns - 1) / 2,
                ]
            )

            def channel(plane: jax.Array) -> jax.Array:
                return jax.scipy.ndimage.map_coordinates(plane, list(at), order=1, mode="nearest")

            return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)

        return jax.vmap(move)(images, angles, shifts).astype(images.dtype)

    return apply


def standardise(images: jax.Array) -> jax.Array:
    """Each image with mean 0 and deviation 1; one of a single colour is only centred.

    Scaling and shifting the pixels first makes no difference.
    """
    axes = tuple(range(1, images.ndim))
    mean = images.mean(axis=axes, keepdims=True)
    return (images - mean) / jnp.maximum(images.std(axis=axes, keepdims=True), 1e-6)  # rounding alone is below that

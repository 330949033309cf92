"""Pictures of any size: reading, cutting and scaling them on the host."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.data import files

# Of ImageNet's channels, as torchvision and the code of the papers have them.
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def read(path: Path, shape: tuple[int, int] | None = None) -> np.ndarray:
    """A picture as RGB, uint8[rows, columns, 3]; grey ones get three equal channels.

    Raises:
      ValueError: it is missing, cannot be read or decoded, or has not the ``shape`` (rows, columns).
    """
    with files.reading(path, "a picture"):
        content = path.read_bytes()
    try:
        with Image.open(io.BytesIO(content)) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError) as error:  # SyntaxError: a broken PNG or JPEG header
        raise files.damaged(path, error, "a picture") from error
    if shape is not None and pixels.shape[:2] != shape:
        raise ValueError(f"file {str(path)!r} has {pixels.shape[:2]} pixels; expected {shape}.")
    return pixels


def normalised(pixels: np.ndarray) -> np.ndarray:
    """uint8[..., 3] to float32 by ImageNet's mean and deviation."""
    return (pixels.astype(np.float32) / 255 - MEAN) / DEVIATION


def scale(pixels: np.ndarray, rows: int, columns: int, box: Sequence[float] | None = None) -> np.ndarray:
    """Bilinear, with an anti-aliasing filter where it gets smaller; ``box``: left, top, right, bottom of the part."""
    picture = Image.fromarray(pixels)
    kept = None if box is None else (box[0], box[1], box[2], box[3])
    return np.asarray(picture.resize((columns, rows), Image.Resampling.BILINEAR, box=kept))


def random_resized_crop(rng: np.random.Generator, pixels: np.ndarray, size: int) -> np.ndarray:
    """A random part of the picture, scaled to ``size`` squared.

    Its area is uniform in 8 to 100 %, the logarithm of its aspect ratio uniform between 3/4 and 4/3; after ten parts
    that do not fit, the largest central one of an aspect ratio within those bounds.

    Reference: Szegedy et al., 2015, Going deeper with convolutions, section 6; the draw as in torchvision.
    """
    rows, columns = pixels.shape[:2]
    for _ in range(10):
        area = rows * columns * rng.uniform(0.08, 1)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        width, height = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < width <= columns and 0 < height <= rows:
            top, left = rng.integers(rows - height + 1), rng.integers(columns - width + 1)
            return scale(pixels, size, size, (left, top, left + width, top + height))
    width, height = min(columns, round(rows * 4 / 3)), min(rows, round(columns * 4 / 3))
    left, top = (columns - width) // 2, (rows - height) // 2
    return scale(pixels, size, size, (left, top, left + width, top + height))


def central_crop(pixels: np.ndarray, shorter: int, size: int) -> np.ndarray:
    """The central square of ``size`` pixels after the shorter side was scaled to ``shorter``."""
    rows, columns = pixels.shape[:2]
    factor = shorter / min(rows, columns)
    pixels = scale(pixels, max(shorter, round(rows * factor)), max(shorter, round(columns * factor)))
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]


def flip(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """Mirrors left and right with probability 1/2."""
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels

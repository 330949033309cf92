"""Writes sparse parameters with their masks to files of NumPy and of safetensors."""

import contextlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import jax.numpy as jnp
import numpy as np

from dstjax._arrays.trees import Tree
from dstjax.exchange.host import Weight, imported, trees_of, weights_of

_HEADER = "dstjax"
_MASK = ".mask"  # behind the path of a leaf, in safetensors
_TENSORS = {
    "BOOL": "bool", "C64": "complex64", "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu",
    **{f"{k[0].upper()}{n}": f"{k}{n}" for k in ("int", "uint") for n in (8, 16, 32, 64)},
}  # fmt: skip


def save_npz(path: str | os.PathLike[str], params: Tree, opt_state_or_masks: Tree | None = None) -> None:
    """Writes parameters to a ``.npz`` file: of masked leaves the active weights, and one bit for each weight.

    The file holds ``values/PATH`` (the active weights, row-major) and ``mask/PATH`` (``numpy.packbits`` of the mask,
    the first weight in the lowest bit) for each masked leaf, ``dense/PATH`` for the others, and a header in JSON,
    ``dstjax``, with shapes and dtypes. What NumPy has no dtype for (bfloat16, float8) is written as unsigned integers.
    Nothing is pickled. The file takes the place of an older one once it is whole.

    Args:
      path: of the file, used as it is.
      params: tree of arrays, zero outside their masks.
      opt_state_or_masks: an optimiser state, or a tree of masks; None writes all leaves whole.

    Raises:
      ValueError: a leaf is no array, a mask does not fit, or a weight outside its mask is not zero.
      OSError: the file cannot be written.
    """
    write_npz(path, params, opt_state_or_masks, {})


def write_npz(
    path: str | os.PathLike[str], params: Tree, opt_state_or_masks: Tree | None, more: Mapping[str, np.ndarray]
) -> None:
    """Writes the file of :func:`save_npz` with more arrays in it."""
    header: dict[str, Any] = {"version": 1, "leaves": {}}
    arrays: dict[str, np.ndarray] = {**more}
    for name, (values, mask) in weights_of(params, opt_state_or_masks).items():
        if "\x00" in name:  # a zip ends the name there
            raise ValueError(f"leaf {name!r} has a zero byte in its name, which no zip file can hold; rename it.")
        header["leaves"][name] = {"shape": values.shape, "dtype": values.dtype.name, "masked": mask is not None}
        if mask is None:
            arrays[f"dense/{name}"] = _as_bits(values)
        else:
            arrays[f"values/{name}"] = _as_bits(values[mask])
            arrays[f"mask/{name}"] = np.packbits(mask.ravel(), bitorder="little")
    arrays[_HEADER] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    with _new_file(path) as new, open(new, "wb") as file:
        _write_members(file, arrays)


def load_npz(path: str | os.PathLike[str], like: Tree | None = None) -> tuple[Tree, Tree]:
    """Returns the parameters and the masks of a file of :func:`save_npz`, as they were, bit by bit.

    Args:
      path: of the file.
      like: parameters of the wanted tree, or their shapes, such as a fresh model's; by default dictionaries along the
        paths, in which a list is a dictionary too.

    Returns:
      Trees of NumPy arrays; the masks are boolean, None at dense leaves.

    Raises:
      ValueError: it is no such file, or damaged, or its leaves are not those of ``like``.
      OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        try:
            found = _read_members(file)
        except MemoryError:
            raise
        except Exception as error:  # a byte that has flipped may seem a password, a place in the file, or a compression
            raise ValueError(
                f"{os.fspath(path)} is no file of dstjax.exchange.save_npz, or is damaged: {error}."
            ) from None
    return trees_of(found, like, os.fspath(path))


def save_safetensors(path: str | os.PathLike[str], params: Tree, opt_state_or_masks: Tree | None = None) -> None:
    """Writes parameters to a file of safetensors: each leaf whole by its path, its mask as ``PATH.mask``, boolean.

    Whoever reads safetensors can read the file. :func:`save_npz` makes smaller ones.

    Args:
      path: of the file, used as it is.
      params: tree of arrays, zero outside their masks.
      opt_state_or_masks: an optimiser state, or a tree of masks; None writes no masks.

    Raises:
      ValueError: safetensors is not installed, or has no such dtype; or as :func:`save_npz`.
      OSError: the file cannot be written.
    """
    writer = imported("safetensors.numpy", "dstjax.exchange.save_safetensors")
    errors = imported("safetensors", "dstjax.exchange.save_safetensors").SafetensorError
    weights = weights_of(params, opt_state_or_masks)
    if doubtful := [name for name in weights if name.removesuffix(_MASK) in weights and name.endswith(_MASK)]:
        raise ValueError(f"leaves {doubtful} would read as the masks of others; rename them.")
    masks = {name + _MASK: w.mask for name, w in weights.items() if w.mask is not None}
    tensors = {name: w.values for name, w in weights.items()} | masks
    for name, x in tensors.items():
        if x.dtype.name not in _TENSORS.values():
            raise ValueError(f"leaf {name!r} has dtype {x.dtype}, which safetensors cannot hold; use save_npz.")
    with _new_file(path) as new:
        try:
            writer.save_file({n: np.ascontiguousarray(x).reshape(x.shape) for n, x in tensors.items()}, new)
        except errors as error:
            raise OSError(f"{os.fspath(path)}: {error}") from None


def load_safetensors(path: str | os.PathLike[str], like: Tree | None = None) -> tuple[Tree, Tree]:
    """Returns the parameters and the masks of a file of safetensors, of :func:`save_safetensors` or another writer.

    Args:
      path: of the file.
      like: as in :func:`load_npz`.

    Raises:
      ValueError: safetensors is not installed; it is no such file, or damaged; a mask does not fit its weight; or its
        leaves are not those of ``like``.
      OSError: the file cannot be read.
    """
    library = imported("safetensors", "dstjax.exchange.load_safetensors")
    data = Path(path).read_bytes()
    try:
        tensors = {
            name: np.frombuffer(one["data"], jnp.dtype(_TENSORS[one["dtype"]])).reshape(one["shape"]).copy()
            for name, one in library.deserialize(data)
        }
    except (library.SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{os.fspath(path)} is no file of safetensors, or is damaged: {error}.") from None
    found = {}
    for name, values in tensors.items():
        if name.endswith(_MASK) and name.removesuffix(_MASK) in tensors:
            continue
        mask = tensors.get(name + _MASK)
        if mask is not None and (mask.dtype != bool or mask.shape != values.shape):
            raise ValueError(
                f"tensor {name + _MASK!r} of {os.fspath(path)} has shape {mask.shape} and dtype {mask.dtype}; expected "
                f"{values.shape} and bool, a mask of {name!r}."
            )
        found[name] = Weight(values, mask)
    return trees_of(found, like, os.fspath(path))


@contextlib.contextmanager
def _new_file(path: str | os.PathLike[str]) -> Iterator[str]:
    """A path to write at; what was written there takes the place of ``path`` where nothing went wrong."""
    if not (folder := Path(path).absolute().parent).is_dir():
        raise FileNotFoundError(f"{os.fspath(path)} cannot be written: {folder} is no folder that is there.")
    new = f"{os.fspath(path)}.{os.getpid()}.new"
    try:
        Path(new).touch()  # or the error is that of whoever writes
        yield new
        os.replace(new, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(new)


def _write_members(file: IO[bytes], arrays: dict[str, np.ndarray]) -> None:
    """Writes what ``numpy.load`` reads; ``numpy.savez`` would take some paths for arguments of its own."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as members:
        for name, array in arrays.items():
            with members.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _read_members(file: IO[bytes]) -> dict[str, Weight]:
    found = {}
    with np.load(file, allow_pickle=False) as members:

        def member(name: str) -> np.ndarray:
            found = members[name]
            if not isinstance(found, np.ndarray):
                raise ValueError(f"{name} is no array")
            return found

        header = json.loads(member(_HEADER).tobytes())
        if header["version"] != 1:
            raise ValueError(f"version {header['version']}, where 1 is known")
        for name, about in header["leaves"].items():
            shape, dtype = tuple(about["shape"]), jnp.dtype(about["dtype"])
            if not about["masked"]:
                found[name] = Weight(_from_bits(member(f"dense/{name}"), dtype).reshape(shape), None)
                continue
            size = int(np.prod(shape, dtype=np.int64))
            bits = member(f"mask/{name}")
            if bits.size != -(-size // 8):
                raise ValueError(f"{bits.size} bytes of mask for the {size} weights of {name!r}")
            mask = np.unpackbits(bits, count=size, bitorder="little").astype(bool).reshape(shape)
            active = _from_bits(member(f"values/{name}"), dtype)
            if active.shape != (np.count_nonzero(mask),):
                raise ValueError(f"{active.size} values for the {np.count_nonzero(mask)} active weights of {name!r}")
            values = np.zeros(shape, dtype)
            values[mask] = active
            found[name] = Weight(values, mask)
    return found


def _as_bits(x: np.ndarray) -> np.ndarray:
    """The array, or as unsigned integers where NumPy itself has no such dtype."""
    return x if x.dtype.isbuiltin == 1 else np.ascontiguousarray(x).reshape(x.shape).view(f"u{x.dtype.itemsize}")


def _from_bits(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if x.dtype.itemsize != dtype.itemsize:
        raise ValueError(f"{x.dtype} where {dtype} was written")
    return x.view(dtype)

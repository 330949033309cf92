"""Data sets by name. Nothing is ever downloaded here; ``python -m experiments.data prepare NAME`` may."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

from dstjax.checks import check_choice
from experiments.data import (
    cifar,
    digits,
    fashion_mnist,
    files,
    generated,
    higgs,
    imagenet,
    links,
    mnist5000,
    tiny_imagenet,
    voc,
)
from experiments.data.arrays import Data, Split
from experiments.data.streams import Batch, Position, Stream, batches, evaluation_batches

__all__ = [
    "DATASETS",
    "Batch",
    "Data",
    "Position",
    "Split",
    "Stream",
    "batches",
    "evaluation_batches",
    "load",
    "names",
    "stream",
]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """How a data set is read: all of it into memory, or batch by batch."""

    protocols: Mapping[str, str]  # what each one is, the default first
    load: Callable[..., Data] | None = None  # of root, protocol and perhaps samples
    stream: Callable[..., Stream] | None = None
    task: str = "classification"  # 'detection': batches have boxes and labels, and no y


_OWN = {"paper": "one permutation of a seed, cut in three"}
DATASETS: dict[str, Dataset] = {
    "digits": Dataset(_OWN, lambda root, protocol: Data(*digits.load())),
    "mnist5000": Dataset(_OWN, lambda root, protocol: mnist5000.load()),
    "tabular": Dataset(_OWN, lambda root, protocol: generated.tabular()),
    "teacher": Dataset(_OWN, lambda root, protocol: generated.teacher()),
    "spectra": Dataset(_OWN, lambda root, protocol: generated.spectra()),
    "noisydigits": Dataset(_OWN, lambda root, protocol: generated.noisydigits()),
    "cluttereddigits": Dataset(_OWN, lambda root, protocol: generated.cluttereddigits()),
    "blockgraph": Dataset({"paper": links.PROTOCOLS["paper"]}, lambda root, protocol: links.blockgraph()),
    "cifar10": Dataset(cifar.PROTOCOLS, functools.partial(cifar.load, "cifar10")),
    "cifar100": Dataset(cifar.PROTOCOLS, functools.partial(cifar.load, "cifar100")),
    "fashion_mnist": Dataset(fashion_mnist.PROTOCOLS, fashion_mnist.load),
    "higgs": Dataset(higgs.PROTOCOLS, higgs.load),
    "higgs_uci": Dataset(higgs.PROTOCOLS, higgs.load_uci),
    "imagenet": Dataset(imagenet.PROTOCOLS, stream=imagenet.stream),
    "tiny_imagenet": Dataset(tiny_imagenet.PROTOCOLS, stream=tiny_imagenet.stream),
    "voc": Dataset(voc.PROTOCOLS, stream=voc.stream, task="detection"),
    "ia_email": Dataset(links.PROTOCOLS, functools.partial(links.load, "ia_email")),
    "wiki_talk": Dataset(links.PROTOCOLS, functools.partial(links.load, "wiki_talk")),
}


def names() -> list[str]:
    """All data sets."""
    return list(DATASETS)


def load(
    name: str, *, root: str | os.PathLike[str] | None = None, protocol: str | None = None, samples: Any = None
) -> Data:
    """A data set that fits in memory.

    Args:
      name: see :func:`names`.
      root: the folder of data sets; None: the environment's DSTJAX_DATA, else ~/dstjax_data.
      protocol: which paper's split and preprocessing; None: 'paper'.
      samples: how many the files hold, where they are a part of the data set; see its module.

    Raises:
      ValueError: no such data set or protocol; files that are missing, damaged or of another data set; or one that does
        not fit in memory.
    """
    check_choice("dataset", name, DATASETS)
    found = DATASETS[name]
    if found.load is None:
        raise ValueError(f"dataset {name!r} does not fit in memory; use experiments.data.stream({name!r}).")
    return found.load(**_arguments(found, root, protocol, samples))


def stream(
    name: str, *, root: str | os.PathLike[str] | None = None, protocol: str | None = None, samples: Any = None
) -> Stream:
    """A data set to be read batch by batch, see :func:`batches` and :func:`evaluation_batches`.

    Args and errors: see :func:`load`.
    """
    check_choice("dataset", name, DATASETS)
    found = DATASETS[name]
    if found.stream is None:
        raise ValueError(f"dataset {name!r} fits in memory; use experiments.data.load({name!r}).")
    return found.stream(**_arguments(found, root, protocol, samples))


def _arguments(found: Dataset, root: Any, protocol: str | None, samples: Any) -> dict[str, Any]:
    protocol = next(iter(found.protocols)) if protocol is None else protocol
    check_choice("protocol", protocol, found.protocols)
    return {"root": files.directory(root), "protocol": protocol, **({} if samples is None else {"samples": samples})}

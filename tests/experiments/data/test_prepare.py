import hashlib
import re
import socket
import zipfile

import numpy as np
import pytest

from experiments import data
from experiments.data import __main__ as command
from experiments.data import cifar, downloads
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


def test_a_download_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    class Answer:
        headers = {"Content-Length": "100"}  # noqa: RUF012
        blocks = [b"x" * 60, b""]  # noqa: RUF012

        def __enter__(self):
            return self

        def __exit__(self, *args):
            pass

        def read(self, size):
            return self.blocks.pop(0)

    monkeypatch.setattr(downloads.urllib.request, "urlopen", lambda *args, **kwargs: Answer())
    with pytest.raises(ValueError, match="broke off after 60 of 100 bytes"):
        downloads.fetch(File("https://example.org/a", "a"), tmp_path)
    assert not (tmp_path / "a").exists()


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

"""Gets data sets, or says where to get them.

    python -m experiments.data list [--root DIR]
    python -m experiments.data prepare NAME [--root DIR]

``list`` says of each data set whether it is there and which protocols it has. ``prepare`` reads the data set, which
checks it; where it is not all there downloads it; where that cannot be done says what to put where. DIR: the
environment's DSTJAX_DATA, else ~/dstjax_data.

Exit status: 0; 1 where the data set is not there in the end; 2 for wrong arguments.
"""

import importlib.util
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

from dstjax.checks import check_choice
from experiments import command_line, data
from experiments.data import downloads, files


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line.parser("data", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("list", "prepare"):
        options = commands.add_parser(command)
        options.add_argument("--root")
        if command == "prepare":
            options.add_argument("name")
    given = parser.parse_args(arguments)
    root = files.directory(given.root)
    if given.command == "list":
        _list(root)
        return 0
    try:
        check_choice("dataset", given.name, data.DATASETS)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return _prepare(given.name, root)


def _list(root: Path) -> None:
    for name, dataset in data.DATASETS.items():
        source = downloads.SOURCES[name]
        always = not (source.accepted or source.package)
        state = "always there" if always else "there" if is_there(name, root) else "not there"
        print(f"{name:16} {state:13} {source.title}")
        for protocol, meaning in dataset.protocols.items():
            print(f"{'':16} {protocol}: {meaning}")


def is_there(name: str, root: Path) -> bool:
    """Whether a data set has one of its files or folders, or its package, without reading it."""
    source = downloads.SOURCES[name]
    if source.package:
        return importlib.util.find_spec(source.package) is not None
    places = [place.split()[0].removesuffix("/VERSION") for place in source.accepted]
    patterns = [place.replace("NAME", "*").replace("/WNID/*.JPEG", "") for place in places]
    found = itertools.chain.from_iterable(root.glob(pattern) for pattern in patterns)
    return any(not path.is_dir() or any(path.iterdir()) for path in found)  # an empty folder holds nothing


def _prepare(name: str, root: Path) -> int:
    dataset, source = data.DATASETS[name], downloads.SOURCES[name]
    read = data.load if dataset.load is not None else data.stream
    try:
        try:
            print(read(name, root=root).provenance)
        except ValueError as error:
            if not source.files:
                raise
            if is_there(name, root):
                print(f"what is there cannot be used: {error}", file=sys.stderr)
            for file in source.files:
                print(f"{file.url} -> {root / file.path}", flush=True)
                downloads.fetch(file, root)
            print(read(name, root=root).provenance)
    except (ValueError, OSError) as error:
        print(f"{error}\n\n{downloads.instructions(name, root)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    command_line.start(main)

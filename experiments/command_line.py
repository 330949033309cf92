"""Commands, and their command lines of the form ``--config FILE --config.field=value --option=value``."""

import argparse
import ast
import importlib.util
import inspect
import io
import json
import os
import re
import signal
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from experiments import stopping

if TYPE_CHECKING:  # imports of seconds are left to what needs them, so that --help is quick
    from ml_collections import ConfigDict


_PLACES = ("workdir", "out", "root", "table")  # options that name a file or folder: ~ is the home directory


def start(main: Callable[..., int], *arguments: Sequence[str]) -> NoReturn:
    """Ends the process with the status of a command, with a line in place of a traceback.

    That is for ^C, 130, where the command has no words of its own, and for output that nobody reads on, 2.
    """
    for name in ("stdout", "stderr"):  # None where the caller has closed it
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console that lacks a letter does not end hours of work
    try:
        try:
            status: Any = main(*arguments)
        except SystemExit as ended:  # help was printed
            status = ended.code
        sys.stdout.flush()
    except BrokenPipeError as error:
        status = failed(error, 2)
    except KeyboardInterrupt:
        status = _interrupted(signal.SIGINT, "ended before all was done.")
    sys.exit(status)


def run(
    arguments: Sequence[str],
    doc: str | None,
    work: Callable[[Sequence[str]], int],
    interrupted: str,
    *,
    fields: bool = False,
) -> int:
    """Runs a command and returns its exit status; ``--help`` prints ``doc``, an error is a line and status 2."""
    if {"-h", "--help"} & {*arguments}:
        print(f"{(doc or '').strip()}\n\n{fields_help()}" if fields else (doc or "").strip())
        return 0
    program = getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", "").startswith("experiments.")
    with stopping.watching(interrupted, program=program):
        try:
            status = work(arguments)
            sys.stdout.flush()
            return status
        except (ValueError, OSError) as error:
            return failed(error, 2)
        except KeyboardInterrupt as error:
            number, said = getattr(error, "number", signal.SIGINT), getattr(error, "said", "")
            return _interrupted(number, f"{said}{'; ' * bool(said)}{interrupted}")


def _interrupted(number: int, said: str) -> int:
    """Prints what a signal did; returns the exit status."""
    start = "\n" if sys.stderr.isatty() else ""  # a line may have begun
    print(f"{start}{signal.Signals(number).name}: {said}", file=sys.stderr)
    return 128 + number


def fields_help() -> str:
    """The fields of a config as ``experiments/configs/base.py`` lists them, with their defaults and comments.

    The file is read, not run, since the hyper-parameters of all methods take seconds to import.
    """
    entries: dict[str, str] = {}
    for line in (Path(__file__).parent / "configs" / "base.py").read_text().splitlines():
        found = re.match(r"    config\.([\w.]+) = (.*?)(?:  # (.*))?$", line)
        if found is None or found[2] == "ConfigDict()":
            continue
        name, default, comment = found.groups()
        default = "None" if "placeholder" in default else default.strip('"')
        shown = f"  --config.{name}={default}"
        comment = comment or entries.get(name, "").partition("\0")[2]  # a placeholder of a type, then its value
        entries[name] = f"{shown:<38}\0{comment}"
    lines = []
    for entry in entries.values():
        lines += textwrap.wrap(entry.replace("\0", " ").rstrip(), 80, subsequent_indent=" " * 39)
    return "\n".join(
        [
            "Fields of a config and their values where an experiment does not set them:",
            *lines,
            "Besides, every hyper-parameter of the method, as in --config.sparsity=0.95 or",
            "--config.drop_fraction=0.3; docs/hyper-parameters.md lists them.",
        ]
    )


def integers(name: str, value: str | None) -> tuple[int, ...] | None:
    """The numbers of an option such as 64,128.

    Raises:
      ValueError: they are none, or not positive.
    """
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"{name}={value!r} is not accepted; expected positive integers such as 64,128.")
    return tuple(int(part) for part in parts)


def failed(error: Exception, status: int) -> int:
    """Prints an error on one line; returns the exit status."""
    if isinstance(error, BrokenPipeError):  # what is left in the buffer would fail again at the very end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def parser(command: str, doc: str | None) -> argparse.ArgumentParser:
    """For commands without a config, whose options have types and help of their own."""
    return argparse.ArgumentParser(
        f"python -m experiments.{command}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def read(arguments: Sequence[str], names: Iterable[str], flags: Iterable[str] = ()) -> dict[str, str]:
    """The options of a command line by name; the last of several equal ones wins.

    Args:
      arguments: ``--name=value`` or ``--name value``, and flags ``--name``.
      names: options with a value; one that ends in a dot stands for all names that begin so.
      flags: options without one, which are '' where they are given.

    Raises:
      ValueError: an argument is unknown, has no value, or is a flag with one.
    """
    names, flags = list(names), list(flags)
    sections = tuple(name for name in names if name.endswith("."))
    given = {}
    rest = iter(arguments)
    for argument in rest:
        option, equals, value = argument.partition("=")
        if not option.startswith("--"):
            raise ValueError(f"unexpected argument {argument!r}; every option is written --name=value.")
        name = option[2:]
        if name in flags:
            if equals:
                raise ValueError(f"option {option} takes no value; got {value!r}.")
        elif name in names or name.startswith(sections):
            value = value if equals else next(rest, "--")
            if not equals and value.startswith("--"):
                raise ValueError(f"option {option} has no value; write {option}=value.")
        else:
            known = [f"--{n}" for n in (*names, *flags) if n not in sections]
            from dstjax.checks import suggest

            raise ValueError(f"option {option!r} is not known; {suggest(option, known)}")
        given[name] = os.path.expanduser(value) if name in _PLACES else value
    return given


def parse(
    arguments: Sequence[str], options: Mapping[str, str | None]
) -> "tuple[ConfigDict, ConfigDict, dict[str, str]]":
    """Reads a command line with a config.

    Args:
      arguments: see :func:`read`.
      options: the options beside ``--config`` and their default values; None where one must be given.

    Returns:
      The config; the config as the file makes it, before the command line changed it; the options.

    Raises:
      ValueError: an argument is missing, unknown or has a value that is not accepted.
    """
    given = read(arguments, ["config", *options, "config."])
    fields = {n.removeprefix("config."): given.pop(n) for n in [*given] if n.startswith("config.")}
    for name in ("config", *options):
        if not given.get(name) and not (name not in given and options.get(name)):
            raise ValueError(f"option --{name} is missing.")
    proxy = fields.pop("proxy", "False")
    if proxy.lower() not in ("true", "false", "0", "1"):
        raise ValueError(f"proxy={proxy!r} is not accepted; expected True or False.")
    small = proxy.lower() in ("true", "1")
    config, defaults = load(given["config"], proxy=small), load(given.pop("config"), proxy=small)
    for name, text in fields.items():
        set_field(config, name, text)
    return config, defaults, {**{n: v for n, v in options.items() if v is not None}, **given}


def load(path: str, *, proxy: bool = False) -> "ConfigDict":
    """The config that ``get_config()`` of a file makes, or ``get_config(proxy=True)``.

    Raises:
      ValueError: the file is missing, fails, or has no such function, or no proxy where one is asked for.
    """
    from ml_collections import ConfigDict

    if not Path(path).is_file():
        raise ValueError(f"config file {path!r} is not there.")
    spec = importlib.util.spec_from_file_location("experiment_config", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"config file {path!r} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        takes_proxy = "proxy" in inspect.signature(module.get_config).parameters
        config = module.get_config(proxy=True) if proxy and takes_proxy else module.get_config()
    except Exception as error:
        raise ValueError(f"config file {path!r} fails: {type(error).__name__}: {error}.") from error
    if not isinstance(config, ConfigDict):
        raise ValueError(f"config file {path!r}: get_config() returns no ConfigDict.")
    if proxy and not takes_proxy:
        raise ValueError(f"config file {path!r} has no proxy; leave proxy out.")
    return config.lock()


def set_field(config: "ConfigDict", name: str, text: str) -> None:
    """Sets one field, ``section.field`` for a nested one, to a value as it is typed on a command line.

    Raises:
      ValueError: there is no such field, or it is of another type.
    """
    from ml_collections import ConfigDict

    from dstjax.checks import suggest

    *sections, last = name.split(".")
    section: Any = config
    for part in (*sections, last):
        if not isinstance(section, ConfigDict) or part not in section:
            names = list(section) if isinstance(section, ConfigDict) else []
            raise ValueError(f"config field {name!r} is not known; {suggest(part, names)}")
        parent, section = section, section[part]
    if isinstance(section, ConfigDict):
        raise ValueError(f"config field {name!r} is a section; set one of {', '.join(f'{name}.{n}' for n in section)}.")
    kind = parent.get_type(last)
    try:
        parent[last] = _value(text, kind)
    except (TypeError, ValueError, SyntaxError) as error:
        expected = "a number, a text, or a list of them" if kind is object else f"a value of type {kind.__name__}"
        raise ValueError(f"{name}={text!r} is not accepted; expected {expected}.") from error


def _value(text: str, kind: type) -> Any:
    if text in ("None", "none"):
        return None
    if kind is str:
        return text
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    if kind is int:
        return int(text)
    if kind is float:
        return float(text)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    json.dumps(value)  # a set, or bytes, would be found when the config is written
    return (value,) if kind is tuple and not isinstance(value, tuple | list) else value

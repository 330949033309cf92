import subprocess
import sys

import pytest

from experiments import command_line


def test_options_with_and_without_a_value():
    given = command_line.read(["--a=1", "--b", "2", "--flag", "--part.x=3", "--a", "4"], ("a", "b", "part."), ("flag",))
    assert given == {"a": "4", "b": "2", "flag": "", "part.x": "3"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--flag=1"], "option --flag takes no value; got '1'"),
        (["--a", "--flag"], "option --a has no value"),
        (["--a"], "option --a has no value"),
        (["--flagg"], "option '--flagg' is not known; did you mean '--flag'"),
        (["--part"], "option '--part' is not known"),
        (["a"], "unexpected argument 'a'"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        command_line.read(arguments, ("a", "part."), ("flag",))


def test_places_may_be_in_the_home_directory(monkeypatch):
    monkeypatch.setenv("HOME", "/home/of")
    given = command_line.read(["--workdir=~/runs", "--table", "~/t.json", "--text=~"], ("workdir", "table", "text"))
    assert given == {"workdir": "/home/of/runs", "table": "/home/of/t.json", "text": "~"}


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_command_whose_output_is_closed_runs(closed):
    program = "from experiments import command_line; import sys; "
    program += "command_line.start(lambda: print(1) or print(2, file=sys.stderr) or sys.stderr.isatty() or 7)"
    assert subprocess.run(f'"{sys.executable}" -c "{program}" {closed}', shell=True).returncode == 7


def test_a_command_ends_with_the_status_of_what_happened(capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    assert command_line.run([], "doc", lambda arguments: 3, "again") == 3
    assert command_line.run(["-h"], "doc", interrupted, "again") == 0
    assert command_line.run([], "doc", interrupted, "again") == 130
    assert command_line.run([], "doc", lambda arguments: int("x\n y"), "again") == 2
    printed = capsys.readouterr()
    assert printed.out == "doc\n"
    assert printed.err.splitlines()[0] == "SIGINT: again"
    assert printed.err.splitlines()[1].startswith("error: invalid literal")


def test_a_command_without_last_words_ends_with_a_line(capsys):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match="130"):
        command_line.start(interrupted)
    assert capsys.readouterr().err == "SIGINT: ended before all was done.\n"


@pytest.mark.parametrize("command", ["data list", "train --help", "compact --help"])
def test_a_reader_that_has_gone_is_an_error_in_one_line(command):
    """As ``| head -1`` may leave it."""
    program = [sys.executable, "-m", *f"experiments.{command}".split()]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        running.stdout.close()
        assert running.stderr.read().decode().splitlines() == ["error: [Errno 32] Broken pipe"]
    assert running.returncode == 2

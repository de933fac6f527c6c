"""The frame of the command line, and the command ``formats``."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import types

import pytest
import typer
from rich.text import Text

import limprec
from limprec.cli import COMMANDS, main
from limprec.cli.frame import run
from limprec.errors import DataError
from limprec.formats import GRAMMAR, NAMED_FLOATS, NAMED_FORMATS, parse_format

CONSOLE = [sys.executable, "-c", "import sys; from limprec.cli import main; sys.exit(main())"]


def shell(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, as a shell would."""
    return subprocess.run(
        [*CONSOLE, *argv],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture
def fake(monkeypatch):
    """Return a function that makes a table of one command, ``fake``, out of a function."""

    def make(function):
        module = types.ModuleType("limprec_fake_command")
        module.fake = function
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return {"fake": module.__name__}

    return make


def test_formats_lists_every_name_and_the_grammar(capsys):
    assert main(["formats"]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert set(NAMED_FORMATS) <= set(rows)
    for name, fmt in NAMED_FLOATS.items():
        assert rows[name][3] == str(fmt.bits)
        assert float(rows[name][5]) == pytest.approx(fmt.max, rel=1e-5)
        assert float(rows[name][6]) == pytest.approx(fmt.smallest, rel=1e-5)
    assert all(pattern in out for pattern in GRAMMAR)


def test_formats_as_json(capsys):
    assert main(["formats", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer) == {"formats", "grammar"}
    assert set(answer["formats"]) == set(NAMED_FORMATS)
    assert answer["formats"]["e4m3"]["max"] == 448.0
    assert answer["grammar"] == GRAMMAR


@pytest.mark.parametrize(
    ("name", "count", "largest"),
    [
        ("e4m3", 253, 448.0),
        ("e5m2", 247, 57344.0),
        ("e2m1", 15, 6.0),
        ("e5m2ieee-nosub", 241, 57344.0),
        ("fx8.4", 256, 7.9375),
        ("ufx3.0", 8, 7.0),
        ("dfx4", 15, 7.0),
        ("dfx4:stochastic", 15, 7.0),
        ("bf16", None, None),
        ("fx9.0", None, None),
    ],
)
def test_one_format_as_json(capsys, name, count, largest):
    assert main(["formats", name, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["name"] == name
    assert answer["bits"] == parse_format(name.partition(":")[0]).bits
    if count is None:
        assert answer["values"] is None
    else:
        values = answer["values"]
        assert len(set(values)) == len(values) == count
        assert values == sorted(values)
        assert values[-1] == largest


def test_one_format_for_people(capsys):
    assert main(["formats", "e2m1"]) == 0
    out = capsys.readouterr().out
    rows = dict(line.split("  ", 1) for line in out.splitlines() if "  " in line)
    assert rows["kind"].strip() == "floating point"
    assert (
        rows["values"].strip() == "15: -6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6"
    )
    assert main(["formats", "dfx8:stochastic"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("dfx8:stochastic\n")
    rows = dict(line.split("  ", 1) for line in out.splitlines() if "  " in line)
    assert rows["code max"].strip() == "127"
    assert rows["rounding"].strip() == "stochastic"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["guidline"],
            "No such command 'guidline'. Did you mean 'guideline'? (see limprec --help)",
        ),
        (["--foo"], "No such option: --foo (see limprec --help)"),
        (["guideline", "--clases", "3"], "--classes) (see limprec guideline --help)"),
        (["guideline"], "guideline: no number of classes; give --classes, --counts, --model or"),
        (["guideline", "--classes"], "'--classes'"),
        (["guideline", "--classes", "abc"], "Invalid value 'abc' for '--classes'"),
        (["guideline", "--classes=1.5"], "Invalid value '1.5' for '--classes'"),
        (["guideline", "--classes", "1"], "guideline: num_classes is 1; give an integer from 2"),
        (
            ["guideline", "--classes", "9", "--family", "q"],
            "'q' is not one of 'fixed', 'float'",
        ),
        (["guideline", "--classes", "9", "--rounding", "even"], "'even' is not one of 'nearest'"),
        (["guideline", "--classes", "9", "--loss-scale", "nan"], "loss_scale is nan; give a posi"),
        (["guideline", "--classes", "9", "--mantissa-bits", "3"], "mantissa_bits with family"),
        (["formats", "e9"], "parse_format: unknown format 'e9'; write e.g. dfx8"),
        (["formats", "dfx1"], "DynamicFixedPoint: 1 bits; give an integer from 2 to 54"),
        (["formats", "dfx8:even"], "rounding: unknown rounding 'even'; use one of nearest"),
        (["formats", "a\nb"], "unknown format 'a\\nb'"),
        (["formats", "e4m3", "e5m2"], "extra argument"),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line_and_code_2(capsys, argv, message):
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("limprec: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert "Value error" not in err


def test_bad_input_in_a_process_of_its_own():
    done = shell("formats", "e9")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_help(capsys):
    texts = []
    for argv in ([], ["--help"], ["-h"]):
        assert main(argv) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] == texts[2]
    assert all(f"\n  {name} " in texts[0] for name in COMMANDS)
    assert "completion" not in texts[0]
    assert "..." not in texts[0].replace("[ARGS]...", "")  # no summary was cut off
    for name in COMMANDS:
        assert main([name, "--help"]) == 0
        text = capsys.readouterr().out
        assert text.startswith(f"Usage: limprec {name} ")
        assert "completion" not in text
        assert max(map(len, text.splitlines())) <= 80


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"limprec {limprec.__version__}\n"


@pytest.mark.parametrize(
    "argv",
    [
        ["guideline", "--classes", "50257"],
        ["guideline", "--classes", "1000", "--family", "float", "--loss-scale", "1024"],
        ["guideline", "--classes", "1000", "--family", "mx", "--chart"],
        ["formats"],
        ["formats", "e4m3"],
        ["formats", "dfx6"],
    ],
    ids=" ".join,
)
def test_eighty_columns_on_a_terminal_and_no_colours_in_a_pipe(argv):
    terminal = shell(*argv, FORCE_COLOR="1", COLUMNS="80", TERM="xterm-256color").stdout
    lines = Text.from_ansi(terminal).plain.splitlines()
    assert "\x1b[" in terminal
    assert 40 < max(len(line.rstrip()) for line in lines) <= 80
    assert "…" not in terminal  # nothing was cut off
    environment = {k: v for k, v in os.environ.items() if k != "FORCE_COLOR"}
    piped = subprocess.run([*CONSOLE, *argv], capture_output=True, check=True, env=environment)
    piped.stdout.decode("ascii")
    assert b"\x1b" not in piped.stdout


def test_what_needs_no_torch_does_not_import_it():
    code = (
        "import sys; from limprec.cli import main\n"
        "for argv in (['--help'], ['guideline', '--classes', '9'], ['formats']):\n"
        "    assert main(argv) == 0\n"
        "heavy = {'torch', 'numpy', 'lightning', 'torchvision'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("buffered", [True, False])
def test_a_closed_pipe_is_quiet(buffered):
    with subprocess.Popen(
        [*CONSOLE, "formats", "fx8.4", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"},
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


def test_a_pipe_that_closes_while_a_command_prints(fake, capsys):
    def command() -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    assert run(fake(command), ["fake"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("by", ["keyboard", "lightning", "end of input"])
def test_an_interrupt_is_one_line_and_code_130(fake, capsys, by):
    def command() -> None:
        if by == "end of input":
            raise EOFError
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            if by == "lightning":
                sys.exit(1)
            raise

    assert run(fake(command), ["fake"]) == 130
    out, err = capsys.readouterr()
    assert out.strip() == ""
    assert err.strip() == "limprec: interrupted"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DataError("load", "no folder 'x'", "make it"), 2, "error: load: no folder 'x'; make it"),
        (DataError("load", "two\nlines", "make one"), 2, "error: load: two lines; make one"),
        (FileNotFoundError(2, "No such file", "x.toml"), 2, "error: x.toml: No such file"),
        (PermissionError(13, "Permission denied", "/x"), 2, "error: /x: Permission denied"),
        (
            ModuleNotFoundError("No module named 'lightning'", name="lightning"),
            2,
            "error: this command needs the package lightning; install it with: pip install",
        ),
        (typer.BadParameter("not so"), 2, "error: Invalid value: not so (see limprec fake --help)"),
        (RuntimeError("oh\nno"), 1, "error: unexpected RuntimeError: oh no; this is a bug"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_becomes_of_errors(fake, capsys, monkeypatch, error, code, message):
    monkeypatch.delenv("LIMPREC_TRACEBACK", raising=False)

    def command() -> None:
        raise error

    assert run(fake(command), ["fake"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"limprec: {message}")


def test_the_traceback_of_a_bug_on_request(fake, capsys, monkeypatch):
    monkeypatch.setenv("LIMPREC_TRACEBACK", "1")

    def command() -> None:
        raise ZeroDivisionError("here")

    assert run(fake(command), ["fake"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("limprec: error: unexpected ZeroDivisionError: here")


def test_a_command_may_choose_its_code(fake):
    def command() -> None:
        raise typer.Exit(3)

    assert run(fake(command), ["fake"]) == 3


def test_without_the_packages_of_the_command_line(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "limprec.cli.frame", raising=False)
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(ModuleNotFoundError):
        import typer as _  # noqa: F401
    assert main(["--help"]) == 2
    err = capsys.readouterr().err
    assert err == (
        "limprec: error: the command line needs typer;"
        " install it with: pip install 'limprec[lab]'\n"
    )

"""The frame around the commands: the app, and what becomes of errors."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.main import get_command

from ..errors import LimprecError

TRACEBACK_VARIABLE = "LIMPREC_TRACEBACK"
"""Environment variable that asks for the traceback of a bug."""

# Typer used to import click and now brings its own copy, under a private name: this is the base of
# the errors of whichever it uses.
_UsageError: type[Exception] = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)


def run(commands: Mapping[str, str], argv: Sequence[str]) -> int:
    """Run one command and return the exit code; print one line on standard error if it failed.

    Args:
        commands: command name -> module, as ``limprec.cli.COMMANDS``.
        argv: the arguments; none at all asks for help.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = partial(_show_warning, warnings.showwarning)
            code = _invoke(commands, list(argv) or ["--help"])
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _silence_stdout()
        return 0
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except LimprecError as error:
        return _fail(f"error: {error}", 2)
    except _UsageError as error:
        return _fail(f"error: {_usage(error, argv)}", 2)
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        return _fail(f"error: {what}{error.strerror or error}", 2)
    except ModuleNotFoundError as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            traceback.print_exc()
        return _fail(
            f"error: this command needs the package {error.name};"
            " install it with: pip install 'limprec[lab]'",
            2,
        )
    except Exception as error:  # the last resort, so that a bug shows one line too
        if os.environ.get(TRACEBACK_VARIABLE):
            traceback.print_exc()
        return _fail(
            f"error: unexpected {type(error).__name__}: {error}; this is a bug,"
            f" please report it with what {TRACEBACK_VARIABLE}=1 shows",
            1,
        )


def _invoke(commands: Mapping[str, str], argv: list[str]) -> int:
    """Parse and run; the code is 0 unless a command asked for another with ``typer.Exit``."""
    command = get_command(build(commands))
    try:
        code = command.main(args=argv, prog_name="limprec", standalone_mode=False)
    except SystemExit as ended:
        # Typer ends the process on a broken pipe, Lightning on an interrupt, each with code 1.
        if isinstance(ended.__context__, BrokenPipeError | KeyboardInterrupt):
            raise ended.__context__ from None
        raise
    if code == 130:
        # Typer turns an interrupt into an exit with this code.
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def build(commands: Mapping[str, str]) -> typer.Typer:
    """Return the app: the commands of the table under the options of ``limprec`` itself."""
    app = typer.Typer(
        name="limprec",
        help="Train deep neural networks in limited precision, and know how many bits are enough.",
        epilog="limprec COMMAND --help tells more of a command.",
        add_completion=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_limprec)
    for name, module in commands.items():
        function = getattr(import_module(module), name)
        # Given as it stands the first paragraph is wrapped in the list; left to typer it is cut.
        summary = " ".join((function.__doc__ or "").strip().partition("\n\n")[0].split())
        app.command(name, short_help=summary)(function)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"limprec {__version__}")
        raise typer.Exit


def _limprec(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Take the options of ``limprec`` itself."""


def _usage(error: Exception, argv: Sequence[str]) -> str:
    """Return what was wrong with the arguments, and where to read how they go."""
    text = " ".join(getattr(error, "format_message", error.__str__)().split()).rstrip(".")
    text = text.replace("Value error, ", "")  # pydantic's, in newer typers
    for option in getattr(getattr(error, "param", None), "opts", ()):
        value = _given(option, argv)
        if value is not None and repr(value) not in text:
            text = text.replace("Invalid value", f"Invalid value {value!r}", 1)
    context = getattr(error, "ctx", None)
    return f"{text} (see {context.command_path} --help)" if context else text


def _given(option: str, argv: Sequence[str]) -> str | None:
    """Return the value that an option got on the command line, if it is there."""
    for argument, following in zip(argv, [*argv[1:], None], strict=True):
        if argument == option:
            return following
        if argument.startswith(f"{option}="):
            return argument.removeprefix(f"{option}=")
    return None


def _fail(line: str, code: int) -> int:
    """Print one line, whatever the message held, and return the code."""
    with suppress(BrokenPipeError):
        print("limprec:", " ".join(line.split()), file=sys.stderr)
    return code


def _show_warning(
    usual: Callable[..., None], message: Warning | str, category: type[Warning], *rest: Any
) -> None:
    """Print a warning of ours in one line; the others as Python does."""
    if category.__module__.partition(".")[0] == "limprec":
        _fail(f"warning: {message}", 0)
    else:
        usual(message, category, *rest)


def _silence_stdout() -> None:
    """Let the interpreter's last flush go nowhere, where it would complain of the closed pipe."""
    with suppress(OSError):  # where standard output is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

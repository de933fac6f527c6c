"""The command line, one command a file.

**To add a command** ``limprec foo``:

1. Write ``cli/foo.py`` with one function ``foo``. Its parameters are the options (``Annotated``
   with ``typer.Option``), its docstring is the help. Only typer, ``limprec.errors``,
   ``limprec.formats`` and ``.output`` are imported at the top; all else, torch above all, inside
   the function, or ``limprec --help`` gets slow (a test watches).
2. Add ``"foo": "limprec.cli.foo"`` to ``COMMANDS`` below; the order there is the order in the help.

A command prints its result with the helpers of ``.output`` and raises ``LimprecError`` on bad
input; it catches nothing and never calls ``sys.exit``. ``main`` turns errors into one line on
standard error and an exit code:

==== ==========================================================
0    done
1    a failure that is not the user's: a bug; one line
2    bad input: options, values, files; one line
130  interrupted from the keyboard; one line
==== ==========================================================

A reader that closes the pipe early (``limprec formats | head -1``) ends a command quietly, with 0.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

COMMANDS: dict[str, str] = {
    "train": "limprec.cli.train",
    "compare": "limprec.cli.compare",
    "guideline": "limprec.cli.guideline",
    "cost": "limprec.cli.cost",
    "diagnose": "limprec.cli.diagnose",
    "search": "limprec.cli.search",
    "formats": "limprec.cli.formats",
}
"""Command name -> module; the function of the command bears the command's name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments after the program's name; None takes those of the process.

    Returns:
        The exit code, see above.
    """
    try:
        from .frame import run
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        print(
            f"limprec: error: the command line needs {error.name};"
            " install it with: pip install 'limprec[lab]'",
            file=sys.stderr,
        )
        return 2
    return run(COMMANDS, sys.argv[1:] if argv is None else argv)

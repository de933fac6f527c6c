"""Warnings of this package are one line on the command line; others are Python's own."""

import warnings

import pytest

from limprec.cli import frame
from limprec.errors import GuidelineWarning


def test_a_warning_of_ours_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn(commands: object, argv: object) -> int:
        warnings.simplefilter("always")
        warnings.warn("the last layer\n has 2 bits", GuidelineWarning, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)
        return 0

    usual: list[str] = []
    monkeypatch.setattr(frame, "_invoke", warn)
    monkeypatch.setattr(warnings, "showwarning", lambda message, *rest: usual.append(str(message)))
    assert frame.run({}, ["train"]) == 0
    assert capsys.readouterr().err == "limprec: warning: the last layer has 2 bits\n"
    assert usual == ["something else"]

"""One family of exceptions: a message gives the operation, the value and the remedy."""

from __future__ import annotations


class LimprecError(Exception):
    """Base of everything that limprec raises on purpose.

    Args:
        operation: what was being done, e.g. ``parse_format``.
        problem: what is wrong, with the offending value.
        remedy: what to write or do instead.

    The message is one line, ``operation: problem; remedy``; the parts stay readable as attributes.
    """

    def __init__(self, operation: str, problem: str, remedy: str) -> None:
        """Join the three parts into one line."""
        super().__init__(f"{operation}: {problem}; {remedy}")
        self.operation = operation
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[LimprecError], tuple[str, str, str]]:
        """Pickle by parts (worker processes send exceptions back)."""
        return type(self), (self.operation, self.problem, self.remedy)


class FormatError(LimprecError, ValueError):
    """A number format that does not exist, contradicts itself or does not fit its carrier."""


class KernelError(LimprecError, ValueError):
    """Arguments that a kernel cannot work on, or a backend that is not there."""


class PlanError(LimprecError, ValueError):
    """A precision plan that cannot be read, contradicts itself or matches no layer."""


class ConversionError(LimprecError, ValueError):
    """A model that cannot be converted as asked."""


class ConversionWarning(UserWarning):
    """A part of a model that multiplies and stays as it is under conversion."""


class OptimizerError(LimprecError, ValueError):
    """An optimizer that was given options, states or parameters that it cannot have."""


class GuidelineError(LimprecError, ValueError):
    """A question that the guideline or a bound has no answer to."""


class GuidelineWarning(UserWarning):
    """A plan that gives the classifier's error fewer bits than the guideline's least."""


class DiagnosisError(LimprecError, ValueError):
    """A diagnosis that cannot be made, or a file that holds none."""


class CostError(LimprecError, ValueError):
    """A cost that cannot be computed: a missing entry or a shape that cannot be traced."""


class IntegrationError(LimprecError, ImportError):
    """Another framework that is missing, or does not fit."""


class DataError(LimprecError, ValueError):
    """A data set that is missing, damaged or of the wrong layout."""


class LabError(LimprecError, ValueError):
    """A run of the lab that was described wrongly: unknown model, bad option, used output."""

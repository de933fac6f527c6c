"""How few bits are enough: the guideline for the last layer. Pure mathematics, no torch.

All of it is exact arithmetic on integers and fractions, and derived here: the paper's abstract says
that there is a lower bound and no more. One idea a module, each with its derivation: ``question``
(what the error looks like, noise, skewed classes), ``fixed``, ``floating`` and ``blocks`` (what the
families of formats make of it), ``logits`` and ``denominator`` (the softmax's inputs and its sum).
"""

from .answer import FAMILIES, REDUCTIONS, Family, Guideline, Reduction, guideline
from .exact import SHARE
from .widening import shortfall, widen
from .width import Width

__all__ = [
    "FAMILIES",
    "REDUCTIONS",
    "SHARE",
    "Family",
    "Guideline",
    "Reduction",
    "Width",
    "guideline",
    "shortfall",
    "widen",
]

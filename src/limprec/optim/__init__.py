"""Optimizers for parameters of few bits, one a file; ``kernels.steps`` holds the write-backs."""

from ..kernels.steps import WriteBack
from .accumulate import GradientAccumulator
from .adafactor import Adafactor
from .adam import Adam, AdamW
from .average import WeightAverage
from .lion import Lion
from .loss_scale import loss_scaler
from .muon import Muon
from .rmsprop import RMSprop
from .sgd import SGD
from .storage import StorageOptions
from .wrapper import WriteBackWrapper
from .writeback import UpdateEvent

__all__ = [
    "SGD",
    "Adafactor",
    "Adam",
    "AdamW",
    "GradientAccumulator",
    "Lion",
    "Muon",
    "RMSprop",
    "StorageOptions",
    "UpdateEvent",
    "WeightAverage",
    "WriteBack",
    "WriteBackWrapper",
    "loss_scaler",
]

"""Data for training: images decoded once into a memory-mapped cache, and text by characters.

``load_data(name)`` is the door; ``DATASETS`` says which names there are.
"""

from .batches import Batches, ImageBatches, TextBatches
from .dataset import DataSet
from .load import DATASETS, load_data
from .splits import ImageSplit, Split, TextSplit

__all__ = [
    "DATASETS",
    "Batches",
    "DataSet",
    "ImageBatches",
    "ImageSplit",
    "Split",
    "TextBatches",
    "TextSplit",
    "load_data",
]

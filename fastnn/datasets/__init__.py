"""Data sets: reading IDX files, finding or downloading MNIST and its kin, splitting and scaling.

It owns the files, their checksums and the preparation of arrays before training; batches, shuffling
and the 1/255 scaling of uint8 pixels during training are the trainer's.
"""

from fastnn.datasets.idx import DataError, read_idx
from fastnn.datasets.images import load_digits, load_fashion_mnist, load_mnist
from fastnn.datasets.split import one_hot, train_test_split
from fastnn.datasets.standardize import Standardize

__all__ = [
    "DataError",
    "Standardize",
    "load_digits",
    "load_fashion_mnist",
    "load_mnist",
    "one_hot",
    "read_idx",
    "train_test_split",
]

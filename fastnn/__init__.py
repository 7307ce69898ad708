"""Small neural networks on a CPU, trained and run fast: Python classes over SIMD C.

Owns the public names; each comes from the module that it is written in. Modules that need more
than NumPy are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from fastnn.backend import get_num_threads, set_num_threads, show_config, use_backend
from fastnn.callbacks import (
    Callback,
    CSVLogger,
    EarlyStopping,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceOnPlateau,
)
from fastnn.checks import DivergenceError
from fastnn.files import FileFormatError
from fastnn.history import History
from fastnn.initializers import (
    Constant,
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    HeUniform,
    Initializer,
    Ones,
    Orthogonal,
    RandomNormal,
    RandomUniform,
    Zeros,
)
from fastnn.layers import (
    GELU,
    GRU,
    LSTM,
    RNN,
    AvgPool2D,
    BatchNorm,
    Conv2D,
    ConvTranspose2D,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    GlobalAvgPool2D,
    Layer,
    LeakyGELU,
    LeakyReLU,
    Linear,
    MaxPool2D,
    ReLU,
    Reshape,
    Sigmoid,
    Softmax,
    Tanh,
    UpSample2D,
)
from fastnn.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    Huber,
    Loss,
    MeanAbsoluteError,
    MeanSquaredError,
)
from fastnn.model import Sequential
from fastnn.optimizers import SGD, Adam, AdamW, Optimizer, RMSProp
from fastnn.regularizers import L1, L1L2, L2, Regularizer
from fastnn.saving import load
from fastnn.schedules import CosineDecay, ExponentialDecay, Schedule, StepDecay, WarmUp

if TYPE_CHECKING:
    from fastnn import datasets as datasets
    from fastnn import metrics as metrics
    from fastnn import plots as plots

__version__ = "0.1.0"

_LAZY = ("datasets", "metrics", "plots")

__all__ = [
    "GELU",
    "GRU",
    "L1",
    "L1L2",
    "L2",
    "LSTM",
    "RNN",
    "SGD",
    "Adam",
    "AdamW",
    "AvgPool2D",
    "BatchNorm",
    "BinaryCrossEntropy",
    "CSVLogger",
    "Callback",
    "Constant",
    "Conv2D",
    "ConvTranspose2D",
    "CosineDecay",
    "CrossEntropy",
    "Dense",
    "DivergenceError",
    "Dropout",
    "EarlyStopping",
    "Embedding",
    "ExponentialDecay",
    "FileFormatError",
    "Flatten",
    "GlobalAvgPool2D",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "History",
    "Huber",
    "Initializer",
    "Layer",
    "LeakyGELU",
    "LeakyReLU",
    "LearningRateScheduler",
    "Linear",
    "Loss",
    "MaxPool2D",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "ModelCheckpoint",
    "Ones",
    "Optimizer",
    "Orthogonal",
    "RMSProp",
    "RandomNormal",
    "RandomUniform",
    "ReLU",
    "ReduceOnPlateau",
    "Regularizer",
    "Reshape",
    "Schedule",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "StepDecay",
    "Tanh",
    "UpSample2D",
    "WarmUp",
    "Zeros",
    "get_num_threads",
    "load",
    "set_num_threads",
    "show_config",
    "use_backend",
]


if not TYPE_CHECKING:  # to which any name would be one of ours

    def __getattr__(name: str) -> Any:
        if name in _LAZY:
            return importlib.import_module(f"fastnn.{name}")
        raise AttributeError(f"module 'fastnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])

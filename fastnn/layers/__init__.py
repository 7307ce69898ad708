"""Owns the layers: hyper-parameters, shapes, and which kernels forward and backward call.

Leaves weights' memory and the order of the calls to the model and the trainer.
"""

from fastnn.layers.activations import GELU, LeakyGELU, LeakyReLU, ReLU, Sigmoid, Softmax, Tanh
from fastnn.layers.base import Layer
from fastnn.layers.conv2d import Conv2D, ConvTranspose2D
from fastnn.layers.dense import Dense
from fastnn.layers.dropout import Dropout
from fastnn.layers.embedding import Embedding
from fastnn.layers.normalization import BatchNorm
from fastnn.layers.pool2d import AvgPool2D, GlobalAvgPool2D, MaxPool2D, UpSample2D
from fastnn.layers.recurrent import GRU, LSTM, RNN
from fastnn.layers.shape import Flatten, Linear, Reshape

__all__ = [
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "AvgPool2D",
    "BatchNorm",
    "Conv2D",
    "ConvTranspose2D",
    "Dense",
    "Dropout",
    "Embedding",
    "Flatten",
    "GlobalAvgPool2D",
    "Layer",
    "LeakyGELU",
    "LeakyReLU",
    "Linear",
    "MaxPool2D",
    "ReLU",
    "Reshape",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "UpSample2D",
]

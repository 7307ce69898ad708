"""Owns the layers that make images smaller or larger without weights: pooling and upsampling.

Leaves sizes of windows to ``fastnn.windows``.
"""

from collections.abc import Sequence
from types import ModuleType, SimpleNamespace

import numpy as np
from numpy.typing import DTypeLike

from fastnn.checks import Array, check_flag
from fastnn.layers.base import Layer
from fastnn.windows import check_image, resolve, to_padding, to_pair

__all__ = ["AvgPool2D", "GlobalAvgPool2D", "MaxPool2D", "UpSample2D"]


class Pool2D(Layer):
    """What the poolings share: windows over the image.

    Parameters
    ----------
    size : int or (int, int)
        Height and width of a window.
    stride : int or (int, int), optional
        From one window to the next; ``size`` by default.
    padding : {"valid", "same"}, int, or pair of int or of (before, after)
        Pixels around the image, at most half a window; ``"same"`` gives ``ceil(image / stride)``
        windows.
    """

    reads_output = False

    def __init__(
        self,
        size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: str | int | Sequence[int] | Sequence[Sequence[int]] = 0,
    ) -> None:
        self.size, self.stride, self.padding = size, stride, padding
        self._size = to_pair("size", size)
        self._stride = self._size if stride is None else to_pair("stride", stride)
        self._padding = to_padding("padding", padding)
        if not isinstance(self._padding, str) and any(
            max(sides) > window // 2
            for sides, window in zip(self._padding, self._size, strict=True)
        ):
            raise ValueError(
                f"padding: got {padding}, expected at most half the window, {self._size}"
            )

    def build(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        height, width, channels = check_image(input_shape)
        self._pad, windows = resolve(self._padding, (height, width), self._size, self._stride)
        return (*windows, channels)


class MaxPool2D(Pool2D):
    """Largest pixel of each window of an image, channel by channel.

    Pixels that no window has are left out: where windows do not divide the image, at its right and
    lower edge. Of equal pixels the first gets the gradient.

    Parameters
    ----------
    size : int or (int, int)
        Height and width of a window.
    stride : int or (int, int), optional
        From one window to the next; ``size`` by default.
    padding : {"valid", "same"}, int, or pair of int or of (before, after)
        Pixels around the image, at most half a window, which are never the largest; ``"same"``
        gives ``ceil(image / stride)`` windows.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or the input no image that is as large as a window.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.Sequential([fnn.MaxPool2D(2)], input_shape=(28, 28, 8)).output_shape
    (14, 14, 8)
    """

    records = True

    def saved(self, n: int, dtype: DTypeLike) -> dict[str, tuple[tuple[int, ...], DTypeLike]]:
        places = self._size[0] * self._size[1]
        return {"index": ((n, *self.output_shape), np.uint8 if places <= 256 else np.int32)}

    def forward(self, k: ModuleType, x: Array, out: Array, saved: SimpleNamespace) -> None:
        index = saved.index if saved.training else None
        k.maxpool2d_forward(x, self._size, self._stride, self._pad, index, out)

    def backward(
        self,
        k: ModuleType,
        dout: Array,
        x: Array,
        out: Array,
        dx: Array | None,
        saved: SimpleNamespace,
    ) -> None:
        if dx is not None:
            k.maxpool2d_backward(dout, self._size, self._stride, self._pad, saved.index, dx)


class AvgPool2D(Pool2D):
    """Mean of each window of an image, channel by channel.

    Parameters
    ----------
    size : int or (int, int)
        Height and width of a window.
    stride : int or (int, int), optional
        From one window to the next; ``size`` by default.
    padding : {"valid", "same"}, int, or pair of int or of (before, after)
        Zeros around the image, at most half a window; ``"same"`` gives ``ceil(image / stride)``
        windows.
    count_include_pad : bool
        Divide by the size of the window; otherwise by the number of its pixels in the image.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or the input no image that is as large as a window.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.Sequential([fnn.AvgPool2D(3, stride=2)], input_shape=(28, 28, 8)).output_shape
    (13, 13, 8)
    """

    records = True

    def __init__(
        self,
        size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: str | int | Sequence[int] | Sequence[Sequence[int]] = 0,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(size, stride, padding)
        self.count_include_pad = check_flag("count_include_pad", count_include_pad)

    def forward(self, k: ModuleType, x: Array, out: Array, saved: SimpleNamespace) -> None:
        k.avgpool2d_forward(x, self._size, self._stride, self._pad, self.count_include_pad, out)

    def backward(
        self,
        k: ModuleType,
        dout: Array,
        x: Array,
        out: Array,
        dx: Array | None,
        saved: SimpleNamespace,
    ) -> None:
        if dx is not None:
            k.avgpool2d_backward(
                dout, self._size, self._stride, self._pad, self.count_include_pad, dx
            )


class GlobalAvgPool2D(Layer):
    """Mean of each channel of an image: (H, W, C) becomes (C,).

    Raises
    ------
    ValueError
        If the input is no image.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.Sequential([fnn.GlobalAvgPool2D()], input_shape=(7, 7, 32)).output_shape
    (32,)
    """

    records = True
    reads_output = False

    def build(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        height, width, channels = check_image(input_shape)
        self._size = height, width
        return (channels,)

    def forward(self, k: ModuleType, x: Array, out: Array, saved: SimpleNamespace) -> None:
        pixels = out.reshape(len(out), 1, 1, -1)
        k.avgpool2d_forward(x, self._size, (1, 1), ((0, 0), (0, 0)), True, pixels)

    def backward(
        self,
        k: ModuleType,
        dout: Array,
        x: Array,
        out: Array,
        dx: Array | None,
        saved: SimpleNamespace,
    ) -> None:
        if dx is not None:
            pixels = dout.reshape(len(dout), 1, 1, -1)
            k.avgpool2d_backward(pixels, self._size, (1, 1), ((0, 0), (0, 0)), True, dx)


class UpSample2D(Layer):
    """Each pixel of an image several times (nearest neighbour).

    Parameters
    ----------
    size : int or (int, int)
        How often along each axis.

    Raises
    ------
    TypeError, ValueError
        If ``size`` is not as above, or the input is no image.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.Sequential([fnn.UpSample2D(2)], input_shape=(7, 7, 32)).output_shape
    (14, 14, 32)
    """

    records = True
    reads_output = False

    def __init__(self, size: int | Sequence[int] = 2) -> None:
        self.size = size
        self._size = to_pair("size", size)

    def build(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        height, width, channels = check_image(input_shape)
        return (height * self._size[0], width * self._size[1], channels)

    def forward(self, k: ModuleType, x: Array, out: Array, saved: SimpleNamespace) -> None:
        k.upsample2d_forward(x, self._size, out)

    def backward(
        self,
        k: ModuleType,
        dout: Array,
        x: Array,
        out: Array,
        dx: Array | None,
        saved: SimpleNamespace,
    ) -> None:
        if dx is not None:
            k.upsample2d_backward(dout, self._size, dx)

"""Owns the convolution layers of images, and the transposed ones.

Leaves sizes of windows to ``fastnn.windows``, and an activation to a layer of its own.
"""

from collections.abc import Sequence
from math import prod
from types import ModuleType, SimpleNamespace

from numpy.typing import DTypeLike

from fastnn.checks import Array, check_integer
from fastnn.initializers import Initializer
from fastnn.layers.base import Layer
from fastnn.layers.weighted import Weighted
from fastnn.regularizers import Regularizer
from fastnn.windows import check_image, resolve, to_padding, to_pair

__all__ = ["Conv2D", "ConvTranspose2D"]

_CHUNKS, _FEW_WEIGHTS = 8, 2048


def sums(
    n: int, image: int, weights: int, outputs: int, dtype: DTypeLike
) -> dict[str, tuple[tuple[int, ...], DTypeLike]]:
    """Declare space to sum the weights' gradients in chunks of the batch, one after the other.

    Threads share the chunks: of few weights, since those are not enough to share; of more where
    the images are larger, since each thread has its own images in its cache. ``image``: numbers
    of one, before and after.
    """
    few = weights <= _FEW_WEIGHTS
    if not few and 2 * weights > n * image:
        return {}
    return {"scratch": ((min(n, _CHUNKS if few else 2), weights + outputs), dtype)}


class Conv2D(Weighted):
    """Convolution of images: each filter is a weighted sum of a window, at every place.

    (H, W, C) becomes (H', W', K), ``H' = (H + padding - dilation * (KH - 1) - 1) // stride + 1``,
    padding being that of both sides.

    Parameters
    ----------
    filters : int
        Channels of the output.
    kernel_size : int or (int, int)
        Height and width of the window.
    stride : int or (int, int)
        From one window to the next.
    padding : {"valid", "same"}, int, or pair of int or of (before, after)
        Zeros around the image, rows and columns; ``"same"`` gives ``ceil(size / stride)`` windows.
    dilation : int or (int, int)
        From one pixel of a window to the next.
    activation : str or Layer, optional
        Sugar for the same layer after this one; it has its own index in the model.
    use_bias : bool
    kernel_initializer, bias_initializer : str or Initializer
    kernel_regularizer : str or Regularizer, optional
        Penalty on ``w``.

    Attributes
    ----------
    w : (KH, KW, C, K) float32
        From C channels to K filters.
    b : (K,) float32
        Absent without ``use_bias``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or the input no image that is as large as a window.

    Examples
    --------
    >>> import fastnn as fnn
    >>> layers = [fnn.Conv2D(8, 3, padding="same", activation="relu"), fnn.Conv2D(4, 3, stride=2)]
    >>> model = fnn.Sequential(layers, input_shape=(28, 28, 1))
    >>> model.output_shape, model.layers[0].w.shape
    ((13, 13, 4), (3, 3, 1, 8))
    """

    records = True
    reads_output = False

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: str | int | Sequence[int] | Sequence[Sequence[int]] = 0,
        dilation: int | Sequence[int] = 1,
        activation: str | Layer | None = None,
        *,
        use_bias: bool = True,
        kernel_initializer: str | Initializer = "glorot_uniform",
        bias_initializer: str | Initializer = "zeros",
        kernel_regularizer: str | Regularizer | None = None,
    ) -> None:
        super().__init__(
            activation, use_bias, kernel_initializer, bias_initializer, kernel_regularizer
        )
        self.filters = check_integer("filters", filters, 1)
        self.kernel_size = to_pair("kernel_size", kernel_size)
        self.stride = to_pair("stride", stride)
        self.padding = to_padding("padding", padding)
        self.dilation = to_pair("dilation", dilation)

    def build(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        height, width, channels = check_image(input_shape)
        self.pad, size = resolve(
            self.padding, (height, width), self.kernel_size, self.stride, self.dilation
        )
        self.add_kernel((*self.kernel_size, channels, self.filters), self.filters)
        return (*size, self.filters)

    def saved(self, n: int, dtype: DTypeLike) -> dict[str, tuple[tuple[int, ...], DTypeLike]]:
        image = prod(self.input_shape) + prod(self.output_shape)
        return sums(n, image, self.w.size, self.filters, dtype)

    def forward(self, k: ModuleType, x: Array, out: Array, saved: SimpleNamespace) -> None:
        k.conv2d_forward(x, self.w, self.b, self.stride, self.pad, self.dilation, out)

    def backward(
        self,
        k: ModuleType,
        dout: Array,
        x: Array,
        out: Array,
        dx: Array | None,
        saved: SimpleNamespace,
    ) -> None:
        k.conv2d_backward(
            dout,
            x,
            self.w,
            self.stride,
            self.pad,
            self.dilation,
            getattr(saved, "scratch", None),
            dx,
            self.dw,
            self.db,
        )


class ConvTranspose2D(Weighted):
    """Transposed convolution of images, which undoes the sizes of a ``Conv2D`` (PyTorch's).

    The output has ``(size - 1) * stride + kernel_size - 2 * padding + output_padding`` pixels.

    Parameters
    ----------
    filters : int
        Channels of the output.
    kernel_size : int or (int, int)
    stride : int or (int, int)
        From one pixel's window to the next one's, in the output.
    padding : {"valid"}, int, or pair of int or of (before, after)
        Pixels taken from the output's sides; ``"valid"`` is 0.
    output_padding : int or (int, int)
        Pixels that the output has more at the bottom and at the right, fewer than ``stride``.
    activation : str or Layer, optional
    use_bias : bool
    kernel_initializer, bias_initializer : str or Initializer
    kernel_regularizer : str or Regularizer, optional
        Penalty on ``w``.

    Attributes
    ----------
    w : (KH, KW, K, C) float32
        From C channels to K filters: as a ``Conv2D`` in the other direction has it.
    b : (K,) float32
        Absent without ``use_bias``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or the input is no image.

    Examples
    --------
    >>> import fastnn as fnn
    >>> layer = fnn.ConvTranspose2D(16, 3, stride=2, padding=1, output_padding=1)
    >>> fnn.Sequential([layer], input_shape=(7, 7, 32)).output_shape
    (14, 14, 16)
    """

    records = True
    reads_output = False

    def __init__(
        self,
        filters: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | Sequence[Sequence[int]] = 0,
        output_padding: int | Sequence[int] = 0,
        activation: str | Layer | None = None,
        *,
        use_bias: bool = True,
        kernel_initializer: str | Initializer = "glorot_uniform",
        bias_initializer: str | Initializer = "zeros",
        kernel_regularizer: str | Regularizer | None = None,
    ) -> None:
        super().__init__(
            activation, use_bias, kernel_initializer, bias_initializer, kernel_regularizer
        )
        self.filters = check_integer("filters", filters, 1)
        self.kernel_size = to_pair("kernel_size", kernel_size)
        self.stride = to_pair("stride", stride)
        sides = to_padding("padding", padding)
        if isinstance(sides, str):
            raise ValueError("padding: got 'same', expected 'valid', an integer or a pair of them")
        self.padding = sides
        self.output_padding = to_pair("output_padding", output_padding, 0)
        if any(map(int.__ge__, self.output_padding, self.stride)):
            raise ValueError(
                f"output_padding: got {self.output_padding}, expected less than the stride, "
                f"{self.stride}"
            )

    def build(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        height, width, channels = check_image(input_shape)
        axes = zip(self.stride, self.kernel_size, self.padding, self.output_padding, strict=True)
        size = [
            (n - 1) * stride + window - sum(pad) + more
            for n, (stride, window, pad, more) in zip((height, width), axes, strict=True)
        ]
        if min(size) < 1:
            raise ValueError(
                f"input shape {input_shape} gives {tuple(size)} pixels, expected 1 or more"
            )
        self.add_kernel((*self.kernel_size, self.filters, channels), self.filters)
        return (*size, self.filters)

    def saved(self, n: int, dtype: DTypeLike) -> dict[str, tuple[tuple[int, ...], DTypeLike]]:
        image = prod(self.input_shape) + prod(self.output_shape)
        return sums(n, image, self.w.size, self.filters, dtype)

    def forward(self, k: ModuleType, x: Array, out: Array, saved: SimpleNamespace) -> None:
        k.conv_transpose2d_forward(x, self.w, self.b, self.stride, self.padding, out)

    def backward(
        self,
        k: ModuleType,
        dout: Array,
        x: Array,
        out: Array,
        dx: Array | None,
        saved: SimpleNamespace,
    ) -> None:
        k.conv_transpose2d_backward(
            dout,
            x,
            self.w,
            self.stride,
            self.padding,
            getattr(saved, "scratch", None),
            dx,
            self.dw,
            self.db,
        )

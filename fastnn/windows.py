"""Owns the arithmetic of windows that slide over images: strides, padding, output sizes.

Leaves what is computed in a window to the convolution and pooling layers and their kernels.
"""

from collections.abc import Sequence

from fastnn.checks import check_integer

__all__ = [
    "Padding",
    "Pair",
    "check_convolution",
    "check_image",
    "check_pool",
    "output_size",
    "resolve",
    "same_padding",
    "to_padding",
    "to_pair",
]

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]
"""Rows above and below, columns left and right."""

_LIMIT = 2**31 - 1


def to_pair(name: str, value: object, low: int = 1) -> Pair:
    """Return ``value``, an integer or two of them, as (height, width), each in [low, 2**31).

    Raises
    ------
    TypeError, ValueError
        If it is no such thing.

    Examples
    --------
    >>> to_pair("stride", 2), to_pair("kernel_size", (3, 5))
    ((2, 2), (3, 5))
    """
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{name}: got {value}, expected an integer or a pair of them")
        first, second = value
    else:
        first = second = value
    return check_integer(name, first, low, _LIMIT), check_integer(name, second, low, _LIMIT)


def to_padding(name: str, value: object) -> str | Padding:
    """Return ``value`` as ``"same"`` or as what is added at each side.

    Parameters
    ----------
    name : str
    value : {"same", "valid"}, int, or two of: int or (before, after)
        ``"valid"`` is 0.

    Raises
    ------
    TypeError, ValueError
        If it is no such thing.

    Examples
    --------
    >>> to_padding("padding", 1), to_padding("padding", (0, (1, 2)))
    (((1, 1), (1, 1)), ((0, 0), (1, 2)))
    """
    if isinstance(value, str):
        if value not in ("same", "valid"):
            raise ValueError(
                f"{name}: got {value!r}, expected 'same', 'valid', an integer or a pair of them"
            )
        return "same" if value == "same" else ((0, 0), (0, 0))
    if not isinstance(value, (tuple, list)):
        value = (value, value)
    if len(value) != 2:
        raise ValueError(f"{name}: got {value}, expected an integer or a pair of them")
    rows, columns = (to_pair(name, side, 0) for side in value)
    return rows, columns


def output_size(size: int, window: int, stride: int, pad: Pair, dilation: int = 1) -> int:
    """Return how many windows there are along an axis.

    Parameters
    ----------
    size : int
        Of the image.
    window : int
        How many pixels a window takes.
    stride : int
        From one window to the next.
    pad : (int, int)
        Pixels added before and after.
    dilation : int
        From one pixel of a window to the next.

    Raises
    ------
    ValueError
        If not even one window fits, or a number is none of a window.

    Examples
    --------
    >>> output_size(28, 3, 1, (0, 0)), output_size(28, 3, 2, (1, 1))
    (26, 14)
    """
    numbers = window, stride, dilation, 1 + min(pad)
    if min(numbers) < 1 or max(*numbers, *pad) > _LIMIT:
        raise ValueError(
            f"got a window of {window}, stride {stride}, dilation {dilation} and padding {pad}, "
            f"expected 1 to {_LIMIT}, and padding from 0"
        )
    reach, padded = (window - 1) * dilation + 1, size + sum(pad)
    if reach > padded:
        dilated = f", {reach} with dilation {dilation}" if dilation > 1 else ""
        raise ValueError(
            f"a window of {window}{dilated} does not fit an image of {size}"
            + (f", {padded} with padding" if sum(pad) else "")
        )
    return (padded - reach) // stride + 1


def same_padding(size: int, window: int, stride: int, dilation: int = 1) -> Pair:
    """Return the padding that gives ``ceil(size / stride)`` windows; an odd pixel goes after.

    Examples
    --------
    >>> same_padding(28, 3, 1), same_padding(28, 3, 2), same_padding(5, 2, 1)
    ((1, 1), (0, 1), (0, 1))
    """
    total = max((-(-size // stride) - 1) * stride + (window - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def resolve(
    padding: str | Padding,
    image: Sequence[int],
    window: Pair,
    stride: Pair,
    dilation: Pair = (1, 1),
) -> tuple[Padding, Pair]:
    """Return the padding of both axes, and how many windows fit an image (height, width).

    Raises
    ------
    ValueError
        If not even one window fits.

    Examples
    --------
    >>> resolve("same", (28, 28), (3, 3), (1, 1))
    (((1, 1), (1, 1)), (28, 28))
    """
    axes = list(zip(image, window, stride, dilation, strict=True))
    if isinstance(padding, str):
        rows, columns = (same_padding(size, k, s, d) for size, k, s, d in axes)
    else:
        rows, columns = padding
    try:
        height, width = (
            output_size(size, k, s, pad, d)
            for (size, k, s, d), pad in zip(axes, (rows, columns), strict=True)
        )
    except ValueError as error:
        raise ValueError(f"{error}; (height, width) is {tuple(image)}") from None
    return (rows, columns), (height, width)


def check_convolution(
    kernel: str,
    image: Sequence[int],
    w: Sequence[int],
    out: Sequence[int],
    stride: Pair,
    pad: Padding,
    dilation: Pair,
) -> None:
    """Check that w (KH, KW, C, K) takes images (N, H, W, C) to images (N, OH, OW, K).

    Parameters
    ----------
    kernel : str
        Name for the error message.
    image, w, out : (int, int, int, int)
    stride, pad, dilation
        Of the windows.

    Raises
    ------
    ValueError
        If the shapes do not fit, or there is nothing to compute.
    """
    try:
        windows = tuple(map(output_size, image[1:3], w[:2], stride, pad, dilation))
    except ValueError as error:
        raise ValueError(f"{kernel}: {error}") from None
    if min(*image, *w) < 1 or w[2] != image[3] or tuple(out) != (image[0], *windows, w[3]):
        raise ValueError(
            f"{kernel}: images {tuple(image)} and {tuple(out)} do not fit w {tuple(w)} with stride "
            f"{stride}, padding {pad} and dilation {dilation}: expected (N, H, W, C), "
            "(N, OH, OW, K) and (KH, KW, C, K)"
        )


def check_pool(
    kernel: str,
    image: Sequence[int],
    pooled: Sequence[int],
    size: Pair,
    stride: Pair,
    pad: Padding,
    exact: bool = False,
) -> None:
    """Check that images (N, OH, OW, C) have a pixel for each window of images (N, H, W, C).

    Parameters
    ----------
    kernel : str
        Name for the error message.
    image, pooled : (int, int, int, int)
    size, stride, pad
        Of the windows.
    exact : bool
        No pixel may be left over.

    Raises
    ------
    ValueError
        If the shapes do not fit, or a window may lie in the padding altogether.
    """
    try:
        if any(max(sides) >= window for sides, window in zip(pad, size, strict=True)):
            raise ValueError(f"padding {pad} is not smaller than the window {size}")
        windows = tuple(map(output_size, image[1:3], size, stride, pad))
    except ValueError as error:
        raise ValueError(f"{kernel}: {error}") from None
    left_over = exact and any(n % window for n, window in zip(image[1:3], size, strict=True))
    expected = (image[0], *windows, image[3])
    if tuple(pooled) != expected or left_over:
        raise ValueError(
            f"{kernel}: images {tuple(image)} and {tuple(pooled)} do not fit windows {size} with "
            f"stride {stride} and padding {pad}"
        )


def check_image(input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the shape of a layer's input as (height, width, channels).

    Raises
    ------
    ValueError
        If it has another number of axes.
    """
    if len(input_shape) != 3:
        raise ValueError(f"input shape is {input_shape}, expected (height, width, channels)")
    height, width, channels = input_shape
    return height, width, channels

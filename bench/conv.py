"""Owns the comparison of convolution layers with PyTorch's: same numbers, then times on one thread.

Run it as ``python -m bench.conv``; GFLOP/s count the taps inside the images only.
"""

import argparse
import functools
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import fastnn as fnn
from fastnn import backend
from fastnn.layers.conv2d import sums
from fastnn.windows import resolve

LAYERS = {
    # name: batch, height, width, channels, filters, kernel, stride, padding
    "cnn-2 first": (20, 28, 28, 1, 8, 3, 1, 0),
    "cnn-2 second": (20, 13, 13, 8, 16, 3, 1, 0),
    "cnn-5 first": (64, 28, 28, 1, 16, 3, 1, 1),
    "cnn-5 second": (64, 14, 14, 16, 32, 3, 1, 1),
    "cnn-5 third": (64, 7, 7, 32, 64, 3, 1, 1),
    "cnn-5 fourth": (64, 3, 3, 64, 128, 3, 1, 1),
    "cnn-5 fifth": (64, 1, 1, 128, 256, 3, 1, 1),
    "lenet-5 first": (128, 28, 28, 1, 6, 5, 1, 2),
    "lenet-5 second": (128, 14, 14, 6, 16, 5, 1, 0),
    "encoder first": (64, 28, 28, 1, 16, 3, 2, 1),
    "encoder second": (64, 14, 14, 16, 32, 3, 2, 1),
    "large": (16, 32, 32, 64, 64, 3, 1, 1),
}


def best(f: Callable[[], Any], seconds: float) -> float:
    """Return the shortest time of a call, in µs."""
    f()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return 1e6 * min(times)


def useful_taps(size: int, windows: int, kernel: int, stride: int, before: int) -> int:
    """Return how often the windows of an axis meet a pixel."""
    positions = np.arange(windows)[:, None] * stride + np.arange(kernel) - before
    return int(((positions >= 0) & (positions < size)).sum())


@dataclass(frozen=True)
class Layer:
    """Arrays of a convolution, as fastnn lays them out, and its options."""

    x: np.ndarray
    weight: np.ndarray
    b: np.ndarray
    dout: np.ndarray
    stride: int
    pad: int


Calls = tuple[Callable[[], Any], Callable[[list[bool]], Any]]


def torch_calls(torch: Any, layout: Any, layer: Layer) -> Calls:
    """Return PyTorch's forward pass, and its gradients of those of x, w and b that are wanted."""
    x, dout = (
        torch.from_numpy(a).permute(0, 3, 1, 2).contiguous(memory_format=layout)
        for a in (layer.x, layer.dout)
    )
    w = torch.from_numpy(layer.weight).permute(3, 2, 0, 1).contiguous(memory_format=layout)
    b, stride, pad = torch.from_numpy(layer.b), layer.stride, layer.pad

    def forward() -> Any:
        return torch.nn.functional.conv2d(x, w, b, stride, pad)

    def gradients(wanted: list[bool]) -> Any:
        return torch.ops.aten.convolution_backward(
            dout, x, w, [len(b)], [stride] * 2, [pad] * 2, [1, 1], False, [0, 0], 1, wanted
        )

    return forward, gradients


def compare(shape: tuple[int, ...], seconds: float, torch: Any) -> tuple[float, list[float], Any]:
    """Return the FLOPs of a direction, and the µs of all three, ours and torch's.

    They are forward, the gradient of x, and that of w.
    """
    n, h, w, c, k, size, stride, pad = shape
    kernels: Any = backend.compiled
    rng = np.random.default_rng(0)
    pads, (oh, ow) = resolve(((pad, pad), (pad, pad)), (h, w), (size, size), (stride, stride))
    x = rng.standard_normal((n, h, w, c), np.float32)
    weight = rng.standard_normal((size, size, c, k), np.float32)
    dout = rng.standard_normal((n, oh, ow, k), np.float32)
    out, dx, dw = np.empty_like(dout), np.empty_like(x), np.empty_like(weight)
    b, db = rng.standard_normal(k, np.float32), np.empty(k, np.float32)
    shapes = sums(n, x[0].size + dout[0].size, weight.size, k, np.float32)
    scratch = np.empty(*shapes["scratch"]) if shapes else None
    options = ((stride, stride), pads, (1, 1))
    taps = useful_taps(h, oh, size, stride, pad) * useful_taps(w, ow, size, stride, pad)
    flops = 2 * n * c * k * taps

    def forward() -> None:
        kernels.conv2d_forward(x, weight, b, *options, out)

    def backward(dx: Any) -> None:
        kernels.conv2d_backward(dout, x, weight, *options, scratch, dx, dw, db)

    forward()
    backward(dx)
    layouts = () if torch is None else (torch.contiguous_format, torch.channels_last)
    layer = Layer(x, weight, b, dout, stride, pad)
    theirs = [torch_calls(torch, layout, layer) for layout in layouts]
    for their_forward, gradients in theirs:
        np.testing.assert_allclose(their_forward().permute(0, 2, 3, 1).numpy(), out, atol=1e-2)
        found = gradients([True, True, True])
        np.testing.assert_allclose(found[0].permute(0, 2, 3, 1).numpy(), dx, atol=1e-2)
        np.testing.assert_allclose(found[1].permute(2, 3, 1, 0).numpy(), dw, rtol=1e-2, atol=0.1)
        np.testing.assert_allclose(found[2].numpy(), db, rtol=1e-2, atol=0.1)
    both, only_weights = best(lambda: backward(dx), seconds), best(lambda: backward(None), seconds)
    ours = [best(forward, seconds), both - only_weights, only_weights]
    times = [
        [
            best(their_forward, seconds),
            best(functools.partial(gradients, [True, False, False]), seconds),
            best(functools.partial(gradients, [False, True, True]), seconds),
        ]
        for their_forward, gradients in theirs
    ]
    return flops, ours, np.min(times, axis=0) if times else None


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.2, help="for each measurement")
    parser.add_argument("--layers", help="only those whose name contains this")
    options = parser.parse_args(argv)
    fnn.set_num_threads(1)
    torch = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
    if torch is not None:
        torch.set_num_threads(1)
    print(f"{'layer':16}" + 3 * f"{'µs':>10}{'GFLOP/s':>9}{'x torch':>9}")
    print(f"{'':16}{'forward':>14}{'of x':>28}{'of w':>28}")
    for name, shape in LAYERS.items():
        if options.layers and options.layers not in name:
            continue
        flops, ours, theirs = compare(shape, options.seconds, torch)
        line = f"{name:16}"
        for i, us in enumerate(ours):
            ratio = f"{theirs[i] / us:9.2f}" if theirs is not None else f"{'-':>9}"
            line += f"{us:10.1f}{flops / us / 1e3:9.1f}{ratio}"
        print(line, flush=True)


if __name__ == "__main__":
    main()

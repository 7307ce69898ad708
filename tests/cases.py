"""Owns the one table of kernels: shapes, arguments, tolerances, gradients and error inputs of each.

Leaves running them to ``test_kernels`` (correctness) and ``bench/bench_kernels`` (speed).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastnn import reference
from fastnn.reference.batchnorm import CHUNK_ROWS
from fastnn.reference.norms import CHUNK
from fastnn.windows import output_size

Args = dict[str, Any]
Sizes = dict[str, int]

# straddle every vector width and the tiles of the products
EDGES = (1, 7, 8, 9, 15, 16, 17, 31, 33)
UNIT = 2.0**-24  # float32's unit roundoff


@dataclass(frozen=True)
class Case:
    """What the tests and the benchmark know of one kernel.

    ``build`` draws the arguments by name, all arrays float32 (or integers), outputs included.
    ``outputs`` are fully overwritten; ``updated`` are changed in place; what is left in ``scratch``
    does not matter. ``terms`` gives, for each
    output of a product, the letter whose size is its number of terms, or a function of the
    arguments; other outputs are held to
    the elementwise tolerance, integers to equality. ``forward`` and ``wrt`` name the function that
    a gradient belongs to and, for each of its inputs, the output with that gradient. ``errors``
    are arguments with a change (see ``broken``) that must raise ValueError. ``inplace`` names an
    input and the output that may share its memory.
    """

    name: str
    build: Callable[[np.random.Generator, Sizes], Args]
    sizes: list[Sizes]
    bench: Sizes
    outputs: tuple[str, ...]
    errors: list[tuple[str, Any]]
    updated: tuple[str, ...] = ()
    terms: dict[str, str | Callable[[Args], int]] | None = None
    forward: str | None = None
    wrt: dict[str, str] | None = None
    inplace: tuple[str, str] | None = None
    smallest: int = 0  # a mean needs an element
    scratch: tuple[str, ...] = ()
    bounds: Callable[[Args], Args] | None = None  # error bounds of sums, from the exact arguments
    whole: Args = field(default_factory=dict)  # with these, the gradient is exact

    def arguments(self, sizes: Sizes, seed: int = 0) -> Args:
        """Fresh arguments, in the order of the kernel's signature."""
        args = self.build(np.random.default_rng([seed, *sizes.values()]), sizes)
        return {name: args[name] for name in parameters(self.name)}


def parameters(kernel: str) -> list[str]:
    return list(inspect.signature(getattr(reference, kernel)).parameters)


def spoil(args: Args, names: tuple[str, ...]) -> None:
    """Fill outputs with what no kernel computes: NaN, or a conspicuous integer."""
    for name in names:
        if args[name] is not None:
            args[name].fill(np.nan if args[name].dtype.kind == "f" else 77)


def in_float64(args: Args) -> Args:
    """Copies for the reference: float32 arrays in float64, the rest as it is."""
    return {
        name: value.astype(np.float64 if value.dtype == np.float32 else value.dtype)
        if isinstance(value, np.ndarray)
        else value
        for name, value in args.items()
    }


def product_bound(case: Case, args: Args, sizes: Sizes) -> Args:
    """The error bound of every product output: 4 K u (abs(A) @ abs(B))."""
    assert case.terms is not None
    absolute = {
        name: abs(value) if isinstance(value, np.ndarray) else value
        for name, value in in_float64(args).items()
    }
    getattr(reference, case.name)(*absolute.values())
    return {
        name: 4 * ((terms(args) if callable(terms) else sizes[terms]) + 1) * UNIT * absolute[name]
        for name, terms in case.terms.items()
        if absolute[name] is not None
    }


def broken(args: Args, name: str, change: Any) -> Args:
    """The arguments with one of them spoiled.

    ``change``: "longer" or "rows" (one more along the last or the first axis), "flat" (one axis too
    many or too few), "empty", a function of the old value, or the value itself.
    """
    value = args[name]
    if callable(change):
        value = change(value)
    elif change == "longer":
        value = np.concatenate([value, value[..., :1]], axis=-1)
    elif change == "rows":
        value = np.concatenate([value, value[:1]], axis=0)
    elif change == "flat":
        value = value.reshape(-1) if value.ndim > 1 else value[:, None]
    elif change == "empty":
        value = value[:0]
    else:
        value = change
    return {**args, name: value}


# ---- drawing arguments ------------------------------------------------------------------------

Rng = np.random.Generator


def normal(rng: Rng, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def empty(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def clock_at(rows: int = 0, step: int = 0, batch: int = 0) -> np.ndarray:
    return np.array([rows, step, batch], np.int64)


def labels_of(rng: Rng, n: int, classes: int) -> np.ndarray:
    return rng.integers(0, classes, n).astype(np.int32)


def weights_of(rng: Rng, n: int) -> np.ndarray | None:
    """Of a loss's rows: half of the time None, else some of them 0."""
    return None if rng.random() < 0.5 else rng.choice(np.array([0, 0.5, 1, 3], np.float32), n)


def changed(index: int, value: int) -> Callable[[np.ndarray], np.ndarray]:
    """A change that sets one element."""

    def change(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array[index] = value
        return array

    return change


def gradient_of(
    forward: str, wrt: dict[str, str], inputs: Callable[[Rng, Sizes], Args] | None = None
) -> Callable[[Rng, Sizes], Args]:
    """Build a backward kernel's arguments: the forward's inputs, its outputs, random ``dout``."""

    def build(rng: Rng, sizes: Sizes) -> Args:
        args = (inputs or CASES[forward].build)(rng, sizes)
        exact = in_float64({name: args[name] for name in parameters(forward)})
        getattr(reference, forward)(*exact.values())
        for name in CASES[forward].outputs:
            args[name] = exact[name].astype(args[name].dtype)
        args["dout"] = normal(rng, *args["out"].shape)
        for name, gradient in wrt.items():
            args[gradient] = None if args[name] is None else empty(*args[name].shape)
        return args

    return build


def on_a_ground(rng: Rng, x: np.ndarray) -> np.ndarray:
    """Most numbers of some columns, at times all, are one number, as a product leaves out."""
    share = rng.choice([0, 0, 0.3, 0.6, 0.9, 1])
    # in stretches, as images have them
    stretch = np.cumsum(rng.random(x.size) < 0.2).reshape(x.shape)
    ground = normal(rng, x.shape[1]) * (rng.random(x.shape[1]) < rng.choice([0, 0.5, 1]))
    return np.where((rng.random(x.size + 1) < share)[stretch], ground, x)


def build_gemm(a: str, b: str) -> Callable[[Rng, Sizes], Args]:
    def build(rng: Rng, sizes: Sizes) -> Args:
        return {
            "a": on_a_ground(rng, normal(rng, *(sizes[letter] for letter in a))),
            "b": normal(rng, *(sizes[letter] for letter in b)),
            "out": empty(sizes["M"], sizes["N"]),
        }

    return build


def build_dense(rng: Rng, sizes: Sizes) -> Args:
    n, i, o = sizes["N"], sizes["I"], sizes["O"]
    return {
        "x": on_a_ground(rng, normal(rng, n, i)),
        "w": normal(rng, i, o),
        "b": normal(rng, o) if rng.random() < 0.7 else None,
        "out": empty(n, o),
    }


def build_dense_backward(rng: Rng, sizes: Sizes) -> Args:
    args = gradient_of("dense_forward", {"x": "dx", "w": "dw", "b": "db"})(rng, sizes)
    if rng.random() < 0.3:
        args["dx"] = None
    return args


def conv2d_sizes(rng: Rng, sizes: Sizes) -> Sizes:
    """Sizes of a convolution that exists: a kernel that fits, and not too much to compute."""
    s = dict(sizes)
    if np.prod([s[letter] for letter in "NHWCKRQ"]) > 3e8:
        limits = {"N": 7, "H": 11, "W": 11, "C": 40, "K": 40, "R": 4, "Q": 4}
        s |= {letter: 1 + s[letter] % limit for letter, limit in limits.items()}
    s |= {"S": 1 + (s["S"] - 1) % 3, "D": 1 + (s["D"] - 1) % 2, "P": s["P"] % 3}
    for size, window in (("H", "R"), ("W", "Q")):
        s[window] = min(s[window], (s[size] + 2 * s["P"] - 1) // s["D"] + 1)
    return s


def build_conv2d(rng: Rng, sizes: Sizes) -> Args:
    s = conv2d_sizes(rng, sizes)
    stride, dilation = (s["S"], max(s["S"] - int(rng.integers(2)), 1)), (s["D"], s["D"])
    odd = int(rng.random() < 0.2)  # as "same" may have it
    pad = ((s["P"], s["P"] + odd), (s["P"], s["P"]))
    oh, ow = map(output_size, (s["H"], s["W"]), (s["R"], s["Q"]), stride, pad, dilation)
    weights = s["R"] * s["Q"] * s["C"] * s["K"]
    chunks = int(rng.integers(0, min(s["N"], 3) + 1)) if weights < 10_000 else 0
    return {
        "x": normal(rng, s["N"], s["H"], s["W"], s["C"]),
        "w": normal(rng, s["R"], s["Q"], s["C"], s["K"]),
        "b": normal(rng, s["K"]) if rng.random() < 0.7 else None,
        "stride": stride,
        "pad": pad,
        "dilation": dilation,
        "scratch": empty(chunks, weights + s["K"]) if chunks else None,
        "out": empty(s["N"], oh, ow, s["K"]),
    }


def build_conv_transpose2d(rng: Rng, sizes: Sizes) -> Args:
    """The transposed walk over the same images: from out to x."""
    args = build_conv2d(rng, {**sizes, "D": 1})
    x, channels = args["out"], args["x"].shape[3]
    chunks = 0 if args["scratch"] is None else len(args["scratch"])
    return {
        **args,
        "x": normal(rng, *x.shape),
        "out": empty(*args["x"].shape),
        "b": normal(rng, channels) if rng.random() < 0.7 else None,
        "scratch": empty(chunks, args["w"].size + channels) if chunks else None,
    }


def build_conv_backward(forward: str) -> Callable[[Rng, Sizes], Args]:
    def build(rng: Rng, sizes: Sizes) -> Args:
        args = gradient_of(forward, {"x": "dx", "w": "dw", "b": "db"})(rng, sizes)
        if rng.random() < 0.3:
            args["dx"] = None
        return args

    return build


def pixels(name: str) -> Callable[[Args], int]:
    """The number of pixels of an array (N, H, W, C)."""
    return lambda args: args[name][..., 0].size


def weights_per(axis: int) -> Callable[[Args], int]:
    """The number of weights per channel on an axis of w."""
    return lambda args: args["w"].size // args["w"].shape[axis]


def build_recurrent(gates: int, given: float = 0.5) -> Callable[[Rng, Sizes], Args]:
    """Build a sequence; ``given`` is the probability of first states."""

    def build(rng: Rng, sizes: Sizes) -> Args:
        n, t, i, h = (sizes[letter] for letter in "NTIH")
        if n * t * (i + h) * h > 4e7:
            n, t, i, h = 1 + n % 9, 1 + t % 7, 1 + i % 33, 1 + h % 40
        lengths = rng.integers(1, t + 1, n).astype(np.int32) if rng.random() < 0.4 else None
        scale = 1 / np.sqrt(i + h)
        args: Args = {
            "x": normal(rng, n, t, i),
            "h0": normal(rng, n, h, scale=0.5) if rng.random() < given else None,
            "c0": normal(rng, n, h, scale=0.5) if rng.random() < given else None,
            "lengths": lengths,
            "wx": normal(rng, i, gates * h, scale=scale),
            "wh": normal(rng, h, gates * h, scale=scale),
            "b": normal(rng, gates * h) if rng.random() < 0.7 else None,
            "bh": normal(rng, h) if rng.random() < 0.7 else None,
            "relu": bool(rng.random() < 0.3),
            "reverse": bool(rng.random() < 0.3),
            "column": 0,
            "bptt_steps": int(rng.integers(1, t + 1)) if rng.random() < 0.2 else 0,
            "gates": empty(n, t, gates * h),
            "hs": empty(n, t + 1, h),
            "cs": empty(n, t + 1, h),
            "tanh_c": empty(n, t, h),
            "hn": empty(n, t, h),
            "dz": empty(n, t, gates * h),
            "dzh": empty(n, t, gates * h),
            "dh": empty(n, h),
            "dc": empty(n, h),
            "out": empty(n, t if rng.random() < 0.5 else 1, h),
        }
        if gates == 1:  # nothing else keeps gradients from growing, beyond float32's digits
            args["wh"] /= max(1, np.linalg.norm(args["wh"], 2))
        return args

    return build


def build_recurrent_backward(cell: str, gates: int) -> Callable[[Rng, Sizes], Args]:
    wrt = {"x": "dx", "wx": "dwx", "wh": "dwh", "b": "db", "bh": "dbh"}

    def build(rng: Rng, sizes: Sizes) -> Args:
        inputs = build_recurrent(gates, given=float(rng.random() < 0.7))
        args = gradient_of(f"{cell}_forward", wrt, inputs)(rng, sizes)
        if rng.random() < 0.3:
            args["dx"] = None
        return args

    return build


def bounds_of_weights(exact: Args) -> Args:
    """Error bounds of the gradients of recurrent weights, which are products over all steps."""
    dz, states = abs(exact["dz"]), abs(exact["hs"])
    states = states[:, 1:] if exact["reverse"] else states[:, :-1]
    dzh = abs(exact.get("dzh", exact["dz"]))
    sums = {
        "dwx": np.tensordot(abs(exact["x"]), dz, axes=((0, 1), (0, 1))),
        "dwh": np.tensordot(states, dzh, axes=((0, 1), (0, 1))),
        "db": dz.sum(axis=(0, 1)),
        "dbh": dzh.sum(axis=(0, 1))[-states.shape[2] :],
    }
    return {name: 1e-5 + 4 * (dz[..., 0].size + 1) * UNIT * s for name, s in sums.items()}


def recurrent(cell: str, gates: int, saved: tuple[str, ...], states: tuple[str, ...]) -> list[Case]:
    """The two kernels of a cell."""
    sizes = [
        dict(zip("NTIH", s, strict=True))
        for s in [
            (1, 1, 1, 1), (3, 2, 7, 9), (8, 5, 8, 8), (9, 3, 17, 16), (2, 28, 5, 33),
            (17, 4, 31, 7), (1, 28, 28, 32), (5, 3, 1, 15), (20, 14, 9, 192), (2, 3, 450, 192),
        ]
    ]  # fmt: skip
    wrt = {"x": "dx", "wx": "dwx", "wh": "dwh", "b": "db"}
    wrt |= {"h0": "dh"} | ({"c0": "dc"} if "dc" in states else {})
    wrt |= {"bh": "dbh"} if cell == "gru" else {}
    bench = {"N": 64, "T": 28, "I": 28, "H": 64}
    errors: list[tuple[str, Any]] = [
        ("wx", "longer"),
        ("wh", "rows"),
        ("lengths", lambda lengths: np.full(9, 10, np.int32)),
        ("lengths", lambda lengths: np.zeros(9, np.int32)),
        ("column", 1),
        ("column", -1),
        ("hs", "rows"),
        ("hs", lambda hs: hs[:, 1:].copy()),
    ]
    return [
        Case(
            f"{cell}_forward",
            build_recurrent(gates),
            sizes,
            bench,
            outputs=(*saved, "out"),
            smallest=1,
            errors=[*errors, ("x", "rows"), ("b", "longer"), ("h0", "longer"), ("out", "rows")],
        ),
        Case(
            f"{cell}_backward",
            build_recurrent_backward(cell, gates),
            sizes,
            bench,
            outputs=(*states, *wrt.values()),
            forward=f"{cell}_forward",
            wrt=wrt,
            bounds=bounds_of_weights,
            whole={"bptt_steps": 0},
            smallest=1,
            errors=[*errors, ("dx", "rows"), ("dwh", "longer"), ("dz", "rows"), ("bptt_steps", -1)],
        ),
    ]


def pool_sizes(sizes: Sizes) -> Sizes:
    """Sizes of windows that exist: they fit the image, and do not lie in the padding altogether."""
    s = dict(sizes)
    if np.prod([s[letter] for letter in "NHWCRQ"]) > 1e7:
        limits = {"N": 5, "H": 19, "W": 19, "C": 40, "R": 5, "Q": 5}
        s |= {letter: 1 + s[letter] % limit for letter, limit in limits.items()}
    s |= {"R": min(s["R"], s["H"]), "Q": min(s["Q"], s["W"]), "S": 1 + (s["S"] - 1) % 4}
    return s | {"P": min(s["P"], (s["R"] - 1) // 2, (s["Q"] - 1) // 2)}


def build_pool2d(rng: Rng, sizes: Sizes) -> Args:
    s = pool_sizes(sizes)
    size, stride = (s["R"], s["Q"]), (s["S"], max(s["S"] - int(rng.integers(2)), 1))
    odd = int(rng.random() < 0.2 and s["R"] > 2)  # as "same" may have it
    pad = ((s["P"], s["P"] + odd), (s["P"], s["P"]))
    oh, ow = map(output_size, (s["H"], s["W"]), size, stride, pad)
    shape = (s["N"], oh, ow, s["C"])
    return {
        "x": normal(rng, s["N"], s["H"], s["W"], s["C"]),
        "size": size,
        "stride": stride,
        "pad": pad,
        "include_pad": bool(rng.random() < 0.5),
        "index": np.empty(shape, np.uint8 if s["R"] * s["Q"] <= 256 else np.int32),
        "out": empty(*shape),
    }


def build_maxpool2d(rng: Rng, sizes: Sizes) -> Args:
    args = build_pool2d(rng, sizes)
    return {**args, "index": args["index"] if rng.random() < 0.8 else None}


def build_maxpool2d_backward(rng: Rng, sizes: Sizes) -> Args:
    args = build_pool2d(rng, sizes)
    exact = in_float64({name: args[name] for name in parameters("maxpool2d_forward")})
    reference.maxpool2d_forward(*exact.values())
    args["index"] = exact["index"]
    return {**args, "dout": normal(rng, *args["out"].shape), "dx": empty(*args["x"].shape)}


def build_upsample2d(rng: Rng, sizes: Sizes) -> Args:
    n, h, w, c = (sizes[letter] for letter in "NHWC")
    if n * h * w * c > 1e6:
        n, h, w = 1 + n % 5, 1 + h % 9, 1 + w % 9
    size = (1 + (sizes["R"] - 1) % 5, 1 + (sizes["Q"] - 1) % 5)
    return {
        "x": normal(rng, n, h, w, c),
        "size": size,
        "out": empty(n, h * size[0], w * size[1], c),
    }


def build_batchnorm(rng: Rng, sizes: Sizes) -> Args:
    n, c = sizes["N"], sizes["C"]
    return {
        "x": normal(rng, n, c) + 3,
        "gamma": normal(rng, c),
        "beta": normal(rng, c),
        "eps": 1e-3,
        "rows": n,
        "momentum": float(rng.choice([0.0, 0.1, 1.0])),
        "scratch": np.zeros((-(-n // CHUNK_ROWS), 2, c)),
        "mean": normal(rng, c),
        "var": rng.random(c, np.float32),
        "running_mean": normal(rng, c),
        "running_var": rng.random(c, np.float32),
        "out": empty(n, c),
    }


def build_batchnorm_backward(rng: Rng, sizes: Sizes) -> Args:
    wrt = {"x": "dx", "gamma": "dgamma", "beta": "dbeta"}
    args = gradient_of("batchnorm_forward", wrt)(rng, sizes)
    return {**args, "dx": args["dx"] if rng.random() < 0.8 else None}


def build_map(rng: Rng, sizes: Sizes) -> Args:
    n = sizes["n"]
    return {
        "x": normal(rng, n, scale=3.0),
        "out": empty(n),
        "slope": float(rng.choice([0.0, 0.01, 0.3, 1.5])),
        "approximate": bool(rng.random() < 0.5),
    }


def build_dropout(rng: Rng, sizes: Sizes) -> Args:
    n = sizes["n"]
    return {
        "x": normal(rng, n),
        "rate": float(rng.choice([0.0, 0.2, 0.5, 0.9])),
        "seed": int(rng.integers(0, 2**64, dtype=np.uint64)),
        "stream": int(rng.integers(0, 2**32)),
        "clock": clock_at(step=int(rng.integers(0, 2**40))),
        "mask": np.empty(n, np.uint8),
        "out": empty(n),
    }


def build_softmax(rng: Rng, sizes: Sizes) -> Args:
    n, c = sizes["N"], sizes["C"]
    return {"x": normal(rng, n, c, scale=3.0), "out": empty(n, c)}


def build_cross_entropy(rng: Rng, sizes: Sizes) -> Args:
    n, c = sizes["N"], sizes["C"]
    target = rng.random((n, c))
    return {
        "x": normal(rng, n, c, scale=3.0),
        "labels": labels_of(rng, n, c),
        "target": (target / target.sum(axis=1, keepdims=True)).astype(np.float32),
        "weights": weights_of(rng, n),
        "dx": empty(n, c) if rng.random() < 0.8 else None,
        "loss": empty(1),
        "correct": np.empty(1, np.int64),
    }


def build_elementwise_loss(rng: Rng, sizes: Sizes) -> Args:
    n, f = sizes["N"], sizes["F"]
    return {
        "x": normal(rng, n, f, scale=2.0),
        "target": rng.random((n, f), np.float32),
        "delta": float(rng.choice([0.3, 1.0, 10.0])),
        "weights": weights_of(rng, n),
        "dx": empty(n, f) if rng.random() < 0.8 else None,
        "loss": empty(1),
        "correct": np.empty(1, np.int64),
    }


def build_norms(rng: Rng, sizes: Sizes) -> Args:
    n = sizes["n"]
    x = np.where(rng.random(n) < 0.2, 0, normal(rng, n)).astype(np.float32)
    sums = rng.random(-(-n // CHUNK))
    return {
        "x": x,
        "w": x,
        "l1": float(rng.choice([0.0, 0.5])),
        "l2": float(rng.choice([0.0, 0.25])),
        "sums": sums,
        "squares": sums,
        "loss": normal(rng, 1),
        "clip_norm": float(rng.choice([0.1, 100.0])),
        "dw": normal(rng, n),
        "grad": normal(rng, n),
    }


def build_gather(rng: Rng, sizes: Sizes) -> Args:
    n, f = sizes["N"], sizes.get("F", 1)
    total, first = n + 5, int(rng.integers(0, 4))
    images = rng.integers(0, 256, (total, f)).astype(np.uint8)
    return {
        "data": images if rng.random() < 0.5 else normal(rng, total, f),
        "labels": labels_of(rng, total, 10),
        "rows": rng.permutation(total) if rng.random() < 0.7 else None,
        "scale": float(rng.choice([1.0, 1 / 255])),
        "clock": clock_at(rows=first),
        "out": empty(n, f),
    }


def build_gather_labels(rng: Rng, sizes: Sizes) -> Args:
    n, p = sizes["N"], sizes["P"]
    return {
        **build_gather(rng, {"N": n}),
        "labels": rng.integers(-9, 9, (n + 5, p)).astype(np.int32),
        "out": np.empty((n, p), np.int32),
    }


def build_embedding(rng: Rng, sizes: Sizes) -> Args:
    r, v, u = (sizes[letter] for letter in "RVU")
    known = rng.random() < 0.7
    clean = rng.integers(0, 2, v).astype(np.uint8)
    dw = normal(rng, v, u)
    if known:
        dw[clean > 0] = 0
    return {
        "x": labels_of(rng, r, v),
        "w": normal(rng, v, u),
        "out": empty(r, u),
        "dout": normal(rng, r, u),
        "clean": clean if known else None,
        "dw": dw,
    }


def build_log_step(rng: Rng, sizes: Sizes) -> Args:
    batches, counts = sizes["B"], rng.random() < 0.7
    return {
        "loss": normal(rng, 1),
        "correct": rng.integers(0, 100, 1) if counts else None,
        "clock": clock_at(batch=int(rng.integers(0, batches))),
        "losses": normal(rng, batches),
        "corrects": rng.integers(0, 100, batches) if counts else None,
    }


def build_advance(rng: Rng, sizes: Sizes) -> Args:
    return {"n": sizes["n"], "clock": rng.integers(0, 1000, 3)}


def build_optimizer(rng: Rng, sizes: Sizes) -> Args:
    n = sizes["n"]
    momentum = float(rng.choice([0.0, 0.9]))
    return {
        "grad": normal(rng, n),
        "lr": (0.01 * rng.random(int(rng.integers(1, 4)))).astype(np.float32),
        "momentum": momentum,
        "nesterov": bool(rng.random() < 0.5),
        "rho": 0.9,
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-8,
        "weight_decay": float(rng.choice([0.0, 0.1])),
        "clock": clock_at(step=int(rng.integers(0, 1000)), batch=int(rng.integers(0, 5))),
        "velocity": normal(rng, n) if momentum else None,
        "sq": rng.random(n, np.float32),
        "m": normal(rng, n),
        "v": rng.random(n, np.float32),
        "theta": normal(rng, n),
    }


# ---- the table --------------------------------------------------------------------------------

VECTORS: list[Sizes] = [{"n": n} for n in (0, *EDGES, 64, 200, 1000)]
ROWS: list[Sizes] = [
    {"N": n, "C": c} for n, c in zip((3, 1, 8, 9, 20, 2, 5, 64), (*EDGES[1:], 10), strict=False)
]
EMBEDDINGS: list[Sizes] = [
    {"R": r, "V": v, "U": u} for r, v, u in zip((3, 40, *EDGES), (5, *EDGES), EDGES, strict=False)
]
CHUNKS: list[Sizes] = [{"n": n} for n in (1, 1023, 1024, 1025, 5000)]
ROWS += [{"N": 64, "C": 10}, {"N": 2, "C": 1}, {"N": 1, "C": 10}]
ELEMENTS: list[Sizes] = [{"N": sizes["N"], "F": sizes["C"]} for sizes in ROWS]
ELEMENTS.append({"N": 3, "F": 1500})
PRODUCTS: list[Sizes] = [
    {"M": m, "K": k, "N": n}
    for m, k, n in [
        (1, 1, 1), (1, 784, 128), (7, 8, 9), (8, 7, 15), (9, 16, 8), (15, 33, 17), (16, 9, 31),
        (17, 15, 33), (31, 17, 7), (33, 31, 16), (64, 100, 10), (24, 128, 64), (6, 64, 16),
        (13, 5, 50), (3, 300, 70),
    ]
]  # fmt: skip
DENSES: list[Sizes] = [{"N": sizes["M"], "I": sizes["K"], "O": sizes["N"]} for sizes in PRODUCTS]
DENSES.append({"N": 1, "I": 3, "O": 5001})  # a row that is longer than what stays in L1
MATRICES: list[Sizes] = [
    {"N": n, "C": c} for n, c in zip((3, 1, 8, 9, 255, 256, 257, 600, 2), EDGES, strict=True)
]
MATRICES += [{"N": 1000, "C": 1}, {"N": 300, "C": 3}, {"N": 515, "C": 38}, {"N": 5, "C": 40_000}]
MATRIX_BENCH = {"N": 20 * 28 * 28, "C": 16}
POOLS: list[Sizes] = [
    dict(zip("NHWCRQSP", sizes, strict=True))
    for sizes in [
        (1, 1, 1, 1, 1, 1, 1, 0), (3, 1, 1, 9, 1, 1, 2, 0), (2, 4, 4, 8, 2, 2, 2, 0),
        (2, 5, 7, 6, 2, 2, 2, 0), (1, 7, 5, 16, 3, 3, 2, 1), (2, 6, 6, 31, 3, 3, 1, 1),
        (3, 9, 8, 1, 2, 3, 2, 0), (1, 8, 9, 3, 5, 4, 3, 1), (4, 7, 7, 33, 7, 7, 1, 0),
        (1, 11, 12, 7, 2, 2, 3, 0), (2, 19, 18, 5, 17, 16, 1, 0), (1, 28, 28, 17, 2, 2, 2, 0),
        (2, 9, 9, 15, 4, 4, 4, 1), (7, 3, 3, 2, 3, 3, 3, 1), (3, 8, 12, 6, 2, 2, 2, 0),
        (2, 6, 38, 1, 2, 2, 2, 0), (2, 9, 14, 4, 2, 2, 3, 0), (2, 8, 13, 3, 3, 3, 3, 1),
        (1, 6, 11, 12, 2, 2, 2, 0),
    ]
]  # fmt: skip
POOL_BENCH = dict(zip("NHWCRQSP", (32, 28, 28, 16, 2, 2, 2, 0), strict=True))
UPSAMPLE_BENCH = POOL_BENCH | {"H": 14, "W": 14}
DENSE_BENCH = {"N": 64, "I": 784, "O": 400}
CONVS: list[Sizes] = [
    dict(zip("NHWCKRQSDP", sizes, strict=True))
    for sizes in [
        (1, 1, 1, 1, 1, 1, 1, 1, 1, 0), (3, 1, 1, 7, 9, 3, 3, 1, 1, 1),
        (2, 5, 6, 1, 8, 3, 3, 1, 1, 0), (5, 3, 3, 17, 33, 3, 3, 1, 1, 1),
        (2, 9, 8, 3, 6, 5, 5, 1, 1, 2), (3, 8, 9, 16, 15, 3, 3, 2, 1, 1),
        (1, 12, 31, 8, 16, 1, 3, 1, 1, 0), (2, 7, 7, 31, 17, 2, 2, 1, 2, 0),
        (4, 9, 9, 5, 7, 9, 9, 1, 1, 0), (2, 6, 5, 4, 3, 2, 2, 3, 1, 0),
        (1, 17, 16, 2, 40, 4, 1, 2, 2, 2), (20, 2, 2, 33, 31, 3, 3, 1, 1, 1),
        (2, 70, 3, 1, 20, 3, 1, 1, 1, 1), (1, 4, 4, 1, 16, 1, 1, 3, 1, 0),
        (2, 11, 10, 20, 12, 5, 4, 3, 1, 2), (1, 13, 12, 9, 8, 4, 5, 3, 2, 1),
        (13, 7, 7, 6, 20, 3, 3, 1, 1, 1), (4, 13, 61, 1, 6, 5, 5, 1, 1, 2),
        (3, 14, 14, 6, 16, 5, 5, 1, 1, 0), (2, 8, 13, 8, 9, 3, 3, 1, 1, 1),
        (3, 9, 17, 8, 7, 5, 5, 2, 1, 2), (2, 6, 9, 12, 5, 3, 3, 1, 1, 1),
        (2, 12, 11, 3, 65, 5, 5, 1, 1, 2), (1, 9, 14, 1, 40, 3, 8, 1, 1, 3),
    ]
]  # fmt: skip
CONV_BENCH = dict(zip("NHWCKRQSDP", (20, 14, 14, 16, 32, 3, 3, 1, 1, 1), strict=True))
VECTOR_BENCH = {"n": 64 * 400}
MODEL_BENCH = {"n": 440_000}


def product(name: str, a: str, b: str) -> Case:
    return Case(
        name,
        build_gemm(a, b),
        PRODUCTS,
        {"M": 64, "K": 784, "N": 400},
        outputs=("out",),
        terms={"out": "K"},
        errors=[("a", "longer"), ("b", "rows"), ("out", "rows"), ("out", "longer"), ("a", "flat")],
    )


def activation(name: str, *extra: tuple[str, Any], saved: str = "out") -> list[Case]:
    forward, backward = f"{name}_forward", f"{name}_backward"
    return [
        Case(
            forward,
            build_map,
            VECTORS,
            VECTOR_BENCH,
            outputs=("out",),
            inplace=("x", "out"),
            errors=[("x", "longer"), ("out", "longer"), ("x", "flat"), *extra],
        ),
        Case(
            backward,
            gradient_of(forward, {"x": "dx"}),
            VECTORS,
            VECTOR_BENCH,
            outputs=("dx",),
            inplace=("dout", "dx"),
            forward=forward,
            wrt={"x": "dx"},
            errors=[
                ("dout", "longer"),
                (saved, "longer"),
                ("dx", "longer"),
                ("dx", "flat"),
                *extra,
            ],
        ),
    ]


def elementwise_loss(name: str, *extra: tuple[str, Any]) -> Case:
    return Case(
        name,
        build_elementwise_loss,
        ELEMENTS,
        {"N": 64, "F": 784},
        outputs=("dx", "loss"),
        forward=name,
        wrt={"x": "dx"},
        smallest=1,
        errors=[("x", "longer"), ("target", "longer"), *extra, *BAD_LOSS],
    )


BAD_SLOPES = [("slope", -0.1), ("slope", float("nan")), ("slope", float("inf"))]
BAD_RATES = [("rate", 1.0), ("rate", -0.1), ("rate", float("nan"))]
BAD_CONVS: list[tuple[str, Any]] = [
    ("x", "longer"),
    ("x", "rows"),
    ("w", "longer"),
    ("x", lambda x: np.ones((*x.shape[:2], x.shape[2] + 40, x.shape[3]), np.float32)),
    ("w", lambda w: np.ones((99, *w.shape[1:]), np.float32)),
    ("x", "flat"),
    ("stride", (0, 1)),
    ("stride", (1, -1)),
    ("stride", (2**31, 1)),
    ("pad", ((0, 0), (-1, 1))),
    ("pad", ((2**64, 0), (0, 0))),
    ("b", lambda b: np.ones(99, np.float32)),
    ("out", "longer"),
]
BAD_CONV_GRADIENTS = [
    ("dout", "rows"),
    ("dx", "longer"),
    ("dx", "rows"),
    ("dw", "rows"),
    ("db", "longer"),
    ("scratch", "longer"),
    ("scratch", "empty"),
]
BAD_NORMS: list[tuple[str, Any]] = [
    ("x", "longer"),
    ("gamma", "longer"),
    ("x", "empty"),
    ("x", "flat"),
    ("eps", 0.0),
    ("eps", float("nan")),
]
BAD_WINDOWS: list[tuple[str, Any]] = [
    ("size", (0, 2)),
    ("size", (99, 2)),
    ("stride", (1, 0)),
    ("pad", ((0, 0), (-1, 0))),
    ("pad", ((0, 0), (9, 0))),
]
BAD_SIZES: list[tuple[str, Any]] = [("size", (0, 1)), ("size", (7, 7))]
BAD_STEP = [("grad", "longer"), ("theta", "longer"), ("clock", "longer"), ("lr", "empty")]
BAD_TOKENS: list[tuple[str, Any]] = [
    ("x", lambda x: x - 99),
    ("x", lambda x: x + 99),
    ("x", "flat"),
]
BAD_ALPHAS = [("l1", -0.1), ("l2", float("nan")), ("l2", float("inf"))]
BAD_LOSS: list[tuple[str, Any]] = [("loss", "longer"), ("weights", "longer"), ("x", "empty")]

TABLE = [
    product("gemm_nn", "MK", "KN"),
    product("gemm_nt", "MK", "NK"),
    product("gemm_tn", "KM", "KN"),
    Case(
        "dense_forward",
        build_dense,
        DENSES,
        DENSE_BENCH,
        outputs=("out",),
        terms={"out": "I"},
        errors=[
            ("x", "longer"),
            ("w", "rows"),
            ("out", "rows"),
            ("b", lambda b: np.ones(99, np.float32)),
        ],
    ),
    Case(
        "dense_backward",
        build_dense_backward,
        DENSES,
        DENSE_BENCH,
        outputs=("dx", "dw", "db"),
        terms={"dx": "O", "dw": "N", "db": "N"},
        forward="dense_forward",
        wrt={"x": "dx", "w": "dw", "b": "db"},
        errors=[
            ("dout", "rows"),
            ("x", "rows"),
            ("w", "longer"),
            ("dw", "rows"),
            ("dx", lambda dx: np.ones((99, 99), np.float32)),
            ("db", lambda db: np.ones(99, np.float32)),
        ],
    ),
    Case(
        "conv2d_forward",
        build_conv2d,
        CONVS,
        CONV_BENCH,
        outputs=("out",),
        terms={"out": weights_per(3)},
        smallest=1,
        errors=[*BAD_CONVS, ("dilation", (0, 1)), ("dilation", (1, 2**62))],
    ),
    Case(
        "conv2d_backward",
        build_conv_backward("conv2d_forward"),
        CONVS,
        CONV_BENCH,
        outputs=("dx", "dw", "db"),
        terms={"dx": weights_per(2), "dw": pixels("dout"), "db": pixels("dout")},
        forward="conv2d_forward",
        wrt={"x": "dx", "w": "dw", "b": "db"},
        smallest=1,
        scratch=("scratch",),
        errors=[*BAD_CONVS[:-2], *BAD_CONV_GRADIENTS],
    ),
    Case(
        "conv_transpose2d_forward",
        build_conv_transpose2d,
        CONVS,
        CONV_BENCH,
        outputs=("out",),
        terms={"out": weights_per(2)},
        smallest=1,
        errors=BAD_CONVS,
    ),
    Case(
        "conv_transpose2d_backward",
        build_conv_backward("conv_transpose2d_forward"),
        CONVS,
        CONV_BENCH,
        outputs=("dx", "dw", "db"),
        terms={"dx": weights_per(3), "dw": pixels("x"), "db": pixels("dout")},
        forward="conv_transpose2d_forward",
        wrt={"x": "dx", "w": "dw", "b": "db"},
        smallest=1,
        scratch=("scratch",),
        errors=[*BAD_CONVS[:-2], *BAD_CONV_GRADIENTS],
    ),
    *recurrent("rnn", 1, ("hs",), ("dz", "dh")),
    *recurrent("lstm", 4, ("gates", "hs", "cs", "tanh_c"), ("dz", "dh", "dc")),
    *recurrent("gru", 3, ("gates", "hn", "hs"), ("dz", "dzh", "dh")),
    Case(
        "add",
        lambda rng, sizes: {
            "x": normal(rng, sizes["n"]),
            "y": normal(rng, sizes["n"]),
            "out": empty(sizes["n"]),
        },
        VECTORS,
        VECTOR_BENCH,
        outputs=("out",),
        inplace=("x", "out"),
        errors=[("x", "longer"), ("y", "longer"), ("out", "longer")],
    ),
    Case(
        "maxpool2d_forward",
        build_maxpool2d,
        POOLS,
        POOL_BENCH,
        outputs=("index", "out"),
        smallest=1,
        errors=[("x", "longer"), ("out", "rows"), ("index", "rows"), ("x", "flat"), *BAD_WINDOWS],
    ),
    Case(
        "maxpool2d_backward",
        build_maxpool2d_backward,
        POOLS,
        POOL_BENCH,
        outputs=("dx",),
        forward="maxpool2d_forward",
        wrt={"x": "dx"},
        smallest=1,
        errors=[("dx", "longer"), ("dout", "rows"), ("index", "rows"), *BAD_WINDOWS],
    ),
    Case(
        "avgpool2d_forward",
        build_pool2d,
        POOLS,
        POOL_BENCH,
        outputs=("out",),
        smallest=1,
        errors=[("x", "longer"), ("out", "rows"), ("out", "flat"), *BAD_WINDOWS],
    ),
    Case(
        "avgpool2d_backward",
        gradient_of("avgpool2d_forward", {"x": "dx"}),
        POOLS,
        POOL_BENCH,
        outputs=("dx",),
        forward="avgpool2d_forward",
        wrt={"x": "dx"},
        smallest=1,
        errors=[("dx", "longer"), ("dout", "rows"), *BAD_WINDOWS],
    ),
    Case(
        "upsample2d_forward",
        build_upsample2d,
        POOLS,
        UPSAMPLE_BENCH,
        outputs=("out",),
        smallest=1,
        errors=[("x", "longer"), ("out", "rows"), ("out", "flat"), *BAD_SIZES],
    ),
    Case(
        "upsample2d_backward",
        gradient_of("upsample2d_forward", {"x": "dx"}),
        POOLS,
        UPSAMPLE_BENCH,
        outputs=("dx",),
        forward="upsample2d_forward",
        wrt={"x": "dx"},
        smallest=1,
        errors=[("dx", "longer"), ("dout", "rows"), *BAD_SIZES],
    ),
    Case(
        "batchnorm_forward",
        build_batchnorm,
        MATRICES,
        MATRIX_BENCH,
        outputs=("mean", "var", "out"),
        scratch=("scratch",),
        smallest=1,
        errors=[*BAD_NORMS, ("beta", "longer"), ("out", "rows"), ("scratch", "rows")],
    ),
    Case(
        "batchnorm_inference",
        build_batchnorm,
        MATRICES,
        MATRIX_BENCH,
        outputs=("out",),
        smallest=1,
        errors=[*BAD_NORMS, ("beta", "longer"), ("mean", "longer"), ("out", "rows")],
    ),
    Case(
        "batchnorm_backward",
        build_batchnorm_backward,
        MATRICES,
        MATRIX_BENCH,
        outputs=("dx", "dgamma", "dbeta"),
        forward="batchnorm_forward",
        wrt={"x": "dx", "gamma": "dgamma", "beta": "dbeta"},
        scratch=("scratch",),
        smallest=1,
        errors=[*BAD_NORMS, ("dout", "rows"), ("dx", "rows"), ("scratch", "rows")],
    ),
    Case(
        "batchnorm_update",
        build_batchnorm,
        MATRICES,
        MATRIX_BENCH,
        outputs=(),
        updated=("running_mean", "running_var"),
        smallest=1,
        errors=[
            ("mean", "longer"),
            ("running_var", "longer"),
            ("rows", 0),
            ("momentum", 1.5),
            ("momentum", float("nan")),
        ],
    ),
    *activation("relu"),
    *activation("leaky_relu", *BAD_SLOPES),
    *activation("sigmoid"),
    *activation("tanh"),
    *activation("gelu", *BAD_SLOPES, saved="x"),
    Case(
        "dropout_forward",
        build_dropout,
        VECTORS,
        VECTOR_BENCH,
        outputs=("mask", "out"),
        inplace=("x", "out"),
        errors=[
            ("x", "longer"),
            ("mask", "longer"),
            ("out", "longer"),
            ("clock", "longer"),
            *BAD_RATES,
        ],
    ),
    Case(
        "dropout_backward",
        gradient_of("dropout_forward", {"x": "dx"}),
        VECTORS,
        VECTOR_BENCH,
        outputs=("dx",),
        inplace=("dout", "dx"),
        forward="dropout_forward",
        wrt={"x": "dx"},
        errors=[("dout", "longer"), ("mask", "longer"), ("dx", "longer"), *BAD_RATES],
    ),
    Case(
        "softmax_forward",
        build_softmax,
        ROWS,
        {"N": 64, "C": 10},
        outputs=("out",),
        inplace=("x", "out"),
        errors=[("x", "rows"), ("out", "longer"), ("x", "flat")],
    ),
    Case(
        "softmax_backward",
        gradient_of("softmax_forward", {"x": "dx"}),
        ROWS,
        {"N": 64, "C": 10},
        outputs=("dx",),
        inplace=("dout", "dx"),
        forward="softmax_forward",
        wrt={"x": "dx"},
        errors=[("dout", "rows"), ("out", "longer"), ("dx", "rows"), ("dx", "flat")],
    ),
    Case(
        "softmax_cross_entropy",
        build_cross_entropy,
        ROWS,
        {"N": 64, "C": 10},
        outputs=("dx", "loss", "correct"),
        forward="softmax_cross_entropy",
        wrt={"x": "dx"},
        smallest=1,
        errors=[
            ("x", "rows"),
            ("labels", "longer"),
            ("labels", lambda labels: labels - 10),
            ("labels", lambda labels: labels + 99),
            ("correct", "longer"),
            *BAD_LOSS,
        ],
    ),
    Case(
        "softmax_cross_entropy_soft",
        build_cross_entropy,
        ROWS,
        {"N": 64, "C": 10},
        outputs=("dx", "loss", "correct"),
        forward="softmax_cross_entropy_soft",
        wrt={"x": "dx"},
        smallest=1,
        errors=[("x", "rows"), ("target", "longer"), ("correct", "longer"), *BAD_LOSS],
    ),
    elementwise_loss("mean_squared_error"),
    elementwise_loss("mean_absolute_error"),
    elementwise_loss("huber", ("delta", 0.0), ("delta", float("nan")), ("delta", float("inf"))),
    Case(
        "binary_cross_entropy",
        build_elementwise_loss,
        ELEMENTS,
        {"N": 64, "F": 784},
        outputs=("dx", "loss", "correct"),
        forward="binary_cross_entropy",
        wrt={"x": "dx"},
        smallest=1,
        errors=[("x", "longer"), ("target", "longer"), ("correct", "longer"), *BAD_LOSS],
    ),
    Case(
        "chunk_sums",
        build_norms,
        [*VECTORS, *CHUNKS],
        MODEL_BENCH,
        outputs=("sums",),
        errors=[("sums", "longer"), ("x", "flat"), *BAD_ALPHAS],
    ),
    Case(
        "add_chunk_sums",
        build_norms,
        CHUNKS,
        MODEL_BENCH,
        outputs=(),
        updated=("loss",),
        errors=[("loss", "longer"), ("loss", "empty"), ("sums", "flat")],
    ),
    Case(
        "penalty_gradient",
        build_norms,
        VECTORS,
        MODEL_BENCH,
        outputs=(),
        updated=("dw",),
        errors=[("w", "longer"), ("dw", "longer"), *BAD_ALPHAS],
    ),
    Case(
        "clip_gradient",
        build_norms,
        [*VECTORS, *CHUNKS],
        MODEL_BENCH,
        outputs=(),
        updated=("grad",),
        errors=[("squares", "flat"), ("clip_norm", 0.0), ("clip_norm", float("nan"))],
    ),
    Case(
        "gather_rows",
        build_gather,
        [{"N": n, "F": f} for n, f in zip((0, *EDGES), (3, *reversed(EDGES)), strict=True)],
        {"N": 64, "F": 784},
        outputs=("out",),
        errors=[
            ("data", "longer"),
            ("out", "longer"),
            ("clock", "longer"),
            ("clock", changed(0, -1)),
            ("clock", changed(0, 6)),
            ("rows", lambda rows: np.full(40, 99)),
            ("rows", lambda rows: np.full(40, -1)),
        ],
    ),
    Case(
        "gather_labels",
        build_gather_labels,
        [{"N": n, "P": 1 + n % 3} for n in (0, *EDGES)],
        {"N": 64, "P": 1},
        outputs=("out",),
        smallest=1,
        errors=[
            ("out", "longer"),
            ("labels", "flat"),
            ("clock", "longer"),
            ("clock", changed(0, -1)),
            ("clock", changed(0, 6)),
            ("rows", lambda rows: np.full(40, 99)),
            ("rows", lambda rows: np.full(40, -1)),
        ],
    ),
    Case(
        "embedding_forward",
        build_embedding,
        EMBEDDINGS,
        {"R": 2048, "V": 5000, "U": 64},
        outputs=("out",),
        smallest=1,
        errors=[*BAD_TOKENS, ("w", "longer"), ("out", "rows")],
    ),
    Case(
        "embedding_backward",
        build_embedding,
        EMBEDDINGS,
        {"R": 2048, "V": 5000, "U": 64},
        outputs=(),
        updated=("clean", "dw"),
        terms={"dw": "R"},
        forward="embedding_forward",
        wrt={"w": "dw"},
        whole={"clean": None},
        smallest=1,
        errors=[*BAD_TOKENS, ("dout", "rows"), ("clean", "longer"), ("dw", "longer")],
    ),
    Case(
        "log_step",
        build_log_step,
        [{"B": n} for n in EDGES],
        {"B": 1000},
        outputs=(),
        updated=("losses", "corrects"),
        smallest=1,
        errors=[
            ("loss", "longer"),
            ("clock", "longer"),
            ("clock", changed(2, -1)),
            ("clock", changed(2, 99)),
            ("corrects", lambda old: np.zeros(9, np.int64) if old is None else None),
        ],
    ),
    Case(
        "advance",
        build_advance,
        [{"n": n} for n in (0, *EDGES)],
        {"n": 64},
        outputs=(),
        updated=("clock",),
        errors=[("clock", "longer"), ("clock", "flat"), ("n", -1)],
    ),
    Case(
        "sgd_update",
        build_optimizer,
        VECTORS,
        MODEL_BENCH,
        outputs=(),
        updated=("velocity", "theta"),
        errors=[
            *BAD_STEP,
            ("velocity", lambda old: np.zeros(1, np.float32) if old is None else None),
            ("momentum", lambda old: 0.9 - old),
        ],
    ),
    Case(
        "rmsprop_update",
        build_optimizer,
        VECTORS,
        MODEL_BENCH,
        outputs=(),
        updated=("sq", "theta"),
        errors=[*BAD_STEP, ("sq", "longer")],
    ),
    Case(
        "adam_update",
        build_optimizer,
        VECTORS,
        MODEL_BENCH,
        outputs=(),
        updated=("m", "v", "theta"),
        errors=[*BAD_STEP, ("m", "longer"), ("v", "longer")],
    ),
]
CASES = {case.name: case for case in TABLE}

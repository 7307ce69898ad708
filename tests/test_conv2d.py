"""Convolutions: sizes against the formulas, golden values, plans, threads, and what is refused."""

import re
import sys

import numpy as np
import pytest

import fastnn as fnn
from fastnn import reference

IMAGE = (9, 8, 2)


def output(layer, shape=IMAGE):
    return fnn.Sequential([layer], shape).output_shape


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (7, 6, 4)),
        ({"padding": "valid"}, (7, 6, 4)),
        ({"padding": "same"}, (9, 8, 4)),
        ({"padding": "same", "stride": 2}, (5, 4, 4)),
        ({"padding": 1, "stride": (2, 3)}, (5, 3, 4)),
        ({"padding": ((1, 0), 2), "dilation": (2, 1)}, (6, 10, 4)),
        ({"dilation": 3}, (3, 2, 4)),
    ],
)
def test_sizes(options, shape):
    assert output(fnn.Conv2D(4, 3, **options)) == shape


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1])
def test_transposed_sizes_undo_those_of_a_convolution(stride, padding):
    options = {"kernel_size": 3, "stride": stride, "padding": padding}
    for more in range(stride):
        wide = output(fnn.ConvTranspose2D(5, output_padding=more, **options))
        assert output(fnn.Conv2D(2, **options), wide) == IMAGE


def test_a_convolution_is_a_weighted_sum_of_windows(backend):
    model = fnn.Sequential([fnn.Conv2D(1, 2, bias_initializer=fnn.Constant(100.0))], (3, 3, 1))
    model.layers[0].w[...] = np.array([[1, 2], [3, 4]]).reshape(2, 2, 1, 1)
    got = model.predict(np.arange(9.0).reshape(1, 3, 3, 1))
    assert got.reshape(2, 2).tolist() == [[127, 137], [157, 167]]


def test_a_transposed_convolution_adds_windows(backend):
    model = fnn.Sequential([fnn.ConvTranspose2D(1, 2)], (2, 2, 1))
    model.layers[0].w[...] = np.array([[1, 2], [3, 4]]).reshape(2, 2, 1, 1)
    got = model.predict(np.array([1.0, 10, 100, 1000]).reshape(1, 2, 2, 1))
    assert got.reshape(3, 3).tolist() == [[1, 12, 20], [103, 1234, 2040], [300, 3400, 4000]]


def channels_first(torch, images):
    return torch.tensor(images.transpose(0, 3, 1, 2).copy(), requires_grad=True)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("transposed", [False, True])
def test_the_reference_computes_what_torch_does(seed, transposed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    n, h, w, c, k, *stride = rng.integers([1, 6, 6, 1, 1, 1, 1], [4, 12, 12, 6, 6, 4, 4]).tolist()
    size, pad, dilation = (rng.integers(low, 4, 2).tolist() for low in (1, 0, 1))
    if transposed:
        pad = [min(p, r // 2) for p, r in zip(pad, size, strict=True)]
        more = [int(rng.integers(s)) for s in stride]
        layer = fnn.ConvTranspose2D(k, size, stride, pad, more)
        options, theirs = (), {"output_padding": more}
    else:
        layer = fnn.Conv2D(k, size, stride, pad, [min(d, 2) for d in dilation])
        options, theirs = (layer.dilation,), {"dilation": layer.dilation}
    shape = fnn.Sequential([layer], (h, w, c)).output_shape
    x, dout = rng.normal(size=(n, h, w, c)), rng.normal(size=(n, *shape))
    weight, b = rng.normal(size=layer.w.shape), rng.normal(size=k)
    out, dx, dw, db = (np.empty_like(a) for a in (dout, x, weight, b))
    name = "conv_transpose2d" if transposed else "conv2d"
    windows = (layer.stride, tuple((p, p) for p in pad), *options)
    getattr(reference, f"{name}_forward")(x, weight, b, *windows, out)
    getattr(reference, f"{name}_backward")(dout, x, weight, *windows, None, dx, dw, db)
    tx, tb = channels_first(torch, x), torch.tensor(b, requires_grad=True)
    tw = torch.tensor(weight.transpose(3, 2, 0, 1).copy(), requires_grad=True)
    function = getattr(torch.nn.functional, name)
    result = function(tx, tw, tb, stride=stride, padding=pad, **theirs)
    result.backward(channels_first(torch, dout))
    for ours, other in (
        (out, result.detach().permute(0, 2, 3, 1)),
        (dx, tx.grad.permute(0, 2, 3, 1)),
        (dw, tw.grad.permute(2, 3, 1, 0)),
        (db, tb.grad),
    ):
        np.testing.assert_allclose(ours, other.numpy(), rtol=1e-9, atol=1e-9)


def net():
    return fnn.Sequential(
        [
            fnn.Conv2D(7, 3, padding=1, activation="relu"),
            fnn.Conv2D(17, 3, stride=2, activation="relu"),
            fnn.ConvTranspose2D(5, 3, stride=2, activation="relu"),
            fnn.Conv2D(4, 2, activation="tanh"),
            fnn.Flatten(),
            fnn.Dense(3),
        ],
        IMAGE,
        seed=0,
    )


def trained(threads=1, **options):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, *IMAGE)).astype(np.float32), rng.integers(0, 3, 50)
    fnn.set_num_threads(threads)
    model = net()
    model.fit(x, y, optimizer="adam", batch_size=16, epochs=2, verbose=0, **options)
    return model


def test_a_plan_gives_the_bits_of_eager_steps_for_any_threads(compiled):
    eager = trained(eager=True)
    for threads in (1, 2, 4):
        np.testing.assert_array_equal(trained(threads, fuse=False).theta, eager.theta)
    fused = trained(2)
    np.testing.assert_array_equal(trained(1).theta, fused.theta)
    np.testing.assert_allclose(fused.theta, eager.theta, atol=1e-4)


def test_convolutions_are_fused_with_their_activations(compiled):
    names = [row["name"] for row in trained().plan.table()]
    assert names.count("conv2d_forward + relu_forward") == 2
    assert "conv2d_backward_x + relu_forward" in names  # the transposed one
    assert names.count("conv2d_backward_x + relu_backward") == 2
    assert names.count("relu_backward") == 1  # after the gradient of a transposed one


def test_a_prediction_does_not_depend_on_its_batch(backend):
    model, rng = net(), np.random.default_rng(1)
    x = rng.normal(size=(70, *IMAGE)).astype(np.float32)
    whole = model.predict(x)
    if backend == "compiled":
        for n in (1, 3, 64):
            parts = [model.predict(x[i : i + n]) for i in range(0, 70, n)]
            np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_many_channels_and_taps_need_more_than_one_panel(compiled):
    from fastnn import kernels

    rng = np.random.default_rng(0)
    for shape, window, filters, stride in (
        ((1, 1, 2, 17_000), (1, 2), 3, 1),
        ((1, 140, 139, 1), (139, 137), 3, 1),
        ((1, 90, 100, 2), (3, 4), 520, 2),
    ):
        x = rng.normal(size=shape).astype(np.float32)
        w = rng.normal(size=(*window, shape[3], filters)).astype(np.float32)
        size = tuple((n - k) // stride + 1 for n, k in zip(shape[1:3], window, strict=True))
        got, wanted = np.empty((1, *size, filters), np.float32), np.empty((1, *size, filters))
        options = ((stride, stride), ((0, 0), (0, 0)), (1, 1))
        kernels.conv2d_forward(x, w, None, *options, got)
        reference.conv2d_forward(x.astype(float), w.astype(float), None, *options, wanted)
        np.testing.assert_allclose(got, wanted, atol=0.05)
        for wide in (False, True):
            dx, dw = np.empty_like(x), np.empty_like(w)
            exact_dx, exact_dw = np.empty(x.shape), np.empty(w.shape)
            kernels.conv2d_backward(got, x, w, *options, None, dx if wide else None, dw, None)
            reference.conv2d_backward(
                *(got.astype(float), x.astype(float), w.astype(float), *options),
                *(None, exact_dx, exact_dw, None),
            )
            np.testing.assert_allclose(dw, exact_dw, rtol=1e-3, atol=0.05)
            if wide:
                np.testing.assert_allclose(dx, exact_dx, rtol=1e-3, atol=0.05)


MEMORY = """
import resource
import numpy as np
from fastnn import kernels

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

kernels.set_num_threads(2)
arrays, options = [], ((1, 1), ((1, 1), (1, 1)), (1, 1))
for n, size, c, k in (48, 64, 1, 16), (16, 64, 16, 32), (4, 32, 128, 256), (2, 14, 512, 512):
    x, dx = np.ones((2, n, size, size, c), np.float32)
    out, dout = np.ones((2, n, size, size, k), np.float32)
    w, dw = np.ones((2, 3, 3, c, k), np.float32)
    arrays.append((x, dx, out, dout, w, dw))
before = peak()
for x, dx, out, dout, w, dw in arrays:
    kernels.conv2d_forward(x, w, None, *options, out)
    kernels.conv2d_backward(dout, x, w, *options, None, dx, dw, None)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux counts it")
def test_a_convolution_needs_2_mb_for_each_thread(run_python, compiled):
    # the windows of these images, as a matrix, would take 7 to 38 MB
    assert int(run_python(MEMORY)) < 2 * 2e6


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fnn.Conv2D(0, 3), ValueError, "Conv2D: filters: got 0"),
        (lambda: fnn.Conv2D(4.0, 3), TypeError, "Conv2D: filters: got 4.0"),
        (lambda: fnn.Conv2D(4, 0), ValueError, "Conv2D: kernel_size: got 0"),
        (lambda: fnn.Conv2D(4, (3, 3, 3)), ValueError, r"Conv2D: kernel_size: got \(3, 3, 3\)"),
        (lambda: fnn.Conv2D(4, "3"), TypeError, "Conv2D: kernel_size: got '3'"),
        (lambda: fnn.Conv2D(4, 3, stride=0), ValueError, "Conv2D: stride: got 0"),
        (lambda: fnn.Conv2D(4, 3, padding=-1), ValueError, "Conv2D: padding: got -1"),
        (lambda: fnn.Conv2D(4, 3, padding="full"), ValueError, "Conv2D: padding: got 'full'"),
        (lambda: fnn.Conv2D(4, 3, padding=((1, 1), (1, 1), 1)), ValueError, "Conv2D: padding: got"),
        (
            lambda: fnn.Conv2D(4, 3, dilation=2**40),
            ValueError,
            "Conv2D: dilation: got 1099511627776",
        ),
        (lambda: fnn.Conv2D(4, 3, use_bias=1), TypeError, "Conv2D: use_bias: got 1"),
        (
            lambda: fnn.Conv2D(4, 3, activation="no"),
            ValueError,
            "Conv2D: activation: unknown name 'no'",
        ),
        (
            lambda: fnn.ConvTranspose2D(4, 3, padding="same"),
            ValueError,
            "ConvTranspose2D: padding: got 'same'",
        ),
        (
            lambda: fnn.ConvTranspose2D(4, 3, 2, 1, 2),
            ValueError,
            r"ConvTranspose2D: output_padding: got \(2, 2\)",
        ),
        (lambda: output(fnn.Conv2D(4, 10)), ValueError, r"layer 0 \(Conv2D\): a window of 10"),
        (
            lambda: output(fnn.Conv2D(4, 9, padding=((0, 0), 0))),
            ValueError,
            "fit an image of 8",
        ),
        (
            lambda: output(fnn.Conv2D(4, 3, dilation=5)),
            ValueError,
            "of 3, 11 with dilation 5",
        ),
        (lambda: output(fnn.Conv2D(4, 3), 72), ValueError, r"input shape is \(72,\), expected \(h"),
        (lambda: output(fnn.Conv2D(2**31 - 1, 3, padding=2**20)), ValueError, "2\\*\\*31"),
        (lambda: output(fnn.Conv2D(2**30, 2**10, padding=2**10)), ValueError, "layer 0"),
        (
            lambda: output(fnn.Conv2D(2**31, 1), (1, 1, 1)),
            ValueError,
            r"layer 0 \(Conv2D\): shape of w: got \(1, 1, 1, 2147483648\), expected fewer",
        ),
        (
            lambda: output(fnn.ConvTranspose2D(1, 1, stride=2**15), (3, 3, 1)),
            ValueError,
            r"layer 0 \(ConvTranspose2D\): output shape: got \(65537, 65537, 1\), expected fewer",
        ),
        (
            lambda: output(fnn.ConvTranspose2D(1, 1, padding=9)),
            ValueError,
            r"gives \(-9, -10\)",
        ),
    ],
)
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("given", "options", "hint"),
    [
        ((9, 8, 1), {}, "x[None]"),
        ((2, 9, 8), {}, "x[..., None]"),
        ((2, 1, 9, 8), {}, "data_format of the model"),
        ((2, 9, 8), {"data_format": "channels_first"}, "x[:, None]"),
        ((2, 9, 8, 1), {"data_format": "channels_first"}, "data_format of the model"),
    ],
)
def test_images_in_another_order_get_a_hint(given, options, hint):
    shape = (1, 9, 8) if options else (9, 8, 1)
    model = fnn.Sequential([fnn.Conv2D(4, 3)], shape, **options)
    with pytest.raises(ValueError, match=f"x: got shape .*; .*{re.escape(hint)}"):
        model.predict(np.ones(given))


def test_images_of_other_sizes_are_refused(backend):
    with pytest.raises(ValueError, match=r"of 3 does not fit an image of 1; .* is \(1, 9\)"):
        fnn.Sequential([fnn.Conv2D(4, 3)]).predict(np.ones((2, 1, 9, 8)))
    model = net()
    with pytest.raises(ValueError, match=r"x: .*9, 8, 2\)"):
        model.predict(np.ones((2, 9, 8, 3), np.float32))
    with pytest.raises(ValueError, match="x: "):
        model.fit(np.ones((0, *IMAGE), np.float32), np.ones(0, int), verbose=0)

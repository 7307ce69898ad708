"""Pooling and upsampling: known values, edges, special values, large windows, fused plans."""

import copy

import numpy as np
import pytest

import fastnn as fnn
from fastnn import kernels, reference

NO_PAD = ((0, 0), (0, 0))


def image(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def output(layer, x):
    return fnn.Sequential([layer], x.shape[1:]).predict(x)


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda: fnn.MaxPool2D(2), [[6, 8], [14, 16]]),
        (lambda: fnn.MaxPool2D(3), [[11]]),
        (lambda: fnn.MaxPool2D((1, 3), stride=(2, 1)), [[3, 4], [11, 12]]),
        (lambda: fnn.MaxPool2D(2, padding=1), [[1, 3, 4], [9, 11, 12], [13, 15, 16]]),
        (lambda: fnn.MaxPool2D(3, stride=2, padding="same"), [[11, 12], [15, 16]]),
        (lambda: fnn.AvgPool2D(2), [[3.5, 5.5], [11.5, 13.5]]),
        (lambda: fnn.AvgPool2D(3, stride=3, padding=1), [[14 / 9, 22 / 9], [46 / 9, 54 / 9]]),
        (lambda: fnn.AvgPool2D(3, 3, 1, count_include_pad=False), [[3.5, 5.5], [11.5, 13.5]]),
    ],
)
def test_known_values(make, wanted, backend):
    x = np.arange(1, 17, dtype=np.float32).reshape(1, 4, 4, 1)
    np.testing.assert_allclose(output(make(), x)[0, :, :, 0], wanted, rtol=1e-6)


def test_upsampling_repeats_pixels(backend):
    got = output(fnn.UpSample2D((1, 2)), np.arange(1, 5).reshape(1, 2, 2, 1))
    np.testing.assert_array_equal(got[0, :, :, 0], [[1, 1, 2, 2], [3, 3, 4, 4]])


def test_global_average_is_the_mean(backend):
    x = image(3, 9, 7, 5)
    np.testing.assert_allclose(
        output(fnn.GlobalAvgPool2D(), x), x.mean(axis=(1, 2)), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_the_reference_computes_what_torch_does(seed, kind):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    h, w, *size = rng.integers([5, 5, 1, 1], [13, 13, 6, 6]).tolist()
    stride, pad = rng.integers(1, 5, 2).tolist(), [int(rng.integers(r // 2 + 1)) for r in size]
    include_pad = bool(seed % 2)
    x = rng.integers(0, 3, (2, h, w, 3)).astype(float)  # equal pixels, too
    pool = fnn.MaxPool2D(size, stride, pad)
    dout = rng.normal(size=(2, *fnn.Sequential([pool], x.shape[1:]).output_shape))
    out, dx, index = np.empty_like(dout), np.empty_like(x), np.empty(dout.shape, np.uint8)
    saved = index if kind == "max" else include_pad
    windows = (tuple(size), tuple(stride), tuple((p, p) for p in pad), saved)
    getattr(reference, f"{kind}pool2d_forward")(x, *windows, out)
    getattr(reference, f"{kind}pool2d_backward")(dout, *windows, dx)
    tx = torch.tensor(x.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    theirs = {"count_include_pad": include_pad} if kind == "avg" else {}
    result = getattr(torch.nn.functional, f"{kind}_pool2d")(tx, size, stride, pad, **theirs)
    result.backward(torch.tensor(dout.transpose(0, 3, 1, 2).copy()))
    for ours, other in ((out, result.detach()), (dx, tx.grad)):
        np.testing.assert_allclose(ours, other.permute(0, 2, 3, 1).numpy(), atol=1e-12)


@pytest.mark.parametrize("module", [reference, kernels])
def test_the_first_of_equal_pixels_gets_the_gradient(module):
    x = np.zeros((1, 2, 2, 9), np.float32)
    out, index, dx = np.empty((1, 1, 1, 9), "f"), np.empty((1, 1, 1, 9), np.uint8), np.empty_like(x)
    module.maxpool2d_forward(x, (2, 2), (2, 2), NO_PAD, index, out)
    module.maxpool2d_backward(np.ones_like(out), (2, 2), (2, 2), NO_PAD, index, dx)
    assert not index.any()
    np.testing.assert_array_equal(dx[0, :, :, 3], [[1, 0], [0, 0]])


@pytest.mark.parametrize("module", [reference, kernels])
@pytest.mark.parametrize("place", range(4))
def test_nan_and_infinity_come_through(module, place):
    for channels in (1, 3, 8, 20):
        for value in (np.nan, np.inf):
            x = np.ones((1, 2, 2, channels), np.float32)
            x.reshape(4, channels)[place] = value
            out = np.empty((1, 1, 1, channels), np.float32)
            module.maxpool2d_forward(x, (2, 2), (2, 2), NO_PAD, None, out)
            np.testing.assert_array_equal(out, value)


def test_windows_of_many_pixels_keep_wide_places(compiled):
    x = image(2, 20, 20, 3)
    net = [fnn.MaxPool2D(20), fnn.Flatten()]
    model = fnn.Sequential(net, (20, 20, 3), seed=0)
    np.testing.assert_array_equal(model.predict(x), x.max(axis=(1, 2)))
    index, out = np.empty((2, 1, 1, 3), np.int32), np.empty((2, 1, 1, 3), np.float32)
    kernels.maxpool2d_forward(x, (20, 20), (1, 1), NO_PAD, index, out)
    np.testing.assert_array_equal(index[:, 0, 0], x.reshape(2, 400, 3).argmax(axis=1))
    with pytest.raises(ValueError):
        kernels.maxpool2d_forward(x, (20, 20), (1, 1), NO_PAD, index.astype(np.uint8), out)


@pytest.mark.parametrize(
    "pool", [fnn.MaxPool2D, fnn.AvgPool2D, lambda size: fnn.AvgPool2D(size, padding=1)]
)
def test_a_plan_gives_the_bits_of_eager_steps_on_any_threads(pool, compiled):
    x, y = np.abs(image(70, 9, 9, 3)), np.arange(70) % 4
    results = []
    for threads, eager in ((1, False), (2, False), (4, False), (1, True)):
        fnn.set_num_threads(threads)
        layers = [fnn.Flatten(), fnn.Dense(200), fnn.Reshape((5, 5, 8)), pool(2), fnn.ReLU()]
        layers += [fnn.UpSample2D(2), pool(3), fnn.GlobalAvgPool2D(), fnn.Dense(4)]
        model = fnn.Sequential(layers, (9, 9, 3), seed=0)
        model.fit(x, y, batch_size=16, epochs=2, verbose=0, eager=eager, fuse=False)
        results.append(model.theta)
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


def test_options_are_shown_as_they_were_given():
    assert repr(fnn.MaxPool2D(2)) == "MaxPool2D(2)"
    assert repr(fnn.AvgPool2D((2, 3), 1, "same")) == "AvgPool2D((2, 3), stride=1, padding='same')"
    assert repr(fnn.UpSample2D(3)) == "UpSample2D(size=3)"


POOLED = {
    "apart": [fnn.Conv2D(5, 3), fnn.ReLU(), fnn.MaxPool2D(2)],
    "overlapping": [fnn.Conv2D(9, 3, padding="same"), fnn.ReLU(), fnn.MaxPool2D(3, 2, 1)],
    "without activation": [fnn.Conv2D(17, 2, stride=2), fnn.MaxPool2D(2)],
    "many places": [fnn.Conv2D(3, 1), fnn.ReLU(), fnn.MaxPool2D(17, 2)],
    "other activation": [fnn.Conv2D(5, 3), fnn.Tanh(), fnn.MaxPool2D(2)],
    "normalized": [fnn.Conv2D(5, 3), fnn.BatchNorm(), fnn.ReLU(), fnn.MaxPool2D(2)],
}


@pytest.mark.parametrize("name", POOLED)
def test_fused_pooling_gives_the_same_bits(name, compiled):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(90, 22, 20, 2)).astype(np.float32), rng.integers(0, 4, 90)

    def train(threads, fuse):
        layers = [*copy.deepcopy(POOLED[name]), fnn.Flatten(), fnn.Dense(4)]
        model = fnn.Sequential(layers, x.shape[1:], seed=0)
        fnn.set_num_threads(threads)
        model.fit(x, y, optimizer="adam", batch_size=40, epochs=2, verbose=0, fuse=fuse)
        return model

    plain = train(1, False)
    for threads in (1, 3):
        model = train(threads, True)
        np.testing.assert_array_equal(model.theta, plain.theta)
        np.testing.assert_array_equal(model.predict(x), plain.predict(x))
    plan = str(model.plan)
    relu = any(isinstance(layer, fnn.ReLU) for layer in POOLED[name])
    assert ("maxpool2d_backward + relu_backward" in plan) == relu
    in_one_pass = "+ maxpool2d_forward" in plan
    assert in_one_pass == (name not in ("other activation", "normalized"))


def test_a_plan_shows_convolution_and_pooling_as_one_pass(compiled):
    net = [fnn.Conv2D(8, 3, activation="relu"), fnn.MaxPool2D(2), fnn.Flatten(), fnn.Dense(2)]
    model = fnn.Sequential(net, (28, 28, 1), seed=0)
    model.fit(image(40, 28, 28, 1), np.arange(40) % 2, batch_size=20, verbose=0)
    row = next(row for row in model.plan.table() if "conv2d" in row["name"])
    assert row["name"] == "conv2d_forward + relu_forward + maxpool2d_forward"
    pooled = 20 * 13 * 13 * 8  # and a byte for the place of each
    assert row["bytes"] == 4 * (20 * 28 * 28 + 9 * 8 + 8 + pooled) + pooled
    head, *lines, _ = str(model.plan).splitlines()
    end = head.index("threads") + len("threads")
    assert all(line[end - 1 : end + 1].strip().isdigit() for line in lines)


def test_what_is_pooled_away_is_still_found_to_be_wrong(compiled):
    x = np.full((40, 8, 8, 1), 1e30, np.float32)
    layers = [fnn.Conv2D(2, 3, kernel_initializer=fnn.Constant(1e30)), fnn.MaxPool2D(2)]
    model = fnn.Sequential([*layers, fnn.Flatten(), fnn.Dense(2)], x.shape[1:])
    with pytest.raises(fnn.DivergenceError, match=r"layer 0 \(Conv2D\) is the first whose output"):
        model.fit(x, np.zeros(40, int), batch_size=20, verbose=0)

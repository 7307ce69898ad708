"""Buffers: alignment, which arrays may share memory, narrow batches, and the size of it all."""

import math

import numpy as np
import pytest
from conftest import need_compiled
from hypothesis import given, settings
from hypothesis import strategies as st

import fastnn as fnn
from fastnn.memory import Workspace, aligned_zeros


def layers_of(*layers, shape=10):
    return fnn.Sequential(list(layers), shape, seed=0).layers


def training(*layers, n=8, **options):
    return Workspace(layers_of(*layers), n, np.float32, training=True, **options)


@pytest.mark.parametrize("n", [1, 17, 1000])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_aligned_zeros(n, dtype):
    array = aligned_zeros(n, dtype)
    assert array.shape == (n,) and array.dtype == dtype and not array.any()
    assert array.ctypes.data % 64 == 0
    assert array.flags.c_contiguous and array.flags.writeable
    assert aligned_zeros(0, dtype).shape == (0,)


def arrays_of(ws):
    for stage in ws.stages:
        for name in ("x", "out", "dout", "dx"):
            array = getattr(stage, name)
            if array is not None:
                yield array
        yield from (
            a for a in vars(stage.saved).values() if isinstance(a, np.ndarray) and a.size > 3
        )


def test_everything_is_in_one_aligned_arena():
    ws = training(fnn.Dense(5, "gelu"), fnn.Dropout(0.2), fnn.Dense(3), target=((3,), np.float32))
    for array in (*arrays_of(ws), ws.x, ws.out, ws.rows, ws.target):
        assert np.shares_memory(array, ws.arena)
        assert array.ctypes.data % 64 == 0 and array.flags.c_contiguous


def shared(a, b):
    return np.shares_memory(a, b)


def test_an_activation_works_in_place_where_nobody_reads_what_it_overwrites():
    a, b, c, d = training(fnn.Dense(5), fnn.ReLU(), fnn.Sigmoid(), fnn.Dense(3)).stages
    assert shared(a.out, b.out) and shared(b.x, b.out)
    assert not shared(b.out, c.out)  # ReLU's backward reads its output
    assert shared(c.out, d.x)
    assert shared(b.dout, b.dx) and shared(c.dout, c.dx)
    assert not shared(d.dout, d.dx)


def test_softmax_keeps_its_output_from_the_next_layer():
    _, softmax, relu = training(fnn.Dense(5), fnn.Softmax(), fnn.Flatten(), fnn.ReLU()).stages
    assert not shared(softmax.out, relu.out)


def test_a_layer_that_says_nothing_is_left_alone():
    class Plain(fnn.Layer):
        pass

    dense, plain, relu = training(fnn.Dense(5), Plain(), fnn.ReLU()).stages
    assert not shared(dense.out, plain.out) and not shared(plain.out, relu.out)
    assert not shared(plain.dout, plain.dx)


def test_views_have_no_stage():
    ws = training(fnn.Flatten(), fnn.Dense(6), fnn.Reshape((2, 3)), fnn.Linear(), fnn.Softmax())
    assert [type(stage.layer).__name__ for stage in ws.stages] == ["Dense", "Softmax"]
    assert ws.stages[1].x.shape == (8, 2, 3)
    assert shared(ws.stages[0].out, ws.stages[1].x)
    assert [type(stage.layer).__name__ for stage in ws.backward] == ["Softmax", "Dense"]


def test_each_gradient_has_its_buffer():
    ws = training(*[fnn.Dense(width) for width in (20, 5, 30, 4, 25, 3)], n=16)
    assert len({stage.dout.ctypes.data for stage in ws.backward}) == 6
    for stage in ws.backward[:-1]:
        assert not shared(stage.dout, stage.dx)
    assert ws.backward[-1].dx is None


def test_outside_training_outputs_alternate_between_two_buffers():
    layers = layers_of(*[fnn.Dense(width, "gelu") for width in (20, 5, 30, 4)], fnn.Dropout(0.5))
    ws = Workspace(layers, 16, np.float32, training=False)
    assert len({stage.out.ctypes.data for stage in ws.stages}) == 2
    assert ws.arena.nbytes == 4 * 16 * (10 + 30)
    assert not ws.backward and ws.dout is None
    assert [type(stage.layer).__name__ for stage in ws.stages] == ["Dense", "GELU"] * 4


@pytest.mark.parametrize("m", [1, 5, 8])
def test_narrow_uses_the_same_memory(m):
    ws = training(fnn.Dense(5, "tanh"), fnn.Dropout(0.2), fnn.Dense(3), target=((), np.int32))
    narrow = ws.narrow(m)
    assert narrow.arena is ws.arena and ws.n == 8
    assert narrow.x.shape == (m, 10) and narrow.out.shape == (m, 3) and narrow.target.shape == (m,)
    for wide, slim in zip(ws.stages, narrow.stages, strict=True):
        assert wide.out.ctypes.data == slim.out.ctypes.data
        assert wide.x.ctypes.data == slim.x.ctypes.data
    assert narrow.stages[2].saved.mask.shape == (5 * m,)
    with pytest.raises(ValueError, match="n: got 9, expected 1 to 8"):
        ws.narrow(9)


def test_the_arena_is_no_larger_than_what_is_in_it():
    ws = training(fnn.Dense(128, "relu"), fnn.Dense(64, "relu"), fnn.Dense(16), n=32)
    floats = 10 + 2 * (128 + 64 + 16)  # input, outputs and gradients
    assert ws.arena.nbytes == 4 * 32 * floats


def test_sizes_beyond_the_address_space_are_refused():
    layers = layers_of(fnn.Dense(3))
    with pytest.raises(ValueError, match=r"batch: got .* samples, which need .* bytes"):
        Workspace(layers, 2**60, np.float32, training=True)
    with pytest.raises(ValueError, match=r"layer 0 \(Dense\): .*2\*\*31"):
        fnn.Sequential([fnn.Dense(2**30)], 2**30)
    with pytest.raises(ValueError, match=r"2\*\*31"):
        fnn.Sequential([fnn.Flatten()], (2**30, 2**30))


def test_training_needs_little_memory(compiled):
    import tracemalloc

    x = np.zeros((20_000, 784), np.uint8)
    y = np.arange(20_000) % 10
    model = fnn.Sequential([fnn.Dense(64, "relu"), fnn.Dense(10)], 784, seed=0)
    tracemalloc.start()
    model.fit(x, y, optimizer="adam", batch_size=64, verbose=0, validation_data=(x, y))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    parameters = 4 * model.theta.size
    assert peak < 6e6 + 3 * parameters
    assert math.isfinite(model.history["loss"][0])


MENU = {
    "dense": lambda: fnn.Dense(6),
    "narrow": lambda: fnn.Dense(3, use_bias=False),
    "relu": fnn.ReLU,
    "leaky": fnn.LeakyReLU,
    "sigmoid": fnn.Sigmoid,
    "tanh": fnn.Tanh,
    "gelu": fnn.GELU,
    "softmax": fnn.Softmax,
    "dropout": lambda: fnn.Dropout(0.3),
    "linear": fnn.Linear,
    "views": lambda: fnn.Reshape((3, -1)),
    "flat": fnn.Flatten,
    "norm": fnn.BatchNorm,
    "max": lambda: fnn.MaxPool2D((3, 1), stride=1, padding="same"),
    "mean": lambda: fnn.AvgPool2D((2, 1), stride=1, padding="same", count_include_pad=False),
}
IMAGES = ("max", "mean")


def stack(names):
    """Return the layers, with what Dense and pooling need before them."""
    layers = []
    for name in names:
        layers += [fnn.Flatten()] if name in ("dense", "narrow", *IMAGES) else []
        layers += [fnn.Reshape((3, -1, 1))] if name in IMAGES else []
        layers.append(MENU[name]())
    return [*layers, fnn.Flatten(), fnn.Dense(2)]


def trained_and_used(names, share):
    """Return weights and outputs, with buffers of their own for all layers unless they share."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(11, 6)).astype(np.float32), rng.integers(0, 2, 11)
    layers = stack(names)
    if not share:
        for layer in layers:
            layer.inplace = layer.elementwise = False
            layer.reads_output = True
    model = fnn.Sequential(layers, 6, seed=1)
    model.fit(x, y, optimizer="adam", batch_size=4, epochs=2, fuse=False, verbose=0)
    return model.theta, model.predict(x), *(model.features(x, i) for i in range(len(layers)))


@pytest.mark.parametrize("name", ["reference", "compiled"])
@given(names=st.lists(st.sampled_from(list(MENU)), max_size=7))
@settings(max_examples=40, deadline=None)
def test_sharing_buffers_changes_no_bit(name, names):
    if name == "compiled":
        need_compiled()
    with fnn.use_backend(name):
        for a, b in zip(trained_and_used(names, True), trained_and_used(names, False), strict=True):
            np.testing.assert_array_equal(a, b)

"""Images with channels first: the same results as channels last, transposed on entry and exit."""

import copy

import numpy as np
import pytest

import fastnn as fnn
from fastnn.formats import inside, outside, rows_inside

N = 50


def images(dtype=np.float32):
    x = np.random.default_rng(0).integers(0, 256, (N, 7, 6, 3))
    return x.astype(np.uint8) if dtype == np.uint8 else (x / 255).astype(dtype)


def first(x):
    return x.transpose(0, 3, 1, 2)


def pair(*layers):
    """Return the same model twice: channels last, channels first."""
    last = fnn.Sequential(copy.deepcopy(layers), (7, 6, 3), seed=0)
    return last, fnn.Sequential(layers, (3, 7, 6), seed=0, data_format="channels_first")


def classifier():
    return [fnn.Conv2D(4, 3), fnn.BatchNorm(), fnn.ReLU(), fnn.Flatten(), fnn.Dense(5)]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("contiguous", [False, True])
def test_classification_gives_the_same_bits(dtype, contiguous, backend):
    x, y = images(dtype), np.arange(N) % 5
    given = np.ascontiguousarray(first(x)) if contiguous else first(x)
    last, model = pair(*classifier())
    options = {"epochs": 2, "batch_size": 16, "verbose": 0}
    last.fit(x, y, validation_data=(x, y), **options)
    history = model.fit(given, y, validation_data=(given, y), **options)
    assert history["val_loss"] == last.history["val_loss"]
    np.testing.assert_array_equal(model.theta, last.theta)
    assert model.evaluate(given, y) == last.evaluate(x, y)
    for n in (1, 3, N):
        np.testing.assert_array_equal(model.predict(given[:n]), last.predict(x[:n]))


def test_features_and_outputs_are_channels_first(backend):
    x = images()
    last, model = pair(*classifier())
    assert (model.input_shape, model.output_shape) == ((3, 7, 6), (5,))
    for _ in range(2):  # the second time by the short way
        got = model.features(first(x), 0)
        assert got.shape == (N, 4, 5, 4) and got.flags.c_contiguous
        np.testing.assert_array_equal(got, first(last.features(x, 0)))
        np.testing.assert_array_equal(model.features(first(x), 3), last.features(x, 3))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_targets_that_are_images(dtype, backend):
    x = images(dtype)
    last, model = pair(fnn.Conv2D(3, 3, padding="same"))
    assert model.output_shape == (3, 7, 6)
    last.fit(x, x, loss="mse", verbose=0)
    model.fit(first(x), first(x), loss="mse", verbose=0)
    np.testing.assert_array_equal(model.theta, last.theta)
    np.testing.assert_array_equal(model.predict(first(x)), first(last.predict(x)))
    assert model.evaluate(first(x), first(x), "mse") == last.evaluate(x, x, "mse")


def test_what_is_no_image_stays_as_it_is(backend):
    x = np.random.default_rng(0).normal(size=(9, 4, 5)).astype(np.float32)
    last = fnn.Sequential([fnn.Flatten(), fnn.Dense(2)], (4, 5), seed=0)
    options = {"seed": 0, "data_format": "channels_first"}
    model = fnn.Sequential([fnn.Flatten(), fnn.Dense(2)], (4, 5), **options)
    np.testing.assert_array_equal(model.predict(x), last.predict(x))


def test_the_first_data_may_decide_the_shape(backend):
    x = images()
    model = fnn.Sequential([fnn.Conv2D(2, 3)], seed=0, data_format="channels_first")
    assert model.predict(first(x)).shape == (N, 2, 5, 4)
    assert model.layers[0].w.shape == (3, 3, 3, 2)


def test_copies_and_texts_keep_the_format(capsys):
    _, model = pair(*classifier())
    other = copy.deepcopy(model)
    np.testing.assert_array_equal(other.predict(first(images())), model.predict(first(images())))
    assert repr(model).endswith("input_shape=(3, 7, 6), seed=0, data_format='channels_first')")
    model.summary()
    text = capsys.readouterr().out
    assert "(4, 5, 4)" in text and "input (3, 7, 6), " in text


def test_files_keep_the_format_and_the_statistics(tmp_path):
    _, model = pair(*classifier())
    x = first(images())
    model.fit(x, np.arange(N) % 5, verbose=0)
    model.save(tmp_path / "model.safetensors")
    loaded = fnn.load(tmp_path / "model.safetensors")
    assert (loaded.input_shape, loaded.data_format) == ((3, 7, 6), "channels_first")
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))


def test_bad_input_names_the_shape_as_the_user_sees_it(backend):
    _, model = pair(*classifier())
    with pytest.raises(ValueError, match=r"x: got shape \(50, 7, 6, 3\), expected \(rows, 3, 7, 6"):
        model.predict(images())
    _, model = pair(fnn.Conv2D(3, 3, padding="same"))
    with pytest.raises(ValueError, match=r"y: got shape \(50, 7, 6, 3\), expected \(rows, 3, 7, 6"):
        model.fit(first(images()), images(), loss="mse", verbose=0)
    for value in ("NCHW", None, 1):
        with pytest.raises(ValueError, match="data_format: got "):
            fnn.Sequential([fnn.ReLU()], data_format=value)


def test_shapes_and_rows_go_there_and_back():
    for shape in [(5,), (2, 3), (2, 3, 4), (2, 3, 4, 5)]:
        for data_format in ("channels_last", "channels_first"):
            assert outside(inside(shape, data_format), data_format) == shape
    labels = np.arange(4)
    assert rows_inside(labels, (2, 1, 2), "channels_first") is labels

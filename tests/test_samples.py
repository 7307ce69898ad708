"""What users give as samples and targets, and what steps fetch."""

import threading

import numpy as np
import pytest

import fastnn as fnn
from fastnn.checks import PIXEL_SCALE
from fastnn.samples import to_data


def mlp(**options):
    return fnn.Sequential([fnn.Dense(7, "tanh"), fnn.Dense(3)], **options, seed=0)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32)


def test_a_model_is_built_at_its_first_data(x, backend):
    for use in (
        lambda model: model.predict(x),
        lambda model: model.features(x, 0),
        lambda model: model.evaluate(x, np.zeros(300, int)),
        lambda model: model.fit(x, np.zeros(300, int), verbose=0, optimizer=fnn.SGD(1e-30)),
    ):
        model = mlp()
        use(model)
        assert model.input_shape == (12,)
        np.testing.assert_allclose(model.theta, mlp(input_shape=12).theta, atol=1e-20)


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.astype(np.float64),
        lambda x: x.tolist(),
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=0)[::2],
        lambda x: x[::-1].copy()[::-1],
        lambda x: x.astype(">f4"),
        np.ma.MaskedArray,
        lambda x: (
            np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
        ),
    ],
)
def test_any_form_of_the_same_numbers_gives_the_same_bits(convert, x, backend):
    model = mlp()
    wanted = model.predict(x[:20])
    np.testing.assert_array_equal(model.predict(convert(x[:20])), wanted)
    # once more, now that this shape has its own short way
    np.testing.assert_array_equal(model.predict(convert(x[:20])), wanted)


def test_read_only_arrays(x, backend):
    frozen = x.copy()
    frozen.flags.writeable = False
    labels = np.arange(300) % 3
    labels.flags.writeable = False
    model = mlp()
    model.fit(frozen, labels, validation_data=(frozen, labels), verbose=0)
    np.testing.assert_array_equal(model.predict(frozen), model.predict(x))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, bool, np.float16])
def test_other_numbers_are_converted(dtype, backend):
    given = np.random.default_rng(0).integers(0, 2, (30, 12)).astype(dtype)
    scale = np.float32(1 / 255) if dtype is np.uint8 else np.float32(1)
    model = mlp()
    wanted = model.predict(given.astype(np.float32) * scale)
    np.testing.assert_array_equal(model.predict(given), wanted)


def test_pixels_are_scaled_on_the_fly(backend):
    rng = np.random.default_rng(0)
    pixels, y = rng.integers(0, 256, (100, 4, 3), np.uint8), rng.integers(0, 3, 100)
    models = []
    for x in (pixels, pixels * np.float32(PIXEL_SCALE)):
        model = fnn.Sequential([fnn.Flatten(), fnn.Dense(3)], seed=0)
        model.fit(x, y, epochs=2, validation_data=(x, y), verbose=0)
        models.append((model.theta, model.predict(x), model.evaluate(x, y), model.features(x, 0)))
    for a, b in zip(*models, strict=True):
        np.testing.assert_equal(a, b)


def test_large_data_are_not_copied(x):
    model, y = mlp(), np.zeros(300, int)
    for data in (x, np.zeros((300, 12), np.uint8)):
        rows = to_data(model, data, y, fnn.CrossEntropy()).x
        assert np.shares_memory(rows, data)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("soft", [False, True])
def test_pixels_have_classes(data_format, soft, backend):
    """Numbers or probabilities, in either order of axes; also as wide as there are classes."""
    rng = np.random.default_rng(0)
    x = rng.random((12, 4, 4, 4), np.float32)
    p = rng.dirichlet(np.ones(4), (12, 4, 4)) if soft else np.eye(4)[rng.integers(0, 4, (12, 4, 4))]
    weights = np.arange(12) % 3
    first = data_format == "channels_first"
    x_seen, p_seen = (np.moveaxis(a, -1, 1) if first else a for a in (x, p))
    model = fnn.Sequential([fnn.Conv2D(4, 1)], x_seen.shape[1:], seed=0, data_format=data_format)
    out = model.predict(x_seen).astype(np.float64)
    out = np.moveaxis(out, 1, -1) if first else out
    losses = -(p * (out - np.log(np.exp(out).sum(axis=-1, keepdims=True)))).sum(axis=-1)
    hits = out.argmax(axis=-1) == p.argmax(axis=-1)
    np.testing.assert_array_equal(model.predict_classes(x_seen), out.argmax(axis=-1))
    for y in (p_seen,) if soft else (p_seen, p.argmax(axis=-1)):
        found = model.evaluate(x_seen, y)
        assert found["loss"] == pytest.approx(losses.mean(), rel=1e-5)
        assert found["accuracy"] == pytest.approx(hits.mean())
        found = model.evaluate(x_seen, y, sample_weight=weights)
        wanted = (losses * weights[:, None, None])[weights > 0].mean()
        assert found["loss"] == pytest.approx(wanted, rel=1e-5)
        assert found["accuracy"] == pytest.approx(hits[weights > 0].mean())


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "mse"])
def test_a_mask_is_no_picture(loss, backend):
    """Targets of uint8 that are 0 or 1 are these numbers, also beside pixels."""
    x = np.random.default_rng(0).integers(0, 256, (40, 6), dtype=np.uint8)
    mask = (x > 128).astype(np.uint8)
    histories = []
    for y in (mask, mask.astype(np.float32)):
        model = fnn.Sequential([fnn.Dense(6, "sigmoid")], seed=0)
        given = {"validation_data": (x, mask), "optimizer": fnn.SGD(0.1), "verbose": 0}
        histories.append(model.fit(x, y, loss=loss, **given))
    assert histories[0]["loss"] == histories[1]["loss"]
    assert histories[0]["val_loss"] == histories[1]["val_loss"]
    dark = np.zeros((40, 6), np.uint8)
    model.fit(x, mask, loss=loss, validation_data=(dark, mask), verbose=0)
    shown = model.evaluate(dark, mask)["loss"]  # as the training was told, whatever it shows
    assert shown == model.evaluate(dark, mask.astype(np.float32))["loss"]
    assert shown == model.history["val_loss"][-1]


def test_nothing_is_locked_while_data_are_checked(x, backend):
    """They may be whatever has an __array__, which may ask the very model, in another thread."""

    class Targets:
        def __array__(self, dtype=None, copy=None):
            found = []
            thread = threading.Thread(target=lambda: found.append(model.predict_classes(x)))
            thread.start()
            thread.join(timeout=60)
            return found[0]

    model = mlp()
    model.fit(x, Targets(), verbose=0)
    assert model.history["accuracy"][0] > 0.5


def test_a_picture_of_0_and_1_is_one_on_both_sides(backend):
    """And what the training had decides what a part of it is, whatever it shows."""
    rng = np.random.default_rng(0)
    dots = rng.integers(0, 2, (40, 6), dtype=np.uint8)
    losses = []
    for scale in (1, 255):
        model = fnn.Sequential([fnn.Dense(6)], seed=0)
        model.fit(dots * scale, dots * scale, loss="mse", optimizer=fnn.SGD(0.5), verbose=0)
        losses.append(model.evaluate(dots * scale, dots * scale)["loss"])
    assert losses[0] < 1e-4 < losses[1]  # seen as 1 of 255, and as 1
    model = fnn.Sequential([fnn.Dense(6)], seed=0)
    pixels = rng.integers(0, 256, (40, 6), dtype=np.uint8)
    pixels[:5] = 0
    pixels[0, 0] = 1
    model.fit(pixels, pixels, loss="mse", verbose=0)
    x, parts = pixels.copy(), (slice(0, 5), slice(5, 40))
    x[:5] = 9
    whole = model.evaluate(x, pixels)["loss"]
    means = [model.evaluate(x[part], pixels[part])["loss"] for part in parts]
    assert np.dot(means, [5 / 40, 35 / 40]) == pytest.approx(whole, rel=1e-5)


def test_others_wait_until_first_data_are_accepted(x, compiled):
    """A run that finds its data wrong may not unbuild what another one has begun to train."""
    y = np.zeros(len(x), int)
    for attempt in range(20):
        model, errors = mlp(), []

        def refused(model=model):
            with pytest.raises(ValueError, match=r"^y: "):
                model.evaluate(x, y - 1)

        def accepted(model=model, errors=errors):
            try:
                model.fit(x, y, verbose=0)
            except Exception as error:
                errors.append(error)

        targets = [refused, accepted] * 2
        threads = [threading.Thread(target=target) for target in targets[attempt % 2 :][:2]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors and model.input_shape == (12,)


def test_refused_samples_build_no_model(x, backend):
    y, spoiled = np.zeros(300, int), x.copy()
    spoiled[7, 3] = np.nan
    model = mlp()
    for refused in (
        lambda: model.fit(x, y[:9], verbose=0),
        lambda: model.fit(spoiled, y, verbose=0),
        lambda: model.fit(x, y, validation_data=(spoiled, y), verbose=0),
        lambda: model.evaluate(x, y - 1),
        lambda: model.predict(spoiled),
        lambda: model.features(spoiled, 0),
    ):
        with pytest.raises(ValueError, match=r"^(x|y|validation_data\[0\]): "):
            refused()
        assert model.input_shape is None
    optimizer = fnn.Adam()
    narrow = fnn.Sequential([fnn.BatchNorm(), fnn.Dense(3)])
    with pytest.raises(ValueError, match="x: got batches of one row"):
        narrow.fit(x, y, optimizer=optimizer, batch_size=1, verbose=0)
    for one in (model, narrow):
        one.fit(x[:, :5], y, optimizer=optimizer, verbose=0)
        assert one.input_shape == (5,)


@pytest.mark.parametrize("floats", ["neither", "training", "inputs of validation"])
def test_pixels_as_targets_are_scaled_in_validation_as_in_training(floats, backend):
    x = np.random.default_rng(0).integers(0, 256, (40, 6), dtype=np.uint8)
    scaled = (x / 255).astype(np.float32)
    model = fnn.Sequential([fnn.Dense(6, "sigmoid")], seed=0)
    train = scaled if floats == "training" else x
    given = (scaled if floats == "inputs of validation" else x), x
    history = model.fit(train, train, loss="mse", validation_data=given, verbose=0)
    wanted = ((model.predict(x) - x / 255) ** 2).mean()
    assert history["val_loss"][-1] == pytest.approx(wanted, rel=1e-4)

"""Losses: values against formulas, which targets are taken, and how."""

import numpy as np
import pytest

import fastnn as fnn
from fastnn.checks import PIXEL_SCALE


def evaluate(x, y, loss):
    """Measure with a model that returns its input."""
    return fnn.Sequential([fnn.Linear()], x.shape[1:]).evaluate(x, y, loss)


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(scale=3, size=(50, 4)).astype(np.float32)


def test_cross_entropy(logits, backend):
    y = np.arange(50) % 4
    log_p = logits - np.log(np.exp(logits.astype(float)).sum(axis=1, keepdims=True))
    figures = evaluate(logits, y, "cross_entropy")
    assert figures["loss"] == pytest.approx(-log_p[np.arange(50), y].mean(), rel=1e-5)
    assert figures["accuracy"] == np.mean(logits.argmax(axis=1) == y)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64, bool])
def test_one_hot_targets_are_the_same_as_integers(logits, dtype, backend):
    y = np.arange(50) % 4
    one_hot = np.eye(4)[y].astype(dtype)
    assert evaluate(logits, one_hot, "cross_entropy") == evaluate(logits, y, "cross_entropy")


def test_probabilities_as_targets(logits, backend):
    p = np.random.default_rng(1).dirichlet(np.ones(4), 50)
    log_p = logits - np.log(np.exp(logits.astype(float)).sum(axis=1, keepdims=True))
    figures = evaluate(logits, p, fnn.CrossEntropy())
    assert figures["loss"] == pytest.approx(-(p * log_p).sum(axis=1).mean(), rel=1e-5)
    assert figures["accuracy"] == np.mean(logits.argmax(axis=1) == p.argmax(axis=1))


@pytest.mark.parametrize("name", ["mse", "mean_squared_error"])
def test_mean_squared_error(logits, name, backend):
    y = np.random.default_rng(1).normal(size=(50, 4))
    assert evaluate(logits, y, name) == {"loss": pytest.approx(np.mean((logits - y) ** 2), 1e-5)}


def test_mean_squared_error_takes_a_vector_for_one_output(backend):
    x = np.ones((3, 1), np.float32)
    assert evaluate(x, [0.0, 1.0, 2.0], "mse")["loss"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", ["mae", "mean_absolute_error"])
def test_mean_absolute_error(logits, name, backend):
    y = np.random.default_rng(1).normal(size=(50, 4))
    assert evaluate(logits, y, name) == {"loss": pytest.approx(abs(logits - y).mean(), 1e-5)}


def test_huber(logits, backend):
    y = np.random.default_rng(1).normal(size=(50, 4))
    d = abs(logits - y)
    for loss, delta in (("huber", 1.0), (fnn.Huber(0.3), 0.3), (fnn.Huber(1e9), 1e9)):
        wanted = np.where(d <= delta, d**2 / 2, delta * (d - delta / 2)).mean()
        assert evaluate(logits, y, loss) == {"loss": pytest.approx(wanted, rel=1e-5)}


@pytest.mark.parametrize("dtype", [bool, np.int64, np.uint8, np.float64])
def test_binary_cross_entropy(logits, dtype, backend):
    y = np.random.default_rng(1).integers(0, 2, (50, 4)).astype(dtype)
    p = 1 / (1 + np.exp(-logits.astype(float)))
    wanted = -np.where(y, np.log(p), np.log(1 - p)).mean()
    for layers in ([fnn.Linear()], [fnn.Sigmoid()]):  # a last sigmoid is part of the loss
        figures = fnn.Sequential(layers, 4).evaluate(logits, y, "binary_cross_entropy")
        assert figures["loss"] == pytest.approx(wanted, rel=1e-5)
        assert figures["accuracy"] == pytest.approx(np.mean((logits > 0) == y.astype(bool)))
    one = evaluate(logits[:, :1], y[:, 0], fnn.BinaryCrossEntropy())
    assert one["accuracy"] == np.mean((logits[:, 0] > 0) == y[:, 0].astype(bool))


def test_binary_cross_entropy_learns(blobs, backend):
    model = fnn.Sequential([fnn.Dense(8, "tanh"), fnn.Dense(1, "sigmoid")], seed=0)
    history = model.fit(
        *blobs, loss="binary_cross_entropy", optimizer=fnn.Adam(0.03), epochs=20, verbose=0
    )
    assert history["accuracy"][-1] > 0.95
    p = model.predict(blobs[0])[:, 0]  # probabilities, unlike in training
    assert np.mean((p > 0.5) == blobs[1]) > 0.95


@pytest.mark.parametrize("loss", ["mse", "mae", "huber", "binary_cross_entropy"])
def test_elementwise_losses_in_plans(loss, compiled):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (90, 20), np.uint8)  # an autoencoder of pixels
    results = []
    for options in ({"eager": True}, {"fuse": False}):
        model = fnn.Sequential([fnn.Dense(9, "tanh"), fnn.Dense(20, "sigmoid")], seed=0)
        history = model.fit(
            x, x, loss=loss, optimizer="adam", epochs=5, batch_size=16, verbose=0, **options
        )
        results.append(model.theta.copy())
        assert history["loss"][-1] < history["loss"][0]
    np.testing.assert_array_equal(*results)


def test_pixels_as_targets_are_scaled_where_the_input_is_pixels(backend):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 5, 2), np.uint8)
    assert evaluate(pixels, pixels, "mse")["loss"] == 0
    as_floats = pixels * np.float32(PIXEL_SCALE)
    assert evaluate(as_floats, as_floats, "mse")["loss"] == 0
    # With other inputs, or in another size, uint8 are numbers.
    assert evaluate(as_floats, pixels, "mse")["loss"] > 1000
    model = fnn.Sequential([fnn.Flatten(), fnn.Dense(3, bias_initializer=fnn.Constant(1.0))])
    model.build((5, 2))
    model.theta[:30] = 0
    assert model.evaluate(pixels, np.ones((40, 3), np.uint8), "mse")["loss"] == 0


def test_a_user_loss_runs_eagerly_and_says_so(blobs, compiled):
    class Absolute(fnn.Loss):
        def targets(self, name, y, shape, dtype, pixels):
            return np.asarray(y, dtype).reshape(len(y), -1), 1.0

        def compute(self, k, x, target, weights, dx, loss, correct):
            loss[0] = abs(x - target).mean()
            if dx is not None:
                dx[...] = np.sign(x - target) / x.size

    x, y = blobs
    model = fnn.Sequential([fnn.Dense(8, "tanh"), fnn.Dense(1)], seed=0)
    with pytest.warns(UserWarning, match="Absolute computes outside the kernels"):
        history = model.fit(
            x, y, loss=Absolute(), optimizer=fnn.Adam(0.01), epochs=20, batch_size=10, verbose=0
        )
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert list(history) == ["loss"]

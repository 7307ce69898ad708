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

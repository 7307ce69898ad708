"""Layers: gradients of whole models against central differences, shapes, shared buffers."""

import numpy as np
import pytest

import fastnn as fnn
from fastnn import layers, losses, reference
from fastnn.layers.activations import ACTIVATIONS
from fastnn.samples import Data, to_data
from fastnn.trainer import Trainer

FEATURES, CLASSES, ROWS = 5, 4, 7


class Frozen(fnn.Optimizer):
    """Leaves the weights as they are, so that a step only computes the gradient."""

    records = True

    def __init__(self):
        super().__init__(1.0)

    def update(self, k, grad, lr, clock, buffers, theta):
        pass


def loss_and_gradient(model, data, loss):
    trainer = Trainer(model, data, loss, Frozen(), batch_size=ROWS, seed=3)

    def at(theta):
        model.theta[:] = theta
        trainer.clock[:] = 0
        trainer.step(trainer.workspace)
        return float(trainer.losses[0]), model.grad.copy()

    return at


def gradient_error(model, data, loss, step=1e-6):
    """Return the largest difference from central differences, relative to the largest gradient."""
    at = loss_and_gradient(model, data, loss)
    theta = model.theta.copy()
    _, gradient = at(theta)
    numeric = np.zeros_like(theta)
    for i in range(theta.size):
        shifted = theta.copy()
        shifted[i] += step
        above, _ = at(shifted)
        shifted[i] -= 2 * step
        below, _ = at(shifted)
        numeric[i] = (above - below) / (2 * step)
    assert abs(gradient).max() > 1e-3
    return abs(gradient - numeric).max() / abs(gradient).max()


MIDDLE = {
    "Dense": lambda: [fnn.Dense(5)],
    "no bias": lambda: [fnn.Dense(5, use_bias=False)],
    "ReLU": lambda: [fnn.ReLU()],
    "LeakyReLU": lambda: [fnn.LeakyReLU(0.3)],
    "GELU": lambda: [fnn.GELU()],
    "LeakyGELU": lambda: [fnn.LeakyGELU(0.2)],
    "GELU approximate": lambda: [fnn.GELU(approximate=True)],
    "Sigmoid": lambda: [fnn.Sigmoid()],
    "Tanh": lambda: [fnn.Tanh()],
    "Softmax": lambda: [fnn.Softmax()],
    "Linear": lambda: [fnn.Linear()],
    "Dropout": lambda: [fnn.Dropout(0.4)],
    "Flatten": lambda: [fnn.Reshape((2, 3)), fnn.Flatten()],
    "Reshape": lambda: [fnn.Reshape((3, -1)), fnn.Softmax(), fnn.Reshape(6)],
    "Conv2D": lambda: [
        fnn.Reshape((2, 3, 1)),
        fnn.Conv2D(3, (2, 3), padding="same", activation="tanh"),
        fnn.Conv2D(2, 2, stride=2, padding=1),
        fnn.Flatten(),
    ],
    "Conv2D dilated": lambda: [
        fnn.Reshape((3, 2, 1)),
        fnn.Conv2D(2, (2, 1), dilation=(2, 1), use_bias=False),
        fnn.Flatten(),
    ],
    "ConvTranspose2D": lambda: [
        fnn.Reshape((1, 2, 3)),
        fnn.ConvTranspose2D(2, 3, stride=2, padding=1, output_padding=1, activation="relu"),
        fnn.ConvTranspose2D(1, 2, use_bias=False),
        fnn.Flatten(),
    ],
    "RNN": lambda: [fnn.Reshape((2, 3)), fnn.RNN(4)],
    "RNN relu": lambda: [
        fnn.Reshape((3, 2)),
        fnn.RNN(3, True, "relu", bias_initializer="random_normal"),
        fnn.Flatten(),
    ],
    "LSTM": lambda: [
        fnn.Reshape((3, 2)),
        fnn.LSTM(2, True),
        fnn.Dropout(0.3),
        fnn.LSTM(3),
    ],
    "GRU": lambda: [fnn.Reshape((3, 2)), fnn.GRU(2, True), fnn.GRU(3, use_bias=False)],
    "both directions": lambda: [
        fnn.Reshape((3, 2)),
        fnn.RNN(2, True, bidirectional=True),
        fnn.LSTM(2, True, bidirectional=True),
        fnn.GRU(2, bidirectional=True),
    ],
    "MaxPool2D": lambda: [
        fnn.Dense(24),
        fnn.Reshape((4, 3, 2)),
        fnn.MaxPool2D(3, stride=1, padding=1),
        fnn.MaxPool2D((2, 1)),
        fnn.Flatten(),
    ],
    "AvgPool2D": lambda: [
        fnn.Dense(24),
        fnn.Reshape((4, 3, 2)),
        fnn.AvgPool2D(3, 2, padding="same", count_include_pad=False),
        fnn.Flatten(),
    ],
    "GlobalAvgPool2D": lambda: [
        fnn.Reshape((3, 1, 2)),
        fnn.UpSample2D((1, 3)),
        fnn.ReLU(),
        fnn.GlobalAvgPool2D(),
    ],
    "BatchNorm": lambda: [
        fnn.BatchNorm(gamma_initializer=fnn.RandomNormal(1.0, 0.3)),
        fnn.Tanh(),
        fnn.Reshape((3, 1, 2)),
        fnn.BatchNorm(eps=0.1, beta_initializer=fnn.RandomNormal()),
        fnn.Flatten(),
    ],
    "in place after in place": lambda: [
        fnn.Sigmoid(),
        fnn.LeakyReLU(),
        fnn.Tanh(),
        fnn.Dropout(0.2),
    ],
    "in place after softmax": lambda: [fnn.Softmax(), fnn.Linear(), fnn.ReLU(), fnn.GELU()],
}

rng = np.random.default_rng(5)
LOSSES = {
    "integer": (losses.CrossEntropy(), rng.integers(0, CLASSES, ROWS)),
    "soft": (losses.CrossEntropy(), rng.dirichlet(np.ones(CLASSES), ROWS)),
    "squares": (losses.MeanSquaredError(), rng.normal(size=(ROWS, CLASSES))),
    "absolute": (losses.MeanAbsoluteError(), rng.normal(size=(ROWS, CLASSES))),
    "huber": (losses.Huber(0.5), rng.normal(size=(ROWS, CLASSES))),
    "binary": (losses.BinaryCrossEntropy(), rng.random((ROWS, CLASSES))),
    "penalty": (losses.CrossEntropy(fnn.L1L2(0.01, 0.02)), rng.integers(0, CLASSES, ROWS)),
}


def model_and_data(middle, loss, y, last=()):
    model = fnn.Sequential(
        [fnn.Dense(6, bias_initializer=fnn.RandomNormal()), *middle, fnn.Dense(CLASSES), *last],
        FEATURES,
        seed=1,
        dtype="float64",
    )
    x = np.random.default_rng(2).normal(size=(ROWS, FEATURES))
    return model, to_data(model, x, y, loss)


@pytest.mark.parametrize("target", LOSSES)
@pytest.mark.parametrize("middle", MIDDLE)
def test_gradient_of_every_layer_and_loss(middle, target):
    loss, y = LOSSES[target]
    model, data = model_and_data(MIDDLE[middle](), loss, y)
    assert gradient_error(model, data, loss) <= 1e-6


@pytest.mark.parametrize("target", LOSSES)
@pytest.mark.parametrize("last", ["Softmax", "Sigmoid", "Linear", "ReLU"])
def test_gradient_with_a_last_activation(last, target):
    loss, y = LOSSES[target]
    model, data = model_and_data([fnn.Tanh()], loss, y, [getattr(fnn, last)()])
    assert gradient_error(model, data, loss) <= 1e-6


def test_every_layer_has_a_gradient_check():
    checked = {type(layer).__name__ for make in MIDDLE.values() for layer in make()}
    assert checked | {"Embedding"} == set(layers.__all__) - {"Layer"}


def test_gradient_of_an_embedding():
    loss, y = LOSSES["integer"]
    layers = [fnn.Embedding(5, 3), fnn.Dropout(0.3), fnn.LSTM(2), fnn.Dense(CLASSES)]
    model = fnn.Sequential(layers, 4, seed=1, dtype="float64")
    x = np.random.default_rng(2).integers(0, 5, (ROWS, 4))
    assert gradient_error(model, to_data(model, x, y, loss), loss) <= 1e-6


@pytest.mark.parametrize("middle", MIDDLE)
def test_backward_twice_gives_the_same_bits(middle):
    loss, y = LOSSES["integer"]
    model, data = model_and_data(MIDDLE[middle](), loss, y)
    at = loss_and_gradient(model, data, loss)
    theta = model.theta.copy()
    first, second = at(theta), at(theta)
    assert first[0] == second[0]
    np.testing.assert_array_equal(first[1], second[1])


@pytest.mark.parametrize(("name", "layer"), [("integer", "Softmax"), ("binary", "Sigmoid")])
def test_a_last_layer_that_is_part_of_the_loss(name, layer):
    loss, y = LOSSES[name]
    values = []
    for last in ([], [getattr(fnn, layer)()]):
        model, data = model_and_data([fnn.Tanh()], loss, y, last)
        values.append(loss_and_gradient(model, data, loss)(model.theta.copy()))
    assert values[0][0] == values[1][0]
    np.testing.assert_array_equal(values[0][1], values[1][1])


def test_no_gradient_is_computed_before_the_first_weights():
    model = fnn.Sequential([fnn.ReLU(), fnn.Dense(3), fnn.Dense(CLASSES)], FEATURES)
    data = Data(np.ones((ROWS, FEATURES), np.float32), 1.0, np.zeros(ROWS, np.int32), 1.0)
    ws = Trainer(model, data, fnn.CrossEntropy(), fnn.SGD(0.1), batch_size=ROWS).workspace
    assert [type(stage.layer).__name__ for stage in ws.backward] == ["Dense", "Dense"]
    assert ws.backward[-1].dx is None


def test_dropout_acts_in_training_only(backend):
    model = fnn.Sequential([fnn.Dropout(0.5)], 1000, seed=0)
    x = np.ones((2, 1000), np.float32)
    np.testing.assert_array_equal(model.predict(x), x)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_by_name_is_a_layer_of_its_own(name, backend):
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    sugar = fnn.Sequential([fnn.Dense(5, activation=name), fnn.Dense(2)], seed=0)
    plain = fnn.Sequential([fnn.Dense(5), ACTIVATIONS[name](), fnn.Dense(2)], seed=0)
    np.testing.assert_array_equal(sugar.predict(x), plain.predict(x))
    assert sugar.state_dict().keys() == plain.state_dict().keys() == {"0.w", "0.b", "2.w", "2.b"}


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "gelu", "sigmoid", "tanh", "softmax"])
def test_layers_compute_what_their_kernels_do(name, backend):
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    wanted = np.empty_like(x)
    flat = name != "softmax"
    options = {"leaky_relu": [0.01], "gelu": [False, 0.0]}.get(name, [])
    given, out = (x.reshape(-1), wanted.reshape(-1)) if flat else (x, wanted)
    getattr(reference, f"{name}_forward")(given, *options, out)
    got = fnn.Sequential([ACTIVATIONS[name]()], 4).predict(x)
    np.testing.assert_allclose(got, wanted, rtol=2e-6, atol=1e-6)


def test_repr_shows_what_differs_from_the_default():
    assert repr(fnn.Dense(3)) == "Dense(3)"
    assert repr(fnn.Dense(3, use_bias=False)) == "Dense(3, use_bias=False)"
    assert repr(fnn.Dense(3, kernel_initializer="he_normal")) == (
        "Dense(3, kernel_initializer=HeNormal())"
    )
    assert repr(fnn.Conv2D(8, 3)) == "Conv2D(8, (3, 3))"
    assert repr(fnn.Conv2D(8, 3, stride=(1, 2))) == "Conv2D(8, (3, 3), stride=(1, 2))"
    assert repr(fnn.LeakyReLU(0.5)) == "LeakyReLU(slope=0.5)"
    standard = fnn.Embedding(3, 2, kernel_initializer=fnn.RandomNormal(0.0, 1.0))
    assert repr(standard) == repr(fnn.Embedding(3, 2)) == "Embedding(3, 2)"


def test_overriding_a_computation_ends_recording():
    class Mine(fnn.Dense):
        def forward(self, k, x, out, saved):
            out[...] = x @ self.w + self.b

    class Renamed(fnn.Dense):
        def build(self, input_shape):
            return super().build(input_shape)

    class Declared(fnn.Dense):
        records = True

        def forward(self, k, x, out, saved):
            k.dense_forward(x, self.w, None, out)

    assert (Mine.records, Renamed.records, Declared.records) == (False, True, True)


def test_errors_of_a_constructor_name_the_layer_once():
    class Wide(fnn.Dense):
        def __init__(self, units, width=2):
            super().__init__(units * width)
            if width > 9:
                raise ValueError("width: got too much")

    for make, error in (
        (lambda: Wide(0), "Wide: units: got 0, expected an integer >= 1"),
        (lambda: Wide(1, width=10), "Wide: width: got too much"),
        (fnn.Dense, "Dense.__init__() missing 1 required positional argument: 'units'"),
    ):
        with pytest.raises((TypeError, ValueError)) as caught:
            make()
        assert str(caught.value) == error

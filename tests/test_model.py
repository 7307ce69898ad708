"""The model: shapes, weights, prediction in any split, features, copies, and what fit reports."""

import copy
import pickle
import subprocess
import sys
import threading
import tomllib
import types
import warnings
from pathlib import Path

import numpy as np
import pytest

import fastnn as fnn
from fastnn import inference, samples


def mlp(seed=0, **options):
    return fnn.Sequential(
        [fnn.Dense(20, "relu"), fnn.Dense(7, "tanh"), fnn.Dense(3)], **options, seed=seed
    )


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32)


# ---- shapes and weights --------------------------------------------------------------------------


def test_shapes_are_inferred():
    model = fnn.Sequential(
        [fnn.Reshape((4, -1)), fnn.Softmax(), fnn.Flatten(), fnn.Dense(5), fnn.Dense(2)], (2, 3, 4)
    )
    assert [layer.output_shape for layer in model.layers] == [(4, 6), (4, 6), (24,), (5,), (2,)]
    assert model.output_shape == (2,)
    assert model.n_parameters == 24 * 5 + 5 + 5 * 2 + 2


def test_weights_are_views_of_one_vector_at_aligned_places():
    model = mlp(input_shape=12)
    for layer in model.layers:
        for name in layer.weights:
            weight, gradient = getattr(layer, name), getattr(layer, f"d{name}")
            assert np.shares_memory(weight, model.theta)
            assert np.shares_memory(gradient, model.grad)
            assert weight.ctypes.data % 64 == 0 and gradient.ctypes.data % 64 == 0
    used = sum(weight.size for weight in model.state_dict().values())
    assert np.count_nonzero(model.theta) == used - (20 + 7 + 3)  # the biases begin as 0


def test_gaps_between_weights_stay_zero(x, backend):
    y = np.arange(300) % 3
    for optimizer in ("sgd", "adamw", fnn.SGD(0.1, 0.9), "rmsprop"):
        model = mlp()
        model.fit(x, y, optimizer=optimizer, verbose=0)
        vector = model.theta.copy()
        used = np.zeros(vector.size, bool)
        for weight in (value for layer in model.layers for value in _weights(layer)):
            start = (weight.ctypes.data - model.theta.ctypes.data) // 4
            used[start : start + weight.size] = True
        assert not used.all() and not vector[~used].any()


def _weights(layer):
    return [getattr(layer, name) for name in layer.weights]


def test_summary(capsys):
    model = mlp()
    model.summary()
    assert "not built" in capsys.readouterr().out
    model.build(784)
    model.summary()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["layer", "output", "shape", "parameters"]
    assert lines[1].split() == ["0", "Dense(20)", "(20,)", "15,700"]
    assert lines[-1] == "input (784,), 15,871 trainable parameters"
    assert len(lines) == 1 + 5 + 1
    assert repr(model) == (
        "Sequential([Dense(20), ReLU(), Dense(7), Tanh(), Dense(3)], input_shape=(784,), seed=0)"
    )


def test_the_parameters_that_report_c_prints():
    model = fnn.Sequential([fnn.Dense(128), fnn.Dense(64), fnn.Dense(10)], 784)
    assert model.n_parameters == 109_386


def test_layers_can_be_used_again_after_an_error():
    layers = [fnn.Flatten(), fnn.Dense(8, "relu"), fnn.Reshape((3, -1)), fnn.Dense(2)]
    with pytest.raises(ValueError, match=r"layer 3 \(Reshape\)"):
        fnn.Sequential(layers, 12)
    layers[2:3] = []
    model = fnn.Sequential(layers, 12)
    assert [type(layer).__name__ for layer in model.layers] == ["Flatten", "Dense", "ReLU", "Dense"]
    lazy = fnn.Sequential([fnn.Dense(3), fnn.Reshape((2, -1))])
    for _ in range(2):
        with pytest.raises(ValueError, match=r"layer 1 \(Reshape\)"):
            lazy.predict(np.ones((1, 12)))
    assert lazy.input_shape is None


def test_layers_can_be_copied_before_they_are_used():
    dense = fnn.Dense(8, "relu")
    for _ in range(2):
        model = fnn.Sequential([copy.deepcopy(dense), fnn.Dense(2)], 3)
        assert repr(model.layers) == "(Dense(8), ReLU(), Dense(2))"
        again = fnn.Sequential(copy.deepcopy(model.layers), 3)
        assert repr(again.layers) == repr(model.layers)
    assert repr(dense) == "Dense(8, activation=ReLU())"


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda layers: pickle.loads(pickle.dumps(layers))]
)
def test_copied_layers_keep_their_weights(copied, x, backend):
    """And buffers; copies of a copy, too, and after a model that could not be built of them."""
    model = fnn.Sequential([fnn.Dense(7), fnn.BatchNorm(), fnn.GELU(), fnn.Dense(3)], 12, seed=0)
    model.fit(x, np.arange(300) % 3, verbose=0)
    layers = copied(copied(model.layers[:3]))
    with pytest.raises(ValueError, match=r"layer 3 \(Reshape\)"):
        fnn.Sequential([*layers, fnn.Reshape((4, 4))], 12)
    tuned = fnn.Sequential([*layers, fnn.Dense(2)], 12)
    np.testing.assert_array_equal(tuned.features(x, 2), model.features(x, 2))
    with pytest.raises(ValueError, match=r"^layer 0 \(Dense\): .* copy .* \(12, 7\).*, expected"):
        fnn.Sequential(copied(model.layers), 11)
    again = copied(fnn.Sequential(copied(model.layers)))  # of an unbuilt one
    with pytest.raises(ValueError, match="x: got nan"):
        again.predict(np.full((2, 12), np.nan))
    np.testing.assert_array_equal(again.predict(x), model.predict(x))


class Tied(fnn.Layer):
    """Back through the weights of another layer."""

    def __init__(self, source):
        self.source = source

    def build(self, input_shape):
        return self.source.input_shape

    def forward(self, k, x, out, saved):
        np.matmul(x, self.source.w.T, out=out)


class Leaky(fnn.LeakyReLU):
    """With an option that the class below does not show."""

    def __init__(self):
        super().__init__(0.1)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_keep_what_layers_share(copied, x):
    dense = fnn.Dense(3, use_bias=False)
    model = fnn.Sequential([dense, Tied(dense)], 12, seed=0)
    with fnn.use_backend("reference"):
        twin = copied(model)
        assert twin.layers[1].source is twin.layers[0]
        np.testing.assert_array_equal(twin.predict(x), model.predict(x))


def test_layers_of_a_model_that_failed_can_be_copied(x):
    layers = [fnn.Dense(3), fnn.Dense(2, kernel_initializer=fnn.Constant(1e39))]
    with pytest.raises(ValueError, match="expected finite"):
        fnn.Sequential(layers, 12)
    assert fnn.Sequential(copy.deepcopy(layers[:1]), 12).predict(x).shape == (300, 3)


def test_layers_cannot_be_appended():
    with pytest.raises(AttributeError):
        mlp(input_shape=12).layers.append(fnn.Softmax())


@pytest.mark.parametrize("layer", [lambda: fnn.LeakyReLU(0.1), Leaky])
def test_predictions_heed_changed_options(layer, x, backend):
    model = fnn.Sequential([layer()], 12)
    model.predict(x[:5])
    model.layers[0].slope = 0.5
    np.testing.assert_array_equal(model.predict(x[:5]), model.predict(x)[:5])
    np.testing.assert_allclose(model.predict(x), np.where(x > 0, x, 0.5 * x), rtol=1e-6)


def test_threads_build_a_model_once(x, compiled):
    for seed in range(10):
        model = mlp(seed)
        barrier, results = threading.Barrier(8), []

        def use(model=model, barrier=barrier, results=results):
            barrier.wait()
            results.append(model.predict(x[:1]))

        threads = [threading.Thread(target=use) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(results) == 8
        for result in results:
            np.testing.assert_array_equal(result, results[0])
        model.theta *= 2
        for predictor in model._whole:
            np.testing.assert_array_equal(predictor(x[:1]), model.predict(x[:1]))


# ---- state ---------------------------------------------------------------------------------------


def test_state_dict_is_a_copy_and_loads(x, backend):
    model, other = mlp(input_shape=12), mlp(seed=1, input_shape=12)
    wanted = model.predict(x)
    assert (other.predict(x) != wanted).any()
    state = model.state_dict()
    assert list(state) == ["0.w", "0.b", "2.w", "2.b", "4.w", "4.b"]
    other.load_state_dict(state)
    for value in state.values():
        value[...] = np.nan
    np.testing.assert_array_equal(model.predict(x), wanted)
    np.testing.assert_array_equal(other.predict(x), wanted)


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("2.w", None, ValueError, r"missing \['2.w'\], unexpected \[\]"),
        ("9.w", np.ones(3), ValueError, r"missing \[\], unexpected \['9.w'\]"),
        ("4.b", np.ones(4), ValueError, r"state\['4.b'\]: got shape \(4,\), expected \(3,\)"),
        ("4.b", np.ones((3, 1)), ValueError, r"got shape \(3, 1\)"),
        ("4.b", np.ones(3, int), TypeError, "got dtype int64, expected a float dtype"),
        ("4.b", ["a", "b", "c"], TypeError, "expected numbers"),
        ("4.b", [1.0, np.nan, 1.0], ValueError, "got NaN or infinity"),
        ("4.b", [1.0, 1e300, 1.0], ValueError, "got NaN or infinity, expected finite float32"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(key, value, error, message):
    model = mlp(input_shape=12)
    before, state = model.theta.copy(), mlp(seed=1, input_shape=12).state_dict()
    state[key] = value
    if value is None:
        del state[key]
    with pytest.raises(error, match=message):
        model.load_state_dict(state)
    np.testing.assert_array_equal(model.theta, before)


def test_float64_and_half_states_are_converted():
    model = mlp(input_shape=12)
    for dtype in (np.float64, np.float16, ">f4"):
        state = {key: value.astype(dtype) for key, value in model.state_dict().items()}
        other = mlp(seed=1, input_shape=12)
        other.load_state_dict(state)
        np.testing.assert_allclose(other.theta, model.theta, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_copies_have_weights_of_their_own(copied, x, backend):
    model = mlp()
    y = np.arange(300) % 3
    model.fit(x, y, verbose=0)
    model.predict(x)
    twin = copied(model)
    np.testing.assert_array_equal(twin.predict(x), model.predict(x))
    twin.fit(x, y, verbose=0)
    assert (twin.theta != model.theta).any()
    model.fit(x, y, verbose=0)
    np.testing.assert_array_equal(twin.theta, model.theta)
    assert twin.layers[0].w.base is not model.layers[0].w.base


# ---- prediction ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 7, 16, 17, 64, 250])
def test_bits_do_not_depend_on_the_split(size, x, compiled):
    model = mlp()
    whole = model.predict(x)
    parts = [model.predict(x[start : start + size]) for start in range(0, len(x), size)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_large_inputs_pass_in_chunks(compiled, monkeypatch):
    big = np.random.default_rng(0).normal(size=(5000, 12)).astype(np.float32)
    model = mlp()
    whole = model.predict(big)
    assert whole.shape == (5000, 3)
    monkeypatch.setattr(samples, "_MAX_CHUNK", 33)
    np.testing.assert_array_equal(mlp().predict(big), whole)


def test_prediction_against_numpy(x, backend):
    model = mlp(input_shape=12)
    w0, b0, w1, b1, w2, b2 = (value.astype(float) for value in model.state_dict().values())
    hidden = np.tanh(np.maximum(x @ w0 + b0, 0) @ w1 + b1)
    np.testing.assert_allclose(model.predict(x), hidden @ w2 + b2, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.features(x), hidden, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model.predict_classes(x), model.predict(x).argmax(axis=1))


def test_outputs_are_the_callers_own(x, backend):
    model = mlp()
    first = model.predict(x[:1])
    kept = first.copy()
    second = model.predict(x[1:2])
    np.testing.assert_array_equal(first, kept)
    second[...] = np.nan
    np.testing.assert_array_equal(model.predict(x[:1]), kept)
    view = fnn.Sequential([fnn.Flatten()]).predict(x)
    assert not np.shares_memory(view, x)


def test_new_weights_are_seen_at_once(x, backend):
    model = mlp()
    before = model.predict(x[:1])
    model.theta *= 2
    assert (model.predict(x[:1]) != before).all()
    model.load_state_dict(mlp(seed=1, input_shape=12).state_dict())
    np.testing.assert_array_equal(model.predict(x[:1]), mlp(seed=1).predict(x[:1]))


@pytest.mark.parametrize("last", [[], [fnn.Sigmoid]])
@pytest.mark.parametrize("steps", [1, 4])
def test_classes_of_a_single_output(last, steps, x, backend):
    rows = x.reshape(-1, *([steps] if steps > 1 else []), 12 // steps)
    y = (rows.sum(axis=-1) > 0).astype(int)
    layers = [fnn.Dense(8, "tanh"), fnn.Dense(1), *(layer() for layer in last)]
    model = fnn.Sequential(layers, seed=0)
    targets = y if steps == 1 else y[..., None]
    model.fit(rows, targets, loss="binary_cross_entropy", optimizer="adam", epochs=5, verbose=0)
    for one in (model, copy.deepcopy(model)):
        found = one.predict_classes(rows)
        assert found.dtype == np.int64 and found.shape == y.shape and set(found.flat) == {0, 1}
        assert np.mean(found == y) == pytest.approx(one.evaluate(rows, targets)["accuracy"])
    p = model.predict(rows)[..., 0]
    np.testing.assert_array_equal(found, p > (0.5 if last else 0))


def test_classes_of_a_single_number_are_refused(x):
    model = fnn.Sequential([fnn.Dense(1)], seed=0)
    for _ in range(2):
        message = r"^predict_classes: the model has a single output.* end in Sigmoid\(\)"
        with pytest.raises(ValueError, match=message):
            model.predict_classes(x)
        model.fit(x, x[:, 0], loss="mse", verbose=0)


def test_assigned_weights_and_buffers_are_copied(x, backend):
    x = x.reshape(300, 3, 4)
    layers = [fnn.GRU(5, bidirectional=True), fnn.BatchNorm(), fnn.Dense(3)]
    model, twin = (fnn.Sequential(copy.deepcopy(layers), (3, 4), seed=0) for _ in range(2))
    model.predict(x[:2])  # plans are recorded with the arrays of before
    rng = np.random.default_rng(1)
    for key, array in model.arrays().items():
        index, name = key.split(".")
        layer = model.layers[int(index)]
        value = rng.uniform(0.5, 1, array.shape)
        setattr(layer, name, value)
        assert getattr(layer, name) is array
        np.testing.assert_array_equal(array, value.astype(np.float32))
        value[...] = np.nan  # the caller's own
        twin.arrays()[key][...] = array
    y = np.arange(300) % 3
    for one in (model, twin):
        one.fit(x, y, epochs=2, batch_size=100, verbose=0)
    np.testing.assert_array_equal(model.theta, twin.theta)
    np.testing.assert_array_equal(model.predict(x), twin.predict(x))


def test_weights_change_in_place_and_by_their_own_values(x, backend):
    model = mlp(input_shape=12)
    layer, theta = model.layers[0], model.theta
    w, expected = layer.w, layer.w[::-1] * np.float32(2) + 1
    layer.w *= 2
    layer.w = layer.w[::-1]
    layer.w += 1
    assert layer.w is w
    np.testing.assert_array_equal(model.state_dict()["0.w"], expected)
    layer.b = [1] * 20
    assert model.state_dict()["0.b"].sum() == 20
    model.theta = theta[::-1].copy()
    model.grad = np.ones(theta.shape)
    assert model.theta is theta and (layer.dw == 1).all()
    model.theta *= 0
    assert not model.predict(x[:3]).any()


def test_assigned_vectors_leave_the_gaps_between_weights_0(x, backend):
    y = np.arange(300) % 3
    models = mlp(input_shape=12), mlp(input_shape=12)
    models[1].grad = np.full(models[1].grad.shape, 1e3)
    models[1].theta = np.where(models[1].theta == 0, 1, models[1].theta)
    models[0].load_state_dict(models[1].state_dict())
    for one in models:
        one.fit(x, y, optimizer=fnn.SGD(0.1, clip_norm=1e-2), verbose=0)
    np.testing.assert_array_equal(models[0].theta, models[1].theta)


def test_numbers_that_are_too_large_become_infinite_without_a_warning():
    model = fnn.Sequential([fnn.Dense(2)], 2, seed=0)
    model.layers[0].w = np.full((2, 2), 1e60)
    assert np.isinf(model.theta).any()


def test_weights_of_a_model_cannot_be_deleted():
    model = fnn.Sequential([fnn.Dense(2)], 2, seed=0)
    with pytest.raises(AttributeError, match=r"^layer 0 \(Dense\): b belongs to a model"):
        del model.layers[0].b
    alone = copy.deepcopy(model.layers[0])
    assert not hasattr(alone, "w")


def test_a_layer_of_a_model_that_could_not_be_built_can_be_used_again():
    class Start(fnn.Initializer):
        value = np.nan

        def __call__(self, shape, rng):
            return np.full(shape, self.value)

    class WithDefault(Scale):
        def build(self, input_shape):
            self.w = np.zeros(1)  # until it is known how many
            self.add_weight("w", input_shape, Start())
            return input_shape

    layer = WithDefault()
    with pytest.raises(ValueError, match="expected finite"):
        fnn.Sequential([layer], 3)
    Start.value = 1.0
    assert fnn.Sequential([layer], 4).theta.sum() == 4


def test_a_refused_fit_changes_no_random_numbers(x):
    found = []
    for refused in (False, True):
        model = fnn.Sequential([fnn.GRU(4, stateful=True), fnn.Dense(3)], (4, 3), seed=0)
        rows, y = x.reshape(300, 4, 3), np.arange(300) % 3
        if refused:
            with pytest.raises(ValueError, match="expected a multiple of batch_size"):
                model.fit(rows, y, batch_size=77, shuffle=False, verbose=0)
        model.fit(rows, y, batch_size=50, shuffle=False, verbose=0)
        found.append((model._streams, model.theta.tobytes()))
    assert found[0] == found[1]


def test_assigned_weights_must_fit():
    model = fnn.Sequential([fnn.Dense(4), fnn.BatchNorm()], input_shape=3, seed=0)
    before = model.state_dict()
    for index, name, value, message in (
        (0, "w", np.ones((4, 3)), r"layer 0 \(Dense\): w: got shape \(4, 3\), expected \(3, 4\)"),
        (0, "dw", np.ones(3), r"layer 0 \(Dense\): dw: got shape \(3,\), expected \(3, 4\)"),
        (0, "b", 0.0, r"layer 0 \(Dense\): b: got shape \(\), expected \(4,\)"),
        (1, "mean", np.ones(1), r"layer 1 \(BatchNorm\): mean: got shape \(1,\), expected \(4,\)"),
        (0, "b", None, r"layer 0 \(Dense\): b: got NoneType of dtype object, expected numbers"),
    ):
        error = TypeError if value is None else ValueError
        with pytest.raises(error, match=f"^{message}"):
            setattr(model.layers[index], name, value)
    with pytest.raises(ValueError, match=r"^theta: got shape \(3,\), expected \(64,\)"):
        model.theta = np.ones(3)
    for key, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[key])
    with pytest.raises(ValueError, match="no shapes yet"):
        fnn.Sequential([fnn.Dense(4)]).theta = np.ones(3)


def test_features_of_every_layer(x, backend):
    model = mlp()
    outputs = [model.features(x, layer) for layer in range(5)]
    assert [out.shape[1] for out in outputs] == [20, 20, 7, 7, 3]
    np.testing.assert_array_equal(outputs[1], np.maximum(outputs[0], 0))
    np.testing.assert_array_equal(outputs[4], model.predict(x))
    np.testing.assert_array_equal(outputs[3], model.features(x))
    np.testing.assert_array_equal(outputs[0], model.features(x, -5))
    np.testing.assert_array_equal(
        model.features(x, np.int64(1)), model.features(x.astype(np.float64), layer=1)
    )


def test_many_batch_sizes_keep_few_plans(x, backend):
    model = mlp()
    whole = model.predict(x)
    for n in range(1, 200):
        np.testing.assert_allclose(model.predict(x[:n]), whole[:n], rtol=1e-5, atol=1e-6)
    assert len(model._whole) == 1
    assert len(model._whole[0].runs) <= inference._MAX_RUNS


def test_the_backend_can_be_changed_between_calls(x, compiled):
    model = mlp()
    fast = model.predict(x)
    with fnn.use_backend("reference"):
        slow = model.predict(x)
        assert model._whole[0].eager
    np.testing.assert_allclose(slow, fast, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model.predict(x), fast)


def test_sixteen_threads_predict_on_one_model(x, backend):
    model = mlp()
    wanted, errors = model.predict(x), []

    def use(seed):
        rng = np.random.default_rng(seed)
        for _ in range(40):
            start = rng.integers(0, 299)
            stop = rng.integers(start + 1, 301)
            got = model.predict(x[start:stop])
            if backend == "reference":
                np.testing.assert_allclose(got, wanted[start:stop], rtol=1e-4, atol=1e-5)
            else:
                np.testing.assert_array_equal(got, wanted[start:stop])

    def run(seed):
        try:
            use(seed)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors


# ---- user layers ---------------------------------------------------------------------------------


class Scale(fnn.Layer):
    """A layer in plain NumPy, as the documentation shows it."""

    def build(self, input_shape):
        self.add_weight("w", input_shape, fnn.Constant(2.0))
        return input_shape

    def forward(self, k, x, out, saved):
        np.multiply(x, self.w, out=out)

    def backward(self, k, dout, x, out, dx, saved):
        np.sum(dout * x, axis=0, out=self.dw)
        if dx is not None:
            np.multiply(dout, self.w, out=dx)


@pytest.mark.parametrize("make", [lambda: [fnn.Dense(8, "relu"), Scale()], lambda: [Scale()]])
def test_a_user_layer_trains(make, x, backend):
    y = (x[:, 0] > 0).astype(int)
    model = fnn.Sequential([*make(), fnn.ReLU(), fnn.Dense(2)], seed=0)
    scale = next(layer for layer in model.layers if isinstance(layer, Scale))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = model.fit(x, y, optimizer=fnn.Adam(0.01), epochs=20, verbose=0)
        model.predict(x)
        model.fit(x, y, optimizer="adam", verbose=0)
    messages = [str(warning.message) for warning in caught]
    if backend == "compiled":
        assert len(messages) == 1
        assert messages[0].startswith(f"layer {scale.index} (Scale) computes outside the kernels")
        assert "records = True" in messages[0]
        assert caught[0].filename == __file__
    else:
        assert not messages
    assert history["loss"][-1] < 0.6 * history["loss"][0]
    assert model.plan is None
    assert (scale.w != 2).all()


class Mean(Scale):
    """Assigns what ``Scale`` writes, and keeps a statistic."""

    def build(self, input_shape):
        self.add_buffer("mean", input_shape, 0.0)
        return super().build(input_shape)

    def backward(self, k, dout, x, out, dx, saved):
        super().backward(k, dout, x, out, dx, saved)
        self.dw = np.zeros(1) if self.wrong else (dout * x).sum(axis=0)

    def update(self, k, x, saved):
        self.mean = 0.9 * self.mean + 0.1 * x.mean(axis=0)

    wrong = False


@pytest.mark.filterwarnings("ignore:layer . .(Scale|Mean)")
def test_a_user_layer_may_assign_gradients_and_buffers(x, backend):
    y, trained = (x[:, 0] > 0).astype(int), []
    for layer in (Scale(), Mean()):
        model = fnn.Sequential([layer, fnn.Dense(2)], seed=0)
        model.fit(x, y, epochs=2, optimizer=fnn.SGD(0.1), verbose=0)
        trained.append(model)
    np.testing.assert_array_equal(trained[0].theta, trained[1].theta)
    assert trained[1].state_dict()["0.mean"].any()
    layer.wrong = True
    message = r"^layer 0 \(Mean\): dw: got shape \(1,\), expected \(12,\)"
    with pytest.raises(ValueError, match=message):
        model.fit(x, y, verbose=0)


def test_a_user_layer_built_from_kernels_is_recorded(x, compiled):
    class Twice(fnn.Layer):
        records = True

        def saved(self, n, dtype):
            return {"half": ((n, *self.input_shape), dtype)}

        def forward(self, k, x, out, saved):
            k.relu_forward(x.reshape(-1), saved.half.reshape(-1))
            k.leaky_relu_forward(saved.half.reshape(-1), 0.5, out.reshape(-1))

        def backward(self, k, dout, x, out, dx, saved):
            if dx is not None:
                k.relu_backward(dout.reshape(-1), out.reshape(-1), dx.reshape(-1))

    y, results = np.arange(300) % 3, []
    for middle in (Twice, fnn.ReLU):
        model = fnn.Sequential([fnn.Dense(8), middle(), fnn.Dense(3)], seed=0)
        model.fit(x, y, epochs=2, fuse=False, verbose=0)
        assert model.plan is not None
        results.append((model.theta, model.predict(x)))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])


@pytest.mark.parametrize("missing", ["forward", "backward"])
def test_a_layer_without_a_method_says_so(missing, x):
    class Half(fnn.Layer):
        def forward(self, k, x, out, saved):
            out[...] = x

    model = fnn.Sequential([fnn.Dense(3), Half() if missing == "backward" else fnn.Layer()])
    with fnn.use_backend("reference"), pytest.raises(NotImplementedError, match=missing):
        model.fit(x, np.zeros(300, int), verbose=0)


# ---- what fit reports ----------------------------------------------------------------------------


def test_history(x, backend):
    y = np.arange(300) % 3
    model = mlp()
    history = model.fit(x, y, epochs=3, validation_data=(x[:50], y[:50]), verbose=0)
    assert history is model.history
    assert list(history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert history.epochs == 3
    for values in (*history.values(), history.seconds, history.samples_per_second):
        assert len(values) == 3 and all(np.isfinite(values))
    assert history.batch_losses.shape == (3 * 10,)
    mean = np.average(history.batch_losses[:10], weights=[32] * 9 + [12])
    assert history["loss"][0] == pytest.approx(mean, rel=1e-6)
    assert repr(history).startswith("History(epochs=3, loss=")
    with pytest.raises(KeyError):
        history["nothing"]


def test_callbacks_are_called_after_each_epoch_and_may_end_the_run(x, backend):
    calls = []
    model = mlp()

    def first(given, history):
        assert given is model
        calls.append(("first", history.epochs))
        return history.epochs == 2

    def second(given, history):
        calls.append(("second", history.epochs))
        given.predict(x[:1])

    history = model.fit(x, np.arange(300) % 3, epochs=5, callbacks=[first, second], verbose=0)
    assert calls == [("first", 1), ("second", 1), ("first", 2), ("second", 2)]
    assert history.epochs == 2


@pytest.mark.parametrize("verbose", [0, 1, 2, True, False])
def test_one_line_per_epoch_where_there_is_no_terminal(verbose, x, backend, capsys):
    mlp().fit(x, np.arange(300) % 3, epochs=2, validation_data=(x, [0] * 300), verbose=verbose)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == ""
    assert len(lines) == (2 if verbose else 0)
    for line, start in zip(lines, ("epoch 1/2  loss ", "epoch 2/2  loss "), strict=False):
        assert line.startswith(start) and "val_accuracy" in line and "samples/s" in line


def test_a_bar_on_a_terminal(x, backend, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    mlp().fit(x, np.arange(300) % 3, epochs=2)
    out, err = capsys.readouterr()
    assert "epoch 1/2" in err and "300" in err
    assert len(out.splitlines()) == 2


def test_fit_without_a_stderr(x, backend, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    mlp().fit(x, np.arange(300) % 3)


def losses_of_fits(model, x, still, fits=3, **options):
    """Return the losses of the batches of each call, with weights that stay as they are."""
    y, found = np.arange(300) % 3, []
    for _ in range(fits):
        options["optimizer"] = fnn.SGD(1e-30) if still is None else still
        history = model.fit(x, y, batch_size=50, verbose=0, **options)
        found.append(tuple(history.batch_losses))
    return found


@pytest.mark.parametrize("layer", [fnn.Linear, lambda: fnn.Dropout(0.5)])
def test_each_fit_takes_another_order_and_other_masks(layer, x, backend):
    def net():
        return fnn.Sequential([fnn.Dense(8), layer(), fnn.Dense(3)], seed=0)

    found = losses_of_fits(net(), x, None)
    assert len(set(found)) == 3
    assert losses_of_fits(net(), x, None) == found  # in an equal program
    assert losses_of_fits(net(), x, fnn.SGD(1e-30), seed=0, fits=1) == found[:1]
    assert len(set(losses_of_fits(net(), x, None, seed=5))) == 1  # as it was asked for
    one = net()
    both = fnn.SGD(1e-30)
    mixed = losses_of_fits(one, x, both, 1) + losses_of_fits(one, x, None, 1)
    mixed += losses_of_fits(one, x, both, 1)
    assert mixed[:2] == found[:2]
    assert mixed[::2] == losses_of_fits(net(), x, fnn.SGD(1e-30), 2)
    if layer is not fnn.Linear:
        assert len(set(losses_of_fits(net(), x, None, shuffle=False))) == 3


def test_copies_and_files_go_on_with_the_same_orders(x, tmp_path):
    model = mlp()
    losses_of_fits(model, x, None, 2)
    model.save(tmp_path / "model")
    copies = copy.deepcopy(model), pickle.loads(pickle.dumps(model)), fnn.load(tmp_path / "model")
    expected = losses_of_fits(model, x, None, 2)
    for one in copies:
        assert losses_of_fits(one, x, None, 2) == expected


def test_plan_can_be_printed(x, compiled):
    model = mlp()
    assert model.plan is None
    model.fit(x, np.arange(300) % 3, verbose=0)
    assert "adam_update" not in str(model.plan)
    model.fit(x, np.arange(300) % 3, optimizer="adam", verbose=0)
    for word in ("gather_rows", "dense_forward", "softmax_cross_entropy", "adam_update"):
        assert word in str(model.plan)


def test_a_net_without_weights_can_be_run(x, backend):
    for layers in ([fnn.Linear()], [fnn.Softmax()], [fnn.ReLU(), fnn.Dropout(0.1)]):
        model = fnn.Sequential(layers, 12)
        history = model.fit(x, np.arange(300) % 12, batch_size=7, epochs=2, verbose=0)
        assert history["loss"][0] == pytest.approx(history["loss"][1], rel=0.1)
        assert model.n_parameters == 0
        assert model.predict(x).shape == x.shape


def test_validation_uses_the_given_data_only(x, backend):
    y = np.arange(300) % 3
    a, b = mlp(), mlp()
    a.fit(x, y, epochs=2, validation_data=(x[:9], y[:9]), verbose=0)
    b.fit(x, y, epochs=2, verbose=0)
    np.testing.assert_array_equal(a.theta, b.theta)


def test_evaluate_takes_the_loss_of_the_last_fit(x, backend):
    model = fnn.Sequential([fnn.Dense(12)], seed=0)
    assert set(model.evaluate(x, np.zeros(300, int))) == {"loss", "accuracy"}
    model.fit(x, x, loss="mse", verbose=0)
    assert set(model.evaluate(x, x)) == {"loss"}
    assert set(model.evaluate(x, np.zeros(300, int), "cross_entropy")) == {"loss", "accuracy"}
    assert model.evaluate(x, x)["loss"] == pytest.approx(np.mean((model.predict(x) - x) ** 2), 1e-4)


def test_float64_runs_on_the_reference(x):
    model = fnn.Sequential([fnn.Dense(3)], seed=0, dtype="float64")
    model.fit(x, np.arange(300) % 3, verbose=0)
    assert model.predict(x).dtype == np.float64 and model.plan is None
    twin = copy.deepcopy(model)
    np.testing.assert_array_equal(twin.predict(x), model.predict(x))


def test_the_version_is_that_of_the_package():
    project = Path(__file__).parent.parent / "pyproject.toml"
    assert tomllib.loads(project.read_text())["project"]["version"] == fnn.__version__


def test_public_names():
    for name in fnn.__all__:
        assert getattr(fnn, name) is not None
    assert isinstance(fnn.datasets, types.ModuleType)
    assert "datasets" in dir(fnn)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fnn.nothing  # noqa: B018


def test_a_type_checker_knows_the_names(tmp_path):
    pytest.importorskip("mypy")
    script = tmp_path / "script.py"
    script.write_text(
        """import fastnn as fnn

fnn.datasets.load_digits(seed=0)
fnn.metrics.confusion_matrix([0], [1])
fnn.plots.curves(fnn.History(), "loss")
model = fnn.Sequential([fnn.Dense(2)])
model.theta = [1.0]
fnn.Dence(2)
fnn.datasets.load_digit()
fnn.metrics.confusion()
fnn.plots.curve()
fnn.Dense(2).unit = 3
"""
    )
    options = ["--strict", "--follow-imports=silent", "--config-file=", "--cache-dir"]
    run = subprocess.run(
        [sys.executable, "-m", "mypy", *options, tmp_path / "cache", script],
        cwd=Path(fnn.__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.split(":")[1] for line in run.stdout.splitlines() if "[attr-defined]" in line]
    assert lines == ["8", "9", "10", "11", "12"], run.stdout + run.stderr
    assert "Found 5 errors in 1 file" in run.stdout

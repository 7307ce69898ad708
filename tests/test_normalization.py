"""Batch normalisation: statistics of batches and of a run, copies, and buffers in general."""

import copy
import pickle

import numpy as np
import pytest

import fastnn as fnn


def rows(n=96, features=6):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(n, features)) * 3 + 5).astype(np.float32)
    return x, (x[:, 0] > 5).astype(np.int64)


def net(*layers, shape=6, **options):
    return fnn.Sequential([*layers, fnn.Flatten(), fnn.Dense(2)], shape, seed=0, **options)


class Still(fnn.Optimizer):
    """Leaves the weights as they are, so that only the running statistics move."""

    records = True

    def __init__(self):
        super().__init__(1.0)

    def update(self, k, grad, lr, clock, buffers, theta):
        pass


def test_running_statistics_follow_the_batches(backend):
    x, y = rows()
    model = net(fnn.BatchNorm(momentum=0.25))
    model.fit(x, y, optimizer=Still(), batch_size=40, epochs=2, shuffle=False, verbose=0)
    mean, var = np.zeros(6), np.ones(6)
    for _ in range(2):
        for batch in (x[:40], x[40:80], x[80:]):
            mean += 0.25 * (batch.mean(axis=0) - mean)
            var += 0.25 * (batch.var(axis=0, ddof=1) - var)
    np.testing.assert_allclose(model.layers[0].mean, mean, rtol=1e-5)
    np.testing.assert_allclose(model.layers[0].var, var, rtol=1e-5)


def test_prediction_uses_the_running_statistics(backend):
    x, y = rows()
    model = net(fnn.Reshape((3, 1, 2)), fnn.BatchNorm(eps=0.1))
    model.fit(x, y, batch_size=16, epochs=3, verbose=0)
    norm, images = model.layers[1], x.reshape(-1, 3, 1, 2)
    wanted = (images - norm.mean) / np.sqrt(norm.var + 0.1) * norm.gamma + norm.beta
    before = model.state_dict()
    np.testing.assert_allclose(model.features(x, 1), wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(model.features(x[:1], 1), model.features(x, 1)[:1])
    model.evaluate(x, y)
    for key, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[key])


@pytest.mark.parametrize("shape", [(6,), (3, 2), (2, 1, 3)])
def test_as_in_torch(shape, backend):
    torch = pytest.importorskip("torch")
    x, y = rows()
    x = x.reshape(-1, *shape)
    model = net(fnn.BatchNorm(), shape=shape)
    norm = torch.nn.BatchNorm1d(shape[-1])
    dense = torch.nn.Linear(6, 2)
    with torch.no_grad():
        dense.weight[:] = torch.tensor(model.layers[2].w.T.copy())
        dense.bias[:] = 0
    trainer = torch.optim.SGD([*norm.parameters(), *dense.parameters()], lr=0.1)
    for start in range(0, 96, 32):
        batch = torch.tensor(x[start : start + 32]).reshape(-1, shape[-1])
        loss = torch.nn.functional.cross_entropy(
            dense(norm(batch).reshape(-1, 6)), torch.tensor(y[start : start + 32])
        )
        trainer.zero_grad()
        loss.backward()
        trainer.step()
    model.fit(x, y, optimizer=fnn.SGD(0.1), batch_size=32, shuffle=False, verbose=0)
    ours = model.layers[0]
    for name, theirs in [
        ("gamma", norm.weight),
        ("beta", norm.bias),
        ("mean", norm.running_mean),
        ("var", norm.running_var),
    ]:
        wanted = theirs.detach().numpy()
        np.testing.assert_allclose(getattr(ours, name), wanted, rtol=1e-4, atol=1e-5)


def test_large_means_keep_small_variances(backend):
    x = rows(5000, 3)[0] * 0.01 + 1000
    y = np.arange(5000) % 2
    model = net(fnn.BatchNorm(momentum=1.0), shape=3)
    model.fit(x, y, optimizer=Still(), batch_size=None, verbose=0)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(model.layers[0].mean, exact.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(model.layers[0].var, exact.var(axis=0, ddof=1), rtol=1e-4)


def test_a_plan_gives_the_bits_of_eager_steps_on_any_threads(compiled):
    x, y = rows(700)
    results = []
    for threads, eager in ((1, False), (2, False), (4, False), (1, True)):
        fnn.set_num_threads(threads)
        layers = [fnn.Dense(900), fnn.Reshape((10, 10, 9)), fnn.BatchNorm(), fnn.ReLU()]
        model = net(*layers, fnn.MaxPool2D(2), fnn.BatchNorm(), fnn.Flatten(), fnn.BatchNorm())
        model.fit(x, y, batch_size=300, epochs=2, verbose=0, eager=eager, fuse=False)
        results.append(model.state_dict())
    for other in results[1:]:
        for key, array in other.items():
            np.testing.assert_array_equal(array, results[0][key])


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_take_the_statistics_along(clone, backend):
    x, y = rows()
    model = net(fnn.BatchNorm())
    model.fit(x, y, verbose=0)
    other = clone(model)
    assert other.state_dict().keys() == {
        *("0.gamma", "0.beta", "0.mean", "0.var", "2.w", "2.b"),
    }
    np.testing.assert_array_equal(other.predict(x), model.predict(x))
    other.fit(x, y, verbose=0)
    assert not np.array_equal(other.layers[0].mean, model.layers[0].mean)
    other.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(other.predict(x), model.predict(x))


@pytest.mark.parametrize("eager", [False, True])
def test_a_step_that_diverges_leaves_the_statistics(eager, backend):
    x, y = rows()
    model = net(fnn.BatchNorm(), fnn.Dense(4))
    model.fit(x, y, verbose=0)
    model.layers[1].w[:] = 3e38
    before = model.state_dict()
    with pytest.raises(fnn.DivergenceError):
        model.fit(x, y, verbose=0, eager=eager)
    for key, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[key])


def test_a_last_batch_of_one_row_does_not_count_in_the_running_means(backend):
    x, y = rows(33)
    statistics = []
    for n in (32, 33):
        model = net(fnn.BatchNorm())
        model.fit(x[:n], y[:n], optimizer=Still(), batch_size=32, shuffle=False, verbose=0)
        statistics.append((model.layers[0].mean.copy(), model.layers[0].var.copy()))
    np.testing.assert_array_equal(*statistics)


def test_batches_of_one_row_are_refused(backend):
    x, y = rows(4)
    model = net(fnn.BatchNorm())
    for n, batch_size in ((1, 32), (4, 1)):
        with pytest.raises(ValueError, match=r"^x: got batches of one row, .* layer 0 \(BatchN"):
            model.fit(x[:n], y[:n], batch_size=batch_size, verbose=0)
    images = np.random.default_rng(0).random((4, 3, 3, 2))
    layers = [fnn.BatchNorm(), fnn.Flatten(), fnn.Dense(2)]
    fnn.Sequential(layers).fit(images, y, batch_size=1, verbose=0)  # of nine pixels each


def test_summary_shows_what_is_not_trained(capsys):
    net(fnn.BatchNorm()).summary()
    assert capsys.readouterr().out.endswith("26 trainable parameters, 12 numbers not trained\n")


class Count(fnn.Layer):
    """Counts the steps of training, in NumPy."""

    def build(self, input_shape):
        self.add_buffer("steps", (1,), 5.0)
        return input_shape

    def forward(self, k, x, out, saved):
        out[...] = x

    def backward(self, k, dout, x, out, dx, saved):
        if dx is not None:
            dx[...] = dout

    def update(self, k, x, saved):
        self.steps += 1


@pytest.mark.filterwarnings("ignore:layer 0 .Count. computes outside the kernels")
def test_a_layer_of_ones_own_may_have_buffers(backend):
    x, y = rows(10)
    model = net(Count())
    model.fit(x, y, batch_size=4, epochs=2, verbose=0, eager=True)
    assert model.state_dict()["0.steps"].tolist() == [11.0]
    model.predict(x)
    model.load_state_dict(model.state_dict() | {"0.steps": np.zeros(1)})
    assert model.layers[0].steps.tolist() == [0.0]


@pytest.mark.parametrize("name", ["w", "steps", "forward", "no name"])
def test_names_of_buffers_are_new_identifiers(name):
    class Twice(Count):
        def build(self, input_shape):
            self.add_weight("w", (1,), fnn.Zeros())
            super().build(input_shape)
            self.add_buffer(name, (1,), 0.0)

    with pytest.raises(ValueError, match=r"layer 0 \(Twice\): name of a buffer: got "):
        fnn.Sequential([Twice()], 3)

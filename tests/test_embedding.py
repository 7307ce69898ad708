"""Embeddings: numbers, gradients of rows that come and go, whole runs, and what is refused."""

import copy

import numpy as np
import pytest

import fastnn as fnn

TOKENS, STEPS = 11, 6


def texts(n=50, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, TOKENS, (n, STEPS)), rng.integers(0, 3, n)


def net(units=5):
    layers = [fnn.Embedding(TOKENS, units), fnn.Dropout(0.2), fnn.GRU(7), fnn.Dense(3)]
    return fnn.Sequential(layers, STEPS, seed=0)


def test_rows_of_the_table(backend):
    x, _ = texts()
    model = fnn.Sequential([fnn.Embedding(TOKENS, 4)], STEPS, seed=0)
    wanted = model.layers[0].w[x]
    for given in (x, x.tolist(), x.astype(np.uint8), x.astype(">i2"), np.asfortranarray(x)):
        np.testing.assert_array_equal(model.predict(given), wanted)
    np.testing.assert_array_equal(model.predict(x[:1]), wanted[:1])
    np.testing.assert_array_equal(net(4).features(x, 0), wanted)
    np.testing.assert_array_equal(net(4).features(x, 0, np.ones(50, int)), wanted)
    one = fnn.Sequential([fnn.Embedding(TOKENS, 4), fnn.Flatten()], seed=0)
    np.testing.assert_array_equal(one.predict([3, 1, 3]), one.layers[0].w[[3, 1, 3]])
    assert one.input_shape == (1,)
    np.testing.assert_array_equal(one.predict([[3]]), one.layers[0].w[[3]])


def test_it_is_a_dense_layer_of_one_hot_vectors(backend):
    x, y = texts()
    table = net()
    layers = [fnn.Dense(5, use_bias=False), fnn.Dropout(0.2), fnn.GRU(7), fnn.Dense(3)]
    dense = fnn.Sequential(layers, (STEPS, TOKENS), seed=0)
    dense.load_state_dict(table.state_dict())
    for model, data in ((table, x), (dense, np.eye(TOKENS)[x])):
        model.fit(data, y, optimizer=fnn.SGD(0.1), epochs=3, batch_size=16, verbose=0)
    for name, value in table.state_dict().items():
        np.testing.assert_allclose(value, dense.state_dict()[name], rtol=0, atol=1e-6)


def trained(optimizer, threads=1, **options):
    x, y = texts()
    fnn.set_num_threads(threads)
    model = net(32)
    lengths = np.arange(50) % STEPS + 1
    model.fit(x, y, lengths=lengths, optimizer=optimizer, batch_size=16, verbose=0, **options)
    return model.theta


@pytest.mark.parametrize(
    "make", [lambda: fnn.SGD(0.1), lambda: fnn.SGD(0.1, 0.9), lambda: fnn.Adam(0.01, clip_norm=0.5)]
)
def test_a_plan_gives_the_bits_of_eager_steps_for_any_threads(make, compiled):
    eager = trained(make(), epochs=2, eager=True)
    for threads in (1, 2, 4):
        np.testing.assert_array_equal(trained(make(), threads, epochs=2, fuse=False), eager)


def gradient(model, x, y):
    """Return the gradient of a fresh copy, whose table knows nothing of earlier steps."""
    fresh = copy.deepcopy(model)
    fresh.fit(x, y, optimizer=fnn.SGD(1e-30), batch_size=None, verbose=0)
    return fresh.grad


def test_no_row_keeps_a_gradient_of_an_earlier_step(backend):
    """Whatever came before: other tokens, a smaller batch, another run, or one within a run."""
    x, y = texts()
    first, second = np.where(x < 5, x, 0), np.where(x < 5, 10, x)
    model = net()
    model.layers[1].rate = 0.0

    def check(data, labels):
        np.testing.assert_array_equal(model.grad, gradient(model, data, labels))

    def within(model, history):
        model.fit(second, y, optimizer=fnn.SGD(1e-30), batch_size=None, verbose=0)

    options = {"optimizer": fnn.SGD(1e-30), "shuffle": False, "verbose": 0}
    model.fit(first, y, batch_size=None, **options)
    check(first, y)
    model.fit(second[:20], y[:20], batch_size=16, **options)
    check(second[16:20], y[16:20])
    model.fit(first, y, epochs=2, batch_size=None, callbacks=[within], **options)
    check(second, y)
    assert abs(model.grad).max() > 0


def test_an_optimizer_may_not_write_the_gradient(backend):
    class Decay(fnn.SGD):
        def update(self, k, grad, lr, clock, buffers, theta):
            grad += 0.1 * theta

    x, y = texts()
    with fnn.use_backend("reference"), pytest.raises(ValueError, match="read-only"):
        net().fit(x, y, optimizer=Decay(), verbose=0)


@pytest.mark.parametrize("optimizer", [fnn.SGD(0.1), fnn.Adam(0.01, clip_norm=1.0)])
def test_what_stood_in_the_gradient_before_a_run_does_not_matter(optimizer, backend):
    x, y = texts()
    few = x % 5  # no others occur
    thetas = []
    for value in (0.0, 1.0, np.nan):
        model = net()
        model.fit(few, y, optimizer=copy.copy(optimizer), verbose=0)
        model.grad = np.full_like(model.grad, value)
        model.fit(few, y, optimizer=copy.copy(optimizer), epochs=2, verbose=0)
        thetas.append(model.theta)
    np.testing.assert_array_equal(thetas, [thetas[0]] * 3)


@pytest.mark.parametrize("how", ["a run", "grad"])
def test_what_a_callback_does_to_the_gradient_does_not_matter(how, backend):
    x, y = texts()

    def spoil(model, history):
        if how == "a run":
            state = model.state_dict()
            model.fit(np.full((9, STEPS), 7), np.zeros(9, int), optimizer="adam", verbose=0)
            model.load_state_dict(state)
        else:
            model.grad[...] = 1

    model = net()
    before = model.layers[0].w[7:].copy()
    options = {"optimizer": fnn.Adam(0.01), "epochs": 4, "verbose": 0}
    model.fit(x % 5, y, callbacks=[spoil], **options)
    np.testing.assert_array_equal(model.layers[0].w[7:], before)


def test_penalties_leave_the_table(backend):
    x, y = texts()
    model = net()
    before = model.layers[0].w.copy()
    loss = fnn.CrossEntropy(penalty=fnn.L2(1.0))
    unseen = np.where(x == 4, 5, x)
    model.fit(unseen, y, loss=loss, optimizer=fnn.SGD(0.01), verbose=0)
    np.testing.assert_array_equal(model.layers[0].w[4], before[4])
    assert abs(model.layers[0].w - before).max() > 0


def test_a_whole_run(backend, tmp_path, capsys):
    """A text whose class is whether token 7 occurs in it."""
    x, _ = texts(400)
    y = (x == 7).any(axis=1).astype(int)
    layers = [fnn.Embedding(TOKENS, 4), fnn.GRU(8), fnn.Dense(2)]
    model = fnn.Sequential(layers, seed=0)
    options = {"optimizer": fnn.Adam(0.03), "batch_size": 20, "verbose": 0}
    model.fit(x[:300], y[:300], epochs=8, validation_data=(x[300:], y[300:]), **options)
    figures = model.evaluate(x[300:], y[300:])
    assert figures["accuracy"] > 0.95
    assert figures["accuracy"] == model.history["val_accuracy"][-1]
    model.summary()
    assert " 0  Embedding(11, 4)  (6, 4)                44" in capsys.readouterr().out
    model.save(tmp_path / "model.safetensors")
    for twin in (fnn.load(tmp_path / "model.safetensors"), copy.deepcopy(model)):
        np.testing.assert_array_equal(twin.predict(x), model.predict(x))
        twin.fit(x, y, **options)


def test_a_run_resumes_to_the_same_bits(compiled, tmp_path):
    x, y = texts()
    path, options = tmp_path / "run.safetensors", {"verbose": 0, "batch_size": 16}
    whole = net()
    whole.fit(x, y, optimizer=fnn.Adam(0.01), epochs=3, **options)
    for epochs in (1, 3):
        model = net()
        model.fit(x, y, optimizer=fnn.Adam(0.01), epochs=epochs, checkpoint=path, **options)
    np.testing.assert_array_equal(model.theta, whole.theta)


def test_what_is_written_into_the_data_during_a_run_does_not_matter(compiled):
    x, y = texts()
    x = x.astype(np.int32)

    def spoil(model, history):
        x[...] = 2**30

    model = net()
    model.fit(x, y, epochs=3, callbacks=[spoil], verbose=0)
    assert np.isfinite(model.theta).all()


def spoiled(value, dtype=np.int64):
    x = texts()[0].astype(dtype)
    x[7, 2] = value
    return x


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (spoiled(11), ValueError, "got token 11 in row 7, step 2, expected integers from 0 to 10"),
        (spoiled(-1), ValueError, "got token -1 in row 7, step 2"),
        (spoiled(255, np.uint8), ValueError, "got token 255 in row 7"),
        (spoiled(2**32), ValueError, "got token 4294967296 in row 7"),
        (spoiled(2**63, np.uint64), ValueError, "got token 9223372036854775808 in row 7"),
        (spoiled(1, np.float32), TypeError, "got dtype float32, expected integers"),
        (spoiled(0, bool), TypeError, "got dtype bool"),
        (spoiled(0)[:, :5], ValueError, r"got shape \(50, 5\), expected \(rows, 6\)"),
        (spoiled(0)[0], ValueError, r"got shape \(6,\)"),
        (spoiled(0)[:0], ValueError, r"got shape \(0, 6\)"),
        (spoiled(0)[..., None], ValueError, r"got shape \(50, 6, 1\)"),
        (["to be"], TypeError, "expected numbers"),
        ([[1, 2], [3]], ValueError, "no rectangular array"),
        (None, TypeError, "expected numbers"),
    ],
)
def test_bad_tokens(x, error, message, backend):
    good, y = texts()
    model = net()
    model.predict(good)
    theta = model.theta.copy()
    for name, call in (
        ("x", lambda: model.fit(x, y, verbose=0)),
        ("x", lambda: model.evaluate(x, y)),
        ("x", lambda: model.predict(x)),
        ("x", lambda: model.features(x, 0)),
        (r"validation_data\[0\]", lambda: model.fit(good, y, validation_data=(x, y), verbose=0)),
    ):
        with pytest.raises(error, match=rf"^layer 0 \(Embedding\): {name}: .*{message}"):
            call()
    np.testing.assert_array_equal(model.theta, theta)
    model.predict(good)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fnn.Embedding(0, 4), ValueError, "Embedding: tokens: got 0"),
        (lambda: fnn.Embedding(2**31, 4), ValueError, "Embedding: tokens: got 2147483648"),
        (lambda: fnn.Embedding(5.0, 4), TypeError, "Embedding: tokens: got 5.0"),
        (lambda: fnn.Embedding(5, 0), ValueError, "Embedding: units: got 0"),
        (
            lambda: fnn.Embedding(5, 4, kernel_initializer="no"),
            ValueError,
            "Embedding: kernel_initializer: ",
        ),
        (
            lambda: fnn.Sequential([fnn.Flatten(), fnn.Embedding(5, 4)], 3),
            ValueError,
            r"layer 1 \(Embedding\): expected as the first layer",
        ),
        (
            lambda: fnn.Sequential([fnn.Embedding(5, 4)], (3, 2)),
            ValueError,
            r"layer 0 \(Embedding\): input shape is \(3, 2\), expected \(steps,\)",
        ),
        (
            lambda: fnn.Sequential([fnn.Embedding(2**30, 2**20)], 3),
            ValueError,
            r"layer 0 \(Embedding\): shape of w: .* fewer than 2\*\*31",
        ),
    ],
)
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=f"^{message}"):
        make()

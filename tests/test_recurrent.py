"""Recurrent layers: PyTorch's numbers, sizes, plans, threads, truncation, and what is refused."""

import numpy as np
import pytest

import fastnn as fnn

CELLS = {"RNN": fnn.RNN, "LSTM": fnn.LSTM, "GRU": fnn.GRU}
every_cell = pytest.mark.parametrize("cell", CELLS)


def sequences(n=50, steps=6, features=5):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, steps, features)).astype(np.float32), rng.integers(0, 3, n)


def net(cell, **options):
    layers = [CELLS[cell](9, True, **options), CELLS[cell](7, **options), fnn.Dense(3)]
    return fnn.Sequential(layers, (6, 5), seed=0)


@every_cell
def test_sizes(cell):
    def output(**options):
        return fnn.Sequential([CELLS[cell](4, **options)], (6, 5)).output_shape

    assert output() == (4,)
    assert output(return_sequences=True) == (6, 4)
    assert output(bidirectional=True) == (8,)
    assert output(return_sequences=True, bidirectional=True) == (6, 8)


def counted(model):
    """Give every weight another value."""
    for i, (name, value) in enumerate(model.state_dict().items()):
        spread = 0.1 * np.cos(1 + i + np.arange(value.size)).reshape(value.shape)
        getattr(model.layers[0], name[2:])[...] = spread
    return model


def by_hand(cell, x, w):
    """One sequence, in plain Python floats."""

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    units = w["wh"].shape[0]
    h, c = np.zeros(units), np.zeros(units)
    for now in x:
        a, r = now @ w["wx"] + w["b"], h @ w["wh"]
        if cell == "RNN":
            h = np.tanh(a + r)
        elif cell == "LSTM":
            i, f, g, o = np.split(a + r, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            reset, update = sigmoid(a + r)[:units], sigmoid(a + r)[units : 2 * units]
            new = np.tanh(a[2 * units :] + reset * (r[2 * units :] + w["bh"]))
            h = (1 - update) * new + update * h
    return h


@every_cell
def test_the_formula(cell, backend):
    model = counted(fnn.Sequential([CELLS[cell](3)], (4, 2)))
    x = np.random.default_rng(0).normal(size=(2, 4, 2)).astype(np.float32)
    w = {name[2:]: value.astype(float) for name, value in model.state_dict().items()}
    wanted = [by_hand(cell, sequence.astype(float), w) for sequence in x]
    np.testing.assert_allclose(model.predict(x), wanted, atol=1e-6)


@every_cell
def test_weights_carry_over_from_pytorch(cell):
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn, cell)(5, 7, batch_first=True, bidirectional=True)
    model = fnn.Sequential([CELLS[cell](7, True, bidirectional=True)], (6, 5))
    layer = model.layers[0]
    for suffix in ("", "_reverse"):
        w = {
            name: getattr(theirs, f"{name}_l0{suffix}").detach().numpy().T
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        getattr(layer, f"wx{suffix}")[...] = w["weight_ih"]
        getattr(layer, f"wh{suffix}")[...] = w["weight_hh"]
        b = w["bias_ih"] + w["bias_hh"]
        if cell == "GRU":
            b[14:] = w["bias_ih"][14:]
            getattr(layer, f"bh{suffix}")[...] = w["bias_hh"][14:]
        getattr(layer, f"b{suffix}")[...] = b
    x, _ = sequences()
    wanted = theirs(torch.from_numpy(x))[0].detach().numpy()
    np.testing.assert_allclose(model.predict(x), wanted, atol=2e-6)


def trained(cell, threads=1, model=None, **options):
    x, y = sequences()
    fnn.set_num_threads(threads)
    model = model or net(cell)
    model.fit(x, y, optimizer="adam", batch_size=16, epochs=2, verbose=0, **options)
    return model.theta


@every_cell
def test_a_plan_gives_the_bits_of_eager_steps_for_any_threads(cell, compiled):
    eager = trained(cell, eager=True)
    for threads in (1, 2, 4):
        np.testing.assert_array_equal(trained(cell, threads, fuse=False), eager)


@every_cell
def test_a_prediction_does_not_depend_on_its_batch(cell, compiled):
    model, x = net(cell, bidirectional=True), sequences()[0]
    whole = model.predict(x)
    for n in (1, 3, 32):
        parts = [model.predict(x[i : i + n]) for i in range(0, len(x), n)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


@every_cell
def test_truncation_changes_gradients_only(cell, backend):
    x = sequences()[0]
    plain, short = net(cell), net(cell, bptt_steps=2)
    np.testing.assert_array_equal(plain.predict(x), short.predict(x))
    assert abs(trained(cell, model=plain) - trained(cell, model=short)).max() > 1e-4
    np.testing.assert_array_equal(
        trained(cell, model=net(cell)), trained(cell, model=net(cell, bptt_steps=6))
    )


@every_cell
def test_the_backward_direction_is_the_forward_one_of_reversed_sequences(cell, backend):
    both = fnn.Sequential([CELLS[cell](4, True, bidirectional=True)], (6, 5), seed=0)
    one = fnn.Sequential([CELLS[cell](4, True)], (6, 5), seed=0)
    for name in one.layers[0].weights:
        getattr(one.layers[0], name)[...] = getattr(both.layers[0], f"{name}_reverse")
    x = sequences()[0]
    np.testing.assert_array_equal(both.predict(x)[:, :, 4:], one.predict(x[:, ::-1])[:, ::-1])


def test_orthogonal_weights_keep_lengths():
    layer = fnn.Sequential([fnn.GRU(16)], (3, 2), seed=0).layers[0]
    for block in np.split(layer.wh.astype(float), 3, axis=1):
        np.testing.assert_allclose(block @ block.T, np.eye(16), atol=1e-6)


@every_cell
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda cell: cell(0), ValueError, "units: got 0"),
        (lambda cell: cell(2.5), TypeError, "units: got 2.5"),
        (lambda cell: cell(3, "yes"), TypeError, "return_sequences: got 'yes'"),
        (lambda cell: cell(3, bidirectional=1), TypeError, "bidirectional: got 1"),
        (lambda cell: cell(3, bptt_steps=0), ValueError, "bptt_steps: got 0"),
        (lambda cell: cell(3, recurrent_initializer="no"), ValueError, "recurrent_initializer: u"),
        (
            lambda cell: fnn.Sequential([cell(3)], 5),
            ValueError,
            r"layer 0 \(\w+\): input shape is \(5,\), expected \(steps, features\)",
        ),
        (lambda cell: fnn.Sequential([cell(2**30)], (2, 5)), ValueError, r"layer 0 \(\w+\): "),
    ],
)
def test_what_is_refused(cell, make, error, message):
    with pytest.raises(error, match=message):
        make(CELLS[cell])


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="activation: got 'gelu', expected 'tanh' or 'relu'"):
        fnn.RNN(3, activation="gelu")
    assert repr(fnn.RNN(3, activation="relu")) == "RNN(3, activation='relu')"


@every_cell
def test_sequences_of_other_lengths_are_refused(cell, backend):
    with pytest.raises(ValueError, match=r"x: .*6, 5\)"):
        net(cell).predict(np.ones((2, 7, 5), np.float32))


# ---- sequences of different lengths --------------------------------------------------------------


def of_lengths(n=50, steps=6):
    lengths = np.random.default_rng(1).integers(1, steps + 1, n)
    x = sequences(n, steps)[0]
    return x, lengths, np.arange(steps) < lengths[:, None]


@every_cell
@pytest.mark.parametrize("bidirectional", [False, True])
def test_what_comes_after_a_sequence_does_not_matter(cell, bidirectional, backend):
    x, lengths, on = of_lengths()
    other = np.where(on[:, :, None], x, 7.0)
    layers = [CELLS[cell](4, True, bidirectional=bidirectional), CELLS[cell](3)]
    model = fnn.Sequential(layers, (6, 5), seed=0)
    got = model.predict(x, lengths)
    np.testing.assert_array_equal(got, model.predict(other, lengths))
    alone = [model.predict(x[i : i + 1], lengths[i : i + 1])[0] for i in range(50)]
    if backend == "compiled":
        np.testing.assert_array_equal(got, alone)
    states = model.features(x, 0, lengths)
    assert not states[~on].any()
    np.testing.assert_array_equal(model.predict(x), model.predict(x, np.full(50, 6)))


@every_cell
def test_padding_has_no_gradient(cell, backend):
    x, lengths, on = of_lengths()
    y = sequences()[1]
    thetas = []
    for data in (x, np.where(on[:, :, None], x, -3.0)):
        model = net(cell, bidirectional=True)
        model.fit(
            *(data, y),
            lengths=lengths,
            validation_data=(data, y, lengths),
            optimizer="adam",
            batch_size=16,
            verbose=0,
        )
        thetas.append(model.theta)
        assert model.evaluate(data, y, lengths=lengths) == pytest.approx(
            {key[4:]: value[-1] for key, value in model.history.items() if key[:4] == "val_"}
        )
    np.testing.assert_array_equal(*thetas)


def test_targets_of_every_step(backend):
    """Each step says whether the sum so far is positive."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 8, 1)).astype(np.float32)
    y = (x[:, :, 0].cumsum(axis=1) > 0).astype(int)
    lengths = rng.integers(3, 9, 400)
    layers = [fnn.GRU(8, True), fnn.Dense(2)]
    model = fnn.Sequential(layers, (8, 1), seed=0)
    history = model.fit(
        *(x, y), lengths=lengths, optimizer=fnn.Adam(0.03), epochs=8, batch_size=40, verbose=0
    )
    assert history["accuracy"][-1] > 0.9
    on = np.arange(8) < lengths[:, None]
    hits = (model.predict_classes(x, lengths) == y)[on].mean()
    assert model.evaluate(x, y, lengths=lengths)["accuracy"] == pytest.approx(hits)
    spoiled = np.where(on, y, 1 - y)
    assert model.evaluate(x, spoiled, lengths=lengths) == model.evaluate(x, y, lengths=lengths)
    one_hot = np.eye(2)[y]
    whole = model.evaluate(x, y)
    assert model.evaluate(x, one_hot)["loss"] == pytest.approx(whole["loss"])
    assert whole["accuracy"] == pytest.approx((model.predict_classes(x) == y).mean())


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        (np.zeros(50, int), ValueError, "lengths: got 0 in row 0, expected integers from 1 to 6"),
        (np.full(50, 7), ValueError, "lengths: got 7 in row 0"),
        (np.ones(49, int), ValueError, r"lengths: got shape \(49,\), expected \(50,\)"),
        (np.ones(50), TypeError, "lengths: got dtype float64, expected integers"),
        ("all", TypeError, "lengths: "),
    ],
)
def test_bad_lengths(lengths, error, message, backend):
    x, y = sequences()
    model = net("RNN")
    theta = model.theta.copy()
    for call in (
        lambda: model.fit(x, y, lengths=lengths, verbose=0),
        lambda: model.evaluate(x, y, lengths=lengths),
        lambda: model.predict(x, lengths),
    ):
        with pytest.raises(error, match=message):
            call()
    np.testing.assert_array_equal(model.theta, theta)

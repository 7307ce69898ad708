"""Recurrent layers: PyTorch's numbers, sizes, plans, threads, truncation, and what is refused."""

import copy

import numpy as np
import pytest
from cases import CASES, parameters

import fastnn as fnn
from fastnn import backend as backends

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


def carry_over(theirs, layer):
    """Give a layer the weights of a PyTorch module."""
    units = layer.units
    for suffix in layer.suffixes:
        w = {
            name: getattr(theirs, f"{name}_l0{suffix}").detach().numpy().T
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        getattr(layer, f"wx{suffix}")[...] = w["weight_ih"]
        getattr(layer, f"wh{suffix}")[...] = w["weight_hh"]
        b = w["bias_ih"] + w["bias_hh"]
        if isinstance(layer, fnn.GRU):
            b[2 * units :] = w["bias_ih"][2 * units :]
            getattr(layer, f"bh{suffix}")[...] = w["bias_hh"][2 * units :]
        getattr(layer, f"b{suffix}")[...] = b


@every_cell
def test_weights_carry_over_from_pytorch(cell):
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn, cell)(5, 7, batch_first=True, bidirectional=True)
    model = fnn.Sequential([CELLS[cell](7, True, bidirectional=True)], (6, 5))
    carry_over(theirs, model.layers[0])
    x, lengths, _ = of_lengths()
    wanted = theirs(torch.from_numpy(x))[0].detach().numpy()
    np.testing.assert_allclose(model.predict(x), wanted, atol=2e-6)
    rnn = torch.nn.utils.rnn
    options = {"batch_first": True, "enforce_sorted": False}
    packed = theirs(rnn.pack_padded_sequence(torch.from_numpy(x), torch.tensor(lengths), **options))
    wanted = rnn.pad_packed_sequence(packed[0], batch_first=True, total_length=6)[0]
    np.testing.assert_allclose(model.predict(x, lengths), wanted.detach().numpy(), atol=2e-6)


@every_cell
def test_states_are_those_of_pytorch(cell):
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn, cell)(5, 7, batch_first=True)
    model = fnn.Sequential([CELLS[cell](7, stateful=True)], (6, 5))
    carry_over(theirs, model.layers[0])
    x, rng = sequences()[0], np.random.default_rng(1)
    first = [rng.normal(size=(50, 7)).astype(np.float32) for _ in range(2)]
    as_tensors = tuple(torch.from_numpy(h)[None] for h in first)
    model.layers[0].state = first if cell == "LSTM" else first[0]
    _, last = theirs(torch.from_numpy(x), as_tensors if cell == "LSTM" else as_tensors[0])
    model.predict(x)
    got = model.layers[0].state
    pairs = zip(got, last, strict=True) if cell == "LSTM" else [(got, last)]
    for mine, wanted in pairs:
        np.testing.assert_allclose(mine, wanted[0].detach().numpy(), atol=2e-6)


@every_cell
def test_training_follows_pytorch(cell, backend):
    """Ten steps over stacked layers, with a loss of every step and clipping of the gradient."""
    torch = pytest.importorskip("torch")
    recurrent = [getattr(torch.nn, cell)(n, 7, batch_first=True) for n in (5, 7)]
    dense = torch.nn.Linear(7, 3)
    layers = [CELLS[cell](7, True), CELLS[cell](7, True), fnn.Dense(3)]
    model = fnn.Sequential(layers, (6, 5))
    for theirs, layer in zip(recurrent, layers, strict=False):
        carry_over(theirs, layer)
    layers[2].w[...], layers[2].b[...] = (
        dense.weight.detach().numpy().T,
        dense.bias.detach().numpy(),
    )
    x, y = sequences(40)[0], np.random.default_rng(1).integers(0, 3, (40, 6))
    model.fit(
        *(x, y),
        optimizer=fnn.SGD(0.5, clip_norm=0.3),
        batch_size=20,
        epochs=5,
        shuffle=False,
        verbose=0,
    )
    weights = [w for module in (*recurrent, dense) for w in module.parameters()]
    if cell != "GRU":  # two biases in place of one move twice as far: train one of them
        weights = [w for w in weights if not any(w is module.bias_hh_l0 for module in recurrent)]
    sgd, losses = torch.optim.SGD(weights, 0.5), []
    for step in range(10):
        rows = slice(20 * (step % 2), 20 * (step % 2) + 20)
        h = torch.from_numpy(x[rows])
        for module in recurrent:
            h = module(h)[0]
        loss = torch.nn.functional.cross_entropy(
            dense(h).reshape(-1, 3), torch.from_numpy(y[rows].reshape(-1))
        )
        sgd.zero_grad()
        loss.backward()
        if cell == "GRU":
            for module in recurrent:
                module.bias_hh_l0.grad[:14] = 0
        torch.nn.utils.clip_grad_norm_(weights, 0.3)
        sgd.step()
        losses.append(loss.item())
    np.testing.assert_allclose(model.history.batch_losses, losses, rtol=1e-5)
    twin = fnn.Sequential([CELLS[cell](7, True)], (6, 5))
    carry_over(recurrent[0], twin.layers[0])
    for name, value in twin.state_dict().items():
        np.testing.assert_allclose(model.state_dict()[name], value, atol=1e-5)


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
def test_threads_that_share_a_plan_give_the_same_bits(cell, compiled):
    """Its ops are large enough; a thread sums the weights' gradients over its own sequences."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((65, 9, 28), np.float32), rng.integers(0, 3, 65)
    results = []
    for threads in (1, 2, 3, 4, 17):
        fnn.set_num_threads(threads)
        model = fnn.Sequential([CELLS[cell](40), fnn.Dense(3)], (9, 28), seed=0)
        model.fit(x, y, optimizer="adam", batch_size=65, epochs=3, verbose=0)
        results.append(model.theta)
    for theta in results[1:]:
        np.testing.assert_array_equal(theta, results[0])


@every_cell
@pytest.mark.parametrize(
    ("units", "features", "rows", "steps"),
    # more threads than weights in a column; weights that only some threads have room to pack
    [(1, 1, 1000, 60), (2, 2, 300, 40), (216, 5, 8, 3), (256, 5, 100, 3), (432, 5, 32, 3)],
)
def test_threads_give_the_same_bits_for_few_and_for_many_units(
    cell, units, features, rows, steps, compiled
):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((rows, steps, features), np.float32), rng.integers(0, 3, rows)
    thetas = []
    for threads in (1, 2, 3, 7, 8):
        fnn.set_num_threads(threads)
        model = fnn.Sequential([CELLS[cell](units), fnn.Dense(3)], (steps, features), seed=0)
        model.fit(x, y, optimizer="sgd", batch_size=None, epochs=2, verbose=0)
        thetas.append(model.theta)
    for theta in thetas[1:]:
        np.testing.assert_array_equal(theta, thetas[0])


@every_cell
@pytest.mark.parametrize("zero", "NTIH")
@pytest.mark.parametrize("kernel", ["forward", "backward"])
def test_kernels_refuse_sizes_of_0(cell, zero, kernel, backend):
    case = CASES[f"{cell.lower()}_{kernel}"]
    sizes = {letter: 3 for letter in "NTIH"}
    args = case.build(np.random.default_rng(0), sizes) | {"lengths": None}
    states = args["hs"].shape
    assert states == (3, 4, 3)
    gates = args["wh"].shape[1] // 3
    shapes = {"x": "NTI", "h0": "NH", "c0": "NH", "wx": "IG", "wh": "HG", "b": "G", "bh": "H"}
    shapes |= {"gates": "NTG", "hs": "NSH", "cs": "NSH", "tanh_c": "NTH", "hn": "NTH"}
    shapes |= {"dz": "NTG", "dzh": "NTG", "dh": "NH", "dc": "NH", "out": "NTH", "dout": "NTH"}
    shapes |= {"dx": "NTI", "dwx": "IG", "dwh": "HG", "db": "G", "dbh": "H"}
    sizes |= {zero: 0}
    sizes |= {"S": sizes["T"] + 1, "G": gates * sizes["H"]}
    for name, letters in shapes.items():
        if args.get(name) is not None:
            args[name] = np.ones([sizes[letter] for letter in letters], np.float32)
    function = getattr(backends.active, case.name)
    with pytest.raises(ValueError, match=rf"{case.name}: .* expected none to be 0"):
        function(*(args[name] for name in parameters(case.name)))


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
    for steps in (0, 7):
        with pytest.raises(ValueError, match=r"x: .*6, 5\)"):
            net(cell).predict(np.ones((2, steps, 5), np.float32))
    with pytest.raises(ValueError, match="input_shape: got 0, expected an integer >= 1"):
        fnn.Sequential([CELLS[cell](3)], (0, 5))
    with pytest.raises(ValueError, match=rf"x: .*\(2, 0, 5\), .* for layer 0 \({cell}"):
        fnn.Sequential([CELLS[cell](3)]).predict(np.ones((2, 0, 5), np.float32))


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
    longer = np.pad(x, ((0, 0), (0, 1), (0, 0)), constant_values=2.0)
    for data in (x, np.where(on[:, :, None], x, -3.0), longer):
        layers = [
            CELLS[cell](9, True, bidirectional=True, bptt_steps=2),
            CELLS[cell](7, bidirectional=True, bptt_steps=3),
            fnn.Dense(3),
        ]
        model = fnn.Sequential(layers, data.shape[1:], seed=0)
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
    np.testing.assert_array_equal(thetas[0], thetas[1])
    np.testing.assert_allclose(thetas[0], thetas[2], atol=2e-5)


@every_cell
def test_a_sequence_may_begin_in_the_middle_of_a_model(cell, backend):
    x, y = np.random.default_rng(0).normal(size=(2, 50, 16)).astype(np.float32)
    layers = [fnn.Dense(16), fnn.Reshape((8, 2)), CELLS[cell](2, True)]
    model = fnn.Sequential(layers, 4, seed=0)
    y = y.reshape(50, 8, 2)
    out = model.predict(x[:, :4])
    assert out.all(axis=2).all()
    assert model.evaluate(x[:, :4], y, "mse")["loss"] == pytest.approx(((out - y) ** 2).mean())
    lengths = np.arange(50) % 8 + 1
    on = np.arange(8) < lengths[:, None]
    short = model.predict(x[:, :4], lengths)
    np.testing.assert_array_equal(short[on], out[on])
    assert model.evaluate(x[:, :4], y, "mse", lengths=lengths)["loss"] == pytest.approx(
        ((out - y) ** 2).mean(axis=2)[on].mean(), rel=1e-5
    )


def test_lengths_do_not_count_in_outputs_that_are_no_steps(backend):
    x, lengths, _ = of_lengths(steps=8)
    y = np.random.default_rng(0).normal(size=(50, 8, 3)).astype(np.float32)
    for make in (
        lambda: [fnn.GRU(8)],
        lambda: [fnn.GRU(8), fnn.Dense(24), fnn.Reshape((8, 3))],
        lambda: [fnn.GRU(3, True), fnn.Flatten(), fnn.Dense(24), fnn.Reshape((8, 3))],
    ):
        model = fnn.Sequential(make(), (8, 5), seed=0)
        out = model.predict(x, lengths)
        target = y if out.ndim == 3 else y[:, :, 0]
        wanted = ((out - target) ** 2).mean()
        found = model.evaluate(x, target, "mse", lengths=lengths)["loss"]
        assert found == pytest.approx(wanted, rel=1e-5)


def test_lengths_count_in_what_the_last_recurrent_layer_gives(backend):
    x, lengths, on = of_lengths(steps=8)
    y = np.random.default_rng(0).normal(size=(50, 8, 3)).astype(np.float32)
    layers = [fnn.GRU(24), fnn.Reshape((8, 3)), fnn.GRU(3, True)]
    model = fnn.Sequential(layers, (8, 5), seed=0)
    wanted = ((model.predict(x, lengths) - y) ** 2).mean(axis=2)[on].mean()
    found = model.evaluate(x, y, "mse", lengths=lengths)["loss"]
    assert found == pytest.approx(wanted, rel=1e-5)


def test_lengths_that_change_meanwhile_do_not_matter(backend):
    x, lengths, _ = of_lengths()
    y, thetas = sequences()[1], []
    for spoil in (False, True):
        model, given = net("GRU"), lengths.astype(np.int32)

        def change(model, history, given=given, spoil=spoil):
            given[:] = 1 if spoil else given

        model.fit(x, y, lengths=given, epochs=3, callbacks=[change], verbose=0)
        thetas.append(model.theta)
    np.testing.assert_array_equal(*thetas)


def test_every_row_of_a_step_ends_with_its_sequence(backend):
    """A step of four numbers as two rows of two classes."""
    x, lengths, on = of_lengths(steps=8)
    y = np.random.default_rng(0).integers(0, 2, (50, 8, 2))
    model = fnn.Sequential([fnn.GRU(4, True), fnn.Reshape((8, 2, 2))], (8, 5), seed=0)
    hits = model.predict(x, lengths).argmax(axis=3) == y
    found = model.evaluate(x, y, lengths=lengths)["accuracy"]
    assert found == pytest.approx(hits[on].mean())


def test_recurrent_layers_of_other_steps_do_not_share_lengths(backend):
    layers = [fnn.RNN(4, True), fnn.Reshape((12, 2)), fnn.RNN(3)]
    model = fnn.Sequential(layers, (6, 5), seed=0)
    x, lengths, _ = of_lengths()
    assert model.predict(x).shape == (50, 3)
    with pytest.raises(ValueError, match=r"lengths: got lengths, expected None, .* steps: 6, 12"):
        model.predict(x, lengths)


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
        with pytest.raises(error, match=rf"^layer 0 \(RNN\): {message}"):
            call()
    np.testing.assert_array_equal(model.theta, theta)


# ---- states that go on ---------------------------------------------------------------------------


def stream(rows=4, batches=5, steps=6):
    """Return sequences (rows, batches * steps, 2) in windows, batch after batch, and whole."""
    whole = np.random.default_rng(0).normal(size=(rows, batches * steps, 2)).astype(np.float32)
    windows = whole.reshape(rows, batches, steps, 2).swapaxes(0, 1)
    return windows.reshape(-1, steps, 2), whole


def stacked(cell, steps=6, stateful=True, **options):
    layers = [CELLS[cell](9, True, stateful=stateful, **options)]
    layers += [fnn.Dropout(0.1), CELLS[cell](7, True, stateful=stateful, **options), fnn.Dense(2)]
    return fnn.Sequential(layers, (steps, 2), seed=0)


@every_cell
def test_windows_go_on_as_one_sequence(cell, backend):
    windows, whole = stream()
    model, long = stacked(cell), stacked(cell, whole.shape[1], stateful=False)
    parts = [model.predict(windows[i : i + 4]) for i in range(0, 20, 4)]
    wanted = long.predict(whole)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), wanted, rtol=0, atol=1e-6)
    assert abs(model.predict(windows[:4]) - parts[0]).max() > 1e-3
    model.reset_states()
    np.testing.assert_array_equal(model.predict(windows[:4]), parts[0])

    y = (whole.cumsum(axis=1) > 0).reshape(4, 5, 6, 2).swapaxes(0, 1).reshape(20, 6, 2)
    y_long = (whole.cumsum(axis=1) > 0).astype(float)
    got = model.evaluate(windows, y.astype(float), "mse", batch_size=4)["loss"]
    assert got == pytest.approx(long.evaluate(whole, y_long, "mse")["loss"], rel=1e-5)
    assert got == model.evaluate(windows, y.astype(float), "mse", batch_size=4)["loss"]


@every_cell
def test_a_state_can_be_read_and_set(cell, backend):
    windows, _ = stream()
    model = stacked(cell)
    layer = model.layers[2]
    assert layer.state is None
    model.predict(windows[:4])
    state = layer.state
    h = state[0] if cell == "LSTM" else state
    assert h.shape == (4, 7) and h.dtype == np.float32
    first = model.layers[0].state
    wanted = model.predict(windows[4:8])
    np.testing.assert_array_equal(model.features(windows[8:12], 2)[:, -1], hidden(layer))
    model.layers[0].state, layer.state = first, state
    h[...] = 0  # a copy, as what was set
    np.testing.assert_array_equal(model.predict(windows[4:8]), wanted)


def hidden(layer):
    return layer.state[0] if isinstance(layer, fnn.LSTM) else layer.state


@every_cell
def test_a_state_is_that_at_the_end_of_a_short_sequence(cell, backend):
    windows, _ = stream()
    model = stacked(cell)
    states = model.features(windows[:4], 2)
    model.reset_states()
    model.predict(windows[:4], lengths=[6, 1, 3, 2])
    np.testing.assert_array_equal(hidden(model.layers[2]), states[range(4), [5, 0, 2, 1]])


def trained_on_a_stream(cell, threads=1, epochs=2, model=None, **options):
    windows, whole = stream()
    y = (whole.cumsum(axis=1)[:, :, 0] > 0).astype(int)
    y = y.reshape(4, 5, 6).swapaxes(0, 1).reshape(20, 6)
    fnn.set_num_threads(threads)
    model = model or stacked(cell, bptt_steps=4)
    options = {"optimizer": fnn.Adam(0.01), "shuffle": False, "verbose": 0} | options
    model.fit(windows, y, batch_size=4, epochs=epochs, **options)
    return model


@every_cell
def test_stateful_training_gives_the_same_bits_on_every_way(cell, compiled, tmp_path):
    windows, _ = stream()
    y = np.zeros((8, 6), int)
    options = {"validation_data": (windows[:8], y), "validation_every": 2}
    eager = trained_on_a_stream(cell, eager=True, **options)
    for threads in (1, 2, 4):
        planned = trained_on_a_stream(cell, threads, fuse=False, **options)
        np.testing.assert_array_equal(planned.theta, eager.theta)
    # neither measuring nor predicting in between is seen by the training
    model = stacked(cell, bptt_steps=4)
    calls = [lambda model, history: bool(model.predict(windows[:3]).sum() > 1e9)]
    trained_on_a_stream(cell, model=model, fuse=False, callbacks=calls)
    np.testing.assert_array_equal(model.theta, eager.theta)
    assert hidden(model.layers[0]).shape == (3, 9)
    # a run that was stopped goes on to the same bits
    path = tmp_path / "run.safetensors"
    trained_on_a_stream(cell, epochs=1, fuse=False, checkpoint=path)
    resumed = trained_on_a_stream(cell, epochs=2, fuse=False, checkpoint=path)
    np.testing.assert_array_equal(resumed.theta, eager.theta)
    plain = stacked(cell, stateful=False, bptt_steps=4)
    assert abs(trained_on_a_stream(cell, model=plain).theta - eager.theta).max() > 1e-4


def test_a_stateful_layer_learns_what_lies_before_its_window(backend):
    """Each window of one step must tell the sign that was given some windows ago."""
    rng = np.random.default_rng(0)
    x = np.where(rng.random((8, 60)) < 0.3, rng.choice([-1.0, 1.0], (8, 60)), 0)
    x[:, 0] = 1
    y = np.zeros((8, 60), int)
    for t in range(60):
        y[:, t] = np.where(x[:, t] == 0, y[:, t - 1], x[:, t] > 0)
    x, y = x.T.reshape(-1, 1, 1), y.T.reshape(-1)
    model = fnn.Sequential([fnn.GRU(8, stateful=True), fnn.Dense(2)], (1, 1), seed=0)
    model.fit(
        *(x, y),
        shuffle=False,
        batch_size=8,
        optimizer=fnn.Adam(0.03),
        epochs=10,
        verbose=0,
        validation_data=(x, y),
    )
    assert model.history["accuracy"][-1] > 0.95
    assert model.evaluate(x, y, batch_size=8)["accuracy"] == model.history["val_accuracy"][-1]


@every_cell
def test_a_file_keeps_the_option_and_a_copy_the_state(cell, tmp_path):
    windows, _ = stream()
    model = stacked(cell)
    model.predict(windows[:4])
    twin = copy.deepcopy(model)
    model.save(tmp_path / "model.safetensors")
    loaded = fnn.load(tmp_path / "model.safetensors")
    assert loaded.layers[0].stateful and loaded.layers[0].state is None
    wanted = model.predict(windows[:4])
    np.testing.assert_array_equal(twin.predict(windows[:4]), wanted)
    loaded.predict(windows[:4])
    np.testing.assert_array_equal(loaded.predict(windows[:4]), wanted)


@every_cell
def test_bad_states(cell, backend):
    model, x = stacked(cell), stream()[0]
    layer = model.layers[0]
    pair = cell == "LSTM"

    def refused(state, error, message):
        with pytest.raises(error, match=rf"^layer 0 \({cell}\): state: {message}"):
            layer.state = (state, np.zeros((4, 9))) if pair else state

    refused(np.zeros((4, 8)), ValueError, r"got h of shape \(4, 8\), expected \(rows, 9\)")
    refused(np.zeros(9), ValueError, r"got h of shape \(9,\)")
    refused(np.zeros((0, 9)), ValueError, r"got h of shape \(0, 9\)")
    refused(np.full((4, 9), np.nan), ValueError, "got nan in row 0")
    refused("zero", TypeError, "got str")
    if pair:
        refused(np.zeros((3, 9)), ValueError, r"got c of shape \(4, 9\), expected \(3, 9\)")
        with pytest.raises(TypeError, match=r"got ndarray, expected a pair \(h, c\)"):
            layer.state = np.zeros((4, 9))
    assert layer.state is None
    model.predict(x[:4])
    kept = hidden(layer)
    with pytest.raises(ValueError, match=r"^layer 0 \(\w+\): the state has 4 rows, x has 3; "):
        model.predict(x[:3])
    np.testing.assert_array_equal(hidden(layer), kept)
    huge = np.full((4, 9), 1e39)
    layer.state = (huge, huge) if pair else huge
    with pytest.raises(ValueError, match=rf"^layer 0 \({cell}\): state: got inf in row 0"):
        model.predict(x[:4])
    with pytest.raises(
        ValueError, match=rf"^{cell}: state: got ndarray, expected a layer with stateful"
    ):
        CELLS[cell](3).state = np.zeros((1, 3))
    with pytest.raises(ValueError, match="stateful: got True, expected False with bidirectional"):
        CELLS[cell](3, stateful=True, bidirectional=True)


def test_batches_of_a_stateful_layer_are_whole_and_in_order(backend):
    model, x = stacked("GRU"), stream()[0]
    y = np.zeros((20, 6), int)
    options = {"shuffle": False, "verbose": 0}
    for message, call in {
        r"shuffle: got True, expected False, because layer 0 \(GRU\) is stateful": lambda: (
            model.fit(x, y, verbose=0)
        ),
        r"x: got 20 rows, expected a multiple of batch_size 8, because layer 0 \(GRU\)": lambda: (
            model.fit(x, y, batch_size=8, **options)
        ),
        r"validation_data\[0\]: got 6 rows, expected a multiple of batch_size 4": lambda: model.fit(
            x, y, batch_size=4, validation_data=(x[:6], y[:6]), **options
        ),
        "x: got 20 rows, expected a multiple of batch_size 3": lambda: model.evaluate(
            x, y, batch_size=3
        ),
        "batch_size: got 0": lambda: model.evaluate(x, y, batch_size=0),
    }.items():
        with pytest.raises(ValueError, match=f"^{message}"):
            call()

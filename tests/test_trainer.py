"""Training: plans against eager steps and the reference, bits, batches, Ctrl-C, divergence.

FASTNN_INTERRUPTS sets how often each kind of run is interrupted, FASTNN_FORKS how often a process
forks.
"""

import copy
import multiprocessing
import os
import signal
import threading

import numpy as np
import pytest
from conftest import ctrl_c_after, need_compiled
from hypothesis import given, settings
from hypothesis import strategies as st

import fastnn as fnn
from fastnn.memory import Workspace
from fastnn.samples import Data, to_data
from fastnn.trainer import Trainer

INTERRUPTS = int(os.environ.get("FASTNN_INTERRUPTS", "5"))
FORKS = int(os.environ.get("FASTNN_FORKS", "10"))

NETS = {
    "relu": lambda: [fnn.Dense(17, "relu"), fnn.Dense(9, "relu"), fnn.Dense(3)],
    "gelu and dropout": lambda: [
        fnn.Dense(16, "gelu"),
        fnn.Dropout(0.3),
        fnn.Dense(9, "tanh"),
        fnn.Dropout(0.1),
        fnn.Dense(3),
    ],
    "views and softmax": lambda: [
        fnn.Reshape((2, -1)),
        fnn.Flatten(),
        fnn.Dense(8, "sigmoid"),
        fnn.Dense(3, "softmax"),
        fnn.Linear(),
    ],
    "leaky, softmax inside": lambda: [
        fnn.Dense(8, fnn.LeakyReLU(0.1)),
        fnn.Softmax(),
        fnn.Dense(3, use_bias=False),
        fnn.Softmax(),
    ],
}
OPTIMIZERS = {
    "sgd": lambda: fnn.SGD(0.1),
    "nesterov": lambda: fnn.SGD(0.05, momentum=0.9, nesterov=True),
    "rmsprop": lambda: fnn.RMSProp(0.003),
    "adamw": lambda: fnn.AdamW(0.003, schedule=lambda step: 1 / (1 + step)),
}


@pytest.fixture(scope="module")
def three():
    """Three classes in 10 features: (107, 10) float32."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(107, 10)).astype(np.float32)
    return x, (x @ rng.normal(size=(10, 3))).argmax(axis=1)


def trained(x, y, net="relu", optimizer="sgd", **options):
    model = fnn.Sequential(NETS[net](), seed=4)
    given = {"epochs": 3, "batch_size": 16, "verbose": 0} | options
    model.fit(x, y, optimizer=OPTIMIZERS[optimizer](), **given)
    return model


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("net", NETS)
def test_plan_against_eager_steps_and_reference(net, optimizer, three, compiled):
    eager = trained(*three, net, optimizer, eager=True)
    unfused = trained(*three, net, optimizer, fuse=False)
    fused = trained(*three, net, optimizer)
    with fnn.use_backend("reference"):
        reference = trained(*three, net, optimizer)
    assert eager.plan is None and unfused.plan is not None
    np.testing.assert_array_equal(unfused.theta, eager.theta)
    np.testing.assert_array_equal(unfused.history.batch_losses, eager.history.batch_losses)
    np.testing.assert_allclose(fused.theta, eager.theta, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(eager.theta, reference.theta, rtol=1e-3, atol=2e-4)
    np.testing.assert_allclose(
        fused.history.batch_losses, reference.history.batch_losses, rtol=1e-3, atol=1e-4
    )


WIDE = {
    "dense": lambda: fnn.Dense(96),
    "no bias": lambda: fnn.Dense(80, use_bias=False),
    "relu": fnn.ReLU,
    "leaky": fnn.LeakyReLU,
    "sigmoid": fnn.Sigmoid,
    "tanh": fnn.Tanh,
    "gelu": fnn.GELU,
    "leaky gelu": lambda: fnn.LeakyGELU(0.2),
    "dropout": lambda: fnn.Dropout(0.3),
    "softmax": fnn.Softmax,
}


@given(
    names=st.lists(st.sampled_from(list(WIDE)), max_size=7),
    optimizer=st.sampled_from(list(OPTIMIZERS)),
    batch_size=st.sampled_from([1, 31, 64, 200]),
    penalty=st.sampled_from([None, fnn.L1L2(0.001, 0.002)]),
    clip_norm=st.sampled_from([None, 0.5]),
)
@settings(max_examples=40, deadline=None)
def test_plans_of_any_net_against_eager_steps(names, optimizer, batch_size, penalty, clip_norm):
    need_compiled()
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 70)).astype(np.float32), rng.integers(0, 3, 200)
    results = []
    for options in ({"eager": True}, {"fuse": False}, {}, {}):
        model = fnn.Sequential([*(WIDE[name]() for name in names), fnn.Dense(3)], seed=1)
        rate = OPTIMIZERS[optimizer]()
        rate.lr *= 0.1
        rate.clip_norm = clip_norm
        options |= {"loss": fnn.CrossEntropy(penalty), "optimizer": rate}
        history = model.fit(x[:batch_size], y[:batch_size], epochs=2, verbose=0, **options)
        outputs = model.predict(x)
        np.testing.assert_allclose(outputs, _eager_outputs(model, x), rtol=1e-3, atol=1e-4)
        results.append((model.theta.copy(), history.batch_losses, outputs))
    eager, unfused, fused, again = results
    for a, b in (*zip(eager, unfused, strict=True), *zip(fused, again, strict=True)):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(eager[:2], fused[:2], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)


def _eager_outputs(model, x):
    ws = Workspace(model.layers, len(x), np.float32, training=False)
    ws.rows[...] = x
    for stage in ws.stages:
        stage.forward(fnn.backend.compiled)
    return ws.out.copy()


@pytest.mark.parametrize("net", NETS)
def test_bits_do_not_depend_on_threads(net, digits, compiled):
    x, y = digits[0][:300], digits[1][:300] % 3
    results = []
    for threads in (1, 2, 4, 8, 2):
        fnn.set_num_threads(threads)
        model = fnn.Sequential([fnn.Dense(300, "relu"), *NETS[net]()], seed=4)
        model.fit(x, y, optimizer="adam", epochs=1, batch_size=128, verbose=0)
        results.append((model.theta.copy(), model.predict(x)))
    for theta, outputs in results[1:]:
        np.testing.assert_array_equal(theta, results[0][0])
        np.testing.assert_array_equal(outputs, results[0][1])


@pytest.mark.parametrize("batch_size", [1, 2, 16, 53, 106, 107, 108, 5000, None])
def test_batches_are_whole_epochs(batch_size, three, backend):
    model = trained(*three, batch_size=batch_size, epochs=2)
    steps = -(-107 // (batch_size or 107))
    assert len(model.history.batch_losses) == 2 * steps
    assert model.history.epochs == len(model.history["loss"]) == 2
    assert np.isfinite(model.theta).all()


@pytest.mark.parametrize("batch_size", [10, 107])
def test_without_shuffling_steps_follow_the_rows(batch_size, three, backend):
    x, y = three
    model = fnn.Sequential([fnn.Dense(3)], 10, seed=0)
    w, b = (value.astype(float) for value in model.state_dict().values())
    losses = []
    for start in range(0, 107, batch_size):
        rows, labels = x[start : start + batch_size], y[start : start + batch_size]
        e = np.exp(rows @ w + b)
        p = e / e.sum(axis=1, keepdims=True)
        losses.append(-np.log(p[np.arange(len(rows)), labels]).mean())
        d = (p - np.eye(3)[labels]) / len(rows)
        w, b = w - 0.1 * rows.T @ d, b - 0.1 * d.sum(axis=0)
    history = model.fit(
        x, y, optimizer=fnn.SGD(0.1), batch_size=batch_size, shuffle=False, verbose=0
    )
    np.testing.assert_allclose(history.batch_losses, losses, rtol=1e-5)
    np.testing.assert_allclose(model.state_dict()["0.w"], w, rtol=1e-4, atol=1e-6)
    weights = [min(batch_size, 107 - start) for start in range(0, 107, batch_size)]
    assert history["loss"][0] == pytest.approx(np.average(losses, weights=weights), rel=1e-5)


def test_every_row_is_used_once_an_epoch(compiled, three):
    x, y = three
    model = fnn.Sequential([fnn.Dense(3)], 10, seed=0)
    data = Data(x, 1.0, y.astype(np.int32), 1.0)
    trainer = Trainer(model, data, fnn.CrossEntropy(), fnn.SGD(0.1), batch_size=10, shuffle=True)
    orders = []
    for epoch in (0, 1, 0):
        trainer.run_epoch(epoch)
        orders.append(trainer._rows.copy())
        assert sorted(orders[-1]) == list(range(107))
        assert trainer.clock[0] == 107 and trainer.clock[2] == 11
    assert (orders[0] != orders[1]).any()
    np.testing.assert_array_equal(orders[0], orders[2])


def test_seed_decides_order_and_dropout(three, backend):
    runs = [trained(*three, "gelu and dropout", seed=seed).theta for seed in (4, None, 4, 5)]
    np.testing.assert_array_equal(runs[0], runs[1])  # the model's own seed is 4
    np.testing.assert_array_equal(runs[0], runs[2])
    assert (runs[0] != runs[3]).any()
    assert (runs[0] != trained(*three, "gelu and dropout", shuffle=False).theta).any()


@pytest.mark.parametrize("eager", [False, True])
def test_labels_that_change_meanwhile_do_not_matter(eager, three, backend):
    x, y = three
    thetas = []
    for spoil in (False, True):
        labels = y.astype(np.int32)

        def change(model, history, labels=labels, spoil=spoil):
            labels[:] = 2**30 if spoil else labels

        model = trained(x, labels, epochs=2, callbacks=[change], eager=eager)
        thetas.append(model.theta)
    np.testing.assert_array_equal(*thetas)


@pytest.mark.parametrize(
    ("last", "loss"), [(fnn.Softmax, "cross_entropy"), (fnn.Sigmoid, "binary_cross_entropy")]
)
def test_a_view_may_follow_the_activation_that_a_loss_includes(last, loss, three, backend):
    x, y = three
    y = y if loss == "cross_entropy" else np.eye(3)[y]
    thetas = []
    for views in ([], [fnn.Reshape((1, 1, 3)), fnn.Flatten(), fnn.Linear()]):
        model = fnn.Sequential([fnn.Dense(3), last(), *views], seed=0)
        model.fit(x, y, loss=loss, epochs=3, verbose=0)
        thetas.append(model.theta)
    np.testing.assert_array_equal(*thetas)


def test_digits_are_learned(digits, backend):
    x, y = digits
    model = fnn.Sequential([fnn.Dense(64, "relu"), fnn.Dense(10)], seed=0)
    history = model.fit(
        x[:1400],
        y[:1400],
        optimizer=fnn.SGD(0.1, momentum=0.9),
        epochs=15,
        validation_data=(x[1400:], y[1400:]),
        verbose=0,
    )
    assert history["accuracy"][-1] > 0.99
    assert history["val_accuracy"][-1] > 0.9
    assert model.evaluate(x[1400:], y[1400:]) == {
        "loss": history["val_loss"][-1],
        "accuracy": history["val_accuracy"][-1],
    }
    assert np.mean(model.predict_classes(x[1400:]) == y[1400:]) == history["val_accuracy"][-1]


# ---- weights of samples --------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["cross_entropy", "soft", "mse"])
def test_samples_of_weight_0_count_in_nothing(loss, three, backend):
    x, y = three
    if loss != "cross_entropy":
        y = np.random.default_rng(2).dirichlet(np.ones(3), 107)
    loss = "mse" if loss == "mse" else "cross_entropy"
    weights = np.random.default_rng(0).integers(0, 3, 107)
    weights[90:] = 0  # whole batches do not count
    kept = weights > 0
    x_spoiled = np.where(kept[:, None], x, 1e30)
    options = {"loss": loss, "batch_size": 10, "shuffle": False, "verbose": 0}
    model = fnn.Sequential([fnn.Dense(3)], 10, seed=0)
    start = model.evaluate(x[kept], y[kept], loss)
    losses = [model.evaluate(x[i : i + 1], y[i : i + 1], loss)["loss"] for i in range(107)]
    weighted = model.evaluate(x_spoiled, y, loss, sample_weight=weights)
    assert weighted["loss"] == pytest.approx(weights @ losses / kept.sum(), rel=1e-5)
    assert weighted.get("accuracy") == start.get("accuracy")
    plain = model.evaluate(x, y, loss, sample_weight=kept)
    assert plain == pytest.approx(start, rel=1e-5)
    history = model.fit(x_spoiled, y, sample_weight=weights, optimizer=fnn.SGD(1e-30), **options)
    assert history["loss"][0] == pytest.approx(weighted["loss"], rel=1e-5)
    assert (history.batch_losses[9:] == 0).all()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weighted_plans_against_eager_steps(optimizer, three, compiled):
    weights = np.random.default_rng(0).integers(0, 3, 107).astype(float)
    options = {"sample_weight": weights, "class_weight": {0: 2.5, 2: 0}}
    eager = trained(*three, optimizer=optimizer, eager=True, **options)
    unfused = trained(*three, optimizer=optimizer, fuse=False, **options)
    fused = trained(*three, optimizer=optimizer, **options)
    np.testing.assert_array_equal(unfused.theta, eager.theta)
    np.testing.assert_allclose(fused.theta, eager.theta, rtol=1e-4, atol=2e-5)
    product = weights * np.array([2.5, 1, 0])[three[1]]
    again = trained(*three, optimizer=optimizer, sample_weight=product)
    np.testing.assert_array_equal(fused.theta, again.theta)
    assert fused.history["accuracy"] == again.history["accuracy"]
    with fnn.use_backend("reference"):
        reference = trained(*three, optimizer=optimizer, **options)
    np.testing.assert_allclose(eager.theta, reference.theta, rtol=1e-3, atol=2e-4)


def test_class_weights_of_yes_and_no(three, backend):
    x, labels = three
    results = []
    for y in (labels > 0, (labels > 0).astype(int)[:, None], (labels > 0).astype(float)):
        for options in ({"class_weight": {0: 0, 1: 3.5}}, {"sample_weight": 3.5 * (labels > 0)}):
            model = fnn.Sequential([fnn.Dense(8, "relu"), fnn.Dense(1)], 10, seed=0)
            model.fit(x, y, loss="binary_cross_entropy", epochs=2, verbose=0, **options)
            results.append(model.theta)
    for theta in results[1:]:
        np.testing.assert_array_equal(theta, results[0])


def test_shuffled_epochs_count_the_same_samples(three, backend):
    x, y = three
    weights = np.random.default_rng(0).integers(0, 2, 107)
    model = fnn.Sequential([fnn.Dense(3)], 10, seed=0)
    options = {"optimizer": fnn.SGD(1e-30), "sample_weight": weights, "epochs": 2, "verbose": 0}
    history = model.fit(x, y, batch_size=16, **options)
    wanted = model.evaluate(x, y, sample_weight=weights)
    assert history["loss"] == pytest.approx([wanted["loss"]] * 2, rel=1e-5)
    assert history["accuracy"] == [wanted["accuracy"]] * 2


# ---- frozen layers -------------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [[0], [1], [2], [0, 2], [0, 1]])
@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, "clipped"])
def test_frozen_layers_stay(frozen, optimizer, three, compiled):
    """On all ways of a step, and also if the optimizer has trained them before."""
    x, y = three
    results = []
    ways = {"fuse": True}, {"fuse": False}, {"eager": True}, {"backend": "reference"}
    for options in ways:
        layers = [fnn.Dense(17, "relu"), fnn.Dense(9, "tanh"), fnn.Dense(3)]
        model = fnn.Sequential(layers, 10, seed=4)
        chosen = OPTIMIZERS.get(optimizer, lambda: fnn.Adam(0.01, clip_norm=0.01))()
        given = {"optimizer": chosen, "epochs": 2, "batch_size": 16, "verbose": 0}
        model.fit(x, y, **given)
        before = model.state_dict()
        for i in frozen:
            layers[i].trainable = False
        with fnn.use_backend(options.get("backend", "compiled")):
            ways_of_fit = {name: options[name] for name in options if name != "backend"}
            model.fit(x, y, loss=fnn.CrossEntropy(penalty="l2"), **given, **ways_of_fit)
        for name, value in model.state_dict().items():
            index = model.layers[int(name[0])]
            assert (value == before[name]).all() == (not index.trainable)
        results.append(model.theta)
    fused, plain, eager, reference = results
    np.testing.assert_array_equal(plain, eager)
    np.testing.assert_allclose(fused, plain, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(reference, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("clip_norm", [None, 0.01])
def test_frozen_first_layers_are_a_fixed_input(clip_norm, three, backend):
    """And nothing is computed back through them."""
    x, y = three
    whole = fnn.Sequential([fnn.Dense(8, "tanh"), fnn.Dense(6, "relu"), fnn.Dense(3)], 10, seed=1)
    tail = fnn.Sequential(copy.deepcopy(whole.layers[2:]), 8)
    rows = whole.features(x, 1)
    whole.layers[0].trainable = False
    for model, data in ((whole, x), (tail, rows)):
        chosen = fnn.AdamW(0.01, clip_norm=clip_norm)
        model.fit(data, y, optimizer=chosen, epochs=3, batch_size=16, seed=2, verbose=0)
    np.testing.assert_allclose(whole.layers[2].w, tail.layers[0].w, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(whole.history["loss"], tail.history["loss"], rtol=1e-5)
    if backend == "compiled":
        named = [row["name"] for row in whole.plan.table()]
        assert sum("dense_backward_w" in name for name in named) == 2


@pytest.mark.parametrize("frozen", [[0], [1], [2], [1, 3]])
@pytest.mark.parametrize("penalty", [None, fnn.L2(0.1)])
def test_what_is_not_frozen_is_fused_as_ever(frozen, penalty, compiled):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((60, 64), np.float32), rng.integers(0, 3, 60)
    results = []
    for fuse in (True, False):
        layers = [fnn.Dense(n, kernel_regularizer=penalty) for n in (40, 17, 9, 3)]
        model = fnn.Sequential(layers, 64, seed=0)
        for i in frozen:
            layers[i].trainable = False
        model.fit(x, y, optimizer=fnn.SGD(0.01), batch_size=1, fuse=fuse, verbose=0)
        named = [row["name"] for row in model.plan.table()]
        assert ("sgd_update" not in named) == fuse
        assert any("delayed" in name for name in named) == (fuse and 0 not in frozen)
        results.append(model.theta)
    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-6)


def test_what_is_frozen_is_seen(three, capsys, tmp_path):
    x, y = three
    model = fnn.Sequential([fnn.Dense(4), fnn.BatchNorm(), fnn.Dense(3)], 10, seed=0)
    assert model.n_parameters == 44 + 8 + 15
    model.fit(x, y, checkpoint=tmp_path / "run", verbose=0)
    for layer in model.layers:
        layer.trainable = False
    assert model.n_parameters == 0 and not copy.deepcopy(model).layers[2].trainable
    model.summary()
    assert "0 trainable parameters, 75 numbers not trained" in capsys.readouterr().out
    theta, mean = model.theta.copy(), model.layers[1].mean.copy()
    model.fit(x, y, epochs=2, verbose=0)
    np.testing.assert_array_equal(model.theta, theta)
    np.testing.assert_array_equal(model.layers[1].mean, mean)
    with pytest.raises(ValueError, match="has other trainable"):
        model.fit(x, y, epochs=2, checkpoint=tmp_path / "run", verbose=0)
    with pytest.raises(TypeError, match=r"^layer 0 \(Dense\): trainable: got 'no'"):
        model.layers[0].trainable = "no"


# ---- interruption --------------------------------------------------------------------------------


def assert_is_last_whole_step(model, x, y, steps, **options):
    """Train a twin for just as many steps and compare."""
    twin = fnn.Sequential([fnn.Dense(32, "tanh"), fnn.Dense(3)], 10, seed=4)
    data = to_data(twin, x, y, fnn.CrossEntropy())
    trainer = Trainer(
        twin, data, fnn.CrossEntropy(), fnn.Adam(1e-3), shuffle=True, seed=4, **options
    )
    epoch = 0
    while steps >= trainer.batches:
        trainer.run_epoch(epoch)
        steps, epoch = steps - trainer.batches, epoch + 1
    if steps:
        trainer.parts = [(trainer.workspace, steps)]
        trainer.plans = trainer.plans[:1]
        trainer.run_epoch(epoch)
    np.testing.assert_array_equal(model.theta, twin.theta)


@pytest.mark.parametrize("eager", [False, True])
def test_interrupted_training_keeps_whole_steps(eager, backend):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, 10)).astype(np.float32)
    y = rng.integers(0, 3, 20_000)
    options = {"batch_size": 16, "eager": eager}
    for delay in np.random.default_rng(3).uniform(0.05, 0.15, INTERRUPTS):
        model = fnn.Sequential([fnn.Dense(32, "tanh"), fnn.Dense(3)], 10, seed=4)
        optimizer = fnn.Adam(1e-3)
        model.predict(x[:1])  # a first call takes longer
        with ctrl_c_after(delay):
            model.fit(x, y, optimizer=optimizer, epochs=10**6, verbose=0, **options)
        assert model.history is not None, "interrupted before the training"
        steps = len(model.history.batch_losses)
        assert steps == optimizer.state(model).step
        assert model.history.epochs == steps // 1250
        assert_is_last_whole_step(model, x, y, steps, **options)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        model.fit(x[:100], y[:100], verbose=0)
        model.predict(x[:5])


@pytest.mark.parametrize("units", [30, 1200])
def test_interrupted_prediction_leaves_the_model_as_it_was(units, backend):
    x = np.random.default_rng(0).normal(size=(2000, 300)).astype(np.float32)
    model = fnn.Sequential([fnn.Dense(units, "relu"), fnn.Dense(units), fnn.Dense(3)], 300, seed=0)
    want = model.predict(x)
    for delay in np.random.default_rng(1).uniform(0, 0.1, INTERRUPTS):
        with ctrl_c_after(1e-6 + delay):
            while True:
                model.predict(x)
        np.testing.assert_array_equal(model.predict(x), want)


def test_ctrl_c_inside_an_eager_step_ends_the_run_with_it(three, backend):
    class Pressing(fnn.CrossEntropy):
        """Presses Ctrl-C in the middle of the fourth step."""

        calls = 0

        def compute(self, *arguments):
            super().compute(*arguments)
            self.calls += 1
            if self.calls == 4:
                signal.raise_signal(signal.SIGINT)

    (x, y), loss = three, Pressing()
    model, twin = (fnn.Sequential(NETS["relu"](), seed=0) for _ in range(2))
    options = {"batch_size": 16, "shuffle": False, "eager": True, "verbose": 0}
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, loss=loss, epochs=9, **options)
    assert loss.calls == len(model.history.batch_losses) == 4
    twin.fit(x[:64], y[:64], **options)
    np.testing.assert_array_equal(model.theta, twin.theta)


def test_an_exception_in_a_callback_keeps_the_history(three, backend):
    def fail(model, history):
        if history.epochs == 2:
            raise OSError("disk full")

    model = fnn.Sequential([fnn.Dense(3)], seed=0)
    with pytest.raises(OSError, match="disk full"):
        model.fit(*three, epochs=5, callbacks=[fail], verbose=0)
    assert model.history.epochs == 2
    model.fit(*three, verbose=0)


# ---- divergence ----------------------------------------------------------------------------------


@pytest.mark.parametrize("eager", [False, True])
def test_divergence_names_epoch_batch_and_layer(eager, backend):
    x = np.ones((40, 4), np.float32)
    x[25] = 3e38
    model = fnn.Sequential([fnn.Dense(5), fnn.ReLU(), fnn.Dense(1)], 4, seed=0)
    model.theta[:] = 1.0
    before = model.theta.copy()
    optimizer = fnn.SGD(1e-30)
    with pytest.raises(fnn.DivergenceError, match=r"epoch 1, batch 3: .*layer 0 \(Dense\)") as e:
        model.fit(
            x,
            np.ones(40),
            loss="mse",
            optimizer=optimizer,
            batch_size=10,
            shuffle=False,
            verbose=0,
            eager=eager,
        )
    assert (e.value.epoch, e.value.batch, e.value.layer) == (1, 3, 0)
    assert model.history.epochs == 0 and len(model.history.batch_losses) == 2
    assert optimizer.state(model).step == 2
    np.testing.assert_array_equal(model.theta, before)


def test_divergence_of_weights_and_of_the_loss_alone(backend):
    x, y = np.ones((40, 4), np.float32), np.full(40, 1e30)
    model = fnn.Sequential([fnn.Dense(5), fnn.Dense(1)], 4, seed=0)
    with pytest.raises(fnn.DivergenceError, match="the loss of them is not") as e:
        model.fit(x, y, loss="mse", verbose=0)
    assert e.value.layer is None
    model.layers[1].w[0] = np.inf
    with pytest.raises(fnn.DivergenceError, match=r"layer 1 \(Dense\).*weights") as e:
        model.evaluate(x, np.ones(40), "mse")
    assert (e.value.epoch, e.value.batch, e.value.layer) == (None, 1, 1)


def test_divergence_in_validation_says_so(three, backend):
    x, y = three
    xv = x.copy()
    xv[3] = 3e38
    ones = fnn.Constant(1.0)
    model = fnn.Sequential([fnn.Dense(30, kernel_initializer=ones), fnn.Dense(3)], seed=0)
    with pytest.raises(fnn.DivergenceError, match="epoch 1, validation batch 1: ") as e:
        model.fit(x, y, validation_data=(xv, y), epochs=3, verbose=0)
    assert (e.value.epoch, e.value.batch) == (1, 1)
    assert model.history.epochs == 1 and "val_loss" not in model.history


def test_a_huge_rate_diverges_with_a_message(three, backend):
    with pytest.raises(fnn.DivergenceError, match="a smaller learning rate may help"):
        fnn.Sequential(NETS["relu"](), seed=0).fit(
            *three, optimizer=fnn.SGD(1e20), epochs=20, batch_size=8, verbose=0
        )


# ---- threads and processes -----------------------------------------------------------------------


def test_a_second_fit_at_the_same_time_is_refused(three, backend):
    model = fnn.Sequential([fnn.Dense(3)], seed=0)
    started, refused = threading.Event(), threading.Event()

    def wait(model, history):
        started.set()
        assert refused.wait(20)

    thread = threading.Thread(
        target=model.fit, args=three, kwargs={"callbacks": [wait], "verbose": 0}
    )
    thread.start()
    assert started.wait(20)
    with pytest.raises(RuntimeError, match="another thread is fitting this model"):
        model.fit(*three, verbose=0)
    refused.set()
    thread.join(20)
    model.fit(*three, verbose=0)


def test_prediction_during_training(digits, compiled):
    x, y = digits
    model = fnn.Sequential([fnn.Dense(64, "relu"), fnn.Dense(10)], 64, seed=0)
    thread = threading.Thread(
        target=model.fit, args=(x, y), kwargs={"epochs": 15, "verbose": 0, "optimizer": "adam"}
    )
    thread.start()
    calls = 0
    while thread.is_alive() or not calls:
        assert np.isfinite(model.predict(x[: calls % 300 + 1])).all()
        calls += 1
    thread.join(60)
    alone = fnn.Sequential([fnn.Dense(64, "relu"), fnn.Dense(10)], 64, seed=0)
    alone.fit(x, y, epochs=15, verbose=0, optimizer="adam")
    np.testing.assert_array_equal(model.theta, alone.theta)


def test_two_models_train_at_the_same_time(three, backend):
    alone = trained(*three, epochs=20).theta
    models = []
    threads = [
        threading.Thread(target=lambda: models.append(trained(*three, epochs=20).theta))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(models) == 4
    for theta in models:
        np.testing.assert_array_equal(theta, alone)


def _train_in_child(x, y, model, queue):
    outputs = model.predict(x)
    model.fit(x, y, optimizer="adam", epochs=2, batch_size=64, verbose=0)
    queue.put((outputs, model.theta.copy()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_children_train_and_predict(digits, compiled):
    x, y = digits
    model = fnn.Sequential([fnn.Dense(128, "relu"), fnn.Dense(10)], seed=0)
    model.fit(x, y, optimizer="adam", epochs=1, batch_size=64, verbose=0)
    context = multiprocessing.get_context("fork")
    for _ in range(FORKS):
        twin = copy.deepcopy(model)
        queue = context.Queue()
        child = context.Process(target=_train_in_child, args=(x, y, model, queue))
        child.start()
        try:
            outputs, theta = queue.get(timeout=30)
            child.join(30)
            assert child.exitcode == 0
        finally:
            child.kill()
        np.testing.assert_array_equal(outputs, model.predict(x))
        twin.fit(x, y, optimizer="adam", epochs=2, batch_size=64, verbose=0)
        np.testing.assert_array_equal(theta, twin.theta)
